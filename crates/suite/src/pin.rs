//! Which CPUs a thread may run on.

#![forbid(unsafe_code)]

use crate::BoxError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::OnceLock;

/// The CPUs that this process could run on before anything was pinned, in order.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    })
}

/// The CPUs for the two sides of a call: caller, callee.
///
/// # Errors
///
/// If this process may run on one CPU only.
pub fn pair() -> Result<(usize, usize), BoxError> {
    match allowed() {
        [caller, callee, ..] => Ok((*caller, *callee)),
        _ => Err("this process may run on one CPU only, and this measurement needs two".into()),
    }
}

/// Keeps the calling thread on `cpus`, also after this returns.
pub fn this_thread(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps the calling thread on one CPU for as long as this lives, then where it was before.
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

    /// Runs `start` while the calling thread may run on every CPU: what it starts (processes, threads) inherits that.
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
        // It was allowed before, so it fails only if CPUs have gone; then there is nothing to go back to.
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
