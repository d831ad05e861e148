//! The service whose child is killed, and the kinds of calls made to it. The effect of every call is that it counts its run in a file.

#![forbid(unsafe_code)]

use super::ledger::{CallEntry, CallOutcome, count_run};
use crate::bytes;
use crate::trust::trusted;
use callgate::{Bridge, Builder, CallError, Restart, SharedBox, Wait, bridge, rkyv};
use std::fs::File;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// A service that counts its runs.
#[derive(Debug)]
pub struct Victim {
    ledger: File,
    /// The box of the last [`keep`](Victim::keep).
    kept: Mutex<Option<SharedBox<[u8]>>>,
}

#[bridge]
impl Victim {
    /// Counts in the file `ledger`. `orders` is the path of a file with orders for the steps of this process; if empty, there are none.
    pub fn new(ledger: &str, orders: &str) -> Result<Self, String> {
        take_orders(orders);
        let ledger = File::options().read(true).write(true).open(ledger);
        let ledger = ledger.map_err(|error| format!("opening the ledger: {error}"))?;
        Ok(Self { ledger, kept: Mutex::new(None) })
    }

    /// A call whose request and reply fit into their slots.
    pub fn small(&self, id: u64) -> Result<u64, String> {
        self.run(id)
    }

    /// Like `small`, but idempotent: a bridge that restarts makes the call again.
    #[bridge(idempotent)]
    pub fn again(&self, id: u64) -> Result<u64, String> {
        self.run(id)
    }

    /// Sums a large request.
    pub fn take(&self, id: u64, bytes: &[u8]) -> Result<u64, String> {
        self.run(id)?;
        Ok(bytes::sum(bytes))
    }

    /// Returns a large reply of equal bytes.
    pub fn give(&self, id: u64, len: u64) -> Result<Vec<u8>, String> {
        self.run(id)?;
        Ok(vec![id as u8; len as usize])
    }

    /// Returns a large reply whose length is unknown until it is written.
    pub fn list(&self, id: u64, count: u64) -> Result<Vec<String>, String> {
        self.run(id)?;
        Ok((0..count).map(|number| entry(id, number)).collect())
    }

    /// Returns a new box for a box.
    pub fn swap(&self, id: u64, given: SharedBox<[u8]>) -> Result<SharedBox<[u8]>, String> {
        self.run(id)?;
        let mut new = SharedBox::<[u8]>::for_overwrite(given.len()).map_err(|error| error.to_string())?;
        bytes::fill(&mut new, bytes::next(&given));
        Ok(new)
    }

    /// Returns the same box with one line changed.
    pub fn edit(&self, id: u64, mut given: SharedBox<[u8]>) -> Result<SharedBox<[u8]>, String> {
        self.run(id)?;
        bytes::edit(&mut given);
        Ok(given)
    }

    /// Keeps the box until the next call brings another.
    pub fn keep(&self, id: u64, given: SharedBox<[u8]>) -> Result<u64, String> {
        self.run(id)?;
        let sum = bytes::sum(&given);
        *self.kept.lock().map_err(|_| "a panic while a box was kept")? = Some(given);
        Ok(sum)
    }

    /// A call that takes a while.
    pub fn nap(&self, id: u64, micros: u64) -> Result<u64, String> {
        let answer = self.run(id)?;
        thread::sleep(Duration::from_micros(micros));
        Ok(answer)
    }

    /// Asks its caller as often as this, each time with more bytes, and sums what it says.
    pub fn ask(&self, id: u64, times: u64, each: &mut dyn FnMut(u64, Vec<u8>) -> u64) -> Result<u64, String> {
        let answer = self.run(id)?;
        Ok((0..times).fold(answer, |sum, turn| sum.wrapping_add(each(turn, vec![id as u8; 40 << turn]))))
    }

    /// Numbers, one at a time.
    pub fn numbers(&self, id: u64, count: u64) -> impl Iterator<Item = u64> + use<> {
        let first = self.run(id).unwrap_or(0);
        (0..count).map(move |number| first.wrapping_add(number))
    }
}

impl Victim {
    fn run(&self, id: u64) -> Result<u64, String> {
        count_run(&self.ledger, id).map_err(|error| format!("counting the run: {error}"))?;
        Ok(answer(id))
    }
}

