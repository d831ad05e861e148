//! A pair: lanes between two processes that are strangers to each other, introduced by a hub.
//!
//! The one calls, the other is called; both have what is in this file. Neither trusts the other, nor the hub more than to make
//! memory that nobody can shrink: requests and replies alike are copied, and the copies validated. Each side has memory for large payloads,
//! which it asks the hub for on its control socket; the hub tells the other side of it first, so who meets a segment that it does not
//! know has its announcement waiting in the socket. When the hub closes the socket, the pair is over.

#![forbid(unsafe_code)]

use super::callee::{RequestSource, Worker, chain};
use super::caller::Caller;
use super::host::Host;
use super::link::unmap;
use super::panic;
use super::peer::{Peer, PeerLink, PeerParts};
use super::reclaim::{Look, Reclaim};
use crate::archive::copy_out;
use crate::arena::{Allocation, Limits, Source};
use crate::backing::{Backing, SEGMENT, Sealed};
use crate::commit::{ALIGN, BlockRef};
use crate::control::{Control, Message};
use crate::doorbell::{Deadline, Wait};
use crate::error::{Exit, NoMemory};
use crate::lane::{WorkerLanes, is_past};
use crate::layout::{CallerLine, Geometry};
use crate::loans::Attachments;
use crate::memory_pool::{MemoryPool, PoolHandle};
use crate::peer_status::{Cause, PeerStatus};
use crate::process::watch::{self, Watched};
use crate::reading::{DecodeRefusal, has_memory, refuse};
use crate::request::RequestSpan;
use crate::segment::{Block, Placed, Segment, Span};
use crate::sync::Ordering::Acquire;
use crate::sys::limits;
use crate::sys::mapping::{Mapping, Protection};
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::{self, BlockingMode};
use crate::wake::{Bells, Count};
use parking_lot::{Condvar, Mutex};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::any::TypeId;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long the hub may take to answer who asks for memory.
const HUB_PATIENCE: Duration = Duration::from_secs(10);

/// How long of that this side's memory is kept from other calls.
const HUB_SLICE: Duration = Duration::from_millis(20);

/// Bytes of stack of a thread that runs callbacks: what a main thread usually has. Only what is used is ever touched.
const STACK: usize = 8 << 20;

/// Bytes that a lane keeps for copies of requests between two calls.
const COPY_KEPT: usize = 256 << 10;

/// Of the lanes of a pair: as many calls as are likely to be given up in one before its first is answered, and payloads as long as a bridge's slots hold.
const SLOTS: u32 = 4;
const SLOT_LINES: u32 = 9;

/// The sizes of a pair with so many lanes: as its lanes are all alike, its length says how many there are.
pub(crate) fn geometry(lanes: u32) -> Geometry {
    Geometry { lanes, slots: SLOTS, slot_lines: SLOT_LINES, workers: lanes }
}

/// The geometry of a pair whose segment has so many bytes.
fn geometry_of(len: usize) -> Option<Geometry> {
    Geometry::LANES.map(geometry).find(|geometry| geometry.segment_len() == len)
}

/// What a hub's introduction brings.
pub(crate) struct Introduction {
    /// The other process.
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) segment: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) limits: Limits,
    pub(crate) wait: Wait,
}

/// One side of a pair.
pub(crate) struct PairEndpoint {
    role: PairRole,
    peer: Arc<Peer>,
    pidfd: Pidfd,
    control: Control,
    /// Held while a message is read and handled, so that who looks for one finds it read.
    reading: Mutex<()>,
    told: Mutex<PairInbox>,
    /// Rung when something has been told, and when the pair is over.
    changed: Condvar,
    own: Mutex<OwnMemory>,
    reclaim: Reclaim,
    /// The caller's line of each lane.
    callers: Vec<Placed<CallerLine>>,
    /// Starts the thread of a lane, on the side that is called.
    start: OnceLock<Start>,
    /// The lanes that have one, by their bits.
    started: Mutex<u64>,
    /// Bytes of large requests that are being carried out here, of which there are copies.
    copied: Mutex<u64>,
}

/// What starts the thread of a lane.
type Start = Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// What the hub has told.
#[derive(Default)]
struct PairInbox {
    /// Segments of the other side's arena.
    segments: HashMap<u64, Arc<Mapping>>,
    /// Nobody can make holes in the first segment any more.
    is_ready: bool,
    /// What has been granted and mapped, and is not sealed yet.
    unsealed: Option<(u64, Arc<Mapping>)>,
    /// For how many bytes the hub was asked last, and when, until the answer has been taken.
    asked: Option<(u64, Instant)>,
    /// The answer.
    answer: Option<Result<(u64, Arc<Mapping>), NoMemory>>,
    /// What has been given to one that did not wait for it any longer: for its next attempt, or to be given back.
    spare: Vec<(u64, Arc<Mapping>)>,
}

