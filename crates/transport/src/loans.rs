//! Loans: blocks that stay with the peer beyond the frame that named them.
//!
//! A frame that names a block of its sender's arena lends it: its receiver may keep it ([`Holder::take`]) and say later that
//! it is done ([`Holder::release`]), or bring it home with a frame of its own ([`Holder::return_with`]). The books ([`Lender`]) are private to
//! who lent; the only words that both sides see are those of the [`HeldTable`], which the holder writes.
//!
//! # Why a block is never used by both sides
//!
//! The lender gives a block to somebody else, or writes to it, only after it has seen DONE of that very loan, or HOME with a frame
//! that brings it, or that the frame which lent it has been dealt with and nobody took it. The holder stores DONE and HOME with Release after its
//! last look at the block, the lender loads them with Acquire before it writes there. TAKEN is stored, with Release too, before the reply
//! to the frame (or `released`, if the frame is a reply), and read after that was seen.
//!
//! A value that is sent may still be looked at by who sent it (its own `Serialize` may lend what somebody else owns). So what was lent
//! is the lender's again only when its owner there is gone as well, and what is returning home goes home only if it was let go before the
//! frame is published.
//!
//! # What a hostile holder can do
//!
//! It writes the words, so it can be done with what it still looks at, or never be. The first harms itself alone (what it could read
//! before it can read after), the second keeps memory of its parent's budget for it. Words of loan ids that are not lent are
//! never looked at, so there is nothing to free twice; a list of blocks that come home ends at the first that is not lent, or has come
//! home before.

#![forbid(unsafe_code)]

use crate::arena::Allocation;
use crate::commit::BlockRef;
use crate::failpoints::{self, Step};
use crate::layout::{DONE, HOME, HeldTable, LOANS, TAKEN};
use crate::segment::{Block, Placed};
use callgate_os::sync::Ordering::{Acquire, Release};

/// Names one loan of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanId {
    index: u32,
    /// 1 to [`GENERATIONS`], another for each loan under the same index, until they come round again.
    generation: u32,
}

/// What two bits of state leave of 32.
const GENERATIONS: u32 = u32::MAX >> 2;

impl LoanId {
    /// As one number, which is not 0.
    pub fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The loan that a peer names, if there can be one.
    pub fn checked(word: u64) -> Option<Self> {
        let (generation, index) = ((word >> 32) as u32, word as u32);
        let is_one = (1..=GENERATIONS).contains(&generation) && (index as usize) < LOANS;
        is_one.then_some(Self { index, generation })
    }
}

/// Loans that one frame carries: the last of them, plus 1; 0 = none. Each knows the one before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoanList(u32);

impl LoanList {
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// For the call word of a frame, and back.
    pub fn to_word(&self) -> u64 {
        self.0.into()
    }

    pub fn from_word(word: u64) -> Self {
        // Above it is what has nothing to do with memory.
        Self(word as u32 & 0xff_ffff)
    }

    /// Puts `index` before the others, which are returned.
    fn push(&mut self, index: u32) -> LoanList {
        std::mem::replace(self, LoanList(index + 1))
    }

