//! The child must be able to make the value.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    fn new() -> Self {
        Service
    }
    pub fn open() -> Option<u64> {
        None
    }
}

fn main() {
    let _ = Service::new();
}
