//! The caller: claims a lane, sends a request, waits for the reply, and makes of it a value or an error.

#![forbid(unsafe_code)]

use super::callee::PANICKED;
use super::link::Link;
use super::nest::{self, At};
use super::overdue::{Lateness, Overdue};
use super::peer::{Peer, PeerLink};
use super::saved_args::SavedArgs;
use super::service::{InterfaceId, MAX_INTERFACES, Method, Service};
use crate::commit::{Beyond, Kind, Limit, Place};
use crate::decoder::Decoder;
use crate::doorbell::{Deadline, Wait, Waited};
use crate::error::{
    Awaited, CallError, CallName, CallbackError as Failed, Exit, Fault, NoMemory, Payload, Started, shown,
};
use crate::failpoints::{self, Step};
use crate::lane::{CallerLane, Frame, SendError, WorkerBell};
use crate::layout::CallerLine;
use crate::memory_pool::{AllocContext, AllocDeadline, MemoryWait, PoolHandle};
use crate::peer_status::Cause;
use crate::reading::{DecodeRefusal, TOO_MANY, last_refusal};
use crate::reply::Reply;
use crate::request::Request;
use crate::segment::{Placed, Segment};
use crate::sync::Ordering::Relaxed;
use crate::sys::image::Image;
use parking_lot::{ArcMutexGuard, Mutex, MutexGuard, RawMutex};
use rkyv::rancor::Failure;
use std::any::TypeId;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a killed child may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long who lets go of a bridge waits for a child that has nothing to do but to drop its service.
const LET_GO_PATIENCE: Duration = Duration::from_millis(3);

/// How long a thread that waits for a lane waits between two looks at whether the child has ended.
const LANE_SLICE: Duration = Duration::from_millis(20);

/// Of so many lanes between two clients one is left to calls that are not nested.
const KEPT: usize = 5;

/// The calling side of one bridge. Shared by all threads.
pub(crate) struct Caller {
    /// Each in memory of its own, so that one of them can be kept beyond the call that claimed it.
    lanes: Box<[Arc<Mutex<CallerLane>>]>,
    pub(crate) peer: Arc<Peer>,
    /// The memory that the two share.
    pool: Arc<dyn PoolHandle>,
    /// The same, as what holds the peer.
    hold: Arc<dyn PeerLink>,
    pub(super) wait: Wait,
    workers: u32,
    /// How to reach each worker apart from its lanes.
    bells: Box<[WorkerBell]>,
    /// What chains of the peer's workers are called, see `nest`; 0 if they are asked of callbacks only, where nobody asks.
    chains: u64,
    callers: Box<[Placed<CallerLine>]>,
    service: TypeId,
    /// The interfaces that the child has, or is to have, in its table; interface n is at n - 1.
    interfaces: [InterfaceSlot; MAX_INTERFACES],
    entering: Mutex<()>,
    stopping: Mutex<()>,
    /// Where calls are told of that time out; `None` = nowhere.
    overdue: Option<Arc<Overdue>>,
}

/// A place in the table of interfaces.
struct InterfaceSlot {
    /// The interface's dispatch function, in this process.
    address: OnceLock<usize>,
    /// Set when the child has answered that it knows it.
    bound: OnceLock<()>,
}

/// What a call needs to know of itself.
#[derive(Clone, Copy)]
pub(crate) struct CallContext {
    pub(crate) method: &'static Method,
    timeout: Option<Duration>,
    /// Until when it may wait for anything.
    pub(crate) deadline: Deadline,
}

/// The time that its request may be written in. A call that has not looked at the clock yet has begun just now.
impl AllocDeadline for CallContext {
    fn until(&self) -> Deadline {
        if self.deadline.instant().is_some() { self.deadline } else { Deadline::after(self.timeout) }
    }
}

impl CallContext {
    /// A call that begins now. `timeout` = the longest time to wait for a lane and the reply; `None` = no limit.
    pub(crate) fn new(method: &'static Method, timeout: Option<Duration>) -> Self {
        Self { method, timeout, deadline: Deadline::after(timeout) }
    }

    pub(crate) fn name(&self) -> CallName {
        self.method.call_name()
    }
}

/// What becomes of a call's arguments when its request has been written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ArgsPolicy {
    /// They are dropped.
    Spend,
    /// The same; and nothing is waited for.
    SpendAtOnce,
    /// They stay, to be sent again; but not if the request carries some of their memory, which is the callee's from then on.
    Keep,
}

/// What a request asks for: its kind and its call word.
#[derive(Clone, Copy)]
struct Ask {
    kind: Kind,
    call: u64,
}

/// A call whose request is on its way, and the lane that its reply will come by.
pub(crate) struct Sent<'a> {
    lane: MutexGuard<'a, CallerLane>,
    position: u64,
    context: CallContext,
}

/// A call that its caller does not wait in, and the lane that its reply will come by.
///
/// Dropped before it is answered, it leaves its reply to whoever uses the lane next. In a fork it does nothing: the lane is that
/// of the process that it was forked from.
pub(crate) struct Begun {
    // Before the caller, which must outlive it.
    lane: ArcMutexGuard<RawMutex, CallerLane>,
    caller: Arc<Caller>,
    position: u64,
    context: CallContext,
}

impl Begun {
    /// The reply, if it is there or never will be; never waits. After `None`, the bridge's doorbell rings for it.
    pub(crate) fn poll<R: Reply>(&mut self) -> Option<Result<R, CallError>> {
        let Self { lane, caller, position, context } = self;
        if caller.peer.is_in_fork() {
            return Some(Err(caller.in_fork_slow(context)));
        }
        // Asked before the look: a reply published before the death is still found.
        let ended = caller.peer.peer_status.exit().is_some();
        // A second look if the doorbell will not ring, because a reply came before it was armed. No third: a child that publishes and
        // takes back is not waited for.
        for _ in 0..2 {
            if let Some(outcome) = caller.take(lane, *position, Kind::Call, context) {
                return Some(outcome);
            }
            if caller.peer.door.is_none() || !lane.arm() {
                break;
            }
        }
        match ended {
            true => Some(Err(caller.ended(lane, *position, context))),
            false if context.deadline.has_passed() => Some(Err(caller.timed_out(lane.started(*position), context))),
            false => None,
        }
    }

