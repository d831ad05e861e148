//! Streams as the caller has them: a window of requests for items, pulls, is under way on the lane that opened the stream, each answered with one item.
//!
//! The window is the credit: the child makes no item that was not asked for, and the consumer asks for more when it has taken a quarter. All requests for a
//! stream go to one lane, so they are answered in their order, by the worker that has the iterator. Dropping a stream never waits.

#![forbid(unsafe_code)]

use super::batch;
use super::call_state::Call;
use super::pending::PendingCall;
use super::settle::{Exactness, Settle};
use super::stream_state::{Pulled, SharedStream};
use super::{CallContext, Caller, LaneClaim, MayWait};
use crate::current;
use crate::nest;
use crate::service::Method;
use crate::streams::PULL;
use callgate_transport::bounds::MAX_AHEAD;
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Transfer;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{CallError, Payload, Started};
use callgate_transport::request::Request;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How many items a consumer asks for at first. Whoever takes more gets more.
const FIRST_WINDOW: u32 = 2;

/// A stream, for its consumer. Dropping it ends the producer at its next item.
pub struct StreamCall<T: Transfer> {
    caller: Arc<Caller>,
    stream: Arc<SharedStream<T>>,
    /// The call that opens it, until its outcome is known.
    opening: Option<PendingCall<()>>,
    context: CallContext,
    number: u64,
    lane: u32,
    /// What has come and has not been taken.
    come: VecDeque<Pulled<T>>,
    /// Pulls that have not been taken, wherever they are.
    ahead: u32,
    /// How many there may be now, and at most.
    window: u32,
    most: u32,
    /// The last pull was sent when there was no other.
    is_lone: bool,
    /// When the task has waited too long for the next item.
    due: Option<Deadline>,
    is_over: bool,
}

impl<T: Transfer> StreamCall<T> {
    /// The outcome of the call that opens the stream, which is waited for until `until`. Asked for once.
    pub fn wait_opened(&mut self, until: Deadline) -> Option<Result<(), CallError>> {
        let outcome = self.opening.as_mut()?.wait(until)?;
        Some(self.opened(outcome))
    }

    /// The same, for a task.
    pub fn poll_opened(&mut self, waker: Option<&Waker>) -> Option<Result<(), CallError>> {
        let outcome = self.opening.as_mut()?.poll(waker)?;
        Some(self.opened(outcome))
    }

    fn opened(&mut self, outcome: Result<(), CallError>) -> Result<(), CallError> {
        self.opening = None;
        if outcome.is_err() {
            self.end(true);
        }
        outcome
    }

    /// The next item, waited for as long as `timeout` says; `None` after the last one, and after an error.
    pub fn next(&mut self, timeout: Option<Duration>) -> Option<Result<T, CallError>> {
        let until = until(timeout);
        while !self.is_over {
            if self.come.is_empty() {
                match self.wait_for_more(until) {
                    Ok(true) => {}
                    Ok(false) => return Some(Err(self.time_out(timeout))),
                    Err(error) => return Some(Err(self.fail(error))),
                }
            }
            if let Poll::Ready(item) = self.first() {
                return item;
            }
        }
        None
    }

    /// The same, for a task.
    pub fn poll_next(&mut self, waker: &Waker, timeout: Option<Duration>) -> Poll<Option<Result<T, CallError>>> {
        while !self.is_over {
            if self.come.is_empty() {
                match self.look(waker) {
                    Ok(true) => {}
                    Ok(false) if self.is_due(timeout) => return Poll::Ready(Some(Err(self.time_out(timeout)))),
                    Ok(false) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
                }
            }
            if self.due.take().is_some() {
                self.caller.timers.cancel(self.stream.set_timer(None));
            }
            if let Poll::Ready(item) = self.first() {
                return Poll::Ready(item);
            }
        }
        Poll::Ready(None)
    }

