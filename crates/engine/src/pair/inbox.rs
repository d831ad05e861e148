//! What the hub says on the control socket, and what this side does about it: it maps memory, starts the threads of lanes, and keeps answers for the
//! calls that asked.
//!
//! A message that the hub would not send ends the pair.

#![forbid(unsafe_code)]

use super::{PairEndpoint, PairInbox, failed};
use crate::control::Message;
use crate::peer_status::Cause;
use callgate_os::limits;
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::socket::{self, BlockingMode};
use callgate_transport::backing::{Backing, SEGMENT, SealedMemfds};
use callgate_transport::error::NoMemory;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const SENSELESS: &str = "an invalid control message";

/// The answer to a request for memory.
type MemoryAnswer = Result<(u64, Arc<Mapping>), NoMemory>;

impl PairEndpoint {
    /// Reads a message if there is one, and handles it. `Ok(false)` = there is none.
    ///
    /// # Errors
    ///
    /// What was wrong, if the pair is over because of it; nothing, if the hub has ended the pair.
    pub(super) fn read(&self) -> Result<bool, Option<&'static str>> {
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
        let mut inbox = self.inbox.lock();
        let answer = self.heed(&mut inbox, message, &mut descriptor)?;
        socket::discard(descriptor.collect());
        if answer.is_some() {
            inbox.answer = answer;
        }
        drop(inbox);
        self.changed.notify_all();
        Ok(())
    }

    /// Handles a message. Returns the answer to a request for memory, if it is one.
    fn heed(
        &self,
        inbox: &mut PairInbox,
        message: Message,
        descriptor: &mut dyn Iterator<Item = OwnedFd>,
    ) -> Result<Option<MemoryAnswer>, &'static str> {
        let mut mapped = |segment, access| SealedMemfds.attach(segment, &mut *descriptor, access).map(Arc::new);
        let answer = match message {
            Message::Attach { segment } => {
                let mapping = mapped(segment, Protection::ReadOnly).map_err(|_| "a segment that cannot be mapped")?;
                inbox.segments.insert(segment, mapping);
                None
            }
            Message::Detach { segment } => {
                inbox.segments.remove(&segment);
                None
            }
            // The other side tidies its own arena.
            Message::Tidy => None,
            Message::Grant { segment } => self.granted(inbox, segment, mapped(segment, Protection::ReadWrite))?,
            Message::Sealed { segment: SEGMENT } => {
                inbox.is_ready = true;
                None
            }
            Message::Sealed { segment } => {
                Some(Ok(inbox.unsealed.take().filter(|unsealed| unsealed.0 == segment).ok_or(SENSELESS)?))
            }
            Message::Deny { len, max } => Some(Err(NoMemory::TooLarge { len, max })),
            Message::Exhausted { len, budget } => Some(Err(NoMemory::Exhausted { len, budget })),
            Message::Lack { error, limit } => {
                if let Some((segment, _)) = inbox.unsealed.take() {
                    let _ = self.control.send(Message::Detach { segment }, None);
                }
                let why = limits::unpacked(error, limit);
                Some(Err(failed(format!("the hub could not get memory{why}"))))
            }
            Message::Need { .. } | Message::Mapped { .. } | Message::Begin { .. } => return Err(SENSELESS),
        };
        Ok(answer)
    }

    /// Keeps a granted segment until it is sealed. If it cannot be mapped, that is the answer.
    fn granted(
        &self,
        inbox: &mut PairInbox,
        segment: u64,
        mapped: io::Result<Arc<Mapping>>,
    ) -> Result<Option<MemoryAnswer>, &'static str> {
        match mapped {
            Ok(mapping) => {
                inbox.unsealed = Some((segment, mapping));
                self.control
                    .send(Message::Mapped { segment }, None)
                    .map_err(|_| "it does not read the answers to its requests")?;
                Ok(None)
            }
            Err(error) => {
                // A hub that misses this keeps the memory until the pair is over.
                let _ = self.control.send(Message::Detach { segment }, None);
                Ok(Some(Err(failed(format!("memory from the hub cannot be mapped: {error}")))))
            }
        }
    }

    /// Starts the thread of a lane. A lane has one: a second request for it breaks the protocol.
    pub(super) fn start_lane(&self, lane: u64) -> Result<(), &'static str> {
        let (Some(start), Some(index)) = (self.start.get(), u32::try_from(lane).ok()) else { return Err(SENSELESS) };
        let mut started = self.started.lock();
        if index as usize >= self.callers.len() || *started & 1 << index != 0 {
            return Err(SENSELESS);
        }
        *started |= 1 << index;
        start(index).map_err(|_| "a lane for which no thread can be started")
    }

    /// The segment of the other side's arena, whose announcement may be waiting to be read.
    pub(super) fn segment(&self, number: u64) -> Option<Arc<Mapping>> {
        let known = || self.inbox.lock().segments.get(&number).cloned();
        loop {
            if let Some(segment) = known() {
                return Some(segment);
            }
            match self.read() {
                Ok(true) => {}
                // Another thread may have read it since.
                Ok(false) => return known(),
                Err(what) => {
                    self.over(what.map(Cause::Corrupt));
                    return None;
                }
            }
        }
    }
}
