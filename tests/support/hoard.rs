//! What a hostile child does with the memory that it shares with its parent: keeps it, and makes holes in it.

#![allow(dead_code)]

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, MremapFlags, madvise, mremap};
use std::collections::HashSet;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// A mapping of memory that callgate has made.
struct Shared {
    inode: u64,
    start: u64,
    len: u64,
    range: String,
    name: String,
}

impl Shared {
    fn all(pid: &str) -> Vec<Self> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let of = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let name = fields.get(5)?.strip_prefix("/memfd:")?;
            let (start, end) = fields[0].split_once('-')?;
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).ok());
            let (range, name, start) = (fields[0].to_owned(), name.to_owned(), start?);
            Some(Self { inode: fields[4].parse().ok()?, start, len: end? - start, range, name })
        };
        maps.lines().filter_map(of).filter(|shared| shared.name.starts_with("callgate")).collect()
    }
}

/// Bytes of the memory objects of this name that a process has mapped, each counted once.
pub(crate) fn shared_bytes(pid: u32, name: &str) -> u64 {
    let mut seen = HashSet::new();
    let all = Shared::all(&pid.to_string()).into_iter().filter(|shared| shared.name == name);
    all.filter(|shared| seen.insert(shared.inode)).map(|shared| shared.len).sum()
}

/// Memory that is kept.
pub(crate) struct Hoard(Vec<(u64, u64)>);

impl Hoard {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Maps what there is once more; returns the bytes that this process has in all, which are all in use: the kernel provides each page.
    pub(crate) fn take(&mut self) -> u64 {
        for Shared { inode, start, len, .. } in
            Shared::all("self").into_iter().filter(|shared| shared.name.contains("arena"))
        {
            if self.0.iter().any(|(kept, _)| *kept == inode) {
                continue;
            }
            // SAFETY: of a shared mapping, an old length of 0 leaves it as it is and makes another at an address of the kernel's choice.
            let Ok(again) = (unsafe { mremap(start as *mut c_void, 0, len as usize, MremapFlags::MAYMOVE) }) else {
                continue;
            };
            let touch = |at: u64| {
                // SAFETY: inside the mapping that was just made, of atomics' alignment.
                let word = unsafe { &*(again.wrapping_byte_add(at as usize).cast::<AtomicU64>()) };
                word.load(Relaxed)
            };
            std::hint::black_box((0..len).step_by(4096).map(touch).fold(0, u64::wrapping_add));
            self.0.push((inode, len));
        }
        self.0.iter().map(|(_, len)| len).sum()
    }
}

fn punch(file: &File, len: u64) -> bool {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, len).is_ok()
}

/// Tries to make holes in all shared memory: how much that is, and where it came off. Beyond the first page of each, so that nothing is lost.
pub(crate) fn holes() -> (u64, Vec<String>) {
    let (mut tried, mut made) = (0, Vec::new());
    for Shared { start, len, range, name, .. } in Shared::all("self") {
        tried += len;
        let last = len - 4096;
        // SAFETY: the last page of a mapping, which nobody refers to.
        if unsafe { madvise((start + last) as *mut c_void, 4096, Advice::LinuxRemove) }.is_ok() {
            made.push(format!("{name} by its mapping"));
        }
        // Who may, has a descriptor by this.
        let object = OpenOptions::new().read(true).write(true).open(format!("/proc/self/map_files/{range}"));
        if object.is_ok_and(|object| punch(&object, 4096)) {
            made.push(format!("{name} by its descriptor"));
        }
    }
    (tried, made)
}

/// Starts so many threads that make holes wherever they can, and so many that only compute.
pub(crate) fn attack(punchers: u64, hogs: u64) {
    if std::env::var_os("CALLGATE_SETSID").is_some() {
        // Where the kernel schedules sessions as groups, its threads share half of the CPUs then.
        let _ = rustix::process::setsid();
    }
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let wait = || {
        while !BEGUN.load(Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    for _ in 0..punchers {
        let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            wait();
            loop {
                for Shared { start, len, .. } in Shared::all("self") {
                    for _ in 0..100 {
                        // SAFETY: memory that is the attacker's to lose.
                        let _ = unsafe { madvise(start as *mut c_void, len as usize, Advice::LinuxRemove) };
                    }
                }
            }
        });
    }
    for _ in 0..hogs {
        let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            wait();
            loop {
                std::hint::spin_loop();
            }
        });
    }
    BEGUN.store(true, Relaxed);
}
