//! The bytes of a box, whatever its type: in private memory, in a block of this side, or in a block of the peer's.
//!
//! With `unsafe` in it, because blocks become slices here. The rules:
//!
//! - A block of this side's own arena is referenced if the peer can only read it (the memory of a parent's requests and boxes), or
//!   is trusted to write there only while the block is its own.
//! - A block of the peer's arena is referenced only if the peer is trusted not to write there meanwhile (a child's parent, and a
//!   child that its parent trusts). The contents of all others are copied.

use super::contents::ALIGN;
use super::place::{self, Memory};
use crate::arena::Allocation;
use crate::bounds::BYTES_A_LOOK;
use crate::commit::BlockRef;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::loans::{Attachments, BoxRef, LoanId};
use crate::memory_pool::{AllocContext, BlockSize, PoolHandle};
use crate::reading::{has_memory, in_time};
use crate::segment::{Block, Span};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A box of an untrusted peer with fewer bytes than this is copied into private memory.
const SMALL: usize = 4 << 10;

/// Stands in for the segment of a block that goes back to its owner.
pub(super) const HOMEWARD: u64 = u64::MAX;

/// The bytes of a box: their place and number.
pub(super) struct Bytes {
    pub(super) store: Store,
    pub(super) len: usize,
}

/// Where the bytes are.
pub(super) enum Store {
    /// In this process alone. Copied when they are sent.
    Private(AlignedVec<ALIGN>),
    /// In a block of this side's arena.
    OwnBlock(OwnBlock),
    /// In a block of the peer's arena.
    Peer(BorrowedBlock),
}

pub(super) struct OwnBlock {
    block: Block,
    state: Mutex<BoxState>,
    pool: Arc<dyn PoolHandle>,
}

/// What has become of the block.
enum BoxState {
    /// It is here alone.
    Here(Allocation),
    /// It was sent, by a value that may be gone by now.
    Lent(LoanId),
    /// Neither, during a change of state.
    Gone,
}

/// A block of the peer's arena that this side keeps beyond the frame that lent it.
pub(crate) struct BorrowedBlock {
    block: Block,
    loan_id: LoanId,
    pool: Arc<dyn PoolHandle>,
    /// Whether a frame has ever named it: cheaper to read than to lock.
    was_returned: AtomicBool,
}

/// The memory of this process, if it is a child: its bridge's.
pub(super) static HERE: OnceLock<Arc<dyn PoolHandle>> = OnceLock::new();

/// Makes `pool` the memory of boxes in this process, which is a child.
pub fn set_pool(pool: Arc<dyn PoolHandle>) {
    // A process is the child of one parent, so this is set once.
    let _ = HERE.set(pool);
}

impl OwnBlock {
    pub(super) fn new(allocation: Allocation, pool: &Arc<dyn PoolHandle>) -> Self {
        Self { block: allocation.block(), state: Mutex::new(BoxState::Here(allocation)), pool: pool.clone() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BoxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only this side has the block, for a caller that has the box to itself.
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
    pub fn take(block: Block, loan_id: LoanId, pool: &Arc<dyn PoolHandle>) -> Option<Self> {
        let is_new = pool.on(|pool, _| pool.holder.take(loan_id));
        is_new.then(|| Self { block, loan_id, pool: pool.clone(), was_returned: AtomicBool::new(false) })
    }

    pub fn span(&self) -> Span<'_> {
        self.block.span()
    }

    /// Whether the peer may still read it through a frame that names it.
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
    /// `len` bytes of memory from `pool`, which hold what they held before.
    pub(super) fn stale(pool: &Arc<dyn PoolHandle>, len: usize, deadline: Deadline) -> Result<Self, NoMemory> {
        Self::stale_until(pool, len, deadline, Deadline::NEVER)
    }

    /// The same, which nobody wants after `until`.
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

    /// The same, from `bridge`, which may wait as long as a call may.
    pub(super) fn stale_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        let place::PoolOf(pool, timeout) = bridge.pool();
        let deadline = Deadline::after(timeout);
        let new = Self::stale(&pool, len, Deadline::now());
        if !matches!(new, Err(NoMemory::Exhausted { .. } | NoMemory::Unread { .. })) {
            return new;
        }
        bridge.take_late_replies();
        Self::stale(&pool, len, deadline)
    }

    /// `len` zeros in private memory.
    pub(super) fn private(len: usize) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.resize(len, 0);
        Self { store: Store::Private(bytes), len }
    }

    /// `len` bytes in the default place for boxes of this process.
    pub(super) fn stale_here(len: usize) -> Result<Self, NoMemory> {
        match HERE.get() {
            Some(pool) => Self::stale(pool, len, Deadline::NEVER),
            None => Ok(Self::private(len)),
        }
    }

    /// A copy of the first `len` bytes of a span that a peer may be writing; in shared memory if there is some.
    ///
    /// # Errors
    ///
    /// If the deadline passes meanwhile.
    pub(super) fn copy_of(
        span: Span<'_>,
        len: usize,
        pool: &Arc<dyn PoolHandle>,
        until: Deadline,
    ) -> Result<Self, Failure> {
        let mut copy = match len {
            // Too few to be worth a block.
            ..SMALL => Self::private(len),
            _ => Self::stale_until(pool, len, Deadline::now(), until)
                .or_else(|_| has_memory(len).map(|()| Self::private(len)))?,
        };
        let target = copy.as_mut_slice();
        for from in (0..len).step_by(BYTES_A_LOOK) {
            let piece = span.first(len.min(from + BYTES_A_LOOK)).after(from);
            // SAFETY: as long as the piece, and used by nobody else: a new block, or private memory.
            unsafe { piece.copy_to(target[from..].as_mut_ptr()) };
            in_time(until)?;
        }
        Ok(copy)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        let block = match &self.store {
            Store::Private(bytes) => return &bytes[..self.len],
            Store::OwnBlock(own) => &own.block,
            Store::Peer(peer) => &peer.block,
        };
        // SAFETY: see the rules at the top of the file. An own block that is lent is only read by an untrusted peer; a trusted one has promised not
        // to write. Writing here takes `&mut` of the box.
        unsafe { block.span().first(self.len).as_bytes() }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
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

    /// Whether nobody else reads the bytes, or may.
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

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn is_shared(&self) -> bool {
        !matches!(self.store, Store::Private(_))
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    /// Names these bytes in the frame being written, with these `attachments`: their own block, if it belongs to the frame's memory and no other
    /// frame has it, else a copy.
    pub(super) fn box_ref(&self, alloc: &AllocContext<'_>, attachments: &mut Attachments) -> Result<BoxRef, NoMemory> {
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
        let allocation = alloc.allocate(BlockSize::Bytes(len))?;
        let place = allocation.reference(self.len);
        // SAFETY: a new block of at least `len` bytes, which nobody else knows of.
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
            // Perhaps by a frame that has been dealt with.
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
    /// `None` if another place in the frame returns it already.
    fn return_with(&self, len: usize, attachments: &mut Attachments) -> Option<BoxRef> {
        self.was_returned.store(true, Relaxed);
        let is_first = self.pool.on(|pool, _| pool.holder.return_with(self.loan_id, &mut attachments.returns));
        let place = BlockRef { segment: HOMEWARD, offset: 0, len: len as u64, loan_id: 0 };
        is_first.then_some(BoxRef { place, loan_id: self.loan_id })
    }
}

fn no_loan_id() -> NoMemory {
    NoMemory::Failed { why: "the bridge cannot lend more blocks of memory at once".into() }
}

fn is_same(one: &Arc<dyn PoolHandle>, other: &dyn PoolHandle) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), other)
}
