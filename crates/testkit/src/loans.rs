//! Fuzz target: lends blocks to a holder that writes what it likes, and compares with a model that knows who uses which block.

#![forbid(unsafe_code)]

use super::fake_child::{likely_loan_id, likely_word};
use super::input::Input;
use callgate_os::mapping::{HeapMemory, Mapping, Protection};
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::arena::{Allocation, Arena, Limits, Source};
use callgate_transport::backing::heap::Heap;
use callgate_transport::bounds::LOANS;
use callgate_transport::error::NoMemory;
use callgate_transport::layout::{DONE, Geometry, HeldTable};
use callgate_transport::loans::{Lender, LoanId, LoanList, Returning};
use callgate_transport::segment::{Placed, Segment};
use std::sync::Arc;

/// The most blocks lent at a time.
const MOST: usize = 64;

/// Lends blocks, finishes frames and takes blocks back as the input says, which also fills the holder's table.
///
/// No block may be freed or returned twice or while this side uses it, and all must be back in the end.
pub fn loans(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new();
    while !input.is_empty() {
        model.step(&mut input);
        model.take_freed();
    }
    model.end();
}

/// What the model expects of a loan.
struct Lent {
    loan_id: LoanId,
    /// The block's segment and offset.
    block: (u64, u64),
    /// Whether an owner on this side uses the block too.
    owned: bool,
    copied: u32,
}

struct Model {
    lender: Lender,
    held: Placed<HeldTable>,
    arena: Arena,
    memory: CountingMemory,
    /// The loans that have not come back.
    lent: Vec<Lent>,
    /// The loans of the frame being written.
    next: LoanList,
    /// The loans of the frames sent.
    sent: Vec<LoanList>,
    /// The peer's frames whose returned blocks are being taken.
    accepted: Vec<u64>,
    freed: Vec<Allocation>,
}

impl Model {
    fn new() -> Self {
        let geometry = Geometry { lanes: 1, slots: 2, slot_lines: 1, workers: 1 };
        let (segment, _) = Segment::create(geometry, &Heap::default()).expect("memory");
        Self {
            lender: Lender::new(segment.held_by_child()),
            held: segment.held_by_child(),
            arena: Arena::new(Limits { max_payload: 4096, retained: 1 << 20 }),
            memory: CountingMemory(0),
            lent: Vec::new(),
            next: LoanList::default(),
            sent: Vec::new(),
            accepted: Vec::new(),
            freed: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0 | 1 => self.lend(input.flag()),
            2 => self.sent.push(std::mem::take(&mut self.next)),
            3 => self.finish_frame(input.below(8)),
            4 | 5 => {
                let (index, word) = likely_word(input);
                self.held.words[index].store(word, Relaxed);
            }
            6 => self.lender.collect(&mut self.freed),
            7 => {
                let head = if input.flag() { input.odd_word() } else { input.below(7) as u64 };
                self.accepted.push(self.lender.accept_returns(LoanList::from_word(head)));
            }
            8 => self.take_returned(likely_loan_id(input)),
            9 => self.copied(input.below(8)),
            10 => self.forget(input.below(4)),
            _ => self.disown(input.below(8), input.flag()),
        }
    }

    fn lend(&mut self, owned: bool) {
        const { assert!(MOST <= LOANS) };
        if self.lent.len() >= MOST {
            return;
        }
        let allocation = self.arena.allocate(100, &mut self.memory).expect("as much as anybody wants");
        let block = place(&allocation);
        assert!(self.lent.iter().all(|lent| lent.block != block), "a block that is lent was lent again");
        let loan_id = self.lender.lend(allocation, 100, owned, &mut self.next).expect("loan ids are left");
        assert!(self.lent.iter().all(|lent| lent.loan_id != loan_id), "two loans with one id");
        self.lent.push(Lent { loan_id, block, owned, copied: 0 });
    }

    fn finish_frame(&mut self, at: usize) {
        if at < self.sent.len() {
            let chain = self.sent.swap_remove(at);
            self.lender.finish_frame(chain, &mut self.freed);
        }
    }

    fn take_returned(&mut self, word: u64) {
        let Some(loan_id) = LoanId::checked(word) else { return };
        let known = self.lent.iter_mut().find(|lent| lent.loan_id == loan_id);
        match (self.lender.take_returned(loan_id), known) {
            (None, _) => {}
            (Some(Returning::Shared(..)), Some(lent)) => lent.copied += 1,
            (Some(Returning::Whole(allocation, len)), Some(_)) => {
                assert_eq!(len, 100);
                self.freed.push(allocation);
            }
            (Some(_), None) => panic!("a block was returned that was not lent"),
        }
    }

