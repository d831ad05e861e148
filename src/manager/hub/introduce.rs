//! Pairs: the memory and the two control sockets through which a caller and an owner talk without the hub.
//!
//! The hub makes all memory, and keeps none of it mapped: what the two write there it never sees. On each side's control socket it stands
//! where a parent does for its child, and trusts nothing that comes from there. A pair that makes no sense, or whose socket is full, ends.

#![forbid(unsafe_code)]

use super::MemberId;
use crate::call::nest;
use crate::control::{Control, Message};
use crate::layout::Geometry;
use crate::manager::protocol::Side;
use crate::objects::Sealed;
use crate::segment::Segment;
use crate::sync::Ordering::Relaxed;
use crate::sys::socket::{self, Blocking, Exposed};
use crate::sys::toll::Credit;
use crate::sys::{limits, memfd};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io::{self, ErrorKind as Kind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Segments that may be made for one member, whatever their size; and such that others have, which it is to read.
const MAX_SEGMENTS: usize = 4096;

/// The same for one side of a pair. Each costs the other side a mapping, of which the kernel lets it have some 65,000.
const MAX_SEGMENTS_OF_SIDE: usize = 64;

/// As much work as so many messages: to make a segment.
const GRANT: u32 = 16;

/// Introductions that are made at once for one process, however many connections it has had, and then in a second.
const OF_PROCESS: (u32, u32) = (1024, 64);

/// The same to one owner, for all processes together. Each costs it a mapping and descriptors.
const OF_OWNER: (u32, u32) = (4096, 256);

/// Counts that are kept; of more, those are forgotten that are as good as new.
const MOST_COUNTS: usize = 4096;

/// How often processes are introduced, whatever they do to be introduced again.
#[derive(Debug, Default)]
pub(super) struct Rates {
    of_process: HashMap<u32, Rate>,
    of_owner: HashMap<MemberId, Rate>,
}

/// How many introductions there may be yet, as of then.
#[derive(Debug)]
struct Rate {
    left: u32,
    since: Instant,
}

impl Rate {
    /// What there may be now, with (at once, in a second).
    fn refill(&mut self, (most, in_a_second): (u32, u32), now: Instant) {
        let gained = now.saturating_duration_since(self.since).as_millis() * u128::from(in_a_second) / 1000;
        if gained > 0 {
            self.left = u32::try_from(gained).unwrap_or(u32::MAX).saturating_add(self.left).min(most);
            self.since = now;
        }
    }
}

impl Rates {
    /// Counts an introduction of `process` to `owner`; whose count is used up, if one is.
    pub(super) fn take(&mut self, process: u32, owner: MemberId, now: Instant) -> Result<(), &'static str> {
        let caller = rate(&mut self.of_process, process, OF_PROCESS, now);
        if caller.left == 0 {
            return Err("this process is introduced too often: no more than 64 times a second");
        }
        let called = rate(&mut self.of_owner, owner, OF_OWNER, now);
        if called.left == 0 {
            return Err("others are introduced to that process too often: no more than 256 times a second");
        }
        caller.left -= 1;
        called.left -= 1;
        Ok(())
    }
}

fn rate<K: Eq + Hash>(rates: &mut HashMap<K, Rate>, key: K, limit: (u32, u32), now: Instant) -> &mut Rate {
    if rates.len() >= MOST_COUNTS {
        rates.retain(|_, rate| {
            rate.refill(limit, now);
            rate.left < limit.0
        });
    }
    let rate = rates.entry(key).or_insert(Rate { left: limit.0, since: now });
    rate.refill(limit, now);
    rate
}

/// All pairs.
#[derive(Debug)]
pub(super) struct Pairs {
    pairs: HashMap<u64, Pair>,
    by_members: HashMap<(MemberId, MemberId), u64>,
    of_member: HashMap<MemberId, Share>,
    next: u64,
    geometry: Geometry,
    /// Bytes that may be made for one member.
    budget: u64,
}

/// What one caller and one owner have in common.
#[derive(Debug)]
struct Pair {
    caller: End,
    owner: End,
    /// The number of the next segment; numbers are never used again. 0 is the pair's first.
    next_segment: u64,
    /// The lanes that the caller has begun to use, by their bits.
    begun: u64,
}

