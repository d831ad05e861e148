//! The memory of pairs: what a side needs is made, granted, sealed, attached at the other side, and given back.
//!
//! All of it is on the books of the client that it was made for, of the other, which reads it, and of the two together, each with a limit.

#![forbid(unsafe_code)]

use super::memory_request::{RequestAction, RequestEvent};
use super::{
    Broken, End, FIRST, GrantedObject, Heard, MAX_OBJECTS_OF_TWO, MAX_SEGMENTS, MAX_SEGMENTS_OF_SIDE, Pair, Pairs,
    SealRequest, tell,
};
use crate::hub::ledger::{Left, Watch};
use crate::protocol::Side;
use callgate_engine::control::Message;
use callgate_os::limits::{self, Wanted};
use callgate_os::memfd;
use std::io::{self, ErrorKind as Kind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a side that needs memory waits for some that is being released.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

impl Pairs {
    /// A side needs memory for what it has to say.
    pub(super) fn need(&mut self, pair: u64, side: Side, len: u64) -> Result<(), Broken> {
        let budget = self.budget;
        let end = self.pairs.get_mut(&pair).ok_or(Broken)?.end(side);
        match end.request.step(RequestEvent::Asked) {
            RequestAction::Decide => self.grant(pair, side, len, Instant::now() + RELEASE_PATIENCE),
            _ if len > budget / 2 => tell(&end.control, Message::Deny { len, max: budget / 2 }),
            _ => tell(&end.control, Message::Exhausted { len, budget }),
        }
    }

    /// Answers a side that needs memory, and waits until then for some that may be released.
    pub(super) fn grant(&mut self, pair: u64, side: Side, len: u64, until: Instant) -> Result<(), Broken> {
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
        // What the two have had before and may still have is as if the asker had it here.
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
    fn supply(&mut self, pair: u64, side: Side, segment: u64, len: u64) -> Result<(), Broken> {
        let (asker, other) = self.pairs.get_mut(&pair).ok_or(Broken)?.sides(side);
        let share = self.of_client.entry(asker.client).or_default();
        let object = match memfd::create_for_others("callgate-arena", len) {
            Ok(object) => object,
            Err(error) => return refuse(asker, no_memory(&error)),
        };
        let watch = self.ledger.watch(&object);
        // Now: who has a lease on it would keep waiting whoever opens it. Without procfs, it is left to the other not to write there; nobody
        // could map it to do so.
        let to_read = memfd::only_to_read(&object).ok();
        // On the books first: what fails after it has been sent may have arrived, and counts when the pair ends.
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

    /// Takes a segment off what a side has. Its length, and how it is watched.
    fn take_off(&mut self, pair: u64, side: Side, segment: u64) -> Option<(u64, Watch)> {
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

    /// A side has mapped what it was granted, which is sealed then.
    pub(super) fn has_mapped(&mut self, pair: u64, side: Side, segment: u64) -> Result<(), Broken> {
        let end = self.pairs.get_mut(&pair).ok_or(Broken)?.end(side);
        match end.request.step(RequestEvent::Mapped { segment }) {
            RequestAction::Seal(GrantedObject { object, to_read }) => {
                let unsealed = SealRequest { pair, side, segment, object, to_read };
                if (self.sealer)(unsealed) { Ok(()) } else { Err(Broken) }
            }
            _ => Err(Broken),
        }
    }

    /// Memory has been sealed: the other side is sent it to read, and then the side that it is for is told.
    pub(in crate::hub) fn sealed(
        &mut self,
        SealRequest { pair, side, segment, object, to_read }: SealRequest,
    ) -> Heard {
        let Some(found) = self.pairs.get_mut(&pair) else { return Heard::Nothing };
        let told = match segment {
            FIRST => {
                found.is_ready = true;
                tell(&found.owner.control, Message::Sealed { segment }).map(|()| Heard::Ready)
            }
            segment => Self::attach(found, side, segment, &to_read.unwrap_or(object)).map(|()| Heard::More),
        };
        told.unwrap_or(Heard::End)
    }

    fn attach(found: &mut Pair, side: Side, segment: u64, to_read: &OwnedFd) -> Result<(), Broken> {
        let (asker, other) = found.sides(side);
        asker.request.step(RequestEvent::Sealed);
        if !asker.segments.contains_key(&segment) {
            // It has given it back since.
            return Ok(());
        }
        // First the other: when the asker's first payload is there, so is the memory that it lies in.
        if let Some(lack) = lack(other.control.send(Message::Attach { segment }, Some(to_read.as_fd())))? {
            return tell(&asker.control, lack);
        }
        tell(&asker.control, Message::Sealed { segment })
    }

    /// A side no longer uses a segment that was made for it.
    pub(super) fn detach(&mut self, pair: u64, side: Side, segment: u64) -> Result<(), Broken> {
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

/// How much more may be made for two processes of whose `budget` bytes `in_all` are in use, `here` of them between those two: as much as that
/// leaves for others.
fn room(budget: u64, in_all: u64, here: u64) -> u64 {
    (budget.saturating_sub(in_all.saturating_sub(here)) / 2).saturating_sub(here)
}

/// What to say if a message with a descriptor could not be sent, which was nobody's doing: with too many descriptors of this user under way,
/// the kernel takes no more.
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