    fn first(&self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// What a frame carries beside its payload, until it is published.
#[derive(Debug, Default)]
pub struct Attachments {
    /// Whether there may be anything at all: one look instead of three.
    pub is_loaded: bool,
    /// Whether it is counted among what will come back by itself.
    pub is_waited_for: bool,
    /// The block that the frame has outgrown its slot into.
    pub block: Option<Allocation>,
    /// Blocks of this side that are lent with it.
    pub lent: LoanList,
    /// Blocks of the peer that it brings home.
    pub returns: LoanList,
}

// ---- who lends -----------------------------------------------------------------------------------------------------

/// What one side has lent to the other.
pub struct Lender {
    /// Written by the peer.
    held: Placed<HeldTable>,
    entries: Vec<LoanEntry>,
    /// Indices that can be lent under.
    free: Vec<u32>,
    /// Loans whose frames have been dealt with, and which the peer has kept.
    kept: Vec<u32>,
    /// Blocks that have come home with frames that are being dealt with.
    returned: Vec<Returned>,
    frames_home: u64,
}

#[derive(Default)]
struct LoanEntry {
    generation: u32,
    /// The block, of which so many bytes were lent; `None` once it is back.
    lent: Option<(Allocation, u64)>,
    /// Whether somebody on this side still looks at it.
    owned: bool,
    /// Whether the peer will look at it no more, though somebody here does.
    over: bool,
    /// Whether a frame that is on its way carries it.
    on_its_way: bool,
    /// How many here copy it for who was sent it home: until they are done it is nobody else's, whatever the peer says.
    copied: u32,
    /// What the frame carries beside it.
    next: LoanList,
}

struct Returned {
    frame: u64,
    loan_id: LoanId,
    block: (Allocation, u64),
}

/// A block that the peer sends home.
pub enum Returning {
    /// It is this side's alone.
    Whole(Allocation, u64),
    /// Somebody still looks at it: so many bytes are to be copied.
    Shared(Block, u64),
}

impl Lender {
    pub fn new(held: Placed<HeldTable>) -> Self {
        Self { held, entries: Vec::new(), free: Vec::new(), kept: Vec::new(), returned: Vec::new(), frames_home: 0 }
    }

    /// Lends the first `len` bytes of a block with the frame that `list` belongs to. `owned` = until [`disown`](Self::disown) or
    /// [`reclaim`](Self::reclaim), somebody here looks at it too.
    ///
    /// # Errors
    ///
    /// The block, if [`LOANS`] blocks are lent already.
    pub fn lend(
        &mut self,
        allocation: Allocation,
        len: u64,
        owned: bool,
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
        let generation = entry.generation % GENERATIONS + 1;
        let next = list.push(index);
        *entry = LoanEntry {
            generation,
            lent: Some((allocation, len)),
            owned,
            over: false,
            on_its_way: true,
            copied: 0,
            next,
        };
        Ok(LoanId { index, generation })
    }

    /// Who owned the block here is gone. If the peer is done with it too, it goes to `free`.
    pub fn disown(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) {
        let Some(entry) = self.entry(loan_id) else { return };
        entry.owned = false;
        if entry.over && !entry.on_its_way {
            self.end(loan_id.index, free);
        }
    }

    /// The block for its owner alone, if the peer is done with it.
    pub fn reclaim(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) -> Option<Allocation> {
        self.collect(free);
        let entry = self.entry(loan_id).filter(|entry| entry.over && !entry.on_its_way && entry.copied == 0)?;
        let (allocation, _) = entry.lent.take()?;
        self.free.push(loan_id.index);
        Some(allocation)
    }

    /// The frame has been dealt with, or will never be sent: what nobody kept of what it carried goes to `free`.
    pub fn finish_frame(&mut self, mut list: LoanList, free: &mut Vec<Allocation>) {
        while let Some(index) = list.first() {
            let word = self.word(index);
            let entry = &mut self.entries[index as usize];
            entry.on_its_way = false;
            list = std::mem::take(&mut entry.next);
            match (&entry.lent, word) {
                // HOME: on its way back with a frame that is yet to be dealt with.
                (Some(_), Some((TAKEN | HOME, _))) if !entry.over => self.kept.push(index),
                _ => self.end(index, free),
            }
        }
    }

    /// Moves to `free` what the peer is done with since.
    pub fn collect(&mut self, free: &mut Vec<Allocation>) {
        for at in (0..self.kept.len()).rev() {
            let index = self.kept[at];
            if self.word(index).is_some_and(|(state, _)| state == DONE) {
                self.kept.swap_remove(at);
                self.end(index, free);
            }
        }
    }

    /// Takes in the blocks that a frame brings home; returns its number, for [`forget`](Self::forget).
    pub fn accept_returns(&mut self, mut list: LoanList) -> u64 {
        self.frames_home += 1;
        // Each block comes home once, so a list that a liar has tied into a ring ends too.
        while let Some(index) = list.first() {
            let Some(next) = self.returned(index) else { break };
            list = next;
        }
        self.frames_home
    }

    /// Takes in one block. `None` if it is not out, or the peer does not say that it comes home; else what comes with it.
    fn returned(&mut self, index: u32) -> Option<LoanList> {
        self.entries.get(index as usize).filter(|entry| entry.lent.is_some() && !entry.over)?;
        let (_, next) = self.word(index).filter(|&(state, _)| state == HOME)?;
        let entry = &mut self.entries[index as usize];
        if entry.owned || entry.copied > 0 {
            // A copy must do: see `take_returned`.
            entry.over = true;
            self.kept.retain(|&kept| kept != index);
            return Some(next);
        }
        let loan_id = LoanId { index, generation: entry.generation };
        let block = entry.lent.take()?;
        self.returned.push(Returned { frame: self.frames_home, loan_id, block });
        // If the frame that lent it is not dealt with yet, the rest of its list hangs on the entry.
        if !self.entries[index as usize].on_its_way {
            self.kept.retain(|&kept| kept != index);
            self.free.push(index);
        }
        Some(next)
    }

    /// A block that a frame brings home; `None` if it was not lent.
    pub fn take_returned(&mut self, loan_id: LoanId) -> Option<Returning> {
        if let Some(at) = self.returned.iter().position(|returned| returned.loan_id == loan_id) {
            let (allocation, len) = self.returned.swap_remove(at).block;
            return Some(Returning::Whole(allocation, len));
        }
        let entry = self.entry(loan_id)?;
        let (allocation, len) = entry.lent.as_ref()?;
        let shared = Returning::Shared(allocation.block(), *len);
        entry.copied += 1;
        Some(shared)
    }

    /// What [`take_returned`](Self::take_returned) said is shared has been copied.
    pub fn copied(&mut self, loan_id: LoanId, free: &mut Vec<Allocation>) {
        let Some(entry) = self.entry(loan_id) else { return };
        entry.copied -= 1;
        if entry.over && !entry.on_its_way {
            self.end(loan_id.index, free);
        }
    }

    /// The frame with this number has been dealt with: what nobody took of what it returning goes to `free`.
    pub fn forget(&mut self, frame: u64, free: &mut Vec<Allocation>) {
        free.extend(self.returned.extract_if(.., |returned| returned.frame == frame).map(|returned| returned.block.0));
    }

    fn entry(&mut self, loan_id: LoanId) -> Option<&mut LoanEntry> {
        let entry = self.entries.get_mut(loan_id.index as usize)?;
        (entry.generation == loan_id.generation && entry.lent.is_some()).then_some(entry)
    }

    /// What the peer says of the loan under `index`: the state, and what comes home with it; `None` if it says nothing.
    fn word(&self, index: u32) -> Option<(u64, LoanList)> {
        // Acquire: the block is written after this. Pairs with the Release in `Holder::say`.
        let word = self.held.words[index as usize].load(Acquire);
        let is_of_this = word as u32 >> 2 == self.entries[index as usize].generation;
        is_of_this.then_some((word & 3, LoanList::from_word(word >> 32)))
    }

    /// The peer will not look at it again.
    fn end(&mut self, index: u32, free: &mut Vec<Allocation>) {
        let entry = &mut self.entries[index as usize];
        if (entry.owned || entry.copied > 0) && entry.lent.is_some() {
            entry.over = true;
            return;
        }
        free.extend(entry.lent.take().map(|(allocation, _)| allocation));
        self.free.push(index);
    }
}

// ---- who holds -----------------------------------------------------------------------------------------------------

/// What one side holds of what the other has lent to it.
pub struct Holder {
    /// Written by this side, and never read back: the peer might have changed it.
    held: Placed<HeldTable>,
    /// What is held, by index; grows as far as it is needed.
    entries: Vec<ReceivedLoan>,
}

#[derive(Default)]
struct ReceivedLoan {
    /// 0 = not held.
    generation: u32,
    /// Whether a frame that is being written brings it home, and nobody here looks at it any more.
    returning: bool,
    release: bool,
    /// What that frame brings beside it.
    next: LoanList,
}

impl Holder {
    pub fn new(held: Placed<HeldTable>) -> Self {
        Self { held, entries: Vec::new() }
    }

    /// Keeps a block beyond its frame. `false` if it, or another one under the same index, is held already.
    pub fn take(&mut self, loan_id: LoanId) -> bool {
        let index = loan_id.index as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, ReceivedLoan::default);
        }
        if self.entries[index].generation != 0 {
            return false;
        }
        self.entries[index] = ReceivedLoan { generation: loan_id.generation, ..ReceivedLoan::default() };
        self.say(loan_id, TAKEN, &LoanList::default());
        true
    }