    /// Waits for the reply.
    pub(crate) fn finish<R: Reply>(&mut self) -> Result<R, CallError> {
        let Self { lane, caller, position, context } = self;
        if caller.peer.is_in_fork() {
            return Err(caller.in_fork_slow(context));
        }
        caller.receive(lane, *position, Kind::Call, context)
    }

    pub(crate) fn method(&self) -> &'static Method {
        self.context.method
    }

    /// Copies the reply while it is written by `child`, which says whether it goes on. `None` if there is nothing to be copied so, or
    /// nothing of it could be used: then [`poll`](Self::poll) has the reply. For tests in which one thread plays both sides.
    #[cfg(any(fuzzing, all(test, not(loom))))]
    pub(crate) fn follow<R: Reply>(&mut self, mut child: impl FnMut() -> bool) -> Option<Result<R, CallError>> {
        let Self { lane, caller, position, context } = self;
        if lane.replies().position() != *position {
            return None;
        }
        let wait = |_: &CallerLane, _: &_, _: &_| if child() { Waited::Ready } else { Waited::DeadlinePassed };
        caller.follow(lane, Kind::Call, context, wait)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.caller.peer.door.is_some() && !self.caller.peer.is_in_fork() {
            self.lane.disarm();
        }
    }
}

impl Caller {
    /// The calling side of a bridge to a `T`.
    pub(crate) fn new<T: Service>(segment: &Segment, link: Arc<Link>, wait: Wait) -> Self {
        // Relaxed: written before anybody else had the segment.
        let chains = segment.header().chains.load(Relaxed);
        Self { chains, ..Self::of(segment, link.peer.clone(), link, wait, TypeId::of::<T>()) }
    }

    /// The calling side of what `hold` has of `peer`, who has the service. Does not look at the segment.
    pub(crate) fn of(segment: &Segment, peer: Arc<Peer>, hold: Arc<dyn PeerLink>, wait: Wait, service: TypeId) -> Self {
        let lane = |index| Arc::new(Mutex::new(CallerLane::new(segment, index, &peer.bells)));
        let workers = segment.geometry().workers;
        let bells = (0..workers).map(|index| WorkerBell::new(segment, index, &peer.bells)).collect();
        Self {
            lanes: (0..segment.geometry().lanes).map(lane).collect(),
            peer,
            pool: hold.clone(),
            hold,
            wait,
            bells,
            workers: segment.geometry().workers,
            chains: 0,
            callers: (0..segment.geometry().lanes).map(|index| segment.caller_line(index)).collect(),
            service,
            interfaces: [const { InterfaceSlot { address: OnceLock::new(), bound: OnceLock::new() } }; MAX_INTERFACES],
            entering: Mutex::new(()),
            stopping: Mutex::new(()),
            overdue: None,
        }
    }

    /// The same, with something to be done about calls that time out.
    pub(crate) fn with_lateness(mut self, segment: &Segment, lateness: Lateness) -> Self {
        // First as what it is.
        let hold: Arc<dyn PeerLink> = self.hold.clone();
        self.overdue = Some(Overdue::new(segment, Arc::downgrade(&hold), lateness));
        self
    }

    /// The call that the child was at for so long that it was killed, if so.
    pub(crate) fn culprit(&self) -> Option<CallName> {
        self.overdue.as_ref().and_then(|overdue| overdue.culprit())
    }

    /// Whether the child, which is dead, had answered any call beside its constructor's.
    pub(crate) fn has_answered_calls(&self) -> bool {
        let context = &CallContext::new(const { &Method::nameless() }, None);
        let until = Instant::now() + LANE_SLICE;
        let answers = self.lanes.iter().enumerate().map(|(index, lane)| match lane.try_lock_until(until) {
            Some(mut lane) => {
                // Also what nobody waited for.
                let _ = self.settle(&mut lane, context);
                lane.answered()
            }
            // Its call is pending. What came before that on this lane, only the child has said.
            None => {
                u64::from(self.overdue.as_ref().is_some_and(|overdue| overdue.has_answered(index, (index == 0).into())))
            }
        });
        let introductions = self.interfaces.iter().filter(|place| place.bound.get().is_some()).count();
        answers.sum::<u64>() > 1 + introductions as u64
    }

    /// The memory of requests and boxes.
    pub(crate) fn pool(&self) -> &Arc<dyn PoolHandle> {
        &self.pool
    }

