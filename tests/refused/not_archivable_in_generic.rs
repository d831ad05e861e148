//! A parameter must be able to cross where it is chosen.
use callgate::bridge;

struct Plain;

struct Stack<T>(Vec<T>);

#[bridge]
impl<T: Clone> Stack<T> {
    pub fn new(items: &[T]) -> Self {
        Stack(items.to_vec())
    }
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }
}

fn main() {
    let _ = Stack::<Plain>::bridge(&[]);
}
