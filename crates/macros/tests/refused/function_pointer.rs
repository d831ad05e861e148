//! Addresses differ between processes, also those of functions.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn apply(&self, change: fn(u64) -> u64) -> u64 {
        change(1)
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.apply(|n| n);
}