    /// The addresses of each lane, with its lock.
    #[cfg(all(test, debug_assertions, not(loom)))]
    pub(crate) fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        let start = |lane| std::ptr::from_ref::<Mutex<CallerLane>>(lane).addr();
        self.lanes.iter().map(|lane| start(lane)..start(lane) + size_of::<Mutex<CallerLane>>()).collect()
    }

    /// Calls a method of the service. `timeout` = the longest time to wait for a lane and the reply; `None` = no limit.
    #[inline]
    pub(crate) fn call<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let sent = self.send(method, args, timeout)?;
        self.finish(sent)
    }

    /// As [`call`](Self::call), but leaves `args` where they are, to be sent again, unless the callee has been given some of their memory.
    #[inline]
    pub(crate) fn call_again<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        args: &mut Option<A>,
    ) -> Result<R, CallError> {
        let sent = self.send_args(context, args, ArgsPolicy::Keep)?;
        self.finish(sent)
    }

    /// Sends the request of a call, whose reply [`finish`](Self::finish) waits for.
    #[inline]
    pub(crate) fn send<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<Sent<'_>, CallError> {
        self.send_args(&CallContext::new(method, timeout), &mut Some(args), ArgsPolicy::Spend)
    }

    #[inline(always)]
    fn send_args<A: Request>(
        &self,
        context: &CallContext,
        args: &mut Option<A>,
        then: ArgsPolicy,
    ) -> Result<Sent<'_>, CallError> {
        let call = self.call_word(context.method, context)?;
        let (mut lane, call) = self.claim(call, context)?;
        failpoints::reach(Step::ParentLaneClaimed);
        let position = self.send_on(&mut lane, Ask { kind: Kind::Call, call }, args, then, context)?;
        Ok(Sent { lane, position, context: *context })
    }

    /// The call word of a method. Comes before anything is locked: in a fork, what another thread held stays locked for ever.
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

    /// Waits for the reply to a call that was sent.
    #[inline]
    pub(crate) fn finish<R: Reply>(&self, mut sent: Sent<'_>) -> Result<R, CallError> {
        self.receive(&mut sent.lane, sent.position, Kind::Call, &sent.context)
    }

    /// Calls what the peer knows by the call word `call`, and leaves `args` where they are. `method` is its name, for errors.
    #[inline]
    pub(crate) fn call_by_word<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        call: u64,
        args: &mut Option<A>,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let ask = Ask { kind: Kind::Call, call };
        let untimed = CallContext { method, timeout, deadline: Deadline::NEVER };
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(&untimed));
        }
        // Who need not wait for a lane looks at the clock when the peer has begun to work.
        if let Some(mut lane) = self.lanes.get(nest::own_lane()).and_then(|lane| lane.try_lock())
            && lane.is_idle()
            && lane.is_in_use()
        {
            match self.send_on(&mut lane, ask, args, ArgsPolicy::Keep, &untimed) {
                // There is time to wait for memory.
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
        let (mut lane, call) = match nest::current() {
            None => (self.claim_idle(context)?, ask.call),
            Some(at) => self.claim_nested(at, ask.call, context)?,
        };
        let ask = Ask { call, ..ask };
        if let Some(index) = lane.begin_use() {
            self.hold.begin(index);
        }
        let position = self.send_on(&mut lane, ask, args, ArgsPolicy::Keep, context)?;
        self.receive(&mut lane, position, Kind::Call, context)
    }

    /// Has the child build the service from saved arguments. Returns the constructor's own error, as it displays. One that has not begun with it
    /// `within` that time never will.
    pub(crate) fn construct(
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
        let position = self.send_on(&mut lane, ask, &mut Some(args), ArgsPolicy::Spend, context)?;
        if within < timeout.unwrap_or(Duration::MAX)
            && lane.wait(self.wait, &self.peer.peer_status, begin.deadline) == Waited::DeadlinePassed
            && lane.started(position) == Started::No
        {
            return Err(self.out_of_time(Awaited::Answer, Started::No, begin));
        }
        self.receive(&mut lane, position, ask.kind, context)
    }

    // ---- calls that do not wait ------------------------------------------------------------------------------------

    /// Sends the request of a call, and keeps its lane until the reply has been taken. Never waits: the thread may itself hold
    /// what it would wait for.
    pub(crate) fn begin<A: Request>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<Begun, CallError> {
        let context = CallContext::new(method, timeout);
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(&context));
        }
        if let Some(at) = nest::current() {
            self.may_nest(at, &context)?;
        }
        let mut lane = self.claim_for_long(&context)?;
        let interface = match method.interface {
            None => 0,
            Some(interface) => self.bind_ahead(&mut lane, interface, &context)?,
        };
        let call = match nest::current() {
            None => method.word(interface),
            Some(at) => self.nest(&mut lane, at, method.word(interface)),
        };
        let ask = Ask { kind: Kind::Call, call };
        let position = self.send_on(&mut lane, ask, &mut Some(args), ArgsPolicy::SpendAtOnce, &context)?;
        // What comes back only when this thread asks for it is not waited for by others.
        lane.give_up(&*self.pool);
        if let (Some(overdue), Some(due)) = (&self.overdue, context.deadline.instant()) {
            // Nobody may ask for it by then.
            overdue.watch(context.name(), context.timeout.unwrap_or_default(), (lane.index(), position), due);
        }
        Ok(Begun { lane, caller: self.clone(), position, context })
    }

    /// A lane for longer than one call of this thread, with room for two requests.
    fn claim_for_long(&self, context: &CallContext) -> Result<ArcMutexGuard<RawMutex, CallerLane>, CallError> {
        for lane in self.lanes_from(self.preferred_lane()) {
            let Some(mut lane) = lane.try_lock_arc() else { continue };
            self.settle(&mut lane, context)?;
            if lane.credit() >= 2 && nest::current().is_none_or(|at| lane.may_nest(at.chain)) {
                return Ok(lane);
            }
        }
        Err(CallError::Refused {
            call: context.name(),
            why: format!(
                "all {} lanes of the bridge are in use, by other calls or by `Pending`s whose results have not been taken; take or drop \
                 them, or give the bridge more with Builder::lanes",
                self.lanes.len()
            ),
        })
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Has the child drop the service and exit, after all calls that were sent before; kills it if that takes longer than `grace`.
    /// The child is gone when this returns. A second stop waits for the first, and returns how the child ended.
    ///
    /// Waits for nothing but the child: not for who is in a call, nor for calls that have been answered and not taken.
    pub(crate) fn stop(&self, drop: &'static Method, grace: Duration) -> Result<Exit, CallError> {
        let context = &CallContext::new(drop, Some(grace));
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        let _one_at_a_time = self.stopping.lock();
        let peer_status = &self.peer.peer_status;
        match (peer_status.cause(), peer_status.exit()) {
            (Some(Cause::Stopped), Some(exit)) => return Ok(exit),
            (Some(Cause::Corrupt(_)), _) | (None, Some(_)) => {
                self.kill();
                return Err(self.over(Started::No, context));
            }
            _ => {}
        }
        peer_status.blame(Cause::Stopped);
        let answer = match self.ask_to_stop(context, LANE_SLICE) {
            Some((mut lane, position)) => self.receive(&mut lane, position, Kind::Stop, context),
            None => self.stopped_unasked(drop, context.deadline),
        };
        match answer {
            Err(error @ CallError::Corrupt { .. }) => {
                self.kill();
                Err(error)
            }
            // Or it has ended without an answer.
            answer => match peer_status.wait(context.deadline) {
                Some(_) if matches!(answer, Err(CallError::Panicked { .. })) => answer.map(|()| Exit::Unknown),
                Some(exit) => Ok(exit),
                None => {
                    self.kill();
                    Err(self.out_of_time(Awaited::Answer, Started::Yes, context))
                }
            },
        }
    }

    /// Asks the child to stop, and does not wait: what it has answered, or is at, may keep its lanes from everybody else. If the first one is to be
    /// had within `patience`, returns it, and the position of the request, which will be answered; the child ends in any case.
    fn ask_to_stop(&self, context: &CallContext, patience: Duration) -> Option<(MutexGuard<'_, CallerLane>, u64)> {
        let (first, others) = self.bells.split_first()?;
        // Before the request to stop, by which the first worker begins to wait for them.
        others.iter().for_each(WorkerBell::ask_to_end);
        let asked = self.lanes[0].try_lock_for(patience).and_then(|mut lane| {
            self.settle(&mut lane, context).ok()?;
            if lane.credit() == 0 {
                return None;
            }
            let ask = Ask { kind: Kind::Stop, call: 0 };
            let position = self.send_on(&mut lane, ask, &mut Some(()), ArgsPolicy::Spend, context).ok()?;
            Some((lane, position))
        });
        if asked.is_none() {
            first.ask_to_end();
            failpoints::reach(Step::ParentStopSent);
        }
        asked
    }

    /// What would have been the answer of a child that was asked to stop with no request: it can tell by its exit code alone.
    fn stopped_unasked(&self, drop: &'static Method, deadline: Deadline) -> Result<(), CallError> {
        if self.peer.peer_status.wait(deadline) != Some(Exit::Code(PANICKED)) {
            return Ok(());
        }
        let message = "in the service's destructor; the child has printed the message".into();
        let fault = Fault { message, location: None, backtrace: None };
        Err(CallError::Panicked { call: drop.call_name(), fault: Box::new(fault) })
    }

    /// Has the child stop, as [`stop`](Self::stop) does, and leaves it to the watcher to see to it. One that has nothing to do is given a moment, which is
    /// enough for most: then whatever its service does when it is dropped has been done.
    pub(crate) fn let_go(&self, drop: &'static Method, grace: Duration) {
        if self.peer.is_in_fork() || self.peer.peer_status.is_over() {
            return;
        }
        self.peer.peer_status.blame(Cause::Stopped);
        let context = &CallContext::new(drop, Some(grace));
        let is_idle = |lane: &Arc<Mutex<CallerLane>>| {
            lane.try_lock().is_some_and(|mut lane| self.settle(&mut lane, context).is_ok() && lane.is_idle())
        };
        let is_idle = self.lanes.iter().all(is_idle);
        // Whether it will be heard or not.
        self.hold.kill_after(grace);
        let asked = self.ask_to_stop(context, Duration::ZERO);
        std::mem::drop(asked);
        if is_idle {
            self.peer.peer_status.wait(Deadline::after(Some(LET_GO_PATIENCE.min(grace))));
        }
    }

    /// Kills the child, and waits until it is gone. A fork leaves it alone: it is not its child.
    pub(crate) fn kill(&self) -> Exit {
        self.kill_within(KILL_PATIENCE)
    }

    /// The same, and waits no longer than `patience`: the watcher sees to the rest.
    pub(crate) fn kill_within(&self, patience: Duration) -> Exit {
        if self.peer.is_in_fork() {
            return Exit::Unknown;
        }
        self.hold.end(Cause::Stopped);
        self.peer.peer_status.wait(Deadline::after(Some(patience))).unwrap_or(Exit::Running)
    }

    /// Kills the child, `because` of something, and does not wait for that. Calls of it fail as those of any that has died.
    pub(crate) fn put_down(&self, because: &str) {
        if !self.peer.is_in_fork() {
            self.hold.kill(because);
        }
    }

    /// Kills the child because the bridge is stopped, and does not wait for that.
    pub(crate) fn discard(&self) {
        if !self.peer.is_in_fork() {
            self.hold.end(Cause::Stopped);
        }
    }

    // ---- interfaces ------------------------------------------------------------------------------------------------

    /// The number by which the child knows an interface, which it is told at the first call.
    #[inline]
    fn interface_number(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        match self.introduction((interface.dispatch)(self.workers)) {
            Some((number, known)) if known.bound.get().is_some() => Ok(number),
            _ => self.bind_slow(interface, context),
        }
    }

    /// The interface's place in the table, and the number of the place.
    #[inline]
    fn introduction(&self, address: usize) -> Option<(u64, &InterfaceSlot)> {
        let taken = self.interfaces.iter().take_while(|place| place.address.get().is_some());
        (1..).zip(taken).find(|(_, place)| place.address.get() == Some(&address))
    }

    /// Tells the child where the interface's dispatch function is, and waits until it knows.
    #[cold]
    fn bind_slow(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        if known.bound.get().is_none() {
            self.ask::<_, ()>(Ask { kind: Kind::Bind, call: number }, place, context).map_err(not_started)?;
            known.bound.get_or_init(|| ());
        }
        Ok(number)
    }

    /// Has the child told by the request before the one that comes next on this lane. Its reply is dropped, like that of a call
    /// that was given up. Never waits.
    fn bind_ahead(
        &self,
        lane: &mut CallerLane,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        if known.bound.get().is_none() {
            let ask = Ask { kind: Kind::Bind, call: number };
            self.send_on(lane, ask, &mut Some(place), ArgsPolicy::Spend, context)?;
        }
        Ok(number)
    }

    /// The interface's place in the table, which it is given if it has none, and what the child is told of it: where its dispatch function is in this
    /// executable, if it is there, and its number in any.
    ///
    /// A place is taken before the child is told, and for good: if a call gives up, its request is still on its way, and must
    /// not arrive after the same number has come to mean another interface. The child may be told twice.
    fn enter(
        &self,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<(u64, &InterfaceSlot, (u64, u64)), CallError> {
        let refused = |why: &str| CallError::Refused { call: context.name(), why: why.into() };
        // The child calls what it is told to, with its service: it must be a function for that very type.
        if (interface.service)() != self.service {
            return Err(refused("its trait is another service's"));
        }
        let address = (interface.dispatch)(self.workers);
        let place = (Image::current().offset_of(address).unwrap_or(u64::MAX), (interface.key)());
        // Held for a moment only, never while anything is waited for.
        let _entering = self.entering.lock();
        if self.introduction(address).is_none() {
            let free = self.interfaces.iter().find(|place| place.address.get().is_none());
            let free = free.ok_or_else(|| refused("the service has more than 32 bridged traits"))?;
            free.address.get_or_init(|| address);
        }
        let found = self.introduction(address).ok_or_else(|| refused("its trait has no place in the table"));
        found.map(|(number, known)| (number, known, place))
    }

    // ---- one call --------------------------------------------------------------------------------------------------

    #[inline]
    fn ask<A: Request, R: Reply>(&self, ask: Ask, args: A, context: &CallContext) -> Result<R, CallError> {
        let (mut lane, call) = self.claim(ask.call, context)?;
        self.ask_on(&mut lane, Ask { call, ..ask }, args, context)
    }

    #[inline]
    fn ask_on<A: Request, R: Reply>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: A,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let position = self.send_on(lane, ask, &mut Some(args), ArgsPolicy::Spend, context)?;
        self.receive(lane, position, ask.kind, context)
    }

    /// Sends a request on a lane; returns its position. What of its arguments' memory it carries is the callee's alone: they are gone
    /// before it is published.
    // Always: with the calls that are made again it has two callers for each type of arguments, and costs 50 instructions more out of line.
    #[inline(always)]
    fn send_on<A: Request>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: &mut Option<A>,
        then: ArgsPolicy,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        if !lane.is_idle() {
            self.settle_slow(lane, context)?;
        }
        // The request to stop is itself sent after the bridge has been declared stopped.
        if self.peer.peer_status.is_over() && ask.kind != Kind::Stop {
            return Err(self.over(Started::No, context));
        }
        let Some(sending) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let position = lane.position();
        let alloc = &AllocContext { pool: &*self.pool, patience: context };
        let mut written = lane.write(sending, alloc);
        if let Err(SendError::NoMemory(NoMemory::Exhausted { .. } | NoMemory::Late { .. })) = written {
            let wait = if then == ArgsPolicy::SpendAtOnce { Deadline::now() } else { context.deadline };
            written = self.write_again_slow(lane, sending, alloc, wait);
        }
        if then != ArgsPolicy::Keep || lane.carries_boxes() {
            *args = None;
        }
        let len = written.map_err(|error| {
            lane.unnest();
            self.unsent(error, context)
        })?;
        failpoints::reach(Step::ParentRequestWritten);
        lane.publish(ask.kind, ask.call, len, alloc);
        match ask.kind {
            Kind::Construct => failpoints::reach(Step::ParentConstructorSent),
            Kind::Bind => failpoints::reach(Step::ParentBindSent),
            Kind::Stop => failpoints::reach(Step::ParentStopSent),
            _ => failpoints::reach(Step::ParentPublished),
        }
        Ok(position)
    }

    /// Writes a request that found all memory in use: takes in what late replies on other lanes give back, and waits for more if it may.
    #[cold]
    fn write_again_slow<A: Request>(
        &self,
        lane: &mut CallerLane,
        args: &A,
        alloc: &AllocContext<'_>,
        wait: Deadline,
    ) -> Result<usize, SendError> {
        self.take_late_replies();
        lane.write(args, &AllocContext { patience: &MemoryWait { patience: alloc.patience, memory: wait }, ..*alloc })
    }

    /// Takes the late replies to calls that gave up, on all lanes that nobody uses, for what they give back.
    pub(crate) fn take_late_replies(&self) {
        let context = &CallContext::new(const { &Method::nameless() }, None);
        for mut lane in self.lanes.iter().filter_map(|lane| lane.try_lock()) {
            lane.forget_unsent(&*self.pool);
            // What is wrong with one of them is said by whoever calls next.
            let _ = self.settle(&mut lane, context);
        }
    }

    /// Waits for the reply to the request at `position`, dropping late replies to requests before it.
    // Always: calls by word have it called from more places for each type of reply, and out of line it costs 12 instructions more.
    #[inline(always)]
    fn receive<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let mut waited = false;
        loop {
            if let Some(outcome) = self.take(lane, position, kind, context) {
                return outcome;
            }
            // A child may publish replies and take them back for ever, but not beyond the deadline.
            if waited && context.deadline.has_passed() {
                return Err(self.give_up(lane, position, context));
            }
            // Of a late reply, nothing is wanted before it is there to be dropped.
            // One that is read where it lies is not copied.
            let may_follow = lane.replies().position() == position && self.peer.trust.is_none();
            if waited
                && may_follow
                && let Some(outcome) = self.follow_slow(lane, kind, context)
            {
                return outcome;
            }
            let wait = if may_follow { CallerLane::wait_for_any } else { CallerLane::wait };
            match wait(lane, self.wait, &self.peer.peer_status, context.deadline) {
                Waited::Ready => waited = true,
                Waited::DeadlinePassed => return Err(self.give_up(lane, position, context)),
                Waited::Dead => return Err(self.ended(lane, position, context)),
            }
        }
    }

    /// Leaves the reply to the request at `position` to whoever uses the lane next.
    #[cold]
    pub(super) fn give_up(&self, lane: &mut CallerLane, position: u64, context: &CallContext) -> CallError {
        lane.give_up(&*self.pool);
        if let Some(overdue) = &self.overdue {
            let (timeout, at) = (context.timeout.unwrap_or_default(), (lane.index(), position));
            overdue.watch(context.name(), timeout, at, Instant::now());
        }
        self.timed_out(lane.started(position), context)
    }

    /// Takes the reply to the request at `position` if it is there, and drops late replies to requests before it. Never waits.
    #[inline(always)]
    fn take<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        loop {
            match lane.take() {
                // Apart from the rest because it is what nearly every call comes to: its own reply, in the slot.
                Ok(Some((at, frame))) if at == position && frame.commit.kind == kind && !frame.carries() => {
                    failpoints::reach(Step::ParentReplySeen);
                    let value = R::from_slot(frame.line, frame.payload, self.decoder(context));
                    self.release(lane, false);
                    return Some(value.map_err(|Failure| self.unread(context)));
                }
                Ok(Some(_)) => {
                    if let Some(outcome) = self.take_slow(lane, position, kind, context) {
                        return Some(outcome);
                    }
                }
                Ok(None) => return None,
                Err(what) => return Some(Err(self.corrupt(what, context))),
            }
        }
    }

    /// Takes the next reply if it is there: one in a block, a fault, or a late one to another request, which is dropped (`None`).
    #[cold]
    fn take_slow<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        let (at, frame) = match lane.take() {
            Ok(taken) => taken?,
            Err(what) => return Some(Err(self.corrupt(what, context))),
        };
        failpoints::reach(Step::ParentReplySeen);
        let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
        let outcome = (at == position).then(|| self.outcome(&frame, kind, context));
        self.release(lane, carries);
        self.pool.forget(number);
        outcome
    }

    /// Takes late replies to calls that gave up, and waits for room if there is none.
    #[cold]
    fn settle_slow(&self, lane: &mut CallerLane, context: &CallContext) -> Result<(), CallError> {
        loop {
            self.settle(lane, context)?;
            if lane.credit() > 0 {
                return Ok(());
            }
            match lane.wait(self.wait, &self.peer.peer_status, context.deadline) {
                Waited::Ready if !context.deadline.has_passed() => {}
                Waited::Ready | Waited::DeadlinePassed => {
                    return Err(self.timed_out_for(Awaited::Slot, Started::No, context));
                }
                Waited::Dead => return Err(self.over(Started::No, context)),
            }
        }
    }

    /// Takes late replies to calls that gave up, as far as they are there.
    ///
    /// Never takes more replies than there are unanswered requests: a hostile child may have published replies to requests
    /// that have not been made yet, and taking one would put the two rings out of step for ever.
    fn settle(&self, lane: &mut CallerLane, context: &CallContext) -> Result<(), CallError> {
        while !lane.is_idle() {
            let Some((_, frame)) = lane.take().map_err(|what| self.corrupt(what, context))? else { break };
            let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
            self.release(lane, carries);
            self.pool.forget(number);
        }
        Ok(())
    }

    /// Is done with the reply that was taken, which carried something or not, and takes back what its request carried.
    #[inline(always)]
    pub(super) fn release(&self, lane: &mut CallerLane, carries: bool) {
        if let Some(attachments) = lane.release(carries) {
            self.pool.on(|pool, source| pool.arrived(attachments, source));
        }
        if carries {
            self.hold.used();
        }
        failpoints::reach(Step::ParentReplyReleased);
    }

    /// What replies are decoded with.
    #[inline(always)]
    pub(super) fn decoder(&self, context: &CallContext) -> Decoder<'_> {
        Decoder::of(&self.pool, self.peer.max_payload, self.peer.trust, context.deadline)
    }

    // ---- lanes -----------------------------------------------------------------------------------------------------

    /// A lane for this thread alone, and the call word `call` as it is to be sent: the one it had before if that is free, else any that is,
    /// else the one it had before as soon as it is free.
    #[inline]
    fn claim(&self, call: u64, context: &CallContext) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        match self.lanes.get(nest::own_lane()).and_then(|lane| lane.try_lock()) {
            Some(lane) => Ok((lane, call)),
            None => self.claim_slow(call, context),
        }
    }

    /// The lane that this thread looks at first.
    fn preferred_lane(&self) -> usize {
        nest::plain(nest::thread_number()) % self.lanes.len()
    }

    /// Every lane, this one first.
    fn lanes_from(&self, first: usize) -> impl Iterator<Item = &Arc<Mutex<CallerLane>>> {
        let (before, after) = self.lanes.split_at(first);
        after.iter().chain(before)
    }

    #[inline(never)]
    fn claim_slow(&self, call: u64, context: &CallContext) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        let Some(at) = nest::current() else { return Ok((self.claim_any(self.preferred_lane(), context)?, call)) };
        self.may_nest(at, context)?;
        let mut lane = self.claim_idle(context)?;
        if !lane.may_nest(at.chain) {
            return Err(at.too_nested(context.name(), "nested calls that were given up hold every lane of the bridge"));
        }
        let call = self.nest(&mut lane, at, call);
        Ok((lane, call))
    }

    /// Whether a call may be made from `at`. A child has no worker for a call that is made within one that it carries out: waiting for that, it
    /// would wait for itself.
    #[cold]
    fn may_nest(&self, at: At, context: &CallContext) -> Result<(), CallError> {
        at.may_call(context.name())?;
        let begins_here = (1..=u64::from(self.workers)).contains(&at.chain.wrapping_sub(self.chains));
        let is_under_way = |(line, lane): (&Placed<CallerLine>, &Arc<Mutex<CallerLane>>)| {
            // Relaxed: written by a thread that this one, as part of the same chain, comes after.
            line.chain.load(Relaxed) == at.chain && lane.try_lock().is_none_or(|lane| !lane.is_idle())
        };
        let is_entered = || begins_here || self.callers.iter().zip(&self.lanes).any(is_under_way);
        if !context.name().is_of_callback() && is_entered() {
            return Err(at.too_nested(context.name(), "the child already carries out a call that waits for this one"));
        }
        Ok(())
    }

    /// Has the next request on this lane nested at `at`. Returns its call word.
    #[cold]
    fn nest(&self, lane: &mut CallerLane, at: At, call: u64) -> u64 {
        lane.nest(at.chain);
        at.mark(call)
    }

    /// A lane for a call of a callback that is nested at `at`: it waits for none, because the calls that it is nested in hold some. Some are left
    /// to calls that are not nested.
    #[cold]
    fn claim_nested(
        &self,
        at: At,
        call: u64,
        context: &CallContext,
    ) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        self.may_nest(at, context)?;
        for lane in self.lanes[self.lanes.len() / KEPT..].iter().rev() {
            if let Some(free) = lane.try_lock()
                && let Some(mut idle) = self.if_idle(free, context)?
            {
                let call = self.nest(&mut idle, at, call);
                return Ok((idle, call));
            }
        }
        match self.peer.peer_status.is_over() {
            true => Err(self.over(Started::No, context)),
            false => Err(at.too_nested(context.name(), "nested calls hold every lane between the two processes")),
        }
    }

    #[cold]
    fn claim_any(&self, preferred: usize, context: &CallContext) -> Result<MutexGuard<'_, CallerLane>, CallError> {
        if let Some(lane) = self.lanes_from(preferred).find_map(|lane| lane.try_lock()) {
            return Ok(lane);
        }
        // A stop holds every lane until the child has answered it.
        if self.peer.peer_status.is_over() {
            return Err(self.over(Started::No, context));
        }
        self.lock(&self.lanes[preferred], context)
    }

    /// A lane on which nothing is under way: behind a call that was given up another could wait for ever, while the workers of other lanes are
    /// free. Only if there is such a call on every lane, this one waits behind it.
    fn claim_idle(&self, context: &CallContext) -> Result<MutexGuard<'_, CallerLane>, CallError> {
        let preferred = self.preferred_lane();
        loop {
            let mut in_use = None;
            for lane in self.lanes_from(preferred) {
                match lane.try_lock() {
                    Some(free) => {
                        if let Some(idle) = self.if_idle(free, context)? {
                            return Ok(idle);
                        }
                    }
                    None => in_use = in_use.or(Some(lane)),
                }
            }
            if self.peer.peer_status.is_over() {
                return Err(self.over(Started::No, context));
            }
            let Some(lane) = in_use else { return self.lock(&self.lanes[preferred], context) };
            if let Some(free) = self.lock_soon(lane, context)?
                && let Some(idle) = self.if_idle(free, context)?
            {
                return Ok(idle);
            }
            if context.deadline.has_passed() {
                return Err(self.late(context));
            }
        }
    }

    /// This lane, if nothing is under way on it.
    fn if_idle<'a>(
        &self,
        mut lane: MutexGuard<'a, CallerLane>,
        context: &CallContext,
    ) -> Result<Option<MutexGuard<'a, CallerLane>>, CallError> {
        self.settle(&mut lane, context)?;
        Ok(lane.is_idle().then_some(lane))
    }

    /// This very lane, as soon as it is free.
    ///
    /// A call in it ends when the child does, but one that is begun and not finished may keep it for ever: so the child's end is
    /// looked for while waiting.
    fn lock<'a>(
        &self,
        lane: &'a Mutex<CallerLane>,
        context: &CallContext,
    ) -> Result<MutexGuard<'a, CallerLane>, CallError> {
        loop {
            if let Some(lane) = self.lock_soon(lane, context)? {
                return Ok(lane);
            }
        }
    }

    /// The same; `None` if it is not free soon.
    fn lock_soon<'a>(
        &self,
        lane: &'a Mutex<CallerLane>,
        context: &CallContext,
    ) -> Result<Option<MutexGuard<'a, CallerLane>>, CallError> {
        let slice = Instant::now() + LANE_SLICE;
        let until = context.deadline.instant().map_or(slice, |deadline| deadline.min(slice));
        if let Some(lane) = lane.try_lock_until(until) {
            return Ok(Some(lane));
        }
        if self.peer.peer_status.exit().is_some() {
            return Err(self.over(Started::No, context));
        }
        if context.deadline.has_passed() {
            return Err(self.late(context));
        }
        Ok(None)
    }

    // ---- outcomes --------------------------------------------------------------------------------------------------

    /// What the reply to a request of `kind` says.
    #[inline]
    fn outcome<R: Reply>(&self, frame: &Frame<'_>, kind: Kind, context: &CallContext) -> Result<R, CallError> {
        if frame.commit.kind == kind {
            return self.payload(frame, context);
        }
        Err(self.failure_slow(frame, context))
    }

    #[inline]
    fn payload<R: Reply>(&self, frame: &Frame<'_>, context: &CallContext) -> Result<R, CallError> {
        let decoded = match frame.commit.place {
            Place::Slot(_) => R::from_slot(frame.line, frame.payload, self.decoder(context)),
            Place::Block(place) => {
                let block = self.pool.peer_block(place);
                let block = block.ok_or_else(|| self.corrupt("a reply in memory that it does not have", context))?;
                R::from_block(block, place.loan_id, self.decoder(context))
            }
        };
        decoded.map_err(|Failure| self.unread(context))
    }

    #[cold]
    fn failure_slow(&self, frame: &Frame<'_>, context: &CallContext) -> CallError {
        let call = context.name();
        let failure =
            match frame.commit.kind {
                Kind::Fault => self
                    .payload::<Fault>(frame, context)
                    .map(|fault| CallError::Panicked { call, fault: Box::new(fault.shown()) }),
                Kind::TooLarge => self.payload::<Limit>(frame, context).map(|Limit { len, max }| CallError::TooLarge {
                    call,
                    what: Payload::Reply,
                    len,
                    max,
                }),
                Kind::Exhausted => self
                    .payload::<Limit>(frame, context)
                    .map(|Limit { len, max }| CallError::Exhausted { call, what: Payload::Reply, len, budget: max }),
                Kind::Refused if frame.commit.place == Place::Slot(0) => {
                    Ok(CallError::Refused { call, why: "there is no memory left to say why".into() })
                }
                Kind::Refused => self.payload::<String>(frame, context).map(|why| match why == TOO_MANY {
                    true => CallError::TooMany { call, what: Payload::Request, limit: why },
                    false => CallError::Refused { call, why: shown(why) },
                }),
                Kind::Failed => self.payload::<Failed>(frame, context).map(|failed| match failed {
                    Failed::Failed(message) => CallError::Callback { call, message: shown(message) },
                    Failed::Mismatch { expected, found } => {
                        CallError::Mismatch { call, expected: shown(expected), found: shown(found) }
                    }
                    Failed::TooDeep => CallError::TooDeep { call, what: Payload::Reply, limit: failed.to_string() },
                    Failed::Gone => CallError::Gone { call, pid: self.peer.pid, started: Started::No },
                }),
                Kind::Beyond => self.payload::<Beyond>(frame, context).map(|Beyond { is_request, is_depth, limit }| {
                    let (what, limit) = (if is_request { Payload::Request } else { Payload::Reply }, shown(limit));
                    match is_depth {
                        true => CallError::TooDeep { call, what, limit },
                        false => CallError::TooMany { call, what, limit },
                    }
                }),
                _ => Err(self.corrupt("a reply to another kind of request", context)),
            };
        failure.unwrap_or_else(|error| error)
    }

    #[cold]
    fn unsent(&self, error: SendError, context: &CallContext) -> CallError {
        let call = context.name();
        // A child that is gone gives no memory back: its end is the reason, not the memory.
        if matches!(&error, SendError::NoMemory(why) if !matches!(why, NoMemory::TooLarge { .. }))
            && self.peer.peer_status.is_over()
        {
            return self.over(Started::No, context);
        }
        match error {
            SendError::NoMemory(NoMemory::TooLarge { len, max }) => {
                CallError::TooLarge { call, what: Payload::Request, len, max }
            }
            SendError::NoMemory(NoMemory::Exhausted { len, budget }) => {
                CallError::Exhausted { call, what: Payload::Request, len, budget }
            }
            SendError::NoMemory(NoMemory::Late { .. }) => self.timed_out_for(Awaited::Memory, Started::No, context),
            SendError::NoMemory(NoMemory::Failed { why }) => CallError::Refused { call, why },
            SendError::Encode | SendError::Beyond(_) => {
                CallError::Refused { call, why: "its arguments cannot be encoded".into() }
            }
        }
    }

    #[cold]
    fn spent_slow(&self, context: &CallContext) -> CallError {
        let why = "its arguments went with an earlier attempt".into();
        CallError::Refused { call: context.name(), why }
    }

    #[cold]
    pub(crate) fn in_fork_slow(&self, context: &CallContext) -> CallError {
        let call = context.name();
        let why = match call.service {
            "" => "this process is a fork of the one that is connected; connect here",
            _ => "this process is a fork of the one that started the bridge; start another here",
        };
        CallError::Refused { call, why: why.into() }
    }

    /// The error of a call that ran out of time before it was sent, while it waited for a lane.
    #[cold]
    fn late(&self, context: &CallContext) -> CallError {
        self.timed_out_for(Awaited::Lane { lanes: self.lanes.len() as u32 }, Started::No, context)
    }

    #[cold]
    pub(super) fn timed_out(&self, started: Started, context: &CallContext) -> CallError {
        self.timed_out_for(Awaited::Answer, started, context)
    }

    #[cold]
    fn timed_out_for(&self, awaited: Awaited, started: Started, context: &CallContext) -> CallError {
        let error = self.out_of_time(awaited, started, context);
        self.overdue.iter().for_each(|overdue| overdue.tell(&error));
        error
    }

    #[cold]
    fn out_of_time(&self, awaited: Awaited, started: Started, context: &CallContext) -> CallError {
        let timeout = context.timeout.unwrap_or_default();
        CallError::TimedOut { call: context.name(), pid: self.peer.pid, timeout, awaited, started }
    }

    /// The error of a call whose reply this thread has just refused. What no peer sends that keeps to the protocol is a breach of it; for what
    /// this side has no stack or time, nobody is to blame.
    #[cold]
    pub(super) fn unread(&self, context: &CallContext) -> CallError {
        let (call, what, refusal) = (context.name(), Payload::Reply, last_refusal());
        match refusal {
            DecodeRefusal::Invalid => self.corrupt("a reply that is no valid archive of its type", context),
            DecodeRefusal::Depth => self.corrupt("a reply that nests deeper than 256 levels", context),
            DecodeRefusal::Elements => {
                self.corrupt("a reply with more elements of no size than bytes, and than 65,536", context)
            }
            DecodeRefusal::Stack { .. } => {
                CallError::TooDeep { call, what, limit: refusal.limit().unwrap_or_default() }
            }
            DecodeRefusal::Memory { .. } => {
                CallError::Refused { call, why: format!("its {what}: {}", refusal.limit().unwrap_or_default()) }
            }
            DecodeRefusal::Late => self.timed_out(Started::Yes, context),
        }
    }

    /// Kills a child that broke an invariant.
    #[cold]
    pub(super) fn corrupt(&self, what: &'static str, context: &CallContext) -> CallError {
        self.hold.end(Cause::Corrupt(what));
        CallError::Corrupt { call: context.name(), pid: self.peer.pid, what }
    }

    /// The error of a call whose peer ended, or the conversation with it, before it had answered.
    #[cold]
    pub(super) fn ended(&self, lane: &CallerLane, position: u64, context: &CallContext) -> CallError {
        self.over(lane.leave(position), context)
    }

    /// The error of a call to a child that is gone, or about to be.
    #[cold]
    pub(crate) fn over(&self, started: Started, context: &CallContext) -> CallError {
        let (call, pid) = (context.name(), self.peer.pid);
        match self.peer.peer_status.cause() {
            Some(Cause::Corrupt(what)) => CallError::Corrupt { call, pid, what },
            Some(Cause::Stopped) => CallError::Stopped { call, pid, started },
            None => CallError::Died {
                call,
                pid,
                exit: self.peer.peer_status.exit().unwrap_or(Exit::Unknown),
                because: self.peer.peer_status.because(),
                started,
                last_words: self.peer.peer_status.last_words(),
            },
        }
    }
}

/// What a failed introduction means for the call that it was for, which has not been sent.
#[cold]
fn not_started(mut error: CallError) -> CallError {
    if let Some(started) = error.started_mut() {
        *started = Started::No;
    }
    error
}