/// A bridged trait. The child must first be told of it.
pub trait Marked {
    /// Like [`Victim::small`].
    fn mark(&self, id: u64) -> Result<u64, Unmarked>;
}

/// Why [`Marked::mark`] failed.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub enum Unmarked {
    /// The bridge failed. Holds the words of its [`CallOutcome`].
    Bridge(String),
    /// The file failed.
    File(String),
}

impl From<CallError> for Unmarked {
    fn from(error: CallError) -> Self {
        Unmarked::Bridge(CallOutcome::of(&error).words().into())
    }
}

#[bridge]
impl Marked for Victim {
    fn mark(&self, id: u64) -> Result<u64, Unmarked> {
        self.run(id).map_err(Unmarked::File)
    }
}

/// The right answer to a small call.
pub(super) fn answer(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555
}

fn entry(id: u64, number: u64) -> String {
    format!("entry number {number} of the list {id}, longer than what an archive keeps inline")
}

/// Starts to carry out orders from the file `orders`.
#[cfg(feature = "failpoints")]
fn take_orders(orders: &str) {
    super::orders::follow(orders);
}

/// Does nothing: this build has no steps.
#[cfg(not(feature = "failpoints"))]
fn take_orders(_: &str) {}

// ---- the caller's side ---------------------------------------------------------------------------------------------

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VictimKind {
    /// Request and reply in their slots.
    Small,
    /// A request in a block.
    LargeRequest,
    /// A reply that is copied while it is written.
    LargeReply,
    /// The same, with a reply that outgrows its blocks.
    GrowingReply,
    /// A result read as an archive, without decoding.
    View,
    /// One box there, another one back.
    BoxSwapped,
    /// The same box there and back.
    BoxReturned,
    /// A box that the child keeps.
    BoxKept,
    /// A method that takes a while.
    Nap,
    /// The same, with a timeout shorter than that.
    ShortOfTime,
    /// A call that is begun and waited for later.
    Begun,
    /// A call that is begun and given up.
    GivenUp,
    /// A method of a bridged trait.
    Trait,
    /// A method that may run again.
    Idempotent,
    /// A method that calls back.
    CalledBack,
    /// A method whose callback takes longer than the call may.
    AskedTooLong,
    /// A stream that is taken to its end.
    Streamed,
    /// A stream that is dropped in the middle.
    StreamDropped,
}

impl VictimKind {
    /// All kinds.
    pub const ALL: [VictimKind; 18] = [
        VictimKind::Small,
        VictimKind::LargeRequest,
        VictimKind::LargeReply,
        VictimKind::GrowingReply,
        VictimKind::View,
        VictimKind::BoxSwapped,
        VictimKind::BoxReturned,
        VictimKind::BoxKept,
        VictimKind::Nap,
        VictimKind::ShortOfTime,
        VictimKind::Begun,
        VictimKind::GivenUp,
        VictimKind::Trait,
        VictimKind::Idempotent,
        VictimKind::CalledBack,
        VictimKind::AskedTooLong,
        VictimKind::Streamed,
        VictimKind::StreamDropped,
    ];

