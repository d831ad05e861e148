//! A caller in another process cannot keep what an unsafe method demands.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub unsafe fn poke(&self, address: usize) -> u8 {
        let _ = address;
        0
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.poke(1);
}
