//! A type that borrows cannot be made on the other side.
use callgate::bridge;
use std::borrow::Cow;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn takes(&self, name: Cow<'_, str>) {
        let _ = name;
    }
    pub fn gives<'a>(&'a self) -> Cow<'a, str> {
        Cow::Borrowed("a")
    }
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.takes("a".into());
    let _ = service.gives();
}
