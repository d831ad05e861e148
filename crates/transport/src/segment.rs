//! Segments: shared memory objects and typed, bounds-checked places in them.
//!
//! Everything above this file handles shared memory through [`Placed`], [`Slots`], [`Span`] and [`Block`], which
//! keep the mapping alive and are checked against its length once, when they are made. Never forms a reference to plain
//! bytes that a peer can write: only to structures made of atomics.

use crate::backing::{Backing, SEGMENT, SealedMemfds};
use crate::layout::{
    CalleeLine, CallerLine, DeadlineEntry, Geometry, Header, HeldTable, LINE, LastWords, MAGIC, PAYLOAD_OFFSET,
    PROTOCOL, SlotLine, WorkerLine,
};
use callgate_os::cpu;
use callgate_os::mapping::{Mapping, Protection, copy_from_shared};
use callgate_os::sync::AtomicU64;
use callgate_os::sync::Ordering::Relaxed;
use callgate_os::sync::{will_read, will_write};
use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The memory that holds a place: a mapping, or the heap in tests. Dropped with the last place in it.
type MappingOwner = Arc<dyn Any + Send + Sync>;

/// Structures that may lie in shared memory: `repr(C)`, made of atomics only, and valid for every bit pattern.
///
/// # Safety
///
/// The type must meet all of these conditions.
pub unsafe trait Atomics: Send + Sync + 'static {}

// SAFETY: declared in `layout` as `repr(C)` structures of atomics.
unsafe impl Atomics for Header {}
// SAFETY: as above.
unsafe impl Atomics for WorkerLine {}
// SAFETY: as above.
unsafe impl Atomics for CallerLine {}
// SAFETY: as above.
unsafe impl Atomics for CalleeLine {}
// SAFETY: as above.
unsafe impl Atomics for HeldTable {}
// SAFETY: as above.
unsafe impl Atomics for DeadlineEntry {}
// SAFETY: as above.
unsafe impl Atomics for LastWords {}

/// A structure of atomics in shared memory.
pub struct Placed<T> {
    at: NonNull<T>,
    _owner: MappingOwner,
}

/// Lets one model hold both sides of a protocol.
#[cfg(all(any(test, feature = "testkit"), loom))]
impl<T> Clone for Placed<T> {
    fn clone(&self) -> Self {
        Self { at: self.at, _owner: self._owner.clone() }
    }
}

// SAFETY: like a `&T` that keeps its memory alive, and `T: Atomics` is `Sync`.
unsafe impl<T: Atomics> Send for Placed<T> {}
// SAFETY: as above.
unsafe impl<T: Atomics> Sync for Placed<T> {}

impl<T: Atomics> Placed<T> {
    /// The structure at `offset` of `mapping`.
    ///
    /// # Panics
    ///
    /// If it would not lie wholly inside the mapping, aligned.
    fn new(mapping: &Arc<Mapping>, offset: usize) -> Self {
        let at = checked_address(mapping, offset, size_of::<T>(), align_of::<T>()).cast();
        Self { at, _owner: mapping.clone() }
    }

    /// A structure on the heap, for models.
    #[cfg(all(any(test, feature = "testkit"), loom))]
    pub fn on_heap(value: T) -> Self {
        let value = Arc::new(value);
        Self { at: NonNull::from(&*value), _owner: value }
    }
}

impl<T: Atomics> Deref for Placed<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `at` was checked to be inside memory that `_owner` keeps alive, and every bit pattern is a valid `T`.
        unsafe { self.at.as_ref() }
    }
}

/// The slots of one ring.
#[cfg_attr(any(test, feature = "testkit"), derive(Clone))]
pub struct Slots {
    first: NonNull<SlotLine>,
    stride: usize,
    mask: u64,
    _owner: MappingOwner,
}

