//! Only plain data may lie in memory that two processes see: nothing that owns memory, no address, no bytes that may be no value.
use callgate::{SharedBox, bridge};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Header {
    width: u32,
}

pub struct Page<'a> {
    text: SharedBox<String>,
    header: SharedBox<Header>,
    flags: SharedBox<[bool]>,
    title: SharedBox<&'a str>,
}

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn headers(&self) -> SharedBox<[Header]> {
        panic!()
    }
}

fn main() {}
