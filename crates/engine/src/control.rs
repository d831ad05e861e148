//! The control socket: rare messages beside the rings, above all those that carry descriptors.
//!
//! Every message is three 64-bit words and at most one descriptor. Messages from a child are checked here, once.

#![forbid(unsafe_code)]

use callgate_os::socket::{self, BlockingMode, Received};
use callgate_os::toll::Toll;
use callgate_os::{close, descriptor, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What parent and child tell each other beside the rings. In a pair the hub stands in for a parent, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Parent to child, with a descriptor: `segment` holds requests from now on.
    Attach {
        /// The segment's number.
        segment: u64,
    },
    /// Either way: the sender no longer uses `segment`, which is of its own arena.
    Detach {
        /// The segment's number.
        segment: u64,
    },
    /// Child to parent: it needs a segment of `len` bytes for replies.
    Need {
        /// Bytes.
        len: u64,
    },
    /// Parent to child, with a descriptor: the segment asked for with `Need`.
    Grant {
        /// The segment's number.
        segment: u64,
    },
    /// The answer to a `Grant` where the receiver of the memory is not trusted: it has mapped `segment`, and nobody has to map it for writing after
    /// this.
    Mapped {
        /// The segment's number.
        segment: u64,
    },
    /// The answer to `Mapped`: nobody can punch holes into `segment` any more, and frames may name it from now on.
    Sealed {
        /// The segment's number.
        segment: u64,
    },
    /// Parent to child: the segment asked for with `Need` would exceed the budget.
    Deny {
        /// Bytes asked for.
        len: u64,
        /// The budget.
        max: u64,
    },
    /// Parent to child: the segment asked for with `Need` would exceed the budget, because too much of it is in use.
    Exhausted {
        /// Bytes asked for.
        len: u64,
        /// The budget.
        budget: u64,
    },
    /// Parent to child: the system refused the segment asked for with `Need`, though the budget allows it. The reason is packed as in
    /// `callgate_os::limits`.
    Lack {
        /// The system's error, and the limit behind it.
        error: u64,
        /// The value of that limit.
        limit: u64,
    },
    /// Parent to child: no large reply has been needed for a while, and idle memory for them exceeds `retained`.
    Tidy,
    /// Caller of a pair to the hub to the owner: the caller is about to use `lane` for the first time.
    Begin {
        /// The lane's number.
        lane: u64,
    },
}

impl Message {
    fn to_words(self) -> [u64; 3] {
        match self {
            Message::Attach { segment } => [1, segment, 0],
            Message::Detach { segment } => [2, segment, 0],
            Message::Need { len } => [3, len, 0],
            Message::Grant { segment } => [4, segment, 0],
            Message::Deny { len, max } => [5, len, max],
            Message::Lack { error, limit } => [6, error, limit],
            Message::Exhausted { len, budget } => [7, len, budget],
            Message::Tidy => [8, 0, 0],
            Message::Begin { lane } => [9, lane, 0],
            Message::Mapped { segment } => [10, segment, 0],
            Message::Sealed { segment } => [11, segment, 0],
        }
    }

    fn checked(words: [u64; 3]) -> Option<Self> {
        Some(match words {
            [1, segment, 0] => Message::Attach { segment },
            [2, segment, 0] => Message::Detach { segment },
            [3, len, 0] => Message::Need { len },
            [4, segment, 0] => Message::Grant { segment },
            [5, len, max] => Message::Deny { len, max },
            [6, error, limit] => Message::Lack { error, limit },
            [7, len, budget] => Message::Exhausted { len, budget },
            [8, 0, 0] => Message::Tidy,
            [9, lane, 0] => Message::Begin { lane },
            [10, segment, 0] => Message::Mapped { segment },
            [11, segment, 0] => Message::Sealed { segment },
            _ => return None,
        })
    }
}

/// One process's end of a control socket.
#[derive(Debug)]
pub struct Control<S = OwnedFd> {
    socket: S,
    /// What a peer's messages cost; `None` if the peer is trusted.
    toll: Option<Toll>,
}

/// The error after which a peer can no longer be talked to.
pub const SLOW: &str = "it made its control socket so slow that each use costs other processes time";

