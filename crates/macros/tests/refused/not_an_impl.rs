//! The attribute reads methods, so it goes where they are.
use callgate::bridge;

#[bridge]
struct Service;

#[bridge]
trait Shape {
    fn area(&self) -> f64;
}

#[bridge]
fn free() {}

fn main() {
    let _ = Service;
    free();
}
