//! A new name is checked as the old one was.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    #[bridge(rename = "view")]
    pub fn look(&self) {}
}

fn main() {}
