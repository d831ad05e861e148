//! The dependency has another name; there is nothing called `callgate`.
mod callgate {}
mod held {
    pub use ::callgate as cg;
}
use held::cg;

#[cg::main(crate = cg)]
#[tokio::main]
async fn main() {
    assert!(plain().is_ok());
}

fn plain() -> Result<(), u8> {
    #[cg::main(crate = "held::cg")]
    fn main() -> Result<(), u8> {
        Err(1)
    }
    main().or(Ok(()))
}
