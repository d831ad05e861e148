//! The messages between an admitted client and the hub.
//!
//! Each message is one packet: an rkyv archive, which is copied, validated with bounded depth and deserialised before it is used. Payloads of
//! calls never pass here.

#![forbid(unsafe_code)]

use callgate_transport::bounds::hub::{MAX_MESSAGE, MAX_NAME, MAX_SIGNATURE};
use callgate_transport::copy_buffer::decode_private;
use callgate_transport::encode::encode_to_vec;
use rkyv::{Archive, Deserialize, Serialize};

/// A message from a client. `seq` is a number of its choice, which the answer repeats.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum ToHub {
    /// Registers a callback. Answered with `Registered`, `Taken` or `Refused`.
    Register {
        seq: u64,
        name: String,
        /// The client's number for it, not in use for another of its callbacks.
        number: u32,
        signature: String,
        /// The time until it expires, in milliseconds; `None` = never.
        expires_ms: Option<u64>,
        /// Whether to take the name from its current owner, who is told `Revoked`.
        replace: bool,
    },
    /// Answered with `Done`, whether it was registered or not.
    Unregister { seq: u64, number: u32 },
    /// Who has registered `name`? Answered with `Resolved`, after `Introduced` if it is the first time, or with `Refused`.
    Resolve { seq: u64, name: String },
    /// Answered with one `NamesAre` or several.
    Names { seq: u64 },
    /// Answers `Count`, with its `seq`. `more` = another message follows.
    Counted { seq: u64, counts: Vec<Counters>, more: bool },
    /// Takes a lock, or a permit of a semaphore. Answered with `Granted`, `NotGranted` or `Refused`.
    Acquire {
        seq: u64,
        name: String,
        /// How many permits there are; `None` = 1, a lock.
        permits_of_semaphore: Option<u32>,
        /// The longest wait, in milliseconds; `None` = no limit.
        deadline_ms: Option<u64>,
    },
    /// Cancels the `Acquire` with this `seq`, which is answered with `NotGranted` unless it has been answered already.
    Cancel { seq: u64 },
    /// Releases a grant. Not answered.
    Release { grant: u64 },
    /// Ends a pair. Not answered: both its control sockets are closed.
    Part { pair: u64 },
    /// Ends the hub. Answered with `Closing`, like everybody, or `Refused`.
    Shutdown { seq: u64 },
}

/// A message from the hub: an answer, with the `seq` of the question, or a notice.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum FromHub {
    /// Answers `Register`.
    Registered { seq: u64 },
    /// Answers `Unregister`.
    Done { seq: u64 },
    /// Answers `Register`: process `owner` holds the name.
    Taken { seq: u64, owner: u32 },
    /// Answers `Resolve`.
    Resolved { seq: u64, to: Resolution },
    /// Answers `Names`, in their order; `more` = another follows.
    NamesAre { seq: u64, names: Vec<NameInfo>, more: bool },
    /// Answers `Acquire`. `abandoned` = the previous holder died or left the hub without releasing it.
    Granted { seq: u64, grant: u64, abandoned: bool },
    /// Answers `Acquire`: its time is over, or it was cancelled.
    NotGranted { seq: u64 },
    /// Answers any request.
    Refused { seq: u64, why: String },

    /// A new pair with process `pid`, in which this client is `role`. Comes with three descriptors: the segment, this side's control socket, and
    /// the pidfd of the other process.
    Introduced { pair: u64, role: PairSide, pid: u32 },
    /// Asks an owner how often its callbacks have been called.
    Count { seq: u64 },
    /// The callback `number` is no longer registered: another has replaced it, or it has expired.
    Revoked { number: u32 },
    /// The hub ends.
    Closing,
}

/// One of the two sides of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum PairSide {
    Caller,
    Owner,
}

/// Where a callback is.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) enum Resolution {
    /// Nobody has registered it.
    None,
    /// In the process that asks.
    Itself { number: u32 },
    /// In process `owner`, at the other side of `pair`.
    At { pair: u64, number: u32, signature: String, owner: u32 },
}

/// A callback's counters, as its owner has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) number: u32,
    pub(crate) calls: u64,
    /// The duration of all calls.
    pub(crate) nanoseconds: u64,
}

impl Counters {
    /// Bytes in a message, at most.
    pub(crate) const WEIGHT: usize = 32;
}

/// A registered name.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct NameInfo {
    pub(crate) name: String,
    pub(crate) signature: String,
    /// The process that registered it.
    pub(crate) owner: u32,
    /// How often it was called, and the duration of all calls, as its owner last reported them.
    pub(crate) calls: u64,
    pub(crate) nanoseconds: u64,
}

