//! A type that rkyv cannot archive neither comes in nor goes out.
use callgate::bridge;

struct Plain;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, plain: Plain) {
        let _ = plain;
    }
    pub fn gives(&self) -> Option<Plain> {
        None
    }
}

fn main() {
    let service = Service::bridge();
    let _ = service;
}
