//! The callee: a child's workers, which take requests, run methods and publish replies.

#![forbid(unsafe_code)]

use crate::child_memory::{CONFUSED, PayloadMemory, confused};
use crate::control::Control;
use crate::current::{self, ServedLanes};
use crate::handshake::Hello;
use crate::host::{Alone, Guarded, Host, Parallel};
use crate::lane::{BegunRequest, CalleeLane, Frame, ReplySlot, WorkerBell, WorkerLanes};
use crate::panic;
use crate::peer_status::PeerStatus;
use crate::request_source::RequestSource;
use crate::service::{Exchange, Service, TurnContext};
use crate::shared_service::SharedService;
use crate::streamed_service::StreamedService;
use crate::trusted::TrustedParent;
use crate::{last_words, nest};
use callgate_os::limits::{self, Wanted};
use callgate_os::mapping::Protection;
use callgate_os::sync::Ordering::Relaxed;
use callgate_os::text::beginning;
use callgate_transport::arena::Limits;
use callgate_transport::backing::Backing;
use callgate_transport::commit::{ALIGN, BlockRef, Kind, Place};
use callgate_transport::doorbell::wait_from_code;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::request::RequestSpan;
use callgate_transport::segment::{Block, Segment, Span};
use callgate_transport::shared_box;
use callgate_transport::wake::Bells;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::cell::OnceCell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// Exit code of a child whose service panicked in its destructor while nobody waited for the reply: Rust's own.
pub(crate) const PANICKED: i32 = 101;

/// Bytes of stack of a worker beside the main thread: the usual size of a main thread's. Only pages in use exist.
const STACK: usize = 8 << 20;

/// Serves `T` to the parent with one worker, this thread, until told to stop. Never returns.
pub fn serve<T: Service>(serving: Serving) -> ! {
    if T::LENDS {
        let host = Parallel::<T, Arc<StreamedService<T>>>::new(serving.parent, 1);
        Callee::start(serving).worker(0, &host).run();
    }
    let host = Alone::<T>::new(serving.parent);
    Callee::start(serving).worker(0, host).run()
}

/// Serves `T` to the parent with as many workers as it asks for, this thread among them, until told to stop. Never returns.
pub fn serve_parallel<T: Service + Send + Sync>(serving: Serving) -> ! {
    if serving.segment.geometry().workers == 1 {
        serve::<T>(serving);
    }
    match T::LENDS {
        true => serve_all::<T, Arc<StreamedService<T>>>(serving),
        false => serve_all::<T, SharedService<T>>(serving),
    }
}

fn serve_all<T: Service, S: Guarded<T> + Sync>(serving: Serving) -> ! {
    let host = Parallel::<T, S>::new(serving.parent, serving.segment.geometry().workers);
    let callee = Callee::start(serving);
    callee.run_workers(&|index| callee.worker(index, &host).run())
}

/// A child that has told its parent that it serves.
pub struct Serving {
    pub control: Control,
    pub segment: Segment,
    pub backing: Arc<dyn Backing>,
    pub bells: Bells,
    pub hello: Hello,
    pub parent: TrustedParent,
}

/// What the workers of a child share.
pub struct Callee {
    segment: Segment,
    bells: Bells,
    hello: Hello,
    parent: TrustedParent,
    memory: Arc<PayloadMemory>,
}

impl Callee {
    pub(crate) fn start(serving: Serving) -> Self {
        let Serving { control, segment, backing, bells, hello, parent } = serving;
        last_words::keep(segment.last_words());
        panic::install_hook();
        let limits = Limits { max_payload: hello.max_payload, retained: hello.retained };
        let access = if hello.trusted { Protection::ReadWrite } else { Protection::ReadOnly };
        let memory = PayloadMemory::new(control, backing, &segment, limits, access);
        memory.start_reader();
        shared_box::set_pool(memory.clone());
        failpoints::reach(Step::ChildReady);
        Self { segment, bells, hello, parent, memory }
    }

    /// Has every worker run, each on a thread of its own but for the first, which has this one: it builds the service and drops it, as both are asked
    /// for on lane 0. Never returns.
    pub(crate) fn run_workers(&self, run: &(impl Fn(u32) -> Infallible + Sync)) -> ! {
        thread::scope(|scope| {
            for index in 1..self.segment.geometry().workers {
                let thread = thread::Builder::new().name(self.worker_name(index)).stack_size(STACK);
                let run_aside = move || {
                    last_words::prepare_thread();
                    run_or_end(|| run(index))
                };
                if let Err(error) = thread.spawn_scoped(scope, run_aside) {
                    let limit = limits::behind(&error, Wanted::Task);
                    let why =
                        format!("callgate: child {} ends: starting worker {index}{limit}: {error}", std::process::id());
                    last_words::say(&why);
                    eprintln!("{why}");
                    std::process::exit(CONFUSED);
                }
            }
            run_or_end(|| run(0))
        })
    }

