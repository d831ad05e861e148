//! Named functions that unrelated processes call: plug-ins, probes in a running program, tuning while it runs. Feature `manager`.
//!
//! One process registers a function under a name. Another calls it, and it runs where it was registered. One process is the **hub**, which only introduces
//! the others, its **clients**; from the first call on, caller and **owner** talk directly through shared memory, and neither trusts the other.
//!
//! ```
//! use callgate::args;
//! use callgate::manager::{Args, AuthKey, Manager, Value};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address = format!("@guide-{}", std::process::id()); // or a path, or a name below the user's runtime directory
//! let (key, timeout) = (AuthKey::new("the shared secret"), Duration::from_secs(10));
//!
//! let program = Manager::new(&address, &key);
//! program.start(timeout)?; // `start_or_connect` makes whichever process comes first the hub
//! let _add = program.register_fn("add", |a: i64, b: i64| a + b)?;
//!
//! let other = Manager::new(&address, &key); // usually in another process
//! other.connect(timeout)?;
//! assert_eq!(other.call_as::<i64>("add", (1i64, 2i64))?, Some(3));
//!
//! let hook = other.register("describe", |args: Args| args.to_string())?;
//! let described = program.call("describe", args![1, 2.5; scale = 4, unit = "mm"])?;
//! assert_eq!(described, Some(Value::from(r#"(1, 2.5; scale = 4, unit = "mm")"#)));
//! hook.unregister();
//! assert_eq!(program.call("describe", args![])?, None); // nobody has registered it
//! # Ok(())
//! # }
//! ```
//!
//! # What a registration promises
//!
//! If a callback fails, the caller gets [`CallError::Callback`](crate::manager::CallError::Callback); the callback stays registered. When a process ends, its
//! registrations end with it. `named("..")` starts a registration with options: `for_calls`, `expires_in`, `replace`. Locks and semaphores (`lock`,
//! `semaphore`) are shared by all clients of the hub, and released when their holder dies.
//!
//! The key keeps strangers out. It does not protect clients from each other: whoever has the key can replace a name or
//! end the hub, but for clients of a `Handle` or of `connect_to_call`, which only call.
//!
//! # From a shell
//!
//! ```text
//! export CALLGATE_AUTHKEY=$(head -c 32 /dev/urandom | base64)   # the same in every terminal; or --authkey-file FILE
//! callgate serve metrics                                        # the hub
//! cargo run --release -p xpc --bin xpc_register metrics         # registers `add` and `describe`
//! callgate call metrics add 1 2                                 # JSON in, JSON out
//! callgate call metrics describe 1 --kw scale=4
//! callgate names metrics                                        # or `watch`: who has what, calls per second, how long they take
//! ```
//!
//! # A child that calls its parent
//!
//! The parent registers a callback, and passes the child the manager's `Handle` and the key. A handle says where the hub is; it never holds
//! the key.
//!
//! ```
//! use callgate::bridge;
//! use callgate::manager::{AuthKey, Handle, Manager};
//! use std::time::Duration;
//!
//! struct Encoder;
//!
//! #[bridge]
//! impl Encoder {
//!     pub fn new() -> Self {
//!         Encoder
//!     }
//!     pub fn encode(&self, frames: u64, parent: Handle, key: &str) -> Result<u64, String> {
//!         let parent = parent.connect_with(&AuthKey::new(key), Duration::from_secs(10)).map_err(|error| error.to_string())?;
//!         for frame in 1..=frames {
//!             parent.call_as::<()>("encoded", (frame,)).map_err(|error| error.to_string())?;
//!         }
//!         Ok(frames)
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let key = "a secret of this run";
//!     let manager = Manager::new(format!("@guide-encoder-{}", std::process::id()), &AuthKey::new(key));
//!     manager.start(Duration::from_secs(10))?;
//!     let _progress = manager.register_fn("encoded", |frame: u64| println!("frame {frame}"))?;
//!     assert_eq!(Encoder::bridge().start()?.encode(3, manager.handle(), key)?, Ok(3));
//!     Ok(())
//! }
//! ```
//!
//! A call that would wait for itself fails with `TooNested`. Callgate does not see this across threads: if a callback starts a thread that calls back into
//! the waiting process, both wait until the timeout.
