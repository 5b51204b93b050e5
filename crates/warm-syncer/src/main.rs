//! warm-syncer
fn main() {}