    /// The kind in a word or two.
    pub fn words(self) -> &'static str {
        match self {
            VictimKind::Small => "small",
            VictimKind::LargeRequest => "large request",
            VictimKind::LargeReply => "large reply",
            VictimKind::GrowingReply => "growing reply",
            VictimKind::View => "view",
            VictimKind::BoxSwapped => "box swapped",
            VictimKind::BoxReturned => "box returned",
            VictimKind::BoxKept => "box kept",
            VictimKind::Nap => "nap",
            VictimKind::ShortOfTime => "short of time",
            VictimKind::Begun => "begun",
            VictimKind::GivenUp => "given up",
            VictimKind::Trait => "bridged trait",
            VictimKind::Idempotent => "idempotent",
            VictimKind::CalledBack => "called back",
            VictimKind::AskedTooLong => "asked too long",
            VictimKind::Streamed => "streamed",
            VictimKind::StreamDropped => "stream dropped",
        }
    }

    /// Makes call number `id`, with large payloads of `len` bytes. Returns the caller's record of it.
    pub fn call(self, bridge: &Bridge<Victim>, id: u64, len: usize) -> CallEntry {
        let (outcome, why) = match self.try_call(bridge, id, len) {
            Ok(true) => (CallOutcome::Answered, None),
            Ok(false) => (CallOutcome::Wrong, None),
            Err(NoAnswer { outcome, why }) => (outcome, why),
        };
        CallEntry { id, what: self.words(), may_repeat: self == VictimKind::Idempotent, outcome, why }
    }

    /// Makes the call and returns whether the answer is right, or why there is no answer.
    fn try_call(self, bridge: &Bridge<Victim>, id: u64, len: usize) -> Result<bool, NoAnswer> {
        let failed = NoAnswer::by;
        let byte = id as u8;
        Ok(match self {
            VictimKind::Small => bridge.small(id).map_err(failed)? == Ok(answer(id)),
            VictimKind::LargeRequest => {
                let bytes = vec![byte; len];
                bridge.take(id, &bytes).map_err(failed)? == Ok(bytes::sum(&bytes))
            }
            VictimKind::LargeReply => bridge.give(id, len as u64).map_err(failed)? == Ok(vec![byte; len]),
            VictimKind::GrowingReply => {
                let count = len as u64 / 64;
                let list = bridge.list(id, count).map_err(failed)?;
                list.is_ok_and(|list| list.iter().map(String::as_str).eq((0..count).map(|number| entry(id, number))))
            }
            VictimKind::View => {
                let view = bridge.view().give(id, len as u64).map_err(failed)?;
                view.as_ref().is_ok_and(|bytes| bytes.len() == len && bytes.iter().all(|&one| one == byte))
            }
            VictimKind::BoxSwapped | VictimKind::BoxReturned | VictimKind::BoxKept => {
                return self.try_box(bridge, id, len);
            }
            VictimKind::Nap => bridge.nap(id, NAP).map_err(failed)? == Ok(answer(id)),
            VictimKind::ShortOfTime => {
                let limit = Duration::from_micros(NAP / 2);
                bridge.with_timeout(limit).nap(id, NAP).map_err(failed)? == Ok(answer(id))
            }
            VictimKind::Begun => bridge.begin().small(id).wait().map_err(failed)? == Ok(answer(id)),
            VictimKind::GivenUp => {
                drop(bridge.begin().small(id));
                return Err(NoAnswer::as_of(CallOutcome::GivenUp));
            }
            VictimKind::Trait => match Marked::mark(bridge, id) {
                Ok(mark) => mark == answer(id),
                Err(Unmarked::Bridge(words)) => return Err(NoAnswer::as_of(of_words(&words))),
                Err(Unmarked::File(_)) => false,
            },
            VictimKind::Idempotent => bridge.again(id).map_err(failed)? == Ok(answer(id)),
            VictimKind::CalledBack | VictimKind::AskedTooLong => return self.try_ask(bridge, id),
            VictimKind::Streamed | VictimKind::StreamDropped => return self.try_stream(bridge, id),
        })
    }

    /// Like [`try_call`](Self::try_call), for calls that call back.
    fn try_ask(self, bridge: &Bridge<Victim>, id: u64) -> Result<bool, NoAnswer> {
        const TURNS: u64 = 12;
        let (mut turns, mut are_right) = (0, true);
        let told = match self {
            VictimKind::AskedTooLong => {
                bridge.with_timeout(Duration::from_micros(NAP)).ask(id, TURNS, &mut |turn, _| {
                    thread::sleep(Duration::from_micros(NAP / 4));
                    turn
                })
            }
            _ => bridge.ask(id, TURNS, &mut |turn, bytes| {
                are_right &= turn == turns && bytes.len() == 40 << turn && bytes.iter().all(|&byte| byte == id as u8);
                turns += 1;
                turn
            }),
        };
        let right = answer(id).wrapping_add((0..TURNS).sum());
        Ok(told.map_err(NoAnswer::by)? == Ok(right) && are_right)
    }

    /// The same for streams.
    fn try_stream(self, bridge: &Bridge<Victim>, id: u64) -> Result<bool, NoAnswer> {
        const COUNT: u64 = 100;
        let wanted = if self == VictimKind::Streamed { COUNT + 1 } else { COUNT / 3 };
        let items = bridge.numbers(id, COUNT).map_err(NoAnswer::by)?;
        let taken: Result<Vec<_>, _> = items.take(wanted as usize).collect();
        let taken = taken.map_err(|error| {
            // The method has returned, whatever becomes of its items.
            let outcome = CallOutcome::of(&error);
            let is_lost = outcome.runs().is_some();
            NoAnswer {
                outcome: if is_lost { CallOutcome::Answered } else { outcome },
                why: Some(error.to_string().into()),
            }
        })?;
        Ok(taken.into_iter().eq((0..wanted.min(COUNT)).map(|number| answer(id).wrapping_add(number))))
    }

    /// Like [`try_call`](Self::try_call), for calls that pass a box.
    fn try_box(self, bridge: &Bridge<Victim>, id: u64, len: usize) -> Result<bool, NoAnswer> {
        let failed = NoAnswer::by;
        let byte = id as u8;
        let mut given =
            SharedBox::<[u8]>::for_overwrite_in(bridge, len).map_err(|_| NoAnswer::as_of(CallOutcome::Unsent))?;
        bytes::fill(&mut given, byte);
        // The child's lack of memory for a box is an answer too: the method ran.
        let lacks_memory = |why: &str| why.contains("memory");
        Ok(match self {
            VictimKind::BoxSwapped => match bridge.swap(id, given).map_err(failed)? {
                Ok(new) => new.len() == len && bytes::is_next(&new, byte),
                Err(why) => lacks_memory(&why),
            },
            VictimKind::BoxReturned => {
                let mut expected = vec![byte; len];
                bytes::edit(&mut expected);
                match bridge.edit(id, given).map_err(failed)? {
                    Ok(same) => *same == *expected,
                    Err(why) => lacks_memory(&why),
                }
            }
            _ => {
                let sum = bytes::sum(&given);
                bridge.keep(id, given).map_err(failed)? == Ok(sum)
            }
        })
    }
}

