//! The second of three programs (see `xpc_server`): registers callbacks. They run in this process, whichever process calls them.
use callgate::manager::{Args, AuthKey, Manager};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, process, thread};

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or("xpc".into());
    let manager = Manager::new(&address, &AuthKey::from_env("CALLGATE_AUTHKEY")?);
    manager.connect(Duration::from_secs(10))?;

    // The closure's types apply. A caller that passes other types gets an error that names the expected ones.
    let _add = manager.register_fn("add", |a: i64, b: i64| a + b)?;
    // The callback's state stays in this process.
    let total = AtomicU64::new(0);
    let _count = manager.register_fn("count", move |n: u64| total.fetch_add(n, Ordering::Relaxed) + n)?;
    // The callback's error reaches the caller, and the callback stays registered.
    let _divide =
        manager.register_fn("divide", |a: i64, b: i64| a.checked_div(b).ok_or(format!("{a} / {b} is no number")))?;
    // Accepts any arguments, including keywords.
    let _describe = manager.register("describe", |args: Args| format!("process {} was given {args}", process::id()))?;
    let _once = manager.named("once").for_calls(1).register_fn(|| "only the first caller reads this".to_owned())?;

    println!("process {} has registered its callbacks", process::id());
    while manager.is_connected() {
        thread::sleep(Duration::from_millis(50));
    }
    println!("the hub has ended");
    Ok(())
}
