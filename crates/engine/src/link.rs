//! The parent's end of one child: its process, its control socket, and the memory of large payloads.
//!
//! Everything that the child sends over the control socket arrives here, on the watcher's thread, and none of it is trusted.

#![forbid(unsafe_code)]

mod inbox;
mod pool;

use crate::account::{Account, Until};
use crate::control::{self, Control, Message};
use crate::last_words;
use crate::peer::{Kept, Peer, PeerLink, PeerParts};
use crate::peer_status::{Cause, PeerStatus};
use crate::reclaim::{Look, Reclaim};
use crate::watcher::{self, Due, Reactive, Releasing, Watched};
use callgate_os::close::Aside;
use callgate_os::limits::{self, Wanted};
use callgate_os::mapping::{Mapping, Protection, QUICKLY_UNMAPPED};
use callgate_os::pidfd::Pidfd;
use callgate_os::socket::BlockingMode;
use callgate_transport::arena::Limits;
use callgate_transport::backing::Backing;
use callgate_transport::bounds::MAX_SEGMENTS;
use callgate_transport::decoder::TrustedPeer;
use callgate_transport::error::{Exit, NoMemory};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::layout::LastWords;
use callgate_transport::memory_pool::MemoryPool;
use callgate_transport::segment::{Placed, Segment};
use callgate_transport::wake::ParentBells;
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

/// The longest that a child is given to end: short enough to be added to any point in time.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The parent's end of one child.
pub struct Link {
    itself: Weak<Self>,
    pub peer: Arc<Peer>,
    retained: u64,
    pidfd: Pidfd,
    control: Control<Aside>,
    /// The memory of requests and boxes. Locked before the books, never after them.
    pool: CachePadded<Mutex<MemoryPool>>,
    /// Notified when blocks have come back into the pool.
    came_back: Condvar,
    books: CachePadded<Mutex<Books>>,
    reclaim: Reclaim,
    last_words: Placed<LastWords>,
    /// Rung by the child for callers that do not sleep.
    ring: Arc<Aside>,
    /// Who looks then.
    reactive: OnceLock<Weak<dyn Reactive>>,
}

/// What a bridge shares with its child, apart from the control socket.
pub struct LinkParts {
    pub memory: MemoryOptions,
    pub backing: Arc<dyn Backing>,
    pub bells: ParentBells,
    /// What the child reported of its sandbox.
    pub kept: Option<Kept>,
}

/// How much memory a bridge may have for large payloads, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    pub max_payload: u64,
    /// The budget of both sides together. Each has half, so that neither can take the other's.
    pub total: u64,
    /// How much each side may keep idle.
    pub retained: u64,
    /// The user's promise that the child can be trusted.
    pub trust: Option<TrustedPeer>,
}

impl MemoryOptions {
    pub fn limits(&self) -> Limits {
        Limits { max_payload: self.max_payload, retained: self.retained }
    }
}

/// Every segment of this bridge but the first.
struct Books {
    backing: Arc<dyn Backing>,
    /// Segments of the child's arena, for replies: those that frames may name.
    replies: HashMap<u64, Arc<Mapping>>,
    /// The accounts of the two arenas.
    for_requests: Account,
    for_replies: Account,
    asked: NeedState,
    /// The number of the next segment; no number is used twice.
    next: u64,
    /// The budget of each arena, in bytes.
    budget: u64,
    is_trusted: bool,
    /// Why the system last refused a segment.
    refused: [u64; 2],
    /// The control socket was full, and has not been found to have room since.
    is_socket_full: bool,
    /// Segments that the child is to unmap as soon as it can be told.
    untold: Vec<u64>,
}

/// How far the answer to the child's `Need` has come.
///
/// | from | to | when |
/// |---|---|---|
/// | Nothing | Waiting | all memory is in use, but some is being released |
/// | Nothing, Waiting | Granted | the child has been sent a segment |
/// | Nothing, Waiting | Nothing | the child has been told that there is none, or is trusted and was sent a segment |
/// | Granted | Sealing | the child says that it has mapped it |
/// | Granted | Nothing | the child gives it back |
/// | Sealing | Nothing | it is sealed, and the child has been told |
///
/// A healthy child asks again only after the answer, so at most one descriptor is kept.
enum NeedState {
    Nothing,
    /// The number of bytes asked for.
    Waiting(u64),
    Granted(UnsealedSegment),
    Sealing,
}

