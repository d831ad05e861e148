//! What the macro refuses, and in which words; what it accepts; and what has to be a program of its own to be seen.

#[test]
fn refused() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}

#[test]
fn accepted() {
    trybuild::TestCases::new().pass("tests/accepted/*.rs");
}

#[test]
fn fault_33_threads_of_libraries_are_left_alone() {
    trybuild::TestCases::new().pass("tests/started/*.rs");
}