    /// The worker `index`, which carries out the requests on its lanes with `host`.
    fn worker<H: Host>(&self, index: u32, host: H) -> Worker<H, Parent> {
        let (lanes, parent, chain, served) = self.parts(index);
        Worker::new(lanes, parent, host).with_chain(chain, served)
    }

    /// What the worker `index` has: its lanes, the memory, its chain, and what `current` knows.
    pub(crate) fn parts(&self, index: u32) -> (WorkerLanes, Parent, u64, ServedLanes) {
        let lanes = WorkerLanes::new(&self.segment, index, &self.bells, wait_from_code(self.hello.wait), true);
        let parent = Parent { memory: self.memory.clone(), trusted: self.parent };
        let served = ServedLanes::new(&self.segment, index, self.hello.parent_pid);
        (lanes, parent, chain(&self.segment, index), served)
    }

    /// What wakes the worker `index`.
    pub(crate) fn bell(&self, index: u32) -> WorkerBell {
        WorkerBell::new(&self.segment, index, &self.bells)
    }

    /// The main thread's name and the worker's number; a listing of 15 bytes shows both.
    fn worker_name(&self, index: u32) -> String {
        let name: String = self.hello.name.chars().filter(|&char| char != '\0').collect();
        let number = format!(" {index}");
        format!("{}{number}", beginning(&name, 15 - number.len()))
    }
}

/// The chain that begins with a call carried out by worker `index`.
pub fn chain(segment: &Segment, index: u32) -> u64 {
    // Relaxed: written before the other side had the segment.
    segment.header().chains.load(Relaxed).wrapping_add(u64::from(index) + 1)
}

/// The parent of a child. Its requests are read in place, and are well formed.
pub struct Parent {
    memory: Arc<PayloadMemory>,
    trusted: TrustedParent,
}

impl RequestSource for Parent {
    #[inline(always)]
    fn pool(&self) -> &dyn PoolHandle {
        &*self.memory
    }

    #[inline(always)]
    fn peer_status(&self) -> Option<&PeerStatus> {
        None
    }

    fn block(&self, block: BlockRef) -> Result<Block, &'static str> {
        Ok(self.memory.request_block(block))
    }

    #[inline(always)]
    fn request<'a>(&self, payload: Span<'a>, _: &'a mut AlignedVec<ALIGN>) -> Result<RequestSpan<'a>, Failure> {
        Ok(self.trusted.request(payload))
    }

    fn publishing(&self, lane: u32, position: u64, attachments: Attachments) {
        self.memory.publishing(lane, position, attachments);
    }
}

/// One thread that takes the requests of its lanes, carries them out and answers them.
pub struct Worker<H, A> {
    lanes: WorkerLanes,
    source: A,
    host: H,
    /// The copy of a request that cannot be read in place.
    copy: AlignedVec<ALIGN>,
    /// The process's exit code.
    code: i32,
    /// The chain of calls that are not nested.
    chain: u64,
    /// Its lanes, for [`current`], until the thread begins to serve.
    served: Option<ServedLanes>,
}

#[cfg(all(any(test, feature = "testkit"), not(loom)))]
impl<H: Host> Worker<H, Parent> {
    /// The worker `index`, which a test runs in the caller's own process.
    pub fn in_process(
        segment: &Segment,
        index: u32,
        wait: callgate_transport::doorbell::Wait,
        control: crate::control::Control,
        host: H,
    ) -> Self {
        let bells = Bells::futexes(callgate_transport::wake::Count::of(&segment.geometry()));
        let lanes = WorkerLanes::new(segment, index, &bells, wait, true);
        let limits = Limits { max_payload: 1 << 20, retained: 1 << 20 };
        let memory = PayloadMemory::new(
            control,
            Arc::new(callgate_transport::backing::SealedMemfds),
            segment,
            limits,
            Protection::ReadOnly,
        );
        Self::new(lanes, Parent { memory, trusted: TrustedParent::of_itself() }, host)
    }

    /// The addresses of the worker's private state of each lane.
    #[cfg(debug_assertions)]
    pub fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        self.lanes.private_memory()
    }
}

