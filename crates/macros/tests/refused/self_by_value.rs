//! The child keeps the value for all calls.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn finish(self) -> u64 {
        1
    }
    pub fn finish_box(self: Box<Self>) -> u64 {
        1
    }
    pub fn the_long_form(self: &mut Self) -> u64 {
        1
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.finish();
    let _ = service.finish_box();
    let _ = service.the_long_form();
}
