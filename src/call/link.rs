//! The parent's hold on one child: its process, its control socket, and the memory that large payloads lie in.
//!
//! Everything that the child sends over the control socket arrives here, on the watcher's thread, and is trusted in nothing.

#![forbid(unsafe_code)]

use crate::arena::{Arena, NoRoom, RETAINED, Source};
use crate::control::{Control, Message};
use crate::error::Exit;
use crate::frame::BlockRef;
use crate::lane::Memory;
use crate::life::{Cause, Life};
use crate::objects::Objects;
use crate::process::watch::Watched;
use crate::segment::Block;
use crate::signal::{Bells, Door, ParentBells};
use crate::sys::fork;
use crate::sys::mapping::Mapping;
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::Blocking;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Segments that one bridge may have at a time, whatever their size.
const MAX_SEGMENTS: usize = 1024;

/// Control messages that are read in one go; a child that floods the socket must not keep the watcher from the others.
const MESSAGES_PER_TURN: usize = 16;

/// The parent's hold on one child.
pub(crate) struct Link {
    pub(crate) pid: u32,
    /// The longest payload, in bytes.
    max_payload: u64,
    /// The process that holds on; forks of it must not touch what the two share.
    generation: u32,
    pub(crate) life: Life,
    pub(crate) bells: Bells,
    pub(crate) door: Option<Door>,
    pidfd: Pidfd,
    control: Control,
    /// The arena for requests. Not held while the books are waited for. On lines of its own, like the books: every call of every
    /// thread reads what stands above.
    requests: CachePadded<Mutex<Arena>>,
    books: CachePadded<Mutex<Books>>,
}

/// What a bridge shares with its child, beside the control socket.
pub(crate) struct Shared {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) bells: ParentBells,
}

/// Every segment of this bridge beside the first.
struct Books {
    objects: Arc<dyn Objects>,
    /// Segments that the child's arena, for replies, was given.
    replies: HashMap<u64, Arc<Mapping>>,
    /// Bytes of each segment, of both arenas.
    lens: HashMap<u64, u64>,
    /// The number of the next segment; numbers are never used again.
    next: u64,
    /// Bytes that all segments together may have.
    budget: u64,
}

impl Books {
    fn left(&self) -> u64 {
        let used: u64 = self.lens.values().sum();
        self.budget.saturating_sub(used)
    }

    /// Creates a segment of `len` bytes within the budget.
    fn create(&mut self, len: u64) -> Result<(u64, Arc<Mapping>, Option<OwnedFd>), NoRoom> {
        if len > self.left() {
            return Err(NoRoom::TooLarge { len, max: self.left() });
        }
        if self.lens.len() >= MAX_SEGMENTS {
            return Err(NoRoom::Failed(format!("the bridge has {MAX_SEGMENTS} segments for large payloads already")));
        }
        let segment = self.next;
        let created = self.objects.create(segment, len as usize);
        let (mapping, object) =
            created.map_err(|error| NoRoom::Failed(format!("no memory for a payload of {len} bytes: {error}")))?;
        self.next += 1;
        self.lens.insert(segment, len);
        Ok((segment, Arc::new(mapping), object))
    }
}

impl Link {
    pub(crate) fn new(pid: u32, pidfd: Pidfd, control: OwnedFd, max_payload: u64, shared: Shared) -> Self {
        let Shared { objects, bells } = shared;
        let books =
            Books { objects, replies: HashMap::new(), lens: HashMap::new(), next: 1, budget: budget(max_payload) };
        fork::count_forks();
        Self {
            pid,
            max_payload,
            generation: fork::generation(),
            life: Life::new(bells.alarm),
            bells: bells.bells,
            door: bells.door,
            pidfd,
            control: Control::new(control),
            requests: CachePadded::new(Mutex::new(Arena::new(max_payload))),
            books: CachePadded::new(Mutex::new(books)),
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
                books.lens.remove(&segment).is_some() && known
            }
            Message::Attach { .. } | Message::Grant { .. } | Message::Deny { .. } | Message::Lack => false,
        }
    }

    /// Answers a child that needs memory for a reply.
    fn grant(&self, len: u64) -> io::Result<()> {
        let mut books = self.books.lock();
        match books.create(len) {
            Ok((segment, mapping, object)) => {
                books.replies.insert(segment, mapping);
                self.tell(Message::Grant { segment }, object.as_ref().map(AsFd::as_fd))
            }
            Err(NoRoom::TooLarge { len, max }) => self.tell(Message::Deny { len, max }, None),
            Err(NoRoom::Failed(_)) => self.tell(Message::Lack, None),
        }
    }
}

/// Bytes that all arenas of a bridge may have: both directions hold one payload of the largest size, and two blocks while a
/// frame grows; beside what each keeps idle, so that the one's idle memory never starves the other.
fn budget(max_payload: u64) -> u64 {
    max_payload.saturating_mul(4).saturating_add(2 * RETAINED)
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

/// The memory of the requests of one bridge, as a lane uses it.
pub(crate) struct RequestMemory<'a>(pub(crate) &'a Link);

impl Memory for RequestMemory<'_> {
    #[cold]
    fn with(&mut self, with: &mut dyn FnMut(&mut Arena, &mut dyn Source)) {
        with(&mut self.0.requests.lock(), &mut TellChild(self.0));
    }
}

/// New memory for requests, of which the child is told.
struct TellChild<'a>(&'a Link);

impl Source for TellChild<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoRoom> {
        let mut books = self.0.books.lock();
        let (segment, mapping, object) = books.create(len)?;
        if let Err(error) = self.0.tell(Message::Attach { segment }, object.as_ref().map(AsFd::as_fd)) {
            books.lens.remove(&segment);
            return Err(NoRoom::Failed(format!("the child takes no memory for the request: {error}")));
        }
        Ok((segment, mapping))
    }

    fn shrink(&mut self, segment: u64) {
        self.0.books.lock().lens.remove(&segment);
        // A child whose socket is full keeps its mapping until the bridge ends.
        let _ = self.0.tell(Message::Detach { segment }, None);
    }
}