/// This side's memory.
struct OwnMemory {
    pool: MemoryPool,
    /// What published replies carry, or those about to be: lane, position, and that.
    published: Vec<(u32, u64, Attachments)>,
}

/// What this side does in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairRole {
    Caller,
    Owner,
}

/// The calling side of a pair.
///
/// # Errors
///
/// If what the hub has sent is no pair, or this process cannot watch it.
pub(crate) fn call(introduction: Introduction) -> io::Result<(Arc<Caller>, Arc<PairEndpoint>)> {
    let wait = introduction.wait;
    let (pair, segment) = PairEndpoint::of(introduction, PairRole::Caller)?;
    let caller = Caller::of(&segment, pair.peer.clone(), pair.clone(), wait, TypeId::of::<()>());
    watch::watch(pair.clone())?;
    Ok((Arc::new(caller), pair))
}

/// The side of a pair that is called: a thread for each lane, which is started when the lane is about to be used for the first time, carries out with
/// a host of `hosts` what is asked there; without one, the pair is over. The threads end with the pair.
///
/// # Errors
///
/// As [`call`].
pub(crate) fn serve<H: Host + Send + 'static>(
    introduction: Introduction,
    hosts: impl FnMut() -> Option<H> + Send + 'static,
) -> io::Result<Arc<PairEndpoint>> {
    let wait = introduction.wait;
    let (pair, segment) = PairEndpoint::of(introduction, PairRole::Owner)?;
    panic::install_hook();
    let (weak, hosts, segment) = (Arc::downgrade(&pair), Mutex::new(hosts), Arc::new(segment));
    let start = move |index| {
        let pair = weak.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let lanes = WorkerLanes::new(&segment, index, &pair.peer.bells, wait, false);
        let name = format!("callgate-{}-{index}", pair.peer.pid);
        let host = (*hosts.lock())().ok_or(io::ErrorKind::NotConnected)?;
        let worker = Worker::new(lanes, RemoteCaller(pair), host);
        let header = segment.clone();
        // The watcher is here, and must not look at what nobody has sealed yet.
        let chain = move || chain(&header, index);
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || run(worker, chain)).map(drop)
    };
    let _ = pair.start.set(Box::new(start));
    watch::watch(pair.clone()).inspect_err(|_| pair.over(None))?;
    Ok(pair)
}

/// Serves a lane, once it is ready, until the pair is over; and the pair does not outlast it, whatever ends it: nobody else would answer there.
fn run<H: Host>(worker: Worker<H, RemoteCaller>, chain: impl FnOnce() -> u64) {
    struct Last(Arc<PairEndpoint>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.over(None);
        }
    }
    let _last = Last(worker.asker().0.clone());
    worker.asker().0.wait_until_ready();
    if worker.asker().0.is_over() {
        return;
    }
    let mut worker = worker.with_chain(chain());
    worker.take_thread();
    loop {
        match worker.serve_next() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(what) => return worker.asker().0.over(Some(Cause::Corrupt(what))),
        }
    }
}

impl PairEndpoint {
    fn of(introduction: Introduction, role: PairRole) -> io::Result<(Arc<Self>, Segment)> {
        let Introduction { pid, pidfd, segment, control, limits, .. } = introduction;
        // Not looked at yet: until it is sealed, who looks may be kept waiting.
        let segment = Segment::attach_unseen(segment, geometry_of)?;
        let found = segment.geometry();
        let pool = match role {
            PairRole::Caller => MemoryPool::new(limits, segment.held_by_child(), segment.held_by_parent()),
            PairRole::Owner => MemoryPool::new(limits, segment.held_by_parent(), segment.held_by_child()),
        };
        let peer = Peer::new(PeerParts {
            pid,
            max_payload: limits.max_payload,
            trust: None,
            peer_status: PeerStatus::new(None),
            bells: Bells::futexes(Count::of(&found)),
            door: None,
            report: None,
        });
        let pair = Self {
            role,
            peer: Arc::new(peer),
            pidfd: Pidfd::of(pidfd),
            control: Control::new(control),
            reading: Mutex::new(()),
            told: Mutex::default(),
            changed: Condvar::new(),
            own: Mutex::new(OwnMemory { pool, published: Vec::new() }),
            reclaim: Reclaim::new(),
            callers: (0..found.lanes).map(|lane| segment.caller_line(lane)).collect(),
            start: OnceLock::new(),
            started: Mutex::new(0),
            copied: Mutex::new(0),
        };
        pair.control.send(Message::Mapped { segment: SEGMENT }, None)?;
        Ok((Arc::new(pair), segment))
    }

