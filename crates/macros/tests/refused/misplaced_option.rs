//! Methods and blocks have options of their own.
use callgate::bridge;

struct Service;

#[bridge(skip)]
impl Service {
    #[bridge(idempotent)]
    pub fn new() -> Self {
        Service
    }
    #[bridge(get(total: u64))]
    pub fn one(&self) {}
    #[bridge(rename = "second")]
    fn two(&self) {}
    #[bridge(idempotent)]
    fn three(&self) {}
}

fn main() {
    let service = Service::bridge().start().unwrap();
    let _ = service.one();
    Service.two();
    Service.three();
}
