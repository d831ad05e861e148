//! The child would change a copy of its own.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn fill(&self, buffer: &mut Vec<u8>, text: &mut str) {
        buffer.push(1);
        text.make_ascii_uppercase();
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.fill(&mut Vec::new(), &mut String::new());
}
