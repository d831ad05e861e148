//! `callgate watch`: shows, once a second, what is registered at a hub and how often it is called.

#![forbid(unsafe_code)]

use crate::args::WatchArgs;
use crate::hub;
use callgate::manager::Name;
use callgate_suite::BoxError;
use std::collections::HashMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and moves to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Prints a table for each interval until the hub ends or the reader closes the pipe. With `once`, prints one table.
pub fn run(args: &WatchArgs) -> Result<(), BoxError> {
    let manager = args.hub.join()?;
    let (clear, space) = if std::io::stdout().is_terminal() { (CLEAR, "") } else { ("", "\n") };
    let (mut before, mut since) = (manager.names()?, Instant::now());
    loop {
        thread::sleep(INTERVAL);
        let (names, now) = match manager.names() {
            Err(_) if !manager.is_connected() => return crate::print("the hub has ended\n"),
            names => (names?, Instant::now()),
        };
        let table = table(&before, &names, now - since);
        if args.once {
            return crate::print(&table);
        }
        let mut stdout = std::io::stdout().lock();
        match write!(stdout, "{clear}{table}{space}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        (before, since) = (names, now);
    }
}

/// A table of the names, sorted by the number of calls in `time`, highest first.
fn table(before: &[Name], names: &[Name], time: Duration) -> String {
    // A name that was registered again counts from 0.
    let before: HashMap<_, _> = before.iter().map(|name| ((&name.name, name.pid), name)).collect();
    let since = |name: &Name| {
        let before = before.get(&(&name.name, name.pid)).filter(|before| before.calls <= name.calls);
        let (calls, total) = before.map_or((0, Duration::ZERO), |before| (before.calls, before.total));
        (name.calls - calls, name.total.saturating_sub(total))
    };
    let mut lines: Vec<_> = names.iter().map(|name| (since(name), name)).collect();
    lines.sort_by(|((one, _), a), ((other, _), b)| other.cmp(one).then_with(|| a.name.cmp(&b.name)));
    let lines = lines.into_iter().map(|((calls, total), name)| {
        let [name, pid, signature, ..] = hub::cells(name);
        let mean = hub::mean(calls, total.div_f64(calls.max(1) as f64));
        vec![name, pid, signature, format!("{:.0}", calls as f64 / time.as_secs_f64()), mean]
    });
    hub::table(&["callback", "process", "signature", "calls/s", "mean"], lines.collect())
}
