//! Counts primes in a child process, which reports every step: `cargo run --release -p progress -- [--below N] [--cancel-at STEP]`
//!
//! The child calls back after each step, and goes on if the callback says so. The callback runs here, while `main` waits for the count: it draws
//! the bar, and refuses the next step after Ctrl-C. The program exits with 1 if it was stopped.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed};
use std::{env, error::Error};

use callgate::bridge;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::{consts::SIGINT, flag};

#[cfg(test)]
mod tests;

const STEPS: u32 = 30;

/// Counts primes.
struct Primes;

#[bridge]
impl Primes {
    pub fn new() -> Self {
        Primes
    }

    /// Counts the primes below `below` in `STEPS` steps, for as long as `on_step` returns true. Returns the number of steps taken.
    pub fn count(&self, below: u32, on_step: &mut dyn FnMut(u32, &str) -> bool) -> u32 {
        let mut primes = 0;
        for step in 1..=STEPS {
            let part = |step: u32| u64::from(below) * u64::from(step) / u64::from(STEPS);
            primes += (part(step - 1)..part(step)).filter(|&n| is_prime(n)).count();
            if !on_step(step, &format!("{primes} primes below {}", part(step))) {
                return step;
            }
        }
        STEPS
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[callgate::main]
fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some((below, cancel_at)) = parse(env::args().skip(1)) else {
        eprintln!("usage: progress [--below N] [--cancel-at STEP]");
        return Ok(ExitCode::from(2));
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, interrupted.clone())?;
    let primes = Primes::bridge().start()?;

    let bar = ProgressBar::new(STEPS.into());
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")?);
    let mut found = String::new();
    let steps = primes.count(below, &mut |step, so_far| {
        bar.set_position(step.into());
        bar.set_message(so_far.to_owned());
        if bar.is_hidden() {
            eprintln!("{step}/{STEPS} {so_far}"); // stderr is no terminal
        }
        so_far.clone_into(&mut found);
        step != cancel_at && !interrupted.load(Relaxed)
    })?;
    bar.finish_and_clear();

    println!("{steps} of {STEPS} steps: {found}");
    Ok(ExitCode::from(u8::from(steps < STEPS)))
}

/// Parses the arguments: the end of the search, and the step to cancel at, 0 for none. `None` if they are wrong.
fn parse(mut args: impl Iterator<Item = String>) -> Option<(u32, u32)> {
    let (mut below, mut cancel_at) = (3_000_000, 0);
    while let Some(arg) = args.next() {
        match &*arg {
            "--below" => below = args.next()?.parse().ok()?,
            "--cancel-at" => cancel_at = args.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((below, cancel_at))
}
