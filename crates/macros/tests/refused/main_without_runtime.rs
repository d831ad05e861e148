//! The runtime's attribute is not there.
#[callgate::main]
#[cfg_attr(any(), tokio::main)]
async fn main() {}
