//! Callbacks whose parameters or results cannot be, and those beside async methods.
use callgate::bridge;
use std::borrow::Cow;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn borrowing<'a>(&'a self, tell: &mut dyn FnMut(Cow<'a, str>)) {
        tell("".into());
    }
    pub fn ranked(&self, tell: &mut dyn for<'a> FnMut(Option<&'a str>)) {
        tell(None);
    }
    pub fn forever(&self, tell: &mut dyn FnMut(&'static str)) {
        tell("");
    }
    pub fn returned<'a>(&self, ask: &mut dyn FnMut(&'a str) -> &'a str) {
        ask("");
    }
    pub fn bounded<'a>(&self, tell: &'a mut (dyn FnMut(u32) + 'a)) {
        tell(1);
    }
}

trait Tells {
    fn tell<'a>(&'a self, tell: &mut dyn FnMut(&'a str));
}

#[bridge]
impl Tells for Service {
    fn tell<'a>(&'a self, tell: &mut dyn FnMut(&'a str)) {
        tell("");
    }
}

struct Tasks;

#[bridge]
impl Tasks {
    pub fn new() -> Self {
        Tasks
    }
    pub async fn wait(&self) {}
    pub fn tell(&self, tell: &mut dyn FnMut(u32)) {
        tell(1);
    }
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        0..1
    }
}

fn main() {}