    /// Nobody here will look at a held block again.
    pub fn release(&mut self, loan_id: LoanId) {
        let entry = &mut self.entries[loan_id.index as usize];
        if entry.returning {
            entry.release = true;
        } else {
            self.done(loan_id);
        }
    }

    /// Brings a held block home with the frame that is being written, which `list` belongs to. `false` if it does so already.
    pub(crate) fn return_with(&mut self, loan_id: LoanId, list: &mut LoanList) -> bool {
        let entry = &mut self.entries[loan_id.index as usize];
        if entry.returning {
            return false;
        }
        entry.returning = true;
        entry.next = list.push(loan_id.index);
        true
    }

    /// The frame is about to be published. Returns what it says of the blocks that nobody looks at here any more. Of the others the peer
    /// makes copies: they stay in `list`, and nobody here may write to them until the frame has been dealt with and they are
    /// [discarded](Self::discard).
    pub fn send(&mut self, list: &mut LoanList) -> LoanList {
        let (mut returns, mut shared) = (LoanList::default(), LoanList::default());
        while let Some((loan_id, release)) = self.pop(list) {
            if release {
                self.entries[loan_id.index as usize].generation = 0;
                let next = returns.push(loan_id.index);
                self.say(loan_id, HOME, &next);
            } else {
                self.return_with(loan_id, &mut shared);
            }
        }
        *list = shared;
        returns
    }

