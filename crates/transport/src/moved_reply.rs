//! A reply that was copied out of its slot unread, so that the slot is free before anybody wants the value.

#![forbid(unsafe_code)]

use crate::archive::copy_out;
use crate::commit::{ALIGN, Commit, Place};
use crate::layout::{INLINE, SlotLine};
use crate::ring::{Consumer, Frame};
use crate::segment::Span;
use callgate_os::sync::AtomicU64;
use rkyv::util::AlignedVec;

/// The copy of a reply that lay in a slot and carried nothing.
pub struct MovedReply {
    commit: Commit,
    line: SlotLine,
    bytes: AlignedVec<ALIGN>,
}

impl MovedReply {
    /// A copy of the next reply, which stays where it is; `None` if it is not there, breaks the protocol, lies in a block or carries something.
    pub fn of_next(replies: &Consumer) -> Option<Self> {
        let frame = replies.take().ok().flatten().filter(|frame| !frame.carries())?;
        let mut bytes = AlignedVec::new();
        copy_out(frame.payload, &mut bytes);
        let words: [u64; INLINE / 8] = std::array::from_fn(|at| {
            let word = bytes.get(at * 8..).unwrap_or_default();
            let mut padded = [0; 8];
            let len = word.len().min(8);
            padded[..len].copy_from_slice(&word[..len]);
            u64::from_ne_bytes(padded)
        });
        let line = SlotLine { commit: AtomicU64::new(0), call: AtomicU64::new(0), inline: words.map(AtomicU64::new) };
        Some(Self { commit: Commit { kind: frame.commit.kind, place: Place::Slot(bytes.len()) }, line, bytes })
    }

    /// The reply as if it lay in a slot.
    pub fn frame(&self) -> Frame<'_> {
        Frame { commit: self.commit, call: 0, line: &self.line, payload: Span::of(&self.bytes) }
    }
}
