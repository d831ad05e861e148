//! The memory of requests and boxes, allocated by the parent's calls and announced to the child.
//!
//! A reply's block is used only within memory that the child was given.

#![forbid(unsafe_code)]

use super::{ArenaSide, Link, TellChild};
use crate::control::Message;
use callgate_os::mapping::Mapping;
use callgate_os::socket;
use callgate_transport::arena::{Allocation, Source};
use callgate_transport::bounds::UNREAD;
use callgate_transport::commit::BlockRef;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::NoMemory;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::{BlockSize, MemoryPool, PoolHandle};
use callgate_transport::segment::Block;
use parking_lot::MutexGuard;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a call that waits for memory waits before it checks again whether the child has given any back.
const MEMORY_SLICE: Duration = Duration::from_millis(1);

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

    /// Without a deadline, waits only for what comes back by itself: the frames of other calls, memory that is being released, and for a while a child
    /// that does not read its control socket.
    #[cold]
    fn find(&self, size: BlockSize, deadline: Deadline) -> Result<Allocation, NoMemory> {
        let mut unread_since = None;
        let mut pool = self.pool.lock();
        loop {
            let found = pool.allocate(size, &mut TellChild(self));
            let has_time = deadline.left().map(|left| !left.is_zero());
            let may_wait = match found {
                Err(NoMemory::Exhausted { .. }) => has_time.unwrap_or_else(|| {
                    pool.has_frames_under_way() || self.books.lock().for_requests.is_being_released()
                }),
                Err(NoMemory::Unread { .. }) => {
                    has_time.unwrap_or_else(|| unread_since.get_or_insert_with(Instant::now).elapsed() < UNREAD)
                }
                _ => false,
            };
            if !may_wait || self.peer.peer_status.is_over() {
                drop(pool);
                return found;
            }
            if let Err(NoMemory::Unread { .. }) = found {
                // What is given back does not help, so it must not cut the wait short.
                MutexGuard::unlocked(&mut pool, || thread::sleep(MEMORY_SLICE));
                continue;
            }
            let slice = Instant::now() + MEMORY_SLICE;
            let until = deadline.instant().map_or(slice, |deadline| deadline.min(slice));
            self.came_back.wait_until(&mut pool, until);
        }
    }

    /// The block that a reply names, if it lies within a segment that the child was given, and is not too long.
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

impl TellChild<'_> {
    /// Whether the child can be told of a segment: if its control socket was full, not before it has read most of it, and never before it has been
    /// told what it has to unmap.
    pub(super) fn has_caught_up(&self) -> bool {
        if self.0.books.lock().is_socket_full {
            if !self.0.control.has_room() {
                return false;
            }
            self.0.books.lock().is_socket_full = false;
        }
        loop {
            let Some(segment) = self.0.books.lock().untold.pop() else { return true };
            if !self.tell_detached(segment) {
                return false;
            }
        }
    }

    /// Tells the child to unmap a segment, now or when its control socket has room again. Returns whether it has been told.
    fn tell_detached(&self, segment: u64) -> bool {
        let is_full = self.0.tell(Message::Detach { segment }, None).is_err_and(|error| socket::is_full(&error));
        if is_full {
            let mut books = self.0.books.lock();
            books.is_socket_full = true;
            books.untold.push(segment);
        }
        !is_full
    }
}

impl Source for TellChild<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        if !self.has_caught_up() {
            return Err(NoMemory::Unread { len });
        }
        let mut books = self.0.books.lock();
        let (segment, mapping, object) = books.create(len, ArenaSide::Requests, self.0.itself.clone())?;
        drop(books);
        failpoints::reach(Step::ParentSegmentCreated);
        if let Err(error) = self.0.tell(Message::Attach { segment }, object.as_ref().map(AsFd::as_fd)) {
            let mut books = self.0.books.lock();
            // A child that makes this slow may have got the segment; it is killed for that.
            if !self.0.control.is_slow() {
                books.for_requests.forget(segment);
            }
            if socket::is_full(&error) {
                books.is_socket_full = true;
                return Err(NoMemory::Unread { len });
            }
            return Err(NoMemory::Failed { why: format!("the child does not accept memory for the request: {error}") });
        }
        failpoints::reach(Step::ParentAttachSent);
        Ok((segment, mapping))
    }

    fn shrink(&mut self, segment: u64) {
        self.0.books.lock().for_requests.given_back(segment);
        self.tell_detached(segment);
        failpoints::reach(Step::ParentDetachSent);
    }
}
