//! A type has one bridged block of its own.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

#[bridge]
impl Service {
    pub fn with_name(_name: &str) -> Self {
        Service
    }
}

fn main() {}
