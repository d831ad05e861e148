//! A pair: lanes between two processes that do not know each other, introduced by a hub.
//!
//! One side calls, the other is called; both have what is here. Neither trusts the other, and the hub is trusted only to make memory that nobody can
//! shrink: requests and replies are copied, and the copies validated. Each side has its own memory for large payloads, which it asks the hub for on
//! its control socket. The hub tells the other side first, so a side that meets an unknown segment has its announcement waiting in the socket. When
//! the hub closes the socket, the pair is over.

#![forbid(unsafe_code)]

mod inbox;
mod memory;
mod remote_caller;

use crate::callee::{Worker, chain};
use crate::caller::Caller;
use crate::control::{Control, Message};
use crate::current::ServedLanes;
use crate::host::Host;
use crate::lane::WorkerLanes;
use crate::link::unmap;
use crate::panic;
use crate::peer::{Peer, PeerLink, PeerParts};
use crate::peer_status::{Cause, PeerStatus};
use crate::reclaim::{Look, Reclaim};
use crate::watcher::{self, Watched};
use callgate_os::mapping::Mapping;
use callgate_os::pidfd::Pidfd;
use callgate_transport::arena::Limits;
use callgate_transport::backing::SEGMENT;
use callgate_transport::doorbell::Wait;
use callgate_transport::error::{Exit, NoMemory};
use callgate_transport::layout::{CallerLine, Geometry};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::MemoryPool;
use callgate_transport::segment::{Placed, Segment};
use callgate_transport::wake::{Bells, Count};
use parking_lot::{Condvar, Mutex};
use std::any::TypeId;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{io, thread};

/// Bytes of stack of a thread that runs callbacks: the usual size of a main thread's. Only pages in use exist.
const STACK: usize = 8 << 20;

/// The slots of a pair's lanes: enough for the calls likely to be given up on one lane before its first is answered, and as long as a bridge's.
const SLOTS: u32 = 4;
const SLOT_LINES: u32 = 9;

/// The geometry of a pair with this many lanes. All lanes are alike, so the segment's length tells how many there are.
pub fn geometry(lanes: u32) -> Geometry {
    Geometry { lanes, slots: SLOTS, slot_lines: SLOT_LINES, workers: lanes }
}

/// The geometry of a pair whose segment has this many bytes.
fn geometry_of(len: usize) -> Option<Geometry> {
    Geometry::LANES.map(geometry).find(|geometry| geometry.segment_len() == len)
}

/// What the hub sends to introduce a pair.
pub struct Introduction {
    /// The other process.
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub segment: OwnedFd,
    pub control: OwnedFd,
    pub limits: Limits,
    pub wait: Wait,
}

/// One side of a pair.
pub struct PairEndpoint {
    role: PairRole,
    peer: Arc<Peer>,
    pidfd: Pidfd,
    control: Control,
    /// Held while a message is read and handled, so that a thread which looks for one finds it handled.
    reading: Mutex<()>,
    inbox: Mutex<PairInbox>,
    /// Notified when a message has been noted, and when the pair is over.
    changed: Condvar,
    own: Mutex<OwnMemory>,
    reclaim: Reclaim,
    /// The caller's line of each lane.
    callers: Vec<Placed<CallerLine>>,
    /// Starts the thread of a lane, on the side that is called.
    start: OnceLock<Start>,
    /// The lanes that have a thread, one bit each.
    started: Mutex<u64>,
    /// Bytes of the copies of large requests that are being carried out here.
    copied: Mutex<u64>,
}

/// Starts the thread of a lane.
type Start = Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// What the hub has said.
#[derive(Default)]
struct PairInbox {
    /// Segments of the other side's arena.
    segments: HashMap<u64, Arc<Mapping>>,
    /// Whether the first segment is sealed: nobody can punch holes into it any more.
    is_ready: bool,
    /// A segment that has been granted and mapped, and is not sealed yet.
    unsealed: Option<(u64, Arc<Mapping>)>,
    /// How many bytes the hub was last asked for, and when, until the answer has been taken.
    asked: Option<(u64, Instant)>,
    /// The answer.
    answer: Option<Result<(u64, Arc<Mapping>), NoMemory>>,
    /// Segments that were granted after their caller had stopped waiting: for its next attempt, or to be given back.
    spare: Vec<(u64, Arc<Mapping>)>,
}

/// This side's memory.
struct OwnMemory {
    pool: MemoryPool,
    /// What replies carry that are published or about to be: lane, position, and attachments.
    published: Vec<(u32, u64, Attachments)>,
}

