//! Loans: blocks that stay with the peer beyond the frame that named them.
//!
//! A frame that names a block of its sender's arena lends it. The receiver may keep the block ([`Holder::take`]) and later release it
//! ([`Holder::release`]), or return it with a frame of its own ([`Holder::return_with`]). The lender's books ([`Lender`]) are private;
//! the two sides share only the words of the [`HeldTable`], which the holder writes. `state.rs` has the states of a loan on both sides.
//!
//! # Why the two sides never use a block at the same time
//!
//! The lender reuses or writes to a block only after one of these: it has seen DONE of that very loan; it has seen RETURNED, and a frame
//! that returns the block; or the frame that lent the block is finished and the peer did not keep it. The holder stores DONE and RETURNED with
//! Release after its last access to the block, and the lender loads them with Acquire before it writes there. The holder stores TAKEN, also with
//! Release, before the reply to the frame (or before `released`, if the frame is a reply), and the lender reads it after it has seen that.
//!
//! The sender of a value may still use it (its own `Serialize` may lend what another value owns). So a block becomes free only when its
//! owner at the lender is gone as well, and a block is returned only if the holder has released it before the frame is published.
//!
//! # What a hostile holder can do
//!
//! It writes the words, so it can say DONE of a block that it still uses, or never say it. The first harms only itself: it could read the block
//! before and can read it after. The second keeps memory of its parent's budget. The lender looks only at words of loans that exist, so no
//! block is freed twice. A list of returned blocks ends at the first one that is not lent or was returned before.

#![forbid(unsafe_code)]

mod state;

use self::state::{HeldAction, HeldEvent, HeldState, LoanAction, LoanEvent, LoanState};
use crate::arena::Allocation;
use crate::bounds::LOANS;
use crate::commit::BlockRef;
use crate::failpoints::{self, Step};
use crate::layout::{DONE, HeldTable, RETURNED, TAKEN};
use crate::segment::{Block, Placed};
use callgate_os::sync::Ordering::{Acquire, Release};

/// Names one loan of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanId {
    index: u32,
    /// 1 to [`GENERATIONS`]: tells apart the loans under one index, until the count wraps.
    generation: u32,
}

/// A word has 32 bits for generation and state; the state takes 2.
const GENERATIONS: u32 = u32::MAX >> 2;

impl LoanId {
    /// The id as one number, which is never 0.
    pub fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The id that a peer sent as a number; `None` if no loan can have it.
    pub fn checked(word: u64) -> Option<Self> {
        let (generation, index) = ((word >> 32) as u32, word as u32);
        let is_valid = (1..=GENERATIONS).contains(&generation) && (index as usize) < LOANS;
        is_valid.then_some(Self { index, generation })
    }
}

/// The loans of one frame, linked: the index of the last one, plus 1; 0 = none. Each entry names the one before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoanList(u32);

impl LoanList {
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// As the call word of a frame has it.
    pub fn to_word(&self) -> u64 {
        self.0.into()
    }

    pub fn from_word(word: u64) -> Self {
        // The bits above belong to other fields of the call word.
        Self(word as u32 & 0xff_ffff)
    }

    /// Puts `index` first. Returns the rest of the list, for the entry of `index` to name.
    fn push(&mut self, index: u32) -> LoanList {
        std::mem::replace(self, LoanList(index + 1))
    }

