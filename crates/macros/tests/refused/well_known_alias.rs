//! A name that stands for what can cross elsewhere is refused where it stands for what cannot.
use callgate::bridge;

type Duration = std::rc::Rc<u64>;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn waited(&self) -> Duration {
        Duration::new(1)
    }
}

fn main() {}
