//! Makes a descriptor slow by registering it in very many epoll sets: the kernel walks all entries whenever the other end changes.

#![allow(dead_code)]

use rustix::event::epoll;
use rustix::net::sockopt::socket_type;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The number of entries, by default as many as the tests need. The figures in docs/RELIABILITY.md are for 1.5 million.
pub(crate) fn entries() -> usize {
    std::env::var("CALLGATE_TEST_ENTRIES").ok().and_then(|number| number.parse().ok()).unwrap_or(300_000)
}

/// The numbers of this process's descriptors whose link in `/proc/self/fd` begins with `kind`.
pub(crate) fn descriptors(kind: &str) -> Vec<i32> {
    let Ok(links) = std::fs::read_dir("/proc/self/fd") else {
        // Without procfs, take every descriptor that answers as a socket.
        // SAFETY: the call only asks whether the number is an open socket.
        let is_socket = |number: &i32| socket_type(unsafe { BorrowedFd::borrow_raw(*number) }).is_ok();
        return (0..1024).filter(is_socket).collect();
    };
    let links = links.flatten();
    let of_kind = links
        .filter(|link| std::fs::read_link(link.path()).is_ok_and(|target| target.to_string_lossy().starts_with(kind)));
    of_kind.filter_map(|link| link.file_name().to_str()?.parse().ok()).collect()
}

/// Registers each descriptor of `kind` in epoll sets, about `wanted` times in total or as often as this process may.
/// Returns the number of registrations and the descriptors that hold them.
pub(crate) fn burden(kind: &str, wanted: usize) -> (usize, Vec<OwnedFd>) {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let found = descriptors(kind);
    let (mut held, mut made) = (Vec::new(), 0);
    let side = (wanted as f64).sqrt() as usize;
    for number in found {
        // SAFETY: the descriptor is open, and nothing closes it meanwhile.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let copies: Vec<OwnedFd> = (0..side).map_while(|_| descriptor.try_clone_to_owned().ok()).collect();
        while made < wanted {
            let Ok(set) = epoll::create(epoll::CreateFlags::CLOEXEC) else {
                // Spend at most half of the descriptors on sets.
                if held.len() > copies.len() {
                    break;
                }
                held.extend(copies);
                return burden_within(descriptor, wanted, held);
            };
            let added = copies.iter().take_while(|copy| add(&set, copy.as_fd())).count();
            made += added;
            held.push(set);
            if added < copies.len() {
                break;
            }
        }
        held.extend(copies);
    }
    (made, held)
}

/// Like [`burden`], for a process with a low limit on descriptors.
fn burden_within(descriptor: BorrowedFd<'_>, wanted: usize, held: Vec<OwnedFd>) -> (usize, Vec<OwnedFd>) {
    let most = held.len() / 2;
    drop(held);
    let copies: Vec<OwnedFd> = (0..most).map_while(|_| descriptor.try_clone_to_owned().ok()).collect();
    let (mut held, mut made) = (Vec::new(), 0);
    while let Ok(set) = epoll::create(epoll::CreateFlags::CLOEXEC) {
        made += copies.iter().take_while(|copy| add(&set, copy.as_fd())).count();
        held.push(set);
        if made >= wanted {
            break;
        }
    }
    held.extend(copies);
    (made, held)
}

fn add(set: &OwnedFd, descriptor: BorrowedFd<'_>) -> bool {
    epoll::add(set, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::OUT).is_ok()
}

/// CPU time used by this thread.
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Prints the median and the 99th percentile of `quiet` and of `attacked`.
pub(crate) fn compare(what: &str, quiet: &mut [Duration], attacked: &mut [Duration]) {
    let of = |times: &mut [Duration]| {
        times.sort();
        [times[times.len() / 2], times[(times.len() * 99).div_ceil(100) - 1]]
    };
    let ([calm, calm_99], [busy, busy_99]) = (of(quiet), of(attacked));
    let ratio = |busy: Duration, calm: Duration| busy.as_secs_f64() / calm.as_secs_f64();
    println!(
        "{what}: p50 {calm:.1?} quiet, {busy:.1?} attacked: {:.2}; p99 {calm_99:.1?} quiet ({}), {busy_99:.1?} attacked ({}): {:.2}",
        ratio(busy, calm),
        quiet.len(),
        attacked.len(),
        ratio(busy_99, calm_99)
    );
    println!("  the longest of {what}: {:.1?}", &attacked[attacked.len().saturating_sub(6)..]);
}
