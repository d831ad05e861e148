//! Looks for requests on all lanes of a worker in turn, and waits when there are none.

#![forbid(unsafe_code)]

use super::{CalleeLane, WorkerLanes, WorkerRest};
use crate::peer_status::PeerStatus;
use callgate_os::sync::Ordering::{Acquire, Relaxed};
use callgate_os::sync::fence;
use callgate_transport::doorbell::{Deadline, Pace, Wait, Waited, Waiter};
use callgate_transport::layout::ENDING;
use callgate_transport::segment::Segment;
use callgate_transport::wake::Bells;
use crossbeam_utils::CachePadded;

impl WorkerLanes {
    /// The lanes of worker `index`; `obeys` = its caller may end it.
    pub fn new(segment: &Segment, index: u32, bells: &Bells, wait: Wait, obeys: bool) -> Self {
        let lane = |lane| CachePadded::new(CalleeLane::new(segment, lane, bells));
        Self {
            lanes: segment.geometry().lanes_of(index).map(lane).collect(),
            rest: WorkerRest {
                worker: segment.worker_line(index),
                own_bell: bells.worker(index),
                wait,
                pace: Pace::new(),
            },
            last: 0,
            obeys,
        }
    }

    /// The lane at index `place`.
    pub fn lane(&mut self, place: usize) -> &mut CalleeLane {
        &mut self.lanes[place]
    }

    /// The lane at index `place`, where [`wait`](Self::wait) found a request, and how to wait there for more; `None` if it found the end.
    #[inline(always)]
    pub(crate) fn found(&mut self, place: usize) -> Option<(&mut CalleeLane, &WorkerRest)> {
        self.lanes.get_mut(place).map(|lane| (&mut **lane, &self.rest))
    }

    /// Whether this worker has the first lane.
    pub fn is_first(&self) -> bool {
        self.lanes.first().is_some_and(|lane| lane.index() == 0)
    }

    /// Makes the worker find the request to stop only when there is no other.
    #[cold]
    pub(crate) fn end_soon(&self) {
        // Relaxed: this thread's own note to itself.
        self.rest.worker.lanes_in_use.fetch_max(ENDING, Relaxed);
    }

    /// The addresses of this side's state of each lane.
    #[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
    pub fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        let start = |lane| std::ptr::from_ref::<CalleeLane>(lane).addr();
        self.lanes.iter().map(|lane| start(lane)..start(lane) + size_of::<CalleeLane>()).collect()
    }

    /// Waits without limit for a request, and returns the index of its lane. Returns an index without a lane if the parent has asked for the end and
    /// every request has been answered; `None` if the caller's `peer_status` is over. A caller without a `peer_status` is one that this process does
    /// not outlive.
    #[inline(always)]
    pub fn wait(&mut self, peer_status: Option<&PeerStatus>) -> Option<usize> {
        let found = self.find(|_| ()).or_else(|| self.wait_slow(peer_status))?;
        self.last = found;
        Some(found)
    }

    /// The index of a lane with a request, as [`wait`](Self::wait) finds it, if there is one now.
    pub(crate) fn look(&mut self) -> Option<usize> {
        let found = self.find(|_| ())?;
        self.last = found;
        Some(found)
    }

    /// Waits until `is_done`, which may look for requests itself.
    pub(crate) fn wait_until(&self, mut is_done: impl FnMut(Option<usize>) -> bool) {
        self.rest.waiter(None, self.caller_cpu()).wait(Deadline::NEVER, || is_done(self.find(CalleeLane::fetch_lines)));
    }

    /// The CPU of the caller that was served last, plus 1.
    fn caller_cpu(&self) -> u32 {
        self.lanes.get(self.last).map_or(0, |lane| lane.caller_cpu())
    }

    /// The number of lanes, which is also the index at which the end is found.
    pub(crate) fn count(&self) -> usize {
        self.lanes.len()
    }

    #[inline(never)]
    fn wait_slow(&self, peer_status: Option<&PeerStatus>) -> Option<usize> {
        let waiter = self.rest.waiter(peer_status, self.caller_cpu());
        let mut found = None;
        loop {
            let waited = waiter.wait(Deadline::NEVER, || {
                found = self.find(CalleeLane::fetch_lines);
                found.is_some()
            });
            if found.is_some() || waited == Waited::Dead {
                return found;
            }
        }
    }

    /// The next lane with a request, in turn. Calls `before` before each look.
    #[inline(always)]
    fn find(&self, before: impl Fn(&CalleeLane)) -> Option<usize> {
        let in_use = self.rest.worker.lanes_in_use.load(Relaxed) as usize;
        let Some(lanes) = self.lanes.get(..in_use) else { return self.find_last() };
        let mut place = self.last;
        for _ in lanes {
            place = if place + 1 < lanes.len() { place + 1 } else { 0 };
            let lane = &lanes[place];
            before(lane);
            if lane.is_ready() {
                return Some(place);
            }
        }
        None
    }

    /// A lane with a request, the first lane last, because the request to stop comes there. If there is none, the end has come.
    #[cold]
    fn find_last(&self) -> Option<usize> {
        // Acquire: finds what was published before the end was asked for. Pairs with the Release in `WorkerBell::ask_to_end`.
        fence(Acquire);
        let lanes = self.lanes.len();
        let found = (1..lanes).chain(0..1).find(|&place| self.lanes[place].is_ready());
        // A remote caller may write anything here, and cannot end this process.
        if self.obeys { found.or(Some(lanes)) } else { found }
    }
}

impl WorkerRest {
    fn waiter<'a>(&'a self, peer_status: Option<&'a PeerStatus>, peer_cpu: u32) -> Waiter<'a> {
        Waiter {
            bell: &self.worker.bell,
            sleeper: &*self.own_bell,
            wait: self.wait,
            pace: &self.pace,
            dead: peer_status.map(PeerStatus::dead),
            peer_cpu,
        }
    }

    /// Whether the parent has asked for the end.
    pub(crate) fn is_ending(&self) -> bool {
        // Relaxed: a request that was published before is answered, if this side finds it.
        self.worker.lanes_in_use.load(Relaxed) == ENDING
    }

    /// Waits without limit until `is_ready`, which the caller whose CPU is `peer_cpu` brings about by a request. Other requests wait meanwhile.
    pub(crate) fn wait_for(&self, peer_cpu: u32, is_ready: impl Fn() -> bool) {
        let waiter = self.waiter(None, peer_cpu);
        while !is_ready() {
            waiter.wait(Deadline::NEVER, &is_ready);
        }
    }
}
