//! A `main` that returns a `Result`, written with the macro's own name.
use callgate::main;
use std::error::Error;

#[main]
fn main() -> Result<(), Box<dyn Error>> {
    let number: u32 = "7".parse()?;
    assert_eq!(number, 7);
    Ok(())
}