impl<S: AsFd> Control<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, toll: Some(Toll::default()) }
    }

    /// An end whose peer is trusted, as a child trusts its parent.
    pub fn to_trusted(socket: S) -> Self {
        Self { socket, toll: None }
    }

    fn pay<R>(&self, call: impl FnOnce() -> R) -> R {
        match &self.toll {
            Some(toll) => toll.pay(call),
            None => call(),
        }
    }

    /// Whether the peer has made the socket so slow that it is unusable: then sending and receiving fail with `TimedOut`, [`SLOW`].
    pub fn is_slow(&self) -> bool {
        self.toll.as_ref().is_some_and(Toll::is_exceeded)
    }

    /// The cost of sending and receiving since this was last called.
    pub fn take_cost(&self) -> Duration {
        self.toll.as_ref().map_or(Duration::ZERO, Toll::take)
    }

    fn check_pace(&self) -> io::Result<()> {
        if self.is_slow() { Err(io::Error::new(io::ErrorKind::TimedOut, SLOW)) } else { Ok(()) }
    }

    /// Sends a message, with a descriptor if there is one. Never blocks: a peer that does not read gets `WouldBlock`.
    pub fn send(&self, message: Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes: Vec<u8> = message.to_words().into_iter().flat_map(u64::to_le_bytes).collect();
        self.check_pace()?;
        let sent = self.pay(|| socket::send(&self.socket, &bytes, descriptor.as_slice()));
        // A peer that is gone is no longer to blame.
        if sent.is_ok() { self.check_pace() } else { sent }
    }

    /// Whether the peer has read most of what was sent: from three quarters on, the kernel says that more can be written.
    pub(crate) fn has_room(&self) -> bool {
        poll::is_writable(&self.socket)
    }

    /// Ends the conversation: both ends learn that nothing more comes.
    pub fn shut_down(&self) {
        close::shut_down(&self.socket);
    }

    /// The same on another thread, because the peer may have made it slow.
    pub(crate) fn shut_down_aside(&self) {
        match descriptor::copied_high(&self.socket) {
            Ok(copy) => close::elsewhere([copy], true),
            Err(_) => self.shut_down(),
        }
    }

    /// Receives a message and its descriptor; `None` when the other end is closed.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no message and `blocking` is `No`; `InvalidData` for what no healthy peer sends.
    pub fn receive(&self, blocking: BlockingMode) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut buffer = [0; 24];
        self.check_pace()?;
        let received = self.pay(|| socket::receive(&self.socket, &mut buffer, blocking));
        let Received::Message(len, mut descriptors) = received? else {
            return Ok(None);
        };
        if let Err(slow) = self.check_pace() {
            socket::discard(descriptors);
            return Err(slow);
        }
        let word = |at: usize| buffer[8 * at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        match Message::checked([word(0), word(1), word(2)]) {
            Some(message) if len == buffer.len() => Ok(Some((message, descriptors.pop()))),
            _ => {
                socket::discard(descriptors);
                Err(io::Error::new(io::ErrorKind::InvalidData, "a control message of unknown kind"))
            }
        }
    }
}

