//! The generated code triggers no lint where the user's own code triggers none.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, unused, nonstandard_style, future_incompatible, rust_2018_idioms)]
#![deny(missing_debug_implementations, missing_copy_implementations, private_interfaces, private_bounds, trivial_casts)]
#![deny(unused_results, unused_qualifications, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]

use callgate::bridge;
use callgate::rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Private(String);

#[derive(Debug)]
struct Service(String);

#[bridge]
impl Service {
    pub(crate) fn new(text: String) -> Self {
        Service(text)
    }
    pub(crate) fn never_called(&self, private: Private) -> Private {
        Private(private.0 + &self.0)
    }
    #[allow(non_snake_case)]
    pub(crate) fn neverCalled(&self) {}
    #[deprecated(note = "there are others")]
    pub(crate) fn old(&self) {}
}

trait Measures {
    fn length(&self) -> usize;
}

#[bridge]
impl Measures for Service {
    fn length(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
struct Empty;

#[bridge]
impl Empty {
    pub(crate) fn new() -> Self {
        Empty
    }
}

#[callgate::main]
fn main() {
    let service = Service::bridge("text".to_owned()).start().unwrap();
    assert_eq!(service.length(), 4);
    assert!(Empty::bridge().start().unwrap().is_alive());
}
