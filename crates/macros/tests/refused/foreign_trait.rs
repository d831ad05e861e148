//! Only a trait of one's own can be implemented for `Bridge`.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

#[bridge]
impl std::str::FromStr for Service {
    type Err = String;
    fn from_str(_: &str) -> Result<Service, String> {
        Ok(Service)
    }
}

fn main() {}
