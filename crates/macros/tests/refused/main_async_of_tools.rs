//! What tools are told turns no function into another.
#[callgate::main]
#[rustfmt::skip]
#[allow(unused)]
#[clippy::cognitive_complexity = "30"]
async fn main() {}
