//! An argument cannot come and go.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn log(&self, text: &str, #[cfg(unix)] level: u8) {
        let _ = (text, level);
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.log("a", 1);
}
