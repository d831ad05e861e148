//! A builder stands beside the type's own functions.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn with_name(_name: &str) -> Self {
        Service
    }
    fn bridge_with_name() {}
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service;
    Service::bridge_with_name();
}
