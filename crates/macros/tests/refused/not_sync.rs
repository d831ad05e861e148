//! Several workers need a service that several threads can use.
use callgate::bridge;
use std::cell::Cell;

struct Service {
    calls: Cell<u64>,
}

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service { calls: Cell::new(0) }
    }
    pub fn call(&self) {
        self.calls.set(self.calls.get() + 1);
    }
}

#[callgate::main]
fn main() {
    let _ = Service::bridge().workers(1).start();
    let _ = Service::bridge().start();
    callgate::serve_parallel::<Service>();
}
