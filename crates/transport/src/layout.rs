//! Everything that lies in shared memory, declared once.
//!
//! ```text
//! segment   | Header | WorkerLine 0, 1, .. | lane 0 | lane 1 | .. | HeldTable 0, 1 | LastWords   (lane n belongs to worker n % workers)
//! lane      | CallerLine | CalleeLine | DeadlineEntry 0 .. | request slot 0 .. | reply slot 0 .. |      (rings of `slots` slots)
//! slot      | SlotLine: commit 8 | call 8 | payload 48 | payload, 64 bytes a line .. |
//! ```
//!
//! All types are `repr(C)` and made of atomics: no reference to plain bytes that the peer can write ever exists.
//! All offsets follow from a [`Geometry`], which the parent chooses and sends to the child.

#![forbid(unsafe_code)]

use crate::bounds::{LAST_WORDS, LOANS};
use callgate_os::futex::Futex;
use callgate_os::futex::SharedScope;
use callgate_os::sync::{AtomicU32, AtomicU64};

/// Bytes in a cache line, on all supported machines.
pub const LINE: usize = 64;

/// The distance between words that different sides write: processors fetch cache lines in pairs.
pub const APART: usize = 128;

/// The first bytes of a segment.
pub const MAGIC: u64 = u64::from_le_bytes(*b"callgate");

/// The version of this layout, and of frames and messages.
pub const PROTOCOL: u32 = 6;

/// Bytes of payload in a slot's first line.
pub const INLINE: usize = LINE - PAYLOAD_OFFSET;

/// Where the payload begins in a slot; archives are aligned to it.
pub(crate) const PAYLOAD_OFFSET: usize = 16;

/// The first line of a slot. A small call fits into this one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct SlotLine {
    /// `sequence << 32 | length << 8 | kind`, see `commit::Commit`. Written last, with Release; 0 = never written.
    pub commit: AtomicU64,
    /// Requests: `depth << 56 | returns << 32 | interface << 16 | method`. Replies: `returns << 32 | answers << 1`, and 1 if it carries anything;
    /// `answers` is 0 where calls are answered in their order, see `ring::Frame::answers`. `returns` = the first of
    /// the receiver's own blocks that the frame returns, see `loans::LoanList`.
    pub call: AtomicU64,
    /// The first bytes of the payload, or a `commit::BlockRef`. While a reply is written into a block: the `BlockRef` of all that it
    /// may fill there, and the words at [`MARK`] and [`EXPECTED`].
    pub inline: [AtomicU64; INLINE / 8],
}

/// The word of an announced reply that says how many of its first bytes are final.
pub const MARK: usize = 3;

/// The word of an announced reply that says about how long it will be.
pub const EXPECTED: usize = 4;

/// The word of a `commit::BlockRef` that holds its loan id.
pub(crate) const LOAN_ID: usize = 5;

/// The doorbell at which one thread waits for another process. The waiter writes the line; the notifier writes it only to wake.
#[derive(Debug)]
#[repr(C)]
pub struct BellLine {
    /// [`AWAKE`], [`PARKED`] or [`LISTENED`].
    ///
    /// | from | to | who | when |
    /// |---|---|---|---|
    /// | AWAKE | PARKED | waiter | before its last look at the commit word, and its sleep |
    /// | PARKED | AWAKE | notifier | after it has published, before it wakes |
    /// | PARKED | AWAKE | waiter | when it no longer sleeps |
    /// | AWAKE | LISTENED | caller | it leaves the lane, and is to be told of the next reply by the bridge's ring |
    /// | LISTENED | AWAKE | notifier | after it has published, before it rings |
    /// | LISTENED | PARKED, AWAKE | caller | a thread waits at the lane again, or nobody is to be told |
    pub parked: Futex<SharedScope>,
    /// The CPU that the waiter last ran on, plus 1; 0 = not known.
    pub cpu: AtomicU32,
}

/// The waiter runs, or will look again before it sleeps.
pub const AWAKE: u32 = 0;
/// The waiter sleeps, or is about to.
pub const PARKED: u32 = 1;
/// Nobody sleeps here: the notifier rings the one ring of the bridge instead.
pub const LISTENED: u32 = 2;

/// What the caller of a lane writes besides requests. The callee reads it after each reply.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct CallerLine {
    /// The caller waits here for replies.
    pub bell: BellLine,
    /// Every reply before this position has been copied: blocks that held them are free again.
    pub released: AtomicU64,
    /// Not 0 once the caller has left the lane for good: a call that has not started must not start any more.
    pub gone: AtomicU32,
    /// The chain of the nested call under way, see `callgate_engine::nest`. Meaningless for calls that are not nested.
    pub chain: AtomicU64,
}