    /// Whether there may be another copy of a request, of `len` bytes. Each request lies in memory of its own, so those under way have no more bytes
    /// in all than the caller's memory: beyond that, it has named some twice.
    ///
    /// # Errors
    ///
    /// If there may not, and then the pair is over, or if there is no memory for it.
    #[cold]
    fn admit_copy(&self, len: usize) -> Result<(), Failure> {
        let lent: u64 = self.told.lock().segments.values().map(|segment| segment.len() as u64).sum();
        // A caller publishes a block anew after it has heard of the answer, before which `answering` has subtracted it.
        let mut copied = self.copied.lock();
        *copied += len as u64;
        if *copied > lent {
            drop(copied);
            self.over(Some(Cause::Corrupt("requests under way with more bytes than its memory has")));
            return Err(refuse(DecodeRefusal::Invalid));
        }
        drop(copied);
        has_memory(len)
    }

    /// Waits until the first segment may be looked at, or the pair is over. A caller is not told of the owner before.
    fn wait_until_ready(&self) {
        let mut told = self.told.lock();
        while !told.is_ready && !self.is_over() {
            self.changed.wait(&mut told);
        }
    }

    /// Whether it is over, for whatever reason.
    pub(crate) fn is_over(&self) -> bool {
        self.peer.peer_status.is_over()
    }

    /// Nothing is asked or answered any more. The hub learns it by the end of the socket, and tells the other side.
    pub(crate) fn over(&self, cause: Option<Cause>) {
        if self.peer.is_in_fork() {
            // The pair is of the process that this one was forked from.
            return;
        }
        if let Some(cause) = cause {
            self.peer.peer_status.blame(cause);
        }
        // First, so that no worker here begins anything that the other side hears of the end of.
        self.peer.peer_status.end(Exit::Unknown);
        self.control.shut_down();
        // Under the lock, so that who is about to wait sees the end or hears this.
        drop(self.told.lock());
        self.changed.notify_all();
    }

