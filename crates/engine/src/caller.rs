//! The caller: claims a lane, sends a request, waits for the reply, and turns it into a value or an error.

#![forbid(unsafe_code)]

mod outcomes;
mod settle;
mod shared_lane;
mod queue;
mod attend;
mod lanes;
mod call_state;
mod pending;
mod reactors;
mod starting;
mod unordered;
mod exchange;
mod conversation;
mod conversing;
mod one_way;
mod bound;
mod closing;
mod stream_state;
mod stream;
mod batch;
mod interface_table;
mod stop;

use crate::current;
use crate::gate::GateGuard;
use crate::lane::{UnansweredSet, WorkerBell};
use crate::link::Link;
use crate::nest;
use crate::overdue::{Lateness, Overdue};
use crate::peer::{Peer, PeerLink};
use crate::saved_args::SavedArgs;
use crate::service::{MAX_INTERFACES, Method, Service};
use crate::watcher::Reactive;
use attend::Timers;
pub use batch::batch;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::{Deadline, Wait, Waited};
use callgate_transport::error::{Awaited, CallError, CallName, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::{PoolHandle, TimeLimit};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use callgate_transport::segment::Segment;
use closing::StreamCounts;
pub use conversation::{Answered, Answerer, Converse, Question};
pub use conversing::PendingConversation;
use lanes::Freed;
use parking_lot::Mutex;
pub use pending::PendingCall;
use queue::Queue;
pub use queue::QueueLimits;
use reactors::Reactors;
use shared_lane::{LaneState, SharedLane};
use starting::Sending;
use std::any::TypeId;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};
pub use stream::StreamCall;

/// How long a thread waits for a lane before it checks again whether the child has ended.
const LANE_SLICE: Duration = Duration::from_millis(20);

/// The calling side of one bridge. Shared by all threads.
pub struct Caller {
    itself: Weak<Self>,
    lanes: Box<[SharedLane]>,
    /// Requests that found no room on any of them.
    queue: Queue,
    /// Where threads wait for one of them.
    freed: Freed,
    timers: Arc<Timers>,
    /// What wakes whoever polls calls without a task, once that exists.
    poller: OnceLock<Arc<OnceLock<Waker>>>,
    reactors: Reactors,
    /// The first failure of a one-way call since the last flush.
    one_way_failure: Mutex<Option<CallError>>,
    /// Bytes of payload that a slot holds.
    slot_capacity: usize,
    pub peer: Arc<Peer>,
    /// The memory that the two share.
    pool: Arc<dyn PoolHandle>,
    /// The same link to the peer, as what can end it.
    hold: Arc<dyn PeerLink>,
    pub wait: Wait,
    workers: u32,
    /// Whether the child's calls are tasks, so that replies come as they end.
    is_unordered: bool,
    /// How to reach each worker without a lane.
    bells: Box<[WorkerBell]>,
    /// The name of the peer's first chain, see `nest`; 0 for a peer that only serves callbacks, where it is not needed.
    chains: u64,
    service: TypeId,
    /// The interfaces in the child's table, or on their way there; interface n is at n - 1.
    interfaces: [InterfaceSlot; MAX_INTERFACES],
    entering: Mutex<()>,
    stopping: Mutex<()>,
    /// The streams that were opened, and those that the child has been asked to drop.
    streams: StreamCounts,
    /// Told of calls that time out, if there is a limit for them.
    overdue: Option<Arc<Overdue>>,
}

/// An entry in the table of interfaces.
struct InterfaceSlot {
    /// The interface's dispatch function, in this process.
    address: OnceLock<usize>,
    /// Set when the child has confirmed that it knows the interface.
    bound: OnceLock<()>,
}

/// The method and time limit of a call.
#[derive(Clone, Copy)]
pub struct CallContext {
    pub method: &'static Method,
    limit: TimeLimit,
}