/// What the callee of a lane writes besides replies. The caller reads it only when a call has failed.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct CalleeLine {
    /// The position of the last call that has started, plus 1. Written just before its method runs.
    pub started: AtomicU64,
    /// [`UNFENCED`] if the caller cannot order what the callee has written by a barrier of its own (`callgate_os::barrier`). Written before the callee
    /// takes a request.
    pub fenced: AtomicU32,
    /// The position of the last one-way request that was carried out and not answered, plus 1.
    pub passed: AtomicU64,
}

/// The deadline of one request: that of `position`, if `of` is `position` plus 1. Written before the request is published, and only if it has one, so
/// that a call without a timeout touches no line of the table.
#[derive(Debug)]
#[repr(C)]
pub struct DeadlineEntry {
    pub of: AtomicU64,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub nanos: AtomicU64,
}

/// The doorbell of one worker of the child, and the lanes it must look at.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct WorkerLine {
    pub bell: BellLine,
    /// How many of this worker's lanes it must look at: those beyond have never been used. [`ENDING`] = the worker must answer all published
    /// requests and then end. Only ever rises.
    ///
    /// | to | who | when |
    /// |---|---|---|
    /// | a lane's place + 1 | caller of the lane | before it publishes its first request there |
    /// | ENDING | the thread that stops the bridge | before, or instead of, a request to stop |
    /// | ENDING | the worker | when it finds a request to stop, which it carries out last |
    pub lanes_in_use: AtomicU32,
}

/// The kernel of the callee has no `membarrier`, or forbids it.
pub const UNFENCED: u32 = 1;

/// A value above any number of lanes: the worker answers what is published, then ends.
pub const ENDING: u32 = u32::MAX;

/// The blocks that one side holds of those the other has lent: one word for each loan, written by the holder, read by the lender.
///
/// A word is `next << 32 | generation << 2 | state`.
///
/// | from | to | who | when |
/// |---|---|---|---|
/// | anything | TAKEN | holder | keeps the block beyond the frame that named it |
/// | TAKEN | DONE | holder | no longer uses the block |
/// | TAKEN | RETURNED | holder | before it publishes a frame that returns the block; `next` = the next index in the list of that frame, plus 1 |
///
/// A word of another generation is not of this loan: its block was not taken.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct HeldTable {
    pub words: [AtomicU64; LOANS],
}

/// The block is held.
pub const TAKEN: u64 = 1;
/// The block is no longer held.
pub const DONE: u64 = 2;
/// A frame returns the block.
pub const RETURNED: u64 = 3;

/// A child's report of why it ends. The child writes it; the parent reads it once the child is dead, and trusts nothing in it.
///
/// `state` is `length << 8 | state`.
///
/// | from | to | who | when |
/// |---|---|---|---|
/// | anything | SILENT | child | before it changes the text, and when the text no longer holds |
/// | SILENT | PANICKING | child | a thread panics, or may have overflowed its stack |
/// | PANICKING, SILENT | FINAL | child | the process ends for this reason |
#[derive(Debug)]
#[repr(C, align(128))]
pub struct LastWords {
    pub state: AtomicU64,
    /// Text, 8 bytes a word.
    pub text: [AtomicU64; LAST_WORDS],
}

/// No report.
pub const SILENT: u64 = 0;
/// A report that may not be the last one.
pub const PANICKING: u64 = 1;
/// The reason for which the process ends.
pub const FINAL: u64 = 2;

/// The first bytes of a segment: written by the parent before the child exists.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Header {
    pub magic: AtomicU64,
    pub protocol: AtomicU32,
    pub lanes: AtomicU32,
    pub slots: AtomicU32,
    pub slot_lines: AtomicU32,
    pub workers: AtomicU32,
    /// Not 0 if calls are answered as they end, not in the order of their requests: see `callgate_engine::lane`.
    pub unordered: AtomicU32,
    /// A call that worker n runs and that is not nested begins the chain with this number + n + 1, see `callgate_engine::nest`.
    pub chains: AtomicU64,
}