    /// The side that has called.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    pub fn method(&self) -> &'static Method {
        self.context.method
    }

    /// Whether there is nothing more to come.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the first item that has come; `Pending` if another must be waited for.
    fn first(&mut self) -> Poll<Option<Result<T, CallError>>> {
        let Some(pulled) = self.come.pop_front() else { return Poll::Pending };
        self.ahead -= 1;
        let item = match pulled {
            Pulled::Item(item) => item,
            Pulled::Moved(reply) => self.caller.read_moved(&reply, &self.context),
        };
        match item {
            Ok(Some(item)) => {
                // A quarter at a time: pulls are on their way while the child still has some, and the lane is not claimed for each.
                if self.ahead <= self.window - self.window / 4 {
                    // If it fails, so does the next wait.
                    let _ = self.pull_ahead();
                }
                Poll::Ready(Some(Ok(item)))
            }
            Ok(None) => {
                self.end(false);
                Poll::Ready(None)
            }
            // The child keeps the item: there was no room for it beside those before it.
            Err(CallError::Exhausted { what: Payload::Reply, .. }) if !self.is_lone => {
                (self.window, self.most) = (1, 1);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Some(Err(self.fail(error)))),
        }
    }

    /// Waits until something has come. Returns whether it has; otherwise the time is over.
    fn wait_for_more(&mut self, until: Deadline) -> Result<bool, CallError> {
        let caller = self.caller.clone();
        if caller.peer.is_in_fork() {
            return Err(caller.in_fork_slow(&self.context));
        }
        let mut is_noted = false;
        let has_come = loop {
            if self.stream.take(&mut self.come) {
                break Ok(true);
            }
            if until.has_passed() {
                break Ok(self.last_look());
            }
            if self.ahead == 0
                && let Err(error) = self.pull_ahead()
            {
                break Err(error);
            }
            if let Err(error) = caller.may_wait_here(&self.context) {
                break Err(error);
            }
            batch::notify_begun();
            let gate = &caller.lanes[self.lane as usize].gate;
            let claim = gate.try_claim(&*caller).or_else(|| {
                is_noted = true;
                self.stream.await_change();
                gate.want(&*caller)
            });
            match claim {
                Some(mut claim) => {
                    caller.watch_stream(&self.stream, &self.context, &mut claim, until);
                    claim.owe();
                }
                None => self.stream.sleep(until),
            }
        };
        // A turn that was given and not used goes to the next.
        let turn = if is_noted { self.stream.stop_waiting() } else { None };
        if let Some(mut claim) = turn.and_then(|lane| caller.lanes[lane as usize].gate.want(&*caller)) {
            claim.owe();
        }
        has_come
    }

    #[cold]
    fn last_look(&mut self) -> bool {
        if let Some(mut claim) = self.caller.lanes[self.lane as usize].gate.want(&*self.caller) {
            self.caller.settle_ready(&mut claim);
            claim.owe();
        }
        self.stream.take(&mut self.come)
    }

    /// Whether something has come; if not, `waker` is woken when it has.
    fn look(&mut self, waker: &Waker) -> Result<bool, CallError> {
        if self.caller.peer.is_in_fork() {
            return Err(self.caller.in_fork_slow(&self.context));
        }
        if self.stream.take(&mut self.come) {
            return Ok(true);
        }
        if self.ahead == 0 {
            self.pull_ahead()?;
        }
        batch::notify_begun();
        let (caller, gate) = (&*self.caller, &self.caller.lanes[self.lane as usize].gate);
        if let Some(mut claim) = gate.want(caller) {
            caller.settle_ready(&mut claim);
            if self.stream.is_next(claim.replies().position()) {
                // Its turn is next, and a fast producer never leaves its task.
                claim.poll_briefly(&caller.peer.peer_status);
                caller.settle_ready(&mut claim);
            }
            if !self.stream.has_come() {
                self.stream.wake_by(waker);
            }
            claim.owe();
        } else {
            self.stream.wake_by(waker);
            // Whoever has the lane may have attended to it before it could see the waker.
            gate.want(caller).iter_mut().for_each(|claim| claim.owe());
        }
        Ok(self.stream.take(&mut self.come))
    }

    /// Whether the task has waited for too long. If not, it is woken when it has.
    fn is_due(&mut self, timeout: Option<Duration>) -> bool {
        let Some(due) = self.due.get_or_insert_with(|| until(timeout)).instant() else { return false };
        if Deadline::at(due).has_passed() {
            return true;
        }
        let timer = self.caller.timers.wake_at(due, &self.stream);
        self.caller.timers.cancel(self.stream.set_timer(Some(timer)));
        false
    }

    /// Asks for items, as many as the window and the lane have room for; for one at least, if none is under way.
    fn pull_ahead(&mut self) -> Result<(), CallError> {
        let (wanted, before) = (self.window.saturating_sub(self.ahead), self.ahead);
        let sent = self.caller.pull(&self.stream, &self.context, (self.lane, self.number), wanted)?;
        self.ahead += sent;
        self.window = (self.window * 2).min(self.most);
        if self.ahead == 0 {
            self.caller.queue_bound(self.lane, &self.stream, PULL, self.number, MayWait::No)?;
            self.ahead = 1;
        }
        if self.ahead > before {
            self.is_lone = self.ahead == 1;
        }
        Ok(())
    }

    #[cold]
    fn time_out(&mut self, timeout: Option<Duration>) -> CallError {
        let context = CallContext::new(self.context.method, timeout);
        let started = match self.stream.first_under_way() {
            Some(position) => self.caller.withdraw((self.lane, position), &context, Exactness::Known),
            None => Started::No,
        };
        let error = self.caller.timed_out(started, &context);
        self.fail(error)
    }

    /// Ends the stream because of this error.
    #[cold]
    fn fail(&mut self, error: CallError) -> CallError {
        self.end(true);
        error
    }

    /// Ends the stream; `has_more` = the child may still have it.
    #[cold]
    fn end(&mut self, has_more: bool) {
        if mem::replace(&mut self.is_over, true) || self.caller.peer.is_in_fork() {
            return;
        }
        self.opening = None;
        // Dropped last: what has come is the user's, and its destructor may panic.
        let (_come, remains) = (mem::take(&mut self.come), self.stream.abandon());
        self.caller.timers.cancel(remains.timer);
        let queued = remains.queued.and_then(|number| self.caller.queue.remove(number));
        queued.into_iter().for_each(|queued| self.caller.discard_written(queued.written));
        if has_more {
            for position in &remains.under_way {
                self.caller.withdraw((self.lane, *position), &self.context, Exactness::Unknown);
            }
            self.caller.close_stream(self.lane, self.number, &self.context);
        }
    }
}

