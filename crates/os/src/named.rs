//! Named POSIX shared memory objects, through the crate `shared_memory`.
//!
//! Nothing seals them: any process that can open one can shrink it, which takes the pages from under every mapping.

use crate::descriptor::apart;
use crate::mapping::Mapping;
use crate::signals::without_file_signal;
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::collections::BTreeSet;
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The names that this process has created and not yet unlinked.
struct Made {
    /// The process that created them; its forks own none. 0 = no name was created yet.
    process: u32,
    names: BTreeSet<String>,
}

static MADE: Mutex<Made> = Mutex::new(Made { process: 0, names: BTreeSet::new() });

/// The names that this process has created.
fn made() -> MutexGuard<'static, Made> {
    let (mut made, process) = (MADE.lock().unwrap_or_else(PoisonError::into_inner), std::process::id());
    if made.process == 0 {
        // SAFETY: the function cannot panic, so it unwinds into nobody. If registering it fails, names outlive the process.
        unsafe { libc::atexit(take_away) };
    }
    if made.process != process {
        *made = Made { process, names: BTreeSet::new() };
    }
    made
}

/// Unlinks the remaining names when the process exits. A bridge dropped just before may still be waiting for its child, and its names would stay
/// behind.
extern "C" fn take_away() {
    // The thread that holds the lock may never continue.
    if let Ok(made) = MADE.try_lock()
        && made.process == std::process::id()
    {
        for name in &made.names {
            let _ = rustix::shm::unlink(name);
        }
    }
}

/// Creates and maps the object `name` of `len` zero bytes. The name disappears with the mapping or the process.
pub fn create(name: &str, len: usize) -> io::Result<Mapping> {
    let mapping = without_file_signal(|| keep(apart(|| ShmemConf::new().os_id(name).size(len).create())))?;
    made().names.insert(name.to_owned());
    Ok(mapping)
}

/// Maps the object `name`.
pub fn open(name: &str) -> io::Result<Mapping> {
    keep(apart(|| ShmemConf::new().os_id(name).open()))
}

/// Unlinks the name; the memory lives as long as its mappings.
pub fn unlink(name: &str) {
    // It may be unlinked already.
    let _ = rustix::shm::unlink(name);
    made().names.remove(name);
}

fn keep(memory: Result<Shmem, ShmemError>) -> io::Result<Mapping> {
    let memory = memory.map_err(system)?;
    let start = NonNull::new(memory.as_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
    let len = memory.len();
    // SAFETY: mapped readable and writable for `len` bytes until `memory` is dropped. Whoever asked for named memory, with a `TrustedChild`, promises
    // that nobody shrinks it meanwhile.
    Ok(unsafe { Mapping::kept_by(start, len, Box::new(ShmemGuard(memory))) })
}

/// The operating system's own error, where there is one.
fn system(error: ShmemError) -> io::Error {
    match error {
        ShmemError::MapCreateFailed(code) | ShmemError::MapOpenFailed(code) | ShmemError::UnknownOsError(code) => {
            io::Error::from_raw_os_error(code.cast_signed())
        }
        other => io::Error::other(format!("shared memory: {other}")),
    }
}

/// Held for its destructor.
struct ShmemGuard(#[expect(dead_code, reason = "dropped, never read")] Shmem);

// SAFETY: nobody reads it; the destructor may unmap, unlink and close on any thread.
unsafe impl Send for ShmemGuard {}
// SAFETY: as above.
unsafe impl Sync for ShmemGuard {}