impl NameInfo {
    /// Bytes in a message, at most.
    pub(crate) fn weight(&self) -> usize {
        self.name.len() + self.signature.len() + 64
    }
}

impl ToHub {
    /// The packet; `None` if the message is too long.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        encode_to_vec(self, MAX_MESSAGE).ok().map(|bytes| bytes.to_vec())
    }

    /// The message in a packet; `None` if it is not a client's.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode_private(bytes)
    }
}

impl FromHub {
    /// The packet; `None` if the message is too long.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        encode_to_vec(self, MAX_MESSAGE).ok().map(|bytes| bytes.to_vec())
    }

    /// The message in a packet; `None` if it is not a hub's.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode_private(bytes)
    }
}

/// Checks a name.
///
/// # Errors
///
/// The reason, in words.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("a name must have at least one byte".into()),
        len if len > MAX_NAME => Err(format!("a name may have at most {MAX_NAME} bytes, and this one has {len}")),
        _ if name.chars().any(char::is_control) => Err(format!("a name may not contain control characters: {name:?}")),
        _ => Ok(()),
    }
}

/// Checks a signature.
///
/// # Errors
///
/// The reason, in words.
pub(crate) fn check_signature(signature: &str) -> Result<(), String> {
    match signature.len() {
        0 => Err("a signature must have at least one byte".into()),
        len if len > MAX_SIGNATURE => {
            Err(format!("a signature may have at most {MAX_SIGNATURE} bytes, and this one has {len}"))
        }
        _ if signature.contains(char::is_control) => {
            Err(format!("a signature may not contain control characters: {signature:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_transport::bounds::hub::MAX_LIST;

    #[test]
    fn messages_arrive_as_sent() {
        let name = || "n".repeat(MAX_NAME);
        for message in [
            ToHub::Register {
                seq: u64::MAX,
                name: name(),
                number: u32::MAX,
                signature: "s".repeat(MAX_SIGNATURE),
                expires_ms: Some(u64::MAX),
                replace: true,
            },
            ToHub::Unregister { seq: 1, number: 2 },
            ToHub::Resolve { seq: 1, name: name() },
            ToHub::Names { seq: 0 },
            ToHub::Counted { seq: 3, counts: vec![Counters { number: 1, calls: 2, nanoseconds: 3 }], more: false },
            ToHub::Acquire { seq: 3, name: name(), permits_of_semaphore: None, deadline_ms: None },
            ToHub::Cancel { seq: 3 },
            ToHub::Release { grant: 3 },
            ToHub::Part { pair: 3 },
            ToHub::Shutdown { seq: 3 },
        ] {
            assert_eq!(ToHub::decode(&message.encode().unwrap()), Some(message));
        }
        let at = Resolution::At { pair: 1, number: 2, signature: "s".into(), owner: 3 };
        for message in [
            FromHub::Resolved { seq: 1, to: at },
            FromHub::Resolved { seq: 1, to: Resolution::None },
            FromHub::Introduced { pair: 1, role: PairSide::Owner, pid: 3 },
            FromHub::Closing,
        ] {
            assert_eq!(FromHub::decode(&message.encode().unwrap()), Some(message));
        }
    }

    #[test]
    fn nonsense_is_no_message() {
        let good =
            ToHub::Resolve { seq: 1, name: "a name that is longer than what lies inline".into() }.encode().unwrap();
        for len in 0..good.len() {
            ToHub::decode(&good[..len]);
        }
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            ToHub::decode(&bad);
        }
        assert_eq!(ToHub::decode(&[]), None);
        assert_eq!(ToHub::decode(&[0xff; 64]), None);
    }

    #[test]
    fn full_lists_fit_into_a_message() {
        let longest = NameInfo {
            name: "n".repeat(MAX_NAME),
            signature: "s".repeat(MAX_SIGNATURE),
            owner: 1,
            calls: 2,
            nanoseconds: 3,
        };
        let shortest = NameInfo { name: "n".into(), signature: String::new(), ..longest };
        for info in [longest, shortest] {
            let names = vec![info.clone(); MAX_LIST.div_ceil(info.weight())];
            assert!(FromHub::NamesAre { seq: 1, names, more: true }.encode().is_some());
        }
        let counts = vec![Counters { number: 1, calls: 2, nanoseconds: 3 }; MAX_LIST.div_ceil(Counters::WEIGHT)];
        assert!(ToHub::Counted { seq: 1, counts, more: true }.encode().is_some());
        let too_long = FromHub::Refused { seq: 1, why: "w".repeat(MAX_MESSAGE) };
        assert_eq!(too_long.encode(), None);
    }

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "add", "ünïcode ☃ with spaces", &"n".repeat(255)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a\nb", "a\0b", "\u{85}", &"n".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