/// Makes two calls: the first brings a box from the child, the second returns it changed.
#[cfg(feature = "failpoints")]
pub(super) fn box_from_child_and_back(bridge: &Bridge<Victim>, ids: [u64; 2], len: usize) -> [CallEntry; 2] {
    let [first, second] = ids;
    let told = |id, what, outcome, why| CallEntry { id, what, may_repeat: false, outcome, why };
    let make = || -> Result<SharedBox<[u8]>, NoAnswer> {
        let given = SharedBox::<[u8]>::zeroed_in(bridge, len).map_err(|_| NoAnswer::as_of(CallOutcome::Unsent))?;
        let given = bridge.swap(first, given).map_err(NoAnswer::by)?;
        given.map_err(|_| NoAnswer::as_of(CallOutcome::Answered))
    };
    let mut given = match make() {
        Ok(given) => given,
        Err(NoAnswer { outcome, why }) => {
            return [told(first, "box swapped", outcome, why), told(second, "box returned", CallOutcome::Unsent, None)];
        }
    };
    let is_right = bytes::is_next(&given, 0);
    let swapped = if is_right { CallOutcome::Answered } else { CallOutcome::Wrong };
    bytes::mark(&mut given, 1);
    let outcome = match bridge.edit(second, given) {
        Ok(Ok(same)) if same.len() == len => CallOutcome::Answered,
        Ok(Err(_)) => CallOutcome::Answered,
        Ok(Ok(_)) => CallOutcome::Wrong,
        Err(error) => CallOutcome::of(&error),
    };
    [told(first, "box swapped", swapped, None), told(second, "box returned", outcome, None)]
}

/// Why a call has no answer.
struct NoAnswer {
    outcome: CallOutcome,
    why: Option<Box<str>>,
}

impl NoAnswer {
    fn by(error: CallError) -> Self {
        let outcome = CallOutcome::of(&error);
        Self { why: outcome.runs().is_none().then(|| error.to_string().into()), outcome }
    }

    fn as_of(outcome: CallOutcome) -> Self {
        Self { outcome, why: None }
    }
}

/// How long [`nap`](Victim::nap) takes, in microseconds.
pub(super) const NAP: u64 = 600;

