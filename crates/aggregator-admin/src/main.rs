//! aggregator-admin
fn main() {}
