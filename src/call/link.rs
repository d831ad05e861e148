//! The parent's hold on one child: its process, its control socket, and the memory that large payloads lie in.
//!
//! Everything that the child sends over the control socket arrives here, on the watcher's thread, and is trusted in nothing.

#![forbid(unsafe_code)]

use super::account::{Account, Until};
use super::last_words;
use super::peer::{Peer, PeerLink, PeerParts};
use super::reclaim::{Look, Reclaim};
use crate::arena::{Allocation, Limits, Source};
use crate::backing::Backing;
use crate::commit::BlockRef;
use crate::control::{self, Control, Message};
use crate::decoder::TrustedPeer;
use crate::doorbell::Deadline;
use crate::error::{Exit, NoMemory};
use crate::failpoints::{self, Step};
use crate::layout::LastWords;
use crate::memory_pool::{MemoryPool, PoolHandle};
use crate::peer_status::{Cause, PeerStatus};
use crate::process::Report;
use crate::process::watch::{self, Due, Releasing, Watched};
use crate::segment::{Block, Placed, Segment};
use crate::sys::close::Aside;
use crate::sys::limits::{self, Wanted};
use crate::sys::mapping::{Mapping, Protection, QUICKLY_UNMAPPED};
use crate::sys::memfd;
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::{self, BlockingMode};
use crate::wake::ParentBells;
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Segments that each side of a bridge may have at a time, whatever their size.
const MAX_SEGMENTS: usize = 4096;

/// How long a call that waits for memory waits between two looks at whether the child has given any back.
const MEMORY_SLICE: Duration = Duration::from_millis(1);

/// No child is given more time than this to end: so much can be added to any point in time.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The parent's hold on one child.
pub(crate) struct Link {
    itself: Weak<Self>,
    pub(crate) peer: Arc<Peer>,
    retained: u64,
    pidfd: Pidfd,
    control: Control<Aside>,
    /// The memory of requests and boxes. Locked before the books, never after them.
    pool: CachePadded<Mutex<MemoryPool>>,
    /// Rung when something has come back into the pool.
    came_back: Condvar,
    books: CachePadded<Mutex<Books>>,
    reclaim: Reclaim,
    last_words: Placed<LastWords>,
}

/// What a bridge shares with its child, beside the control socket.
pub(crate) struct LinkParts {
    pub(crate) memory: MemoryOptions,
    pub(crate) backing: Arc<dyn Backing>,
    pub(crate) bells: ParentBells,
    /// What has come of its sandbox.
    pub(crate) report: Option<Report>,
}

/// What memory a bridge may have for large payloads, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryOptions {
    pub(crate) max_payload: u64,
    /// What both sides together may have: each has half, so that neither can take the other's.
    pub(crate) total: u64,
    /// What each side may keep idle.
    pub(crate) retained: u64,
    /// The programmer's word for the child.
    pub(crate) trust: Option<TrustedPeer>,
}

impl MemoryOptions {
    pub(crate) fn limits(&self) -> Limits {
        Limits { max_payload: self.max_payload, retained: self.retained }
    }
}

/// Every segment of this bridge beside the first.
struct Books {
    backing: Arc<dyn Backing>,
    /// Segments that the child's arena, for replies, was given, and that frames may name.
    replies: HashMap<u64, Arc<Mapping>>,
    /// What the segments of either arena come to.
    for_requests: Account,
    for_replies: Account,
    asked: NeedState,
    /// The number of the next segment; numbers are never used again.
    next: u64,
    /// Bytes that the segments of either arena may have together.
    budget: u64,
    is_trusted: bool,
    /// Why the system last refused a segment.
    refused: [u64; 2],
}

fn lack([error, limit]: [u64; 2]) -> Message {
    Message::Lack { error, limit }
}

/// What has become of the child's `Need`.
///
/// | from | to | when |
/// |---|---|---|
/// | Nothing | Waiting | all memory is in use, but some is being released |
/// | Nothing, Waiting | Granted | the child has been sent a segment |
/// | Nothing, Waiting | Nothing | the child has been told that there is none, or is trusted with what it was sent |
/// | Granted | Sealing | the child says that it has mapped it |
/// | Granted | Nothing | the child gives it back |
/// | Sealing | Nothing | it is sealed, and the child has been told |
///
/// A healthy child asks again only after the answer, so that there is never more than one descriptor to keep.
enum NeedState {
    Nothing,
    /// For so many bytes.
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

/// For whom a segment is.
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

