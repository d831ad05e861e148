//! A trait's block needs the type's own.
use callgate::bridge;

struct Service;

trait Shape {
    fn area(&self) -> f64;
}

#[bridge]
impl Shape for Service {
    fn area(&self) -> f64 {
        1.0
    }
}

fn main() {}
