//! The memory of pairs: the hub makes, grants, seals and attaches what a side needs, and takes it back.
//!
//! Each object counts for the client that it was made for, for the other, which reads it, and for the two together, each with a limit.

#![forbid(unsafe_code)]

use super::memory_request::{RequestAction, RequestEvent};
use super::{
    Broken, ControlRead, End, FIRST, GrantedObject, MAX_OBJECTS_OF_TWO, MAX_SEGMENTS, MAX_SEGMENTS_OF_SIDE, Pair,
    Pairs, SealRequest, tell,
};
use crate::hub::ledger::{Left, Watch};
use crate::protocol::PairSide;
use callgate_engine::control::Message;
use callgate_os::limits::{self, Wanted};
use callgate_os::memfd;
use callgate_transport::bounds::hub::RELEASE_TIMEOUT;
use std::io::{self, ErrorKind as Kind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

impl Pairs {
    /// Handles a side's request for memory.
    pub(super) fn need(&mut self, pair: u64, side: PairSide, len: u64) -> Result<(), Broken> {
        let budget = self.budget;
        let end = self.pairs.get_mut(&pair).ok_or(Broken)?.end(side);
        match end.request.step(RequestEvent::Asked) {
            RequestAction::Decide => self.grant(pair, side, len, Instant::now() + RELEASE_TIMEOUT),
            _ if len > budget / 2 => tell(&end.control, Message::Deny { len, max: budget / 2 }),
            _ => tell(&end.control, Message::Exhausted { len, budget }),
        }
    }

    /// Answers a request for memory, or puts it off, at most until `until`, if some may be released.
    pub(super) fn grant(&mut self, pair: u64, side: PairSide, len: u64, until: Instant) -> Result<(), Broken> {
        let budget = self.budget;
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        let segment = found.next_segment;
        found.next_segment += 1;
        let (asker, other) = found.sides(side);
        if len > budget / 2 {
            return refuse(asker, Message::Deny { len, max: budget / 2 });
        }
        let (kept, keeps) = (self.ledger.of(asker.process), self.ledger.of(other.process));
        let before = self.ledger.between(asker.process, other.process);
        let reads = self.of_client.get(&other.client).map_or(0, |share| share.attached) + keeps.read;
        let share = self.of_client.entry(asker.client).or_default();
        // Objects of earlier pairs that these two may still hold count as the asker's in this pair.
        let to_write = room(budget, share.bytes + kept.written_bytes, asker.bytes + before.bytes);
        let to_read = room(budget, keeps.read_bytes, before.bytes);
        let written = share.segments + kept.written;
        let are_too_many = asker.segments.len() >= MAX_SEGMENTS_OF_SIDE
            || before.objects >= MAX_OBJECTS_OF_TWO
            || written >= MAX_SEGMENTS
            || reads >= MAX_SEGMENTS;
        if len > to_write.min(to_read) || are_too_many {
            if kept.written + keeps.read > 0 && Instant::now() < until {
                asker.request.step(RequestEvent::Postponed);
                self.waiting.push((pair, side, len, until));
                return Ok(());
            }
            return refuse(asker, Message::Exhausted { len, budget });
        }
        self.supply(pair, side, segment, len)
    }

    /// Makes a segment for a side and sends it there.
    fn supply(&mut self, pair: u64, side: PairSide, segment: u64, len: u64) -> Result<(), Broken> {
        let (asker, other) = self.pairs.get_mut(&pair).ok_or(Broken)?.sides(side);
        let share = self.of_client.entry(asker.client).or_default();
        let object = match memfd::create_for_others("callgate-arena", len) {
            Ok(object) => object,
            Err(error) => return refuse(asker, no_memory(&error)),
        };
        let watch = self.ledger.watch(&object);
        // Opened before it is sent: later a side's lease on the file would make this wait. Without procfs the other side gets the writable
        // descriptor; once sealed, nobody can map it to write.
        let to_read = memfd::only_to_read(&object).ok();
        // Counted first: a message whose sending fails may have arrived all the same, and its object counts when the pair ends.
        asker.segments.insert(segment, (len, watch));
        asker.bytes += len;
        share.bytes += len;
        share.segments += 1;
        self.of_client.entry(other.client).or_default().attached += 1;
        let Some(lack) = lack(asker.control.send(Message::Grant { segment }, Some(object.as_fd())))? else {
            asker.request.step(RequestEvent::Sent { segment, object: GrantedObject { object, to_read } });
            return Ok(());
        };
        let told = refuse(asker, lack);
        self.take_off(pair, side, segment);
        told
    }

    /// Removes a segment from a side's books. Returns its length and its watch.
    fn take_off(&mut self, pair: u64, side: PairSide, segment: u64) -> Option<(u64, Watch)> {
        let (asker, other) = self.pairs.get_mut(&pair)?.sides(side);
        let (len, watch) = asker.segments.remove(&segment)?;
        asker.bytes -= len;
        if let Some(share) = self.of_client.get_mut(&asker.client) {
            share.bytes -= len;
            share.segments -= 1;
        }
        if let Some(share) = self.of_client.get_mut(&other.client) {
            share.attached -= 1;
        }
        Some((len, watch))
    }

    /// Handles that a side has mapped what it was granted: has it sealed.
    pub(super) fn has_mapped(&mut self, pair: u64, side: PairSide, segment: u64) -> Result<(), Broken> {
        let end = self.pairs.get_mut(&pair).ok_or(Broken)?.end(side);
        match end.request.step(RequestEvent::Mapped { segment }) {
            RequestAction::Seal(GrantedObject { object, to_read }) => {
                let unsealed = SealRequest { pair, side, segment, object, to_read };
                if (self.sealer)(unsealed) { Ok(()) } else { Err(Broken) }
            }
            _ => Err(Broken),
        }
    }

    /// Handles sealed memory: sends it to the other side to read, and then tells the side that it was made for.
    pub(in crate::hub) fn sealed(
        &mut self,
        SealRequest { pair, side, segment, object, to_read }: SealRequest,
    ) -> ControlRead {
        let Some(found) = self.pairs.get_mut(&pair) else { return ControlRead::Nothing };
        let told = match segment {
            FIRST => {
                found.is_ready = true;
                tell(&found.owner.control, Message::Sealed { segment }).map(|()| ControlRead::Ready)
            }
            segment => Self::attach(found, side, segment, &to_read.unwrap_or(object)).map(|()| ControlRead::More),
        };
        told.unwrap_or(ControlRead::End)
    }

    fn attach(found: &mut Pair, side: PairSide, segment: u64, to_read: &OwnedFd) -> Result<(), Broken> {
        let (asker, other) = found.sides(side);
        asker.request.step(RequestEvent::Sealed);
        if !asker.segments.contains_key(&segment) {
            // The side has given it back meanwhile.
            return Ok(());
        }
        // The other side first, so that it has the memory before the asker's first payload lies in it.
        if let Some(lack) = lack(other.control.send(Message::Attach { segment }, Some(to_read.as_fd())))? {
            return tell(&asker.control, lack);
        }
        tell(&asker.control, Message::Sealed { segment })
    }

    /// Handles that a side gives back a segment that was made for it.
    pub(super) fn detach(&mut self, pair: u64, side: PairSide, segment: u64) -> Result<(), Broken> {
        let (len, watch) = self.take_off(pair, side, segment).ok_or(Broken)?;
        let (asker, other) = self.pairs.get_mut(&pair).ok_or(Broken)?.sides(side);
        let is_attached = matches!(asker.request.step(RequestEvent::Detached { segment }), RequestAction::TellReader);
        self.ledger.left(watch, Left { len, writer: asker.process, reader: other.process });
        if is_attached { tell(&other.control, Message::Detach { segment }) } else { Ok(()) }
    }
}

/// Answers that there is no memory, and why.
fn refuse(asker: &mut End, why: Message) -> Result<(), Broken> {
    asker.request.step(RequestEvent::Refused);
    tell(&asker.control, why)
}

/// How many more bytes may be made between two processes. Of `budget` bytes, `in_all` are in use, `here` of them between these two. What they
/// get leaves as much for others.
fn room(budget: u64, in_all: u64, here: u64) -> u64 {
    (budget.saturating_sub(in_all.saturating_sub(here)) / 2).saturating_sub(here)
}

/// The answer if a message with a descriptor could not be sent through no fault of either side: the kernel limits how many of a user's
/// descriptors may be in flight.
fn lack(sent: io::Result<()>) -> Result<Option<Message>, Broken> {
    match sent {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), Kind::WouldBlock | Kind::BrokenPipe | Kind::TimedOut) => Err(Broken),
        Err(error) => Ok(Some(no_memory(&error))),
    }
}

fn no_memory(error: &io::Error) -> Message {
    let [error, limit] = limits::packed(error, Wanted::Memory);
    Message::Lack { error, limit }
}
