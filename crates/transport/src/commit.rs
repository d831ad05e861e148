//! The commit word in front of a payload: what a frame is, and where its payload lies.
//!
//! Trusts no word that a peer may have written: a [`Commit`] exists only once it has been [checked](Commit::checked).

#![forbid(unsafe_code)]

use crate::layout::{LOAN_ID, PAYLOAD_OFFSET, SlotLine};
use crate::reading::DecodeRefusal;
use callgate_os::sync::Ordering::Relaxed;
use rkyv::{Archive, Deserialize, Serialize};

/// The alignment of every payload: in slots, in blocks, and in copies.
pub const ALIGN: usize = PAYLOAD_OFFSET;

/// The kind of a frame. 0 is no kind, so that a slot never written is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Request: build the service. Reply: it was built; no payload.
    Construct = 1,
    /// Request: call a method. Reply: its value.
    Call = 2,
    /// Request: add an interface to the table. Reply: done.
    Bind = 3,
    /// Request: drop the service and exit. Reply: it was dropped.
    Stop = 4,
    /// Reply: the callee panicked; the payload is a `Fault`.
    Fault = 5,
    /// Reply: the value exceeds the longest payload; the payload is a [`Limit`].
    TooLarge = 6,
    /// Reply: refused; the payload is a text.
    Refused = 7,
    /// Request: call a method, and answer only if that fails.
    Send = 8,
    /// Reply: there was no memory for the value; the payload is a [`Limit`].
    Exhausted = 9,
    /// Reply: a callback failed, or could not be run; the payload is a [`CallbackError`](crate::error::CallbackError).
    Failed = 10,
    /// Reply: the value, or the arguments, nest too deep or have too many elements; the payload is a [`Beyond`].
    Beyond = 11,
    /// Reply: the caller withdrew the request before it started, and it has not been carried out.
    Withdrawn = 12,
    /// Request: nothing. Reply: everything sent before on this lane has been carried out.
    Flush = 13,
    /// Reply: the method calls back; the payload is the callback's arguments, bits 1 to 15 of the call word its number.
    Ask = 14,
    /// Request: what the callback returned, which the last reply asked for.
    Answer = 15,
    /// Request: nobody wants the value of the method that the last reply was about: end it.
    Unwind = 16,
    /// Request: withdraw the call whose position is the call word, which has started. Only where calls are tasks.
    Cancel = 17,
}

/// Set in the kind's byte if the payload lies in an arena block and the slot holds a [`BlockRef`].
const IN_BLOCK: u8 = 0x80;

/// Set in the kind's byte of a request whose caller has withdrawn it: it is not carried out, unless it has started.
const WITHDRAWN: u8 = 0x40;

/// The kind's byte of a reply that is announced while it is written into a block. It has no kind, so it is no frame.
const WRITING: u8 = IN_BLOCK;

impl Kind {
    #[inline(always)]
    fn checked(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Construct,
            2 => Self::Call,
            3 => Self::Bind,
            4 => Self::Stop,
            5 => Self::Fault,
            6 => Self::TooLarge,
            7 => Self::Refused,
            8 => Self::Send,
            9 => Self::Exhausted,
            10 => Self::Failed,
            11 => Self::Beyond,
            12 => Self::Withdrawn,
            13 => Self::Flush,
            14 => Self::Ask,
            15 => Self::Answer,
            16 => Self::Unwind,
            17 => Self::Cancel,
            _ => return None,
        })
    }
}

/// The payload of [`Kind::TooLarge`] and [`Kind::Exhausted`].
#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
pub struct Limit {
    pub len: u64,
    pub max: u64,
}

/// The payload of [`Kind::Beyond`].
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub struct Beyond {
    /// Whether the arguments exceed the limit, and not the value.
    pub is_request: bool,
    /// Whether they nest too deep; otherwise they have too many elements without size.
    pub is_depth: bool,
    /// The limit, in words.
    pub limit: String,
}

impl Beyond {
    /// `None` for refusals that are about no limit.
    #[cold]
    pub fn of(refusal: DecodeRefusal, is_request: bool) -> Option<Self> {
        let is_depth = matches!(refusal, DecodeRefusal::Depth | DecodeRefusal::Stack { .. });
        Some(Self { is_request, is_depth, limit: refusal.limit()? })
    }
}

/// The contents of a checked commit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub kind: Kind,
    pub place: Place,
}

/// Where a frame's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the slot; the length in bytes, never more than the slot holds.
    Slot(usize),
    /// In a block of an arena. Not yet checked against the segments that exist.
    Block(BlockRef),
}

/// Names a payload in an arena: a segment, and the bytes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub segment: u64,
    pub offset: u64,
    pub len: u64,
    /// The loan under which the receiver may keep it beyond the frame, a [`LoanId`](crate::loans::LoanId) as a word; 0 = none.
    pub loan_id: u64,
}

/// The sequence of the frame at `position`: 32 bits of the commit word that tell it from frames of earlier laps in the slot.
#[inline(always)]
fn sequence(position: u64) -> u64 {
    position.wrapping_add(1) & 0xffff_ffff
}

impl Commit {
    /// The commit word for a frame at `position`.
    #[inline(always)]
    pub fn encode(self, position: u64) -> u64 {
        let (len, flag) = match self.place {
            Place::Slot(len) => (len as u64, 0),
            Place::Block(_) => (0, IN_BLOCK),
        };
        sequence(position) << 32 | len << 8 | u64::from(self.kind as u8 | flag)
    }

    /// Whether `word` publishes the frame at `position`. Does not check the rest of the word.
    #[inline(always)]
    pub(crate) fn is_at(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 & !WRITING != 0
    }

    /// The word of a request that has been withdrawn.
    pub(crate) fn withdrawn(word: u64) -> u64 {
        word | u64::from(WITHDRAWN)
    }

