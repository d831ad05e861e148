//! What the child says on its control socket: above all that it needs memory for replies. It is granted a segment, and may use it once that is
//! sealed.
//!
//! No lock is held while the child is sent a message, which may take long.

#![forbid(unsafe_code)]

use super::{ArenaSide, Link, NeedState, UnsealedSegment, unmap};
use crate::control::Message;
use crate::peer::PeerLink;
use crate::peer_status::Cause;
use crate::watcher;
use callgate_os::limits::{self, Wanted};
use callgate_os::mapping::Mapping;
use callgate_os::memfd;
use callgate_os::socket;
use callgate_transport::error::NoMemory;
use callgate_transport::failpoints::{self, Step};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::{io, thread};

fn lack([error, limit]: [u64; 2]) -> Message {
    Message::Lack { error, limit }
}

impl Link {
    /// Handles one message of the child. `false` = no healthy child sends this.
    pub(super) fn handle_message(&self, message: Message, descriptor: Option<OwnedFd>) -> bool {
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

    /// Answers a child that needs memory for a reply. One that asks before it has taken the last answer is refused.
    fn heed_need(&self, len: u64) -> bool {
        failpoints::reach(Step::ParentNeedHeard);
        let books = self.books.lock();
        let (budget, is_free) = (books.budget, matches!(books.asked, NeedState::Nothing));
        drop(books);
        // Runs on the watcher's thread, which alone changes this.
        match is_free {
            true => self.grant(len),
            false if len > budget => self.tell(Message::Deny { len, max: budget }, None),
            false => self.tell(Message::Exhausted { len, budget }, None),
        }
        .is_ok()
    }

    /// Holds no lock while the child is told, which may take long.
    fn grant(&self, len: u64) -> io::Result<()> {
        let mut books = self.books.lock();
        books.asked = NeedState::Nothing;
        match books.create(len, ArenaSide::Replies, self.itself.clone()) {
            Ok((segment, mapping, object)) => {
                failpoints::reach(Step::ParentReplySegmentCreated);
                let sent = object.as_ref().map(AsFd::as_fd).map(|object| object.try_clone_to_owned()).transpose();
                // First, so that the receiver of the first reply in it finds it.
                if books.is_trusted {
                    books.replies.insert(segment, mapping);
                } else {
                    books.asked = NeedState::Granted(UnsealedSegment { segment, mapping, object });
                }
                drop(books);
                let granted =
                    sent.and_then(|object| self.tell(Message::Grant { segment }, object.as_ref().map(AsFd::as_fd)));
                if let Err(error) = granted {
                    // The child has been told, and may have answered already.
                    if self.control.is_slow() {
                        return Err(error);
                    }
                    // Not the child's fault: with too many descriptors of this user in flight, the kernel takes no more.
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
                let _ = watcher::tidy_soon();
                Ok(())
            }
            Err(why) => {
                let refused = books.refused;
                drop(books);
                match why {
                    NoMemory::TooLarge { len, max } => self.tell(Message::Deny { len, max }, None),
                    NoMemory::Exhausted { len, budget } => self.tell(Message::Exhausted { len, budget }, None),
                    _ => self.tell(lack(refused), None),
                }
            }
        }
    }

    /// Answers a child that waits for memory, if there is some by now or too little is being released. Returns whether it still waits.
    pub(super) fn grant_late(&self) -> bool {
        let NeedState::Waiting(len) = self.books.lock().asked else { return false };
        if self.grant(len).is_err() {
            self.end(Cause::Corrupt("it does not read the answers to its requests"));
            return false;
        }
        matches!(self.books.lock().asked, NeedState::Waiting(_))
    }

    /// Seals the segment that the child was granted and has mapped, and tells it. `false` = it was granted no such segment.
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

    /// On a thread of its own: a child that punches holes meanwhile delays that thread, and not the watcher.
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

    /// Lets frames name the segment from now on.
    fn sealed(&self, segment: u64, mapping: Arc<Mapping>) {
        let mut books = self.books.lock();
        books.asked = NeedState::Nothing;
        books.replies.insert(segment, mapping);
        drop(books);
        // A child whose socket is full has too much to read to ever find this.
        if self.tell(Message::Sealed { segment }, None).is_err() {
            self.end(Cause::Corrupt("it does not read the answers to its requests"));
        }
        failpoints::reach(Step::ParentSealed);
    }
}
