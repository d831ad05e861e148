//! One side's memory for large payloads and boxes: its arena, the blocks it has lent, and the peer's blocks it holds.
//!
//! Knows neither sockets nor processes: the owner of a [`MemoryPool`] implements [`PoolHandle`] to give access to it.

#![forbid(unsafe_code)]

use crate::arena::{Allocation, Arena, Limits, Source};
use crate::commit::BlockRef;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::layout::HeldTable;
use crate::loans::{Attachments, Holder, Lender, LoanId, LoanList, Returning};
use crate::segment::{Block, Placed};
use callgate_os::mapping::Mapping;
use std::sync::Arc;
use std::time::Duration;

/// One side's blocks: its own, lent or not, and the peer's that it holds.
pub struct MemoryPool {
    arena: Arena,
    lender: Lender,
    pub(crate) holder: Holder,
    /// Blocks that are about to go back into the arena.
    freed: Vec<Allocation>,
    /// Sent frames with blocks whose answers are still awaited: their blocks will come back without further action.
    under_way: usize,
}

impl MemoryPool {
    /// The longest payload, in bytes.
    pub fn max_payload(&self) -> u64 {
        self.arena.max_payload()
    }

    /// `held_by_peer` is written by the peer, `held_here` by this side.
    pub fn new(limits: Limits, held_by_peer: Placed<HeldTable>, held_here: Placed<HeldTable>) -> Self {
        Self {
            arena: Arena::new(limits),
            lender: Lender::new(held_by_peer),
            holder: Holder::new(held_here),
            freed: Vec::new(),
            under_way: 0,
        }
    }

    /// A block of that size.
    pub fn allocate(&mut self, size: BlockSize, source: &mut dyn Source) -> Result<Allocation, NoMemory> {
        self.collect(source);
        match size {
            BlockSize::Bytes(len) => self.arena.allocate(len, source),
            BlockSize::Growing { written, need } => self.arena.allocate_more(written, need, source),
        }
    }

    pub fn free(&mut self, allocation: Allocation, source: &mut dyn Source) {
        self.arena.free(allocation, source);
    }

    /// See [`Lender::lend`].
    pub fn lend(
        &mut self,
        allocation: Allocation,
        len: u64,
        owned: bool,
        list: &mut LoanList,
        source: &mut dyn Source,
    ) -> Result<LoanId, Allocation> {
        self.collect(source);
        self.lender.lend(allocation, len, owned, list)
    }

    /// Lends the block that a frame lies in, so that its receiver may keep it beyond the frame. Returns the loan id as a word; 0 if the table
    /// of loans is full.
    pub fn lend_frame(&mut self, attachments: &mut Attachments, source: &mut dyn Source) -> u64 {
        self.collect(source);
        let Some(allocation) = attachments.block.take() else { return 0 };
        match self.lender.lend(allocation, 0, false, &mut attachments.lent) {
            Ok(loan_id) => loan_id.to_word(),
            Err(allocation) => {
                attachments.block = Some(allocation);
                0
            }
        }
    }

    /// The frame is about to be published. Returns the list of blocks that it returns, for its call word.
    pub fn sent(&mut self, attachments: &mut Attachments) -> LoanList {
        attachments.is_waited_for = true;
        self.under_way += 1;
        self.holder.send(&mut attachments.returns)
    }

    /// A frame that was [`sent`](Self::sent) has been dealt with.
    pub fn arrived(&mut self, mut attachments: Attachments, source: &mut dyn Source) {
        self.given_up(&mut attachments);
        self.finish_frame(attachments, source);
    }

    /// The answer to a sent frame is no longer awaited.
    pub fn given_up(&mut self, attachments: &mut Attachments) {
        self.under_way -= usize::from(std::mem::take(&mut attachments.is_waited_for));
    }

    /// Whether blocks will come back without further action.
    pub fn has_frames_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Takes back the blocks of a frame that the peer has not kept. The frame has been dealt with, or will never be sent.
    pub fn finish_frame(&mut self, attachments: Attachments, source: &mut dyn Source) {
        let Attachments { block, lent, returns, .. } = attachments;
        self.freed.extend(block);
        self.lender.finish_frame(lent, &mut self.freed);
        self.holder.discard(returns);
        self.put_back(source);
    }

    /// See [`Lender::disown`].
    pub fn disown(&mut self, loan_id: LoanId, source: &mut dyn Source) {
        self.lender.disown(loan_id, &mut self.freed);
        self.put_back(source);
    }

    /// See [`Lender::reclaim`].
    pub fn reclaim(&mut self, loan_id: LoanId, source: &mut dyn Source) -> Option<Allocation> {
        let allocation = self.lender.reclaim(loan_id, &mut self.freed);
        self.put_back(source);
        allocation
    }

    /// See [`Lender::take_returned`].
    pub fn take_returned(&mut self, loan_id: LoanId) -> Option<Returning> {
        self.lender.take_returned(loan_id)
    }

    /// See [`Lender::copied`].
    pub fn copied(&mut self, loan_id: LoanId, source: &mut dyn Source) {
        self.lender.copied(loan_id, &mut self.freed);
        self.put_back(source);
    }

    /// See [`Lender::forget`].
    fn forget(&mut self, frame: u64, source: &mut dyn Source) {
        self.lender.forget(frame, &mut self.freed);
        self.put_back(source);
    }