    /// Reads a message if there is one, and handles it. `Ok(false)` = there is none.
    ///
    /// # Errors
    ///
    /// What was wrong, if the pair is over for it; none, if the hub has ended it.
    fn read(&self) -> Result<bool, Option<&'static str>> {
        let _one_at_a_time = self.reading.lock();
        match self.control.receive(BlockingMode::No) {
            Ok(Some((message, descriptor))) => self.handle_message(message, descriptor).map(|()| true).map_err(Some),
            Ok(None) => Err(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Some(SENSELESS)),
        }
    }

    fn handle_message(&self, message: Message, descriptor: Option<OwnedFd>) -> Result<(), &'static str> {
        if let (Message::Begin { lane }, None) = (message, &descriptor) {
            return self.start_lane(lane);
        }
        let mut descriptor = descriptor.into_iter();
        let mut mapped = |segment, access| Sealed.attach(segment, &mut descriptor, access).map(Arc::new);
        let mut told = self.told.lock();
        let answer = match message {
            Message::Attach { segment } => {
                let mapping = mapped(segment, Protection::ReadOnly).map_err(|_| "a segment that cannot be mapped")?;
                told.segments.insert(segment, mapping);
                None
            }
            Message::Detach { segment } => {
                told.segments.remove(&segment);
                None
            }
            // The other side's arena tidies itself.
            Message::Tidy => None,
            Message::Grant { segment } => match mapped(segment, Protection::ReadWrite) {
                Ok(mapping) => {
                    told.unsealed = Some((segment, mapping));
                    self.control
                        .send(Message::Mapped { segment }, None)
                        .map_err(|_| "it does not read what it asks for")?;
                    None
                }
                Err(error) => {
                    // A hub that does not hear it keeps the memory until the pair is over.
                    let _ = self.control.send(Message::Detach { segment }, None);
                    Some(Err(failed(format!("memory from the hub cannot be mapped: {error}"))))
                }
            },
            Message::Sealed { segment: SEGMENT } => {
                told.is_ready = true;
                None
            }
            Message::Sealed { segment } => {
                Some(Ok(told.unsealed.take().filter(|unsealed| unsealed.0 == segment).ok_or(SENSELESS)?))
            }
            Message::Deny { len, max } => Some(Err(NoMemory::TooLarge { len, max })),
            Message::Exhausted { len, budget } => Some(Err(NoMemory::Exhausted { len, budget })),
            Message::Lack { error, limit } => {
                if let Some((segment, _)) = told.unsealed.take() {
                    let _ = self.control.send(Message::Detach { segment }, None);
                }
                let why = limits::unpacked(error, limit);
                Some(Err(failed(format!("the hub could get no memory{why}"))))
            }
            Message::Need { .. } | Message::Mapped { .. } | Message::Begin { .. } => return Err(SENSELESS),
        };
        socket::discard(descriptor.collect());
        if answer.is_some() {
            told.answer = answer;
        }
        drop(told);
        self.changed.notify_all();
        Ok(())
    }

    /// Starts the thread of a lane, of which there is one: whoever asks for another does not keep to the protocol.
    fn start_lane(&self, lane: u64) -> Result<(), &'static str> {
        let (Some(start), Some(index)) = (self.start.get(), u32::try_from(lane).ok()) else { return Err(SENSELESS) };
        let mut started = self.started.lock();
        if index as usize >= self.callers.len() || *started & 1 << index != 0 {
            return Err(SENSELESS);
        }
        *started |= 1 << index;
        start(index).map_err(|_| "a lane for which no thread can be started")
    }

    /// The segment of the other side's arena, whose announcement may be waiting to be read.
    fn segment(&self, number: u64) -> Option<Arc<Mapping>> {
        let known = || self.told.lock().segments.get(&number).cloned();
        loop {
            if let Some(segment) = known() {
                return Some(segment);
            }
            match self.read() {
                Ok(true) => {}
                // Somebody else may have read it since.
                Ok(false) => return known(),
                Err(what) => {
                    self.over(what.map(Cause::Corrupt));
                    return None;
                }
            }
        }
    }

    /// Gives back what the hub has given to calls that did not wait for it. To be done with the arena held: then nobody waits.
    fn give_back_spare(&self, source: &mut AskHub<'_>) {
        let mut told = self.told.lock();
        if told.asked.is_some() {
            match told.answer.take() {
                Some(answer) => {
                    told.asked = None;
                    told.spare.extend(answer);
                }
                None => self.reclaim.again(),
            }
        }
        let spare = std::mem::take(&mut told.spare);
        drop(told);
        spare.iter().for_each(|&(segment, _)| source.shrink(segment));
        unmap(spare.into_iter().map(|(_, mapping)| mapping).collect());
    }

    /// Takes back what callers have dealt with, and runs `run` on this side's memory.
    fn on_own<R>(&self, run: impl FnOnce(&mut MemoryPool, &mut dyn Source) -> R) -> R {
        let mut own = self.own.lock();
        let mut source = AskHub(self);
        own.collect(&self.callers, &mut source);
        run(&mut own.pool, &mut source)
    }
}

impl OwnMemory {
    /// Takes back what callers have dealt with.
    fn collect(&mut self, callers: &[Placed<CallerLine>], source: &mut dyn Source) {
        let is_dealt_with = |lane: u32, position: u64| {
            // Acquire: pairs with the Release in `CallerLane::release`.
            is_past(callers[lane as usize].released.load(Acquire), position)
        };
        let Self { pool, published } = self;
        for (_, _, carried) in published.extract_if(.., |(lane, position, _)| is_dealt_with(*lane, *position)) {
            pool.arrived(carried, source);
        }
    }
}

const SENSELESS: &str = "a control message that makes no sense";

fn failed(why: String) -> NoMemory {
    NoMemory::Failed { why }
}

impl Watched for PairEndpoint {
    fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    fn read_control(&self) -> bool {
        match self.read() {
            Ok(_) => true,
            Err(what) => {
                if let Some(what) = what {
                    self.peer.peer_status.blame(Cause::Corrupt(what));
                }
                false
            }
        }
    }

    fn give_up(&self) -> bool {
        self.over(None);
        false
    }

    fn tidy(&self) -> bool {
        match self.reclaim.look() {
            Look::Now => {}
            look => return look == Look::Later && !self.is_over(),
        }
        match self.own.try_lock() {
            Some(mut own) => {
                let mut source = AskHub(self);
                own.collect(&self.callers, &mut source);
                unmap(own.pool.tidy(&mut source));
                self.give_back_spare(&mut source);
                // Nobody says when the caller has dealt with the rest.
                if !own.published.is_empty() && own.pool.is_beyond_retained() {
                    self.reclaim.again();
                }
            }
            // Who waits for memory there waits for this thread.
            None => self.reclaim.again(),
        }
        self.reclaim.is_untidy() && !self.is_over()
    }

    /// It may be one all the same, and whoever started it waits for it.
    fn is_child(&self) -> bool {
        false
    }