    /// Whether `word` says that its request has been withdrawn.
    #[inline(always)]
    pub(crate) fn is_withdrawn(word: u64) -> bool {
        word as u8 & WITHDRAWN != 0
    }

    /// The length that `word` gives to the frame at `position`, if it publishes it as a call, or a call's value, in a slot of `capacity` bytes, as nearly
    /// every word does.
    #[inline(always)]
    pub(crate) fn plain_len(word: u64, position: u64, capacity: usize) -> Option<usize> {
        let rest = word ^ (sequence(position) << 32 | Kind::Call as u64);
        // What is left is the length, if the upper and the lowest bits are as expected.
        (rest & 0xff == 0 && rest >> 8 <= capacity as u64).then_some((rest >> 8) as usize)
    }

    /// Whether `word` publishes the frame at `position` or a later one.
    pub(crate) fn is_at_or_past(word: u64, position: u64) -> bool {
        let laps = ((word >> 32) as u32).wrapping_sub(sequence(position) as u32);
        Self::is_at(word, position) || laps != 0 && laps < u32::MAX / 2
    }

    /// Whether `word` publishes or announces the frame at `position`.
    #[inline(always)]
    pub fn is_begun(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 != 0
    }

    /// Whether `word` announces the frame at `position`.
    pub(crate) fn is_writing(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 == WRITING
    }

    /// The word that announces the frame at `position`. `last` is the word that last announced it, or withdrew that. No two announcements of a
    /// frame are the same: the length field counts them.
    pub(crate) fn announcing(position: u64, last: u64) -> u64 {
        let count = if last >> 32 == sequence(position) { ((last >> 8) + 1) & 0xff_ffff } else { 0 };
        sequence(position) << 32 | count << 8 | u64::from(WRITING)
    }

    /// The word that withdraws the announcement `last`.
    pub(crate) fn taken_back(last: u64) -> u64 {
        last & !0xff
    }

    /// Checks the commit word of `line`, whose slot holds `capacity` bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy peer could have written it.
    #[inline(always)]
    pub fn checked(word: u64, line: &SlotLine, capacity: usize) -> Result<Self, &'static str> {
        let raw = (word & 0xff) as u8;
        let kind = Kind::checked(raw & !(IN_BLOCK | WITHDRAWN)).ok_or("a frame of unknown kind")?;
        let len = (word >> 8 & 0xff_ffff) as usize;
        if raw & IN_BLOCK != 0 {
            return Ok(Self { kind, place: Place::Block(BlockRef::load(line)) });
        }
        if len > capacity {
            return Err("a frame longer than its slot");
        }
        Ok(Self { kind, place: Place::Slot(len) })
    }
}

impl BlockRef {
    /// Reads the reference that [`store`](Self::store) wrote, unchecked.
    pub fn load(line: &SlotLine) -> Self {
        let [segment, offset, len, loan_id] = [0, 1, 2, LOAN_ID].map(|at: usize| line.inline[at].load(Relaxed));
        Self { segment, offset, len, loan_id }
    }

    /// Writes the reference where the slot's payload would begin.
    pub fn store(self, line: &SlotLine) {
        for (at, value) in [(0, self.segment), (1, self.offset), (2, self.len), (LOAN_ID, self.loan_id)] {
            line.inline[at].store(value, Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::segment::Slots;

    #[test]
    fn a_commit_word_says_what_was_put_in() {
        let slots = Slots::on_heap(2);
        let line = slots.line(0);
        for position in [0, 1, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX] {
            for kind in [Kind::Construct, Kind::Call, Kind::Refused] {
                let commit = Commit { kind, place: Place::Slot(48) };
                let word = commit.encode(position);
                assert!(Commit::is_at(word, position));
                assert!(!Commit::is_at(word, position.wrapping_add(2)));
                assert_eq!(Commit::checked(word, line, 48), Ok(commit));
            }
        }
        assert!(!Commit::is_at(0, u64::from(u32::MAX)), "a slot never written is no frame");
    }

    #[test]
    fn a_plain_word_is_what_a_checked_one_is_of_a_call_in_a_slot() {
        let slots = Slots::on_heap(2);
        let line = slots.line(0);
        for position in [0, 1, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX] {
            let sequences = [sequence(position), sequence(position) ^ 1, 0, 0xffff_ffff];
            for (sequence, len, kind) in sequences
                .into_iter()
                .flat_map(|sequence| [0, 1, 47, 48, 49, 0xff_ffff].map(|len| (sequence, len)))
                .flat_map(|(sequence, len)| (0..=255u64).map(move |kind| (sequence, len, kind)))
            {
                let word = sequence << 32 | len << 8 | kind;
                let checked = Commit::is_at(word, position).then(|| Commit::checked(word, line, 48).ok()).flatten();
                let plain = Commit::plain_len(word, position, 48);
                let len = checked.and_then(|commit| match commit {
                    Commit { kind: Kind::Call, place: Place::Slot(len) } if !Commit::is_withdrawn(word) => Some(len),
                    _ => None,
                });
                assert_eq!(plain, len, "{word:x} at {position}");
            }
        }
    }

    #[test]
    fn a_commit_word_that_nobody_healthy_writes_is_refused() {
        let slots = Slots::on_heap(2);
        let line = slots.line(0);
        for len in [49u64, 1000, 0xff_ffff] {
            let word = 1 << 32 | len << 8 | Kind::Call as u64;
            assert!(Commit::checked(word, line, 48).is_err(), "length {len}");
        }
        for kind in (0..=255u64)
            .filter(|kind| ![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17].contains(&(kind & 0x3f)))
        {
            assert!(Commit::checked(1 << 32 | kind, line, 48).is_err(), "kind {kind}");
        }
    }
}