impl CallContext {
    /// A call that begins now. `timeout` = the longest time to wait for a lane and the reply; `None` = no limit.
    #[inline]
    pub fn new(method: &'static Method, timeout: Option<Duration>) -> Self {
        Self { method, limit: TimeLimit::after(timeout) }
    }

    /// That of what no call asks for, without a limit.
    pub(crate) fn nameless() -> Self {
        Self::new(const { &Method::nameless() }, None)
    }

    /// Gives it no more time than the call has that this thread carries out.
    pub(crate) fn inherit(&mut self, outer: Option<Instant>) {
        if let Some(at) = outer {
            self.limit.deadline = self.limit.deadline.earlier(Deadline::at(at));
            self.limit.timeout = self.limit.deadline.left();
        }
    }

    /// How long it may wait for anything.
    #[inline(always)]
    pub fn deadline(&self) -> Deadline {
        self.limit.deadline
    }

    pub fn name(&self) -> CallName {
        self.method.call_name()
    }
}

/// Whether a request may wait for memory that other frames use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MayWait {
    Yes,
    No,
}

/// What a request asks for: its kind and its call word.
#[derive(Clone, Copy)]
struct Ask {
    kind: Kind,
    call: u64,
}

/// A lane that this thread has.
type LaneClaim<'a> = GateGuard<'a, LaneState, Caller>;

/// A call whose request has been sent, and the lane that its reply will come by.
#[cfg(all(any(test, feature = "testkit"), not(loom)))]
pub struct Sent<'a> {
    lane: LaneClaim<'a>,
    position: u64,
    context: CallContext,
}

impl Caller {
    /// The calling side of a bridge to a `T`. `lateness` = what happens to calls that have timed out.
    pub fn new<T: Service>(
        segment: &Segment,
        link: Arc<Link>,
        wait: Wait,
        lateness: Option<Lateness>,
        queue: QueueLimits,
    ) -> Arc<Self> {
        // Relaxed: written before any other process had the segment.
        let chains = segment.header().chains.load(Relaxed);
        let mut caller = Self::of(segment, link.peer.clone(), link.clone(), wait, TypeId::of::<T>());
        let hold: Arc<dyn PeerLink> = link.clone();
        (caller.chains, caller.queue) = (chains, Queue::new(queue));
        caller.reactors = Reactors::new(Some(link.shared_ring()));
        let watched = segment.is_unordered() && lateness.is_some();
        let unanswered: Vec<_> = caller.lanes.iter().filter(|_| watched).map(|_| UnansweredSet::default()).collect();
        let caller = Arc::new_cyclic(|itself: &Weak<Self>| {
            caller.itself = itself.clone();
            let taker = watched.then(|| (itself.clone() as Weak<dyn Reactive>, &*unanswered));
            caller.overdue = lateness.map(|lateness| Overdue::new(segment, Arc::downgrade(&hold), lateness, taker));
            caller
        });
        caller.show_unanswered(&unanswered);
        let itself: Weak<Self> = Arc::downgrade(&caller);
        link.react_with(itself);
        caller
    }

    /// The calling side towards `peer`, which has the service and is reached through `hold`. Does not read the segment.
    pub fn of(segment: &Segment, peer: Arc<Peer>, hold: Arc<dyn PeerLink>, wait: Wait, service: TypeId) -> Self {
        let lane = |index| SharedLane::new(segment, index, &peer.bells);
        let workers = segment.geometry().workers;
        let bells = (0..workers).map(|index| WorkerBell::new(segment, index, &peer.bells)).collect();
        Self {
            itself: Weak::new(),
            lanes: (0..segment.geometry().lanes).map(lane).collect(),
            peer,
            pool: hold.clone(),
            hold,
            wait,
            bells,
            workers,
            is_unordered: segment.is_unordered(),
            chains: 0,
            queue: Queue::new(QueueLimits::DEFAULT),
            freed: Freed::new(),
            timers: Timers::new(),
            poller: OnceLock::new(),
            reactors: Reactors::new(None),
            one_way_failure: Mutex::new(None),
            slot_capacity: segment.geometry().capacity(),
            service,
            interfaces: [const { InterfaceSlot { address: OnceLock::new(), bound: OnceLock::new() } }; MAX_INTERFACES],
            entering: Mutex::new(()),
            stopping: Mutex::new(()),
            streams: StreamCounts::new(segment.geometry().lanes),
            overdue: None,
        }
    }

