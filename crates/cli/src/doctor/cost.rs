//! Checks what the two ways of waiting cost on this machine: passing a cache line, and a sleep.

use super::{Finding, Good, Missing, Slow, wake};
use crate::machine::line_of;
use crate::render::units;
use callgate_suite::floor::{Asleep, Tokens};
use callgate_suite::pin::{self, Pinned};
use callgate_suite::{BoxError, Budget, Clock, interleave};
use std::time::Duration;

pub fn checks() -> Vec<Finding> {
    vec![floor(), futex_wake(), timer_slack(), huge_pages()]
}

/// A tenth of a second in total.
const BUDGET: Budget = Budget { repeats: 2, time: Duration::from_millis(50), batch: Duration::from_millis(5) };

fn floor() -> Finding {
    const NAME: &str = "floor";
    let p50 = match ping_pong() {
        Ok(p50) => p50,
        Err(error) => {
            return Finding::new(
                NAME,
                "not measured",
                Missing,
                format!("A cache line goes between two CPUs, but {error}."),
            );
        }
    };
    let value = format!("{} p50 for a cache line there and back", units::nanoseconds(p50));
    match p50 {
        p50 if p50 < 1000.0 => Finding::new(
            NAME,
            value,
            Good,
            "No call between processes can be faster than this; callgate's are a little above it.",
        ),
        _ => Finding::new(
            NAME,
            value,
            Slow,
            "The two CPUs are far apart, or busy: on a machine with several sockets, pin both processes to one.",
        ),
    }
}

fn ping_pong() -> Result<f64, BoxError> {
    let (caller, callee) = pin::pair()?;
    let _pin = Pinned::to(caller)?;
    let measured = interleave(BUDGET, &Clock::new(), &mut |_| (), || {
        Ok(vec![Tokens::start(Asleep::Never, callee)?.subject("ping-pong")])
    })?;
    Ok(measured[0].merged().at(0.5))
}

fn futex_wake() -> Finding {
    const NAME: &str = "futex wake";
    let cpus = pin::allowed();
    let (Some(&waker), Some(&sleeper)) = (cpus.first(), cpus.get(1).or(cpus.first())) else {
        return Finding::hidden(NAME, "It cannot be measured without knowing the CPUs.");
    };
    match wake::measure(waker, sleeper) {
        Err(error) => Finding::new(
            NAME,
            format!("fails: {error}"),
            Missing,
            "Parked calls wake through it: nothing works without.",
        ),
        Ok(wake) => {
            let nanoseconds = |time: Duration| units::nanoseconds(time.as_nanos() as f64);
            let value = format!(
                "{} for the waker, {} until the sleeper runs",
                nanoseconds(wake.waker),
                nanoseconds(wake.sleeper)
            );
            match wake.sleeper {
                time if time < Duration::from_micros(15) => {
                    Finding::new(NAME, value, Good, "A call after a pause pays this twice; the default wait suits it.")
                }
                _ => Finding::new(
                    NAME,
                    value,
                    Slow,
                    "A call after a pause pays this twice: where latency matters more than CPU time, choose `Wait::Spin` for that bridge.",
                ),
            }
        }
    }
}

fn timer_slack() -> Finding {
    const NAME: &str = "timer slack";
    match rustix::thread::current_timer_slack() {
        Err(error) => Finding::new(NAME, format!("fails: {error}"), Missing, "How late a timeout may come is unknown."),
        Ok(slack) => {
            let value = units::nanoseconds(slack as f64);
            match slack {
                0..=50_000 => Finding::new(NAME, value, Good, "A call's timeout comes at most this late."),
                _ => Finding::new(
                    NAME,
                    value,
                    Slow,
                    "A call's timeout may come this late: prctl(PR_SET_TIMERSLACK) shortens it.",
                ),
            }
        }
    }
}

fn huge_pages() -> Finding {
    const NAME: &str = "huge pages for shared memory";
    let Some(modes) = line_of("/sys/kernel/mm/transparent_hugepage/shmem_enabled") else {
        return Finding::hidden(NAME, "Large payloads touch new memory page by page.");
    };
    let mode = modes.split(['[', ']']).nth(1).unwrap_or(&modes).to_owned();
    match mode.as_str() {
        "always" | "within_size" | "force" => {
            Finding::new(NAME, mode, Good, "New memory for large payloads comes in big pieces.")
        }
        _ => Finding::new(
            NAME,
            mode,
            Slow,
            "New memory for large payloads comes in pages of 4 KiB, which makes first use several times as slow: write `within_size` \
             to /sys/kernel/mm/transparent_hugepage/shmem_enabled.",
        ),
    }
}
