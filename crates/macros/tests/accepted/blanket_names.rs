//! A trait's methods may have the names of methods that every type has: the drop-in calls the proxy's own.
use callgate::bridge;

trait Numbered {
    fn into(&self) -> u64;
    fn try_into(&mut self, more: u64) -> Result<u64, String>;
    fn clone(&self) -> u64;
    fn tap(&self) -> u64;
}

/// A blanket trait that takes any type by value, in scope at the block.
trait Tap: Sized {
    fn tap(self) -> Self {
        self
    }
}

impl<T> Tap for T {}

struct Number(u64);

#[bridge]
impl Number {
    pub fn new(number: u64) -> Self {
        Number(number)
    }
}

#[bridge]
impl Numbered for Number {
    fn into(&self) -> u64 {
        self.0
    }
    fn try_into(&mut self, more: u64) -> Result<u64, String> {
        self.0 += more;
        Ok(self.0)
    }
    fn clone(&self) -> u64 {
        self.0 + 1
    }
    fn tap(&self) -> u64 {
        self.0 + 2
    }
}

struct Held<T>(T);

#[bridge]
impl<T: Clone> Held<T> {
    pub fn new(held: T) -> Self {
        Held(held)
    }
}

trait Holds<T> {
    fn into(&self) -> Option<T>;
}

#[bridge]
impl<T: Clone> Holds<T> for Held<T> {
    fn into(&self) -> Option<T> {
        Some(self.0.clone())
    }
}

fn all_of(mut number: impl Numbered) -> [u64; 4] {
    let more = Numbered::try_into(&mut number, 2).unwrap();
    [more, Numbered::into(&number), Numbered::clone(&number), Numbered::tap(&number)]
}

fn held(holds: &impl Holds<String>) -> Option<String> {
    Holds::into(holds)
}

#[test]
fn a_drop_in_calls_its_proxy_whatever_every_type_has() {
    assert_eq!(Tap::tap(1), 1);
    assert_eq!(all_of(Number(40)), [42, 42, 43, 44]);
    assert_eq!(all_of(Number::bridge(40).start().unwrap()), [42, 42, 43, 44]);
    assert_eq!(held(&Held::bridge("text".to_owned()).start().unwrap()), Some("text".to_owned()));
}
