//! A call runs to its end in the child; the bridge has its own ways of not waiting.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
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