    fn take_cost(&self) -> Duration {
        self.control.take_cost()
    }

    fn ended(&self, _: Exit) {
        self.over(None);
    }
}

impl PeerLink for PairEndpoint {
    fn end(&self, cause: Cause) {
        self.over(Some(cause));
    }

    fn used(&self) {}

    #[cold]
    fn begin(&self, index: u32) {
        if self.control.send(Message::Begin { lane: index.into() }, None).is_err() {
            self.over(None);
        }
    }
}

impl PoolHandle for PairEndpoint {
    #[cold]
    fn with(&self, run: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        let is_untidy = self.on_own(|pool, source| {
            run(pool, source);
            pool.is_untidy()
        });
        if is_untidy {
            self.reclaim.used();
        }
    }

    #[cold]
    fn find(
        &self,
        deadline: Deadline,
        allocate: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source) -> Result<Allocation, NoMemory>,
    ) -> Result<Allocation, NoMemory> {
        loop {
            let found = self.on_own(&mut *allocate);
            let may_wait = deadline.left().is_some_and(|left| !left.is_zero());
            let waits = match &found {
                Err(NoMemory::Exhausted { .. }) => may_wait,
                // Who answers does so once, and waits for as long as the hub may take.
                Err(NoMemory::Late { .. }) => may_wait || self.role == PairRole::Owner,
                _ => false,
            };
            if !waits || self.is_over() {
                if matches!(found, Err(NoMemory::Late { .. })) {
                    // What the hub gives then is nobody's.
                    self.reclaim.used();
                }
                return found;
            }
            thread::sleep(MEMORY_SLICE);
        }
    }

    fn peer_block(&self, block: BlockRef) -> Option<Block> {
        if block.len > self.peer.max_payload {
            return None;
        }
        Block::new(&self.segment(block.segment)?, block.offset, block.len)
    }

    fn trusts_peer(&self) -> bool {
        false
    }

    fn is_trusted_by_peer(&self) -> bool {
        false
    }

    fn is_in_fork(&self) -> bool {
        self.peer.is_in_fork()
    }
}

/// How long who waits for memory waits between two looks at whether any has been given back.
const MEMORY_SLICE: Duration = Duration::from_millis(1);

/// The hub as a source of memory. Used only with the arena held.
struct AskHub<'a>(&'a PairEndpoint);

impl Source for AskHub<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        let pair = self.0;
        let until = Instant::now() + HUB_SLICE;
        let mut told = pair.told.lock();
        loop {
            if let Some(at) = told.spare.iter().position(|(_, mapping)| mapping.len() as u64 == len) {
                return Ok(told.spare.swap_remove(at));
            }
            let Some((asked, since)) = told.asked else {
                let sent = pair.control.send(Message::Need { len }, None);
                sent.map_err(|error| failed(format!("the hub cannot be asked for memory: {error}")))?;
                told.asked = Some((len, Instant::now()));
                continue;
            };
            if let Some(answer) = told.answer.take() {
                told.asked = None;
                match answer {
                    Ok((_, mapping)) if (mapping.len() as u64) < asked => {
                        return Err(failed(format!("the hub gave {} bytes instead of {asked}", mapping.len())));
                    }
                    answer if asked == len => return answer,
                    // Another call asked, and will again.
                    answer => told.spare.extend(answer),
                }
                pair.reclaim.used();
                continue;
            }
            if pair.is_over() {
                return Err(failed("the two processes are not connected any more".into()));
            }
            if pair.changed.wait_until(&mut told, until).timed_out() && told.answer.is_none() {
                if since.elapsed() < HUB_PATIENCE {
                    return Err(NoMemory::Late { len });
                }
                drop(told);
                pair.over(None);
                return Err(failed(format!("the hub has given no memory within {HUB_PATIENCE:?}")));
            }
        }
    }

    fn shrink(&mut self, segment: u64) {
        // A hub that does not listen keeps the memory until the pair is over.
        let _ = self.0.control.send(Message::Detach { segment }, None);
    }
}

/// The caller of a pair, as the workers of its owner see it.
pub(crate) struct RemoteCaller(Arc<PairEndpoint>);

impl RequestSource for RemoteCaller {
    fn pool(&self) -> &dyn PoolHandle {
        &*self.0
    }

    #[inline(always)]
    fn peer_status(&self) -> Option<&PeerStatus> {
        Some(&self.0.peer.peer_status)
    }

