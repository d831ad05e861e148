//! A getter gives a clone, and a box has none: a copy is made by name, `SharedBox::copied`.
use callgate::{SharedBox, bridge};

struct Service {
    pixels: SharedBox<[u8]>,
}

#[bridge(get(pixels: SharedBox<[u8]>))]
impl Service {
    pub fn of(pixels: SharedBox<[u8]>) -> Self {
        Service { pixels }
    }
}

fn main() {}
