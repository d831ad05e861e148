//! The callee where calls are tasks: a worker takes every request that is there, and polls the futures that requests became.
//!
//! A service with async methods is served so. A worker's tasks run on its own thread, and need not be `Send`. It looks for requests where any worker
//! does, so a call that does not wait costs no more hops than another's; a waker rings the worker's own doorbell.
//!
//! ```text
//! waker, on any thread                    worker
//! K1  its task into the queue; is_any     L1  parked = 1
//! K2  fence(SeqCst); parked?              L2  fence(SeqCst)
//! K3  if parked: wake                     L3  a request, or is_any? if not: sleep
//! ```
//!
//! The argument is that of `doorbell`, with K1 in the place of what is published.
//!
//! A method that blocks its thread holds up the worker's other calls, as it does where calls are no tasks.

#![forbid(unsafe_code)]

mod host;
mod ready;
mod request;
mod runtime;

use crate::callee::{Callee, PANICKED, Parent, Serving};
use crate::child_memory::confused;
use crate::current::{self, ServedLanes, TaskMark};
use crate::lane::{BegunRequest, WorkerLanes};
use crate::request_source::RequestSource;
use crate::service::{Exchange, Service, TaskCall, TaskFuture, task::OwnedRequest};
use crate::trusted::TrustedParent;
use crate::{nest, panic};
use callgate_transport::commit::{Kind, Place};
use callgate_transport::error::Fault;
use callgate_transport::failpoints::{self, Step};
use host::{AsyncHost, TaskHost};
use ready::{Ready, TaskWaker};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

/// Most requests that are begun before tasks have their turn.
const BATCH: usize = 64;

/// Serves `T` with one worker, this thread. Never returns.
pub fn serve<T: Service>(serving: Serving) -> ! {
    let (host, trusted) = (AsyncHost::<T>::new(serving.parent, 1), serving.parent);
    let callee = Callee::start(serving);
    TaskWorker::new(&callee, 0, &host, trusted).run()
}

/// Serves `T` with as many workers as the parent asks for. Never returns.
pub fn serve_parallel<T: Service + Send + Sync>(serving: Serving) -> ! {
    let (workers, trusted) = (serving.segment.geometry().workers, serving.parent);
    let host = AsyncHost::<T>::new(serving.parent, workers);
    let callee = Callee::start(serving);
    callee.run_workers(&|index| TaskWorker::new(&callee, index, &host, trusted).run())
}

/// One thread that takes the requests of its lanes, and runs them as tasks.
struct TaskWorker<'a> {
    lanes: WorkerLanes,
    parent: Parent,
    trusted: TrustedParent,
    host: &'a dyn TaskHost,
    running: Vec<Option<Running<'a>>>,
    /// Places in `running` that are free.
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// The positions of the requests of each lane that have not been answered, oldest first. Replies count in it.
    unanswered: Vec<VecDeque<u64>>,
    /// The place of the lane on which the request to stop waits for all other calls.
    stop: Option<usize>,
    /// The chain of calls that are not nested.
    chain: u64,
    served: Option<ServedLanes>,
    /// The process's exit code.
    code: i32,
}

/// A call that has begun.
struct Running<'a> {
    future: TaskFuture<'a>,
    waker: Arc<TaskWaker>,
    begun: Begun,
}

/// A request that has been taken, and not answered.
#[derive(Clone)]
struct Begun {
    mark: TaskMark,
    word: u64,
    request: Rc<dyn OwnedRequest>,
    /// The number of what the request returned.
    returned: Option<u64>,
    at: nest::At,
}

impl<'a> TaskWorker<'a> {
    fn new(callee: &Callee, index: u32, host: &'a dyn TaskHost, trusted: TrustedParent) -> Self {
        let (lanes, parent, chain, served) = callee.parts(index);
        let unanswered = (0..lanes.count()).map(|_| VecDeque::new()).collect();
        Self {
            lanes,
            parent,
            trusted,
            host,
            running: Vec::new(),
            free: Vec::new(),
            ready: Ready::new(callee.bell(index)),
            unanswered,
            stop: None,
            chain,
            served: Some(served),
            code: 0,
        }
    }