    /// See [`Holder::release`].
    pub fn release(&mut self, loan_id: LoanId) {
        self.holder.release(loan_id);
    }

    /// Takes back the blocks that the peer is done with.
    pub fn collect(&mut self, source: &mut dyn Source) {
        self.lender.collect(&mut self.freed);
        self.put_back(source);
    }

    /// See [`Arena::is_untidy`].
    pub fn is_untidy(&self) -> bool {
        self.arena.is_untidy()
    }

    /// See [`Arena::is_beyond_retained`].
    pub fn is_beyond_retained(&self) -> bool {
        self.arena.is_beyond_retained()
    }

    /// See [`Arena::tidy`].
    pub fn tidy(&mut self, source: &mut dyn Source) -> Vec<Arc<Mapping>> {
        self.collect(source);
        self.arena.tidy(source)
    }

    fn put_back(&mut self, source: &mut dyn Source) {
        while let Some(allocation) = self.freed.pop() {
            self.arena.free(allocation, source);
        }
    }
}

/// Access to one side's memory, for frames and boxes.
///
/// `shared_box` reads and writes blocks in place on the word of an implementation: it must always give access to the same pool, and tell the
/// truth about trust.
pub trait PoolHandle: Send + Sync {
    /// Runs `run` on the pool, with the source of more memory.
    fn with(&self, run: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source));

    /// A block of that size. If there is none because too much memory is in use, may try again until `deadline`.
    fn find(&self, size: BlockSize, deadline: Deadline) -> Result<Allocation, NoMemory>;

    /// The block of the peer's arena that a frame names, if it lies in known memory.
    fn peer_block(&self, block: BlockRef) -> Option<Block>;

    /// Whether the peer is trusted not to write to memory that this side reads.
    fn trusts_peer(&self) -> bool;

    /// Whether the peer reads this side's replies in place.
    fn is_trusted_by_peer(&self) -> bool;

    /// Whether this process is a fork of the memory's owner, and must leave the memory alone.
    fn is_in_fork(&self) -> bool;
}

impl dyn PoolHandle + '_ {
    /// [`PoolHandle::with`] for a closure that returns a result.
    pub fn on<R>(&self, run: impl FnOnce(&mut MemoryPool, &mut dyn Source) -> R) -> R {
        let (mut run, mut result) = (Some(run), None);
        self.with(&mut |pool, source| result = run.take().map(|run| run(pool, source)));
        // `with` runs it once.
        result.unwrap_or_else(|| unreachable!("a pool that did not run what it was given"))
    }

    /// Accepts the blocks that a frame with this call word returns. The number is for `forget`, which frees the blocks that the
    /// frame's value did not take; `None` if the frame carries nothing.
    #[inline]
    pub fn accept_returns(&self, call: u64) -> Option<u64> {
        if call >> 32 == 0 { None } else { Some(self.accept_returns_slow(call)) }
    }

    #[cold]
    fn accept_returns_slow(&self, call: u64) -> u64 {
        let returns = LoanList::from_word(call >> 32);
        // Numbers begin with 1: 0 forgets nothing.
        if returns.is_empty() { 0 } else { self.on(|pool, _| pool.lender.accept_returns(returns)) }
    }

    /// The frame that `accept_returns` numbered has been dealt with.
    #[inline]
    pub fn forget(&self, number: Option<u64>) {
        if let Some(number) = number {
            self.on(|pool, source| pool.forget(number, source));
        }
    }

    /// A block of at least `len` bytes. Waits for memory until `deadline`, and populates it until `until`.
    pub fn allocate(&self, len: u64, deadline: Deadline, until: Deadline) -> Result<Allocation, NoMemory> {
        let found = self.find(BlockSize::Bytes(len), deadline)?;
        found.populate(until);
        Ok(found)
    }
}

/// How large a block must be.
#[derive(Clone, Copy, Debug)]
pub enum BlockSize {
    /// At least as many bytes.
    Bytes(u64),
    /// At least `need` bytes, for a frame of which `written` bytes are written. May be larger, as the frame may go on growing.
    Growing { written: usize, need: usize },
}

/// Where a frame finds memory, and how long it may wait for it.
#[derive(Clone, Copy)]
pub struct AllocContext<'a> {
    pub pool: &'a dyn PoolHandle,
    pub limit: &'a TimeLimit,
    /// How long it waits for memory that is in use; `None` = not at all.
    pub wait: Option<Deadline>,
}

/// How long a frame is wanted.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit {
    pub timeout: Option<Duration>,
    /// The end of `timeout`, unless the clock has not been read yet.
    pub deadline: Deadline,
}

impl TimeLimit {
    pub const NONE: &'static Self = &Self { timeout: None, deadline: Deadline::NEVER };

    /// `timeout` from now; `None` = no limit.
    #[inline]
    pub fn after(timeout: Option<Duration>) -> Self {
        Self { timeout, deadline: Deadline::after(timeout) }
    }

    /// The deadline. If the clock has not been read yet, the time begins now.
    pub fn until(&self) -> Deadline {
        if self.deadline.instant().is_some() { self.deadline } else { Deadline::after(self.timeout) }
    }
}

impl AllocContext<'_> {
    /// A block of that size.
    pub fn allocate(&self, size: BlockSize) -> Result<Allocation, NoMemory> {
        let found = self.pool.find(size, self.wait.unwrap_or_else(Deadline::now))?;
        found.populate(self.limit.until());
        Ok(found)
    }
}
