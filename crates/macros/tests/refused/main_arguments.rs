//! Nobody would give it any.
#[callgate::main]
fn main(count: usize, values: *const *const u8) {}