    fn copied(&mut self, at: usize) {
        if let Some(lent) = self.lent.get_mut(at).filter(|lent| lent.copied > 0) {
            lent.copied -= 1;
            self.lender.copied(lent.loan_id, &mut self.freed);
        }
    }

    fn forget(&mut self, at: usize) {
        if at < self.accepted.len() {
            let frame = self.accepted.swap_remove(at);
            self.lender.forget(frame, &mut self.freed);
        }
    }

    /// The owner drops the block or, with `wants`, asks to have it back.
    fn disown(&mut self, at: usize, wants: bool) {
        let Some(lent) = self.lent.get_mut(at).filter(|lent| lent.owned) else { return };
        if !wants {
            lent.owned = false;
            return self.lender.disown(lent.loan_id, &mut self.freed);
        }
        if let Some(allocation) = self.lender.reclaim(lent.loan_id, &mut self.freed) {
            lent.owned = false;
            self.freed.push(allocation);
        }
    }

    /// Gives the freed blocks back to the arena, after a check that nobody uses them: the next request may get them.
    fn take_freed(&mut self) {
        while let Some(allocation) = self.freed.pop() {
            let at = self.lent.iter().position(|lent| lent.block == place(&allocation));
            let lent = self.lent.swap_remove(at.expect("what is freed was lent, and is freed once"));
            assert!(!lent.owned && lent.copied == 0, "a block was freed that somebody looks at");
            self.arena.free(allocation, &mut self.memory);
        }
    }

    /// Ends all frames and owners, has the holder honestly release the rest, and checks that every block came back.
    fn end(mut self) {
        self.sent.push(std::mem::take(&mut self.next));
        while !self.sent.is_empty() {
            self.finish_frame(0);
        }
        while !self.accepted.is_empty() {
            self.forget(0);
        }
        self.take_freed();
        for at in (0..self.lent.len()).rev() {
            while self.lent[at].copied > 0 {
                self.copied(at);
            }
            self.disown(at, false);
        }
        self.take_freed();
        for lent in &self.lent {
            let (index, generation) = (lent.loan_id.to_word() as u32 as usize, lent.loan_id.to_word() >> 32);
            self.held.words[index].store(generation << 2 | DONE, Relaxed);
        }
        self.lender.collect(&mut self.freed);
        self.take_freed();
        assert!(self.lent.is_empty(), "{} blocks never came back", self.lent.len());
    }
}

fn place(allocation: &Allocation) -> (u64, u64) {
    let name = allocation.reference(0);
    (name.segment, name.offset)
}

/// Unlimited memory. Holds the number of the last segment.
struct CountingMemory(u64);

impl Source for CountingMemory {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        self.0 += 1;
        Ok((self.0, Arc::new(Mapping::on_heap(&HeapMemory::new(len as usize), Protection::ReadWrite))))
    }

    fn shrink(&mut self, _: u64) {}
}

#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let (lend, owned, send, finish_frame) = ([0, 0].as_slice(), &[0, 1][..], &[2][..], &[3, 0][..]);
    // Writes the word of the loan at `index`, in the first generation, with its state and the next entry of its list.
    let says = |index: u8, state: u8, next: u8| [4, index, 1, state, next];
    let (taken, done, returned) = (1, 2, 3);
    let (collect, accept_returns) = ([6], |first: u8| [7, 0, first]);
    let (take, copied, forget) = (|index: u8| [8, index, 1], [9, 0], [10, 0]);
    vec![
        [lend, lend, send, finish_frame].concat(),
        [lend, send, &says(0, taken, 0), finish_frame, &says(0, done, 0), &collect].concat(),
        [owned, send, &says(0, taken, 0), finish_frame, &says(0, done, 0), &collect, &[11, 0, 1]].concat(),
        [
            lend,
            lend,
            send,
            &says(0, returned, 2),
            &says(1, returned, 0),
            &accept_returns(1),
            &take(1),
            &take(0),
            finish_frame,
            &forget,
        ]
        .concat(),
        [owned, send, &says(0, returned, 1), &accept_returns(1), &take(0), finish_frame, &[11, 0, 0], &copied, &forget]
            .concat(),
    ]
}
