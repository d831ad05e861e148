//! The attribute below a runtime's attribute, which passes it on to the plain function that it makes.
#[tokio::main]
#[callgate::main]
async fn main() -> Result<(), std::num::ParseIntError> {
    let number: u32 = tokio::spawn(async { "7".parse() }).await.expect("no panic")?;
    assert_eq!(number, 7);
    Ok(())
}
