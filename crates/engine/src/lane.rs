//! Lanes: one ordered conversation between two processes, a request ring and a reply ring with their doorbells.
//!
//! Reply number n answers request number n. A caller that sends only while fewer requests than slots are unanswered has a free slot in both rings:
//! replies are credits. Knows nothing of methods or services.
//!
//! Where a service has async methods, its calls are tasks, and replies come as those end. Everything above still holds, but for the first sentence: of the
//! requests that have no reply yet, counted from the oldest, a reply says which one it answers. Both sides remove it, and so count alike; a callee that lies
//! can only name one of its caller's own unanswered requests. So no request holds up others, in whatever slot, and credits stay what they are: a
//! request's slot is used again when as many later replies have been taken as there are slots, and the callee, which begins requests in their order,
//! has copied it by then.
//!
//! Here are the parts of a lane; what a caller, a callee and a worker do with them has a file for each.

#![forbid(unsafe_code)]

mod caller;
mod unordered;
mod callee;
mod worker;

use callgate_os::barrier;
use callgate_os::sync::Ordering::{Relaxed, Release};
use callgate_transport::commit::Place;
use callgate_transport::doorbell::{self, Pace, Wait};
use callgate_transport::error::{CallName, Started};
use callgate_transport::layout::{CalleeLine, CallerLine, ENDING, UNFENCED, WorkerLine};
use callgate_transport::loans::Attachments;
use callgate_transport::outgoing_frame::CallerBell;
pub use callgate_transport::outgoing_frame::SendError;
pub use callgate_transport::ring::{Announcement, Consumer, Frame, Seen};
use callgate_transport::ring::{Onlooker, Producer, Withdrawer};
use callgate_transport::segment::{Deadlines, Placed, Segment};
use callgate_transport::wake::{Bells, Sleeper};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The caller's end of a lane. Shares no cache line with another, nor the pair of lines that the processor fetches.
#[repr(align(128))]
pub struct CallerLane {
    index: u32,
    /// Its index among the lanes of its worker.
    place: u32,
    /// Whether the other side has been told that the lane is about to be used.
    is_begun: bool,
    /// The position of the last nested call, and its chain.
    nested: Option<(u64, u64)>,
    requests: Producer,
    replies: Consumer,
    caller: Placed<CallerLine>,
    callee: Placed<CalleeLine>,
    /// The line of the one worker that serves this lane.
    worker: Placed<WorkerLine>,
    /// How this side sleeps at the caller's doorbell, and wakes the worker at its own.
    own_bell: Arc<dyn Sleeper>,
    worker_bell: Arc<dyn Sleeper>,
    in_use: bool,
    /// How long replies take on this lane.
    pace: Pace,
    /// What the request being written carries. If a `Serialize` fails or panics, the next request gives it back.
    attachments: Attachments,
    /// What unanswered requests carry, with their positions, oldest first.
    under_way: VecDeque<(u64, Attachments)>,
    deadlines: Deadlines,
    /// Every request before this position has been carried out: its slot is free. One-way requests without a reply of their own are carried out when a
    /// later one is answered.
    acknowledged: u64,
    /// One-way requests that have not been acknowledged, oldest first.
    one_way: VecDeque<OneWayRequest>,
    /// How many calls may be unanswered: as many as slots, less one where a call must be cancelled though every other slot is in use.
    capacity: u64,
    /// Whether replies come as calls end. Then every unanswered request is in `under_way`.
    is_unordered: bool,
    /// The position that the next reply named, when it was last looked at.
    named: Cell<u64>,
    /// The positions of the unanswered requests, for an onlooker, if there is one.
    shown: Option<UnansweredSet>,
}

/// The positions of the unanswered requests of a lane where replies come as calls end, as an onlooker sees them.
pub(crate) type UnansweredSet = Arc<Mutex<BTreeSet<u64>>>;

/// A request whose result nobody wants.
#[derive(Clone, Copy)]
pub(crate) struct OneWayRequest {
    pub position: u64,
    /// Whether it is answered only if it fails.
    pub is_silent: bool,
    pub call: CallName,
}

/// Whether `mark`, which is a position plus 1, lies beyond `position`. Compares distances, because positions may wrap: the two are never more than
/// half of all positions apart.
pub(crate) fn is_past(mark: u64, position: u64) -> bool {
    mark.wrapping_sub(position.wrapping_add(1)) < u64::MAX / 2
}

/// The callee's end of a lane.
pub struct CalleeLane {
    requests: RequestReader,
    replies: ReplyWriter,
}

/// Where the requests of a lane come from, and where the callee says which have started.
struct RequestReader {
    /// The lane's index in the bridge.
    index: u32,
    ring: Consumer,
    callee: Placed<CalleeLine>,
}

/// Where the replies of a lane go, and the caller that waits for them.
struct ReplyWriter {
    ring: Producer,
    caller: CallerBell,
    /// What the reply being written carries.
    attachments: Attachments,
}

/// A lane as seen by an onlooker, with what its callee says of itself. Only for judging a child, which may lie.
pub(crate) struct LaneView {
    replies: Onlooker,
    /// Where replies come as calls end.
    unanswered: Option<UnansweredSet>,
    callee: Placed<CalleeLine>,
    worker: u32,
}

impl LaneView {
    /// A view of lane `index`.
    pub fn new(segment: &Segment, index: u32, unanswered: Option<UnansweredSet>) -> Self {
        let (worker, _) = segment.geometry().worker_of(index);
        Self { replies: Onlooker::new(segment.replies(index)), unanswered, callee: segment.callee_line(index), worker }
    }

    /// The worker that serves the lane.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// The number of calls that have begun.
    pub fn started(&self) -> u64 {
        // Relaxed: a hint while the writer lives.
        self.callee.started.load(Relaxed)
    }

