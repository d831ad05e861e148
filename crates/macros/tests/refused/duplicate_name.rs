//! Callers tell methods apart by their names.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn add(&self) {}
    #[bridge(rename = "add")]
    pub fn add_more(&self) {}
    #[bridge(rename = "bridge")]
    pub fn open() -> Self {
        Service
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.add();
}