/// The outcome with these words.
fn of_words(words: &str) -> CallOutcome {
    let all = [
        CallOutcome::NotStarted,
        CallOutcome::Started,
        CallOutcome::TimedOut,
        CallOutcome::NeverInTime,
        CallOutcome::Busy,
        CallOutcome::Down,
        CallOutcome::Unsent,
        CallOutcome::Unreturned,
        CallOutcome::Refused,
        CallOutcome::Panicked,
    ];
    all.into_iter().find(|outcome| outcome.words() == words).unwrap_or(CallOutcome::Corrupt)
}

/// How a bridge is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The number of workers.
    pub workers: u32,
    /// How both sides wait.
    pub wait: Wait,
    /// Whether the child is trusted, so that boxes come back without a copy.
    pub trusted: bool,
    /// How much idle memory each side keeps, in bytes.
    pub retained: u64,
    /// Whether and how another child replaces one that died.
    pub restart: Option<Comeback>,
    /// How many calls a lane has room for.
    pub pending: u32,
    /// How many calls may wait for room.
    pub queue: u32,
}

/// How a bridge restarts. It does so always and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comeback {
    /// Whether a spare child stands ready.
    pub spare: bool,
    /// Whether calls wait for the next child.
    pub calls_wait: bool,
}

impl Setup {
    /// One worker, a child that is not trusted, and the sizes that bridges have by default.
    pub const PLAIN: Self = Self {
        workers: 1,
        wait: Wait::Adaptive,
        trusted: false,
        retained: 1 << 20,
        restart: None,
        pending: 32,
        queue: 16_384,
    };

    /// A builder of such a bridge. The child counts in the file `ledger` and follows the file `orders`, unless that path is empty.
    pub fn builder(self, ledger: &str, orders: &str) -> Builder<Victim> {
        let builder = Victim::bridge(ledger, orders).concurrent_callers(6).workers(self.workers).wait(self.wait);
        let builder = builder.max_payload(8 << 20).memory(64 << 20).retained(self.retained).stop_grace(STOP_GRACE);
        let builder = builder.pending_calls(self.pending).queue(self.queue, 16 << 20);
        let builder = match self.restart {
            Some(comeback) => builder.restart(comeback.restart()),
            None => builder,
        };
        if self.trusted { trusted(builder) } else { builder }
    }
}

impl Comeback {
    fn restart(self) -> Restart {
        let restart = Restart::on_death().at_most(u32::MAX).backoff(Duration::ZERO, Duration::ZERO);
        restart.spare(self.spare).calls_wait(self.calls_wait)
    }
}

/// How long a child may take to end when its bridge stops. It may also be suspended by a signal during that time.
const STOP_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::super::ledger::RunLedger;
    use super::*;

    #[test]
    fn every_kind_of_call_is_answered_rightly_and_counted() {
        for (trusted, workers) in [(false, 1), (true, 3)] {
            let ledger = RunLedger::new().expect("a file");
            let restart = trusted.then_some(Comeback { spare: false, calls_wait: true });
            let setup = Setup { workers, trusted, restart, ..Setup::PLAIN };
            let bridge = setup.builder(&ledger.path(), "").start().expect("a start");
            let entries = VictimKind::ALL.map(|kind| {
                let id = ledger.number();
                let entry = kind.call(&bridge, id, 1 << 20);
                let outcome = entry.outcome;
                let expected = match kind {
                    VictimKind::GivenUp => CallOutcome::GivenUp,
                    // The scheduler may wake the child early and its caller late.
                    VictimKind::ShortOfTime if outcome == CallOutcome::Answered => CallOutcome::Answered,
                    VictimKind::ShortOfTime if outcome == CallOutcome::NeverInTime => CallOutcome::NeverInTime,
                    VictimKind::ShortOfTime => CallOutcome::TimedOut,
                    VictimKind::AskedTooLong => CallOutcome::TimedOut,
                    _ => CallOutcome::Answered,
                };
                assert_eq!(outcome, expected, "{kind:?}");
                entry
            });
            bridge.stop().expect("a stop");
            assert_eq!(ledger.judge(&entries).expect("the file"), [] as [&str; 0]);
        }
    }
}