/// One side of a pair.
#[derive(Debug)]
struct End {
    member: MemberId,
    /// The hub's end of that side's control socket.
    control: Control<Exposed>,
    /// Bytes of the segments that were made for that side.
    segments: HashMap<u64, u64>,
    /// In all.
    bytes: u64,
}

/// What a member has of all pairs.
#[derive(Debug, Default)]
struct Share {
    pairs: HashSet<u64>,
    /// Of the segments that were made for it, and of what each pair in which it is the caller begins with.
    bytes: u64,
    segments: usize,
    /// Segments that were made for others, and that it is to read.
    attached: usize,
}

/// A pair that has just been made.
#[derive(Debug)]
pub(super) struct New {
    pub(super) pair: u64,
    /// What each side is to have: the segment, and its control socket.
    pub(super) owner: [OwnedFd; 2],
    pub(super) caller: [OwnedFd; 2],
}

/// What came of listening to a control socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// There may be another.
    More,
    /// There is none.
    Nothing,
    /// For now it has said as much as it may.
    TooMuch,
    /// The pair is to end.
    End,
}

impl Pair {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Owner => &mut self.owner,
        }
    }

    fn sides(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Caller => (&mut self.caller, &mut self.owner),
            Side::Owner => (&mut self.owner, &mut self.caller),
        }
    }
}

impl End {
    fn new(member: MemberId, control: OwnedFd) -> Self {
        // Better never to have them.
        socket::refuse_descriptors(&control);
        Self { member, control: Control::new(control.into()), segments: HashMap::new(), bytes: 0 }
    }
}

impl Pairs {
    pub(super) fn new(geometry: Geometry, budget: u64) -> Self {
        let (pairs, by_members, of_member) = Default::default();
        Self { pairs, by_members, of_member, next: 1, geometry, budget }
    }

    /// The pair of this caller and this owner.
    pub(super) fn find(&self, caller: MemberId, owner: MemberId) -> Option<u64> {
        self.by_members.get(&(caller, owner)).copied()
    }

    /// Makes a pair of a caller and an owner, who have none.
    pub(super) fn introduce(&mut self, caller: MemberId, owner: MemberId) -> io::Result<New> {
        let base = self.geometry.segment_len() as u64;
        if base > self.budget - self.of_member.get(&caller).map_or(0, |share| share.bytes) {
            return Err(io::Error::other("all memory that it may have is in use"));
        }
        // Unmapped at once: from here on it is theirs.
        let (segment, object) = Segment::create(self.geometry, &Sealed)?;
        segment.header().chains.store(nest::new_chains(), Relaxed);
        drop(segment);
        let object = object.ok_or(io::ErrorKind::Unsupported)?;
        let (callers, for_caller) = socket::pair()?;
        let (owners, for_owner) = socket::pair()?;
        let owner_object = object.try_clone()?;
        let pair = self.next;
        self.next += 1;
        let (caller_end, owner_end) = (End::new(caller, callers), End::new(owner, owners));
        self.pairs.insert(pair, Pair { caller: caller_end, owner: owner_end, next_segment: 1, begun: 0 });
        self.by_members.insert((caller, owner), pair);
        for member in [caller, owner] {
            self.of_member.entry(member).or_default().pairs.insert(pair);
        }
        self.of_member.entry(caller).or_default().bytes += base;
        Ok(New { pair, owner: [owner_object, for_owner], caller: [object, for_caller] })
    }

    /// Ends a pair: each side finds its control socket closed.
    pub(super) fn end(&mut self, pair: u64) {
        let Some(Pair { caller, owner, .. }) = self.pairs.remove(&pair) else { return };
        self.by_members.remove(&(caller.member, owner.member));
        let base = self.geometry.segment_len() as u64;
        for (end, other, base) in [(&caller, &owner, base), (&owner, &caller, 0)] {
            let Some(share) = self.of_member.get_mut(&end.member) else { continue };
            share.pairs.remove(&pair);
            share.bytes -= end.bytes + base;
            share.segments -= end.segments.len();
            share.attached -= other.segments.len();
            if share.pairs.is_empty() {
                self.of_member.remove(&end.member);
            }
        }
    }

