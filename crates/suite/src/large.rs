//! Payloads of a megabyte and more: one way, for the first time, and in boxes that go there and back.
//!
//! - **One way**: bytes in the caller's private memory go to the other process, which sums them in place. The floor is a copy
//!   into shared memory, summed there by the same function.
//! - **Boxes**: a `SharedBox<[u8]>` that is already in the bridge's memory is moved to the child, which changes one line of it and
//!   moves it back. With a trusted child nothing is copied; from an untrusted one, the returned box is copied.
//! - **Echo**: as in the group `payload`, but both sides poll.
//! - **First call**: an echo on a fresh bridge, which has no memory for large payloads yet, compared with the second echo.
//!
//! Both sides of all bridges here poll, like their floors and the peers they are compared with: such a call outlasts the time for which a bridge
//! polls by default, and a wake-up would take a good part of it. Rows that end in `default waiting` include that wake-up.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::bytes;
use crate::floor::{RawCopy, RawSum};
use crate::interleave::{Batch, Budget, Measured, Subject, interleave, rows};
use crate::payload::{expected, size};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::{SharedBox, Wait};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

/// The lengths of one-way payloads, in bytes.
pub const ONE_WAY: [usize; 2] = [1 << 20, 64 << 20];

/// The lengths of a bridge's first payload, in bytes.
pub const FIRST: [usize; 2] = [1 << 20, 16 << 20];

/// The length of the echo, in bytes.
const ECHO: usize = 1 << 20;

/// How all bridges here wait, unless the row's name says otherwise.
const POLLING: Wait = Wait::Spin;

/// The lengths of boxes, in bytes. The first one is the floor of the others.
pub const BOXES: [usize; 5] = [64, 4 << 10, 1 << 20, 16 << 20, 64 << 20];

/// Measures the group `large`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Large payloads"));
    };
    let _pin = Pinned::to(caller)?;
    let clock = Clock::new();
    let mut report = BenchReport::default();
    for len in ONE_WAY {
        add(&mut report, &interleave(batches(budget, len), &clock, progress, || one_way(len, callee))?);
    }
    add(&mut report, &interleave(batches(budget, ECHO), &clock, progress, || echo(callee))?);
    let longest = BOXES[BOXES.len() - 1];
    add(&mut report, &interleave(budget, &clock, progress, || boxes(true, callee))?);
    add(&mut report, &interleave(batches(budget, longest), &clock, progress, || boxes(false, callee))?);
    for len in FIRST {
        add(&mut report, &interleave(starts(budget), &clock, progress, || Ok(first(len, callee)))?);
    }
    Ok(report)
}

fn add(report: &mut BenchReport, measured: &[Measured]) {
    report.rows.extend(rows("large", measured));
}

/// Makes batches long enough for several calls: the warm-up takes at least one call, so it would dominate a batch of one long call.
pub fn batches(budget: Budget, len: usize) -> Budget {
    Budget { batch: budget.batch.max(expected(len)), ..budget }
}

/// Makes batches long enough for several starts.
fn starts(budget: Budget) -> Budget {
    Budget { batch: budget.batch.max(Duration::from_millis(100)), ..budget }
}

/// What happens to a large payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The other process reads all of a payload from the caller's private memory. Only the sum comes back.
    OneWay,
    /// The caller fills shared memory, the other process reads all of it and fills other shared memory, which the caller reads.
    Touched,
    /// The same shared memory goes back and forth, and the other process changes one line of it each time.
    Edited,
}

impl Load {
    /// The name used in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::Touched => "touched",
            Self::Edited => "edited",
        }
    }

    /// The name with a length: `one-way 1 MiB`.
    pub fn of(self, len: usize) -> String {
        format!("{} {}", self.name(), size(len))
    }
}

/// A way to carry a large payload to another process.
pub trait Carry {
    /// Carries the payload there once, and back where its [`Load`] says so. Returns an error if the answer is wrong.
    fn carry(&mut self) -> Result<(), BoxError>;