    /// Whether a frame that has not been dealt with names it.
    pub(crate) fn is_being_returned(&self, loan_id: LoanId) -> bool {
        self.entries[loan_id.index as usize].returning
    }

    /// The frame has been dealt with, or will never be published.
    pub fn discard(&mut self, mut list: LoanList) {
        while let Some((loan_id, release)) = self.pop(&mut list) {
            if release {
                self.done(loan_id);
            }
        }
    }

    /// The next of what a frame brings, and whether nobody here looks at it any more.
    fn pop(&mut self, list: &mut LoanList) -> Option<(LoanId, bool)> {
        let index = list.first()?;
        let entry = &mut self.entries[index as usize];
        *list = std::mem::take(&mut entry.next);
        entry.returning = false;
        Some((LoanId { index, generation: entry.generation }, entry.release))
    }

    fn done(&mut self, loan_id: LoanId) {
        self.entries[loan_id.index as usize].generation = 0;
        self.say(loan_id, DONE, &LoanList::default());
    }

    fn say(&mut self, loan_id: LoanId, state: u64, next: &LoanList) {
        let word = next.to_word() << 32 | u64::from(loan_id.generation) << 2 | state;
        // Release: after the last look at the block. Pairs with the Acquire in `Lender::word`.
        self.held.words[loan_id.index as usize].store(word, Release);
        match state {
            TAKEN => failpoints::reach_here(Step::ParentBoxTaken, Step::ChildBoxTaken),
            DONE => failpoints::reach_here(Step::ParentBoxDone, Step::ChildBoxDone),
            _ => failpoints::reach_here(Step::ParentBoxHome, Step::ChildBoxHome),
        }
    }
}

/// What a frame says of a block that goes with it.
pub struct BoxRef {
    pub place: BlockRef,
    pub loan_id: LoanId,
}

impl BoxRef {
    /// How many bytes it has, which who receives it may have to copy.
    pub fn len(&self) -> u64 {
        self.place.len
    }
}

#[cfg(test)]
mod memfds {
    use crate::arena::Source;
    use crate::error::NoMemory;
    use callgate_os::mapping::{Mapping, Protection};
    use callgate_os::memfd;
    use std::cell::Cell;
    use std::sync::Arc;

    /// As much memory as anybody wants.
    pub(crate) struct Memfds;

    impl Source for Memfds {
        fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
            thread_local!(static NUMBERS: Cell<u64> = const { Cell::new(0) });
            let (mapping, _) = memfd::create_sealed("callgate-test", len as usize, Protection::ReadWrite).unwrap();
            NUMBERS.set(NUMBERS.get() + 1);
            Ok((NUMBERS.get(), Arc::new(mapping)))
        }

        fn shrink(&mut self, _: u64) {}
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::memfds::Memfds;
    use super::*;
    use crate::arena::{Arena, Limits};
    use crate::backing::Sealed;
    use crate::layout::Geometry;
    use crate::segment::Segment;

    /// Both sides of the same table, and blocks to lend.
    struct Sides {
        lender: Lender,
        holder: Holder,
        arena: Arena,
        freed: Vec<Allocation>,
    }

    impl Sides {
        fn new() -> Self {
            let geometry = Geometry { lanes: 1, slots: 2, slot_lines: 1, workers: 1 };
            let (segment, _) = Segment::create(geometry, &Sealed).unwrap();
            Self {
                lender: Lender::new(segment.held_by_child()),
                holder: Holder::new(segment.held_by_child()),
                arena: Arena::new(Limits { max_payload: 1 << 20, retained: 1 << 20 }),
                freed: Vec::new(),
            }
        }