// SAFETY: hands out references to atomics and spans (raw pointers) in memory that `_owner` keeps alive.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    fn new(mapping: &Arc<Mapping>, offset: usize, geometry: &Geometry) -> Self {
        let (count, stride) = (geometry.slots as usize, geometry.stride());
        assert!(stride >= LINE);
        let first = checked_address(mapping, offset, count * stride, align_of::<SlotLine>()).cast();
        Self { first, stride, mask: count as u64 - 1, _owner: mapping.clone() }
    }

    /// One slot in private memory with room for `capacity` bytes, as slots of a segment have.
    pub fn private(capacity: usize) -> Self {
        let lines = (capacity + PAYLOAD_OFFSET).div_ceil(LINE).max(1);
        Self::in_private(lines, lines * LINE, 0)
    }

    /// `count` slots of one line each on the heap, for tests and models. `count` must be a power of two.
    #[cfg(any(test, feature = "testkit"))]
    pub fn on_heap(count: usize) -> Self {
        assert!(count.is_power_of_two());
        Self::in_private(count, size_of::<SlotLine>(), count as u64 - 1)
    }

    /// Slots on the heap, which have `lines` lines in all.
    fn in_private(lines: usize, stride: usize, mask: u64) -> Self {
        let line = |_| SlotLine {
            commit: AtomicU64::new(0),
            call: AtomicU64::new(0),
            inline: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        let lines: Arc<[SlotLine]> = (0..lines).map(line).collect();
        // From the whole slice: a pointer made from a reference to the first line could not reach the others.
        let first = NonNull::from(&*lines).cast();
        Self { first, stride, mask, _owner: Arc::new(lines) }
    }

    /// The number of slots in the ring.
    pub fn count(&self) -> u64 {
        self.mask + 1
    }

    /// Bytes of payload that a slot holds.
    pub fn capacity(&self) -> usize {
        self.stride - PAYLOAD_OFFSET
    }

    #[inline(always)]
    fn at(&self, position: u64) -> NonNull<SlotLine> {
        let offset = (position & self.mask) as usize * self.stride;
        // SAFETY: the index is masked to the count of slots, all of which `new` found to lie inside the memory.
        unsafe { self.first.byte_add(offset) }
    }

    /// The first line of the slot at `position`.
    #[inline(always)]
    pub fn line(&self, position: u64) -> &SlotLine {
        // SAFETY: inside memory that `_owner` keeps alive; every bit pattern is a valid `SlotLine`.
        unsafe { self.at(position).as_ref() }
    }

    /// Has the processor get the second and the third line of the slot at `position`, to read them. Not for slots of one line.
    #[inline(always)]
    pub(crate) fn fetch_behind(&self, position: u64) {
        let line = self.at(position).cast::<u8>().as_ptr();
        cpu::fetch_to_read(line.wrapping_add(LINE));
        cpu::fetch_to_read(line.wrapping_add(2 * LINE));
    }

    /// The payload area of the slot at `position`.
    #[inline(always)]
    pub fn payload(&self, position: u64) -> Span<'_> {
        // SAFETY: the payload begins inside the slot's first line.
        let start = unsafe { self.at(position).cast::<u8>().byte_add(PAYLOAD_OFFSET) };
        Span { start, len: self.capacity(), memory: PhantomData }
    }
}

/// The deadlines of the requests of one lane.
#[cfg_attr(any(test, feature = "testkit"), derive(Clone))]
pub struct Deadlines {
    first: NonNull<DeadlineEntry>,
    mask: u64,
    _owner: MappingOwner,
}

// SAFETY: hands out nothing; its atomics lie in memory that `_owner` keeps alive.
unsafe impl Send for Deadlines {}
// SAFETY: as above.
unsafe impl Sync for Deadlines {}

impl Deadlines {
    fn new(mapping: &Arc<Mapping>, offset: usize, geometry: &Geometry) -> Self {
        let (count, entry) = (geometry.slots as usize, size_of::<DeadlineEntry>());
        let first = checked_address(mapping, offset, count * entry, align_of::<DeadlineEntry>()).cast();
        Self { first, mask: count as u64 - 1, _owner: mapping.clone() }
    }

    /// As many deadlines on the heap, for tests and models.
    #[cfg(any(test, feature = "testkit"))]
    pub fn on_heap(count: usize) -> Self {
        assert!(count.is_power_of_two());
        let entry = || DeadlineEntry { of: AtomicU64::new(0), nanos: AtomicU64::new(0) };
        let entries: Arc<[DeadlineEntry]> = (0..count).map(|_| entry()).collect();
        Self { first: NonNull::from(&*entries).cast(), mask: count as u64 - 1, _owner: Arc::new(entries) }
    }

