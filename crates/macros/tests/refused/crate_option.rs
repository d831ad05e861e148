//! `crate` says where callgate is, and on the block.
use callgate::bridge;

struct Service;

#[bridge(crate)]
impl Service {
    pub fn new() -> Self {
        Service
    }
    #[bridge(crate = callgate)]
    pub fn add(&self) {}
}

struct Other;

#[bridge(crate = "not a path")]
impl Other {
    pub fn new() -> Self {
        Other
    }
}

fn main() {}
