//! The same in a trait's block.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

struct Plain;

trait Gives {
    fn gives(&self) -> Plain;
}

#[bridge]
impl Gives for Service {
    fn gives(&self) -> Plain {
        Plain
    }
}

fn main() {}