    fn entry(&self, position: u64) -> &DeadlineEntry {
        // SAFETY: the index is masked to the count of entries, all of which `new` found to lie inside the memory.
        let entry = unsafe { self.first.add((position & self.mask) as usize) };
        // SAFETY: inside memory that `_owner` keeps alive; every bit pattern is a valid `DeadlineEntry`.
        unsafe { entry.as_ref() }
    }

    /// Notes the deadline of the request that will be published at `position`, in nanoseconds of CLOCK_MONOTONIC.
    pub fn set(&self, position: u64, nanos: u64) {
        let entry = self.entry(position);
        // Relaxed: published by the request's commit word.
        entry.nanos.store(nanos, Relaxed);
        entry.of.store(position.wrapping_add(1), Relaxed);
    }

    /// The deadline of the request at `position`, which has been taken and not answered; `None` if it has none.
    pub fn get(&self, position: u64) -> Option<u64> {
        let entry = self.entry(position);
        // Relaxed: as in `set`.
        (entry.of.load(Relaxed) == position.wrapping_add(1)).then(|| entry.nanos.load(Relaxed))
    }
}

/// A range of bytes that a peer may be writing. Only ever copied to and from, never referred to.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a ()>,
}

impl<'a> Span<'a> {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self { start: NonNull::<u128>::dangling().cast(), len: 0, memory: PhantomData }
    }

    /// Private bytes as if they were shared.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { start: NonNull::from(bytes).cast(), len: bytes.len(), memory: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The first `len` bytes.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    #[inline(always)]
    pub fn first(self, len: usize) -> Span<'a> {
        assert!(len <= self.len, "a span of {} bytes has no first {len}", self.len);
        Span { len, ..self }
    }

    /// The bytes after the first `len`.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn after(self, len: usize) -> Span<'a> {
        assert!(len <= self.len, "a span of {} bytes has nothing after {len}", self.len);
        // SAFETY: within the span, as just checked.
        let start = unsafe { self.start.add(len) };
        Span { start, len: self.len - len, ..self }
    }

    /// Copies all bytes to `target`, which must be valid for `self.len()` bytes of private memory.
    ///
    /// # Safety
    ///
    /// `target` must be valid for writes of `self.len()` bytes and not overlap the span.
    #[inline(always)]
    pub(crate) unsafe fn copy_to(self, target: *mut u8) {
        will_read(self.start, self.len);
        // SAFETY: the span lies inside living memory; the rest is the caller's duty.
        unsafe { copy_from_shared(self.start.as_ptr(), target, self.len) }
    }

    /// Copies the bytes into the beginning of `target`, another span at least as long.
    ///
    /// # Panics
    ///
    /// If `target` is shorter.
    ///
    /// # Safety
    ///
    /// `target` must be memory that this process may write to, and of which no reference to plain bytes exists.
    pub(crate) unsafe fn copy_into(self, target: Span<'_>) {
        assert!(self.len <= target.len);
        will_read(self.start, self.len);
        will_write(target.start, self.len);
        // SAFETY: both spans lie inside living memory and were checked to be long enough; that the target may be written is the caller's
        // duty. `copy` allows an overlap.
        unsafe { ptr::copy(self.start.as_ptr(), target.start.as_ptr(), self.len) }
    }

    /// [`copy_into`](Self::copy_into) for tests, whose targets are slots and blocks of their own.
    #[cfg(any(test, feature = "testkit"))]
    pub fn copy_into_for_test(self, target: Span<'_>) {
        // SAFETY: slots and blocks are writable, and tests refer to them by spans alone.
        unsafe { self.copy_into(target) }
    }

    /// The bytes themselves.
    ///
    /// # Safety
    ///
    /// Nobody may write them during `'b`, which must not outlast the memory: true in a child, which trusts its parent, for a
    /// request from its arrival until its reply is published.
    #[inline(always)]
    pub unsafe fn as_bytes<'b>(self) -> &'b [u8] {
        will_read(self.start, self.len);
        // SAFETY: inside living memory; that nobody writes it is the caller's duty.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Span<'_> {
    /// The bytes themselves, to be written.
    ///
    /// # Safety
    ///
    /// They must be in writable memory, and nobody else may read or write them during `'b`, which must not outlast the memory.
    pub(crate) unsafe fn as_mut_bytes<'b>(self) -> &'b mut [u8] {
        will_write(self.start, self.len);
        // SAFETY: inside living memory; the rest is the caller's duty.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// The segment of a bridge: header, doorbells, lanes.
#[derive(Debug)]
pub struct Segment {
    mapping: Arc<Mapping>,
    geometry: Geometry,
    is_unordered: bool,
}

impl Segment {
    /// Creates, sizes, maps and initialises a segment. The descriptor, if there is one, is for the child.
    pub fn create(geometry: Geometry, backing: &dyn Backing) -> io::Result<(Self, Option<OwnedFd>)> {
        assert!(geometry.is_valid(), "{geometry:?} is not a valid geometry");
        let (mapping, object) = backing.create(SEGMENT, geometry.segment_len(), Protection::ReadWrite)?;
        let segment = Self { mapping: Arc::new(mapping), geometry, is_unordered: false };
        let header = segment.header();
        header.magic.store(MAGIC, Relaxed);
        header.protocol.store(PROTOCOL, Relaxed);
        header.lanes.store(geometry.lanes, Relaxed);
        header.slots.store(geometry.slots, Relaxed);
        header.slot_lines.store(geometry.slot_lines, Relaxed);
        header.workers.store(geometry.workers, Relaxed);
        Ok((segment, object))
    }

    /// Maps the segment that a parent created, and checks its header against its length.
    pub fn attach(backing: &dyn Backing, descriptors: &mut dyn Iterator<Item = OwnedFd>) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mapping = Arc::new(backing.attach(SEGMENT, descriptors, Protection::ReadWrite)?);
        let len = mapping.len();
        if len < size_of::<Header>() {
            return Err(wrong("a segment too short for its header"));
        }
        let header = Placed::<Header>::new(&mapping, 0);
        let geometry = Geometry {
            lanes: header.lanes.load(Relaxed),
            slots: header.slots.load(Relaxed),
            slot_lines: header.slot_lines.load(Relaxed),
            workers: header.workers.load(Relaxed),
        };
        if header.magic.load(Relaxed) != MAGIC || header.protocol.load(Relaxed) != PROTOCOL {
            return Err(wrong("a segment of another kind or version"));
        }
        if !geometry.is_valid() || geometry.segment_len() != len {
            return Err(wrong("a segment whose header does not fit its length"));
        }
        let is_unordered = header.unordered.load(Relaxed) != 0;
        Ok(Self { mapping, geometry, is_unordered })
    }

    /// Says, before the other side has it, that calls are answered as they end.
    pub fn set_unordered(&mut self) {
        self.is_unordered = true;
        self.header().unordered.store(1, Relaxed);
    }

    /// Whether calls are answered as they end. Does not read the segment.
    pub fn is_unordered(&self) -> bool {
        self.is_unordered
    }

    /// Maps a segment without reading its header. `of` gives the geometry for its length.
    pub fn attach_unseen(object: OwnedFd, of: impl Fn(usize) -> Option<Geometry>) -> io::Result<Self> {
        let mapping = SealedMemfds.attach(SEGMENT, &mut std::iter::once(object), Protection::ReadWrite)?;
        let geometry = of(mapping.len()).ok_or(io::ErrorKind::InvalidData)?;
        assert!(geometry.is_valid() && geometry.segment_len() == mapping.len());
        Ok(Self { mapping: Arc::new(mapping), geometry, is_unordered: false })
    }

    /// Whether it is sealed against punching holes.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    pub fn is_sealed_for_test(&self) -> bool {
        self.mapping.remove_for_test(4096).is_err()
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn header(&self) -> Placed<Header> {
        Placed::new(&self.mapping, 0)
    }

    pub fn worker_line(&self, worker: u32) -> Placed<WorkerLine> {
        Placed::new(&self.mapping, self.geometry.worker_line(worker))
    }

    pub fn caller_line(&self, lane: u32) -> Placed<CallerLine> {
        Placed::new(&self.mapping, self.geometry.caller_line(lane))
    }

    pub fn callee_line(&self, lane: u32) -> Placed<CalleeLine> {
        Placed::new(&self.mapping, self.geometry.callee_line(lane))
    }

    /// The parent's blocks that the child claims to hold.
    pub fn held_by_child(&self) -> Placed<HeldTable> {
        Placed::new(&self.mapping, self.geometry.held_by_child())
    }

    /// The child's blocks that the parent claims to hold.
    pub fn held_by_parent(&self) -> Placed<HeldTable> {
        Placed::new(&self.mapping, self.geometry.held_by_parent())
    }

    /// The child's last message, written as it ends.
    pub fn last_words(&self) -> Placed<LastWords> {
        Placed::new(&self.mapping, self.geometry.last_words())
    }

    /// The deadlines of the requests of a lane.
    pub fn deadlines(&self, lane: u32) -> Deadlines {
        Deadlines::new(&self.mapping, self.geometry.deadlines(lane), &self.geometry)
    }

    pub fn requests(&self, lane: u32) -> Slots {
        Slots::new(&self.mapping, self.geometry.requests(lane), &self.geometry)
    }

    pub fn replies(&self, lane: u32) -> Slots {
        Slots::new(&self.mapping, self.geometry.replies(lane), &self.geometry)
    }
}

/// A piece of a memory object that holds payloads too large for a slot.
#[derive(Clone, Debug)]
pub struct Block {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl Block {
    /// The `len` bytes at `offset` of `mapping`; `None` if they do not lie wholly inside, or not on a line's boundary.
    pub fn new(mapping: &Arc<Mapping>, offset: u64, len: u64) -> Option<Self> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        let inside = offset.checked_add(len).is_some_and(|end| end <= mapping.len());
        (inside && offset.is_multiple_of(LINE)).then(|| Self { mapping: mapping.clone(), offset, len })
    }

    /// See [`Mapping::populate`]. The block must be all of its mapping.
    pub fn populate(&self, from: usize, len: usize) {
        self.mapping.populate(from, len);
    }

    /// Whether this process may write to it.
    pub fn is_writable(&self) -> bool {
        self.mapping.is_writable()
    }

    pub fn span(&self) -> Span<'_> {
        // SAFETY: `new` checked that offset and length lie inside the mapping, which lives as long as this block.
        let start = unsafe { self.mapping.start().byte_add(self.offset) };
        Span { start, len: self.len, memory: PhantomData }
    }
}

