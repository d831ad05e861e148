//! Nobody would run it.
#[callgate::main]
/// The program.
#[allow(unused)]
async fn main() -> Result<(), String> {
    Ok(())
}
