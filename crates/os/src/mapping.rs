//! Mappings of shared memory objects into this process.
//!
//! Hands out raw pointers only. Bytes that another process may be writing are never behind a reference; they are copied out with
//! [`copy_from_shared`], which the compiler cannot see through.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

/// What a process may do with a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    ReadWrite,
    ReadOnly,
}

/// A shared mapping of a whole memory object; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    access: Protection,
    /// Unmaps the memory, unless this mapping does so itself.
    keeper: Option<Keeper>,
}

/// Keeps memory mapped until it is dropped.
pub(crate) type Keeper = Box<dyn Any + Send + Sync>;

// SAFETY: a mapping is an address range of the process, not of a thread; it hands out raw pointers only.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method changes the mapping itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `object`. `len` must be greater than 0.
    pub fn new(object: impl AsFd, len: usize, access: Protection) -> io::Result<Self> {
        let protection = match access {
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
            Protection::ReadOnly => ProtFlags::READ,
        };
        // SAFETY: the kernel chooses a free address range, so no existing memory changes.
        let start = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, object, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, access, keeper: None })
    }

    /// Wraps the `len` bytes from `start`, which `keeper` keeps mapped.
    ///
    /// # Safety
    ///
    /// The bytes must stay mapped, readable, writable and shared until `keeper` is dropped.
    #[cfg(feature = "portable")]
    pub(crate) unsafe fn kept_by(start: NonNull<u8>, len: usize, keeper: Keeper) -> Self {
        Self { start, len, access: Protection::ReadWrite, keeper: Some(keeper) }
    }

    /// Heap memory in the role of a mapping, for tests. Two mappings of the same memory have the same address here.
    #[cfg(any(test, feature = "testkit"))]
    pub fn on_heap(memory: &HeapMemory, access: Protection) -> Self {
        let pieces = NonNull::from(&*memory.0);
        let keeper: Keeper = Box::new(memory.clone());
        Self { start: pieces.cast(), len: size_of_val(&*memory.0), access, keeper: Some(keeper) }
    }

    /// Restricts what [`is_writable`](Self::is_writable) reports to `access`, whatever the pages allow.
    #[cfg(feature = "portable")]
    pub fn only_for(mut self, access: Protection) -> Self {
        self.access = access;
        self
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether this process may write to it. Writing to a read-only mapping kills the process.
    pub fn is_writable(&self) -> bool {
        self.access == Protection::ReadWrite
    }

    /// Punches a hole into the first `len` bytes, as a hostile peer would.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    pub fn remove_for_test(&self, len: usize) -> io::Result<()> {
        // SAFETY: within this mapping, to which there are no references: zeros are as valid as the bytes before.
        Ok(unsafe { madvise(self.start.as_ptr().cast(), len, Advice::LinuxRemove) }?)
    }

    /// Asks the kernel to allocate the `len` bytes from `from` now, because they are about to be written; in huge pages where it grants them.
    /// Allocating page by page on first touch costs half as much again. What is not allocated now is allocated on first touch.
    pub fn populate(&self, from: usize, len: usize) {
        let from = from.min(self.len);
        let len = len.min(self.len - from);
        #[cfg(any(test, feature = "testkit"))]
        if self.keeper.as_ref().is_some_and(|keeper| keeper.is::<HeapMemory>()) {
            // Heap pages also hold other allocations.
            return;
        }
        if from == 0 && self.len >= HUGE {
            // SAFETY: advice on this mapping's own range changes no byte.
            let _ = unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
        }
        // SAFETY: within this mapping.
        let start = unsafe { self.start.add(from) };
        // SAFETY: within this mapping; existing pages keep their content.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxPopulateWrite) };
    }
}

/// Zeroed heap memory, whose bounds memory checkers know.
#[cfg(any(test, feature = "testkit"))]
#[derive(Clone)]
pub struct HeapMemory(std::sync::Arc<[Piece]>);

/// Aligned like segments and their parts. Made of atomics, because it is written through shared pointers.
#[cfg(any(test, feature = "testkit"))]
#[repr(C, align(128))]
struct Piece([std::sync::atomic::AtomicU64; 16]);

#[cfg(any(test, feature = "testkit"))]
impl HeapMemory {
    /// `len` bytes, rounded up to a multiple of 128.
    pub fn new(len: usize) -> Self {
        let piece = |_| Piece(std::array::from_fn(|_| std::sync::atomic::AtomicU64::new(0)));
        Self((0..len.div_ceil(size_of::<Piece>())).map(piece).collect())
    }
}

/// Bytes in a huge page.
const HUGE: usize = 2 << 20;

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        let range = Range { start: self.start, len: self.len };
        // Unmapping must not delay the thread that drops the mapping. If no thread can be started, it happens here.
        if self.len > QUICKLY_UNMAPPED {
            let unmap = std::thread::Builder::new().name("callgate-unmap".into()).spawn(move || drop(range));
            drop(unmap);
        }
    }
}

/// An address range with no pointers into it; unmapped when dropped.
struct Range {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range of the process, not of a thread.
unsafe impl Send for Range {}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: mapped by `Mapping::new`, whose drop created this: every holder of a pointer into the range also keeps the mapping alive.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Mappings up to this size are unmapped on the spot; unmapping gigabytes takes a while.
pub const QUICKLY_UNMAPPED: usize = 16 << 20;

/// Copies `len` bytes out of memory that another process may be writing.
///
/// The copy may be torn, but never changes afterwards. The empty `asm!` counts as a possible write to all memory, so the compiler can neither read
/// the source again later nor assume that source and copy are still equal.
///
/// # Safety
///
/// `source` must be valid for reads and `target` for writes of `len` bytes, and they must not overlap.
#[inline(always)]
pub unsafe fn copy_from_shared(source: *const u8, target: *mut u8, len: usize) {
    // SAFETY: the caller's duty.
    unsafe { ptr::copy_nonoverlapping(source, target, len) };
    // SAFETY: an empty instruction sequence; it only affects what the compiler may assume.
    #[cfg(not(miri))]
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) target, options(nostack, preserves_flags))
    };
}
