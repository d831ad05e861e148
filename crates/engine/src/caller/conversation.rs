//! Calls whose method calls back. `asker` has the picture: each turn is a request and its reply on one lane, which the caller has from the call to its value.
//!
//! While a callback runs, the lane is lent to its thread: calls that it makes to the same child go between the turns, and nobody else's do. So a
//! callback never waits for the worker that waits for it.
//!
//! A call that is given up leaves its lane at once. If its method asks later, whoever takes that reply, or the watcher, tells the child to end the method.

#![forbid(unsafe_code)]

use super::settle::{Exactness, Settle, WaitedBy, Wakes};
use super::shared_lane::SharedLane;
use super::{Ask, CallContext, Caller, LaneClaim, MayWait};
use crate::asker::NUMBER_SHIFT;
use crate::nest::{self, At, CallingBack};
use crate::service::{Method, Mode};
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Transfer;
use callgate_transport::doorbell::Waited;
use callgate_transport::error::{CallError, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// What is wrong with a child that asks on.
const RESTLESS: &str = "a callback of a method that was to end";

/// A call whose method calls back, while it lasts.
pub(super) struct OpenConversation<'a> {
    /// The lane; `None` while it is lent to a callback.
    pub(super) claim: Option<LaneClaim<'a>>,
    caller: &'a Caller,
    context: CallContext,
    /// The position of the last request.
    pub(super) position: u64,
    due: NextTurn,
    pub(super) state: ConversationState,
}

/// What comes next in a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextTurn {
    /// The child's reply to the last request.
    Reply,
    /// This side's answer to the question that it has taken.
    Answer,
    /// Nothing: the conversation has ended, or has been left to others.
    Nothing,
}

/// What a conversation knows between its turns.
#[derive(Default)]
pub(super) struct ConversationState {
    /// Where the call is nested, if it is.
    pub(super) at: Option<At>,
    /// Whether a callback has been asked for.
    pub(super) has_asked: bool,
    /// That of a callback.
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

impl ConversationState {
    /// What the call comes to.
    ///
    /// # Panics
    ///
    /// As the callback did.
    pub(super) fn outcome<R>(self, outcome: Result<R, CallError>) -> Result<R, CallError> {
        match self.panic {
            Some(panic) => resume_unwind(panic),
            None if self.has_asked => outcome.map_err(had_started),
            None => outcome,
        }
    }
}

impl<'a> OpenConversation<'a> {
    /// A conversation whose last request is at `position` of the lane.
    pub(super) fn new(
        caller: &'a Caller,
        claim: LaneClaim<'a>,
        position: u64,
        context: &CallContext,
        state: ConversationState,
    ) -> Self {
        Self { caller, claim: Some(claim), context: *context, position, due: NextTurn::Reply, state }
    }

    /// Gives up the call.
    pub(super) fn give_up(&mut self, exactness: Exactness) -> Started {
        self.due = NextTurn::Nothing;
        let (caller, context, position) = (self.caller, self.context, self.position);
        let lane = self.lane();
        lane.give_up(&*caller.pool);
        let started = caller.withdraw((lane.index(), position), &context, exactness);
        caller.forsake(lane, position, &context, false);
        started
    }

    /// Ends the method whose question has been taken, and leaves its reply to others.
    fn end_method(&mut self) {
        self.due = NextTurn::Nothing;
        let (caller, context) = (self.caller, self.context);
        let lane = self.lane();
        if let Ok(position) = caller.unwind(lane, &context) {
            caller.forsake(lane, position, &context, true);
            caller.watch_overdue((lane.index(), position), &context);
        }
    }

    pub(super) fn lane(&mut self) -> &mut LaneClaim<'a> {
        match &mut self.claim {
            Some(claim) => claim,
            None => unreachable!("a conversation has its lane again when its callback has returned"),
        }
    }
}

/// Whatever ends it, a panic in the user's code included, the child is told, and the lane is not left in the middle of a conversation.
impl Drop for OpenConversation<'_> {
    fn drop(&mut self) {
        if self.claim.is_none() || self.caller.peer.is_in_fork() {
            return;
        }
        match self.due {
            NextTurn::Reply => drop(self.give_up(Exactness::Unknown)),
            NextTurn::Answer => self.end_method(),
            NextTurn::Nothing => {}
        }
    }
}

/// A question of a method that calls back, for the callback that it names.
pub struct Question<'x, 'a> {
    caller: &'a Caller,
    talk: &'x mut OpenConversation<'a>,
    number: u64,
}

/// What became of a question: the position of the answer, or of the request to end the method if the callback panicked.
pub struct Answered(Result<u64, CallError>);

