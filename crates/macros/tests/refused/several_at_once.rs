//! Every mistake of a block is shown at once, each where it stands.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub async fn fetch(&self) -> u64 {
        1
    }
    pub fn name(&self) -> &str {
        "a"
    }
    pub fn fill(&self, buffer: &mut [u8], shown: &dyn std::fmt::Debug) {
        let _ = (buffer, shown);
    }
    pub fn stop(&self) {}
    pub fn right(&self, number: u64) -> u64 {
        number
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let number: u64 = service.right(1).unwrap();
    let _ = (number, service.fetch(), service.name(), service.fill(&mut [], &1));
}
