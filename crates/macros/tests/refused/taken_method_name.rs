//! Names that a call on the bridge would find elsewhere first.
use callgate::bridge;

struct Service {
    into: u8,
}

#[bridge(get(into: u8))]
impl Service {
    pub fn new() -> Self {
        Service { into: 1 }
    }
    pub fn drop(&self) {}
    pub fn clone(&self) -> u8 {
        0
    }
    #[bridge(rename = "to_owned")]
    pub fn owned(&self) {}
    #[bridge(rename = "forget")]
    pub fn deref(&self) {}
}

trait Falls {
    fn drop(&self);
}

#[bridge]
impl Falls for Service {
    fn drop(&self) {}
}

fn main() {}
