//! A bridge cannot promise for another process.
use callgate::bridge;

struct Service;

unsafe trait Trusted {
    fn trusted(&self) -> bool;
}

#[bridge]
unsafe impl Trusted for Service {
    fn trusted(&self) -> bool {
        true
    }
}

fn main() {
    let _ = Service.trusted();
}
