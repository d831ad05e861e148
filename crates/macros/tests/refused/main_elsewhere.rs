//! It is for `main` alone.
#[callgate::main]
fn helper() {}

#[callgate::main]
struct Program;

fn main() {}