/// The sizes that determine all offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Lanes, 1 to 64.
    pub lanes: u32,
    /// Slots in each ring: a power of two, 2 to 4096.
    pub slots: u32,
    /// Cache lines in a slot: odd, so that slots of one ring spread over all sets of the L1 cache. 1 to 1023.
    pub slot_lines: u32,
    /// Threads of the child that serve the lanes, lane n by worker n % workers: 1 to 64, and no more than lanes.
    pub workers: u32,
}

impl Geometry {
    pub const LANES: std::ops::RangeInclusive<u32> = 1..=64;
    pub const SLOTS: std::ops::RangeInclusive<u32> = 2..=4096;
    pub const SLOT_LINES: std::ops::RangeInclusive<u32> = 1..=1023;
    pub const WORKERS: std::ops::RangeInclusive<u32> = 1..=64;

    /// Whether all sizes are in range.
    pub(crate) fn is_valid(&self) -> bool {
        Self::LANES.contains(&self.lanes)
            && Self::SLOTS.contains(&self.slots)
            && self.slots.is_power_of_two()
            && Self::SLOT_LINES.contains(&self.slot_lines)
            && self.slot_lines % 2 == 1
            && Self::WORKERS.contains(&self.workers)
            && self.workers <= self.lanes
    }

    /// Bytes from one slot to the next.
    pub fn stride(&self) -> usize {
        self.slot_lines as usize * LINE
    }

    /// Bytes of payload that a slot holds.
    pub fn capacity(&self) -> usize {
        self.stride() - PAYLOAD_OFFSET
    }

    fn ring_len(&self) -> usize {
        (self.slots as usize * self.stride()).next_multiple_of(APART)
    }

    fn deadlines_len(&self) -> usize {
        (self.slots as usize * size_of::<DeadlineEntry>()).next_multiple_of(APART)
    }

    fn lane_len(&self) -> usize {
        size_of::<CallerLine>() + size_of::<CalleeLine>() + self.deadlines_len() + 2 * self.ring_len()
    }

    /// The lanes that worker `index` serves, in order.
    pub fn lanes_of(&self, index: u32) -> impl Iterator<Item = u32> + use<> {
        (index..self.lanes).step_by(self.workers as usize)
    }

    /// The worker that serves lane `index`, and the lane's place among those that this worker serves.
    pub fn worker_of(&self, index: u32) -> (u32, u32) {
        (index % self.workers, index / self.workers)
    }

    /// Where the line of worker `index` lies.
    pub fn worker_line(&self, index: u32) -> usize {
        size_of::<Header>() + index as usize * size_of::<WorkerLine>()
    }

    /// Where lane `index` begins, with its caller's line.
    pub fn caller_line(&self, index: u32) -> usize {
        self.worker_line(self.workers) + index as usize * self.lane_len()
    }

    /// Where the callee's line of lane `index` lies.
    pub fn callee_line(&self, index: u32) -> usize {
        self.caller_line(index) + size_of::<CallerLine>()
    }

    /// Where the deadlines of lane `index` begin, one for each slot of its request ring.
    pub fn deadlines(&self, index: u32) -> usize {
        self.callee_line(index) + size_of::<CalleeLine>()
    }

    /// Where the request ring of lane `index` begins.
    pub fn requests(&self, index: u32) -> usize {
        self.deadlines(index) + self.deadlines_len()
    }

    /// Where the reply ring of lane `index` begins.
    pub fn replies(&self, index: u32) -> usize {
        self.requests(index) + self.ring_len()
    }

    /// Where the child says what it holds of the parent's blocks.
    pub fn held_by_child(&self) -> usize {
        self.caller_line(self.lanes)
    }

    /// Where the parent says what it holds of the child's blocks.
    pub fn held_by_parent(&self) -> usize {
        self.held_by_child() + size_of::<HeldTable>()
    }

    /// Where the child says why it ends.
    pub fn last_words(&self) -> usize {
        self.held_by_parent() + size_of::<HeldTable>()
    }

