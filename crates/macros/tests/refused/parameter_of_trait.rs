//! The proxy has the methods of one trait, not of a family.
use callgate::bridge;

struct Adder;

trait Add<T> {
    fn add(&self, to: T) -> T;
}

#[bridge]
impl<T> Add<T> for Adder {
    fn add(&self, to: T) -> T {
        to
    }
}

fn main() {
    let _ = Adder.add(1);
}
