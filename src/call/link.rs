//! The parent's hold on one child: its process, its control socket, and the memory that large payloads lie in.
//!
//! Everything that the child sends over the control socket arrives here, on the watcher's thread, and is trusted in nothing.

#![forbid(unsafe_code)]

use crate::arena::{Limits, Loan, Source};
use crate::control::{Control, Message};
use crate::doorbell::Deadline;
use crate::error::{Exit, NoMemory};
use crate::frame::{BlockRef, TrustedPeer};
use crate::layout::Header;
use crate::life::{Cause, Life};
use crate::objects::Objects;
use crate::process::watch::Watched;
use crate::segment::{Block, Placed, Segment};
use crate::signal::{Bells, Door, ParentBells};
use crate::stock::{Home, Stock};
use crate::sync::Ordering::{AcqRel, Relaxed};
use crate::sys::fork;
use crate::sys::mapping::{Access, Mapping};
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::Blocking;
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Segments that one bridge may have at a time, whatever their size.
const MAX_SEGMENTS: usize = 1024;

/// Control messages that are read in one go; a child that floods the socket must not keep the watcher from the others.
const MESSAGES_PER_TURN: usize = 16;

/// How long a call that waits for memory waits between two looks at whether the child has given any back.
const MEMORY_SLICE: Duration = Duration::from_millis(1);

/// The parent's hold on one child.
pub(crate) struct Link {
    pub(crate) pid: u32,
    /// The longest payload, in bytes.
    pub(crate) max_payload: u64,
    retained: u64,
    /// The programmer's word for the child.
    pub(crate) trust: Option<TrustedPeer>,
    /// The process that holds on; forks of it must not touch what the two share.
    generation: u32,
    pub(crate) life: Life,
    pub(crate) bells: Bells,
    pub(crate) door: Option<Door>,
    pidfd: Pidfd,
    control: Control,
    /// Where the child is told that there is something to take back.
    header: Placed<Header>,
    /// The memory of requests and boxes. On lines of its own, like the books: every call of every thread reads what stands above.
    /// Held while the books are, never the other way round.
    stock: CachePadded<Mutex<Stock>>,
    /// Rung when something has come back into the stock.
    came_back: Condvar,
    books: CachePadded<Mutex<Books>>,
}

/// What a bridge shares with its child, beside the control socket.
pub(crate) struct Shared {
    pub(crate) memory: MemoryOptions,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) bells: ParentBells,
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
    objects: Arc<dyn Objects>,
    /// Segments that the child's arena, for replies, was given.
    replies: HashMap<u64, Arc<Mapping>>,
    /// Bytes of the segments of either arena.
    request_lens: HashMap<u64, u64>,
    reply_lens: HashMap<u64, u64>,
    /// The number of the next segment; numbers are never used again.
    next: u64,
    /// Bytes that the segments of either arena may have together.
    budget: u64,
    /// What the child may do with the segments of requests.
    access: Access,
}

impl Books {
    /// Creates a segment of `len` bytes for an arena that has segments of `lens`.
    fn create(&mut self, len: u64, of: fn(&mut Self) -> &mut HashMap<u64, u64>, access: Access) -> Created {
        let (budget, segments) = (self.budget, self.request_lens.len() + self.reply_lens.len());
        let used: u64 = of(self).values().sum();
        if len > budget {
            return Err(NoMemory::TooLarge { len, max: budget });
        }
        if len > budget - used {
            return Err(NoMemory::Exhausted { len, budget });
        }
        if segments >= MAX_SEGMENTS {
            let why = format!("the bridge has {MAX_SEGMENTS} segments for large payloads already");
            return Err(NoMemory::Failed { why });
        }
        let segment = self.next;
        let created = self.objects.create(segment, len as usize, access);
        let (mapping, object) = created
            .map_err(|error| NoMemory::Failed { why: format!("no memory for a payload of {len} bytes: {error}") })?;
        self.next += 1;
        of(self).insert(segment, len);
        Ok((segment, Arc::new(mapping), object))
    }
}

type Created = Result<(u64, Arc<Mapping>, Option<OwnedFd>), NoMemory>;

impl Link {
    pub(crate) fn new(pid: u32, pidfd: Pidfd, control: OwnedFd, segment: &Segment, shared: Shared) -> Self {
        let Shared { memory, objects, bells } = shared;
        let stock = Stock::new(memory.limits(), segment.held_by_child(), segment.held_by_parent());
        fork::count_forks();
        Self {
            pid,
            max_payload: memory.max_payload,
            retained: memory.retained,
            trust: memory.trust,
            generation: fork::generation(),
            life: Life::new(bells.alarm),
            bells: bells.bells,
            door: bells.door,
            pidfd,
            control: Control::new(control),
            header: segment.header(),
            stock: CachePadded::new(Mutex::new(stock)),
            came_back: Condvar::new(),
            books: CachePadded::new(Mutex::new(Books {
                objects,
                replies: HashMap::new(),
                request_lens: HashMap::new(),
                reply_lens: HashMap::new(),
                next: 1,
                budget: memory.total / 2,
                access: if memory.trust.is_some() { Access::ReadWrite } else { Access::ReadOnly },
            })),
        }
    }