    /// Whether `member` is one of the two.
    pub(super) fn is_of(&self, pair: u64, member: MemberId) -> bool {
        self.of_member.get(&member).is_some_and(|share| share.pairs.contains(&pair))
    }

    /// The pairs of a member.
    pub(super) fn of(&self, member: MemberId) -> Vec<u64> {
        self.of_member.get(&member).into_iter().flat_map(|share| share.pairs.iter().copied()).collect()
    }

    /// Whose side of a pair that is.
    pub(super) fn member(&self, pair: u64, side: Side) -> Option<MemberId> {
        let pair = self.pairs.get(&pair)?;
        Some(if side == Side::Caller { pair.caller.member } else { pair.owner.member })
    }

    /// The hub's end of a control socket.
    pub(super) fn control(&self, pair: u64, side: Side) -> Option<BorrowedFd<'_>> {
        let pair = self.pairs.get(&pair)?;
        let end = if side == Side::Caller { &pair.caller } else { &pair.owner };
        Some(end.control.as_fd())
    }

    /// Whose side of a pair that is, if its control socket is too slow to be of use.
    pub(super) fn slow_member(&self, pair: u64, side: Side) -> Option<MemberId> {
        let pair = self.pairs.get(&pair)?;
        let end = if side == Side::Caller { &pair.caller } else { &pair.owner };
        end.control.is_slow().then_some(end.member)
    }

    /// The member at the other side, and what that side's control socket has cost since this was last asked.
    pub(super) fn take_cost_of_other(&mut self, pair: u64, side: Side) -> Option<(MemberId, Duration)> {
        let (_, other) = self.pairs.get_mut(&pair)?.sides(side);
        Some((other.member, other.control.take_cost()))
    }

    /// Carries out one message of `side`, whose member has `credit` for all that it says, wherever.
    pub(super) fn hear(&mut self, pair: u64, side: Side, credit: &mut Credit) -> Heard {
        let Some(found) = self.pairs.get_mut(&pair) else { return Heard::Nothing };
        let end = found.end(side);
        if !credit.take(1) {
            return Heard::TooMuch;
        }
        let received = end.control.receive(Blocking::No);
        credit.charge_time(end.control.take_cost());
        let said = match received {
            Ok(Some((message, None))) => {
                credit.charge(if matches!(message, Message::Need { .. }) { GRANT } else { 0 });
                self.heed(pair, side, message)
            }
            Ok(Some((_, Some(descriptor)))) => {
                // Nobody but the hub supplies memory.
                socket::discard(vec![descriptor]);
                Err(Broken)
            }
            Ok(None) => Err(Broken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
            Err(_) => Err(Broken),
        };
        if said.is_ok() { Heard::More } else { Heard::End }
    }

    fn heed(&mut self, pair: u64, side: Side, message: Message) -> Result<(), Broken> {
        match message {
            Message::Need { len } if len > 0 => self.grant(pair, side, len),
            Message::Detach { segment } => self.detach(pair, side, segment),
            Message::Begin { lane } if side == Side::Caller => self.begin(pair, lane),
            Message::Need { .. }
            | Message::Begin { .. }
            | Message::Attach { .. }
            | Message::Grant { .. }
            | Message::Deny { .. }
            | Message::Exhausted { .. }
            | Message::Lack { .. }
            | Message::Tidy => Err(Broken),
        }
    }

    /// Answers a side that needs memory for what it has to say.
    fn grant(&mut self, pair: u64, side: Side, len: u64) -> Result<(), Broken> {
        let budget = self.budget;
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        let segment = found.next_segment;
        found.next_segment += 1;
        let (asker, other) = found.sides(side);
        if len > budget / 2 {
            return tell(&asker.control, Message::Deny { len, max: budget / 2 });
        }
        let reads = self.of_member.get(&other.member).map_or(0, |share| share.attached);
        let share = self.of_member.entry(asker.member).or_default();
        // As much as it leaves for the member's other pairs: one that takes in nothing does not have all.
        let most = (budget - (share.bytes - asker.bytes)) / 2;
        let are_too_many = asker.segments.len() >= MAX_SEGMENTS_OF_SIDE || share.segments >= MAX_SEGMENTS;
        if len > most.saturating_sub(asker.bytes) || are_too_many || reads >= MAX_SEGMENTS {
            return tell(&asker.control, Message::Exhausted { len, budget });
        }
        let object = match memfd::create_for_others("callgate-arena", len) {
            Ok(object) => object,
            Err(error) => {
                let [error, limit] = limits::packed(&error);
                return tell(&asker.control, Message::Lack { error, limit });
            }
        };
        // Without procfs, it is left to the other not to write there; it would harm itself alone.
        let to_read = memfd::only_to_read(&object).ok();
        let to_read = to_read.as_ref().unwrap_or(&object);
        // First the other: when the asker's first payload is there, so is the memory that it lies in.
        if !sent(other.control.send(Message::Attach { segment }, Some(to_read.as_fd())))? {
            return tell(&asker.control, Message::Lack { error: 0, limit: 0 });
        }
        if !sent(asker.control.send(Message::Grant { segment }, Some(object.as_fd())))? {
            tell(&other.control, Message::Detach { segment })?;
            return tell(&asker.control, Message::Lack { error: 0, limit: 0 });
        }
        asker.segments.insert(segment, len);
        asker.bytes += len;
        share.bytes += len;
        share.segments += 1;
        self.of_member.entry(other.member).or_default().attached += 1;
        Ok(())
    }

    /// The caller is about to use a lane for the first time: the owner is to have a thread there.
    fn begin(&mut self, pair: u64, lane: u64) -> Result<(), Broken> {
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        if lane >= u64::from(self.geometry.lanes) || found.begun & 1 << lane != 0 {
            return Err(Broken);
        }
        found.begun |= 1 << lane;
        tell(&found.owner.control, Message::Begin { lane })
    }

    /// A side no longer uses a segment that was made for it.
    fn detach(&mut self, pair: u64, side: Side, segment: u64) -> Result<(), Broken> {
        let found = self.pairs.get_mut(&pair).ok_or(Broken)?;
        let (asker, other) = found.sides(side);
        let len = asker.segments.remove(&segment).ok_or(Broken)?;
        asker.bytes -= len;
        if let Some(share) = self.of_member.get_mut(&asker.member) {
            share.bytes -= len;
            share.segments -= 1;
        }
        if let Some(share) = self.of_member.get_mut(&other.member) {
            share.attached -= 1;
        }
        tell(&other.control, Message::Detach { segment })
    }
}

