//! Checks the CPUs: how many there are, which share a core, what sets their speed, and whether they are virtual.

use super::{Finding, Good, Missing, Slow, Verdict};
use crate::machine::{self, line_of};
use callgate_suite::pin;
use std::hint::black_box;
use std::time::Instant;

pub fn checks() -> Vec<Finding> {
    vec![cpus(), siblings(), governor(), virtualisation(), clock_source()]
}

fn cpus() -> Finding {
    let (allowed, online) = (pin::allowed().len(), line_of("/sys/devices/system/cpu/online"));
    let value =
        format!("{allowed} allowed, {} online", online.map_or("an unknown number".into(), |list| count_text(&list)));
    match allowed {
        1 => Finding::new(
            "CPUs",
            value,
            Slow,
            "Caller and callee take turns on one CPU, so each call costs two context switches: allow this process a second CPU.",
        ),
        _ => Finding::new(
            "CPUs",
            value,
            Good,
            "Caller and callee can each have a CPU; bridges that are busy at once want two each.",
        ),
    }
}

fn count_text(list: &str) -> String {
    numbers(list).map_or_else(|| list.to_owned(), |cpus| cpus.len().to_string())
}

/// The numbers in a list of the kernel, such as `0-3,8`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

fn siblings() -> Finding {
    const NAME: &str = "hyperthreads";
    let groups: Option<Vec<_>> = pin::allowed().iter().map(|cpu| siblings_of(*cpu)).collect();
    let Some(groups) = groups else {
        return Finding::hidden(
            NAME,
            "Two CPUs of one core hand a cache line over faster, but slow each other down when both work.",
        );
    };
    let shared = groups.iter().find(|group| group.iter().filter(|cpu| pin::allowed().contains(cpu)).count() > 1);
    match shared {
        Some(group) => Finding::new(
            NAME,
            format!("CPUs {group:?} share one core"),
            Good,
            "Pinned to these two, a call is at its fastest; work on one of them slows down the other.",
        ),
        None => Finding::new(
            NAME,
            "no two allowed CPUs share one core",
            Good,
            "Each side has a core of its own; nothing to do.",
        ),
    }
}

fn siblings_of(cpu: usize) -> Option<Vec<usize>> {
    numbers(&line_of(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))?)
}

fn governor() -> Finding {
    const NAME: &str = "frequency governor";
    let first = pin::allowed().first().copied().unwrap_or_default();
    match line_of(&format!("/sys/devices/system/cpu/cpu{first}/cpufreq/scaling_governor")) {
        None => Finding::hidden(NAME, "A virtual machine leaves the frequency to its host; look there."),
        Some(governor) if governor == "performance" => {
            Finding::new(NAME, governor, Good, "The CPU does not slow down between calls.")
        }
        Some(governor) => Finding::new(
            NAME,
            governor,
            Slow,
            "A CPU that has been idle comes back at a low frequency; for the least latency, set `performance` with `cpupower`.",
        ),
    }
}

fn virtualisation() -> Finding {
    const NAME: &str = "virtualisation";
    let idle = line_of("/sys/devices/system/cpu/cpuidle/current_driver");
    match (machine::hypervisor(), idle) {
        (None, _) => Finding::new(NAME, "none seen", Good, "A CPU that sleeps or pauses does not exit to a host."),
        (Some(kind), Some(driver)) if driver == "haltpoll" => Finding::new(
            NAME,
            format!("{kind}, idle driver haltpoll"),
            Slow,
            "The guest polls before it halts, which shortens wake-ups, but a CPU that has slept longer is woken through the host: \
             keep calls close together, or spin.",
        ),
        (Some(kind), _) => Finding::new(
            NAME,
            kind,
            Slow,
            "A CPU that goes idle (HLT) exits to the host, so a wake-up costs several times as much: use the cpuidle driver \
             haltpoll, or spin longer; PAUSE in a long spin may exit too.",
        ),
    }
}

fn clock_source() -> Finding {
    const NAME: &str = "clock source";
    let cost = cost_of_reading();
    let Some(source) = machine::clock_source() else {
        return Finding::new(
            NAME,
            format!("not shown here; {cost:.0} ns a reading"),
            verdict_of_clock(cost),
            "Deadlines read it.",
        );
    };
    let verdict = verdict_of_clock(cost);
    let advice = match verdict {
        Good => "Deadlines read it without a system call.",
        _ => {
            "Each reading is a system call: deadlines cost more than the call itself; see whether the kernel can use tsc."
        }
    };
    Finding::new(NAME, format!("{source}, {cost:.0} ns a reading"), verdict, advice)
}

/// The time of one reading of the system's clock, in nanoseconds: the smallest of several means, because interruptions lengthen some.
fn cost_of_reading() -> f64 {
    const READINGS: u32 = 1_000;
    let mean = || {
        let begin = Instant::now();
        (0..READINGS).for_each(|_| _ = black_box(Instant::now()));
        begin.elapsed().as_nanos() as f64 / f64::from(READINGS)
    };
    (0..10).map(|_| mean()).fold(f64::INFINITY, f64::min)
}

/// A reading takes tens of nanoseconds in user space, and hundreds through the kernel.
fn verdict_of_clock(cost: f64) -> Verdict {
    match cost {
        cost if cost <= 0.0 => Missing,
        cost if cost < 150.0 => Good,
        _ => Slow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(numbers("0"), Some(vec![0]));
        assert_eq!(numbers("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(numbers("all"), None);
        assert_eq!(count_text("0-1"), "2");
    }
}
