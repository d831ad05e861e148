//! Follows a reply that the child is still writing: copies what is final, so that writing and copying overlap.
//!
//! The copy is used only if the published reply lies in the very block that was copied; otherwise the reply is read like any other. A child that
//! makes false announcements spoils its own reply or is caught, and delays its caller no longer than one that does not answer: every turn checks the
//! deadline, and waits, which ends with the child.

#![forbid(unsafe_code)]

use crate::caller::{CallContext, Caller};
use crate::lane::{Announcement, CallerLane, Consumer, Seen};
use callgate_transport::commit::{BlockRef, Kind, Place};
use callgate_transport::copy_buffer::CopyBuffer;
use callgate_transport::decoder::Decoder;
use callgate_transport::doorbell::{Deadline, Pace, Waited};
use callgate_transport::error::CallError;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::reading::{DecodeRefusal, last_refusal};
use callgate_transport::reply::Reply;
use callgate_transport::segment::Block;
use rkyv::rancor::Failure;

/// Bytes for what follows the parts that a child knows when it announces a reply: above all the root.
const SLACK: u64 = 64;

/// A reply that is being copied while it is written.
struct Following<R: Reply> {
    /// How far it has been copied.
    seen: Seen,
    /// How long the waits for more of it take.
    pace: Pace,
    /// The block that is being copied.
    from: Option<(BlockRef, Block)>,
    copy_buffer: CopyBuffer<R::Buffered>,
}

impl Caller {
    /// Waits for the next reply, which has been announced, and copies it meanwhile. `None` if the copy could not be used: then the reply is there, to
    /// be taken like any other.
    #[cold]
    pub(crate) fn follow_slow<R: Reply>(
        &self,
        lane: &mut CallerLane,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        self.follow(lane, kind, context, |lane, seen, pace| {
            lane.wait_for_more(self.wait, &self.peer.peer_status, context.deadline(), seen, pace)
        })
    }

    /// The same; `wait` waits for more of the reply.
    pub fn follow<R: Reply>(
        &self,
        lane: &mut CallerLane,
        kind: Kind,
        context: &CallContext,
        mut wait: impl FnMut(&CallerLane, &Seen, &Pace) -> Waited,
    ) -> Option<Result<R, CallError>> {
        let mut following = Following::new();
        loop {
            let position = lane.replies().position();
            if lane.replies().is_ready() {
                return self.take_followed(lane, kind, following, context);
            }
            if context.deadline().has_passed() {
                return Some(Err(self.give_up(lane, position, context)));
            }
            match following.copy_on(lane.replies(), &**self.pool(), context.deadline()) {
                Ok(()) => {}
                Err(Stopped::Breach(what)) => return Some(Err(self.corrupt(what, context))),
                Err(Stopped::Late) => return Some(Err(self.give_up(lane, position, context))),
            }
            let Following { seen, pace, .. } = &following;
            match wait(lane, seen, pace) {
                Waited::Ready => {}
                Waited::DeadlinePassed => return Some(Err(self.give_up(lane, position, context))),
                Waited::Dead => return Some(Err(self.ended(lane, position, context))),
            }
        }
    }

    /// Takes a reply that has been published, and copies the rest of it.
    fn take_followed<R: Reply>(
        &self,
        lane: &mut CallerLane,
        kind: Kind,
        following: Following<R>,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        // If something is wrong with it, the next taker finds that too.
        let (_, frame) = lane.take().ok()??;
        let Place::Block(block) = frame.commit.place else { return None };
        if frame.commit.kind != kind {
            return None;
        }
        if !following.is_of(block) {
            return None;
        }
        let number = self.pool().accept_returns(frame.call);
        let value = following.finish(block, self.decoder(context));
        self.release(lane, true);
        self.pool().forget(number);
        Some(value.map_err(|Failure| self.unread(context)))
    }
}

/// Why copying stops.
enum Stopped {
    /// No healthy child announces this.
    Breach(&'static str),
    /// The deadline has passed.
    Late,
}

impl<R: Reply> Following<R> {
    fn new() -> Self {
        Self { seen: Seen::default(), pace: Pace::new(), from: None, copy_buffer: R::copy_buffer() }
    }

    /// Copies what is final by now, until the deadline.
    ///
    /// If the reply moves to another block just now, the mark may be that block's, and the bytes those of another reply. That does no harm: the next
    /// turn sees another announcement, or a reply in another block, and starts again.
    ///
    /// # Errors
    ///
    /// If the time ran out, or with what is wrong if no healthy child could have announced it.
    fn copy_on(&mut self, replies: &Consumer, pool: &dyn PoolHandle, until: Deadline) -> Result<(), Stopped> {
        let Some(announced) = replies.announced() else { return Ok(()) };
        if announced.word != self.seen.word && !self.begin(&announced, replies, pool).map_err(Stopped::Breach)? {
            return Ok(());
        }
        // Marks only grow; one that has not grown is not new.
        self.seen.mark = replies.mark().max(self.seen.mark);
        if let Some((_, block)) = &self.from {
            let room = block.span();
            let mark = usize::try_from(self.seen.mark).unwrap_or(usize::MAX);
            if self.copy_buffer.copy_up_to(room.first(mark.min(room.len())), until).is_err() {
                if last_refusal() == DecodeRefusal::Late {
                    return Err(Stopped::Late);
                }
                // No memory for the copy: whoever reads the whole reply finds that too, and reports it.
                self.from = None;
            }
            failpoints::reach(Step::ParentFollowing);
        }
        Ok(())
    }

    /// Starts again with the announced block. Returns whether it was still announced.
    fn begin(
        &mut self,
        announced: &Announcement,
        replies: &Consumer,
        pool: &dyn PoolHandle,
    ) -> Result<bool, &'static str> {
        let Some(block) = pool.peer_block(announced.block) else {
            // A child that has taken the block back may have given its segment back, too.
            let stands = replies.still_says(announced.word);
            return if stands { Err("a reply in memory that it does not have") } else { Ok(false) };
        };
        let expected = announced.expected.saturating_add(SLACK).min(announced.block.len);
        self.from = self.copy_buffer.begin(expected as usize).is_ok().then_some((announced.block, block));
        self.seen = Seen { word: announced.word, mark: 0 };
        Ok(true)
    }

    /// Whether the reply published in `block` is the one that has been copied so far.
    fn is_of(&self, block: BlockRef) -> bool {
        self.from.as_ref().is_some_and(|(of, room)| {
            let is_same = (of.segment, of.offset) == (block.segment, block.offset);
            is_same && (self.copy_buffer.len() as u64..=room.span().len() as u64).contains(&block.len)
        })
    }

    /// Makes the value from the copy of the reply that was published in `block`.
    fn finish(mut self, block: BlockRef, decoder: Decoder<'_>) -> Result<R, Failure> {
        let (_, room) = self.from.as_ref().ok_or(Failure)?;
        self.copy_buffer.copy_up_to(room.span().first(block.len as usize), decoder.until())?;
        R::from_copy_buffer(self.copy_buffer, decoder)
    }
}