    /// The process that answers.
    fn peer(&self) -> u32;
}

/// A subject that measures `carrier`.
pub fn subject(name: impl Into<String>, mut carrier: Box<dyn Carry>) -> Subject {
    let peer = carrier.peer();
    Subject::new(name, move || carrier.carry()).answered_by(Some(peer))
}

/// The bytes of [`Load::OneWay`] and their sum.
#[derive(Debug)]
pub struct Summed {
    bytes: Vec<u8>,
    sum: u64,
}

impl Summed {
    /// Makes `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![7; len], sum: bytes::sum_of(7, len) }
    }

    /// Has `sum` add up the bytes, and checks the result.
    pub fn by(&self, sum: impl FnOnce(&[u8]) -> Result<u64, BoxError>) -> Result<(), BoxError> {
        workload::check(sum(black_box(&self.bytes))? == self.sum, "one-way")
    }
}

/// Subjects for `len` bytes one way: the floor, polling, and waiting as bridges do by default.
pub fn one_way(len: usize, callee: usize) -> Result<Vec<Subject>, BoxError> {
    let floor = format!("raw {}", Load::OneWay.of(len));
    let raw = Box::new(Raw { floor: RawSum::start(len, callee)?, bytes: Summed::new(len) });
    let waiting =
        subject(format!("{}, default waiting", callgate_name(Load::OneWay, len)), slice(Wait::default(), len, callee)?);
    let polling = callgate(Load::OneWay, len, callee)?;
    Ok(vec![subject(&*floor, raw).polling(), polling.beside(&floor), waiting.beside(&floor)])
}

/// A subject that measures callgate under `load`.
pub fn callgate(load: Load, len: usize, callee: usize) -> Result<Subject, BoxError> {
    let carrier: Box<dyn Carry> = match load {
        Load::OneWay => slice(POLLING, len, callee)?,
        Load::Touched => {
            let bridged = BridgeTransport::trusting(POLLING, Some(callee))?;
            Box::new(TwoBoxes { bridged, len, turn: 0 })
        }
        Load::Edited => {
            let bridged = BridgeTransport::trusting(POLLING, Some(callee))?;
            Box::new(OneBox::new(Rc::new(bridged), len)?)
        }
    };
    Ok(subject(callgate_name(load, len), carrier).polling())
}

fn slice(wait: Wait, len: usize, callee: usize) -> Result<Box<dyn Carry>, BoxError> {
    Ok(Box::new(SliceArg { bridged: BridgeTransport::start(wait, Some(callee))?, bytes: Summed::new(len) }))
}

/// The floor of the echo, then the echo.
fn echo(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridged = Rc::new(RefCell::new(BridgeTransport::start(POLLING, Some(callee))?));
    let [floor, echo] = ["raw copy", "callgate echo"].map(|name| format!("{name} {}", size(ECHO)));
    let echoed = workload::subject(echo, CallKind::Echo(ECHO), &bridged).polling();
    Ok(vec![RawCopy::start(ECHO, callee)?.subject(&*floor, ECHO), echoed.beside(&floor)])
}

/// The name of the row of [`callgate()`].
pub fn callgate_name(load: Load, len: usize) -> String {
    let how = if load == Load::OneWay { "callgate" } else { "callgate box" };
    format!("{how} {}", load.of(len))
}

/// Subjects for one box of each length, there and back on the same bridge. With a trusted child the first is the floor of the others; with an
/// untrusted one none has a floor.
pub fn boxes(is_trusted: bool, callee: usize) -> Result<Vec<Subject>, BoxError> {
    let (wait, cpu) = (POLLING, Some(callee));
    let bridged =
        Rc::new(if is_trusted { BridgeTransport::trusting(wait, cpu) } else { BridgeTransport::start(wait, cpu) }?);
    let name = |len| match is_trusted {
        true => callgate_name(Load::Edited, len),
        false => format!("callgate box, child not trusted, {}", Load::Edited.of(len)),
    };
    let boxed = |len| -> Result<Subject, BoxError> {
        let boxed = subject(name(len), Box::new(OneBox::new(bridged.clone(), len)?)).polling();
        Ok(if len == BOXES[0] { boxed } else { boxed.beside(&name(BOXES[0])) })
    };
    BOXES.into_iter().map(boxed).collect()
}