        fn lend(&mut self, owned: bool, list: &mut LoanList) -> LoanId {
            let allocation = match self.freed.pop() {
                Some(allocation) => allocation,
                None => self.arena.allocate(4096, &mut Memfds).unwrap(),
            };
            self.lender.lend(allocation, 100, owned, list).unwrap()
        }

        fn finish_frame(&mut self, list: LoanList) -> usize {
            self.lender.finish_frame(list, &mut self.freed);
            self.freed.len()
        }

        fn collect(&mut self) -> usize {
            self.lender.collect(&mut self.freed);
            self.freed.len()
        }
    }

    #[test]
    fn what_nobody_took_is_back_when_the_frame_has_been_dealt_with() {
        let (mut sides, mut list) = (Sides::new(), LoanList::default());
        let loan_ids = [(); 5].map(|()| sides.lend(false, &mut list));
        assert!(sides.holder.take(loan_ids[1]) && sides.holder.take(loan_ids[3]));
        assert!(!sides.holder.take(loan_ids[3]), "nothing is held twice");
        assert_eq!(sides.finish_frame(list), 3);
        sides.holder.release(loan_ids[1]);
        assert_eq!(sides.collect(), 4);
        sides.holder.release(loan_ids[3]);
        assert_eq!((sides.collect(), sides.collect()), (5, 5));
        assert!(sides.lender.take_returned(loan_ids[1]).is_none());
    }

