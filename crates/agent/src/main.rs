//! The `telesonde` binary.
fn main() {}