    fn block(&self, block: BlockRef) -> Result<Block, &'static str> {
        self.0.peer_block(block).ok_or("a request in memory that it does not have")
    }

    #[inline(always)]
    fn request<'a>(&self, payload: Span<'a>, copy: &'a mut AlignedVec<ALIGN>) -> Result<RequestSpan<'a>, Failure> {
        if payload.len() > COPY_KEPT {
            self.0.admit_copy(payload.len())?;
        }
        copy_out(payload, copy);
        Ok(RequestSpan::copied(copy))
    }

    #[inline(always)]
    fn answering(&self, len: usize) {
        if len > COPY_KEPT {
            *self.0.copied.lock() -= len as u64;
        }
    }

    #[inline(always)]
    fn done(&self, copy: &mut AlignedVec<ALIGN>) {
        if copy.capacity() > COPY_KEPT {
            *copy = AlignedVec::new();
        }
    }

    fn publishing(&self, lane: u32, position: u64, carried: Attachments) {
        let mut own = self.0.own.lock();
        own.published.push((lane, position, carried));
        // The caller does not say when it has dealt with it.
        if own.pool.is_beyond_retained() {
            self.0.reclaim.used();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::call::service::{Exchange, Method};
    use crate::commit::Kind;
    use crate::error::{CallError, Started};
    use crate::sys::memfd;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{self, Receiver};

    /// Doubles numbers, and gives texts back.
    struct Doubler;

    impl Host for Doubler {
        fn carry_out(&mut self, _: Kind, exchange: &mut Exchange<'_>) {
            match exchange.call {
                1 => match exchange.request.take::<(u64,)>() {
                    Ok((number,)) => exchange.reply(Kind::Call, &(2 * number)),
                    Err(_) => exchange.refuse("no number"),
                },
                _ => match exchange.request.take::<String>() {
                    Ok(text) => exchange.reply(Kind::Call, &text),
                    Err(_) => exchange.refuse("no text"),
                },
            }
        }
    }

    static METHOD: Method = Method { service: "", name: "double", index: 0, interface: None, idempotent: false };
    const LIMITS: Limits = Limits { max_payload: 8 << 20, retained: 1 << 20 };
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

    /// The hub's ends of the control sockets, in the order caller, owner.
    struct Hub([Control; 2]);

    impl Hub {
        /// Gives both sides what they ask for, until one has closed; then the pair is over.
        fn run(self) {
            let (mut next, mut unsealed) = (0, HashMap::new());
            while self.0.iter().all(|side| self.answer(side, &mut next, &mut unsealed)) {
                thread::sleep(Duration::from_micros(100));
            }
        }

        /// Answers one side, as far as it has asked. Whether it is still there.
        fn answer(&self, side: &Control, next: &mut u64, unsealed: &mut HashMap<u64, OwnedFd>) -> bool {
            let other = self.0.iter().find(|other| !std::ptr::eq(*other, side)).expect("two sides");
            loop {
                match side.receive(BlockingMode::No) {
                    Ok(Some((Message::Need { len }, _))) => {
                        let (_, object) =
                            memfd::create_sealed("callgate-test", len as usize, Protection::ReadWrite).unwrap();
                        *next += 1;
                        let _ = side.send(Message::Grant { segment: *next }, Some(object.as_fd()));
                        unsealed.insert(*next, object);
                    }
                    // Both were told ahead that it is sealed.
                    Ok(Some((Message::Mapped { segment: SEGMENT }, _))) => {}
                    Ok(Some((Message::Mapped { segment }, _))) => {
                        let object = unsealed.remove(&segment).expect("it was granted");
                        let _ = other.send(Message::Attach { segment }, Some(object.as_fd()));
                        let _ = side.send(Message::Sealed { segment }, None);
                    }
                    Ok(Some((detach, _))) => drop(other.send(detach, None)),
                    Ok(None) => return false,
                    Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                }
            }
        }
    }

    /// Both introductions of a pair in this process, and the hub that made it.
    fn introduced(geometry: Geometry) -> ([Introduction; 2], Hub) {
        introduced_by(Segment::create(geometry, &Sealed).unwrap().1.unwrap())
    }

    fn introduced_by(object: OwnedFd) -> ([Introduction; 2], Hub) {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..2).map(|_| socket::pair().unwrap()).unzip();
        let introductions = theirs.into_iter().map(|control| Introduction {
            pid: std::process::id(),
            pidfd: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
            segment: object.try_clone().unwrap(),
            control,
            limits: LIMITS,
            wait: Wait::SpinFor(Duration::from_micros(50)),
        });
        let introductions = introductions.collect::<Vec<_>>().try_into().ok().unwrap();
        let ours: Vec<_> = ours.into_iter().map(Control::new).collect();
        ours.iter().for_each(|side| side.send(Message::Sealed { segment: SEGMENT }, None).unwrap());
        (introductions, Hub(ours.try_into().ok().unwrap()))
    }

    fn double(caller: &Caller, number: u64) -> Result<u64, CallError> {
        caller.call_by_word(&METHOD, 1, &mut Some((number,)), PATIENCE)
    }

    #[test]
    fn strangers_call_each_other() {
        let ([caller, owner], hub) = introduced(geometry(2));
        let hub = thread::spawn(|| hub.run());
        let owner = serve(owner, || Some(Doubler)).unwrap();
        let (caller, pair) = call(caller).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let caller = &caller;
                scope
                    .spawn(move || (0..200).for_each(|n| assert_eq!(double(caller, n + thread), Ok(2 * (n + thread)))));
            }
        });
        for len in [10, 1000, 300_000, 3 << 20, 10] {
            let text = "x".repeat(len);
            let echoed = caller.call_by_word::<_, String>(&METHOD, 2, &mut Some(text.clone()), PATIENCE);
            assert_eq!(echoed.as_deref(), Ok(&*text), "{len}");
        }
        assert!(!pair.is_over() && !owner.is_over());
        owner.over(None);
        hub.join().unwrap();
        assert_eq!(pair.peer.peer_status.wait(Deadline::after(PATIENCE)), Some(Exit::Unknown));
        assert!(matches!(double(&caller, 1), Err(CallError::Died { .. })));
    }
    /// Two calls need memory, and the hub does not answer: each gives up in its own time. What the hub gives then is used, or given back.
    #[test]
    fn a_hub_that_does_not_answer_costs_a_call_no_more_than_its_time() {
        let ([caller, owner], hub) = introduced(geometry(2));
        let owner = serve(owner, || Some(Doubler)).unwrap();
        let (caller, pair) = call(caller).unwrap();
        let echo = |len: usize, patience: Option<Duration>| {
            let text = "x".repeat(len);
            caller.call_by_word::<_, String>(&METHOD, 2, &mut Some(text.clone()), patience).map(|echoed| echoed == text)
        };
        thread::scope(|scope| {
            let patient = scope.spawn(|| echo(300_000, PATIENCE));
            let quick = scope.spawn(|| echo(3 << 20, Some(Duration::from_millis(100))));
            let late = quick.join().unwrap();
            assert!(matches!(late, Err(CallError::TimedOut { started: Started::No, .. })), "{late:?}");
            let hub = scope.spawn(|| hub.run());
            assert_eq!(patient.join().unwrap(), Ok(true));
            assert_eq!(echo(3 << 20, PATIENCE), Ok(true));
            wait_until(|| {
                let told = pair.told.lock();
                told.spare.is_empty() && told.asked.is_none()
            });
            assert!(!pair.is_over() && !owner.is_over());
            owner.over(None);
            hub.join().unwrap();
        });
    }

    /// Counts its calls; the first waits until it may go on.
    struct Gated {
        ran: Arc<AtomicU32>,
        gate: Option<Receiver<()>>,
    }

    impl Host for Gated {
        fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
            self.ran.fetch_add(1, Ordering::SeqCst);
            if let Some(gate) = self.gate.take() {
                let _ = gate.recv();
            }
            exchange.reply(kind, &());
        }
    }

    fn wait_until(what: impl Fn() -> bool) {
        let deadline = Deadline::after(PATIENCE);
        while !what() {
            assert!(!deadline.has_passed());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Clients that connect and leave cost the owner none.
    #[test]
    fn fault_43_a_lane_has_a_thread_when_it_is_about_to_be_used_and_not_before() {
        let ([caller, owner], hub) = introduced(geometry(8));
        let hosts = Arc::new(AtomicU32::new(0));
        let counted = hosts.clone();
        let owner = serve(owner, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Doubler)
        });
        let owner = owner.unwrap();
        let (caller, pair) = call(caller).unwrap();
        let hub = thread::spawn(move || hub.run());
        assert_eq!(hosts.load(Ordering::SeqCst), 0);
        for number in 0..100 {
            assert_eq!(double(&caller, number), Ok(2 * number));
        }
        assert_eq!(hosts.load(Ordering::SeqCst), 1, "one thread calls, on one lane");
        for lane in [0, 1, 7, 8, 63, 64, u64::MAX] {
            let is_new = matches!(lane, 1 | 7);
            let lanes_before = hosts.load(Ordering::SeqCst);
            let _ = owner.start_lane(lane);
            let started = hosts.load(Ordering::SeqCst) - lanes_before;
            assert!(started <= 1 && (is_new || lane == 0 || started == 0), "{lane}");
            assert!(owner.start_lane(lane).is_err(), "a second thread for lane {lane}");
        }
        owner.over(None);
        hub.join().unwrap();
        assert!(pair.peer.peer_status.wait(Deadline::after(PATIENCE)).is_some());
    }

    #[test]
    fn a_header_that_the_other_side_has_rewritten_brings_no_more_threads() {
        let (segment, object) = Segment::create(geometry(7), &Sealed).unwrap();
        let forged = Geometry { lanes: 13, slots: 2, slot_lines: 9, workers: 13 };
        assert_eq!(forged.segment_len(), geometry(7).segment_len());
        let header = segment.header();
        for (word, value) in
            [(&header.lanes, forged.lanes), (&header.slots, forged.slots), (&header.workers, forged.workers)]
        {
            word.store(value, crate::sync::Ordering::Relaxed);
        }
        let ([caller, owner], _hub) = introduced_by(object.unwrap());
        let (_, pair) = call(caller).unwrap();
        let threads = Arc::new(AtomicU32::new(0));
        let started = threads.clone();
        let host = move || {
            started.fetch_add(1, Ordering::SeqCst);
            Some(Doubler)
        };
        let owner = serve(owner, host).unwrap();
        let lanes = (0..u64::from(forged.lanes)).filter(|&lane| owner.start_lane(lane).is_ok()).count();
        owner.over(None);
        assert_eq!((pair.callers.len(), lanes, threads.load(Ordering::SeqCst)), (7, 7, 7));
        assert!(geometry_of(geometry(8).segment_len() + 128).is_none());
    }

    /// A caller that has its lanes name one block would have the owner make a copy for each.
    #[test]
    fn fault_43_copies_of_requests_have_no_more_bytes_than_their_callers_memory() {
        const MIB: usize = 1 << 20;
        let ([caller, owner], _silent) = introduced(geometry(2));
        let owner = serve(owner, || Some(Doubler)).unwrap();
        let (_caller, _pair) = call(caller).unwrap();
        let (mapping, _) = memfd::create_sealed("callgate-test", MIB, Protection::ReadWrite).unwrap();
        owner.told.lock().segments.insert(5, Arc::new(mapping));
        let stranger = RemoteCaller(owner.clone());
        assert!(owner.admit_copy(MIB / 2).is_ok() && owner.admit_copy(MIB / 2).is_ok());
        stranger.answering(MIB / 2);
        assert!(owner.admit_copy(MIB / 2).is_ok() && !owner.is_over());
        assert!(owner.admit_copy(MIB / 2).is_err() && owner.is_over());
    }

    /// The hub says nothing to anybody: the end is the caller's alone, and the owner's worker goes on.
    #[test]
    fn a_call_that_had_not_started_when_its_caller_left_is_never_carried_out() {
        let ([caller, owner], _silent) = introduced(geometry(1));
        let (open, gate) = mpsc::channel();
        let (ran, mut gate) = (Arc::new(AtomicU32::new(0)), Some(gate));
        let host = {
            let ran = ran.clone();
            move || Some(Gated { ran: ran.clone(), gate: gate.take() })
        };
        let owner = serve(owner, host).unwrap();
        owner.start_lane(0).unwrap();
        let (caller, pair) = call(caller).unwrap();
        let begin = || caller.begin(&METHOD, (), PATIENCE).unwrap();
        // Given up, so that the only lane is free for another.
        drop(begin());
        wait_until(|| ran.load(Ordering::SeqCst) == 1);
        let mut second = begin();
        pair.over(None);
        assert!(matches!(second.poll::<()>(), Some(Err(CallError::Died { started: Started::No, .. }))));
        open.send(()).unwrap();
        wait_until(|| owner.is_over() || ran.load(Ordering::SeqCst) > 1);
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_call_that_had_started_when_its_caller_left_is_said_to_have() {
        let ([caller, owner], _silent) = introduced(geometry(1));
        let (open, gate) = mpsc::channel();
        let (ran, mut gate) = (Arc::new(AtomicU32::new(0)), Some(gate));
        let host = {
            let ran = ran.clone();
            move || Some(Gated { ran: ran.clone(), gate: gate.take() })
        };
        let owner = serve(owner, host).unwrap();
        owner.start_lane(0).unwrap();
        let (caller, pair) = call(caller).unwrap();
        let mut call = caller.begin(&METHOD, (), PATIENCE).unwrap();
        wait_until(|| ran.load(Ordering::SeqCst) == 1);
        pair.over(None);
        assert!(matches!(call.poll::<()>(), Some(Err(CallError::Died { started: Started::Yes, .. }))));
        drop(open);
    }
}
