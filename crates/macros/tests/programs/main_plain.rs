//! A plain `main` whose body begins with an item, under very strict lints.
#![deny(warnings, missing_docs, unreachable_pub, unused, nonstandard_style, future_incompatible, rust_2018_idioms)]
#![deny(unused_results, unused_qualifications, clippy::pedantic)]
#![allow(clippy::missing_panics_doc)] // The attribute takes documented functions, too.

/// A documented `main`.
#[callgate::main]
fn main() {
    const GREETING: &str = "hello";
    assert_eq!(GREETING.len(), 5);
}
