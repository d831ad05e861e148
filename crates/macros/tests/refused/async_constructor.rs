//! The child has no tasks before it has its service.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub async fn new() -> Self {
        Service
    }
    pub async fn fetch(&self, url: String) -> usize {
        url.len()
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let length: usize = service.fetch("a".to_owned()).unwrap();
    assert_eq!(length, 1);
}
