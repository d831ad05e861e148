//! Streams whose items, arguments or places cannot be.
use callgate::bridge;
use callgate::rkyv::Archived;

struct Service {
    words: Vec<String>,
}

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service { words: Vec::new() }
    }
    pub fn lent(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }
    pub fn archived(&self, words: &Archived<Vec<String>>) -> impl Iterator<Item = u64> {
        0..words.len() as u64
    }
    #[bridge(idempotent)]
    pub fn again(&self) -> impl Iterator<Item = u64> {
        0..3
    }
    pub fn unnamed(&self) -> impl Iterator {
        0..3
    }
    pub fn fallible(&self) -> Result<impl Iterator<Item = u64>, String> {
        Ok(0..3)
    }
}

trait Numbered {
    fn numbers(&self) -> impl Iterator<Item = u64>;
}

#[bridge]
impl Numbered for Service {
    fn numbers(&self) -> impl Iterator<Item = u64> {
        0..3
    }
}

fn main() {}
