//! What one side has of memory for large payloads and boxes: its arena, what it has lent of that, and what it holds of the peer's.
//!
//! Knows neither sockets nor processes: whoever has a [`MemoryPool`] says through [`PoolHandle`] how it is reached.

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

/// The memory of one side.
pub struct MemoryPool {
    arena: Arena,
    lender: Lender,
    pub(crate) holder: Holder,
    /// Blocks on their way back into the arena.
    freed: Vec<Allocation>,
    /// Frames with blocks that somebody waits for: what they carry will come back by itself.
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

    /// Lends the block that a frame lies in, so that its receiver may keep it beyond the frame. Returns the loan id, as it is written; 0 if
    /// so many blocks are lent already.
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

    /// The frame is about to be published. Returns what it says of the blocks that it brings home.
    pub fn sent(&mut self, attachments: &mut Attachments) -> LoanList {
        attachments.is_waited_for = true;
        self.under_way += 1;
        self.holder.send(&mut attachments.returns)
    }

    /// A frame that departed has been dealt with.
    pub fn arrived(&mut self, mut attachments: Attachments, source: &mut dyn Source) {
        self.given_up(&mut attachments);
        self.finish_frame(attachments, source);
    }

    /// Nobody waits for a frame any more that departed.
    pub fn given_up(&mut self, attachments: &mut Attachments) {
        self.under_way -= usize::from(std::mem::take(&mut attachments.is_waited_for));
    }

    /// Whether anything will come back by itself.
    pub fn has_frames_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Takes back what a frame carried that nobody kept. It has been dealt with, or will never be sent.
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

    /// Nobody here looks at a block of the peer's any more.
    pub fn release(&mut self, loan_id: LoanId) {
        self.holder.release(loan_id);
    }

    /// Takes back what the peer is done with.
    pub fn collect(&mut self, source: &mut dyn Source) {
        self.lender.collect(&mut self.freed);
        self.put_back(source);
    }

    /// Whether there is more idle memory than may be retained.
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

/// One side's memory, as frames and boxes reach it.
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

    /// Whether this process is a fork of the memory's owner, and must leave it alone.
    fn is_in_fork(&self) -> bool;
}

impl dyn PoolHandle + '_ {
    /// Like [`PoolHandle::with`], but returns the result.
    pub fn on<R>(&self, run: impl FnOnce(&mut MemoryPool, &mut dyn Source) -> R) -> R {
        let (mut run, mut result) = (Some(run), None);
        self.with(&mut |pool, source| result = run.take().map(|run| run(pool, source)));
        // `with` runs it once.
        result.unwrap_or_else(|| unreachable!("a pool that did not run what it was given"))
    }

    /// Takes in the blocks that come back with a frame of this call word, if any do. Returns a number, with which to `forget` the blocks that its
    /// value does not take.
    #[inline]
    pub fn accept_returns(&self, call: u64) -> Option<u64> {
        if call >> 32 == 0 { None } else { Some(self.accept_returns_slow(call)) }
    }

    #[cold]
    fn accept_returns_slow(&self, call: u64) -> u64 {
        let returns = LoanList::from_word(call >> 32);
        // Numbers begin with 1, so 0 forgets none.
        if returns.is_empty() { 0 } else { self.on(|pool, _| pool.lender.accept_returns(returns)) }
    }

    /// Forgets the rest of the frame to which `accept_returns` gave this number, if it did.
    #[inline]
    pub fn forget(&self, number: Option<u64>) {
        if let Some(number) = number {
            self.on(|pool, source| pool.forget(number, source));
        }
    }

    /// A block of at least `len` bytes. Waits for it until `deadline` at most; nobody wants it after `until`.
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
