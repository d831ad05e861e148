//! `impl Trait` is a type that the other process cannot know.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, numbers: impl IntoIterator<Item = u64>) -> u64 {
        numbers.into_iter().sum()
    }
    pub fn gives(&self) -> impl Fn(u64) -> u64 {
        |number| number
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.takes(0..3);
    let _ = service.gives();
}
