//! The call that this thread carries out: whether its caller has withdrawn it, and how long it has.
//!
//! A worker's thread says once which lanes it serves, and before each call which of them has it; the rest is read from shared memory by whoever asks. So a
//! call whose method does not ask pays for one store.

#![forbid(unsafe_code)]

use callgate_os::barrier;
use callgate_os::clock;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::layout::{CalleeLine, UNFENCED};
use callgate_transport::ring::Withdrawer;
use callgate_transport::segment::{Deadlines, Placed, Segment};
use std::cell::{Cell, RefCell};
use std::time::Instant;

/// What a worker's thread knows of its calls.
pub(crate) struct ServedLanes {
    lanes: Vec<ServedLane>,
    /// The process that makes the calls.
    caller: u32,
}

struct ServedLane {
    requests: Withdrawer,
    callee: Placed<CalleeLine>,
    deadlines: Deadlines,
}

/// A call that is a task, on the thread that polls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskMark {
    /// The place of its lane.
    pub place: usize,
    pub position: u64,
    pub deadline: Option<Instant>,
}

thread_local! {
    static LANES: RefCell<Option<ServedLanes>> = const { RefCell::new(None) };
    /// The place of the lane whose call is carried out; beyond every lane outside of calls.
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
    /// The task that is polled, where calls are tasks: then the lane may have begun others since.
    static TASK: Cell<Option<TaskMark>> = const { Cell::new(None) };
}

impl ServedLanes {
    /// The lanes of worker `index` of a segment. `caller` = the number of the process that makes the calls.
    pub(crate) fn new(segment: &Segment, index: u32, caller: u32) -> Self {
        let lane = |lane| ServedLane {
            requests: Withdrawer::new(segment.requests(lane)),
            callee: segment.callee_line(lane),
            deadlines: segment.deadlines(lane),
        };
        Self { lanes: segment.geometry().lanes_of(index).map(lane).collect(), caller }
    }

    /// Notes that this thread serves them from now on. Makes callers able to say whether a call has started, see `lane::Withdrawal`.
    pub(crate) fn take_thread(self) {
        if !barrier::register() {
            // Relaxed: before the first call, and read only behind a barrier.
            self.lanes.iter().for_each(|lane| lane.callee.fenced.store(UNFENCED, Relaxed));
        }
        LANES.set(Some(self));
    }
}

/// Notes that this thread carries out the call that has begun last on its lane at `place`.
#[inline(always)]
pub(crate) fn enter(place: usize) {
    PLACE.set(place);
}

/// Notes that this thread polls this task, until [`leave_task`].
pub(crate) fn enter_task(task: TaskMark) {
    TASK.set(Some(task));
    PLACE.set(task.place);
}

/// Notes that this thread polls no task.
pub(crate) fn leave_task() {
    TASK.set(None);
    PLACE.set(usize::MAX);
}

/// Notes that this thread carries out no call.
pub(crate) fn leave() {
    PLACE.set(usize::MAX);
}

/// What `look` finds at the lane of the call that this thread carries out and at its position; `None` outside of calls.
fn here<R>(look: impl FnOnce(&ServedLane, u64, u32) -> R) -> Option<R> {
    LANES.with_borrow(|lanes| {
        let lanes = lanes.as_ref()?;
        let lane = lanes.lanes.get(PLACE.get())?;
        let position = match TASK.get() {
            Some(task) => task.position,
            // Relaxed: this thread wrote it.
            None => lane.callee.started.load(Relaxed).checked_sub(1)?,
        };
        Some(look(lane, position, lanes.caller))
    })
}

/// Whether the caller of the method that this thread runs does not want its result any more: it has dropped or
/// [cancelled](../struct.Pending.html#method.cancel) the call, or its time is over. `false` outside of calls. Costs a few nanoseconds.
///
/// A method that takes long looks now and then, and returns early. What it returns is dropped. An async method that waits meanwhile is dropped itself.
pub fn is_cancelled() -> bool {
    here(|lane, position, _| lane.requests.is_withdrawn(position)).unwrap_or(false)
}

/// When the caller of the method that this thread runs stops waiting for it; `None` if it has no timeout, and outside of calls. Calls that the method makes
/// to other bridges have no more time than this. Callbacks of a `Manager` know none.
pub fn deadline() -> Option<Instant> {
    if let Some(task) = TASK.get() {
        return task.deadline;
    }
    here(|lane, position, _| lane.deadlines.get(position)).flatten().and_then(clock::instant_of)
}

/// The number of the process that made the call that this thread carries out, as this process knows it; `None` outside of calls.
pub fn caller() -> Option<u32> {
    here(|_, _, caller| caller)
}
