//! The commands for named callbacks: run a hub (`serve`), list what is registered there (`names`), call it (`call`).

#![forbid(unsafe_code)]

use crate::args::{CallOf, HubArgs, Key, ServeArgs};
use crate::render::text;
use crate::{json, print};
use callgate::manager::{AuthKey, CallError, Manager, Name};
use callgate_suite::BoxError;
use comfy_table::Table;
use nix::sys::signal::{SigSet, Signal};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The environment variable with the key, used if no file is named.
pub const VARIABLE: &str = "CALLGATE_AUTHKEY";

/// How long it may take to find a hub, or to start one where another has just ended.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often `serve` checks whether a client has ended the hub.
const GLANCE: Duration = Duration::from_millis(100);

impl Key {
    fn read(&self) -> Result<AuthKey, BoxError> {
        match &self.authkey_file {
            Some(file) => Ok(AuthKey::from_file(file)?),
            None if std::env::var_os(VARIABLE).is_some() => Ok(AuthKey::from_env(VARIABLE)?),
            None => Err(format!("there is no key: name a file with --authkey-file, or set {VARIABLE}").into()),
        }
    }
}

impl HubArgs {
    /// Joins this hub as a client that may only call and query.
    pub fn join(&self) -> Result<Manager, BoxError> {
        self.join_for(TIMEOUT)
    }

    /// Like [`join`](Self::join), with a timeout for calls.
    fn join_for(&self, timeout: Duration) -> Result<Manager, BoxError> {
        let manager = Manager::new(&self.address, &self.key.read()?).timeout(timeout);
        manager.connect_to_call(TIMEOUT)?;
        Ok(manager)
    }
}

/// Runs the hub until a signal or a client ends it.
pub fn serve(args: &ServeArgs) -> Result<(), BoxError> {
    let key = args.key.read()?;
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect::<SigSet>();
    // Block the signals before there are threads: they inherit this, so that only the waiting thread gets the signals.
    signals.thread_block()?;
    let manager = Manager::new(&args.address, &key);
    manager.start(TIMEOUT)?;
    let (told, end) = mpsc::channel();
    thread::Builder::new().name("signals".into()).spawn(move || told.send(signals.wait()))?;
    print(&format!("hub {} at {}\n", std::process::id(), callgate::manager::Address::from(&args.address)))?;
    while manager.is_hub() {
        match end.recv_timeout(GLANCE) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(signal) => {
                manager.shutdown()?;
                return print(&format!("ended by {}\n", signal?));
            }
            Err(error @ RecvTimeoutError::Disconnected) => return Err(error.into()),
        }
    }
    print("ended by a client\n")
}

/// Prints the registered callbacks.
pub fn names(hub: &HubArgs) -> Result<(), BoxError> {
    let mut names = hub.join()?.names()?;
    names.sort_by(|one, other| one.name.cmp(&other.name));
    let lines: Vec<_> = names.iter().map(|name| cells(name).into()).collect();
    print(&table(&["callback", "process", "signature", "calls", "mean"], lines))
}

/// The cells that every table shows for a name.
pub fn cells(name: &Name) -> [String; 5] {
    let [callback, signature] = [&name.name, &name.signature].map(|text| text::plainly(text));
    [callback, name.pid.to_string(), signature, name.calls.to_string(), mean(name.calls, name.mean)]
}

/// Formats the mean time of a call; `-` if there were none.
pub fn mean(calls: u64, mean: Duration) -> String {
    if calls == 0 { "-".into() } else { format!("{mean:.1?}") }
}

/// A table with headings, or a sentence if it has no lines.
pub fn table(headings: &[&str], lines: Vec<Vec<String>>) -> String {
    if lines.is_empty() {
        return "nothing is registered\n".into();
    }
    let mut table: Table = text::plain();
    table.set_header(headings.to_vec()).add_rows(lines);
    format!("{}\n", table.trim_fmt())
}

/// Calls a callback and prints its result.
pub fn call(args: &CallOf) -> Result<(), BoxError> {
    let given = json::args(&args.args, &args.keywords)?;
    let manager = args.hub.join_for(args.timeout)?;
    match manager.call(&args.name, given) {
        Ok(Some(value)) => print(&format!("{}\n", json::text(&value))),
        Ok(None) => Err(format!("nobody has registered `{}` at {}", args.name, args.hub.address).into()),
        Err(CallError::Callback { message, .. }) => Err(format!("`{}` failed: {message}", args.name).into()),
        Err(error) => Err(error.into()),
    }
}
