//! What holds for a part of the types only goes on a block of its own.
use callgate::bridge;

struct Stack<T>(Vec<T>);

#[bridge]
impl<T> Stack<T> {
    pub fn new() -> Self {
        Stack(Vec::new())
    }
    pub fn sorted(&self) -> Vec<T>
    where
        T: Ord + Clone,
    {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted
    }
    pub fn lifetimes_are_harmless<'a, 'b>(&'a self, _text: &'b str)
    where
        'a: 'b,
    {
    }
}

fn main() {
    let stack = Stack::<u64>::bridge().start().unwrap();
    let _ = stack.sorted();
}
