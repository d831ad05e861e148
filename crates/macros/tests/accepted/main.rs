//! What the macro accepts. Each module is written as a user's program would be, and its test runs it.
//!
//! A case about `main` itself, or about the lints of a whole crate, is a program of its own, in `tests/programs`.

// Gives every module a second name for callgate, as a renamed dependency in Cargo.toml does. `crate_renamed` uses it.
extern crate callgate as cg;

mod arguments;
mod blanket_names;
mod constructors;
mod crate_renamed;
mod drop_in;
mod fields;
mod generics;
mod hostile_names;
mod own_types;
mod places;
mod renamed;
mod shared_boxes;
mod viewable;

callgate::test_support!();
