//! Methods that call back, in every form of a callback's type.

use callgate::__codegen::Service;
use callgate::{Bridge, CallError, bridge};

/// A parameter of a type of the user's own, which borrows nothing.
#[derive(callgate::rkyv::Archive, callgate::rkyv::Serialize, callgate::rkyv::Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub struct Step {
    number: u32,
}

pub struct Teller {
    words: Vec<String>,
}

#[bridge]
#[allow(clippy::needless_lifetimes)]
impl Teller {
    pub fn new() -> Self {
        Teller { words: vec!["one".into(), "two".into()] }
    }

    /// A closure that need not be mutable, lent as one that may be.
    pub fn lent(&self, ask: &mut dyn Fn(u32) -> u32) -> u32 {
        ask(1) + ask(2)
    }

    pub fn ranked(&self, tell: &mut dyn for<'a> FnMut(&'a str, &'a [u64])) {
        self.words.iter().for_each(|word| tell(word, &[1, 2]));
    }

    pub fn elided(&self, tell: &dyn Fn(&'_ str, &'_ Step) -> usize) -> usize {
        self.words.iter().map(|word| tell(word, &Step { number: 3 })).sum()
    }

    /// With the lifetimes of the method.
    pub fn named<'a, 'b>(&'a self, word: &'b str, tell: &'a mut dyn FnMut(&'a str, &'b str) -> u32) -> u32 {
        self.words.iter().map(|own| tell(own, word)).sum()
    }

    pub fn free(n: u64, tell: &mut dyn FnMut(u64)) {
        tell(n + 1);
    }
}

trait Tells {
    fn tell(&self, tell: &mut dyn for<'a> FnMut(&'a str)) -> u32;
    fn ask(&self, ask: &mut dyn Fn(u32) -> u32) -> u32;
}

#[bridge]
impl Tells for Teller {
    fn tell(&self, tell: &mut dyn for<'a> FnMut(&'a str)) -> u32 {
        self.words.iter().for_each(|word| tell(word));
        7
    }

    fn ask(&self, ask: &mut dyn Fn(u32) -> u32) -> u32 {
        ask(5)
    }
}

#[test]
fn every_form_calls_back() -> Result<(), CallError> {
    let teller = Teller::bridge().start().expect("the bridge starts");
    assert_eq!(teller.lent(&mut |n| n * 10)?, 30);
    let mut told = String::new();
    teller.ranked(&mut |word, numbers| told += &format!("{word}{}", numbers.len()))?;
    assert_eq!(told, "one2two2");
    assert_eq!(teller.elided(&|word, step| word.len() + step.number as usize)?, 12);
    assert_eq!(teller.named("x", &mut |own, word| (own.len() + word.len()) as u32)?, 8);
    let mut last = 0;
    teller.free(1, &mut |n| last = n)?;
    assert_eq!((last, told_by(&teller)), (2, "onetwo75".into()));
    Ok(())
}

fn told_by(teller: &Bridge<Teller>) -> String {
    let mut told = String::new();
    let seven = Tells::tell(teller, &mut |word| told += word);
    told + &seven.to_string() + &Tells::ask(teller, &mut |n| n).to_string()
}

/// Its async methods and its streams are not compiled.
pub struct Bare;

#[bridge]
impl Bare {
    pub fn new() -> Self {
        Bare
    }

    #[cfg(any())]
    #[cfg(unix)]
    pub async fn absent(&self) {}
}

pub struct Lonely;

#[bridge]
impl Lonely {
    pub fn new() -> Self {
        Lonely
    }

    #[cfg(any())]
    pub fn absent(&self) -> impl Iterator<Item = u64> {
        0..1
    }
}

/// Some of them are.
pub struct Tasks;

#[bridge]
impl Tasks {
    pub fn new() -> Self {
        Tasks
    }

    #[cfg(any())]
    pub async fn absent(&self) {}

    #[cfg(unix)]
    #[cfg(not(any()))]
    pub async fn present(&self) {}
}

#[test]
fn methods_that_are_not_compiled_do_not_make_calls_tasks_or_lend_the_service() {
    assert_eq!([Bare::IS_ASYNC, Lonely::IS_ASYNC, Teller::IS_ASYNC, Tasks::IS_ASYNC], [false, false, false, true]);
    assert_eq!([Bare::LENDS, Lonely::LENDS, Teller::LENDS], [false; 3]);
}