/// The address of `len` bytes at `offset`.
///
/// # Panics
///
/// If they do not lie wholly inside the mapping, or are not aligned: an error in [`Geometry`], never something a peer did.
fn checked_address(mapping: &Mapping, offset: usize, len: usize, align: usize) -> NonNull<u8> {
    assert!(offset.checked_add(len).is_some_and(|end| end <= mapping.len()), "outside the segment");
    // SAFETY: inside the mapping, as just checked.
    let address = unsafe { mapping.start().byte_add(offset) };
    assert!(address.addr().get().is_multiple_of(align), "not aligned");
    address
}

/// Planted errors that prove the memory checkers work: `.ci/memcheck` and `.ci/sanitize` run each and require that it is caught.
#[cfg(all(test, not(loom)))]
mod planted {
    use super::*;
    use callgate_os::mapping::HeapMemory;

    const LEN: usize = 256;

    fn block() -> Block {
        let mapping = Arc::new(Mapping::on_heap(&HeapMemory::new(LEN), Protection::ReadWrite));
        Block::new(&mapping, 0, LEN as u64).unwrap()
    }

    #[test]
    #[ignore = "an error, to be caught"]
    fn planted_copy_beyond_the_end() {
        let (block, target) = (block(), block());
        let longer = |block: &Block| Span { len: LEN + 8, start: block.span().start, memory: PhantomData };
        longer(&block).copy_into_for_test(longer(&target));
    }

    #[test]
    #[ignore = "an error, to be caught"]
    fn planted_copy_of_what_is_gone() {
        let start = block().span().start;
        Span { start, len: LEN, memory: PhantomData }.copy_into_for_test(block().span());
    }

    #[test]
    #[ignore = "an error, to be caught"]
    fn planted_race_of_two_threads() {
        let block = block();
        std::thread::scope(|scope| {
            for fill in [1u8, 2] {
                let block = &block;
                scope.spawn(move || (0..1000).for_each(|_| Span::of(&[fill; LEN]).copy_into_for_test(block.span())));
            }
        });
    }
}
