//! Only a type with a name has a proxy.
use callgate::bridge;

trait Shape {
    fn area(&self) -> f64;
}

trait Measured {
    fn size(&self) -> f64;
}

#[bridge]
impl Shape for [f64; 2] {
    fn area(&self) -> f64 {
        self[0] * self[1]
    }
}

#[bridge]
impl<T: Copy + Into<f64>> Measured for T {
    fn size(&self) -> f64 {
        (*self).into()
    }
}

fn main() {}
