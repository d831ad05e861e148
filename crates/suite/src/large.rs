//! Payloads of a megabyte and more: one way, for the first time, and in boxes that go there and back.
//!
//! - **One way**: bytes in the caller's private memory go to the other process, which sums them where they lie. The floor is a copy
//!   into shared memory, summed there by the same function.
//! - **Boxes**: a `SharedBox<[u8]>` that is in the bridge's memory already is moved to the child, which changes one line of it and
//!   moves it back. With a child that is trusted nothing is copied; of one that is not, what comes back is.
//! - **Echo**: as in the group `payload`, but both sides poll.
//! - **First call**: an echo on a fresh bridge, which has no memory for large payloads yet, beside the second.
//!
//! Both sides of all bridges here poll, as their floors do and the peers that they are compared with: a call of this length outlasts
//! the time for which a bridge polls by default, and a wake-up would be a good part of it. Rows that end in `default waiting` have it.

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

/// What goes one way, in bytes.
pub const ONE_WAY: [usize; 2] = [1 << 20, 64 << 20];

/// What the first call of a bridge carries, in bytes.
pub const FIRST: [usize; 2] = [1 << 20, 16 << 20];

/// What is echoed, in bytes.
const ECHO: usize = 1 << 20;

/// How all bridges here wait, unless their rows say otherwise.
const POLLING: Wait = Wait::Spin;

/// The boxes, in bytes. The time that the first takes is the floor of the others.
pub const BOXES: [usize; 5] = [64, 4 << 10, 1 << 20, 16 << 20, 64 << 20];

/// The group `large`.
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

/// Batches of several calls: one that has a single long call is mostly its warm-up, which is a call too.
pub fn batches(budget: Budget, len: usize) -> Budget {
    Budget { batch: budget.batch.max(expected(len)), ..budget }
}

/// Batches of several starts.
fn starts(budget: Budget) -> Budget {
    Budget { batch: budget.batch.max(Duration::from_millis(100)), ..budget }
}

/// What is done with a large payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Private memory of the caller goes to the other process, which reads all of it. Only its sum comes back.
    OneWay,
    /// The caller fills shared memory, the other process reads all of it and fills other shared memory, and the caller reads that.
    Touched,
    /// Shared memory goes there and back, again and again with the same contents: the other process changes one line of it.
    Edited,
}

impl Load {
    /// As the names of rows have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::Touched => "touched",
            Self::Edited => "edited",
        }
    }

    /// The same with a length: `one-way 1 MiB`.
    pub fn of(self, len: usize) -> String {
        format!("{} {}", self.name(), size(len))
    }
}

/// A large payload on its way to another process, again and again.
pub trait Carry {
    /// Carries it once, and back where its [`Load`] says so; an error if the answer is not right.
    fn carry(&mut self) -> Result<(), BoxError>;

    /// The process that answers.
    fn peer(&self) -> u32;
}

/// A subject that carries.
pub fn subject(name: impl Into<String>, mut carrier: Box<dyn Carry>) -> Subject {
    let peer = carrier.peer();
    Subject::new(name, move || carrier.carry()).answered_by(Some(peer))
}

/// The bytes of [`Load::OneWay`], and what they sum to.
#[derive(Debug)]
pub struct Summed {
    bytes: Vec<u8>,
    sum: u64,
}

impl Summed {
    /// `len` of them.
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![7; len], sum: bytes::sum_of(7, len) }
    }

    /// Has them summed, and looks at the sum.
    pub fn by(&self, sum: impl FnOnce(&[u8]) -> Result<u64, BoxError>) -> Result<(), BoxError> {
        workload::check(sum(black_box(&self.bytes))? == self.sum, "one-way")
    }
}

/// `len` bytes one way, polling and as bridges wait by default, and before them their floor.
pub fn one_way(len: usize, callee: usize) -> Result<Vec<Subject>, BoxError> {
    let floor = format!("raw {}", Load::OneWay.of(len));
    let raw = Box::new(Raw { floor: RawSum::start(len, callee)?, bytes: Summed::new(len) });
    let waiting =
        subject(format!("{}, default waiting", callgate_name(Load::OneWay, len)), slice(Wait::default(), len, callee)?);
    let polling = callgate(Load::OneWay, len, callee)?;
    Ok(vec![subject(&*floor, raw).polling(), polling.beside(&floor), waiting.beside(&floor)])
}

/// callgate under `load`.
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

/// An echo, and before it its floor.
fn echo(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridged = Rc::new(RefCell::new(BridgeTransport::start(POLLING, Some(callee))?));
    let [floor, echo] = ["raw copy", "callgate echo"].map(|name| format!("{name} {}", size(ECHO)));
    let echoed = workload::subject(echo, CallKind::Echo(ECHO), &bridged).polling();
    Ok(vec![RawCopy::start(ECHO, callee)?.subject(&*floor, ECHO), echoed.beside(&floor)])
}

/// What the row of [`callgate()`] is called.
pub fn callgate_name(load: Load, len: usize) -> String {
    let how = if load == Load::OneWay { "callgate" } else { "callgate box" };
    format!("{how} {}", load.of(len))
}

/// One box of each length, there and back on the same bridge. The first is the floor of the others; of a child that is not trusted,
/// all are beside nothing.
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

/// Copied into shared memory and summed there.
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

/// A box as an argument, and another one as the result: each is filled by one side, read by the other, and given back.
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

/// A box as an argument and as the result, again and again the same one.
struct OneBox {
    /// `None` if a call has failed, which the box was lost with.
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

/// The second and the first echo of `len` bytes on a bridge, each time a fresh one; the second is the floor of the first.
pub fn first(len: usize, callee: usize) -> Vec<Subject> {
    let [first, second] = ["first", "second"].map(|nth| format!("callgate {nth} echo {}", size(len)));
    let subject = |name: &str, before| Subject::custom(name, move |batch| fresh(batch, len, before, callee));
    vec![subject(&second, 1), subject(&first, 0).beside(&second)]
}

/// Times one echo of `len` bytes on fresh bridges, after `before` others, until the batch is over.
fn fresh(batch: &mut Batch<'_>, len: usize, before: u32, callee: usize) -> Result<(), BoxError> {
    let sent = vec![7; len];
    loop {
        let mut bridged = BridgeTransport::start(POLLING, Some(callee))?;
        // The child is up and awake, and has no memory for large payloads.
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
