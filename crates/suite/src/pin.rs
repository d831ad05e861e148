//! Sets and restores the CPUs on which a thread may run.

#![forbid(unsafe_code)]

use crate::BoxError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::OnceLock;

/// The CPUs that this process was allowed before anything was pinned, in ascending order.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    })
}

/// Chooses the CPUs for the two sides of a call: caller, callee.
///
/// # Errors
///
/// If this process may run on only one CPU.
pub fn pair() -> Result<(usize, usize), BoxError> {
    match allowed() {
        [caller, callee, ..] => Ok((*caller, *callee)),
        _ => Err("this process may run on one CPU only, and this measurement needs two".into()),
    }
}

/// Pins the calling thread to `cpus` for good.
pub fn this_thread(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps the calling thread pinned. Dropping this restores the CPUs that it was allowed before.
#[derive(Debug)]
#[must_use = "dropping it ends the pinning"]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Pins the calling thread to `cpu`.
    pub fn to(cpu: usize) -> io::Result<Self> {
        Self::to_all(&[cpu])
    }

    /// Runs `start` while the calling thread may run on every allowed CPU. Processes and threads started there inherit that.
    pub fn nowhere<R>(start: impl FnOnce() -> R) -> io::Result<R> {
        let _free = Self::to_all(allowed())?;
        Ok(start())
    }

    fn to_all(cpus: &[usize]) -> io::Result<Self> {
        allowed();
        let before = sched_getaffinity(None)?;
        this_thread(cpus)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // These CPUs were allowed before, so this fails only if they have gone; then there is nothing to restore.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_ends_when_it_is_dropped() {
        let before = sched_getaffinity(None).expect("an affinity");
        let last = *allowed().last().expect("a CPU");
        let pin = Pinned::to(last).expect("an allowed CPU");
        assert_eq!(rustix::thread::sched_getcpu(), last);
        let inside = Pinned::nowhere(|| sched_getaffinity(None)).expect("allowed CPUs").expect("an affinity");
        assert_eq!(inside.count() as usize, allowed().len());
        assert_eq!(rustix::thread::sched_getcpu(), last);
        drop(pin);
        assert_eq!(sched_getaffinity(None).expect("an affinity"), before);
    }
}
