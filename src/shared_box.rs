//! Boxes whose contents lie in a bridge's shared memory, so that passing one moves no byte of them.
//!
//! Layer 2. Contents are plain data: whatever bytes lie there are a value, and sending them tells the peer nothing but them. One of
//! the few files above `segment` with `unsafe` in it: this is where blocks become slices. The rules:
//!
//! - A block of this side's own arena is referred to if the peer can merely read it (the memory of a parent's requests and boxes), or
//!   is trusted to write there only while the block is its own.
//! - A block of the peer's arena is referred to only if the peer is trusted not to write there meanwhile (a child's parent, and a
//!   child that its parent vouches for). Of all others the contents are copied.

use crate::arena::Allocation;
use crate::commit::BlockRef;
use crate::decoder::{Decoder, Decoding};
use crate::doorbell::Deadline;
use crate::encode::Encoder;
use crate::error::NoMemory;
use crate::loans::{Attachments, BoxRef, LoanId, Returning};
use crate::memory_pool::{AllocContext, PoolHandle};
use crate::reading::{BYTES_A_LOOK, in_time};
use crate::reading::{has_memory, last_refusal};
use crate::segment::{Block, Span};
use bytemuck::Pod;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::rend::u64_le;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Place, Portable, Serialize, munge::munge};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The alignment of every box's contents, in bytes.
const ALIGN: usize = 64;

/// What an untrusted peer's box of fewer bytes holds is copied into private memory.
const SMALL: usize = 4 << 10;

// ---- memory --------------------------------------------------------------------------------------------------------

/// What a box consists of, whatever its type: so many bytes in some place.
struct Bytes {
    store: Store,
    len: usize,
}

/// Where the bytes are.
enum Store {
    /// In this process alone. Copied when they are sent.
    Private(AlignedVec<ALIGN>),
    /// In a block of this side's arena.
    OwnBlock(OwnBlock),
    /// In a block of the peer's arena.
    Peer(BorrowedBlock),
}

struct OwnBlock {
    block: Block,
    state: Mutex<BoxState>,
    pool: Arc<dyn PoolHandle>,
}

/// What became of the block.
enum BoxState {
    /// It is here alone.
    Here(Allocation),
    /// It was sent, by a value that may be gone by now or not.
    Lent(LoanId),
    /// Neither, for the moment of a change.
    Gone,
}

/// A block of the peer's arena that this side keeps beyond the frame that lent it.
pub(crate) struct BorrowedBlock {
    block: Block,
    loan_id: LoanId,
    pool: Arc<dyn PoolHandle>,
    /// Whether a frame has ever named it: one look instead of a lock.
    was_returned: AtomicBool,
}

/// The memory that this process has as a child: its bridge's.
static HERE: OnceLock<Arc<dyn PoolHandle>> = OnceLock::new();

/// Makes `home` the memory of boxes in this process, which is a child.
pub(crate) fn set_pool(pool: Arc<dyn PoolHandle>) {
    // A process is the child of one parent.
    let _ = HERE.set(pool);
}

impl OwnBlock {
    fn new(allocation: Allocation, pool: &Arc<dyn PoolHandle>) -> Self {
        Self { block: allocation.block(), state: Mutex::new(BoxState::Here(allocation)), pool: pool.clone() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BoxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this side alone has the block, now that somebody has the box for himself.
    fn is_alone(&mut self) -> bool {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let BoxState::Lent(loan_id) = *state
            && let Some(allocation) = self.pool.on(|pool, source| pool.reclaim(loan_id, source))
        {
            *state = BoxState::Here(allocation);
        }
        matches!(state, BoxState::Here(_))
    }
}

impl Drop for OwnBlock {
    fn drop(&mut self) {
        if self.pool.is_in_fork() {
            return;
        }
        let state = std::mem::replace(&mut *self.state(), BoxState::Gone);
        match state {
            BoxState::Here(allocation) => self.pool.on(|pool, source| pool.free(allocation, source)),
            BoxState::Lent(loan_id) => self.pool.on(|pool, source| pool.disown(loan_id, source)),
            BoxState::Gone => {}
        }
    }
}

impl BorrowedBlock {
    /// `None` if it is kept already.
    pub(crate) fn take(block: Block, loan_id: LoanId, pool: &Arc<dyn PoolHandle>) -> Option<Self> {
        let is_new = pool.on(|pool, _| pool.holder.take(loan_id));
        is_new.then(|| Self { block, loan_id, pool: pool.clone(), was_returned: AtomicBool::new(false) })
    }

    pub(crate) fn span(&self) -> Span<'_> {
        self.block.span()
    }

    /// Whether the peer may yet look at it, for a frame that names it.
    fn is_being_returned(&self) -> bool {
        self.was_returned.load(Relaxed) && self.pool.on(|pool, _| pool.holder.is_being_returned(self.loan_id))
    }
}

impl Drop for BorrowedBlock {
    fn drop(&mut self) {
        if !self.pool.is_in_fork() {
            self.pool.on(|pool, _| pool.release(self.loan_id));
        }
    }
}

impl Bytes {
    /// `len` bytes of `home`'s memory, which hold what they held before.
    fn stale(pool: &Arc<dyn PoolHandle>, len: usize, deadline: Deadline) -> Result<Self, NoMemory> {
        Self::stale_until(pool, len, deadline, Deadline::NEVER)
    }

