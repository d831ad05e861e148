//! A method has no ABI but Rust's.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub extern "C" fn old(&self) -> u8 {
        0
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.old();
}
