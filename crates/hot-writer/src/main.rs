//! hot-writer
fn main() {}
