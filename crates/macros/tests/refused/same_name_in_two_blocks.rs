//! Two bridged blocks of a type share its proxy, so each method of either has a name of its own there.
use callgate::bridge;

struct Circle;

#[bridge]
impl Circle {
    pub fn new() -> Self {
        Circle
    }
    pub fn area(&self) -> u64 {
        1
    }
    pub fn sides(&self) -> u64 {
        0
    }
}

trait Shape {
    fn area(&self) -> u64;
    fn sides(&self) -> u64;
}

#[bridge]
impl Shape for Circle {
    fn area(&self) -> u64 {
        1
    }
    #[bridge(rename = "shape_sides")]
    fn sides(&self) -> u64 {
        0
    }
}

fn main() {}