    #[test]
    fn what_its_owner_still_looks_at_comes_back_to_him_alone() {
        let (mut sides, mut list) = (Sides::new(), LoanList::default());
        let [reclaimed, disowned] = [(); 2].map(|()| sides.lend(true, &mut list));
        assert!(sides.holder.take(reclaimed) && sides.holder.take(disowned));
        assert_eq!(sides.finish_frame(list), 0);
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_none(), "the peer is still at it");
        sides.holder.release(reclaimed);
        sides.holder.release(disowned);
        assert_eq!(sides.collect(), 0);
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_some());
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_none());
        sides.lender.disown(disowned, &mut sides.freed);
        assert_eq!(sides.freed.len(), 1);
    }

    #[test]
    fn what_is_brought_home_is_whole_if_it_was_let_go_and_shared_if_not() {
        for settled_before in [false, true] {
            let (mut sides, mut list, mut returns) = (Sides::new(), LoanList::default(), LoanList::default());
            let [release, looked_at, lost] = [(); 3].map(|()| sides.lend(false, &mut list));
            for loan_id in [release, looked_at, lost] {
                assert!(sides.holder.take(loan_id) && sides.holder.return_with(loan_id, &mut returns));
                assert!(!sides.holder.return_with(loan_id, &mut returns), "once in a frame is enough");
            }
            sides.holder.release(release);
            sides.holder.release(lost);
            let coming = sides.holder.send(&mut returns);
            if settled_before {
                assert_eq!(sides.finish_frame(std::mem::take(&mut list)), 0);
            }
            let number = sides.lender.accept_returns(coming);
            assert!(matches!(sides.lender.take_returned(release), Some(Returning::Whole(_, 100))));
            assert!(sides.lender.take_returned(release).is_none(), "no block comes home twice");
            assert!(matches!(sides.lender.take_returned(looked_at), Some(Returning::Shared(_, 100))));
            assert_eq!(sides.finish_frame(list), 0);
            sides.lender.forget(number, &mut sides.freed);
            assert_eq!(sides.freed.len(), 1, "nobody took the third");
            sides.holder.release(looked_at);
            assert_eq!(sides.collect(), 1, "the frame names it");
            sides.holder.discard(returns);
            assert_eq!(sides.collect(), 1, "it is being copied");
            sides.lender.copied(looked_at, &mut sides.freed);
            assert_eq!(sides.freed.len(), 2);
        }
    }

    #[test]
    fn a_frame_that_is_not_sent_brings_nothing_home() {
        let (mut sides, mut list, mut returns) = (Sides::new(), LoanList::default(), LoanList::default());
        let [release, kept] = [(); 2].map(|()| sides.lend(false, &mut list));
        for loan_id in [release, kept] {
            assert!(sides.holder.take(loan_id) && sides.holder.return_with(loan_id, &mut returns));
        }
        assert_eq!(sides.finish_frame(list), 0);
        sides.holder.release(release);
        sides.holder.discard(returns);
        assert_eq!(sides.collect(), 1);
        sides.holder.release(kept);
        assert_eq!(sides.collect(), 2);
    }

    #[test]
    fn lies_bring_nothing_home_that_is_not_lent_and_no_chain_is_endless() {
        let mut sides = Sides::new();
        let write = |sides: &Sides, index: usize, word: u64| sides.holder.held.words[index].store(word, Release);
        for word in [0, u64::MAX, HOME, 1 << 2 | HOME, 2 << 32 | 1 << 2 | HOME] {
            write(&sides, 0, word);
            for head in [1, 2, LOANS as u64, u64::MAX] {
                let number = sides.lender.accept_returns(LoanList::from_word(head));
                sides.lender.forget(number, &mut sides.freed);
            }
            assert!(sides.freed.is_empty() && sides.lender.returned.is_empty());
        }
        // A ring of two that are lent, by who still looks at them or not.
        for owned in [false, true] {
            let mut sides = Sides::new();
            let mut list = LoanList::default();
            let loan_ids = [(); 2].map(|()| sides.lend(owned, &mut list));
            assert_eq!(loan_ids.map(|loan_id| loan_id.index), [0, 1]);
            write(&sides, 0, 2 << 32 | u64::from(loan_ids[0].generation) << 2 | HOME);
            write(&sides, 1, 1 << 32 | u64::from(loan_ids[1].generation) << 2 | HOME);
            let number = sides.lender.accept_returns(LoanList::from_word(1));
            assert_eq!(sides.lender.returned.len(), if owned { 0 } else { 2 });
            sides.lender.forget(number, &mut sides.freed);
            sides.finish_frame(list);
            loan_ids.into_iter().for_each(|loan_id| sides.lender.disown(loan_id, &mut sides.freed));
            sides.lender.forget(number, &mut sides.freed);
            assert_eq!(sides.freed.len(), 2, "each comes back once");
        }
    }

    #[test]
    fn there_is_an_end_to_lending() {
        let (mut sides, mut list) = (Sides::new(), LoanList::default());
        let loan_ids: Vec<_> = (0..LOANS).map(|_| sides.lend(false, &mut list)).collect();
        let allocation = sides.arena.allocate(4096, &mut Memfds).unwrap();
        assert!(sides.lender.lend(allocation, 0, false, &mut LoanList::default()).is_err());
        assert_eq!(sides.finish_frame(list), LOANS);
        let again = sides.lend(false, &mut LoanList::default());
        assert!(!loan_ids.contains(&again), "another generation");
        for loan_id in loan_ids {
            assert_eq!(LoanId::checked(loan_id.to_word()), Some(loan_id));
        }
        for word in [0, 5, 1 << 32 | LOANS as u64, u64::MAX] {
            assert_eq!(LoanId::checked(word), None);
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::memfds::Memfds;
    use super::*;
    use crate::arena::{Arena, Limits};
    use callgate_os::sync::AtomicU64;
    use callgate_os::sync::Ordering::Relaxed;
    use loom::sync::Arc;

    /// The holder changes the block, as a child may that is trusted, and is done with it: whoever gets it back sees that. (An atomic
    /// stands for the block.)
    #[test]
    fn loom_a_block_comes_back_with_what_was_written_to_it() {
        loom::model(|| {
            let table = || HeldTable { words: std::array::from_fn(|_| AtomicU64::new(0)) };
            let held = Placed::on_heap(table());
            let (mut lender, mut holder) = (Lender::new(held.clone()), Holder::new(held));
            let mut arena = Arena::new(Limits { max_payload: 1 << 20, retained: 0 });
            let (mut list, mut freed) = (LoanList::default(), Vec::new());
            let allocation = arena.allocate(1 << 17, &mut Memfds).unwrap();
            let loan_id = lender.lend(allocation, 1, false, &mut list).unwrap();
            assert!(holder.take(loan_id));
            lender.finish_frame(list, &mut freed);
            let block = Arc::new(AtomicU64::new(0));
            let written = block.clone();
            let holding = loom::thread::spawn(move || {
                written.store(1, Relaxed);
                holder.release(loan_id);
            });
            lender.collect(&mut freed);
            if !freed.is_empty() {
                assert_eq!(block.load(Relaxed), 1);
            }
            holding.join().unwrap();
            lender.collect(&mut freed);
            assert_eq!(freed.len(), 1);
        });
    }
}
