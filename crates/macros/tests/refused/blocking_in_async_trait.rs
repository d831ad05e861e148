//! A task that calls over a bridge must not block.
use callgate::bridge;

trait Store {
    async fn get(&self, key: u64) -> Option<String>;
    fn len(&self) -> usize;
}

struct Disk;

#[bridge]
impl Disk {
    pub fn new() -> Self {
        Disk
    }
}

#[bridge]
impl Store for Disk {
    async fn get(&self, _key: u64) -> Option<String> {
        None
    }
    fn len(&self) -> usize {
        0
    }
}

fn main() {}
