//! Pairs: the memory and the two control sockets through which a caller and an owner talk without the hub.
//!
//! The hub makes all memory and keeps none of it mapped, so it never sees payloads. On each side's control socket it has the role of a parent,
//! and trusts nothing that it reads there. A pair that breaks the protocol, or whose socket is full, ends.
//!
//! Memory is sealed against holes before it is used by both: memory that one side writes, once that side has mapped it; the first segment, which
//! both write, once both have mapped it and before either reads it. A separate thread seals, because a side can delay that.

#![forbid(unsafe_code)]

mod memory_request;
mod memory;

use self::memory_request::MemoryRequest;
use super::connection::ClientId;
use super::ledger::{Ledger, Left, Process, Watch};
use crate::protocol::PairSide;
use callgate_engine::control::{Control, Message};
use callgate_engine::nest;
use callgate_os::socket::{self, BlockingMode, Exposed};
use callgate_os::sync::Ordering::Relaxed;
use callgate_os::toll::Credit;
use callgate_transport::backing::SealedMemfds;
use callgate_transport::bounds::hub::{GRANT, MAX_OBJECTS_OF_TWO, MAX_SEGMENTS, MAX_SEGMENTS_OF_SIDE};
use callgate_transport::layout::Geometry;
use callgate_transport::segment::Segment;
use std::collections::{HashMap, HashSet};
use std::io::{self};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The number of a pair's first segment.
const FIRST: u64 = 0;

/// Starts sealing memory; [`Pairs::sealed`] must be called when that is done. `false` if it cannot start.
pub(super) type Sealer = Box<dyn Fn(SealRequest) -> bool + Send>;

/// Memory to seal.
#[derive(Debug)]
pub(super) struct SealRequest {
    pub(super) pair: u64,
    /// The side that it was made for.
    side: PairSide,
    segment: u64,
    pub(super) object: OwnedFd,
    /// The same object, read-only.
    to_read: Option<OwnedFd>,
}

/// All pairs.
pub(super) struct Pairs {
    pairs: HashMap<u64, Pair>,
    by_clients: HashMap<(ClientId, ClientId), u64>,
    of_client: HashMap<ClientId, Share>,
    next: u64,
    geometry: Geometry,
    /// The limit of bytes made for one client.
    budget: u64,
    ledger: Ledger,
    sealer: Sealer,
    /// Sides that wait for memory to be released, with the number of bytes and the deadline.
    waiting: Vec<(u64, PairSide, u64, Instant)>,
}

/// The pair of one caller and one owner.
#[derive(Debug)]
struct Pair {
    caller: End,
    owner: End,
    /// The number of the next segment; numbers are never reused. [`FIRST`] is the pair's first.
    next_segment: u64,
    /// The lanes that the caller has begun to use, one bit each.
    begun: u64,
    /// The first segment, until both sides have mapped it.
    first: Option<OwnedFd>,
    first_watch: Watch,
    is_ready: bool,
}

/// One side of a pair.
#[derive(Debug)]
struct End {
    client: ClientId,
    process: Process,
    /// The hub's end of that side's control socket.
    control: Control<Exposed>,
    /// Bytes of the segments that were made for that side.
    segments: HashMap<u64, (u64, Watch)>,
    /// The sum of those.
    bytes: u64,
    request: MemoryRequest<GrantedObject>,
    /// Whether it has mapped the first segment.
    has_first: bool,
}

/// Memory that a side has been sent and not mapped yet.
#[derive(Debug)]
struct GrantedObject {
    object: OwnedFd,
    /// The same, read-only, for the other side. `None` without procfs.
    to_read: Option<OwnedFd>,
}

/// A client's share of all pairs.
#[derive(Debug, Default)]
struct Share {
    pairs: HashSet<u64>,
    /// Bytes of the segments made for it, and of the first segment of each pair in which it is the caller.
    bytes: u64,
    segments: usize,
    /// Segments made for others, which it reads.
    attached: usize,
}

/// A pair that has just been made.
#[derive(Debug)]
pub(super) struct New {
    pub(super) pair: u64,
    /// The descriptors for each side: the segment and its control socket.
    pub(super) owner: [OwnedFd; 2],
    pub(super) caller: [OwnedFd; 2],
}