    /// The same, of which nobody wants anything after a deadline.
    fn stale_until(
        pool: &Arc<dyn PoolHandle>,
        len: usize,
        deadline: Deadline,
        until: Deadline,
    ) -> Result<Self, NoMemory> {
        if len == 0 || pool.is_in_fork() {
            return Ok(Self::private(len));
        }
        let allocation = pool.allocate(len as u64, deadline, until)?;
        Ok(Self { store: Store::OwnBlock(OwnBlock::new(allocation, pool)), len })
    }

    /// The same, of `bridge`'s memory, for which it may wait as long as for a call.
    fn stale_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        let place::PoolOf(pool, timeout) = bridge.pool();
        let deadline = Deadline::after(timeout);
        let new = Self::stale(&pool, len, Deadline::now());
        if !matches!(new, Err(NoMemory::Exhausted { .. })) {
            return new;
        }
        bridge.take_late_replies();
        Self::stale(&pool, len, deadline)
    }

    /// `len` zeros in private memory.
    fn private(len: usize) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.resize(len, 0);
        Self { store: Store::Private(bytes), len }
    }

    /// `len` bytes wherever boxes of this process lie.
    fn stale_here(len: usize) -> Result<Self, NoMemory> {
        match HERE.get() {
            Some(pool) => Self::stale(pool, len, Deadline::NEVER),
            None => Ok(Self::private(len)),
        }
    }

    /// A copy of the first `len` bytes of a span that a peer may be writing; in shared memory if there is any.
    ///
    /// # Errors
    ///
    /// If the deadline passes meanwhile.
    fn copy_of(span: Span<'_>, len: usize, pool: &Arc<dyn PoolHandle>, until: Deadline) -> Result<Self, Failure> {
        let mut copy = match len {
            // Not worth a block.
            ..SMALL => Self::private(len),
            _ => Self::stale_until(pool, len, Deadline::now(), until)
                .or_else(|_| has_memory(len).map(|()| Self::private(len)))?,
        };
        let target = copy.as_mut_slice();
        for from in (0..len).step_by(BYTES_A_LOOK) {
            let piece = span.first(len.min(from + BYTES_A_LOOK)).after(from);
            // SAFETY: as long as the piece, and nobody else's: a new block, or private memory.
            unsafe { piece.copy_to(target[from..].as_mut_ptr()) };
            in_time(until)?;
        }
        Ok(copy)
    }

    fn as_slice(&self) -> &[u8] {
        let block = match &self.store {
            Store::Private(bytes) => return &bytes[..self.len],
            Store::OwnBlock(own) => &own.block,
            Store::Peer(peer) => &peer.block,
        };
        // SAFETY: see the rules at the top of the file. An own block that is lent is only read by a peer that is not trusted, and one
        // that is has promised; who writes here has the box for himself.
        unsafe { block.span().first(self.len).as_bytes() }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        if !self.is_ours_to_write() {
            self.detach_slow();
        }
        let block = match &mut self.store {
            Store::Private(bytes) => return &mut bytes[..self.len],
            Store::OwnBlock(own) => &own.block,
            Store::Peer(peer) => &peer.block,
        };
        // SAFETY: `is_ours_to_write`, and the box is borrowed for as long.
        unsafe { block.span().first(self.len).as_mut_bytes() }
    }

    /// Whether nobody else looks at the bytes, or may.
    fn is_ours_to_write(&mut self) -> bool {
        match &mut self.store {
            Store::Private(_) => true,
            Store::OwnBlock(own) => !own.pool.is_in_fork() && own.is_alone(),
            Store::Peer(peer) => !peer.pool.is_in_fork() && peer.block.is_writable() && !peer.is_being_returned(),
        }
    }

    /// Moves to a copy.
    #[cold]
    fn detach_slow(&mut self) {
        let pool = match &self.store {
            Store::Private(_) => return,
            Store::OwnBlock(OwnBlock { pool, .. }) | Store::Peer(BorrowedBlock { pool, .. }) => pool.clone(),
        };
        let mut copy = Self::stale(&pool, self.len, Deadline::now()).unwrap_or_else(|_| Self::private(self.len));
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        *self = copy;
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn is_shared(&self) -> bool {
        !matches!(self.store, Store::Private(_))
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    /// Has the frame that is being written, which carries `carried`, name these bytes: a block of their own if they are at home where the frame
    /// goes and are not with another frame, else a copy of them.
    fn box_ref(&self, alloc: &AllocContext<'_>, attachments: &mut Attachments) -> Result<BoxRef, NoMemory> {
        let box_ref = match &self.store {
            Store::OwnBlock(own) if is_same(&own.pool, alloc.pool) => own.lend(self.len, attachments)?,
            Store::Peer(peer) if is_same(&peer.pool, alloc.pool) => peer.return_with(self.len, attachments),
            _ => None,
        };
        match box_ref {
            Some(box_ref) => Ok(box_ref),
            None => self.box_ref_of_copy(alloc, attachments),
        }
    }

    fn box_ref_of_copy(&self, alloc: &AllocContext<'_>, attachments: &mut Attachments) -> Result<BoxRef, NoMemory> {
        let len = self.len as u64;
        let allocation = alloc.find(&mut |pool, source| pool.allocate(len, source))?;
        let place = allocation.reference(self.len);
        // SAFETY: a new block, that nobody else knows of, of at least `len` bytes.
        let target = unsafe { allocation.span().first(self.len).as_mut_bytes() };
        target.copy_from_slice(self.as_slice());
        alloc.pool.on(|pool, source| match pool.lend(allocation, len, false, &mut attachments.lent, source) {
            Ok(loan_id) => Ok(BoxRef { place, loan_id }),
            Err(allocation) => {
                pool.free(allocation, source);
                Err(no_loan_id())
            }
        })
    }
}

impl OwnBlock {
    /// `None` if it is lent already.
    fn lend(&self, len: usize, attachments: &mut Attachments) -> Result<Option<BoxRef>, NoMemory> {
        let mut state = self.state();
        let allocation = match std::mem::replace(&mut *state, BoxState::Gone) {
            BoxState::Here(allocation) => allocation,
            // By a frame that has been dealt with, perhaps.
            BoxState::Lent(loan_id) => match self.pool.on(|pool, source| pool.reclaim(loan_id, source)) {
                Some(allocation) => allocation,
                None => {
                    *state = BoxState::Lent(loan_id);
                    return Ok(None);
                }
            },
            BoxState::Gone => return Ok(None),
        };
        let place = allocation.reference(len);
        let lend = |pool: &mut crate::memory_pool::MemoryPool, source: &mut dyn crate::arena::Source| {
            pool.lend(allocation, len as u64, true, &mut attachments.lent, source)
        };
        match self.pool.on(lend) {
            Ok(loan_id) => {
                *state = BoxState::Lent(loan_id);
                Ok(Some(BoxRef { place, loan_id }))
            }
            Err(allocation) => {
                *state = BoxState::Here(allocation);
                Err(no_loan_id())
            }
        }
    }
}

impl BorrowedBlock {
    /// `None` if another place in the frame brings it home already.
    fn return_with(&self, len: usize, attachments: &mut Attachments) -> Option<BoxRef> {
        self.was_returned.store(true, Relaxed);
        let is_first = self.pool.on(|pool, _| pool.holder.return_with(self.loan_id, &mut attachments.returns));
        let place = BlockRef { segment: HOMEWARD, offset: 0, len: len as u64, loan_id: 0 };
        is_first.then_some(BoxRef { place, loan_id: self.loan_id })
    }
}

fn no_loan_id() -> NoMemory {
    NoMemory::Failed { why: "the bridge has lent as many blocks of memory as it can".into() }
}

fn is_same(one: &Arc<dyn PoolHandle>, other: &dyn PoolHandle) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), other)
}