    /// Has `waker`, once it is set, woken for calls that are polled without a task. The first one that is given stays.
    #[inline(always)]
    pub fn polled_by(self: &Arc<Self>, waker: &Arc<OnceLock<Waker>>) -> &Arc<Self> {
        self.poller.get_or_init(|| waker.clone());
        self
    }

    /// The call for which the child was killed because it ran too long, if so.
    pub fn culprit(&self) -> Option<CallName> {
        self.overdue.as_ref().and_then(|overdue| overdue.culprit())
    }

    /// Whether the child, which is dead, had answered any call but its constructor's.
    pub fn has_answered_calls(&self) -> bool {
        let answers = self.lanes.iter().enumerate().map(|(index, lane)| match lane.gate.try_claim(self) {
            Some(mut lane) => {
                // Includes replies that nobody waited for.
                self.settle_ready(&mut lane);
                lane.answered_calls()
            }
            // A call is pending here. Only the child's own word tells what came before it on this lane.
            None => {
                u64::from(self.overdue.as_ref().is_some_and(|overdue| overdue.has_answered(index, (index == 0).into())))
            }
        });
        let introductions = self.interfaces.iter().filter(|place| place.bound.get().is_some()).count();
        answers.sum::<u64>() > 1 + introductions as u64
    }

    /// The memory of requests and boxes.
    pub fn pool(&self) -> &Arc<dyn PoolHandle> {
        &self.pool
    }

