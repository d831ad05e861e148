//! The first of three programs, each of which runs in its own terminal. This one is the hub through which the others find each other.
//!
//! ```text
//! export CALLGATE_AUTHKEY=$(head -c 32 /dev/urandom | base64)    # once; use the same key in all three
//! cargo run --release -p xpc --bin xpc_server
//! cargo run --release -p xpc --bin xpc_register
//! cargo run --release -p xpc --bin xpc_call
//! ```
//!
//! Each takes an address as its argument: a path, `@name`, or the name of a socket in the user's runtime directory. Default: `xpc`.
use callgate::manager::{Address, AuthKey, Manager};
use std::error::Error;
use std::time::Duration;
use std::{env, process, thread};

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    let address = Address::from(&env::args().nth(1).unwrap_or("xpc".into()));
    let hub = Manager::new(&address, &AuthKey::from_env("CALLGATE_AUTHKEY")?);
    hub.start(Duration::from_secs(10))?;
    println!("hub {} at {address}", process::id());
    // The hub makes and runs no calls: callers and owners talk to each other directly. You may restart a hub that was killed.
    while hub.is_hub() {
        thread::sleep(Duration::from_millis(50));
    }
    println!("a client has shut the hub down");
    Ok(())
}