/// Stands for the segment of a block that is the receiver's own.
const HOMEWARD: u64 = u64::MAX;

/// A box in a frame.
///
/// It has no contents to be looked at: make a [`SharedBox`] of it by taking the value, not its archive.
#[derive(Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedSharedBox<T: Contents + ?Sized> {
    /// The contents themselves, where there is no memory to lend.
    inline: ArchivedBox<[u8]>,
    segment: u64_le,
    offset: u64_le,
    len: u64_le,
    /// 0 = the contents are inline.
    loan_id: u64_le,
    /// A type for each type of box, so that the compiler can tell apart what is asked of the two.
    contents: PhantomData<T>,
}

/// Where a box's contents are, between serialising and resolving it.
pub struct SharedBoxResolver {
    inline: BoxResolver,
    inline_len: usize,
    box_ref: Option<BoxRef>,
}

impl<T: Contents + ?Sized> ArchivedSharedBox<T> {
    /// The bytes, as one who receives the frame has them from now on.
    fn open(&self, pool: &Arc<dyn PoolHandle>, decoder: &mut Decoder<'_>) -> Result<Bytes, Failure> {
        let len = usize::try_from(self.len.to_native()).map_err(|_| Failure)?;
        let loan_id = LoanId::checked(self.loan_id.to_native()).ok_or(Failure)?;
        if self.segment == HOMEWARD {
            return Self::open_returned(loan_id, len, pool, decoder);
        }
        let (segment, offset) = (self.segment.into(), self.offset.into());
        let place = BlockRef { segment, offset, len: len as u64, loan_id: 0 };
        let block = pool.peer_block(place).ok_or(Failure)?;
        if !pool.trusts_peer() {
            decoder.may_copy(len as u64)?;
            return Bytes::copy_of(block.span(), len, pool, decoder.until());
        }
        let kept = BorrowedBlock::take(block, loan_id, pool).ok_or(Failure)?;
        Ok(Bytes { store: Store::Peer(kept), len })
    }

