//! A reply cannot refer to memory of the child.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn name(&self) -> &str {
        "service"
    }
    pub fn first(&self) -> Option<&[u64]> {
        None
    }
    pub fn fixed(&self) -> &'static str {
        "fixed"
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let name: String = service.name().unwrap();
    let _ = (name, service.first(), service.fixed());
}
