//! The child knows no type that a caller chooses.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn show<T: ToString>(&self, value: T) -> String {
        value.to_string()
    }
    pub fn sum<const N: usize>(&self, values: [u64; N]) -> u64 {
        values.iter().sum()
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.show(1);
    let _ = service.sum([1, 2]);
}
