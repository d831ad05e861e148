//! There is one option.
#[callgate::main(flavor = "current_thread")]
fn main() {}