/// A segment that frames may not name yet.
struct UnsealedSegment {
    segment: u64,
    mapping: Arc<Mapping>,
    object: Option<OwnedFd>,
}

/// The arena that a segment belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ArenaSide {
    Requests,
    Replies,
}

impl Books {
    fn account(&mut self, side: ArenaSide) -> &mut Account {
        match side {
            ArenaSide::Requests => &mut self.for_requests,
            ArenaSide::Replies => &mut self.for_replies,
        }
    }

    /// Creates a segment of `len` bytes for the arena of `side`. `owner` is told when it is released.
    fn create(&mut self, len: u64, side: ArenaSide, owner: Weak<dyn Releasing>) -> Created {
        let (budget, is_trusted, account) = (self.budget, self.is_trusted, self.account(side));
        if len > budget {
            return Err(NoMemory::TooLarge { len, max: budget });
        }
        if len > budget.saturating_sub(account.bytes()) || account.count() >= MAX_SEGMENTS {
            return Err(NoMemory::Exhausted { len, budget });
        }
        // A trusted child reads in place what it may keep, and gives back what it may write.
        let access =
            if is_trusted || side == ArenaSide::Replies { Protection::ReadWrite } else { Protection::ReadOnly };
        let segment = self.next;
        let created = self.backing.create(segment, len as usize, access);
        let (mapping, object) = created.map_err(|error| {
            self.refused = limits::packed(&error, Wanted::Memory);
            let limit = limits::behind(&error, Wanted::Memory);
            NoMemory::Failed { why: format!("no memory for a payload of {len} bytes{limit}: {error}") }
        })?;
        self.next += 1;
        let until = Until::of(object.as_ref(), is_trusted, owner, segment);
        self.account(side).add(segment, len, until);
        Ok((segment, Arc::new(mapping), object))
    }
}

type Created = Result<(u64, Arc<Mapping>, Option<OwnedFd>), NoMemory>;

impl Link {
    pub fn new(pid: u32, pidfd: Pidfd, control: OwnedFd, segment: &Segment, shared: LinkParts) -> Arc<Self> {
        let LinkParts { memory, backing, bells, kept } = shared;
        let pool = MemoryPool::new(memory.limits(), segment.held_by_child(), segment.held_by_parent());
        let peer = Peer::new(PeerParts {
            pid,
            max_payload: memory.max_payload,
            trust: memory.trust,
            peer_status: PeerStatus::new(bells.alarm),
            bells: bells.bells,
            kept,
        });
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            peer: Arc::new(peer),
            retained: memory.retained,
            pidfd,
            control: Control::new(control.into()),
            pool: CachePadded::new(Mutex::new(pool)),
            came_back: Condvar::new(),
            reclaim: Reclaim::new(),
            last_words: segment.last_words(),
            ring: bells.ring,
            reactive: OnceLock::new(),
            books: CachePadded::new(Mutex::new(Books {
                backing,
                replies: HashMap::new(),
                for_requests: Account::default(),
                for_replies: Account::default(),
                asked: NeedState::Nothing,
                next: 1,
                budget: memory.total / 2,
                is_trusted: memory.trust.is_some(),
                refused: [0; 2],
                is_socket_full: false,
                untold: Vec::new(),
            })),
        })
    }

    /// What the child rings.
    pub(crate) fn shared_ring(&self) -> Arc<Aside> {
        self.ring.clone()
    }

    /// Has `reactive` look when the child rings, or has ended.
    pub(crate) fn react_with(&self, reactive: Weak<dyn Reactive>) {
        let _ = self.reactive.set(reactive);
    }

    /// Kills the child. One that this process may not kill (it has dropped privileges, or the child runs as another user) learns of it by the end of
    /// the control socket: its control thread ends it, whatever its service is doing.
    pub fn put_an_end(&self) {
        if self.peer.peer_status.exit().is_some() {
            return;
        }
        if self.pidfd.kill().is_err() {
            if self.peer.peer_status.note_kill_refused() {
                self.control.shut_down_aside();
            }
            return;
        }
        self.peer.peer_status.condemn();
        // If the kernel holds back its end, the watcher must notice.
        let _ = watcher::expect_end();
    }

    /// Notes that memory has been used. If idle memory exceeds `retained`, has the watcher look again in a while.
    fn used_now(&self, is_untidy: bool) {
        let is_untidy = is_untidy || self.books.lock().for_replies.bytes_in_use() > self.retained;
        if is_untidy {
            self.reclaim.used();
        }
    }

    /// Sends the child a message. A child that is gone needs none: its death arrives by another way, and says more. A child that makes sending slow
    /// is killed. Not to be called with the books locked, which the watcher and other callers need.
    fn tell(&self, message: Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.control.send(message, descriptor) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if self.control.is_slow() => {
                self.end(Cause::Corrupt(control::SLOW));
                Err(error)
            }
            sent => sent,
        }
    }
}

