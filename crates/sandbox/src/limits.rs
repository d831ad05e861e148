//! Limits that this process sets for itself, and its usage of memory and descriptors so far.

#![forbid(unsafe_code)]

use callgate_os::descriptor;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, io};

/// A process's memory usage in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// All mappings.
    pub(crate) address_space: u64,
    /// What `RLIMIT_DATA` counts, plus the stack.
    pub data: u64,
}

/// This process's memory usage. Needs procfs.
pub fn usage() -> io::Result<Usage> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let field = |at: usize| statm.split_ascii_whitespace().nth(at).and_then(|pages| pages.parse::<u64>().ok());
    let (total, data) = field(0).zip(field(5)).ok_or_else(|| io::Error::other("/proc/self/statm cannot be parsed"))?;
    let page = rustix::param::page_size() as u64;
    Ok(Usage { address_space: total * page, data: data * page })
}

/// The number after the highest open descriptor, not counting callgate's own high ones. Needs procfs.
pub(crate) fn descriptors_end() -> io::Result<u64> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    // The directory itself is open while it is read.
    let others = open.filter(|entry| !fs::read_link(entry.path()).is_ok_and(|target| target.starts_with("/proc")));
    let numbers = others.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let high = descriptor::high();
    Ok(numbers.filter(|&number| number < high).max().map_or(3, |highest| highest + 1))
}

/// Lowers the soft limit to `soft`, and the hard limit to `hard` for good; raises neither. Returns the soft limit now in force.
pub fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<u64> {
    let before = getrlimit(resource);
    let hard = before.maximum.map_or(hard, |before| before.min(hard));
    set(resource, before.current.map_or(soft, |before| before.min(soft)).min(hard), hard)
}

/// Sets both limits for good to `value`, or to the hard limit if that is lower. This may raise the soft limit.
pub fn fix(resource: Resource, value: u64) -> io::Result<u64> {
    let value = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    set(resource, value, value)
}

fn set(resource: Resource, soft: u64, hard: u64) -> io::Result<u64> {
    setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })?;
    match getrlimit(resource) {
        Rlimit { current: Some(now), maximum: Some(most) } if now <= soft && most <= hard => Ok(now),
        other => Err(io::Error::other(format!("the limit is {other:?} afterwards"))),
    }
}