    /// Whether the call at `position` has been answered.
    pub(crate) fn is_answered(&self, position: u64) -> bool {
        if let Some(unanswered) = &self.unanswered {
            return !unanswered.lock().contains(&position);
        }
        // Relaxed: a hint, which may be a lie.
        self.has_replied(position) || is_past(self.callee.passed.load(Relaxed), position)
    }

    /// Whether more than `before` calls have been answered.
    pub(crate) fn has_replied(&self, before: u64) -> bool {
        self.replies.has_seen(before)
    }

    /// Whether the call that began last is still being carried out.
    pub fn is_running(&self) -> bool {
        self.started().checked_sub(1).is_some_and(|last| !self.is_answered(last))
    }
}

/// How a caller withdraws a request of a lane that it does not hold, so that it never runs unless it has started.
///
/// ```text
/// caller                                  callee
/// D1  mark the request as withdrawn       B1  started = position + 1
/// D2  barrier::heavy()                    B2  barrier::light()
/// D3  look at started                     B3  if marked: do not carry it out
/// ```
///
/// The argument is that of `callgate_os::barrier`: not both D3 and B3 see the old value. If D3 finds that the call has not started, B3 finds the mark, and
/// the call never runs. Where the callee has no such barrier, a call that looks as if it had not started may start.
pub(crate) struct Withdrawal {
    requests: Withdrawer,
    callee: Placed<CalleeLine>,
}

impl Withdrawal {
    /// For lane `index`.
    pub fn new(segment: &Segment, index: u32) -> Self {
        Self { requests: Withdrawer::new(segment.requests(index)), callee: segment.callee_line(index) }
    }

    /// Withdraws the request at `position`, where nobody asks whether it has started.
    pub fn mark(&self, position: u64) -> Started {
        self.requests.withdraw(position);
        Started::Unknown
    }

    /// Withdraws the request at `position`. Returns whether it has started: if not, it never will.
    #[cold]
    pub fn withdraw(&self, position: u64) -> Started {
        // D1.
        self.requests.withdraw(position);
        // D2.
        let is_ordered = barrier::heavy();
        // D3. Relaxed: ordered by D2.
        if is_past(self.callee.started.load(Relaxed), position) {
            return Started::Yes;
        }
        // Relaxed: written before the callee took its first request.
        let is_fenced = self.callee.fenced.load(Relaxed) != UNFENCED;
        if is_ordered && is_fenced { Started::No } else { Started::Unknown }
    }
}

/// How the calling side reaches a worker without a lane.
///
/// ```text
/// whoever stops the bridge                  worker
/// E1  lanes_in_use = ENDING (Release)       F1  lanes_in_use is ENDING; fence(Acquire)
/// E2  fence(SeqCst); parked?                F2  answer whatever is published on any lane
/// E3  if parked: wake                       F3  nothing more: the end
/// ```
///
/// F2 finds everything published before E1, by whichever thread. That the worker sees E1 before it sleeps is the argument of `doorbell`, with E1 as
/// what is published. A later request may go unseen: by then only threads that were about to send still do, and their requests never start.
pub(crate) struct WorkerBell {
    line: Placed<WorkerLine>,
    sleeper: Arc<dyn Sleeper>,
}

impl WorkerBell {
    /// How to reach the worker `index`.
    pub fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self { line: segment.worker_line(index), sleeper: bells.worker(index) }
    }

    /// How to reach the worker with this line.
    #[cfg(all(test, loom))]
    pub(crate) fn of(line: Placed<WorkerLine>, sleeper: Arc<dyn Sleeper>) -> Self {
        Self { line, sleeper }
    }

    /// Tells the worker that requests have been published.
    pub(crate) fn notify(&self) {
        doorbell::notify(&self.line.bell, &self.sleeper);
    }

    /// Has the worker end once it has answered everything that has been published.
    pub(crate) fn ask_to_end(&self) {
        // Release, E1: pairs with the Acquire in `WorkerLanes::find_last`.
        self.line.lanes_in_use.fetch_max(ENDING, Release);
        doorbell::notify(&self.line.bell, &self.sleeper);
    }
}

/// The slot for the reply to one request, and what has been written there. If the method calls back, the next slots of the lane take its further turns.
pub struct ReplySlot<'a> {
    requests: &'a RequestReader,
    replies: &'a mut ReplyWriter,
    len: usize,
}

/// A request that has been begun, and the slot for its reply.
pub struct BegunRequest<'a> {
    pub frame: Frame<'a>,
    pub slot: ReplySlot<'a>,
    /// Whether the caller has withdrawn the request, which must then not be carried out.
    pub is_withdrawn: bool,
}

/// A reply that carries something, about to be published.
pub(crate) struct SentReply {
    pub place: Place,
    /// The call word: `returns << 32 | 1`. It tells the caller that there is something to release, and which blocks come back.
    pub call: u64,
    pub attachments: Attachments,
}

/// All lanes of one worker, and the doorbell at which it waits.
pub struct WorkerLanes {
    /// Padded against what other workers write, whose lanes the heap may put next to these.
    lanes: Vec<CachePadded<CalleeLane>>,
    rest: WorkerRest,
    /// The lane served last: the next look begins after it, so that no lane starves.
    last: usize,
    /// Whether the caller may end this worker: a parent may.
    obeys: bool,
}

/// How a worker waits for requests.
pub(crate) struct WorkerRest {
    worker: Placed<WorkerLine>,
    /// How the worker sleeps.
    own_bell: Arc<dyn Sleeper>,
    wait: Wait,
    /// How long waits for a request take here.
    pace: Pace,
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, not(loom)))]
mod unordered_tests;

#[cfg(all(test, loom))]
mod loom_models;
