//! A second process hooks into a running program: `cargo run --release -p instrument`
//!
//! The program works through jobs. It registers two callbacks, one that reads its counter and one that changes its pace. After each job it
//! calls `job_done`, which is not registered at first. The second process, here the same program executed again, uses both callbacks and registers
//! `job_done` for a while.
use callgate::manager::{AuthKey, Manager};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{env, thread};

const KEY: &str = "INSTRUMENT_KEY";
const PATIENCE: Duration = Duration::from_secs(10);
const WHILE: Duration = Duration::from_millis(300);

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1) {
        None => application(),
        Some(address) => instrument(&address),
    }
}

/// The state of the program.
struct Jobs {
    done: AtomicU64,
    /// How long a job takes, in microseconds.
    pace: AtomicU64,
}

fn application() -> Result<(), Box<dyn Error>> {
    let mut secret = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let (secret, address) = (format!("{secret:x?}"), format!("@callgate-instrument-{}", process::id()));
    let manager = Manager::new(&address, &AuthKey::new(&secret));
    manager.start(PATIENCE)?;
    let jobs = Arc::new(Jobs { done: AtomicU64::new(0), pace: AtomicU64::new(5000) });
    let (read, tuned) = (jobs.clone(), jobs.clone());
    let _done = manager.register_fn("done", move || read.done.load(Relaxed))?;
    let _set_pace = manager.register_fn("set_pace", move |micros: u64| tuned.pace.swap(micros, Relaxed))?;

    let mut other = Command::new(env::current_exe()?).arg(&address).env(KEY, &secret).spawn()?;
    let mut hooked = 0;
    let status = loop {
        thread::sleep(Duration::from_micros(jobs.pace.load(Relaxed)));
        let job = jobs.done.fetch_add(1, Relaxed);
        // `None` unless a process has hooked in. This process goes on whatever becomes of the other.
        if let Ok(Some(())) = manager.call_as::<()>("job_done", (job,)) {
            hooked += 1;
        }
        if let Some(status) = other.try_wait()? {
            break status;
        }
    };
    println!("process {}: {} jobs, of which {hooked} were seen by a hook", process::id(), jobs.done.load(Relaxed));
    assert!(status.success() && hooked > 0);
    Ok(())
}

fn instrument(address: &str) -> Result<(), Box<dyn Error>> {
    let manager = Manager::new(address, &AuthKey::from_env(KEY)?);
    manager.connect(PATIENCE)?;
    let done = || manager.call_as::<u64>("done", ())?.ok_or(Box::<dyn Error>::from("the program has no `done`"));
    let set_pace = |micros: u64| manager.call_as::<u64>("set_pace", (micros,));
    let jobs_meanwhile = || -> Result<u64, Box<dyn Error>> {
        let before = done()?;
        thread::sleep(WHILE);
        Ok(done()? - before)
    };
    let me = process::id();
    let slow = jobs_meanwhile()?;
    println!("process {me}: {slow} jobs in {WHILE:?}");
    let before = set_pace(500)?.ok_or("the program has no `set_pace`")?;
    let fast = jobs_meanwhile()?;
    println!("process {me}: {fast} with 500 us for each instead of {before} us");

    let seen = Arc::new(AtomicU64::new(0));
    let counted = seen.clone();
    let hook = manager.register_fn("job_done", move |_job: u64| {
        counted.fetch_add(1, Relaxed);
    })?;
    thread::sleep(WHILE);
    hook.unregister();
    println!("process {me}: hooked in, was told of {} jobs, and unhooked", seen.load(Relaxed));
    set_pace(before)?;
    assert!(fast > slow && seen.load(Relaxed) > 0);
    Ok(())
}