    fn first(&self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// The memory that a frame carries beside its payload.
#[derive(Debug, Default)]
pub struct Attachments {
    /// Whether any of the other fields may be set: one look instead of three.
    pub is_loaded: bool,
    /// Whether the pool counts it among the frames under way.
    pub is_waited_for: bool,
    /// The block that the payload moved to when it outgrew its slot.
    pub block: Option<Allocation>,
    /// Blocks of this side that are lent with it.
    pub lent: LoanList,
    /// Blocks of the peer that it returns.
    pub returns: LoanList,
}

impl Attachments {
    /// Whether it has memory of the frame's value: boxes.
    #[inline(always)]
    pub fn carries_boxes(&self) -> bool {
        self.is_loaded && !(self.lent.is_empty() && self.returns.is_empty())
    }
}

// ---- the lender ----------------------------------------------------------------------------------------------------

/// What one side has lent to the other.
pub struct Lender {
    /// Written by the peer.
    held: Placed<HeldTable>,
    entries: Vec<LoanEntry>,
    /// Indices whose entries are [`Free`](LoanState::Free).
    free: Vec<u32>,
    /// Indices whose entries are [`Kept`](LoanState::Kept).
    kept: Vec<u32>,
    /// Blocks that frames of the peer have returned and that no value has taken yet.
    returned: Vec<Returned>,
    /// How many frames have returned blocks.
    return_frames: u64,
}

#[derive(Default)]
struct LoanEntry {
    generation: u32,
    state: LoanState,
    /// The block and the number of bytes lent. `None` while the state is `Free` or `SentReturned`.
    block: Option<(Allocation, u64)>,
    /// Whether the block has an owner on this side.
    is_owned: bool,
    /// Copies being made of the block. Until they are finished it is in use, whatever the peer says.
    copies: u32,
    /// The other loans of the frame.
    next: LoanList,
}

struct Returned {
    frame: u64,
    loan_id: LoanId,
    block: (Allocation, u64),
}

/// A block that the peer returns, and the number of bytes lent.
pub enum Returning {
    /// The block itself, which only this side uses.
    Whole(Allocation, u64),
    /// The block is still used: the receiver copies it.
    Shared(Block, u64),
}

impl Lender {
    pub fn new(held: Placed<HeldTable>) -> Self {
        Self { held, entries: Vec::new(), free: Vec::new(), kept: Vec::new(), returned: Vec::new(), return_frames: 0 }
    }

    /// Lends the first `len` bytes of a block with the frame that `list` belongs to. If `is_owned`, this side uses the block too, until
    /// [`disown`](Self::disown) or [`reclaim`](Self::reclaim).
    ///
    /// # Errors
    ///
    /// The block, if [`LOANS`] blocks are lent already.
    pub fn lend(
        &mut self,
        allocation: Allocation,
        len: u64,
        is_owned: bool,
        list: &mut LoanList,
    ) -> Result<LoanId, Allocation> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < LOANS => {
                self.entries.push(LoanEntry::default());
                self.entries.len() as u32 - 1
            }
            None => return Err(allocation),
        };
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation % GENERATIONS + 1;
        entry.block = Some((allocation, len));
        (entry.is_owned, entry.copies) = (is_owned, 0);
        entry.next = list.push(index);
        let loan_id = LoanId { index, generation: entry.generation };
        self.step(index, LoanEvent::Lent);
        Ok(loan_id)
    }

    /// The owner of the block on this side is gone. If the peer is done with it too, it goes to `free`.
    pub fn disown(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) {
        let Some(entry) = self.entry(loan_id) else { return };
        entry.is_owned = false;
        self.step_and_free(loan_id.index, LoanEvent::Unused, free);
    }

    /// The block for its owner alone, if the peer is done with it.
    pub fn reclaim(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) -> Option<Allocation> {
        self.collect(free);
        self.entry(loan_id)?;
        match self.step(loan_id.index, LoanEvent::Reclaimed)? {
            LoanAction::HandOver => self.take_block(loan_id.index).map(|(allocation, _)| allocation),
            LoanAction::Nothing | LoanAction::FreeBlock => None,
        }
    }

    /// The frame of `list` has been dealt with, or will never be sent. Its blocks that the peer has not kept go to `free`.
    pub fn finish_frame(&mut self, mut list: LoanList, free: &mut Vec<Allocation>) {
        while let Some(index) = list.first() {
            // RETURNED: on its way back, with a frame that has not been taken yet.
            let is_kept = self.word(index).is_some_and(|(state, _)| matches!(state, TAKEN | RETURNED));
            list = std::mem::take(&mut self.entries[index as usize].next);
            self.step_and_free(index, LoanEvent::Finished { is_kept }, free);
        }
    }

    /// Moves to `free` the blocks that the peer is done with.
    pub fn collect(&mut self, free: &mut Vec<Allocation>) {
        for at in (0..self.kept.len()).rev() {
            let index = self.kept[at];
            if self.word(index).is_some_and(|(state, _)| state == DONE) {
                self.kept.swap_remove(at);
                self.step_and_free(index, LoanEvent::Done, free);
            }
        }
    }

    /// Accepts the blocks that a frame returns. Gives the frame a number, for [`forget`](Self::forget).
    pub fn accept_returns(&mut self, mut list: LoanList) -> u64 {
        self.return_frames += 1;
        // A block is returned once, so even a list that a hostile peer has closed to a ring ends.
        while let Some(index) = list.first() {
            let Some(next) = self.accept_return(index) else { break };
            list = next;
        }
        self.return_frames
    }

