//! What tests have in common that count what their process holds: each is alone in its binary, under a watchdog.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{process, thread};

/// Runs `body`; if it takes longer than `secs` seconds, it hangs, and the process is aborted.
pub(crate) fn within(secs: u64, name: &'static str, body: impl FnOnce()) {
    let (done, called_off) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if called_off.recv_timeout(Duration::from_secs(secs)) == Err(RecvTimeoutError::Timeout) {
            // Not `eprintln`, which the harness captures and an abort would lose.
            let _ = writeln!(std::io::stderr(), "\nwatchdog: `{name}` hangs: not done within {secs} s");
            process::abort();
        }
    });
    body();
    drop(done);
    let _ = watchdog.join();
}