/// The callbacks of a call: runs the one that the question names.
pub type Answerer<'c> = dyn FnMut(Question<'_, '_>) -> Answered + 'c;

/// A way of calling in which methods may call back.
///
/// Implemented by callgate only.
#[diagnostic::on_unimplemented(
    message = "a method that calls back cannot be called in this way",
    note = "nobody waits for a call that is sent, so nobody would run its callbacks: call it without `send()`"
)]
pub trait Converse: Mode {
    /// What a method that returns `R` returns when called this way, with callbacks that borrow for `'c`.
    type Conversed<'c, R: Transfer>;

    /// Calls a method. `callbacks` answers its questions.
    #[doc(hidden)]
    fn converse<'c, A: Request, R: Transfer, C: FnMut(Question<'_, '_>) -> Answered + 'c>(
        &self,
        method: &'static Method,
        args: A,
        callbacks: C,
    ) -> Self::Conversed<'c, R>;
}

impl Caller {
    /// Calls a method that calls back: `callbacks` runs on this thread, while the call waits. Leaves `args` in place, as
    /// [`call_again`](Self::call_again) does, but not once a callback has run.
    ///
    /// # Panics
    ///
    /// If a callback does: with the same payload, once the method has ended.
    pub fn call_conversing<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        args: &mut Option<A>,
        callbacks: &mut Answerer<'_>,
    ) -> Result<R, CallError> {
        let mut context = *context;
        self.may_converse(&context)?;
        if self.is_closing(&context) {
            self.await_closes(&context)?;
        }
        let call = self.call_word(context.method, &context)?;
        let (mut lane, call) = match self.claim(call, &mut context)? {
            Some(claimed) => claimed,
            None => (self.claim_idle(&context)?, call),
        };
        failpoints::reach(Step::ParentLaneClaimed);
        let position = self.send_kept_on(&mut lane, Ask { kind: Kind::Call, call }, args, &context)?;
        let state = ConversationState { at: nest::current(), ..ConversationState::default() };
        let mut talk = OpenConversation::new(self, lane, position, &context, state);
        let outcome = self.take_turns(&mut talk, callbacks);
        let state = mem::take(&mut talk.state);
        drop(talk);
        if state.has_asked {
            *args = None;
        }
        state.outcome(outcome)
    }

    /// Answers questions until the method's value is there.
    pub(super) fn take_turns<'a, R: Reply>(
        &'a self,
        talk: &mut OpenConversation<'a>,
        callbacks: &mut Answerer<'_>,
    ) -> Result<R, CallError> {
        loop {
            if let Some(outcome) = self.take_turn(talk, callbacks) {
                return outcome;
            }
            if talk.lane().is_answered() {
                continue;
            }
            let context = talk.context;
            match self.wait_for_turn(talk.lane(), &context) {
                Waited::Ready => {}
                Waited::DeadlinePassed => return Err(self.give_up_late(talk)),
                Waited::Dead => return Err(self.ended_in(talk)),
            }
        }
    }

    /// Takes the next reply, if it is there: answers a question, or returns the method's value.
    pub(super) fn take_turn<'a, R: Reply>(
        &'a self,
        talk: &mut OpenConversation<'a>,
        callbacks: &mut Answerer<'_>,
    ) -> Option<Result<R, CallError>> {
        let outcome = self.try_turn(talk, callbacks).transpose();
        if outcome.is_some() && talk.due == NextTurn::Reply {
            talk.due = NextTurn::Nothing;
        }
        outcome
    }

    fn try_turn<'a, R: Reply>(
        &'a self,
        talk: &mut OpenConversation<'a>,
        callbacks: &mut Answerer<'_>,
    ) -> Result<Option<R>, CallError> {
        let (position, context) = (talk.position, talk.context);
        let lane = talk.lane();
        let number = match lane.take().map_err(|what| self.corrupt(what, &context))? {
            Some((at, frame)) if at == position && frame.commit.kind == Kind::Ask => {
                (frame.call & u64::from(u16::MAX)) >> NUMBER_SHIFT
            }
            Some((at, _)) if at == position => return self.take(lane, position, Kind::Call, &context).transpose(),
            Some(_) => return self.pass_next(lane, &context).map(|()| None),
            None => return Ok(None),
        };
        if talk.state.panic.is_some() {
            return Err(self.corrupt(RESTLESS, &context));
        }
        talk.state.has_asked = true;
        talk.position = callbacks(Question { caller: self, talk, number }).0?;
        Ok(None)
    }

    /// Gives up a call whose time is over.
    #[cold]
    pub(super) fn give_up_late(&self, talk: &mut OpenConversation<'_>) -> CallError {
        let context = talk.context;
        self.timed_out(talk.give_up(Exactness::Known), &context)
    }

    /// The error of a call whose peer has ended.
    #[cold]
    pub(super) fn ended_in(&self, talk: &mut OpenConversation<'_>) -> CallError {
        let (position, context) = (talk.position, talk.context);
        talk.due = NextTurn::Nothing;
        self.ended(talk.lane(), position, &context)
    }

    /// Waits for the next reply. What others want on the lane meanwhile waits: between two turns comes nothing of theirs.
    fn wait_for_turn(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Waited {
        let waited = lane.wait(self.wait, &self.peer.peer_status, context.deadline(), &|| lane.is_wanted());
        if lane.is_wanted() {
            lane.clear_want();
            lane.owe();
        }
        match waited {
            Waited::Ready if context.deadline().has_passed() => Waited::DeadlinePassed,
            waited => waited,
        }
    }

    /// Waits until every call that a callback has made between two turns is answered, also one that was given up: the answer comes after them.
    pub(super) fn await_idle(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Result<(), CallError> {
        while !lane.is_idle() {
            match lane.take() {
                Ok(Some(_)) if self.is_broken() => break,
                Ok(Some(_)) => self.pass_next(lane, context)?,
                Ok(None) => match self.wait_for_turn(lane, context) {
                    Waited::Ready => {}
                    Waited::DeadlinePassed | Waited::Dead => break,
                },
                Err(what) => return Err(self.corrupt(what, context)),
            }
        }
        match context.deadline().has_passed() {
            true => Err(self.timed_out(Started::Yes, context)),
            false if self.peer.peer_status.is_over() => Err(self.over(Started::Yes, context)),
            false => Ok(()),
        }
    }

    /// Tells the child that the method whose question has just been taken is not wanted any more. Returns the position of that.
    fn unwind(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Result<u64, CallError> {
        debug_assert!(lane.lane.credit() > 0, "a lent lane keeps one");
        let len = self.write_on(lane, Kind::Unwind, &(), MayWait::No, context)?;
        let position = self.publish_on(lane, Ask { kind: Kind::Unwind, call: 0 }, len, context);
        failpoints::reach(Step::ParentUnwindSent);
        Ok(position)
    }

    /// Leaves the reply to the request at `position`, which may be a question, to whoever has the lane next, or to the watcher. `is_ending` = the child has
    /// been told to end the method.
    pub(super) fn forsake(&self, lane: &mut LaneClaim<'_>, position: u64, context: &CallContext, is_ending: bool) {
        let forsaken = Forsaken { context: *context, is_ending };
        lane.pending.push_back((position, Arc::new(forsaken)));
        lane.forsaken += 1;
        lane.owe();
    }

    /// Whether this thread may wait for something other than a call that it makes now: not in a callback of a call to the same child, if the worker may be
    /// the one that waits for that.
    pub(super) fn may_wait_here(&self, context: &CallContext) -> Result<(), CallError> {
        let why = "a callback would wait for what comes after it: the child's worker waits for the callback";
        match self.lent_lane() {
            Some(_) => Err(CallError::TooNested { call: context.name(), depth: 1, why }),
            None => Ok(()),
        }
    }

    /// A service whose calls are tasks cannot call back.
    pub(super) fn may_converse(&self, context: &CallContext) -> Result<(), CallError> {
        let why = "a service with async methods cannot call back: its calls take turns as tasks";
        match self.is_unordered {
            true => Err(CallError::Refused { call: context.name(), why: why.into() }),
            false => Ok(()),
        }
    }

    /// The lane that is lent to this thread, because it runs a callback of a call there.
    pub(super) fn lent_lane(&self) -> Option<&SharedLane> {
        if nest::is_calling_back() { self.lanes.iter().find(|lane| lane.gate.is_lent_here()) } else { None }
    }
}

/// The error of a call that ended within a conversation: its method has started, whatever became of the last turn.
fn had_started(mut error: CallError) -> CallError {
    error.started_mut().into_iter().for_each(|started| *started = Started::Yes);
    error
}

impl<'a> Question<'_, 'a> {
    /// The number of the callback.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The child names a callback that the method does not have.
    #[cold]
    pub fn unknown(self) -> Answered {
        let context = self.talk.context;
        self.talk.due = NextTurn::Nothing;
        Answered(Err(self.caller.corrupt("a callback that the method does not have", &context)))
    }

    /// Runs the callback with the arguments in the question, and sends what it returns.
    pub fn answer<A: Transfer, R: Transfer>(mut self, callback: impl FnOnce(A) -> R) -> Answered {
        Answered(self.try_answer(callback))
    }

    fn try_answer<A: Transfer, R: Transfer>(&mut self, callback: impl FnOnce(A) -> R) -> Result<u64, CallError> {
        let args = match self.read::<A>() {
            Ok(args) => args,
            Err(error) => return self.end_with(error),
        };
        failpoints::reach(Step::ParentAskSeen);
        match self.call_back(|| callback(args)) {
            Ok(Ok(value)) => self.send(value).or_else(|error| self.end_with(error)),
            Ok(Err(panic)) => {
                self.talk.state.panic = Some(panic);
                let context = self.talk.context;
                let position = self.caller.unwind(self.talk.lane(), &context)?;
                self.talk.due = NextTurn::Reply;
                Ok(position)
            }
            Err(error) => self.end_with(error),
        }
    }

    /// Sends what the callback has returned.
    fn send<R: Transfer>(&mut self, value: R) -> Result<u64, CallError> {
        let (caller, context, at) = (self.caller, &self.talk.context.clone(), self.talk.state.at);
        let lane = self.talk.lane();
        caller.await_idle(lane, context)?;
        let call = at.map_or(0, |at| caller.nest(lane, at, 0));
        let len = caller.write_on(lane, Kind::Answer, &value, MayWait::Yes, context)?;
        drop(value);
        let position = caller.publish_on(lane, Ask { kind: Kind::Answer, call }, len, context);
        self.talk.due = NextTurn::Reply;
        failpoints::reach(Step::ParentAnswerSent);
        Ok(position)
    }

    /// Takes the question.
    fn read<A: Transfer>(&mut self) -> Result<A, CallError> {
        let (caller, context) = (self.caller, &self.talk.context.clone());
        let lane = self.talk.lane();
        let (carries, number, args) = match lane.take() {
            Ok(Some((_, frame))) => {
                let number = caller.pool.accept_returns(frame.call);
                (frame.carries(), number, caller.outcome::<A>(&frame, Kind::Ask, context))
            }
            _ => return Err(caller.corrupt("a question that was taken back", context)),
        };
        caller.release(lane, carries);
        lane.questions += 1;
        caller.pool.forget(number);
        self.talk.due = NextTurn::Answer;
        args
    }

    /// Runs a callback, while its thread alone may use the lane.
    fn call_back<R>(&mut self, callback: impl FnOnce() -> R) -> Result<std::thread::Result<R>, CallError> {
        let context = self.talk.context;
        let _calling_back = CallingBack::new(context.name())?;
        let Some(mut lane) = self.talk.claim.take() else { unreachable!("a lane is lent once at a time") };
        let (index, is_borrowed) = (lane.index() as usize, lane.is_borrowed());
        let outer = mem::replace(&mut lane.deadline, context.deadline().instant());
        lane.lend();
        let returned = catch_unwind(AssertUnwindSafe(callback));
        self.talk.claim = self.caller.lanes[index].gate.borrow(self.caller);
        let lane = self.talk.lane();
        lane.deadline = outer;
        if !is_borrowed {
            lane.keep();
        }
        if self.caller.peer.is_in_fork() {
            // The call belongs to the process that was forked, which goes on with it.
            self.talk.due = NextTurn::Nothing;
            return Err(self.caller.in_fork_slow(&context));
        }
        failpoints::reach(Step::ParentCalledBack);
        Ok(returned)
    }

    /// Ends the method, whose caller gets this error.
    #[cold]
    fn end_with(&mut self, error: CallError) -> Result<u64, CallError> {
        if self.talk.due == NextTurn::Answer {
            self.talk.end_method();
        }
        Err(error)
    }
}

/// A conversation whose caller has given up.
struct Forsaken {
    context: CallContext,
    /// The child has been told to end the method.
    is_ending: bool,
}

impl Wakes for Forsaken {}

impl Settle for Forsaken {
    fn context(&self) -> CallContext {
        self.context
    }

    fn settle(&self, caller: &Caller, claim: &mut LaneClaim<'_>) -> bool {
        let is_question = matches!(claim.take(), Ok(Some((_, frame))) if frame.commit.kind == Kind::Ask);
        let is_restless = is_question && self.is_ending;
        if is_restless {
            caller.corrupt(RESTLESS, &self.context);
        }
        let dropped = caller.drop_next(claim, &self.context).unwrap_or(true);
        claim.forsaken -= u32::from(dropped);
        claim.questions += u64::from(dropped && is_question);
        // The deadline of the call has passed, and does not matter for this.
        let context = CallContext::nameless();
        if dropped
            && is_question
            && !is_restless
            && let Ok(position) = caller.unwind(claim, &context)
        {
            caller.forsake(claim, position, &self.context, true);
            caller.watch_overdue((claim.index(), position), &self.context);
        }
        dropped
    }

    fn waited_by(&self) -> WaitedBy {
        WaitedBy::Caller
    }
}
