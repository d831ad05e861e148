//! What rkyv cannot archive is refused at the type, once, wherever it occurs.
use callgate::bridge;

struct Plain;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, plain: Plain, plains: &[Plain]) {
        let _ = (plain, plains);
    }
    pub fn gives(&self) -> Option<Plain> {
        None
    }
}

fn main() {}
