//! The generated code refers to its own items, whatever names the user's code defines.
#![no_implicit_prelude]
#![allow(dead_code, non_camel_case_types, clippy::duplicate_underscore_argument, clippy::too_many_arguments)]

struct Result;
struct Option;
struct String;
struct Box;
struct Clone;
struct Mode;
struct Bridge;
struct Transfer;
struct Val;
struct T;

mod core {}
mod std {}
mod glue {}
mod callgate {
    pub mod __codegen {}
}

type M = u8;

struct Service {
    field: u8,
}

#[::callgate::bridge(get(field: u8), set(field: u8))]
impl Service {
    pub fn new() -> Self {
        Service { field: 1 }
    }
    pub fn dispatch(&self, args: u8, call: u8, self_: u8, mode: u8, value: u8, __args: u8, __call: u8) -> u8 {
        args + call + self_ + mode + value + __args + __call
    }
    pub fn construct(&self) -> u8 {
        1
    }
    pub fn calls(&self) -> u8 {
        2
    }
    pub fn fingerprint(&self) -> u8 {
        3
    }
    pub fn m(&self, m: M) -> M {
        m
    }
}

trait Clones {
    fn clone(&self, __service: u8) -> u8;
}

#[::callgate::bridge]
impl Clones for Service {
    fn clone(&self, __service: u8) -> u8 {
        __service
    }
}

#[::callgate::main]
fn main() {
    let service = Service::bridge().start().unwrap();
    service.set_field(5).unwrap();
    let calls = [service.construct(), service.calls(), service.fingerprint(), service.field()];
    ::std::assert_eq!(calls.map(::std::result::Result::unwrap), [1, 2, 3, 5]);
    ::std::assert_eq!(service.dispatch(1, 2, 3, 4, 5, 6, 7).unwrap(), 28);
    ::std::assert_eq!(service.m(8).unwrap() + Clones::clone(&service, 1), 9);
}

#[::core::prelude::v1::test]
fn generated_code_means_its_own_names() {
    main();
}
