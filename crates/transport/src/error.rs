//! What callers see when a call or a start fails: sentences that say who, what and where.

#![forbid(unsafe_code)]

use crate::bounds::MAX_VALUE_DEPTH;
use callgate_macros::Sentence;
pub use callgate_os::exit::Exit;
use callgate_os::text::shown;
use std::fmt;
use std::time::Duration;

/// Why a call through a `Bridge` gave no value; also what calls of named callbacks share with it.
///
/// A method's own `Result` is not here: it travels as a value.
#[derive(Clone, Sentence, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The method or callback panicked. Its process goes on, with the service in whatever state the panic left it.
    #[error("call `{call}` failed: {}", Panicking(.call, .fault))]
    Panicked {
        /// The call that failed.
        call: CallName,
        /// What the process that it ran in reported.
        fault: Box<Fault>,
    },

    /// The child ended before it had answered.
    #[error("call `{call}` failed: child {pid} {exit}{}; {started}{}", Because(.because), LastWordsText(.last_words))]
    Died {
        /// The call that failed.
        call: CallName,
        /// The child's process number.
        pid: u32,
        /// How the child ended.
        exit: Exit,
        /// Why this process killed it, if it did: another call had outlived its timeout (see `Restart::kill_after`), or
        /// `Bridge::restart` was called. In words that follow "because".
        because: Option<Box<str>>,
        /// Whether the method can have run.
        started: Started,
        /// What the child said of its end, if it said anything: a panic that ended it, an overflowed stack, lack of memory, what the C library
        /// prints as it aborts. Text of the child's own, without control characters.
        last_words: Option<String>,
    },

    /// No answer came in time. The child, or the process that registered the callback, is still at it; a late answer is dropped.
    /// Or the call was not even sent: `awaited` says what it waited for.
    #[error("call `{call}` failed: {}; {started}", TimedOutText(.call, *.pid, *.timeout, *.awaited))]
    TimedOut {
        /// The call that failed.
        call: CallName,
        /// The number of the process that was called.
        pid: u32,
        /// The time that the call was given.
        timeout: Duration,
        /// What it waited for at the end of that.
        awaited: Awaited,
        /// Whether the method can have run.
        started: Started,
    },

    /// Every lane is full, and so is the queue of requests that wait for room: see `Builder::queue`. The call was not sent.
    #[error(
        "call `{call}` failed: all {lanes} lanes to the child are full, and {calls} calls or {bytes} bytes already wait for room (allow more with \
         Builder::queue, or wait for results); the call had not started"
    )]
    Busy {
        /// The call that failed.
        call: CallName,
        /// How many lanes there are.
        lanes: u32,
        /// How many calls may wait.
        calls: u32,
        /// How many bytes their requests may have.
        bytes: u64,
    },

    /// The arguments or the reply are larger than the bridge accepts. Nothing was lost: the bridge goes on.
    #[error("call `{call}` failed: its {what} is {len} bytes or more, and the limit is {max}")]
    TooLarge {
        /// The call that failed.
        call: CallName,
        /// Which of the two frames did not fit.
        what: Payload,
        /// How long it is, in bytes, as far as it got.
        len: u64,
        /// The limit, in bytes: `max_payload`, or what is left of the bridge's memory budget.
        max: u64,
    },

    /// The arguments or the reply nest too deep: for any frame ([`Transfer`](crate::decoder::Transfer) has the limit), or for the stack of the thread
    /// that was to read them. Nothing was lost: the bridge goes on.
    #[error("call `{call}` failed: its {what} nests too deep: {limit}")]
    TooDeep {
        /// The call that failed.
        call: CallName,
        /// Which of the two frames did.
        what: Payload,
        /// The limit, in words.
        limit: String,
    },

    /// The arguments or the reply have more elements whose archives have no size than a frame may hold ([`Transfer`](crate::decoder::Transfer) has the
    /// limit). Nothing was lost: the bridge goes on.
    #[error("call `{call}` failed: its {what} is too much for one frame: {limit}")]
    TooMany {
        /// The call that failed.
        call: CallName,
        /// Which of the two frames has.
        what: Payload,
        /// The limit, in words.
        limit: String,
    },

    /// All memory that the bridge may have for large payloads is in use, and none came back in time. Nothing was lost: the bridge goes
    /// on.
    #[error(
        "call `{call}` failed: no memory for its {what} of {len} bytes or more: all {budget} bytes of the budget are in use, by other calls, boxes and \
         views"
    )]
    Exhausted {
        /// The call that failed.
        call: CallName,
        /// Which of the two frames found no place.
        what: Payload,
        /// How long it is, in bytes, as far as it got.
        len: u64,
        /// All memory that this direction may have, in bytes: half of `Builder::memory`, or of callbacks what the
        /// hub gives.
        budget: u64,
    },

    /// The process that was called wrote what none in good health writes. A child has been killed; a process that had registered a
    /// callback has been cut off, until a callback of its is called again.
    #[error("call `{call}` failed: {} {pid} broke the protocol ({what}) and {}", .call.peer(), .call.penalty())]
    Corrupt {
        /// The call that failed.
        call: CallName,
        /// The number of the process that was called.
        pid: u32,
        /// The invariant that was broken.
        what: &'static str,
    },

    /// The bridge was stopped or killed by this process before the call was answered.
    #[error("call `{call}` failed: the bridge to child {pid} was stopped; {started}")]
    Stopped {
        /// The call that failed.
        call: CallName,
        /// The child's process number.
        pid: u32,
        /// Whether the method can have run.
        started: Started,
    },

    /// The child has ended, and the bridge, which restarts it, has no other yet, or will have none any more.
    #[error("call `{call}` failed: child {pid} {exit}, and {why}; the call had not started")]
    Down {
        /// The call that failed.
        call: CallName,
        /// The process number of the child that ended.
        pid: u32,
        /// How it ended.
        exit: Exit,
        /// Whether another child is on its way, so that trying again later makes sense.
        restarting: bool,
        /// That, in words.
        why: String,
    },

    /// The call was made from within another, and that within another, and so on, across processes: deeper than 64, or so that it would have
    /// waited for itself. Unrelated calls go on.
    #[error("call `{call}` failed: {why} (this one is nested {depth} deep); the call had not started")]
    TooNested {
        /// The call that failed.
        call: CallName,
        /// In how many calls it is nested.
        depth: u32,
        /// The reason, in words.
        why: &'static str,
    },

    /// The call could not be made or carried out, for a reason that is neither the method's nor the peer's.
    #[error("call `{call}` failed: {why}")]
    Refused {
        /// The call that failed.
        call: CallName,
        /// The reason, in words.
        why: String,
    },
}

