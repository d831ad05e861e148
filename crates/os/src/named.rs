//! POSIX shared memory objects, through the crate `shared_memory`.
//!
//! Nothing seals them: whoever may open one may shrink it, and then its pages are gone from under every mapping.

use crate::descriptor::apart;
use crate::mapping::Mapping;
use crate::signals::without_file_signal;
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::collections::BTreeSet;
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names that a process has made and not yet taken away.
struct Made {
    /// A fork of that process has none; 0 = nobody has made any.
    process: u32,
    names: BTreeSet<String>,
}

static MADE: Mutex<Made> = Mutex::new(Made { process: 0, names: BTreeSet::new() });

/// What this process has made.
fn made() -> MutexGuard<'static, Made> {
    let (mut made, process) = (MADE.lock().unwrap_or_else(PoisonError::into_inner), std::process::id());
    if made.process == 0 {
        // SAFETY: the function unwinds into nobody: it cannot panic. If there is no room for it, names stay.
        unsafe { libc::atexit(take_away) };
    }
    if made.process != process {
        *made = Made { process, names: BTreeSet::new() };
    }
    made
}

/// At a process's end: a bridge that was dropped just before may still wait for its child's, which its names would outlive.
extern "C" fn take_away() {
    // Whoever holds it may never go on.
    if let Ok(made) = MADE.try_lock()
        && made.process == std::process::id()
    {
        for name in &made.names {
            let _ = rustix::shm::unlink(name);
        }
    }
}

/// Creates and maps the object `name` of `len` zero bytes. The name goes when the mapping or the process does.
pub fn create(name: &str, len: usize) -> io::Result<Mapping> {
    let mapping = without_file_signal(|| keep(apart(|| ShmemConf::new().os_id(name).size(len).create())))?;
    made().names.insert(name.to_owned());
    Ok(mapping)
}

/// Maps the object `name`.
pub fn open(name: &str) -> io::Result<Mapping> {
    keep(apart(|| ShmemConf::new().os_id(name).open()))
}

/// Takes the name away; the memory lives as long as its mappings.
pub fn unlink(name: &str) {
    // It may be gone already.
    let _ = rustix::shm::unlink(name);
    made().names.remove(name);
}

fn keep(memory: Result<Shmem, ShmemError>) -> io::Result<Mapping> {
    let memory = memory.map_err(system)?;
    let start = NonNull::new(memory.as_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
    let len = memory.len();
    // SAFETY: mapped readable and writable for `len` bytes until `memory` is dropped. That nobody shrinks it meanwhile is the
    // duty of whoever asked for named memory, with a `TrustedChild`.
    Ok(unsafe { Mapping::kept_by(start, len, Box::new(ShmemGuard(memory))) })
}

/// The system's own error, where there is one.
fn system(error: ShmemError) -> io::Error {
    match error {
        ShmemError::MapCreateFailed(code) | ShmemError::MapOpenFailed(code) | ShmemError::UnknownOsError(code) => {
            io::Error::from_raw_os_error(code.cast_signed())
        }
        other => io::Error::other(format!("shared memory: {other}")),
    }
}

/// Kept for the sake of its destructor.
struct ShmemGuard(#[expect(dead_code, reason = "dropped, never read")] Shmem);

// SAFETY: nobody reads it; the destructor unmaps, unlinks and closes, in whatever thread.
unsafe impl Send for ShmemGuard {}
// SAFETY: as above.
unsafe impl Sync for ShmemGuard {}