impl<S: AsFd> AsFd for Control<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::{alone, eventually};
    use callgate_os::toll;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::time::Instant;

    #[test]
    fn messages_arrive_as_sent_and_the_end_is_seen() {
        let (ours, theirs) = socket::pair().unwrap();
        let (ours, theirs) = (Control::new(ours), Control::new(theirs));
        let messages = [
            Message::Attach { segment: 7 },
            Message::Detach { segment: u64::MAX },
            Message::Need { len: 1 << 40 },
            Message::Grant { segment: 0 },
            Message::Deny { len: 3, max: 2 },
            Message::Lack { error: 27, limit: 4096 },
            Message::Exhausted { len: 3, budget: 4 },
            Message::Tidy,
            Message::Begin { lane: 63 },
            Message::Mapped { segment: 1 },
            Message::Sealed { segment: 2 },
        ];
        let kinds = messages.map(|message| message.to_words()[0]);
        assert!(kinds.into_iter().eq(1..=11), "one of each, in the order of their kinds");
        assert_eq!(Message::checked([12, 0, 0]), None);
        for message in messages {
            ours.send(message, Some(ours.as_fd())).unwrap();
            let (received, descriptor) = theirs.receive(BlockingMode::Yes).unwrap().unwrap();
            assert_eq!(received, message);
            assert!(descriptor.is_some());
        }
        assert_eq!(theirs.receive(BlockingMode::No).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(theirs.receive(BlockingMode::Yes).unwrap().is_none());
    }

    /// A message with more descriptors than any of ours.
    fn send_with(socket: &OwnedFd, message: &[u8], descriptor: &OwnedFd, count: usize) {
        let rights = vec![descriptor.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
        sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    const NEED: [u8; 24] = [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// On a kernel that lets descriptors through, or as if on one.
    #[test]
    fn fault_08_descriptors_of_any_number_are_refused_and_closed() {
        let (ours, theirs) = socket::pair().unwrap();
        let theirs = Control::new(theirs);
        for message in [&NEED[..], &NEED[..8], &[7; 24], &[1; 100]] {
            for count in [1, 2, 80, 81, 253] {
                // The readers of a pipe are told when its last writer has closed it.
                let (reader, writer) = rustix::pipe::pipe().unwrap();
                send_with(&ours, message, &writer, count);
                drop(writer);
                match theirs.receive(BlockingMode::Yes) {
                    Ok(received) => {
                        assert!(message == NEED && count == 1);
                        socket::discard(received.unwrap().1.into_iter().collect());
                    }
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
                }
                assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "{count} stay open");
            }
        }
    }

    /// Closing the last descriptor of a socket that lingers takes until everything written has been read.
    #[test]
    fn fault_08_a_descriptor_that_is_slow_to_close_keeps_nobody_waiting() {
        alone("control::tests::fault_08_a_descriptor_that_is_slow_to_close_keeps_nobody_waiting", 60, || {
            let (slow, _unread) = socket::slow_to_close();
            let (ours, theirs) = socket::pair().unwrap();
            let theirs = Control::new(theirs);
            send_with(&ours, &[7; 24], &slow, 253);
            drop(slow);
            let begun = Instant::now();
            assert!(theirs.receive(BlockingMode::Yes).is_err());
            assert!(begun.elapsed() < Duration::from_secs(30), "closed while somebody waits");
        });
    }

    /// With many waiters at the other end, it takes long to tell them that there is something to receive, or room to send.
    #[test]
    fn fault_40_a_slow_end_is_of_no_more_use() {
        for sends in [true, false] {
            let (ours, theirs) = socket::pair().unwrap();
            let _burden = toll::burden(&theirs, 300_000);
            let (ours, theirs) = (Control::new(ours), Control::new(theirs));
            let slow = |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
            // Once is enough if it is clearly slow.
            let found = (0..10).find(|_| match sends {
                true => slow(ours.send(Message::Tidy, None)),
                false => {
                    theirs.send(Message::Need { len: 1 }, None).unwrap();
                    slow(ours.receive(BlockingMode::No).map(drop))
                }
            });
            assert!(found.is_some_and(|times| times < 2), "{sends}: {found:?}");
            assert!(ours.is_slow() && ours.take_cost() > Duration::from_millis(20));
            assert!(slow(ours.send(Message::Tidy, None)) && slow(ours.receive(BlockingMode::No).map(drop)));
        }
    }

    #[test]
    fn a_peer_that_ended_with_messages_unread_is_gone_too() {
        let (ours, theirs) = socket::pair().unwrap();
        let (ours, theirs) = (Control::new(ours), Control::new(theirs));
        ours.send(Message::Tidy, None).unwrap();
        drop(theirs);
        let is_gone = || {
            let sent = ours.send(Message::Lack { error: 0, limit: 0 }, None);
            sent.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        // A process that another test is starting may have the socket for a moment longer.
        assert!(eventually(10, "the socket is closed", is_gone) && is_gone());
        assert!(ours.receive(BlockingMode::No).unwrap().is_none());
    }

    #[test]
    fn what_no_healthy_peer_sends_is_refused() {
        let (ours, theirs) = socket::pair().unwrap();
        let theirs = Control::new(theirs);
        for bytes in [&[0u8; 24][..], &[1; 8], &[0xff; 24], &[1; 100]] {
            socket::send(&ours, bytes, &[]).unwrap();
            assert_eq!(theirs.receive(BlockingMode::Yes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
