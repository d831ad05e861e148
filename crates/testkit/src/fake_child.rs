//! A bridge whose child is the fuzzer: a real link and caller of the parent, and everything that a child can write.

#![forbid(unsafe_code)]

use super::input::Input;
use callgate_engine::caller::{Caller, QueueLimits};
use callgate_engine::control::{Control, Message};
use callgate_engine::link::{Link, LinkParts, MemoryOptions};
use callgate_engine::watcher::Watched;
use callgate_os::pidfd::Pidfd;
use callgate_os::socket::{self, BlockingMode};
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::backing::Backing;
use callgate_transport::doorbell::Wait;
use callgate_transport::encode::encode_to_vec;
use callgate_transport::layout::{Geometry, INLINE, SlotLine};
use callgate_transport::segment::Segment;
use callgate_transport::shared_box::SharedBox;
use callgate_transport::wake::{Count, ParentBells, Signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The service that the child pretends to serve. Never constructed.
struct Nothing;

#[callgate::bridge]
impl Nothing {
    pub fn new() -> Self {
        Nothing
    }
}

pub(super) struct FakeChild {
    pub(super) link: Arc<Link>,
    pub(super) caller: Arc<Caller>,
    pub(super) segment: Segment,
    /// The child's end of the control socket.
    pub(super) child: Control,
}

/// Two lanes of four slots; each slot holds 48 + 128 bytes of payload.
const GEOMETRY: Geometry = Geometry { workers: 1, lanes: 2, slots: 4, slot_lines: 3 };

/// Memory of the bridge. Half of it is the child's.
const MEMORY: MemoryOptions = MemoryOptions { max_payload: 1 << 18, total: 1 << 20, retained: 1 << 20, trust: None };

impl FakeChild {
    pub(super) fn new(backing: Arc<dyn Backing>) -> Self {
        Self::with(backing, MEMORY)
    }

    pub(super) fn with(backing: Arc<dyn Backing>, memory: MemoryOptions) -> Self {
        let (segment, _) = Segment::create(GEOMETRY, &*backing).expect("a segment");
        let bells = ParentBells::new(Signal::Futex, Count::of(&GEOMETRY), &*backing).expect("futexes need nothing");
        let (parent, child) = socket::pair().expect("a pair of sockets");
        let link = Link::new(1, Pidfd::of_nobody(), parent, &segment, LinkParts { memory, backing, bells, kept: None });
        let caller = Caller::new::<Nothing>(&segment, link.clone(), Wait::Park, None, QueueLimits::DEFAULT);
        Self { link, caller, segment, child: Control::new(child) }
    }

    /// Sends a message as the child and has the parent read it. Returns whether the parent goes on reading.
    pub(super) fn tell(&self, message: Message) -> bool {
        // Sending fails when the socket is full; then the parent has enough to read.
        let _ = self.child.send(message, None);
        self.link.read_control()
    }

    /// Has the child ask for a segment of `len` bytes. Returns the segment's number, if granted, with its memory if that came as a descriptor.
    pub(super) fn need(&self, len: u64) -> Option<(u64, Option<OwnedFd>)> {
        self.tell(Message::Need { len });
        let mut granted = None;
        while let Ok(Some((message, object))) = self.child.receive(BlockingMode::No) {
            if let Message::Grant { segment } = message {
                granted = Some((segment, object));
            }
        }
        let (segment, object) = granted?;
        if self.tell(Message::Mapped { segment }) {
            // The parent answers that frames may name the segment, or the socket has ended. A child gives nothing back before that.
            let _ = self.child.receive(BlockingMode::Yes);
        }
        Some((segment, object))
    }
}

/// Writes the part of `payload` that belongs into a slot's first line.
pub(super) fn in_line(line: &SlotLine, payload: &[u8]) {
    let mut first = [0; INLINE];
    let len = payload.len().min(INLINE);
    first[..len].copy_from_slice(&payload[..len]);
    for (word, bytes) in line.inline.iter().zip(first.as_chunks().0) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
}

/// The archive of a box, or of a vector of boxes, each of which names `[segment, offset, len, loan_id]`.
pub(super) fn boxed(names: &[[u64; 4]]) -> Vec<u8> {
    let empty = || SharedBox::<[u8]>::zeroed(0).expect("no bytes need no memory");
    let archive = match names {
        [_] => encode_to_vec(&empty(), 1 << 16),
        _ => encode_to_vec(&names.iter().map(|_| empty()).collect::<Vec<_>>(), 1 << 16),
    };
    let mut bytes = archive.expect("short").to_vec();
    for (archived, name) in bytes.chunks_exact_mut(ARCHIVED).zip(names) {
        archived[ARCHIVED - 32..].copy_from_slice(name.map(u64::to_le_bytes).as_flattened());
    }
    bytes
}

/// Bytes in an archived box: the position and length of inline contents, and four words.
const ARCHIVED: usize = 48;

/// A loan id that is small enough to be likely to exist.
pub(super) fn likely_loan_id(input: &mut Input<'_>) -> u64 {
    let (index, generation) = (input.below(6), input.below(4));
    (generation as u64) << 32 | index as u64
}

/// An index and a word for the table of held blocks, for a loan that is likely to exist.
pub(super) fn likely_word(input: &mut Input<'_>) -> (usize, u64) {
    let (index, generation, state, next) = (input.below(6), input.below(4), input.below(4), input.below(7));
    (index, (next as u64) << 32 | (generation as u64) << 2 | state as u64)
}