impl<T: Transfer> Drop for StreamCall<T> {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// When a wait ends that begins now: nested calls have no more time than the outer one.
fn until(timeout: Option<Duration>) -> Deadline {
    let outer = nest::current().and_then(|_| current::deadline());
    outer.map_or(Deadline::NEVER, Deadline::at).earlier(Deadline::after(timeout))
}

impl Caller {
    /// Opens a stream: sends the call, or has it sent as soon as there is room. `waits` = it may wait for memory.
    pub fn open_stream<A: Request, T: Transfer>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        waits: bool,
    ) -> StreamCall<T> {
        let mut context = CallContext::new(method, timeout);
        if self.peer.is_in_fork() {
            return self.open_failed(method, self.in_fork_slow(&context));
        }
        if nest::current().is_some() {
            context.inherit(current::deadline());
        }
        // The caller chooses the number, so it can drop a stream whose opening it has not seen answered.
        let number = self.streams.next_number();
        let (call, lane) = (Arc::new(Call::new(context)), self.stream_lane(number, &context));
        let may_wait = if waits { MayWait::Yes } else { MayWait::No };
        let sent = self
            .may_open(&context, waits)
            .and_then(|()| self.send_bound(lane, &call, method.word(0), (number, args), may_wait));
        if let Err(error) = sent {
            call.fail(error);
        }
        self.stream_call(call, method, number, lane)
    }

    /// A stream that could not be opened.
    pub fn open_failed<T: Transfer>(self: &Arc<Self>, method: &'static Method, error: CallError) -> StreamCall<T> {
        let call = Arc::new(Call::new(CallContext::new(method, None)));
        call.fail(error);
        self.stream_call(call, method, u64::MAX, 0)
    }

    fn stream_call<T: Transfer>(
        self: &Arc<Self>,
        opening: Arc<Call<()>>,
        method: &'static Method,
        number: u64,
        lane: u32,
    ) -> StreamCall<T> {
        // The timeout is for each wait, not for a pull, which may be answered long before its item is wanted.
        let context = CallContext::new(method, None);
        StreamCall {
            caller: self.clone(),
            stream: Arc::new(SharedStream::new(context)),
            opening: Some(PendingCall::new(self.clone(), opening)),
            context,
            number,
            lane,
            come: VecDeque::new(),
            ahead: 0,
            window: FIRST_WINDOW,
            most: MAX_AHEAD,
            is_lone: false,
            due: None,
            is_over: false,
        }
    }