/// The outcome of reading from a control socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ControlRead {
    /// A message was handled; there may be another.
    More,
    /// There is no message.
    Nothing,
    /// The first segment is sealed: from now on the two can talk.
    Ready,
    /// The client's credit is used up for now.
    TooMuch,
    /// The pair must end.
    End,
}

impl Pair {
    fn end(&mut self, side: PairSide) -> &mut End {
        match side {
            PairSide::Caller => &mut self.caller,
            PairSide::Owner => &mut self.owner,
        }
    }

    fn sides(&mut self, side: PairSide) -> (&mut End, &mut End) {
        match side {
            PairSide::Caller => (&mut self.caller, &mut self.owner),
            PairSide::Owner => (&mut self.owner, &mut self.caller),
        }
    }
}

impl End {
    fn new(client: ClientId, process: Process, control: OwnedFd) -> Self {
        // The kernel then refuses descriptors that the side sends, where it can.
        socket::refuse_descriptors(&control);
        let control = Control::new(control.into());
        Self {
            client,
            process,
            control,
            segments: HashMap::new(),
            bytes: 0,
            request: MemoryRequest::Idle,
            has_first: false,
        }
    }
}

impl Pairs {
    pub(super) fn new(geometry: Geometry, budget: u64, sealer: Sealer) -> Self {
        let (pairs, by_clients, of_client, waiting) = Default::default();
        Self { pairs, by_clients, of_client, next: 1, geometry, budget, ledger: Ledger::new(), sealer, waiting }
    }

    /// The pair of this caller and this owner.
    pub(super) fn find(&self, caller: ClientId, owner: ClientId) -> Option<u64> {
        self.by_clients.get(&(caller, owner)).copied()
    }

    /// Makes a pair of a caller and an owner that have none.
    pub(super) fn introduce(&mut self, caller: (ClientId, Process), owner: (ClientId, Process)) -> io::Result<New> {
        let base = self.geometry.segment_len() as u64;
        let ((caller, caller_process), (owner, owner_process)) = (caller, owner);
        let kept = self.ledger.of(caller_process).written_bytes;
        let used = self.of_client.get(&caller).map_or(0, |share| share.bytes).saturating_add(kept);
        let before = self.ledger.between(caller_process, owner_process);
        if base > self.budget.saturating_sub(used) || before.bytes.saturating_add(base) > self.budget / 2 {
            return Err(io::Error::other("its memory budget is used up"));
        }
        if before.objects >= MAX_OBJECTS_OF_TWO {
            return Err(io::Error::other("one of the two still holds too many objects of their earlier connections"));
        }
        // Unmapped at once: from here on the segment belongs to the two.
        let (segment, object) = Segment::create(self.geometry, &SealedMemfds)?;
        segment.header().chains.store(nest::new_chains(), Relaxed);
        drop(segment);
        let object = object.ok_or(io::ErrorKind::Unsupported)?;
        let (callers, for_caller) = socket::pair()?;
        let (owners, for_owner) = socket::pair()?;
        let (owner_object, first) = (object.try_clone()?, object.try_clone()?);
        let first_watch = self.ledger.watch(&object);
        let pair = self.next;
        self.next += 1;
        let caller_end = End::new(caller, caller_process, callers);
        let owner_end = End::new(owner, owner_process, owners);
        let (next_segment, first, is_ready) = (FIRST + 1, Some(first), false);
        let made = Pair { caller: caller_end, owner: owner_end, next_segment, first, first_watch, is_ready, begun: 0 };
        self.pairs.insert(pair, made);
        self.by_clients.insert((caller, owner), pair);
        for client in [caller, owner] {
            self.of_client.entry(client).or_default().pairs.insert(pair);
        }
        self.of_client.entry(caller).or_default().bytes += base;
        Ok(New { pair, owner: [owner_object, for_owner], caller: [object, for_caller] })
    }