impl CallError {
    /// Gives the error another call's name.
    #[doc(hidden)]
    pub fn rename(&mut self, name: CallName) {
        match self {
            CallError::Panicked { call, .. }
            | CallError::Died { call, .. }
            | CallError::TimedOut { call, .. }
            | CallError::Busy { call, .. }
            | CallError::TooLarge { call, .. }
            | CallError::TooDeep { call, .. }
            | CallError::TooMany { call, .. }
            | CallError::Exhausted { call, .. }
            | CallError::Corrupt { call, .. }
            | CallError::Stopped { call, .. }
            | CallError::Down { call, .. }
            | CallError::TooNested { call, .. }
            | CallError::Refused { call, .. } => *call = name,
        }
    }

    /// How far the call had come, as far as the error tells.
    #[doc(hidden)]
    pub fn started(&self) -> Started {
        match self {
            CallError::Died { started, .. }
            | CallError::TimedOut { started, .. }
            | CallError::Stopped { started, .. } => *started,
            CallError::Busy { .. } | CallError::Down { .. } | CallError::TooNested { .. } => Started::No,
            CallError::TooLarge { what: Payload::Request, .. }
            | CallError::Exhausted { what: Payload::Request, .. } => Started::No,
            CallError::Refused { .. } => Started::Unknown,
            _ => Started::Yes,
        }
    }

    /// How far the call had come, where the error says it.
    #[doc(hidden)]
    pub fn started_mut(&mut self) -> Option<&mut Started> {
        match self {
            CallError::Died { started, .. }
            | CallError::TimedOut { started, .. }
            | CallError::Stopped { started, .. } => Some(started),
            _ => None,
        }
    }
}

/// What a call waited for when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Awaited {
    /// The answer: the call had been sent.
    Answer,
    /// One of so many lanes, all of which were in use by calls before it. Its request was not sent.
    Lane {
        /// How many there are.
        lanes: u32,
    },
    /// Room on its lane, which was full of earlier calls that were given up and not answered.
    Slot,
    /// Memory for its arguments, or the end of writing them there.
    Memory,
}

/// The words for that.
struct TimedOutText<'a>(&'a CallName, u32, Duration, Awaited);