    fn open_returned(
        loan_id: LoanId,
        len: usize,
        pool: &Arc<dyn PoolHandle>,
        decoder: &mut Decoder<'_>,
    ) -> Result<Bytes, Failure> {
        match pool.on(|pool, _| pool.take_returned(loan_id)).ok_or(Failure)? {
            Returning::Whole(allocation, lent) if len as u64 <= lent => {
                Ok(Bytes { store: Store::OwnBlock(OwnBlock::new(allocation, pool)), len })
            }
            Returning::Whole(allocation, _) => {
                pool.on(|pool, source| pool.free(allocation, source));
                Err(Failure)
            }
            Returning::Shared(block, lent) => {
                let is_within = (len as u64 <= lent).then_some(()).ok_or(Failure);
                let may_copy = is_within.and_then(|()| decoder.may_copy(len as u64));
                let copy = may_copy.and_then(|()| Bytes::copy_of(block.span(), len, pool, decoder.until()));
                pool.on(|pool, source| pool.copied(loan_id, source));
                copy
            }
        }
    }

    fn bytes(&self, decoder: &mut Decoder<'_>) -> Result<Bytes, Failure> {
        if self.loan_id == 0 {
            let mut bytes = Bytes::private(self.inline.len());
            bytes.as_mut_slice().copy_from_slice(&self.inline);
            return Ok(bytes);
        }
        // One that came with another frame may name what is somebody else's by now.
        if !decoder.has(self) {
            return Err(Failure);
        }
        let pool = decoder.pool().or(HERE.get()).ok_or(Failure)?.clone();
        self.open(&pool, decoder)
    }
}

// ---- boxes ---------------------------------------------------------------------------------------------------------

