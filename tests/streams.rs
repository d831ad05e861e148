//! What streams promise.

mod support;

use callgate::bridge;
use support::within;

callgate::test_support!();

struct Source {
    words: Vec<String>,
}

#[bridge]
impl Source {
    pub fn new(text: &str) -> Self {
        Source { words: text.split(' ').map(String::from).collect() }
    }

    pub fn below(&self, n: u64) -> impl Iterator<Item = u64> {
        0..n
    }

    pub fn upto(n: u64) -> impl Iterator<Item = u64> {
        0..=n
    }

    pub fn with<'a>(&'a self, part: &'a str) -> impl Iterator<Item = String> {
        self.words.iter().filter(move |word| word.contains(part)).cloned()
    }

    pub fn drain(&mut self) -> impl Iterator<Item = String> {
        self.words.drain(..)
    }
    pub fn owned(&self, n: &u64) -> impl Iterator<Item = u64> + use<> {
        0..*n
    }
    pub fn sums(&self, n: &Vec<u64>, k: &[String], l: &[u64], a: u64) -> impl Iterator<Item = u64> {
        n.iter().zip(l).map(move |(n, l)| n + l + a + k.len() as u64)
    }
}

#[test]
fn items_come_in_order() {
    within(60, "items_come_in_order", || {
        let source = Source::bridge("one two three").start().unwrap();
        let all: Vec<u64> = source.below(1000).unwrap().map(|n| n.unwrap()).collect();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!(source.with("o").unwrap().collect::<Result<Vec<_>, _>>().unwrap(), ["one", "two"]);
    });
}