    /// Ends a pair: each side finds its control socket closed.
    pub(super) fn end(&mut self, pair: u64) {
        let Some(Pair { caller, owner, first_watch, .. }) = self.pairs.remove(&pair) else { return };
        self.waiting.retain(|(of, ..)| *of != pair);
        self.by_clients.remove(&(caller.client, owner.client));
        let base = self.geometry.segment_len() as u64;
        for (end, other, base) in [(&caller, &owner, base), (&owner, &caller, 0)] {
            let Some(share) = self.of_client.get_mut(&end.client) else { continue };
            share.pairs.remove(&pair);
            share.bytes -= end.bytes + base;
            share.segments -= end.segments.len();
            share.attached -= other.segments.len();
            if share.pairs.is_empty() {
                self.of_client.remove(&end.client);
            }
        }
        let first = Left { len: base, writer: caller.process, reader: owner.process };
        self.ledger.left(first_watch, first);
        for (end, other) in [(&caller, &owner), (&owner, &caller)] {
            for (len, watch) in end.segments.values() {
                self.ledger.left(*watch, Left { len: *len, writer: end.process, reader: other.process });
            }
        }
    }

    /// Whether the two sides of a pair can talk.
    pub(super) fn is_ready(&self, pair: u64) -> bool {
        self.pairs.get(&pair).is_some_and(|pair| pair.is_ready)
    }

    /// The descriptor to poll; call [`released`](Self::released) when it is readable.
    pub(super) fn releases(&self) -> Option<BorrowedFd<'_>> {
        self.ledger.releases()
    }

    /// Handles released memory: answers the sides that wait for it. Returns the pairs that must end.
    pub(super) fn released(&mut self) -> Vec<u64> {
        if self.ledger.read() { self.answer_waiting() } else { Vec::new() }
    }

    /// When to call [`answer_waiting`](Self::answer_waiting).
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(.., until)| *until).min()
    }

    /// Answers the waiting sides for which there is memory now or whose wait is over. Returns the pairs that must end.
    pub(super) fn answer_waiting(&mut self) -> Vec<u64> {
        let mut to_end = Vec::new();
        for (pair, side, len, until) in std::mem::take(&mut self.waiting) {
            if self.grant(pair, side, len, until).is_err() {
                to_end.push(pair);
            }
        }
        to_end
    }

    /// Whether the end of a process must be reported to [`process_ended`](Self::process_ended), even if it is no longer a client.
    pub(super) fn awaits_end_of(&self, process: Process) -> bool {
        self.ledger.awaits_end_of(process)
    }

    /// Notes that a process has ended, and that its pairs have.
    pub(super) fn process_ended(&mut self, process: Process) {
        self.ledger.process_ended(process);
    }

    /// Whether `client` is one of the pair's two sides.
    pub(super) fn is_of(&self, pair: u64, client: ClientId) -> bool {
        self.of_client.get(&client).is_some_and(|share| share.pairs.contains(&pair))
    }

    /// The pairs of a client.
    pub(super) fn of(&self, client: ClientId) -> Vec<u64> {
        self.of_client.get(&client).into_iter().flat_map(|share| share.pairs.iter().copied()).collect()
    }

    /// The client at this side of a pair.
    pub(super) fn client(&self, pair: u64, side: PairSide) -> Option<ClientId> {
        let pair = self.pairs.get(&pair)?;
        Some(if side == PairSide::Caller { pair.caller.client } else { pair.owner.client })
    }

    /// The hub's end of a control socket.
    pub(super) fn control(&self, pair: u64, side: PairSide) -> Option<BorrowedFd<'_>> {
        let pair = self.pairs.get(&pair)?;
        let end = if side == PairSide::Caller { &pair.caller } else { &pair.owner };
        Some(end.control.as_fd())
    }

    /// The client at this side of a pair, if it has made its control socket too slow to use.
    pub(super) fn slow_client(&self, pair: u64, side: PairSide) -> Option<ClientId> {
        let pair = self.pairs.get(&pair)?;
        let end = if side == PairSide::Caller { &pair.caller } else { &pair.owner };
        end.control.is_slow().then_some(end.client)
    }

    /// The client at the other side, and the time that its control socket has cost since the last call of this.
    pub(super) fn take_cost_of_other(&mut self, pair: u64, side: PairSide) -> Option<(ClientId, Duration)> {
        let (_, other) = self.pairs.get_mut(&pair)?.sides(side);
        Some((other.client, other.control.take_cost()))
    }

    /// Handles one message of `side`. `credit` is that of its client, for all its sockets together.
    pub(super) fn read_one(&mut self, pair: u64, side: PairSide, credit: &mut Credit) -> ControlRead {
        let Some(found) = self.pairs.get_mut(&pair) else { return ControlRead::Nothing };
        let end = found.end(side);
        if !credit.take(1) {
            return ControlRead::TooMuch;
        }
        let received = end.control.receive(BlockingMode::No);
        credit.charge_time(end.control.take_cost());
        let said = match received {
            Ok(Some((message, None))) => {
                credit.charge(if matches!(message, Message::Need { .. }) { GRANT } else { 0 });
                self.handle_message(pair, side, message)
            }
            Ok(Some((_, Some(descriptor)))) => {
                // Only the hub supplies memory.
                socket::discard(vec![descriptor]);
                Err(Broken)
            }
            Ok(None) => Err(Broken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ControlRead::Nothing,
            Err(_) => Err(Broken),
        };
        if said.is_ok() { ControlRead::More } else { ControlRead::End }
    }

    fn handle_message(&mut self, pair: u64, side: PairSide, message: Message) -> Result<(), Broken> {
        match message {
            Message::Need { len } if len > 0 => self.need(pair, side, len),
            Message::Mapped { segment: FIRST } => self.has_first(pair, side),
            Message::Mapped { segment } => self.has_mapped(pair, side, segment),
            Message::Detach { segment } => self.detach(pair, side, segment),
            Message::Begin { lane } if side == PairSide::Caller => self.begin(pair, lane),
            Message::Need { .. }
            | Message::Begin { .. }
            | Message::Attach { .. }
            | Message::Grant { .. }
            | Message::Sealed { .. }
            | Message::Deny { .. }
            | Message::Exhausted { .. }
            | Message::Lack { .. }
            | Message::Tidy => Err(Broken),
        }
    }

    /// The caller is about to use a lane for the first time, so the owner must start a thread for it. A caller that says so before the pair is
    /// ready breaks the protocol: it has not been told where the callback is.
    fn begin(&mut self, pair: u64, lane: u64) -> Result<(), Broken> {
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        if !found.is_ready || lane >= u64::from(self.geometry.lanes) || found.begun & 1 << lane != 0 {
            return Err(Broken);
        }
        found.begun |= 1 << lane;
        tell(&found.owner.control, Message::Begin { lane })
    }

    /// A side has mapped the first segment. When both have, it is sealed.
    fn has_first(&mut self, pair: u64, side: PairSide) -> Result<(), Broken> {
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        if std::mem::replace(&mut found.end(side).has_first, true) {
            return Err(Broken);
        }
        if !(found.caller.has_first && found.owner.has_first) {
            return Ok(());
        }
        let object = found.first.take().ok_or(Broken)?;
        if (self.sealer)(SealRequest { pair, side, segment: FIRST, object, to_read: None }) {
            Ok(())
        } else {
            Err(Broken)
        }
    }
}