/// The floor of one-way payloads: bytes copied into shared memory and summed there.
struct Raw {
    floor: RawSum,
    bytes: Summed,
}

impl Carry for Raw {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.bytes.by(|bytes| Ok(self.floor.sum(bytes)?))
    }

    fn peer(&self) -> u32 {
        self.floor.pid()
    }
}

/// A `&[u8]` as an argument.
struct SliceArg {
    bridged: BridgeTransport,
    bytes: Summed,
}

impl Carry for SliceArg {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.bytes.by(|bytes| Ok(self.bridged.bridge.sum_bytes(bytes)?))
    }

    fn peer(&self) -> u32 {
        self.bridged.bridge.child_pid()
    }
}

/// One box as the argument and another as the result. Each side fills its own box and reads the other's.
struct TwoBoxes {
    bridged: BridgeTransport,
    len: usize,
    turn: u8,
}

impl Carry for TwoBoxes {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.turn = self.turn % 127 + 1;
        let mut frame = SharedBox::<[u8]>::for_overwrite_in(&self.bridged.bridge, self.len)?;
        bytes::fill(&mut frame, self.turn);
        let answer = self.bridged.bridge.touch(frame)??;
        workload::check(bytes::is_next(&answer, self.turn), "touched")
    }

    fn peer(&self) -> u32 {
        self.bridged.bridge.child_pid()
    }
}

/// The same box as argument and as result, again and again.
struct OneBox {
    /// `None` after a failed call, which lost the box.
    frame: Option<SharedBox<[u8]>>,
    bridged: Rc<BridgeTransport>,
    turn: u64,
}

impl OneBox {
    fn new(bridged: Rc<BridgeTransport>, len: usize) -> Result<Self, BoxError> {
        let frame = Some(SharedBox::zeroed_in(&bridged.bridge, len)?);
        Ok(Self { frame, bridged, turn: 0 })
    }
}

impl Carry for OneBox {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.turn += 1;
        let mut frame = self.frame.take().ok_or("the box was lost with the call that failed")?;
        bytes::mark(&mut frame, self.turn);
        let frame = self.frame.insert(self.bridged.bridge.edit(frame)?);
        workload::check(bytes::is_edited(frame, self.turn), "edited")
    }

    fn peer(&self) -> u32 {
        self.bridged.bridge.child_pid()
    }
}

/// Subjects for the second and the first echo of `len` bytes on a fresh bridge. The second echo is the floor of the first.
pub fn first(len: usize, callee: usize) -> Vec<Subject> {
    let [first, second] = ["first", "second"].map(|nth| format!("callgate {nth} echo {}", size(len)));
    let subject = |name: &str, before| Subject::custom(name, move |batch| fresh(batch, len, before, callee));
    vec![subject(&second, 1), subject(&first, 0).beside(&second)]
}

/// Until the batch is over, starts a bridge, makes `before` echoes of `len` bytes, and times one more.
fn fresh(batch: &mut Batch<'_>, len: usize, before: u32, callee: usize) -> Result<(), BoxError> {
    let sent = vec![7; len];
    loop {
        let mut bridged = BridgeTransport::start(POLLING, Some(callee))?;
        // Wakes the child. It has no memory for large payloads yet.
        bridged.add(1)?;
        for _ in 0..before {
            bridged.echo(&sent)?;
        }
        let from = batch.clock.now();
        let back = bridged.echo(black_box(&sent))?;
        let to = batch.clock.now();
        batch.record(batch.clock.nanos(from, to));
        if back != sent {
            return Err("`echo` was answered wrongly".into());
        }
        if batch.is_over() {
            return Ok(());
        }
    }
}
