//! A method that `Bridge` itself has would never be reached.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn stop(&self) {}
    pub fn stats(&self) -> u64 {
        0
    }
    #[bridge(rename = "halt")]
    pub fn kill(&self) {}
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.stop();
    let _ = service.halt();
}
