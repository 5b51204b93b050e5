//! backup-runner
fn main() {}
