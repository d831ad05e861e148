//! Who trusts a child vouches for it.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = Service::bridge().trust_child().start()?;
    service.stop()?;
    Ok(())
}
