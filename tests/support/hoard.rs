//! A hostile child's attacks on the memory that it shares with its parent: it keeps the memory, and makes holes in it.

#![allow(dead_code)]

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, MremapFlags, madvise, mremap};
use std::collections::HashSet;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// A mapping of memory created by callgate.
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

/// Bytes of the memory objects named `name` that a process has mapped, each counted once.
pub(crate) fn shared_bytes(pid: u32, name: &str) -> u64 {
    let mut seen = HashSet::new();
    let all = Shared::all(&pid.to_string()).into_iter().filter(|shared| shared.name == name);
    all.filter(|shared| seen.insert(shared.inode)).map(|shared| shared.len).sum()
}

/// Memory that a hostile process keeps mapped.
pub(crate) struct Hoard(Vec<(u64, u64)>);

impl Hoard {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Maps every arena that it does not keep yet once more. Returns the total in bytes. Every page is in use: reading it makes the kernel provide
    /// it.
    pub(crate) fn take(&mut self) -> u64 {
        for Shared { inode, start, len, .. } in
            Shared::all("self").into_iter().filter(|shared| shared.name.contains("arena"))
        {
            if self.0.iter().any(|(kept, _)| *kept == inode) {
                continue;
            }
            // SAFETY: an old length of 0 leaves a shared mapping as it is and creates another at an address of the kernel's choice.
            let Ok(again) = (unsafe { mremap(start as *mut c_void, 0, len as usize, MremapFlags::MAYMOVE) }) else {
                continue;
            };
            let touch = |at: u64| {
                // SAFETY: the address lies inside the new mapping and is aligned for atomics.
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

/// Tries to make holes in all shared memory. Returns the bytes attacked and where an attempt succeeded. Attacks only the last page of each mapping,
/// and punches through its descriptor only the first, so that little is lost.
pub(crate) fn holes() -> (u64, Vec<String>) {
    let (mut tried, mut made) = (0, Vec::new());
    for Shared { start, len, range, name, .. } in Shared::all("self") {
        tried += len;
        let last = len - 4096;
        // SAFETY: the last page of a mapping; no reference to it exists.
        if unsafe { madvise((start + last) as *mut c_void, 4096, Advice::LinuxRemove) }.is_ok() {
            made.push(format!("{name} by its mapping"));
        }
        // A process with the permission gets a descriptor this way.
        let object = OpenOptions::new().read(true).write(true).open(format!("/proc/self/map_files/{range}"));
        if object.is_ok_and(|object| punch(&object, 4096)) {
            made.push(format!("{name} by its descriptor"));
        }
    }
    (tried, made)
}

/// Starts `punchers` threads that make holes wherever they can, and `hogs` threads that only compute.
pub(crate) fn attack(punchers: u64, hogs: u64) {
    if std::env::var_os("CALLGATE_SETSID").is_some() {
        // Where the kernel schedules sessions as groups, these threads then share half of the CPUs.
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
                        // SAFETY: the memory belongs to the attacker, who may lose its contents.
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
