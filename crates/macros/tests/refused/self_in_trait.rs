//! In a trait for a bridge, `Self` is the bridge.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

trait Merge {
    fn merge(&self, other: &Self) -> u64;
    fn copy(&self) -> Self;
    fn empty() -> Self;
}

#[bridge]
impl Merge for Service {
    fn merge(&self, _other: &Self) -> u64 {
        1
    }
    fn copy(&self) -> Self {
        Service
    }
    fn empty() -> Self {
        Service
    }
}

fn merged<T: Merge>(one: &T) -> u64 {
    one.merge(&one.copy())
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = merged(&service);
}