    /// Accepts one block and returns the rest of its list; `None` if the block is not lent, or the peer's word does not return it.
    fn accept_return(&mut self, index: u32) -> Option<LoanList> {
        let was_kept = self.entries.get(index as usize)?.state == LoanState::Kept;
        let (_, next) = self.word(index).filter(|&(state, _)| state == RETURNED)?;
        let action = self.step(index, LoanEvent::Returned)?;
        if was_kept {
            self.kept.retain(|&kept| kept != index);
        }
        if action == LoanAction::HandOver {
            let loan_id = LoanId { index, generation: self.entries[index as usize].generation };
            let block = self.take_block(index)?;
            self.returned.push(Returned { frame: self.return_frames, loan_id, block });
        }
        Some(next)
    }

    /// The block that a frame returns under `loan_id`; `None` if it is not lent.
    pub fn take_returned(&mut self, loan_id: LoanId) -> Option<Returning> {
        if let Some(at) = self.returned.iter().position(|returned| returned.loan_id == loan_id) {
            let (allocation, len) = self.returned.swap_remove(at).block;
            return Some(Returning::Whole(allocation, len));
        }
        let (allocation, len) = self.entry(loan_id)?.block.as_ref()?;
        let shared = Returning::Shared(allocation.block(), *len);
        self.step(loan_id.index, LoanEvent::CopyBegun)?;
        self.entries[loan_id.index as usize].copies += 1;
        Some(shared)
    }

    /// The copy that [`take_returned`](Self::take_returned) asked for with `Shared` is finished.
    pub fn copied(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) {
        let Some(entry) = self.entry(loan_id) else { return };
        entry.copies -= 1;
        self.step_and_free(loan_id.index, LoanEvent::Unused, free);
    }

    /// The frame with this number has been dealt with: the blocks that it returned and that no value took go to `free`.
    pub fn forget(&mut self, frame: u64, free: &mut Vec<Allocation>) {
        free.extend(self.returned.extract_if(.., |returned| returned.frame == frame).map(|returned| returned.block.0));
    }

    /// The entry of a loan whose block is out.
    fn entry(&mut self, loan_id: LoanId) -> Option<&mut LoanEntry> {
        let entry = self.entries.get_mut(loan_id.index as usize)?;
        (entry.generation == loan_id.generation && entry.block.is_some()).then_some(entry)
    }

    /// The peer's word about the loan under `index`: the state, and the rest of the list that returns it. `None` if the word is of another loan.
    fn word(&self, index: u32) -> Option<(u64, LoanList)> {
        // Acquire: the block is written after this. Pairs with the Release in `Holder::say`.
        let word = self.held.words[index as usize].load(Acquire);
        let is_of_this = word as u32 >> 2 == self.entries[index as usize].generation;
        is_of_this.then_some((word & 3, LoanList::from_word(word >> 32)))
    }

    /// Moves the loan under `index` to its next state, and notes free and kept indices. (The caller removes it from `kept`.)
    fn step(&mut self, index: u32, event: LoanEvent) -> Option<LoanAction> {
        let entry = &mut self.entries[index as usize];
        let is_used = entry.copies > 0 || entry.is_owned && event != LoanEvent::Reclaimed;
        let before = entry.state;
        let (state, action) = before.step(event, is_used)?;
        entry.state = state;
        match state {
            LoanState::Free => self.free.push(index),
            LoanState::Kept if before != state => self.kept.push(index),
            _ => {}
        }
        Some(action)
    }

    /// [`step`](Self::step) for events after which the block is nobody's, or stays where it is.
    fn step_and_free(&mut self, index: u32, event: LoanEvent, free: &mut Vec<Allocation>) {
        if self.step(index, event) == Some(LoanAction::FreeBlock) {
            free.extend(self.take_block(index).map(|(allocation, _)| allocation));
        }
    }

    fn take_block(&mut self, index: u32) -> Option<(Allocation, u64)> {
        self.entries[index as usize].block.take()
    }
}

// ---- the holder ----------------------------------------------------------------------------------------------------

/// What one side holds of the blocks that the other has lent to it.
pub struct Holder {
    /// Written by this side, and never read back: the peer might have changed it.
    held: Placed<HeldTable>,
    /// By index; grows on demand.
    entries: Vec<ReceivedLoan>,
}

#[derive(Default)]
struct ReceivedLoan {
    generation: u32,
    state: HeldState,
    /// The other loans that the frame names.
    next: LoanList,
}