/// A control socket is full or closed, or said what makes no sense: the pair ends.
#[derive(Debug)]
struct Broken;

fn tell(control: &Control<Exposed>, message: Message) -> Result<(), Broken> {
    control.send(message, None).map_err(|_| Broken)
}

/// Whether a message with a descriptor has been sent. If not, it was nobody's doing: with too many descriptors of this user under way,
/// the kernel takes no more.
fn sent(sent: io::Result<()>) -> Result<bool, Broken> {
    match sent {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), Kind::WouldBlock | Kind::BrokenPipe | Kind::TimedOut) => Err(Broken),
        Err(_) => Ok(false),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fault_43_introductions_are_limited_for_a_process_and_for_an_owner() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let taken = |rates: &mut Rates, process, at| (0..).take_while(|_| rates.take(process, 1, at).is_ok()).count();
        assert_eq!(taken(&mut rates, 7, now), 1024);
        assert_eq!(taken(&mut rates, 7, now + Duration::from_secs(1)), 64, "another connection does not help");
        // Many processes together, and one that comes later.
        let all: usize = (8..20).map(|process| taken(&mut rates, process, now + Duration::from_secs(1))).sum();
        assert!((4096 - 1088..=4096 + 256).contains(&all), "{all}");
        assert!(rates.take(99, 1, now + Duration::from_secs(1)).is_err());
        assert!(rates.take(99, 2, now + Duration::from_secs(1)).is_ok(), "to another owner");
        assert!(rates.take(99, 1, now + Duration::from_secs(3)).is_ok());
        for process in 0..2 * MOST_COUNTS as u32 {
            let _ = rates.take(process, 3, now + Duration::from_secs(1000 + u64::from(process)));
        }
        assert!(rates.of_process.len() <= MOST_COUNTS + 1);
    }
}