impl Releasing for Link {
    fn released(&self, segment: u64) {
        let mut books = self.books.lock();
        books.for_replies.released(segment);
        books.for_requests.released(segment);
        drop(books);
        self.came_back.notify_all();
        self.grant_late();
    }
}

/// Drops mappings; many of them on a thread of their own, as [`Mapping`] does with a large one. Unmapping gigabytes takes a while, and the watcher
/// has other children.
pub fn unmap(mappings: Vec<Arc<Mapping>>) {
    let len: usize = mappings.iter().map(|mapping| mapping.len()).filter(|&len| len <= QUICKLY_UNMAPPED).sum();
    if len > QUICKLY_UNMAPPED {
        // If no thread can be started, they are dropped here.
        let _ = thread::Builder::new().name("callgate-unmap".into()).spawn(move || drop(mappings));
    }
}

impl Watched for Link {
    fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Reads one message, because the watcher counts them.
    fn read_control(&self) -> bool {
        let makes_sense = match self.control.receive(BlockingMode::No) {
            Ok(Some((message, descriptor))) => self.handle_message(message, descriptor),
            // The child has closed its end: it is dying, or has dropped what keeps it alive.
            Ok(None) => return false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if self.control.is_slow() {
            self.peer.peer_status.blame(Cause::Corrupt(control::SLOW));
            return false;
        }
        if !makes_sense {
            self.peer.peer_status.blame(Cause::Corrupt("an invalid control message"));
        }
        makes_sense
    }

    fn take_cost(&self) -> Duration {
        self.control.take_cost()
    }

    fn give_up(&self) -> bool {
        self.put_an_end();
        true
    }

    fn is_being_killed(&self) -> bool {
        self.peer.peer_status.is_being_killed()
    }

    fn is_overdue(&self) -> bool {
        self.peer.peer_status.is_overdue()
    }

    fn tidy(&self) -> bool {
        let is_waited_for = self.grant_late();
        match self.reclaim.look() {
            Look::Now => {}
            look => return look == Look::Later || is_waited_for,
        }
        if self.control.is_slow() {
            return false;
        }
        match self.pool.try_lock() {
            Some(mut pool) => unmap(pool.tidy(&mut TellChild(self))),
            None => self.reclaim.again(),
        }
        TellChild(self).has_caught_up();
        if self.books.lock().for_replies.bytes_in_use() > self.retained {
            // A child whose socket is full has enough to read.
            let _ = self.tell(Message::Tidy, None);
            failpoints::reach(Step::ParentTidySent);
        }
        self.reclaim.is_untidy() || is_waited_for
    }

    fn ended(&self, exit: Exit) {
        failpoints::reach(Step::ParentReaped);
        // First, so that a thread which waits for the end finds no name left.
        self.books.lock().backing.peer_ended();
        if let Some(words) = last_words::read(&self.last_words, exit) {
            self.peer.peer_status.quote(words);
        }
        self.peer.peer_status.end(exit);
        self.rung();
        failpoints::reach(Step::ParentEnded);
    }

    fn ring(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn rung(&self) -> bool {
        let reactive = self.reactive.get().and_then(Weak::upgrade);
        reactive.is_some_and(|reactive| reactive.react())
    }
}

/// Called when its grace is over.
impl Due for Link {
    fn is_due(&self) -> Option<Instant> {
        self.put_an_end();
        None
    }
}

impl PeerLink for Link {
    /// The watcher will report its end.
    fn end(&self, cause: Cause) {
        self.peer.peer_status.blame(cause);
        self.put_an_end();
    }

    fn kill(&self, because: &str) {
        self.peer.peer_status.explain(because);
        self.put_an_end();
    }

    fn kill_after(&self, time: Duration) {
        let at = Instant::now() + time.min(LONGEST_GRACE);
        let itself = self.itself.clone();
        if watcher::look_at(itself, at).is_err() {
            // Without a watcher nobody would ever look.
            self.put_an_end();
        }
    }

    #[cold]
    fn used(&self) {
        self.used_now(false);
    }
}

/// The source of new memory for requests, which tells the child of it.
struct TellChild<'a>(&'a Link);