    /// Bytes in the whole segment.
    pub fn segment_len(&self) -> usize {
        self.last_words() + size_of::<LastWords>()
    }
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(cfg!(target_endian = "little"), "archives are little-endian and read in place");
    assert!(size_of::<usize>() == 8);
    assert!(size_of::<SlotLine>() == LINE && align_of::<SlotLine>() == LINE);
    assert!(offset_of!(SlotLine, commit) == 0);
    assert!(offset_of!(SlotLine, call) == 8);
    assert!(offset_of!(SlotLine, inline) == PAYLOAD_OFFSET);
    assert!(INLINE == 48);
    assert!(size_of::<BellLine>() == 8 && offset_of!(BellLine, parked) == 0 && offset_of!(BellLine, cpu) == 4);
    assert!(size_of::<CallerLine>() == APART && align_of::<CallerLine>() == APART);
    assert!(offset_of!(CallerLine, bell) == 0 && offset_of!(CallerLine, released) == 8);
    assert!(offset_of!(CallerLine, gone) == 16 && offset_of!(CallerLine, chain) == 24);
    assert!(size_of::<CalleeLine>() == APART && offset_of!(CalleeLine, started) == 0);
    assert!(offset_of!(CalleeLine, fenced) == 8 && offset_of!(CalleeLine, passed) == 16);
    assert!(size_of::<DeadlineEntry>() == 16 && offset_of!(DeadlineEntry, nanos) == 8);
    assert!(size_of::<WorkerLine>() == APART && align_of::<WorkerLine>() == APART);
    assert!(offset_of!(WorkerLine, bell) == 0 && offset_of!(WorkerLine, lanes_in_use) == 8);
    assert!(size_of::<HeldTable>() == 8 * LOANS && align_of::<HeldTable>() == APART);
    assert!(size_of::<LastWords>() == 2048 && align_of::<LastWords>() == APART && offset_of!(LastWords, text) == 8);
    assert!(size_of::<Header>() == APART && offset_of!(Header, magic) == 0);
    assert!(offset_of!(Header, protocol) == 8 && offset_of!(Header, lanes) == 12);
    assert!(offset_of!(Header, slots) == 16 && offset_of!(Header, slot_lines) == 20);
    assert!(
        offset_of!(Header, workers) == 24 && offset_of!(Header, unordered) == 28 && offset_of!(Header, chains) == 32
    );
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_everything_is_aligned() {
        for (lanes, slots, slot_lines, workers) in [(1, 2, 1, 1), (8, 32, 9, 1), (9, 2, 1, 4), (64, 4096, 1023, 64)] {
            let geometry = Geometry { lanes, slots, slot_lines, workers };
            assert!(geometry.is_valid());
            assert!(geometry.worker_line(0) >= size_of::<Header>());
            for worker in 0..workers {
                assert_eq!(geometry.worker_line(worker) % APART, 0);
                assert!(geometry.worker_line(worker) + size_of::<WorkerLine>() <= geometry.worker_line(worker + 1));
            }
            assert!(geometry.worker_line(workers) <= geometry.caller_line(0));
            let ring = slots as usize * geometry.stride();
            for lane in 0..lanes {
                assert_eq!(geometry.caller_line(lane) % APART, 0);
                assert_eq!(geometry.requests(lane) % APART, 0);
                assert!(
                    geometry.deadlines(lane) + slots as usize * size_of::<DeadlineEntry>() <= geometry.requests(lane)
                );
                assert!(geometry.requests(lane) + ring <= geometry.replies(lane));
                assert!(geometry.replies(lane) + ring <= geometry.caller_line(lane + 1));
            }
            assert!(geometry.caller_line(lanes) <= geometry.held_by_child());
            for table in [geometry.held_by_child(), geometry.held_by_parent()] {
                assert!(table % APART == 0 && table + size_of::<HeldTable>() <= geometry.segment_len());
            }
            assert!(geometry.held_by_child() + size_of::<HeldTable>() <= geometry.held_by_parent());
            assert!(geometry.last_words().is_multiple_of(APART) && geometry.last_words() < geometry.segment_len());
            assert!(geometry.held_by_parent() + size_of::<HeldTable>() <= geometry.last_words());
        }
    }

    #[test]
    fn every_lane_has_one_worker_and_every_worker_a_lane() {
        for (lanes, workers) in [(1, 1), (8, 1), (8, 3), (9, 4), (64, 64)] {
            let geometry = Geometry { lanes, slots: 2, slot_lines: 1, workers };
            let mut served = vec![0; lanes as usize];
            for worker in 0..workers {
                for (place, lane) in geometry.lanes_of(worker).enumerate() {
                    assert_eq!(geometry.worker_of(lane), (worker, place as u32));
                    served[lane as usize] += 1;
                }
                assert!(geometry.lanes_of(worker).count() > 0, "worker {worker} of {workers}");
            }
            assert_eq!(served, vec![1; lanes as usize]);
        }
        for (lanes, workers) in [(1, 0), (1, 2), (64, 65)] {
            assert!(!Geometry { lanes, slots: 2, slot_lines: 1, workers }.is_valid());
        }
    }
}