/// What a [`SharedBox`] may hold: `T` or `[T]`, of plain data.
///
/// Plain data is what implements [`Pod`]: numbers, arrays of them, and structs that derive it (`repr(C)`, without padding).
#[diagnostic::on_unimplemented(
    message = "a `SharedBox` cannot hold `{Self}`",
    label = "not plain data, nor a slice of it",
    note = "plain data are numbers, arrays of them, and structs of these that derive `bytemuck::Pod` and `Zeroable`, with `repr(C)` and no padding",
    note = "no `bool` or `char`, and nothing with a `String`, a `Vec` or a reference in it: such types cross a bridge as values, encoded"
)]
pub trait Contents: sealed::Sealed {
    #[doc(hidden)]
    const SIZE_AND_ALIGN_ARE_FINE: ();

    /// The fewest bytes that are such contents.
    #[doc(hidden)]
    const LEAST: usize;

    #[doc(hidden)]
    fn of(bytes: &[u8]) -> Option<&Self>;

    #[doc(hidden)]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut Self>;
}

mod sealed {
    /// Only `T` and `[T]`.
    pub trait Sealed {}
    impl<T: bytemuck::Pod> Sealed for T {}
    impl<T: bytemuck::Pod> Sealed for [T] {}
}

const fn check<T>() {
    assert!(align_of::<T>() <= ALIGN, "the contents of a SharedBox are aligned to 64 bytes at most");
    assert!(size_of::<T>() > 0, "a SharedBox holds something");
}

#[diagnostic::do_not_recommend]
impl<T: Pod> Contents for T {
    const SIZE_AND_ALIGN_ARE_FINE: () = check::<T>();
    const LEAST: usize = size_of::<T>();