    fn run(mut self) -> ! {
        nest::serve(self.chain);
        self.served.take().into_iter().for_each(ServedLanes::take_thread);
        runtime::enter();
        loop {
            match self.turn() {
                Ok(Some(Kind::Stop)) if self.lanes.is_first() => {
                    failpoints::reach(Step::ChildExiting);
                    // Flushes what the service printed and runs its exit handlers. The reply has been published, if a caller waits for one.
                    std::process::exit(self.code);
                }
                // The first one ends the process.
                Ok(Some(Kind::Stop)) => loop {
                    thread::park();
                },
                Ok(_) => {}
                Err(what) => confused(what),
            }
        }
    }

    /// Begins the requests that are there, polls the tasks that are ready, and waits if there are neither. Returns the kind of the last request.
    ///
    /// # Errors
    ///
    /// What is wrong with a request, if no healthy caller could have made it.
    fn turn(&mut self) -> Result<Option<Kind>, &'static str> {
        let mut is_idle = true;
        for _ in 0..BATCH {
            let Some(place) = self.lanes.look().filter(|&place| self.may_begin(place)) else { break };
            is_idle = false;
            if self.begin(place)? == Some(Kind::Stop) {
                return Ok(Some(Kind::Stop));
            }
        }
        for task in self.ready.take() {
            is_idle = false;
            self.poll(task);
        }
        if is_idle {
            self.lanes.wait_until(|found| self.ready.is_any() || found.is_some_and(|place| self.may_begin(place)));
        }
        Ok(None)
    }

    /// Whether what was found at this place may be begun: the end comes after all tasks.
    fn may_begin(&self, place: usize) -> bool {
        let is_last = place == self.lanes.count() || self.stop == Some(place);
        !is_last || self.running.len() == self.free.len()
    }

    /// Takes the request on the lane at `place`, and begins it.
    fn begin(&mut self, place: usize) -> Result<Option<Kind>, &'static str> {
        failpoints::reach(Step::ChildRequestSeen);
        let Some((lane, _)) = self.lanes.found(place) else { return Ok(self.end()) };
        let position = lane.request_position();
        let BegunRequest { frame, slot, is_withdrawn } = lane.begin()?.ok_or("a request that was withdrawn")?;
        failpoints::reach(Step::ChildStarted);
        let (kind, word, chain) = (frame.commit.kind, frame.call, slot.chain());
        if kind == Kind::Stop && self.stop.is_none() {
            // It is found again when every other request has been answered.
            self.stop = Some(place);
            self.lanes.end_soon();
            return Ok(None);
        }
        let request = match frame.commit.place {
            Place::Slot(_) => request::copied(frame.payload),
            Place::Block(block) => request::in_block(self.parent.block(block)?, self.trusted),
        };
        current::enter(place);
        // Read before the slot may be used again.
        let mark = TaskMark { place, position, deadline: current::deadline() };
        lane.release_request();
        self.unanswered[place].push_back(position);
        if kind == Kind::Cancel {
            self.cancel(place, word);
            self.answer(&Begun { mark, word: 0, request, returned: None, at: nest::At::NONE }, |exchange| {
                exchange.replied = Some(Kind::Cancel);
            });
            return Ok(Some(kind));
        }
        let returned = self.parent.pool().accept_returns(word);
        let at = nest::At::of_task(word, returned.and(Some(chain)));
        let begun = Begun { mark, word, request, returned, at };
        match kind {
            Kind::Call | Kind::Send if is_withdrawn => {
                self.answer(&begun, |exchange| exchange.replied = Some(Kind::Withdrawn));
            }
            Kind::Call | Kind::Send => self.spawn(begun),
            _ => {
                let host = self.host;
                self.answer(&begun, |exchange| host.control(kind, exchange));
            }
        }
        Ok(Some(kind))
    }

    /// Makes a task of a request, and polls it.
    fn spawn(&mut self, begun: Begun) {
        let call = TaskCall { word: begun.word, request: begun.request.clone() };
        let Some(future) = self.host.begin(call) else {
            return self.answer(&begun, |exchange| exchange.refuse("the child does not know this trait"));
        };
        let task = self.free.pop().unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        let waker = TaskWaker::new(&self.ready, task);
        self.running[task] = Some(Running { future, waker, begun });
        self.poll(task);
    }

    /// Polls a task, and answers its call if it has ended. Does nothing if there is none any more.
    fn poll(&mut self, task: usize) {
        let Some(running) = self.running.get_mut(task).and_then(Option::as_mut) else { return };
        running.waker.begin_poll();
        let waker = Waker::from(running.waker.clone());
        running.begun.enter();
        let future = &mut running.future;
        let polled = panic::catch(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        match polled {
            Ok(Poll::Pending) => Begun::leave(),
            Ok(Poll::Ready(finish)) => {
                let (begun, fault) = self.remove(task);
                self.answer(&begun, |exchange| {
                    finish(exchange);
                    fault.iter().for_each(|fault| exchange.reply_fault(fault));
                });
            }
            Err(fault) => {
                let (begun, _) = self.remove(task);
                self.answer(&begun, |exchange| exchange.reply_fault(&fault));
            }
        }
    }

    /// Removes a task, and drops its future. Returns its request, and any panic in a destructor.
    fn remove(&mut self, task: usize) -> (Begun, Option<Box<Fault>>) {
        let Some(Running { future, begun, .. }) = self.running[task].take() else { unreachable!("a task that runs") };
        self.free.push(task);
        begun.enter();
        let fault = panic::catch(|| drop(future)).err();
        (begun, fault)
    }

    /// Drops the task of the call at `position`, if it has not ended.
    fn cancel(&mut self, place: usize, position: u64) {
        let is_meant = |begun: &Begun| (begun.mark.place, begun.mark.position) == (place, position);
        let found = self.running.iter().position(|task| task.as_ref().is_some_and(|task| is_meant(&task.begun)));
        if let Some(task) = found {
            let (begun, fault) = self.remove(task);
            self.answer(&begun, |exchange| match fault {
                Some(fault) => exchange.reply_fault(&fault),
                None => exchange.replied = Some(Kind::Withdrawn),
            });
        }
    }

    /// Answers a request as `write` writes. A panic in it becomes a fault.
    fn answer(&mut self, begun: &Begun, write: impl FnOnce(&mut Exchange<'_>)) {
        let pool = self.parent.pool();
        let TaskMark { place, position, .. } = begun.mark;
        let lane = self.lanes.lane(place);
        let (index, at) = (lane.index(), lane.position());
        let mut exchange = Exchange::of_task(lane.reply_slot(), pool, begun.request.span(), begun.word);
        begun.enter();
        if let Err(fault) = panic::catch(|| write(&mut exchange)) {
            exchange.reply_fault(&fault);
        }
        Begun::leave();
        let kind = exchange.settled();
        pool.forget(begun.returned);
        failpoints::reach(Step::ChildReplyWritten);
        let (carries, place_of_reply) = if exchange.slot.carries() {
            let sent = exchange.slot.sent_slow(&exchange.alloc());
            self.parent.publishing(index, at, sent.attachments);
            failpoints::reach(Step::ChildReplyDeparted);
            (sent.call, sent.place)
        } else {
            (0, Place::Slot(exchange.slot.len()))
        };
        let unanswered = &mut self.unanswered[place];
        let Some(answers) = unanswered.iter().position(|at| *at == position) else { unreachable!("answered once") };
        unanswered.remove(answers);
        self.lanes.lane(place).publish_answer(kind, carries, place_of_reply, answers);
        failpoints::reach(Step::ChildPublished);
    }

    /// Ends the service because the parent asked for the end without a request.
    #[cold]
    fn end(&mut self) -> Option<Kind> {
        current::leave();
        let is_first = self.lanes.is_first();
        if panic::catch(|| self.host.end(is_first)).is_err() {
            self.code = PANICKED;
        }
        Some(Kind::Stop)
    }
}

impl Begun {
    /// This thread carries out the call from now on, until [`leave`](Self::leave).
    fn enter(&self) {
        current::enter_task(self.mark);
        nest::enter_task(self.at);
    }

    fn leave() {
        current::leave_task();
        nest::leave();
    }
}
