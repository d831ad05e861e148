//! Calls that nobody waits for any more but a child still runs, and when they cost it its life.
//!
//! A caller that gives up notes its call here. When the call is due, the watcher looks whether it has been answered since. It judges the child by
//! what the child says of itself in shared memory; a lie can only make a child look busy.
//!
//! A call counts against its child while it runs. A call that waits behind another does not: that one may run as long as its own caller lets it. But
//! a call that waits for an idle worker counts, because that worker has stopped or ended. A lane's calls run one after the other, so only the oldest
//! abandoned one is looked at.

#![forbid(unsafe_code)]

use crate::lane::{LaneView, UnansweredSet, is_past};
use crate::peer::PeerLink;
use crate::watcher::{self, Due, Reactive};
use callgate_transport::error::{CallError, CallName};
use callgate_transport::segment::Segment;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// The least time for a call that has not begun although its worker is idle: the machine may be busy.
const LEAST: Duration = Duration::from_millis(100);

/// The shortest and the longest default for how long a call that has timed out may go on.
const SHORTEST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_millis(100);

/// How long a call that has timed out may go on before its child is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// A quarter of its timeout, within bounds. So the next call, which has the same timeout, lives to see the next child.
    Quarter,
    /// This long.
    Of(Duration),
}

impl Grace {
    /// The time for a call with this timeout.
    pub fn after(self, timeout: Duration) -> Duration {
        match self {
            Grace::Quarter => (timeout / 4).clamp(SHORTEST, MOST),
            Grace::Of(time) => time,
        }
    }
}

/// Told of each call that has timed out.
pub type Tell = Arc<dyn Fn(&CallError) + Send + Sync>;

/// What happens to calls that time out.
#[derive(Clone, Default)]
pub struct Lateness {
    /// How long a child may run a call that has timed out; `None` = no limit.
    pub kill_after: Option<Grace>,
    pub tell: Option<Tell>,
}

/// The overdue calls of one child.
pub(crate) struct Overdue {
    itself: Weak<Self>,
    lateness: Lateness,
    lanes: Box<[LaneView]>,
    hold: Weak<dyn PeerLink>,
    calls: Mutex<Calls>,
    /// The call for which the child was killed.
    culprit: OnceLock<CallName>,
    /// Takes the replies that are there, where only a reply itself tells which call it answers.
    taker: Option<Weak<dyn Reactive>>,
}

#[derive(Default)]
struct Calls {
    /// The overdue calls of each lane that has any, with their positions.
    late: BTreeMap<u32, BTreeMap<u64, Late>>,
    /// When the watcher looks next.
    next: Option<Instant>,
}

/// A call that is overdue, or will be.
struct Late {
    name: CallName,
    lane: u32,
    position: u64,
    /// How long the child may still run it.
    grace: Duration,
    /// When it entered `state`; at first, when it becomes overdue.
    since: Instant,
    state: LateState,
}

/// | from | to | when |
/// |---|---|---|
/// | Unknown | any | the watcher's first look |
/// | Unknown, Queued, Unserved | Running | it has begun |
/// | Unknown, Unserved | Queued | its worker runs another call, or has begun others since |
/// | Unknown, Queued | Unserved | its worker is idle |
/// | Unknown | Queued | the calls before it in its lane have been answered |
///
/// A call that is Running or Unserved for too long costs the child its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LateState {
    /// The watcher has not looked since it became due.
    Unknown,
    /// The child runs it.
    Running,
    /// It waits behind another call.
    Queued,
    /// It waits for an idle worker, which had begun this many calls.
    Unserved(u64),
}

