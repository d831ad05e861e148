//! Addresses differ between processes.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, bytes: *const u8) {
        let _ = bytes;
    }
    pub fn gives(&self) -> Vec<*mut u8> {
        Vec::new()
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.takes(std::ptr::null());
    let _ = service.gives();
}