impl<H: Host> Worker<H, Parent> {
    fn run(mut self) -> ! {
        self.take_thread();
        loop {
            match self.serve_next() {
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
}

/// Has a worker run that is one of several. A panic outside of a method is an error in callgate, and ends the process: otherwise the other threads would
/// live on, and this one's callers would wait for ever.
fn run_or_end(run: impl FnOnce() -> Infallible) -> ! {
    let _ = catch_unwind(AssertUnwindSafe(run));
    std::process::exit(CONFUSED);
}

impl<H: Host, A: RequestSource> Worker<H, A> {
    pub fn new(lanes: WorkerLanes, source: A, host: H) -> Self {
        Self { lanes, source, host, copy: AlignedVec::new(), code: 0, chain: 0, served: None }
    }

    pub(crate) fn with_chain(self, chain: u64, served: ServedLanes) -> Self {
        Self { chain, served: Some(served), ..self }
    }

    /// Notes that the calling thread does nothing but serve.
    pub(crate) fn take_thread(&mut self) {
        nest::serve(self.chain);
        self.served.take().into_iter().for_each(ServedLanes::take_thread);
    }

    /// The peer that makes the requests.
    pub fn source(&self) -> &A {
        &self.source
    }

    /// Waits for a request and answers it. Returns its kind; `None` if the caller has ended.
    ///
    /// # Errors
    ///
    /// What is wrong with the request, if no healthy caller could have made it.
    #[inline(always)]
    pub fn serve_next(&mut self) -> Result<Option<Kind>, &'static str> {
        match self.lanes.wait(self.source.peer_status()) {
            // A request may arrive after the peer has ended; skip it.
            Some(place) if !self.source.peer_status().is_some_and(PeerStatus::is_over) => self.serve_one(place),
            _ => Ok(None),
        }
    }

    /// Takes, carries out and answers the request on the lane at `place`. Returns its kind; `None` if its caller has left.
    ///
    /// A plain call goes straight through. What only other requests need is in functions of their own, so that it costs a plain call two branches.
    #[inline(always)]
    fn serve_one(&mut self, place: usize) -> Result<Option<Kind>, &'static str> {
        failpoints::reach(Step::ChildRequestSeen);
        let Some((lane, rest)) = self.lanes.found(place) else { return Ok(self.end()) };
        let extras = OnceCell::new();
        let (call, span, slot, is_one_way) = match lane.begin_plain() {
            Some((frame, slot)) => {
                failpoints::reach(Step::ChildStarted);
                if is_left(&slot, &self.source) {
                    return Ok(None);
                }
                (frame.call, frame.payload, slot, false)
            }
            None => match begin_other(lane, &self.source, &extras)? {
                Some(begun) => begun,
                None => return self.serve_control(place),
            },
        };
        current::enter(place);
        let pool = self.source.pool();
        let (len, request) = (span.len(), self.source.request(span, &mut self.copy));
        let (is_readable, request) = (request.is_ok(), request.unwrap_or(RequestSpan::none()));
        let turns = Some(TurnContext { rest, source: &self.source });
        let mut exchange = Exchange { slot, pool, request, call, replied: None, is_one_way, turns };
        exchange.carry_out(is_readable, |exchange| panic::catch_outermost(|| self.host.call(exchange)));
        self.source.answering(len);
        let reply = exchange.settled();
        let is_answered = extras.get().is_none_or(|extras| extras.end(exchange.pool, reply));
        failpoints::reach(Step::ChildReplyWritten);
        match is_answered {
            true => exchange.publish(reply, 0),
            false => self.lanes.lane(place).pass(),
        }
        failpoints::reach(Step::ChildPublished);
        self.source.done(&mut self.copy);
        self.host.replied();
        Ok(Some(Kind::Call))
    }

    /// [`serve_one`](Self::serve_one) for a request that has been begun and runs no method: of another kind than a call, or withdrawn, or left.
    #[cold]
    fn serve_control(&mut self, place: usize) -> Result<Option<Kind>, &'static str> {
        let Some((lane, rest)) = self.lanes.found(place) else { return Ok(None) };
        let BegunRequest { frame, slot, is_withdrawn } = lane.begin()?.ok_or(VANISHED)?;
        if is_left(&slot, &self.source) {
            return Ok(None);
        }
        current::enter(place);
        let (kind, call) = (frame.commit.kind, frame.call);
        let is_withdrawn = is_withdrawn && is_call(kind);
        let block = block_of(&frame, &self.source)?;
        let span = block.as_ref().map_or(frame.payload, Block::span);
        let pool = self.source.pool();
        let returned = accept(pool, call, &slot);
        let (len, request) = (span.len(), self.source.request(span, &mut self.copy));
        let (is_readable, request) = (request.is_ok(), request.unwrap_or(RequestSpan::none()));
        let turns = Some(TurnContext { rest, source: &self.source });
        let mut exchange = Exchange { slot, pool, request, call, replied: None, is_one_way: false, turns };
        match is_withdrawn {
            true => exchange.replied = Some(Kind::Withdrawn),
            false => {
                exchange
                    .carry_out(is_readable, |exchange| panic::catch_outermost(|| self.host.control(kind, exchange)));
            }
        }
        self.source.answering(len);
        if exchange.replied.is_none() && kind == Kind::Stop {
            return Ok(self.put_off_stop(returned));
        }
        let reply = exchange.settled();
        forget(pool, returned);
        failpoints::reach(Step::ChildReplyWritten);
        exchange.publish(reply, 0);
        failpoints::reach(Step::ChildPublished);
        self.source.done(&mut self.copy);
        self.host.replied();
        Ok(Some(kind))
    }
}