impl fmt::Display for TimedOutText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(call, pid, timeout, awaited) = self;
        let peer = call.peer();
        match awaited {
            Awaited::Answer => write!(f, "{peer} {pid} gave no answer within {timeout:?}"),
            Awaited::Lane { lanes } => {
                write!(
                    f,
                    "no lane to {peer} {pid} was free within {timeout:?}: all {lanes} are full of calls that have not been answered"
                )
            }
            Awaited::Slot => write!(
                f,
                "its lane to {peer} {pid} had no room within {timeout:?}: it is full of calls that were given up and not answered"
            ),
            Awaited::Memory => write!(
                f,
                "its arguments were not in shared memory within {timeout:?}: none became free, the child did not read of more, or writing took longer"
            ),
        }
    }
}

/// A value nests deeper than can cross to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value nests deeper than {} lists and maps", MAX_VALUE_DEPTH)]
pub struct TooDeep;

/// Why a callback gave no result.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum CallbackError {
    /// Its own error, as it displays.
    Failed(String),
    /// It takes or returns something else.
    Mismatch { expected: String, found: String },
    /// It is not registered any more.
    Gone,
    /// It returned what nests too deep to cross.
    TooDeep,
}

impl fmt::Display for CallbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallbackError::Failed(text) => f.write_str(text),
            CallbackError::Mismatch { expected, found } => write!(f, "expected {expected}, got {found}"),
            CallbackError::Gone => f.write_str("it is no longer registered"),
            CallbackError::TooDeep => write!(f, "its result cannot cross to another process: {TooDeep}"),
        }
    }
}

/// Why there is no shared memory for something.
#[derive(Clone, Sentence, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoMemory {
    /// It is larger than the bridge accepts.
    #[error("no shared memory for {len} bytes: the limit is {max}")]
    TooLarge {
        /// Bytes asked for.
        len: u64,
        /// The limit, in bytes.
        max: u64,
    },

    /// All memory that the bridge may have is in use, and none came back in time.
    #[error("no shared memory for {len} bytes: all {budget} bytes of the budget are in use, by calls, boxes and views")]
    Exhausted {
        /// Bytes asked for.
        len: u64,
        /// All memory that this side may have, in bytes: half of `Builder::memory`.
        budget: u64,
    },

    /// The child does not read its control socket, so it cannot be told of more memory: not until the timeout, nor for a second without one.
    #[error(
        "no shared memory for {len} bytes: the child does not read its control socket, so it cannot be told of more"
    )]
    Unread {
        /// Bytes asked for.
        len: u64,
    },

    /// The hub, which makes the memory for callbacks' payloads, has given none in time.
    #[error("no shared memory for {len} bytes in time")]
    Late {
        /// Bytes asked for.
        len: u64,
    },

    /// The memory could not be had.
    #[error("{why}")]
    Failed {
        /// The reason, in words.
        why: String,
    },
}

/// The service and method of a call, shown as `Service::method`; or the name of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallName {
    /// The service's type, without generics; empty if it is a callback.
    pub service: &'static str,
    /// The method, or the callback's name.
    pub method: &'static str,
}

impl CallName {
    pub fn is_of_callback(&self) -> bool {
        self.service.is_empty()
    }

    /// What the process is that carries out such calls.
    fn peer(&self) -> &'static str {
        if self.is_of_callback() { "process" } else { "child" }
    }

    /// What becomes of such a process when it breaks the protocol.
    fn penalty(&self) -> &'static str {
        if self.is_of_callback() { "was cut off" } else { "was killed" }
    }
}

impl fmt::Display for CallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            "" => f.write_str(self.method),
            service => write!(f, "{service}::{}", self.method),
        }
    }
}

/// A panic in the process that was called, as it was there.
#[derive(Clone, Sentence, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The panic's message; a placeholder if its payload is no string.
    pub message: String,
    /// `file:line:column`, if the panic hook saw it.
    pub location: Option<String>,
    /// The backtrace there, if `RUST_BACKTRACE` asks for it.
    pub backtrace: Option<String>,
}

impl Fault {
    /// What was thrown, where, and by which calls.
    #[doc(hidden)]
    pub fn new(message: String, location: Option<String>, backtrace: Option<String>) -> Self {
        Self { message, location, backtrace }
    }

    /// One that a peer has written, as it may be shown.
    #[doc(hidden)]
    pub fn shown(self) -> Self {
        let Self { message, location, backtrace } = self;
        Self { message: shown(message), location: location.map(shown), backtrace: backtrace.map(shown) }
    }

