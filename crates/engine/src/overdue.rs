//! Calls that nobody waits for any more and a child is still at: when they cost it its life.
//!
//! Who gives a call up says which it was; the watcher looks, when that is due, whether it has been answered since. The child is judged by
//! what it says of itself, in shared memory: one that lies about that can only be thought to be at work.
//!
//! A call counts against its child while it is being carried out. One that waits behind another, which may take as long as its own caller
//! lets it, does not; but one that waits for a worker that is at nothing does, as that has stopped or come to its end. The calls of a lane are
//! carried out one after the other: only the oldest that nobody waits for is looked at.

#![forbid(unsafe_code)]

use crate::lane::{LaneView, is_past};
use crate::peer::PeerLink;
use crate::watcher::{self, Due};
use callgate_transport::error::{CallError, CallName};
use callgate_transport::segment::Segment;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A call that has not begun, for a worker that is at nothing, is given at least so long: the machine may be busy.
const LEAST: Duration = Duration::from_millis(100);

/// The least and the most that a call which has timed out may go on for by default.
const SHORTEST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_millis(100);

/// For how long a call that has timed out may go on before its child is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// A quarter of its timeout, within bounds: so the next call, which has the same timeout, lives to see the next child.
    Quarter,
    /// So long.
    Of(Duration),
}

impl Grace {
    /// For a call that was given so much time.
    pub fn after(self, timeout: Duration) -> Duration {
        match self {
            Grace::Quarter => (timeout / 4).clamp(SHORTEST, MOST),
            Grace::Of(time) => time,
        }
    }
}

/// Who is told of calls that have timed out.
pub type Tell = Arc<dyn Fn(&CallError) + Send + Sync>;

/// What is to be done about calls that time out.
#[derive(Clone, Default)]
pub struct Lateness {
    /// For how long a child may be at a call that has timed out; `None` = as long as it likes.
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
    /// The call that has cost the child its life.
    culprit: OnceLock<CallName>,
}

#[derive(Default)]
struct Calls {
    /// Those of each lane that has any, by their positions.
    late: BTreeMap<u32, BTreeMap<u64, Late>>,
    /// When the watcher looks next.
    next: Option<Instant>,
}

/// A call that is overdue, or will be.
struct Late {
    name: CallName,
    lane: u32,
    position: u64,
    /// For how long the child may be at it.
    grace: Duration,
    /// Since when it is as `state` says; at first, when it is overdue.
    since: Instant,
    state: LateState,
}

/// | from | to | when |
/// |---|---|---|
/// | Unknown | any | the watcher's first look |
/// | Unknown, Queued, Unheard | Running | it has begun |
/// | Unknown, Unheard | Queued | its worker is at another call, or has begun others since |
/// | Unknown, Queued | Unheard | its worker is at nothing |
/// | Unknown | Queued | what was before it in its lane has been answered |
///
/// One that is Running or Unheard for too long costs the child its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LateState {
    /// Nobody has looked since it was due.
    Unknown,
    /// It is being carried out.
    Running,
    /// It waits behind another.
    Queued,
    /// It waits for a worker that is at nothing, and had begun so many calls.
    Unheard(u64),
}

impl Overdue {
    /// Those of the child that `hold` has, none yet.
    pub fn new(segment: &Segment, hold: Weak<dyn PeerLink>, lateness: Lateness) -> Arc<Self> {
        let lanes = (0..segment.geometry().lanes).map(|index| LaneView::new(segment, index)).collect();
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            lateness,
            lanes,
            hold,
            calls: Mutex::default(),
            culprit: OnceLock::new(),
        })
    }

    /// The call that has cost the child its life, if one has.
    pub fn culprit(&self) -> Option<CallName> {
        self.culprit.get().copied()
    }

    /// Tells of a call that has timed out.
    pub fn tell(&self, error: &CallError) {
        self.lateness.tell.iter().for_each(|tell| tell(error));
    }

    /// Whether more has been answered on a lane than `before`.
    pub(crate) fn has_answered(&self, lane: usize, before: u64) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.is_answered(before))
    }

    /// The call at `position` of `lane`, which was given the time `timeout`, is overdue from `due` on, if it is not answered until then.
    pub fn watch(&self, name: CallName, timeout: Duration, (lane, position): (u32, u64), due: Instant) {
        let Some(kill_after) = self.lateness.kill_after else { return };
        let grace = kill_after.after(timeout);
        let mut calls = self.calls.lock();
        let of_lane = calls.late.entry(lane).or_default();
        self.drop_answered(of_lane);
        // Of a call whose end was known from its beginning, too, it is now that its caller has given it up.
        of_lane.entry(position).or_insert(Late { name, lane, position, grace, since: due, state: LateState::Unknown });
        if calls.next.is_none_or(|next| due < next) {
            calls.next = Some(due);
            // Without a watcher there is no child either.
            let _ = watcher::look_at(self.itself.clone(), due);
        }
    }

    /// Drops the calls of a lane that have been answered, in their order. Until now, the oldest of the others has waited behind them.
    fn drop_answered(&self, of_lane: &mut BTreeMap<u64, Late>) {
        while let Some(oldest) = of_lane.first_entry()
            && self.lanes[oldest.get().lane as usize].is_answered(oldest.get().position)
        {
            oldest.remove();
            of_lane.first_entry().into_iter().for_each(|mut next| next.get_mut().state = LateState::Queued);
        }
    }

    /// What is known of a call that has not been answered.
    fn state(&self, late: &Late) -> LateState {
        let lane = &self.lanes[late.lane as usize];
        if is_past(lane.started(), late.position) {
            return LateState::Running;
        }
        let of_worker = || self.lanes.iter().filter(|other| other.worker() == lane.worker());
        match of_worker().any(LaneView::is_running) {
            true => LateState::Queued,
            false => LateState::Unheard(of_worker().map(LaneView::started).fold(0, u64::wrapping_add)),
        }
    }

    /// Looks at the oldest call of a lane, as [`look`](Self::look) does. Those behind it may be what is looked at next.
    fn look_at_lane(&self, of_lane: &mut BTreeMap<u64, Late>, now: Instant) -> Option<Result<Instant, CallName>> {
        let are_several = of_lane.len() > 1;
        let mut oldest = of_lane.first_entry()?;
        let oldest = oldest.get_mut();
        let next = self.look(oldest, now);
        let others = are_several.then(|| now.checked_add(oldest.grace.max(LEAST)).unwrap_or(now + LONGEST));
        Some(next.map(|next| others.map_or(next, |others| next.min(others))))
    }

    /// Looks at one call. Whether the child has been at it for too long; else when to look again.
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
        // What has just been found may be no more when it is looked at for the second time.
        let may_end = state == LateState::Running || !is_new;
        if until > now || state == LateState::Queued || !may_end { Ok(until.max(now + SOON)) } else { Err(late.name) }
    }
}

/// So soon a call is looked at again, at the soonest.
const SOON: Duration = Duration::from_millis(1);

/// So much can be added to any point in time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Due for Overdue {
    fn is_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut calls = self.calls.lock();
        if calls.next.is_none_or(|next| next > now) {
            // Asked for before something else was due sooner.
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
