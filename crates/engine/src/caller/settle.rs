//! A pending call as whoever has its lane sees it, whatever it returns.

#![forbid(unsafe_code)]

use super::{CallContext, Caller, LaneClaim};
use callgate_transport::error::CallError;
use callgate_transport::moved_reply::MovedReply;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// What a task waits for.
pub(super) trait Wakes: Send + Sync {
    /// Has the task that waits for it look again.
    fn wake(&self) {}
}

/// A call that is not waited in, whatever it returns.
pub(super) trait Settle: Wakes {
    fn context(&self) -> CallContext;

    /// Notes that the request is in the queue, under this number.
    fn queued(&self, _number: u64) {}

    /// Has `publish` publish the request at this place, unless nobody wants it any more. Returns whether it did.
    fn send(&self, _at: (u32, u64), _publish: &mut dyn FnMut()) -> bool {
        false
    }

    /// Takes the next reply of the lane, which is the call's own. `false` = the child has taken it back.
    fn settle(&self, caller: &Caller, claim: &mut LaneClaim<'_>) -> bool;

    /// Takes the same reply without reading it.
    fn hold(&self, _reply: MovedReply) {}

    /// Ends the call with an error.
    fn fail(&self, _error: CallError) {}

    /// Who waits for it.
    fn waited_by(&self) -> WaitedBy;

    /// Lets the thread that waits for it have this lane. Returns whether there still is one.
    fn give_turn(&self, _lane: u32) -> bool {
        false
    }
}

/// The waker of a task that waits for something on a lane.
#[derive(Default)]
pub(super) struct WakerCell(Mutex<Option<Waker>>);

impl WakerCell {
    /// Has this waker woken next.
    pub(super) fn set(&self, waker: Waker) {
        // Wakers are the user's code: none is dropped under the lock.
        let old = self.0.lock().replace(waker);
        drop(old);
    }
}

impl Wakes for WakerCell {
    fn wake(&self) {
        let waker = self.0.lock().take();
        wake(waker);
    }
}

/// Who waits for a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitedBy {
    /// Nobody, for the moment.
    None,
    /// Nobody, ever again.
    Abandoned,
    /// A task.
    Task,
    /// The caller itself: a method that calls back has been given up, and must be told.
    Caller,
    /// A thread.
    Thread,
}

/// Whether it must be known if a call that is withdrawn had started. To know it costs some microseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exactness {
    Known,
    Unknown,
}

/// Wakes a task. A waker that panics, which is the executor's code, ends neither a lane's holder nor the watcher.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}