    fn write(&self, who: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{who} panicked")?;
        if let Some(location) = &self.location {
            write!(f, " at {location}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write("the child", f)
    }
}

/// A panic, and the call that it ended.
struct Panicking<'a>(&'a CallName, &'a Fault);

impl fmt::Display for Panicking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.write(if self.0.is_of_callback() { "the callback" } else { "the child" }, f)
    }
}

/// What a process said of its end, as errors go on with it.
pub struct LastWordsText<'a>(pub &'a Option<String>);

impl fmt::Display for LastWordsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(words) => write!(f, "; its last words: {words}"),
            None => Ok(()),
        }
    }
}

/// Why its parent killed it, as errors go on with it.
struct Because<'a>(&'a Option<Box<str>>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|why| write!(f, " because {why}"))
    }
}

/// Whether a call that got no answer had begun, as the process that was called recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Started {
    /// The method or callback has not begun and never will: trying again is safe.
    No,
    /// The method may have run, wholly or in part.
    Yes,
    /// Nobody can say: the kernel of the process that was called has no `membarrier`, or forbids it. Treat it as `Yes`.
    Unknown,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Started::No => "the call had not started",
            Started::Yes => "the call had started",
            Started::Unknown => "the call may have started",
        })
    }
}

/// One of the two frames of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Payload {
    /// The arguments, from caller to callee.
    Request,
    /// The returned value, from callee to caller.
    Reply,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Payload::Request => "request",
            Payload::Reply => "reply",
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn errors_of_callbacks_speak_of_no_child() {
        let errors = |call: CallName| {
            let fault = Fault { message: "no".into(), location: Some("a.rs:1:2".into()), backtrace: None };
            let timeout = Duration::from_secs(1);
            [
                CallError::Panicked { call, fault: Box::new(fault) },
                CallError::TimedOut { call, pid: 7, timeout, awaited: Awaited::Answer, started: Started::No },
                CallError::Corrupt { call, pid: 7, what: "a lie" },
            ]
            .map(|error| error.to_string())
        };
        assert_eq!(
            errors(CallName { service: "", method: "add" }),
            [
                "call `add` failed: the callback panicked at a.rs:1:2: no",
                "call `add` failed: process 7 gave no answer within 1s; the call had not started",
                "call `add` failed: process 7 broke the protocol (a lie) and was cut off",
            ]
        );
        assert_eq!(
            errors(CallName { service: "Adder", method: "add" }),
            [
                "call `Adder::add` failed: the child panicked at a.rs:1:2: no",
                "call `Adder::add` failed: child 7 gave no answer within 1s; the call had not started",
                "call `Adder::add` failed: child 7 broke the protocol (a lie) and was killed",
            ]
        );
    }

    /// `unwrap`, `expect`, and a `main` that returns the error show it by `{:?}`.
    #[test]
    fn fault_38_debug_of_an_error_is_its_sentence_and_alternate_its_structure() {
        let call = CallName { service: "Adder", method: "add" };
        let fault = Fault { message: "no".into(), location: None, backtrace: None };
        let no_memory = NoMemory::TooLarge { len: 2, max: 1 };
        let died = || CallError::Died {
            call,
            pid: 7,
            exit: Exit::Code(3),
            because: None,
            started: Started::Yes,
            last_words: Some("so".into()),
        };
        let errors: [(String, String, String, &str); 3] = [
            (died().to_string(), format!("{:?}", died()), format!("{:#?}", died()), "Died {"),
            (fault.to_string(), format!("{fault:?}"), format!("{fault:#?}"), "Fault {"),
            (no_memory.to_string(), format!("{no_memory:?}"), format!("{no_memory:#?}"), "TooLarge {"),
        ];
        for (display, debug, alternate, part) in errors {
            assert_eq!(debug, display);
            assert!(alternate.contains(part) && alternate.contains('\n'), "{alternate}");
        }
        assert!(format!("{:#?}", died()).contains("pid: 7,"));
    }

    #[test]
    fn fault_38_what_a_peer_has_said_is_seen_and_does_nothing() {
        let fault =
            Fault { message: "a\u{1b}[2Jb\u{202e}c\u{9b}".into(), location: Some("\r".into()), backtrace: None };
        let said =
            Fault { message: r"a\u{1b}[2Jb\u{202e}c\u{9b}".into(), location: Some(r"\u{d}".into()), backtrace: None };
        assert_eq!(fault.shown(), said);
        let fine = "two\n\tlines, \u{e4}, \u{1f469}\u{200d}\u{1f467}";
        assert_eq!(shown(fine.into()), fine);
    }
}