    #[inline]
    fn of(bytes: &[u8]) -> Option<&T> {
        bytemuck::try_from_bytes(bytes).ok()
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut T> {
        bytemuck::try_from_bytes_mut(bytes).ok()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Pod> Contents for [T] {
    const SIZE_AND_ALIGN_ARE_FINE: () = check::<T>();
    const LEAST: usize = 0;

    #[inline]
    fn of(bytes: &[u8]) -> Option<&[T]> {
        // No bytes at all may be anywhere.
        if bytes.is_empty() { Some(&[]) } else { bytemuck::try_cast_slice(bytes).ok() }
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut [T]> {
        if bytes.is_empty() { Some(&mut []) } else { bytemuck::try_cast_slice_mut(bytes).ok() }
    }
}

/// A box whose contents lie in a bridge's shared memory: passing it to a method, or returning it from one, moves the box and
/// no byte of what is in it, so that costs the same whatever its size.
///
/// It holds plain data ([`Pod`]): `SharedBox<[u8]>`, `SharedBox<[f32]>`, `SharedBox<Header>`. Make it with one of the functions ending in `_in`,
/// in the memory of the bridge that it is to pass; fill it in place; pass it by value, by itself or inside of other values.
/// In a child, the functions without `_in` make it in the memory of the child's bridge.
///
/// # Who may touch what
///
/// - A box passed by value is the child's. Passed by reference, it is lent for the call; if the child is still at it when the
///   caller writes to it (because the call timed out), the caller's box moves to a copy first.
/// - A child that is not trusted can only read its parent's memory. Where it writes to a box that came from there, the box moves
///   to a copy first; given back unchanged, the parent has the very memory again.
/// - What an untrusted child made arrives at the parent as a copy. All boxes in one reply together may have as many bytes as
///   [`Builder::max_payload`](crate::Builder::max_payload) says.
/// - Between a parent and a child that it vouches for ([`Builder::trust_child`](crate::Builder::trust_child)), boxes pass both ways without a copy.
///
/// Passed to another bridge than its own, a box is copied into that one's memory; so is one in private memory. A child can read all
/// memory of its bridge at any time: what it must not see does not belong into a box of that bridge. A box outlives its bridge. One
/// passed by value to a call that fails is gone.
///
/// # Examples
///
/// ```
/// use callgate::{SharedBox, bridge};
///
/// struct Adder;
///
/// #[bridge]
/// impl Adder {
///     pub fn new() -> Self { Adder }
///     pub fn sum(&self, numbers: SharedBox<[u64]>) -> u64 { numbers.iter().sum() }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let adder = Adder::bridge().start()?;
///     let mut numbers = SharedBox::<[u64]>::zeroed_in(&adder, 1_000_000)?;
///     numbers.iter_mut().enumerate().for_each(|(at, number)| *number = at as u64);
///     assert_eq!(adder.sum(numbers)?, 499_999_500_000);
///     Ok(())
/// }
/// ```
pub struct SharedBox<T: Contents + ?Sized> {
    bytes: Bytes,
    contents: PhantomData<Box<T>>,
}

/// Where boxes can be made: a bridge.
pub trait Memory: place::Sealed {}

pub(crate) mod place {
    use crate::memory_pool::PoolHandle;
    use std::sync::Arc;
    use std::time::Duration;

    /// Bridges only.
    pub trait Sealed {
        #[doc(hidden)]
        fn pool(&self) -> PoolOf;

        /// Takes back what calls that were given up have left behind.
        #[doc(hidden)]
        fn take_late_replies(&self);
    }

    /// A bridge's memory, and how long to wait for it.
    pub struct PoolOf(pub(crate) Arc<dyn PoolHandle>, pub(crate) Option<Duration>);
}

impl<T: Pod> SharedBox<[T]> {
    /// A box of `len` zeros in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// If there is none: `len` elements are more than [`Builder::max_payload`](crate::Builder::max_payload) bytes, or so much is in use that
    /// none came back within the bridge's timeout (or, if it has none, could not come back by itself).
    pub fn zeroed_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite_in(bridge, len)?;
        new.bytes.as_mut_slice().fill(0);
        Ok(new)
    }

    /// A box of `len` elements in the memory of `bridge`, to be overwritten: they hold whatever lay there before, which is
    /// something that passed this bridge, or zeros.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](Self::zeroed_in).
    pub fn for_overwrite_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        Bytes::stale_in(bridge, Self::size(len)?).map(Self::new_of)
    }

    /// A box with a copy of `contents` in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](Self::zeroed_in).
    pub fn copied_in(bridge: &impl Memory, contents: &[T]) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite_in(bridge, contents.len())?;
        new.copy_from_slice(contents);
        Ok(new)
    }

    /// A box of `len` zeros: in a child, in the memory of its bridge; elsewhere in private memory.
    ///
    /// # Errors
    ///
    /// In a child, if its half of the bridge's [memory](crate::Builder::memory) is in use.
    pub fn zeroed(len: usize) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite(len)?;
        new.bytes.as_mut_slice().fill(0);
        Ok(new)
    }

    /// As [`zeroed`](Self::zeroed), but the elements hold whatever lay there before.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn for_overwrite(len: usize) -> Result<Self, NoMemory> {
        Bytes::stale_here(Self::size(len)?).map(Self::new_of)
    }

    /// A box with a copy of `contents`, in the same place as [`zeroed`](Self::zeroed).
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn copied(contents: &[T]) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite(contents.len())?;
        new.copy_from_slice(contents);
        Ok(new)
    }

    /// Keeps the first `len` elements. Does nothing if there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len.saturating_mul(size_of::<T>()));
    }

    /// Bytes in `len` elements.
    fn size(len: usize) -> Result<usize, NoMemory> {
        let size = len.checked_mul(size_of::<T>()).filter(|&size| isize::try_from(size).is_ok());
        size.ok_or(NoMemory::TooLarge { len: u64::MAX, max: isize::MAX as u64 })
    }
}

impl SharedBox<[u8]> {
    /// A box of `len` bytes in `home`, or wherever boxes of this process lie, that hold whatever lay there before.
    pub(crate) fn for_overwrite_at(
        pool: Option<&Arc<dyn PoolHandle>>,
        len: usize,
        deadline: Deadline,
    ) -> Result<Self, NoMemory> {
        let bytes = match pool {
            Some(pool) => Bytes::stale(pool, len, deadline),
            None => Bytes::stale_here(len),
        };
        bytes.map(Self::new_of)
    }
}

