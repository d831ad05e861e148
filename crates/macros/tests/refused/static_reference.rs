//! The child has an argument for one call only.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn keep(&self, name: &'static str) {
        let _ = name;
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.keep("a");
}
