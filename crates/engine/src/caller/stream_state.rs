//! The state of a stream that its consumer shares with whoever has its lane: the items that have come, and the requests for further ones.
//!
//! Each request for an item, a pull, is an entry of its own among the lane's calls, and its reply goes where the lane's holder finds it: here.

#![forbid(unsafe_code)]

use super::settle::{self, Settle, WaitedBy, Wakes};
use super::{CallContext, Caller, LaneClaim};
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Transfer;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::CallError;
use callgate_transport::moved_reply::MovedReply;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::task::Waker;
use std::time::Instant;

/// What a pull has brought.
pub(super) enum Pulled<T> {
    /// An item, the end, or why there is none.
    Item(Result<Option<T>, CallError>),
    /// A reply that has not been read.
    Moved(Box<MovedReply>),
}

/// A stream, as its consumer and whoever has its lane share it.
pub(super) struct SharedStream<T> {
    context: CallContext,
    /// Not 0 when nobody wants any more of it. Written with the lock held.
    is_abandoned: AtomicU32,
    state: Mutex<StreamState<T>>,
    /// Notified when something has come, or the thread may have the lane.
    changed: Condvar,
}

struct StreamState<T> {
    /// What has come, in order; no more than was asked for.
    come: VecDeque<Pulled<T>>,
    /// The positions of pulls that have been sent and not answered.
    under_way: VecDeque<u64>,
    /// The number of the pull that is in the queue.
    queued: Option<u64>,
    waker: Option<Waker>,
    /// A thread waits for it.
    is_awaited: bool,
    /// The lane that this thread may have.
    turn: Option<u32>,
    /// The reactor's timer for the consumer's timeout.
    timer: Option<(Instant, u64)>,
}

/// What an abandoned stream leaves behind.
pub(super) struct AbandonedStream<T> {
    pub under_way: VecDeque<u64>,
    pub queued: Option<u64>,
    pub timer: Option<(Instant, u64)>,
    /// Dropped by whoever gets it, because that runs the user's code.
    _come: (VecDeque<Pulled<T>>, Option<Waker>),
}

