//! A trait's methods are refused for the same reasons.
use callgate::bridge;
use callgate::rkyv::Archived;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

trait Store {
    fn put<T: ToString>(&mut self, value: T);
    fn get(&self, into: &mut Vec<u8>) -> bool;
    fn name(&self) -> &str;
    fn send(&self);
    fn put_away(&mut self, what: &Archived<Vec<u8>>);
}

#[bridge(get(total: u64))]
impl Store for Service {
    fn put<T: ToString>(&mut self, _value: T) {}
    fn get(&self, _into: &mut Vec<u8>) -> bool {
        false
    }
    fn name(&self) -> &str {
        "a"
    }
    fn send(&self) {}
    #[bridge(skip)]
    fn put_away(&mut self, _what: &Archived<Vec<u8>>) {}
}

fn stored<T: Store>(mut store: T) {
    store.put(1);
}

fn main() {
    let service = Service::bridge().start().unwrap();
    stored(service);
}
