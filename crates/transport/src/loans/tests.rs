//! Both sides of one table: honest, hostile, and under loom.

#![forbid(unsafe_code)]

mod memfds {
    use crate::arena::Source;
    use crate::error::NoMemory;
    use callgate_os::mapping::{Mapping, Protection};
    use callgate_os::memfd;
    use std::cell::Cell;
    use std::sync::Arc;

    /// A source that never runs out.
    pub(super) struct Memfds;

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

#[cfg(not(loom))]
mod sides {
    use super::super::*;
    use super::memfds::Memfds;
    use crate::arena::{Arena, Limits};
    use crate::backing::SealedMemfds;
    use crate::layout::Geometry;
    use crate::segment::Segment;

    /// Both sides of the same table, and blocks to lend.
    struct LoanSides {
        lender: Lender,
        holder: Holder,
        arena: Arena,
        freed: Vec<Allocation>,
    }

    impl LoanSides {
        fn new() -> Self {
            let geometry = Geometry { lanes: 1, slots: 2, slot_lines: 1, workers: 1 };
            let (segment, _) = Segment::create(geometry, &SealedMemfds).unwrap();
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
    fn blocks_that_were_not_taken_are_free_when_their_frame_is_finished() {
        let (mut sides, mut list) = (LoanSides::new(), LoanList::default());
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
    fn a_block_that_its_owner_still_uses_goes_back_to_the_owner_alone() {
        let (mut sides, mut list) = (LoanSides::new(), LoanList::default());
        let [reclaimed, disowned] = [(); 2].map(|()| sides.lend(true, &mut list));
        assert!(sides.holder.take(reclaimed) && sides.holder.take(disowned));
        assert_eq!(sides.finish_frame(list), 0);
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_none(), "the peer still uses it");
        sides.holder.release(reclaimed);
        sides.holder.release(disowned);
        assert_eq!(sides.collect(), 0);
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_some());
        assert!(sides.lender.reclaim(reclaimed, &mut sides.freed).is_none());
        sides.lender.disown(disowned, &mut sides.freed);
        assert_eq!(sides.freed.len(), 1);
    }

    #[test]
    fn a_returned_block_is_whole_if_it_was_released_and_shared_if_not() {
        for finished_before in [false, true] {
            let (mut sides, mut list, mut returns) = (LoanSides::new(), LoanList::default(), LoanList::default());
            let [released, used, untaken] = [(); 3].map(|()| sides.lend(false, &mut list));
            for loan_id in [released, used, untaken] {
                assert!(sides.holder.take(loan_id) && sides.holder.return_with(loan_id, &mut returns));
                assert!(!sides.holder.return_with(loan_id, &mut returns), "a frame names a block once");
            }
            sides.holder.release(released);
            sides.holder.release(untaken);
            let call = sides.holder.send(&mut returns);
            if finished_before {
                assert_eq!(sides.finish_frame(std::mem::take(&mut list)), 0);
            }
            let number = sides.lender.accept_returns(call);
            assert!(matches!(sides.lender.take_returned(released), Some(Returning::Whole(_, 100))));
            assert!(sides.lender.take_returned(released).is_none(), "no block is returned twice");
            assert!(matches!(sides.lender.take_returned(used), Some(Returning::Shared(_, 100))));
            assert_eq!(sides.finish_frame(list), 0);
            sides.lender.forget(number, &mut sides.freed);
            assert_eq!(sides.freed.len(), 1, "no value took the third");
            sides.holder.release(used);
            assert_eq!(sides.collect(), 1, "the frame names it");
            sides.holder.discard(returns);
            assert_eq!(sides.collect(), 1, "it is being copied");
            sides.lender.copied(used, &mut sides.freed);
            assert_eq!(sides.freed.len(), 2);
        }
    }

    #[test]
    fn a_frame_that_is_not_sent_returns_nothing() {
        let (mut sides, mut list, mut returns) = (LoanSides::new(), LoanList::default(), LoanList::default());
        let [released, kept] = [(); 2].map(|()| sides.lend(false, &mut list));
        for loan_id in [released, kept] {
            assert!(sides.holder.take(loan_id) && sides.holder.return_with(loan_id, &mut returns));
        }
        assert_eq!(sides.finish_frame(list), 0);
        sides.holder.release(released);
        sides.holder.discard(returns);
        assert_eq!(sides.collect(), 1);
        sides.holder.release(kept);
        assert_eq!(sides.collect(), 2);
    }

    #[test]
    fn lies_return_no_block_that_is_not_lent_and_every_list_ends() {
        let mut sides = LoanSides::new();
        let write = |sides: &LoanSides, index: usize, word: u64| sides.holder.held.words[index].store(word, Release);
        for word in [0, u64::MAX, RETURNED, 1 << 2 | RETURNED, 2 << 32 | 1 << 2 | RETURNED] {
            write(&sides, 0, word);
            for head in [1, 2, LOANS as u64, u64::MAX] {
                let number = sides.lender.accept_returns(LoanList::from_word(head));
                sides.lender.forget(number, &mut sides.freed);
            }
            assert!(sides.freed.is_empty() && sides.lender.returned.is_empty());
        }
        // A ring of two lent blocks, still used here or not.
        for owned in [false, true] {
            let mut sides = LoanSides::new();
            let mut list = LoanList::default();
            let loan_ids = [(); 2].map(|()| sides.lend(owned, &mut list));
            assert_eq!(loan_ids.map(|loan_id| loan_id.index), [0, 1]);
            write(&sides, 0, 2 << 32 | u64::from(loan_ids[0].generation) << 2 | RETURNED);
            write(&sides, 1, 1 << 32 | u64::from(loan_ids[1].generation) << 2 | RETURNED);
            let number = sides.lender.accept_returns(LoanList::from_word(1));
            assert_eq!(sides.lender.returned.len(), if owned { 0 } else { 2 });
            sides.lender.forget(number, &mut sides.freed);
            sides.finish_frame(list);
            loan_ids.into_iter().for_each(|loan_id| sides.lender.disown(loan_id, &mut sides.freed));
            sides.lender.forget(number, &mut sides.freed);
            assert_eq!(sides.freed.len(), 2, "each is freed once");
        }
    }

    #[test]
    fn lending_ends_when_the_table_is_full() {
        let (mut sides, mut list) = (LoanSides::new(), LoanList::default());
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

#[cfg(loom)]
mod model {
    use super::super::*;
    use super::memfds::Memfds;
    use crate::arena::{Arena, Limits};
    use callgate_os::sync::AtomicU64;
    use callgate_os::sync::Ordering::Relaxed;
    use loom::sync::Arc;

    /// The holder writes to the block, as a trusted child may, and releases it: the lender then sees what was written. (An atomic stands for
    /// the block.)
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