/// A control socket is full or closed, or its side broke the protocol: the pair ends.
#[derive(Debug)]
struct Broken;

fn tell(control: &Control<Exposed>, message: Message) -> Result<(), Broken> {
    control.send(message, None).map_err(|_| Broken)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_engine::pair::geometry;
    use callgate_os::pidfd::Identity;
    use callgate_os::toll;

    /// A side that makes its socket slow has still received the memory.
    #[test]
    fn fault_39_what_is_granted_slowly_stays_on_the_books() {
        let mut pairs = Pairs::new(geometry(1), 64 << 20, Box::new(|_| true));
        let [asker, other] = [1, 2].map(Identity::of_nobody);
        let New { pair, caller: [_first, control], .. } = pairs.introduce((1, asker), (2, other)).unwrap();
        let _burden = toll::burden(&control, 300_000);
        let slow = (0..10).find(|_| {
            pairs.pairs.get_mut(&pair).unwrap().caller.request = MemoryRequest::Idle;
            pairs.need(pair, PairSide::Caller, 4096).is_err()
        });
        let granted = 4096 * (slow.expect("it is slow") as u64 + 1);
        pairs.end(pair);
        assert!(!pairs.ledger.read(), "they are under way");
        let base = geometry(1).segment_len() as u64;
        assert_eq!(pairs.ledger.between(asker, other).bytes, base + granted);
    }
}
