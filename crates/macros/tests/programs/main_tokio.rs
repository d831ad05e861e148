//! The attribute above a runtime's attribute, with and without arguments.
#![deny(warnings, missing_docs, unused_results, clippy::pedantic)]
#![allow(clippy::missing_errors_doc, clippy::missing_panics_doc)] // The attribute takes documented functions, too.

#[callgate::main]
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), std::num::ParseIntError> {
    let number: u32 = tokio::spawn(async { "7".parse() }).await.expect("no panic")?;
    assert_eq!(number, 7);
    std::thread::spawn(current_thread::main).join().expect("no panic");
    Ok(())
}

mod current_thread {
    #[callgate::main]
    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn main() {
        tokio::task::yield_now().await;
    }
}
