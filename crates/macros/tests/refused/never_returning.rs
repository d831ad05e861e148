//! Every call is answered.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn exit(&self) -> ! {
        std::process::exit(1)
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.exit();
}
