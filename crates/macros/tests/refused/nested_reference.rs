//! A reference crosses only as a whole argument.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn maybe(&self, name: Option<&str>) {
        let _ = name;
    }
    pub fn all(&self, names: &[&str]) {
        let _ = names;
    }
    pub fn twice(&self, number: &&u64) {
        let _ = number;
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.maybe(Some("a"));
    let _ = service.all(&["a"]);
    let _ = service.twice(&&1);
}
