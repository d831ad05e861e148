//! What the macro refuses, and in which words; and what it accepts that only a program of its own can show.

#[test]
fn refused() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}

#[test]
fn accepted_as_programs() {
    trybuild::TestCases::new().pass("tests/programs/*.rs");
}

#[test]
fn fault_33_threads_of_libraries_are_left_alone() {
    trybuild::TestCases::new().pass("tests/started/*.rs");
}