    /// The addresses of each lane with its lock.
    #[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
    pub fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        let start = |lane| std::ptr::from_ref::<SharedLane>(lane).addr();
        self.lanes.iter().map(|lane| start(lane)..start(lane) + size_of::<SharedLane>()).collect()
    }

    /// Calls a method of the service. `timeout` = the longest time to wait for a lane and the reply; `None` = no limit.
    #[inline]
    pub fn call<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let mut context = CallContext::new(method, timeout);
        match self.claim_for(&mut context)? {
            Some((mut lane, ask)) => {
                let position = self.send_on(&mut lane, ask, args, &context)?;
                self.receive(&mut lane, position, Kind::Call, &context)
            }
            None => self.call_behind(context, &mut Some(args), Sending::Waited),
        }
    }

    /// Like [`call`](Self::call), but leaves `args` in place, to be sent again, unless the callee has been given some of their memory.
    #[inline]
    pub fn call_again<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        args: &mut Option<A>,
    ) -> Result<R, CallError> {
        let mut context = *context;
        match self.claim_for(&mut context)? {
            Some((mut lane, ask)) => {
                let position = self.send_kept_on(&mut lane, ask, args, &context)?;
                self.receive(&mut lane, position, Kind::Call, &context)
            }
            None => self.call_behind(context, args, Sending::Kept),
        }
    }

    /// Sends the request of a call on this thread's own lane, which must be idle; [`finish`](Self::finish) waits for its reply. For tests in which one
    /// thread plays both sides.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    #[inline]
    pub fn send<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<Sent<'_>, CallError> {
        let mut context = CallContext::new(method, timeout);
        let Some((mut lane, ask)) = self.claim_for(&mut context)? else { return Err(self.late(&context)) };
        let position = self.send_on(&mut lane, ask, args, &context)?;
        Ok(Sent { lane, position, context })
    }

    /// Waits for the reply to a call that was sent.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    #[inline]
    pub fn finish<R: Reply>(&self, mut sent: Sent<'_>) -> Result<R, CallError> {
        self.receive(&mut sent.lane, sent.position, Kind::Call, &sent.context)
    }

    /// A lane for a call of a method, and the request to send there; `None` if no lane is idle.
    #[inline(always)]
    fn claim_for(&self, context: &mut CallContext) -> Result<Option<(LaneClaim<'_>, Ask)>, CallError> {
        let call = self.call_word(context.method, context)?;
        if self.is_closing(context) {
            self.await_closes(context)?;
        }
        let Some((lane, call)) = self.claim(call, context)? else { return Ok(None) };
        failpoints::reach(Step::ParentLaneClaimed);
        Ok(Some((lane, Ask { kind: Kind::Call, call })))
    }

    /// The call word of a method. Needed before anything is locked: in a fork, a lock that another thread held stays locked for ever.
    #[inline(always)]
    fn call_word(&self, method: &'static Method, context: &CallContext) -> Result<u64, CallError> {
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        let interface = match method.interface {
            None => 0,
            Some(interface) => self.interface_number(interface, context)?,
        };
        Ok(method.word(interface))
    }

    /// Calls the peer's method with the call word `call`, and leaves `args` in place. `method` is its name, for errors.
    #[inline]
    pub fn call_by_word<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        call: u64,
        args: &mut Option<A>,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let ask = Ask { kind: Kind::Call, call };
        let untimed = CallContext { method, limit: TimeLimit { timeout, deadline: Deadline::NEVER } };
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(&untimed));
        }
        // A call that need not wait for a lane reads the clock only when the peer has begun to work.
        if let Some(mut lane) = self.lanes.get(nest::own_lane()).and_then(|lane| lane.gate.try_claim(self))
            && lane.is_idle()
            && lane.is_in_use()
        {
            match self.send_kept_on(&mut lane, ask, args, &untimed) {
                // Try again with time to wait for memory.
                Err(CallError::Exhausted { .. } | CallError::TimedOut { .. }) if args.is_some() => {}
                sent => return self.receive(&mut lane, sent?, Kind::Call, &CallContext::new(method, timeout)),
            }
        }
        self.call_by_word_slow(ask, args, &CallContext::new(method, timeout))
    }

    #[cold]
    fn call_by_word_slow<A: Request, R: Reply>(
        &self,
        ask: Ask,
        args: &mut Option<A>,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let context = &mut { *context };
        let (mut lane, call) = match nest::current() {
            None => (self.claim_idle(context)?, ask.call),
            Some(at) => {
                context.inherit(current::deadline());
                self.claim_nested(at, ask.call, context)?
            }
        };
        let ask = Ask { call, ..ask };
        if let Some(index) = lane.begin_use() {
            self.hold.begin(index);
        }
        let position = self.send_kept_on(&mut lane, ask, args, context)?;
        self.receive(&mut lane, position, Kind::Call, context)
    }

    /// Has the child build the service from saved arguments. Returns the constructor's own error, as it displays. Gives up if the child has not begun
    /// `within` that time: then it never will.
    pub fn construct(
        &self,
        method: &'static Method,
        args: &SavedArgs,
        timeout: Option<Duration>,
        within: Duration,
    ) -> Result<Result<(), String>, CallError> {
        let (context, begin) = (&CallContext::new(method, timeout), &CallContext::new(method, Some(within)));
        // Lane 0, like the request to stop: its worker is the child's main thread.
        let mut lane = self.lock(&self.lanes[0], context)?;
        let ask = Ask { kind: Kind::Construct, call: method.word(0) };
        let position = self.send_on(&mut lane, ask, args, context)?;
        if within < timeout.unwrap_or(Duration::MAX)
            && lane.wait(self.wait, &self.peer.peer_status, begin.deadline(), &|| false) == Waited::DeadlinePassed
            && lane.started(position) == Started::No
        {
            return Err(self.out_of_time(Awaited::Answer, Started::No, begin));
        }
        self.receive(&mut lane, position, ask.kind, context)
    }
}
