//! Of types without a size, text and slices cross.
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

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.open(Path::new("/"));
}
