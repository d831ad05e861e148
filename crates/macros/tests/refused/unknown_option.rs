//! Options are few, and their names are checked.
use callgate::bridge;

struct Service;

#[bridge(sandbox, get)]
impl Service {
    pub fn new() -> Self {
        Service
    }
    #[bridge(skipped)]
    pub fn one(&self) {}
    #[bridge(skip = true)]
    pub fn two(&self) {}
    #[bridge(rename)]
    pub fn three(&self) {}
    #[bridge(rename = "not a name")]
    pub fn four(&self) {}
    #[bridge]
    pub fn five(&self) {}
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.one();
}
