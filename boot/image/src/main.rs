//! disk-image
fn main() {}
