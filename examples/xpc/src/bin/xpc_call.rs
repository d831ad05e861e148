//! The third of three programs (see `xpc_server`): calls the callbacks that the second has registered. With `--shutdown` after the address, it also
//! shuts the hub down, which ends the other two.
use callgate::args;
use callgate::manager::{AuthKey, Manager, Value};
use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

const CALLS: u32 = 100_000;

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or("xpc".into());
    let manager = Manager::new(&address, &AuthKey::from_env("CALLGATE_AUTHKEY")?);
    manager.connect(Duration::from_secs(10))?;

    let Some(sum) = manager.call_as::<i64>("add", (1i64, 2i64))? else {
        return Err("nobody has registered `add`: is `xpc_register` running?".into());
    };
    println!("add(1, 2) = {sum}");
    println!("count(5) = {:?}", manager.call_as::<u64>("count", (5u64,))?);
    // This callback accepts arguments of any type and returns a dynamic value.
    if let Some(Value::Str(text)) = manager.call("describe", args![1, 2.5, "three"; four = 4, five = vec![5, 5]])? {
        println!("describe(..) = {text}");
    }
    for (a, b) in [(7i64, 2i64), (7, 0)] {
        match manager.call_as::<i64>("divide", (a, b)) {
            Ok(quotient) => println!("divide({a}, {b}) = {quotient:?}"),
            Err(error) => println!("divide({a}, {b}): {error}"),
        }
    }
    // Registered for one call only: `None` if this program has been run before.
    let once = || manager.call_as::<String>("once", ());
    println!("once() = {:?}, then {:?}", once()?, once()?);
    // Nobody has registered this.
    println!("subtract(3, 2) = {:?}", manager.call("subtract", args![3, 2])?);

    let start = Instant::now();
    for n in 0..i64::from(CALLS) {
        assert_eq!(manager.call_as::<i64>("add", (n, 1i64))?, Some(n + 1));
    }
    println!("{CALLS} calls of add(n, 1), {:?} each", start.elapsed() / CALLS);
    println!("what is registered:");
    for name in manager.names()? {
        println!("  {} {} of process {}: {} calls", name.name, name.signature, name.pid, name.calls);
    }
    if env::args().any(|arg| arg == "--shutdown") {
        manager.shutdown()?;
        println!("the hub has been shut down");
    }
    Ok(())
}
