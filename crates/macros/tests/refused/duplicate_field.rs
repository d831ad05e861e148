//! A field has the name of a method.
use callgate::bridge;

struct Service {
    total: u64,
}

#[bridge(get(total: u64))]
impl Service {
    pub fn new() -> Self {
        Service { total: 0 }
    }
    pub fn total(&self) -> u64 {
        self.total
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.total();
}
