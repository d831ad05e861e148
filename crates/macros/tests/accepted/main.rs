//! Code that the macro accepts. Each module is written like a user's program, and its test runs it.
//!
//! Cases about `main` itself, or about the lints of a whole crate, are separate programs in `tests/programs`, listed in Cargo.toml.

// Gives every module a second name for callgate, as a renamed dependency in Cargo.toml does. `crate_renamed` uses it.
extern crate callgate as cg;

mod arguments;
mod blanket_names;
mod callbacks;
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
mod streams;
mod viewable;

callgate::test_support!();

#[test]
fn every_program_is_a_target_of_the_package() {
    let programs = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs")).expect("the programs");
    for program in programs {
        let name = program.expect("a program").file_name().into_string().expect("text");
        let target = format!("path = \"tests/programs/{name}\"\nharness = false");
        assert!(include_str!("../../Cargo.toml").contains(&target), "Cargo.toml lacks {target}");
    }
}

#[test]
fn every_case_is_a_module() {
    let cases = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accepted")).expect("the cases");
    for case in cases {
        let name = case.expect("a case").file_name().into_string().expect("text");
        let module = format!("\nmod {};\n", name.trim_end_matches(".rs"));
        assert!(name == "main.rs" || include_str!("main.rs").contains(&module), "{name} is no module of main.rs");
    }
}