impl<T: Pod> SharedBox<T> {
    /// A box with `value` in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](SharedBox::zeroed_in).
    pub fn new_in(bridge: &impl Memory, value: T) -> Result<Self, NoMemory> {
        Bytes::stale_in(bridge, size_of::<T>()).map(|bytes| Self::filled(bytes, value))
    }

    /// A box with `value`: in a child, in the memory of its bridge; elsewhere in private memory.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](SharedBox::zeroed).
    pub fn new(value: T) -> Result<Self, NoMemory> {
        Bytes::stale_here(size_of::<T>()).map(|bytes| Self::filled(bytes, value))
    }

    fn filled(bytes: Bytes, value: T) -> Self {
        let mut new = Self::new_of(bytes);
        *new = value;
        new
    }
}

impl<T: Contents + ?Sized> SharedBox<T> {
    fn new_of(bytes: Bytes) -> Self {
        let () = T::SIZE_AND_ALIGN_ARE_FINE;
        Self { bytes, contents: PhantomData }
    }

    /// Whether the contents lie in a bridge's memory; otherwise sending the box copies them.
    pub fn is_shared(&self) -> bool {
        self.bytes.is_shared()
    }
}

impl<T: Contents + ?Sized> Deref for SharedBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        T::of(self.bytes.as_slice()).unwrap_or_else(|| unreachable!("length and alignment were checked"))
    }
}

impl<T: Contents + ?Sized> DerefMut for SharedBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        T::of_mut(self.bytes.as_mut_slice()).unwrap_or_else(|| unreachable!("length and alignment were checked"))
    }
}

impl<T: Contents + ?Sized> AsRef<T> for SharedBox<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Contents + ?Sized> AsMut<T> for SharedBox<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: Contents + fmt::Debug + ?Sized> fmt::Debug for SharedBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Contents + PartialEq + ?Sized> PartialEq for SharedBox<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Contents + Eq + ?Sized> Eq for SharedBox<T> {}

// ---- as part of a frame --------------------------------------------------------------------------------------------

impl<T: Contents + ?Sized> Archive for SharedBox<T> {
    type Archived = ArchivedSharedBox<T>;
    type Resolver = SharedBoxResolver;

    fn resolve(&self, resolver: SharedBoxResolver, out: Place<ArchivedSharedBox<T>>) {
        let SharedBoxResolver { inline: resolver, inline_len, box_ref } = resolver;
        let (place, loan_id) = match box_ref {
            Some(BoxRef { place, loan_id }) => (place, loan_id.to_word()),
            None => (BlockRef { segment: 0, offset: 0, len: 0, loan_id: 0 }, 0),
        };
        munge!(let ArchivedSharedBox { inline, segment, offset, len, loan_id: loan_id_out, contents: _ } = out);
        ArchivedBox::resolve_from_ref(&self.bytes.as_slice()[..inline_len], resolver, inline);
        segment.write(place.segment.into());
        offset.write(place.offset.into());
        len.write(place.len.into());
        loan_id_out.write(loan_id.into());
    }
}

impl<'e, T: Contents + ?Sized> Serialize<Encoder<'e>> for SharedBox<T> {
    fn serialize(&self, encoder: &mut Encoder<'e>) -> Result<SharedBoxResolver, Failure> {
        let bytes = &self.bytes;
        let box_ref = match bytes.len {
            0 => None,
            _ => encoder.writer.send_with(&mut |alloc, attachments| bytes.box_ref(alloc, attachments))?,
        };
        let inline_len = if box_ref.is_some() { 0 } else { bytes.len };
        let inline = ArchivedBox::serialize_from_ref(&bytes.as_slice()[..inline_len], encoder)?;
        Ok(SharedBoxResolver { inline, inline_len, box_ref })
    }
}

impl<T: Contents + ?Sized> Deserialize<SharedBox<T>, Decoding<'_>> for ArchivedSharedBox<T> {
    fn deserialize(&self, decoder: &mut Decoding<'_>) -> Result<SharedBox<T>, Failure> {
        // What is noted from here on is about this box.
        last_refusal();
        let made = self.bytes(decoder).ok().filter(|bytes| T::of(bytes.as_slice()).is_some());
        let bytes = made.unwrap_or_else(|| {
            decoder.refuse(last_refusal());
            Bytes::private(T::LEAST)
        });
        Ok(SharedBox::new_of(bytes))
    }
}