/// What a call has that is not plain.
struct Extras {
    /// The block that its payload lies in.
    block: Option<Block>,
    /// The number of the blocks that it returns.
    returned: Option<u64>,
    /// It is answered only if it fails.
    is_one_way: bool,
}

impl Extras {
    /// Ends what `begin_other` began, after the call. Returns whether it is answered.
    #[cold]
    fn end(&self, pool: &dyn PoolHandle, reply: Kind) -> bool {
        forget(pool, self.returned);
        !(self.is_one_way && reply == Kind::Call)
    }
}

/// What a request that was there is found to be if it is there no more.
const VANISHED: &str = "a request that was withdrawn";

/// Begins the next request, which is no plain call: its call word, its payload, the slot for its reply, and whether it is one-way. `None` if it runs no
/// method.
#[inline(never)]
fn begin_other<'a>(
    lane: &'a mut CalleeLane,
    source: &impl RequestSource,
    extras: &'a OnceCell<Extras>,
) -> Result<Option<(u64, Span<'a>, ReplySlot<'a>, bool)>, &'static str> {
    let BegunRequest { frame, slot, is_withdrawn } = lane.begin()?.ok_or(VANISHED)?;
    failpoints::reach(Step::ChildStarted);
    if !is_call(frame.commit.kind) || is_withdrawn || is_left(&slot, source) {
        return Ok(None);
    }
    let block = block_of(&frame, source)?;
    let (returned, is_one_way) = (accept(source.pool(), frame.call, &slot), frame.commit.kind == Kind::Send);
    let extras = extras.get_or_init(|| Extras { block, returned, is_one_way });
    let span = extras.block.as_ref().map_or(frame.payload, Block::span);
    Ok(Some((frame.call, span, slot, is_one_way)))
}

/// Whether the caller of a request that has begun has left, so that it must not be carried out. A child does not outlive its caller.
#[inline(always)]
fn is_left(slot: &ReplySlot<'_>, source: &impl RequestSource) -> bool {
    source.peer_status().is_some() && slot.is_left()
}

/// Whether a request of this kind calls a method.
fn is_call(kind: Kind) -> bool {
    matches!(kind, Kind::Call | Kind::Send)
}

/// The block that the payload of a request lies in, if it is not in its slot.
fn block_of(frame: &Frame<'_>, source: &impl RequestSource) -> Result<Option<Block>, &'static str> {
    match frame.commit.place {
        Place::Slot(_) => Ok(None),
        Place::Block(block) => source.block(block).map(Some),
    }
}

/// Accepts the blocks that a request returns, and enters its chain, until [`forget`].
fn accept(pool: &dyn PoolHandle, call: u64, slot: &ReplySlot<'_>) -> Option<u64> {
    let returned = pool.accept_returns(call);
    if returned.is_some() {
        nest::enter(call, slot.chain());
    }
    returned
}

/// Ends what [`accept`] began.
fn forget(pool: &dyn PoolHandle, returned: Option<u64>) {
    if returned.is_some() {
        nest::leave();
    }
    pool.forget(returned);
}

impl<H: Host, A: RequestSource> Worker<H, A> {
    /// Puts off a request to stop, before anything is done for it: it is found again when every other request has been answered.
    #[cold]
    fn put_off_stop(&self, returned: Option<u64>) -> Option<Kind> {
        self.source.pool().forget(returned);
        self.lanes.end_soon();
        None
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
