//! Of types without a size, `str` and slices cross; rkyv has no archive of others.
use callgate::bridge;
use std::path::Path;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn open(&self, path: &Path) -> bool {
        path.exists()
    }
}

fn main() {}