    /// Creates a segment of `len` bytes for the arena of `side`, of which `owner` is told when it is released.
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
    pub(crate) fn new(pid: u32, pidfd: Pidfd, control: OwnedFd, segment: &Segment, shared: LinkParts) -> Arc<Self> {
        let LinkParts { memory, backing, bells, report } = shared;
        let pool = MemoryPool::new(memory.limits(), segment.held_by_child(), segment.held_by_parent());
        let peer = Peer::new(PeerParts {
            pid,
            max_payload: memory.max_payload,
            trust: memory.trust,
            peer_status: PeerStatus::new(bells.alarm),
            bells: bells.bells,
            door: bells.door,
            report,
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
            })),
        })
    }

    /// Kills the child. One that this process may not kill (it has given up the rights that it had, or the child has another user) is told to
    /// end by the end of the control socket: its control thread ends it, whatever its service is at.
    pub(crate) fn put_an_end(&self) {
        if self.peer.peer_status.exit().is_some() {
            return;
        }
        if self.pidfd.kill().is_err() {
            if self.peer.peer_status.resist() {
                self.control.shut_down_aside();
            }
            return;
        }
        self.peer.peer_status.condemn();
        // Where its end is held back, somebody must notice that.
        let _ = watch::expect_end();
    }

    /// Notes that memory has been used. If there is more than may be kept when it is not, has the watcher look in a while.
    fn used_now(&self, is_untidy: bool) {
        let is_untidy = is_untidy || self.books.lock().for_replies.bytes_in_use() > self.retained;
        if is_untidy {
            self.reclaim.used();
        }
    }

    /// Sends the child a message. One that is gone needs none: its death arrives by another way, and says more. One that makes this slow is
    /// killed. Not with the books locked, which the watcher needs, and other callers do.
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

    /// Carries out one message of the child. `false` = no healthy child sends this.
    fn handle_message(&self, message: Message, descriptor: Option<OwnedFd>) -> bool {
        match message {
            // A child never supplies memory.
            _ if descriptor.is_some() => {
                socket::discard(descriptor.into_iter().collect());
                false
            }
            Message::Need { len: 0 } => false,
            Message::Need { len } => self.heed_need(len),
            Message::Mapped { segment } => self.heed_mapped(segment),
            Message::Detach { segment } => {
                let mut books = self.books.lock();
                let mut mapping = books.replies.remove(&segment);
                if let NeedState::Granted(granted) = &books.asked
                    && granted.segment == segment
                {
                    mapping = Some(granted.mapping.clone());
                    books.asked = NeedState::Nothing;
                }
                let known = books.for_replies.given_back(segment) && mapping.is_some();
                drop(books);
                unmap(mapping.into_iter().collect());
                failpoints::reach(Step::ParentDetachHeard);
                known
            }
            Message::Attach { .. }
            | Message::Grant { .. }
            | Message::Sealed { .. }
            | Message::Deny { .. }
            | Message::Exhausted { .. }
            | Message::Lack { .. }
            | Message::Begin { .. }
            | Message::Tidy => false,
        }
    }

    /// Answers a child that needs memory for a reply. One that asks before it has taken the last answer gets none.
    fn heed_need(&self, len: u64) -> bool {
        failpoints::reach(Step::ParentNeedHeard);
        let books = self.books.lock();
        let (budget, is_free) = (books.budget, matches!(books.asked, NeedState::Nothing));
        drop(books);
        // On the watcher's thread, which alone changes that.
        match is_free {
            true => self.grant(len),
            false if len > budget => self.tell(Message::Deny { len, max: budget }, None),
            false => self.tell(Message::Exhausted { len, budget }, None),
        }
        .is_ok()
    }

    /// Nothing is held while the child is told: that may take long.
    fn grant(&self, len: u64) -> io::Result<()> {
        let mut books = self.books.lock();
        books.asked = NeedState::Nothing;
        match books.create(len, ArenaSide::Replies, self.itself.clone()) {
            Ok((segment, mapping, object)) => {
                failpoints::reach(Step::ParentReplySegmentCreated);
                let sent = object.as_ref().map(AsFd::as_fd).map(|object| object.try_clone_to_owned()).transpose();
                // First, so that who is sent the first reply in it finds it.
                if books.is_trusted {
                    books.replies.insert(segment, mapping);
                } else {
                    books.asked = NeedState::Granted(UnsealedSegment { segment, mapping, object });
                }
                drop(books);
                let granted =
                    sent.and_then(|object| self.tell(Message::Grant { segment }, object.as_ref().map(AsFd::as_fd)));
                if let Err(error) = granted {
                    // It has been told, and may have answered there already.
                    if self.control.is_slow() {
                        return Err(error);
                    }
                    // Not the child's doing: with too many descriptors of this user under way, the kernel takes no more.
                    let mut books = self.books.lock();
                    books.asked = NeedState::Nothing;
                    books.for_replies.forget(segment);
                    books.replies.remove(&segment);
                    drop(books);
                    return self.tell(lack(limits::packed(&error, Wanted::Memory)), None);
                }
                failpoints::reach(Step::ParentGranted);
                Ok(())
            }
            Err(NoMemory::Exhausted { .. }) if books.for_replies.is_being_released() => {
                books.asked = NeedState::Waiting(len);
                // Without a watcher nobody acts on this.
                let _ = watch::tidy_soon();
                Ok(())
            }
            Err(why) => {
                let refused = books.refused;
                drop(books);
                match why {
                    NoMemory::TooLarge { len, max } => self.tell(Message::Deny { len, max }, None),
                    NoMemory::Exhausted { len, budget } => self.tell(Message::Exhausted { len, budget }, None),
                    NoMemory::Failed { .. } | NoMemory::Late { .. } => self.tell(lack(refused), None),
                }
            }
        }
    }

    /// Answers a child that waits for memory, if there is any by now, or too little is being released. Whether it goes on waiting.
    fn grant_late(&self) -> bool {
        let NeedState::Waiting(len) = self.books.lock().asked else { return false };
        if self.grant(len).is_err() {
            self.end(Cause::Corrupt("it does not read what it asks for"));
            return false;
        }
        matches!(self.books.lock().asked, NeedState::Waiting(_))
    }

    /// Seals what the child was granted and has mapped, and tells it. `false` = it was granted no such thing.
    fn heed_mapped(&self, segment: u64) -> bool {
        let mut books = self.books.lock();
        match std::mem::replace(&mut books.asked, NeedState::Sealing) {
            NeedState::Granted(granted) if granted.segment == segment => {
                drop(books);
                self.seal(granted);
                true
            }
            other => {
                books.asked = other;
                false
            }
        }
    }

    /// On a thread of its own: a child that makes holes meanwhile keeps that waiting, and not the watcher.
    fn seal(&self, UnsealedSegment { segment, mapping, object }: UnsealedSegment) {
        let Some(object) = object else { return self.sealed(segment, mapping) };
        let (Some(me), seal) = (self.itself.upgrade(), thread::Builder::new().name("callgate-seal".into())) else {
            return;
        };
        let spawned = seal.spawn(move || match memfd::seal(object) {
            Ok(()) => me.sealed(segment, mapping),
            Err(_) => me.end(Cause::Corrupt("it has sealed memory that is not its own")),
        });
        if let Err(error) = spawned {
            let mut books = self.books.lock();
            books.asked = NeedState::Nothing;
            books.for_replies.given_back(segment);
            drop(books);
            let _ = self.tell(lack(limits::packed(&error, Wanted::Task)), None);
        }
    }

    /// Frames may name the segment from now on.
    fn sealed(&self, segment: u64, mapping: Arc<Mapping>) {
        let mut books = self.books.lock();
        books.asked = NeedState::Nothing;
        books.replies.insert(segment, mapping);
        drop(books);
        // A child whose socket is full has too much to read to ever find this.
        if self.tell(Message::Sealed { segment }, None).is_err() {
            self.end(Cause::Corrupt("it does not read what it asks for"));
        }
        failpoints::reach(Step::ParentSealed);
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

/// Drops mappings, many of them on a thread of their own, as [`Mapping`] does with a large one: to undo gigabytes takes a while, and the watcher
/// has other children.
pub(super) fn unmap(mappings: Vec<Arc<Mapping>>) {
    let len: usize = mappings.iter().map(|mapping| mapping.len()).filter(|&len| len <= QUICKLY_UNMAPPED).sum();
    if len > QUICKLY_UNMAPPED {
        // If there is no thread to be had, they are dropped here.
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

    /// One message: the watcher counts them.
    fn read_control(&self) -> bool {
        let makes_sense = match self.control.receive(BlockingMode::No) {
            Ok(Some((message, descriptor))) => self.handle_message(message, descriptor),
            // The child's end is closed: it is dying, or has let go of what it lives by.
            Ok(None) => return false,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if self.control.is_slow() {
            self.peer.peer_status.blame(Cause::Corrupt(control::SLOW));
            return false;
        }
        if !makes_sense {
            self.peer.peer_status.blame(Cause::Corrupt("a control message that makes no sense"));
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

    fn is_condemned(&self) -> bool {
        self.peer.peer_status.is_condemned()
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
        if self.books.lock().for_replies.bytes_in_use() > self.retained {
            // One whose socket is full has enough to read.
            let _ = self.tell(Message::Tidy, None);
            failpoints::reach(Step::ParentTidySent);
        }
        self.reclaim.is_untidy() || is_waited_for
    }

    fn ended(&self, exit: Exit) {
        failpoints::reach(Step::ParentReaped);
        // First, so that whoever waits for the end finds no name any more.
        self.books.lock().backing.peer_ended();
        if let Some(words) = last_words::read(&self.last_words, exit) {
            self.peer.peer_status.quote(words);
        }
        self.peer.peer_status.end(exit);
        failpoints::reach(Step::ParentEnded);
    }
}

/// Its grace is over.
impl Due for Link {
    fn is_due(&self) -> Option<Instant> {
        self.put_an_end();
        None
    }
}

impl PeerLink for Link {
    /// The watcher will say when it is gone.
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
        if watch::look_at(itself, at).is_err() {
            // Nobody would ever look.
            self.put_an_end();
        }
    }

    #[cold]
    fn used(&self) {
        self.used_now(false);
    }
}

impl PoolHandle for Link {
    #[cold]
    fn with(&self, run: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        let mut pool = self.pool.lock();
        run(&mut pool, &mut TellChild(self));
        let is_untidy = pool.is_untidy();
        drop(pool);
        self.came_back.notify_all();
        self.used_now(is_untidy);
    }

    /// Without a deadline, waits only for what comes back by itself: for the frames of other calls, and for what is being released.
    #[cold]
    fn find(
        &self,
        deadline: Deadline,
        allocate: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source) -> Result<Allocation, NoMemory>,
    ) -> Result<Allocation, NoMemory> {
        let mut pool = self.pool.lock();
        loop {
            let found = allocate(&mut pool, &mut TellChild(self));
            let may_wait = match deadline.left() {
                Some(left) => !left.is_zero(),
                None => pool.has_frames_under_way() || self.books.lock().for_requests.is_being_released(),
            };
            if !matches!(found, Err(NoMemory::Exhausted { .. })) || !may_wait || self.peer.peer_status.is_over() {
                drop(pool);
                return found;
            }
            let slice = Instant::now() + MEMORY_SLICE;
            let until = deadline.instant().map_or(slice, |deadline| deadline.min(slice));
            self.came_back.wait_until(&mut pool, until);
        }
    }

    /// The block that a reply names, if it lies wholly in a segment that the child was given and is no longer than allowed.
    fn peer_block(&self, block: BlockRef) -> Option<Block> {
        if block.len > self.peer.max_payload {
            return None;
        }
        let mapping = self.books.lock().replies.get(&block.segment).cloned()?;
        Block::new(&mapping, block.offset, block.len)
    }

    fn trusts_peer(&self) -> bool {
        self.peer.trust.is_some()
    }

    /// Children read requests in place, but this is about replies.
    fn is_trusted_by_peer(&self) -> bool {
        false
    }

    fn is_in_fork(&self) -> bool {
        self.peer.is_in_fork()
    }
}

/// New memory for requests, of which the child is told.
struct TellChild<'a>(&'a Link);

impl Source for TellChild<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        let mut books = self.0.books.lock();
        let (segment, mapping, object) = books.create(len, ArenaSide::Requests, self.0.itself.clone())?;
        drop(books);
        failpoints::reach(Step::ParentSegmentCreated);
        if let Err(error) = self.0.tell(Message::Attach { segment }, object.as_ref().map(AsFd::as_fd)) {
            // A child that makes this slow may have it, and is killed for that.
            if !self.0.control.is_slow() {
                self.0.books.lock().for_requests.forget(segment);
            }
            return Err(NoMemory::Failed { why: format!("the child takes no memory for the request: {error}") });
        }
        failpoints::reach(Step::ParentAttachSent);
        Ok((segment, mapping))
    }

    fn shrink(&mut self, segment: u64) {
        self.0.books.lock().for_requests.given_back(segment);
        // A child whose socket is full keeps its mapping until the bridge ends.
        let _ = self.0.tell(Message::Detach { segment }, None);
        failpoints::reach(Step::ParentDetachSent);
    }
}
