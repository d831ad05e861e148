//! What is behind `dyn` has no form that could cross.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, write: &dyn std::fmt::Debug) {
        let _ = write;
    }
    pub fn gives(&self) -> Result<u64, Box<dyn std::error::Error>> {
        Ok(1)
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.takes(&1);
    let _ = service.gives();
}
