//! Shared by tests that count what their process holds: each is the only test of its binary and runs under a watchdog.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{process, thread};

/// Runs `body`, and aborts the process if that takes longer than `secs` seconds.
pub(crate) fn within(secs: u64, name: &'static str, body: impl FnOnce()) {
    let (done, called_off) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if called_off.recv_timeout(Duration::from_secs(secs)) == Err(RecvTimeoutError::Timeout) {
            // Not `eprintln`: the harness captures that, and an abort would lose it.
            let _ = writeln!(std::io::stderr(), "\nwatchdog: `{name}` hangs: not done within {secs} s");
            process::abort();
        }
    });
    body();
    drop(done);
    let _ = watchdog.join();
}