    /// Whether a stream may be opened from here, once the service is free of those that were dropped.
    fn may_open(&self, context: &CallContext, waits: bool) -> Result<(), CallError> {
        if self.is_unordered {
            let why = "a service with async methods cannot return iterators: its calls take turns as tasks".into();
            return Err(CallError::Refused { call: context.name(), why });
        }
        self.may_wait_here(context)?;
        nest::current().map_or(Ok(()), |at| self.may_nest(at, context))?;
        if waits && self.is_closing(context) { self.await_closes(context) } else { Ok(()) }
    }

    /// The lane of a new stream: behind dropped streams and this thread's one-way calls, or one with nothing under way, but not the one where the thread's next call goes.
    fn stream_lane(&self, number: u64, context: &CallContext) -> u32 {
        if let Some(lane) = self.closing_lane(context).or_else(|| self.one_way_lane()) {
            return lane as u32;
        }
        let after = (self.preferred_lane() + 1) % self.lanes.len();
        let idle = self.lanes_from(after).find_map(|lane| Some(self.claim_if_idle(lane)?.index()));
        idle.unwrap_or((number % self.lanes.len() as u64) as u32)
    }

    /// Sends at most `wanted` pulls, as far as the lane has room. Returns how many.
    fn pull<T: Transfer>(
        &self,
        stream: &Arc<SharedStream<T>>,
        context: &CallContext,
        (lane, number): (u32, u64),
        wanted: u32,
    ) -> Result<u32, CallError> {
        // None passes requests that wait already.
        if !self.queue.is_empty() {
            return Ok(0);
        }
        let Some(mut claim) = self.lanes[lane as usize].gate.try_claim(self) else { return Ok(0) };
        if claim.credit() < u64::from(wanted) {
            self.settle_ready(&mut claim);
            claim.owe();
        }
        let count = u64::from(wanted).min(claim.credit()) as u32;
        let (mut sent, first) = (0, claim.position());
        while sent < count {
            match self.send_pull(&mut claim, stream, context, number) {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        stream.sent(first..first + u64::from(sent));
        if sent > 0 && !self.is_in_batch(lane) {
            self.bells[(lane % self.workers) as usize].notify();
        }
        Ok(sent)
    }

    /// Publishes a pull, and tells the worker of nothing.
    fn send_pull<T: Transfer>(
        &self,
        claim: &mut LaneClaim<'_>,
        stream: &Arc<SharedStream<T>>,
        context: &CallContext,
        number: u64,
    ) -> Result<(), CallError> {
        let word = self.nested_word(claim, PULL, context)?;
        let len = self.write_on(claim, Kind::Call, &number, MayWait::No, context)?;
        let position = claim.position();
        claim.publish_quietly(Kind::Call, word, len, &*self.pool);
        claim.pending.push_back((position, stream.clone()));
        Ok(())
    }

    /// Waits at a lane until something of the stream has come or the time is over, and takes every reply that comes.
    fn watch_stream<T: Transfer>(
        &self,
        stream: &SharedStream<T>,
        context: &CallContext,
        claim: &mut LaneClaim<'_>,
        until: Deadline,
    ) {
        loop {
            self.settle_ready(claim);
            if stream.has_come() {
                return;
            }
            if stream.is_queued() {
                self.send_queued(claim);
            }
            if self.is_stuck(claim) {
                return self.end_calls(claim);
            }
            let position = claim.replies().position();
            // A thread that waits for a certain time only does not begin what it might not finish.
            let may_follow = until.instant().is_none() && stream.is_next(position) && self.may_follow(claim, position);
            if may_follow
                && claim.is_announced()
                && let Some(outcome) = self.follow_slow(claim, Kind::Call, context)
            {
                claim.forget_call(position);
                return stream.arrive(Pulled::Item(outcome));
            }
            match self.wait_on(claim, if may_follow { position } else { u64::MAX }, until) {
                Waited::Ready if claim.is_wanted() => self.attend_while_waiting(claim),
                Waited::Ready => {}
                Waited::DeadlinePassed => return,
                Waited::Dead => {
                    self.settle_ready(claim);
                    return self.end_calls(claim);
                }
            }
        }
    }
}