impl<T> SharedStream<T> {
    pub(super) fn new(context: CallContext) -> Self {
        let state = StreamState {
            come: VecDeque::new(),
            under_way: VecDeque::new(),
            queued: None,
            waker: None,
            is_awaited: false,
            turn: None,
            timer: None,
        };
        Self { context, is_abandoned: AtomicU32::new(0), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Moves everything that has come to `to`. Returns whether there was anything.
    pub(super) fn take(&self, to: &mut VecDeque<Pulled<T>>) -> bool {
        to.append(&mut self.state.lock().come);
        !to.is_empty()
    }

    pub(super) fn has_come(&self) -> bool {
        !self.state.lock().come.is_empty()
    }

    /// Ends it for its consumer.
    pub(super) fn abandon(&self) -> AbandonedStream<T> {
        let mut state = self.state.lock();
        // Relaxed: read again with the lock held wherever it matters.
        self.is_abandoned.store(1, Relaxed);
        AbandonedStream {
            under_way: mem::take(&mut state.under_way),
            queued: state.queued.take(),
            timer: state.timer.take(),
            _come: (mem::take(&mut state.come), state.waker.take()),
        }
    }

    /// Whether its pull waits for room.
    pub(super) fn is_queued(&self) -> bool {
        self.state.lock().queued.is_some()
    }

    /// Whether the pull at this position is the next to be answered.
    pub(super) fn is_next(&self, position: u64) -> bool {
        self.state.lock().under_way.front() == Some(&position)
    }

    /// The position of the first pull that has been sent and not answered.
    pub(super) fn first_under_way(&self) -> Option<u64> {
        self.state.lock().under_way.front().copied()
    }

    /// Notes that the pulls at these positions have been published.
    pub(super) fn sent(&self, positions: Range<u64>) {
        self.state.lock().under_way.extend(positions);
    }

    fn is_abandoned(&self) -> bool {
        // Relaxed: as above.
        self.is_abandoned.load(Relaxed) != 0
    }

    /// Enters what the first pull under way has brought, and tells whoever waits.
    pub(super) fn arrive(&self, pulled: Pulled<T>) {
        let mut state = self.state.lock();
        state.under_way.pop_front();
        state.queued = None;
        if self.is_abandoned() {
            drop(state);
            // Not under the lock: an item's destructor is the user's code.
            return drop(pulled);
        }
        state.come.push_back(pulled);
        let waker = state.waker.take();
        if state.is_awaited {
            self.changed.notify_one();
        }
        drop(state);
        settle::wake(waker);
    }

    /// Has this waker woken when something comes.
    pub(super) fn wake_by(&self, waker: &Waker) {
        // Wakers are the user's code: none is cloned or dropped under the lock.
        let waker = waker.clone();
        let old = self.state.lock().waker.replace(waker);
        drop(old);
    }

    /// Sets the reactor's timer; returns the one before.
    pub(super) fn set_timer(&self, timer: Option<(Instant, u64)>) -> Option<(Instant, u64)> {
        mem::replace(&mut self.state.lock().timer, timer)
    }

    /// Notes that this thread is about to sleep until something comes, and wants the lane.
    pub(super) fn await_change(&self) {
        let mut state = self.state.lock();
        (state.is_awaited, state.turn) = (true, None);
    }

    /// Sleeps until something has come, this thread may have the lane, or the time is over.
    pub(super) fn sleep(&self, until: Deadline) {
        let mut state = self.state.lock();
        while state.come.is_empty() && state.turn.is_none() {
            match until.instant() {
                None => self.changed.wait(&mut state),
                Some(at) if self.changed.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
            }
        }
    }

    /// Notes that no thread waits any more. Returns the lane that it has been given and has not used.
    pub(super) fn stop_waiting(&self) -> Option<u32> {
        let mut state = self.state.lock();
        state.is_awaited = false;
        state.turn.take()
    }
}

impl<T: Transfer> Settle for SharedStream<T> {
    fn context(&self) -> CallContext {
        self.context
    }

    fn queued(&self, number: u64) {
        self.state.lock().queued = Some(number);
    }

    fn send(&self, (_, position): (u32, u64), publish: &mut dyn FnMut()) -> bool {
        let mut state = self.state.lock();
        let is_wanted = !self.is_abandoned();
        if is_wanted {
            // Under the lock, so that nobody withdraws a pull that is yet to be published.
            publish();
            state.queued = None;
            state.under_way.push_back(position);
        }
        is_wanted
    }

    fn settle(&self, caller: &Caller, claim: &mut LaneClaim<'_>) -> bool {
        if self.is_abandoned() {
            return caller.drop_next(claim, &self.context).unwrap_or(true);
        }
        let position = claim.replies().position();
        match caller.take::<Option<T>>(claim, position, Kind::Call, &self.context) {
            Some(item) => {
                self.arrive(Pulled::Item(item));
                true
            }
            None => false,
        }
    }

    fn hold(&self, reply: MovedReply) {
        self.arrive(Pulled::Moved(Box::new(reply)));
    }

    fn fail(&self, error: CallError) {
        self.arrive(Pulled::Item(Err(error)));
    }

    fn waited_by(&self) -> WaitedBy {
        let state = self.state.lock();
        match (self.is_abandoned(), state.is_awaited, &state.waker) {
            (true, ..) => WaitedBy::Abandoned,
            (_, true, _) => WaitedBy::Thread,
            (.., Some(_)) => WaitedBy::Task,
            _ => WaitedBy::None,
        }
    }

    fn give_turn(&self, lane: u32) -> bool {
        let mut state = self.state.lock();
        if state.is_awaited {
            state.turn = Some(lane);
            self.changed.notify_one();
        }
        state.is_awaited
    }
}

impl<T: Transfer> Wakes for SharedStream<T> {
    fn wake(&self) {
        let waker = self.state.lock().waker.take();
        settle::wake(waker);
    }
}