impl Overdue {
    /// The overdue calls of the child behind `hold`; none yet.
    pub fn new(
        segment: &Segment,
        hold: Weak<dyn PeerLink>,
        lateness: Lateness,
        taker: Option<(Weak<dyn Reactive>, &[UnansweredSet])>,
    ) -> Arc<Self> {
        let unanswered = |index: u32| taker.as_ref().and_then(|(_, all)| all.get(index as usize)).cloned();
        let lanes =
            (0..segment.geometry().lanes).map(|index| LaneView::new(segment, index, unanswered(index))).collect();
        let taker = taker.map(|(taker, _)| taker);
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            lateness,
            lanes,
            hold,
            calls: Mutex::default(),
            culprit: OnceLock::new(),
            taker,
        })
    }

    /// The call for which the child was killed, if it was.
    pub fn culprit(&self) -> Option<CallName> {
        self.culprit.get().copied()
    }

    /// Whether calls may go on for a time that does not depend on their timeouts.
    pub(crate) fn has_fixed_grace(&self) -> bool {
        matches!(self.lateness.kill_after, Some(Grace::Of(_)))
    }

    /// Reports a call that has timed out.
    pub fn tell(&self, error: &CallError) {
        self.lateness.tell.iter().for_each(|tell| tell(error));
    }

    /// Whether more than `before` calls have been answered on a lane.
    pub(crate) fn has_answered(&self, lane: usize, before: u64) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.has_replied(before))
    }

    /// Notes that the call at `position` of `lane`, with this `timeout`, is overdue from `due` on unless it is answered by then.
    pub fn watch(&self, name: CallName, timeout: Duration, (lane, position): (u32, u64), due: Instant) {
        let Some(kill_after) = self.lateness.kill_after else { return };
        let grace = kill_after.after(timeout);
        let mut calls = self.calls.lock();
        let of_lane = calls.late.entry(lane).or_default();
        self.drop_answered(of_lane);
        // Even a call whose deadline was known from the start is given up by its caller only now.
        of_lane.entry(position).or_insert(Late { name, lane, position, grace, since: due, state: LateState::Unknown });
        if calls.next.is_none_or(|next| due < next) {
            calls.next = Some(due);
            // Without a watcher there is no child either.
            let _ = watcher::look_at(self.itself.clone(), due);
        }
    }

    /// Drops the calls of a lane that have been answered, in their order. The oldest of the others has waited behind them until now.
    fn drop_answered(&self, of_lane: &mut BTreeMap<u64, Late>) {
        if self.taker.is_some() {
            return of_lane.retain(|position, late| !self.lanes[late.lane as usize].is_answered(*position));
        }
        while let Some(oldest) = of_lane.first_entry()
            && self.lanes[oldest.get().lane as usize].is_answered(oldest.get().position)
        {
            oldest.remove();
            of_lane.first_entry().into_iter().for_each(|mut next| next.get_mut().state = LateState::Queued);
        }
    }

    /// The state of a call that has not been answered.
    fn state(&self, late: &Late) -> LateState {
        let lane = &self.lanes[late.lane as usize];
        if is_past(lane.started(), late.position) {
            return LateState::Running;
        }
        let of_worker = || self.lanes.iter().filter(|other| other.worker() == lane.worker());
        match of_worker().any(LaneView::is_running) {
            true => LateState::Queued,
            false => LateState::Unserved(of_worker().map(LaneView::started).fold(0, u64::wrapping_add)),
        }
    }

    /// Looks at the oldest call of a lane, as [`look`](Self::look) does. The calls behind it are looked at once it is gone.
    fn look_at_lane(&self, of_lane: &mut BTreeMap<u64, Late>, now: Instant) -> Option<Result<Instant, CallName>> {
        let are_several = of_lane.len() > 1;
        let mut oldest = of_lane.first_entry()?;
        let oldest = oldest.get_mut();
        let next = self.look(oldest, now);
        let others = are_several.then(|| now.checked_add(oldest.grace.max(LEAST)).unwrap_or(now + LONGEST));
        Some(next.map(|next| others.map_or(next, |others| next.min(others))))
    }

    /// Looks at one call. Returns whether the child has run it for too long, or else when to look again.
    fn look(&self, late: &mut Late, now: Instant) -> Result<Instant, CallName> {
        if late.since > now {
            return Ok(late.since);
        }
        let state = self.state(late);
        let is_new = late.state != state;
        if is_new && late.state != LateState::Unknown || state == LateState::Queued {
            late.since = now;
        }
        late.state = state;
        let allowed = if state == LateState::Running { late.grace } else { late.grace.max(LEAST) };
        let until = late.since.checked_add(allowed).unwrap_or(now + LONGEST);
        // A state that was entered just now may have passed by the next look.
        let may_end = state == LateState::Running || !is_new;
        if until > now || state == LateState::Queued || !may_end { Ok(until.max(now + SOON)) } else { Err(late.name) }
    }
}

/// The shortest time between two looks at a call.
const SOON: Duration = Duration::from_millis(1);

/// A duration that can be added to any point in time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Due for Overdue {
    fn is_due(&self) -> Option<Instant> {
        if let Some(taker) = self.taker.as_ref().and_then(Weak::upgrade) {
            taker.react();
        }
        let now = Instant::now();
        let mut calls = self.calls.lock();
        if calls.next.is_none_or(|next| next > now) {
            // A look was requested before something else became due sooner.
            return None;
        }
        calls.late.retain(|_, of_lane| {
            self.drop_answered(of_lane);
            !of_lane.is_empty()
        });
        let looks: Vec<_> = calls.late.values_mut().filter_map(|of_lane| self.look_at_lane(of_lane, now)).collect();
        calls.next = looks.iter().flatten().min().copied();
        if let Some(culprit) = looks.into_iter().find_map(Result::err) {
            (calls.late, calls.next) = (BTreeMap::new(), None);
            drop(calls);
            let _ = self.culprit.set(culprit);
            self.hold
                .upgrade()
                .iter()
                .for_each(|hold| hold.kill(&format!("its call `{culprit}` had outlived its timeout")));
            return None;
        }
        calls.next
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fault_35_a_call_with_a_short_timeout_has_a_short_grace() {
        let ms = Duration::from_millis;
        let graces = [0, 8, 50, 100, 400, 60_000].map(|timeout| Grace::Quarter.after(ms(timeout)));
        assert_eq!(graces, [ms(10), ms(10), ms(12) + ms(1) / 2, ms(25), ms(100), ms(100)]);
        assert_eq!(Grace::Of(ms(7)).after(ms(400)), ms(7));
    }
}