impl Holder {
    pub fn new(held: Placed<HeldTable>) -> Self {
        Self { held, entries: Vec::new() }
    }

    /// Keeps a block beyond its frame. `false` if this block, or another one under the same index, is held already.
    pub fn take(&mut self, loan_id: LoanId) -> bool {
        let index = loan_id.index as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, ReceivedLoan::default);
        }
        if self.step(loan_id, HeldEvent::Taken).is_none() {
            return false;
        }
        self.entries[index].generation = loan_id.generation;
        self.say(loan_id, TAKEN, &LoanList::default());
        true
    }

    /// This side no longer uses a held block.
    pub fn release(&mut self, loan_id: LoanId) {
        self.step_and_say_done(loan_id, HeldEvent::Released);
    }

    /// Returns a held block with the frame that is being written, which `list` belongs to. `false` if a frame names the block already.
    pub(crate) fn return_with(&mut self, loan_id: LoanId, list: &mut LoanList) -> bool {
        let is_named = self.step(loan_id, HeldEvent::Named).is_some();
        if is_named {
            self.entries[loan_id.index as usize].next = list.push(loan_id.index);
        }
        is_named
    }

    /// The frame of `list` is about to be published. Takes the released blocks out of the list and returns them, for the call word to name. The
    /// peer copies the others: nothing here may write to them until the frame is finished and its list is [discarded](Self::discard).
    pub fn send(&mut self, list: &mut LoanList) -> LoanList {
        let (mut returns, mut shared) = (LoanList::default(), LoanList::default());
        while let Some(loan_id) = self.pop(list) {
            let index = loan_id.index;
            if self.step(loan_id, HeldEvent::Sent) == Some(HeldAction::SayReturned) {
                let next = returns.push(index);
                self.say(loan_id, RETURNED, &next);
            } else {
                self.entries[index as usize].next = shared.push(index);
            }
        }
        *list = shared;
        returns
    }

    /// Whether an unfinished frame names the block.
    pub(crate) fn is_being_returned(&self, loan_id: LoanId) -> bool {
        matches!(self.entries[loan_id.index as usize].state, HeldState::Returning | HeldState::ReturningReleased)
    }

    /// The frame of `list` has been dealt with, or will never be published.
    pub fn discard(&mut self, mut list: LoanList) {
        while let Some(loan_id) = self.pop(&mut list) {
            self.step_and_say_done(loan_id, HeldEvent::Finished);
        }
    }

    /// Removes the first loan of `list`.
    fn pop(&mut self, list: &mut LoanList) -> Option<LoanId> {
        let index = list.first()?;
        let entry = &mut self.entries[index as usize];
        *list = std::mem::take(&mut entry.next);
        Some(LoanId { index, generation: entry.generation })
    }

    /// Moves a loan to its next state. Returns what the caller must say; `None` if the event is refused.
    fn step(&mut self, loan_id: LoanId, event: HeldEvent) -> Option<HeldAction> {
        let entry = &mut self.entries[loan_id.index as usize];
        let (state, action) = entry.state.step(event)?;
        entry.state = state;
        Some(action)
    }

    /// [`step`](Self::step) for events that may end the holding.
    fn step_and_say_done(&mut self, loan_id: LoanId, event: HeldEvent) {
        if self.step(loan_id, event) == Some(HeldAction::SayDone) {
            self.say(loan_id, DONE, &LoanList::default());
        }
    }

    fn say(&mut self, loan_id: LoanId, state: u64, next: &LoanList) {
        let word = next.to_word() << 32 | u64::from(loan_id.generation) << 2 | state;
        // Release: after the last access to the block. Pairs with the Acquire in `Lender::word`.
        self.held.words[loan_id.index as usize].store(word, Release);
        match state {
            TAKEN => failpoints::reach_here(Step::ParentBoxTaken, Step::ChildBoxTaken),
            DONE => failpoints::reach_here(Step::ParentBoxDone, Step::ChildBoxDone),
            _ => failpoints::reach_here(Step::ParentBoxReturned, Step::ChildBoxReturned),
        }
    }
}

/// What a frame says of a block that goes with it.
pub struct BoxRef {
    pub place: BlockRef,
    pub loan_id: LoanId,
}

impl BoxRef {
    /// Its length in bytes, which the receiver may have to copy.
    pub fn len(&self) -> u64 {
        self.place.len
    }
}

#[cfg(test)]
mod tests;
