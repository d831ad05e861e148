//! What the macro refuses, and in which words; and what it accepts.

#[test]
fn refused() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}

#[test]
fn accepted() {
    trybuild::TestCases::new().pass("tests/accepted/*.rs");
}
