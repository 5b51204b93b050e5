//! tick-replayer
fn main() {}