    /// Whether this process is a fork of the one that started the child. It has no watcher, and its calls would be written over
    /// those of the process that it was forked from.
    #[inline]
    pub(crate) fn is_in_fork(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Has the child killed, for `cause`. The watcher will say when it is gone.
    pub(crate) fn kill(&self, cause: Cause) {
        self.life.blame(cause);
        self.pidfd.kill();
    }

    /// The block that a reply names, if it lies wholly in a segment that the child was given and is no longer than allowed.
    pub(crate) fn reply_block(&self, block: BlockRef) -> Option<Block> {
        if block.len > self.max_payload {
            return None;
        }
        let mapping = self.books.lock().replies.get(&block.segment).cloned()?;
        Block::new(&mapping, block.offset, block.len)
    }

    /// Has the child take back what it may keep no longer, if it has more than it may keep idle. It would, at its next large reply.
    pub(crate) fn nudge(&self) {
        let has: u64 = self.books.lock().reply_lens.values().sum();
        // One message until the child has heeded it: many would fill the socket. AcqRel: what is let go is seen to be by the child that
        // clears the word after this. Pairs with the swap in `PayloadMemory::collect_if_asked`.
        let is_to_be_told = has > self.retained && self.header.collect.swap(1, AcqRel) == 0;
        if is_to_be_told && self.tell(Message::Collect, None).is_err() {
            // Relaxed: nothing has been told, so that the next one tries again.
            self.header.collect.store(0, Relaxed);
        }
    }

    /// Sends the child a message. One that is gone needs none: its death arrives by another way, and says more.
    fn tell(&self, message: Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.control.send(message, descriptor) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// Carries out one message of the child. `false` = no healthy child sends this.
    fn heed(&self, message: Message, descriptor: Option<OwnedFd>) -> bool {
        match message {
            // A child never supplies memory; the descriptor is closed.
            _ if descriptor.is_some() => false,
            Message::Need { len: 0 } => false,
            Message::Need { len } => self.grant(len).is_ok(),
            Message::Detach { segment } => {
                let mut books = self.books.lock();
                let known = books.replies.remove(&segment).is_some();
                books.reply_lens.remove(&segment).is_some() && known
            }
            Message::Attach { .. }
            | Message::Grant { .. }
            | Message::Deny { .. }
            | Message::Exhausted { .. }
            | Message::Lack
            | Message::Collect => false,
        }
    }

    /// Answers a child that needs memory for a reply.
    fn grant(&self, len: u64) -> io::Result<()> {
        let mut books = self.books.lock();
        match books.create(len, |books| &mut books.reply_lens, Access::ReadWrite) {
            Ok((segment, mapping, object)) => {
                books.replies.insert(segment, mapping);
                self.tell(Message::Grant { segment }, object.as_ref().map(AsFd::as_fd))
            }
            Err(NoMemory::TooLarge { len, max }) => self.tell(Message::Deny { len, max }, None),
            Err(NoMemory::Exhausted { len, budget }) => self.tell(Message::Exhausted { len, budget }, None),
            Err(NoMemory::Failed { .. }) => self.tell(Message::Lack, None),
        }
    }
}

impl Watched for Link {
    fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    fn read_control(&self) -> bool {
        for _ in 0..MESSAGES_PER_TURN {
            let makes_sense = match self.control.receive(Blocking::No) {
                Ok(Some((message, descriptor))) => self.heed(message, descriptor),
                // The child's end is closed: it is dying, or has let go of what it lives by.
                Ok(None) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => false,
            };
            if !makes_sense {
                self.life.blame(Cause::Corrupt("a control message that makes no sense"));
                return false;
            }
        }
        true
    }

    fn ended(&self, exit: Exit) {
        // First, so that whoever waits for the end finds no name any more.
        self.books.lock().objects.peer_ended();
        self.life.end(exit);
    }
}

impl Home for Link {
    #[cold]
    fn with(&self, run: &mut dyn FnMut(&mut Stock, &mut dyn Source)) {
        run(&mut self.stock.lock(), &mut TellChild(self));
        self.came_back.notify_all();
    }

    /// Without a deadline, waits only for what comes back by itself: for the frames of other calls.
    #[cold]
    fn find(
        &self,
        deadline: Deadline,
        allocate: &mut dyn FnMut(&mut Stock, &mut dyn Source) -> Result<Loan, NoMemory>,
    ) -> Result<Loan, NoMemory> {
        let mut stock = self.stock.lock();
        loop {
            let found = allocate(&mut stock, &mut TellChild(self));
            let may_wait = match deadline.left() {
                Some(left) => !left.is_zero(),
                None => stock.has_frames_under_way(),
            };
            if !matches!(found, Err(NoMemory::Exhausted { .. })) || !may_wait || self.life.is_over() {
                return found;
            }
            let slice = Instant::now() + MEMORY_SLICE;
            let until = deadline.instant().map_or(slice, |deadline| deadline.min(slice));
            self.came_back.wait_until(&mut stock, until);
        }
    }

    fn peer_block(&self, block: BlockRef) -> Option<Block> {
        self.reply_block(block)
    }

    fn has_let_go(&self) {
        self.nudge();
    }

    fn trusts_peer(&self) -> bool {
        self.trust.is_some()
    }

    fn is_in_fork(&self) -> bool {
        Link::is_in_fork(self)
    }
}

/// New memory for requests, of which the child is told.
struct TellChild<'a>(&'a Link);

impl Source for TellChild<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        let mut books = self.0.books.lock();
        let access = books.access;
        let (segment, mapping, object) = books.create(len, |books| &mut books.request_lens, access)?;
        if let Err(error) = self.0.tell(Message::Attach { segment }, object.as_ref().map(AsFd::as_fd)) {
            books.request_lens.remove(&segment);
            return Err(NoMemory::Failed { why: format!("the child takes no memory for the request: {error}") });
        }
        Ok((segment, mapping))
    }

    fn shrink(&mut self, segment: u64) {
        self.0.books.lock().request_lens.remove(&segment);
        // A child whose socket is full keeps its mapping until the bridge ends.
        let _ = self.0.tell(Message::Detach { segment }, None);
    }
}