/// The role of this side in a pair.
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
pub fn call(introduction: Introduction) -> io::Result<(Arc<Caller>, Arc<PairEndpoint>)> {
    let wait = introduction.wait;
    let (pair, segment) = PairEndpoint::of(introduction, PairRole::Caller)?;
    let caller = Caller::of(&segment, pair.peer.clone(), pair.clone(), wait, TypeId::of::<()>());
    watcher::watch(pair.clone())?;
    Ok((Arc::new(caller), pair))
}

/// The side of a pair that is called. Each lane gets a thread when it is about to be used for the first time, which carries out the lane's requests
/// with a host from `hosts`; if `hosts` has none, the pair is over. The threads end with the pair.
///
/// # Errors
///
/// As [`call`].
pub fn serve<H: Host + Send + 'static>(
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
        let pid = pair.peer.pid;
        let worker = Worker::new(lanes, RemoteCaller(pair), host);
        let header = segment.clone();
        // The watcher runs already, and must not look at what is not sealed yet.
        let begin = move || (chain(&header, index), ServedLanes::new(&header, index, pid));
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || run(worker, begin)).map(drop)
    };
    let _ = pair.start.set(Box::new(start));
    watcher::watch(pair.clone()).inspect_err(|_| pair.over(None))?;
    Ok(pair)
}

/// Serves a lane, once it is ready, until the pair is over. `begin` reads what the worker needs from its segment. Whatever ends this ends the pair too, since nobody else would answer there.
fn run<H: Host>(worker: Worker<H, RemoteCaller>, begin: impl FnOnce() -> (u64, ServedLanes)) {
    struct Last(Arc<PairEndpoint>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.over(None);
        }
    }
    let _last = Last(worker.source().0.clone());
    worker.source().0.wait_until_ready();
    if worker.source().0.is_over() {
        return;
    }
    let (chain, served) = begin();
    let mut worker = worker.with_chain(chain, served);
    worker.take_thread();
    loop {
        match worker.serve_next() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(what) => return worker.source().0.over(Some(Cause::Corrupt(what))),
        }
    }
}

impl PairEndpoint {
    fn of(introduction: Introduction, role: PairRole) -> io::Result<(Arc<Self>, Segment)> {
        let Introduction { pid, pidfd, segment, control, limits, .. } = introduction;
        // Not read yet: until it is sealed, a reader may be made to wait.
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
            kept: None,
        });
        let pair = Self {
            role,
            peer: Arc::new(peer),
            pidfd: Pidfd::of(pidfd),
            control: Control::new(control),
            reading: Mutex::new(()),
            inbox: Mutex::default(),
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

    /// Waits until the first segment may be read, or the pair is over. A caller is told of the owner only after that.
    fn wait_until_ready(&self) {
        let mut inbox = self.inbox.lock();
        while !inbox.is_ready && !self.is_over() {
            self.changed.wait(&mut inbox);
        }
    }

    /// Whether it is over, for whatever reason.
    pub fn is_over(&self) -> bool {
        self.peer.peer_status.is_over()
    }

    /// Ends the pair: nothing is asked or answered any more. The hub learns it by the end of the socket, and tells the other side.
    pub fn over(&self, cause: Option<Cause>) {
        if self.peer.is_in_fork() {
            // The pair belongs to the process that this one was forked from.
            return;
        }
        if let Some(cause) = cause {
            self.peer.peer_status.blame(cause);
        }
        // First, so that no worker here begins a call after the other side has heard of the end.
        self.peer.peer_status.end(Exit::Unknown);
        self.control.shut_down();
        // Under the lock, so that a thread about to wait sees the end or hears this.
        drop(self.inbox.lock());
        self.changed.notify_all();
    }
}

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
                // No message tells when the caller is done with the rest.
                if !own.published.is_empty() && own.pool.is_beyond_retained() {
                    self.reclaim.again();
                }
            }
            // A thread that waits for memory there waits for this one.
            None => self.reclaim.again(),
        }
        self.reclaim.is_untidy() && !self.is_over()
    }

    /// The process may be a child all the same; whoever started it waits for it.
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

/// Including the time that other threads spent on sending.
struct AskHub<'a>(&'a PairEndpoint);

/// The caller of a pair, as its owner's workers see it.
pub(crate) struct RemoteCaller(Arc<PairEndpoint>);

#[cfg(all(test, not(loom)))]
mod tests;
