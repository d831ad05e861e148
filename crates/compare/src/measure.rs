//! Measures all peers in turn with callgate.

#![forbid(unsafe_code)]

use crate::carriers::{self, CARRIERS, PayloadCarrier};
use crate::direct;
use crate::flows::{self, FLOWS, FlowKind, FlowWay};
use crate::python::{self, Python};
use crate::transports::{self, Boxed, TransportWay, WAYS};
use callgate::Wait;
use callgate_suite::floor::RawStream;
use callgate_suite::interleave::{Measured, rows};
use callgate_suite::large::{self, Load};
use callgate_suite::manager;
use callgate_suite::pin::{self, Pinned};
use callgate_suite::workload::{self, CallKind};
use callgate_suite::{BenchReport, BoxError, BridgeTransport, Budget, Clock, Subject, Transport, interleave};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The name of callgate's own rows, which are the floors of the others.
const CALLGATE: &str = "callgate";

/// callgate without spinning, so that it sleeps and wakes as often as most peers do.
const PARKED: &str = "callgate parked";

/// A callback of dynamic values, to compare with peers that call callbacks too.
const CALLBACK: &str = "callgate callback of values";

/// The name of the floor of streams.
const RAW_STREAM: &str = "raw stream";

/// The calls measured for each peer: the name in the Python script, the name in the report, and the kind.
const CALLS: [(&str, &str, CallKind); 3] =
    [("add", "add", CallKind::Add), ("greet", "greet", CallKind::Greet), ("echo", "echo 4096", CallKind::Echo(4096))];

/// The call whose distribution is drawn. With all calls there would be too many curves to tell apart.
const DRAWN: &str = "add";

/// The number of calls between two readings of the clock, for calls that are shorter than a reading.
const TOGETHER: u32 = 64;

/// Enough for figures that can be quoted. Takes about a minute.
pub const FULL: Budget = Budget { time: Duration::from_millis(200), ..Budget::full() };

/// Peers that should be compared but are not, and why.
const ABSENT: &[(&str, &str)] = &[
    ("Cap'n Proto", "its Rust crates need a system package to build, the schema compiler `capnp`"),
    #[cfg(not(feature = "tachyon"))]
    ("tachyon-ipc", "it needs clang 17 or gcc 14, and the feature `tachyon` of this program"),
];

/// The names of all peers.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rust = WAYS.iter().map(|way| way.name).chain(CARRIERS.iter().map(|carrier| carrier.name));
    // A transport may be one of these too.
    let flows = FLOWS.iter().map(|way| way.name).filter(|name| transports::find(name).is_none());
    rust.chain(flows).chain(python::NAMES).chain(ABSENT.iter().map(|(name, _)| *name))
}

/// The peers that can be called, and the reasons why others cannot.
#[derive(Default)]
pub struct Peers {
    rust: Vec<&'static TransportWay>,
    carriers: Vec<&'static PayloadCarrier>,
    flows: Vec<&'static FlowWay>,
    python: Vec<(&'static str, Python)>,
    skipped: Vec<String>,
}

impl Peers {
    /// Finds the peers of these names, and notes for each missing one why it is missing.
    pub fn find(names: &[&'static str]) -> Self {
        let mut peers = Self::default();
        for &name in names {
            if let Err(error) = peers.add(name) {
                eprintln!("{name} is left out: {error}");
                peers.skipped.push(format!("{name}: {error}"));
            }
        }
        peers
    }

    fn add(&mut self, name: &'static str) -> Result<(), BoxError> {
        if let Some((_, why)) = ABSENT.iter().find(|(absent, _)| *absent == name) {
            return Err((*why).into());
        }
        let found = (transports::find(name), carriers::find(name), flows::find(name));
        if matches!(found, (None, None, None)) {
            self.python.push((name, Python::for_peer(name)?));
        }
        self.rust.extend(found.0);
        self.carriers.extend(found.1);
        self.flows.extend(found.2);
        Ok(())
    }

    /// Makes every call of every peer once, on any CPU, and checks the whole answers.
    ///
    /// # Errors
    ///
    /// The first failure, with the peer's name.
    pub fn verify(&self) -> Result<(), BoxError> {
        for way in &self.rust {
            let named = |error| format!("{}: {error}", way.name);
            workload::verify(&mut *(way.start)(None).map_err(named)?).map_err(named)?;
        }
        for carrier in &self.carriers {
            carrier.verify().map_err(|error| format!("{}: {error}", carrier.name))?;
        }
        for way in &self.flows {
            way.verify().map_err(|error| format!("{}: {error}", way.name))?;
        }
        for (name, python) in &self.python {
            let named = |error| format!("{name}: {error}");
            let session = python.start(name, None).map_err(named)?;
            session.borrow_mut().verify().map_err(named)?;
        }
        Ok(())
    }

    /// Measures all peers, each pinned to another CPU than the caller.
    ///
    /// # Errors
    ///
    /// If this process may run on only one CPU, or if a call fails.
    pub fn measure(&self, budget: Budget) -> Result<BenchReport, BoxError> {
        let (caller, callee) = pin::pair()?;
        let _pinned = Pinned::to(caller)?;
        let mut report = BenchReport { skipped: self.skipped.clone(), ..BenchReport::default() };
        if !(self.rust.is_empty() && self.flows.is_empty() && self.python.is_empty()) {
            report.append(self.measure_calls(budget, caller, callee)?);
        }
        for (load, len) in self.loads() {
            report.append(self.measure_load(budget, load, len, callee)?);
        }
        Ok(report)
    }

    fn measure_calls(&self, budget: Budget, caller: usize, callee: usize) -> Result<BenchReport, BoxError> {
        let mut progress = counting("calls".into(), budget);
        let measured = interleave(budget, &Clock::new(), &mut progress, || self.subjects(caller, callee))?;
        let drawn = |measured: &&Measured| measured.name.ends_with(&format!(" {DRAWN}")) && !measured.averaged;
        let series = measured.iter().filter(drawn).map(|measured| measured.curve("compare")).collect();
        Ok(BenchReport { rows: rows("compare", &measured), series, ..BenchReport::default() })
    }

    /// The loads of all carriers, without duplicates.
    fn loads(&self) -> Vec<(Load, usize)> {
        let mut loads: Vec<(Load, usize)> = Vec::new();
        for load in self.carriers.iter().flat_map(|carrier| carrier.loads) {
            if !loads.contains(load) {
                loads.push(*load);
            }
        }
        loads
    }

    /// Measures the carriers of this load in turn with callgate. Loads are measured one by one, because all at once would take gigabytes.
    fn measure_load(&self, budget: Budget, load: Load, len: usize, callee: usize) -> Result<BenchReport, BoxError> {
        let mut progress = counting(load.of(len), budget);
        let measured = interleave(large::batches(budget, len), &Clock::new(), &mut progress, || {
            let carriers = self.carriers.iter().filter(|carrier| carrier.loads.contains(&(load, len)));
            let others = carriers.map(|carrier| carrier.subject(load, len, callee));
            std::iter::once(large::callgate(load, len, callee)).chain(others).collect()
        })?;
        Ok(BenchReport { rows: rows("compare", &measured), ..BenchReport::default() })
    }

    fn subjects(&self, caller: usize, callee: usize) -> Result<Vec<Subject>, BoxError> {
        let bridged = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
        let mut subjects: Vec<Subject> = CALLS.map(|(_, name, call)| subject(CALLGATE, name, call, &bridged)).into();
        let parked = Rc::new(RefCell::new(BridgeTransport::start(Wait::Park, Some(callee))?));
        subjects.extend(CALLS.map(|(_, name, call)| beside(name, subject(PARKED, name, call, &parked))));
        for way in &self.rust {
            let transport = Rc::new(RefCell::new(Boxed((way.start)(Some(callee))?)));
            subjects.extend(CALLS.map(|(_, name, call)| way.subject(name, call, &transport)));
        }
        if self.flows.iter().any(|way| way.kinds.contains(&FlowKind::Stream)) {
            subjects.push(raw_stream(callee)?);
        }
        for way in &self.flows {
            for &kind in way.kinds {
                subjects.push(way.subject(kind, callee)?);
            }
        }
        if self.python.iter().any(|(name, _)| *name == python::CONNECTION) {
            subjects.push(manager::of_values(CALLBACK, callee)?);
        }
        for (name, python) in &self.python {
            let session = python.start(name, Some((caller, callee)))?;
            subjects.extend(CALLS.map(|(order, call, _)| beside(call, python::subject(name, call, order, &session))));
        }
        Ok(subjects)
    }
}

/// Prints which repeat is running.
fn counting(what: String, budget: Budget) -> impl FnMut(&str) {
    let mut repeat = 0;
    move |_| {
        repeat += 1;
        eprintln!("comparing {what}: repeat {repeat} of {}", budget.repeats);
    }
}

impl PayloadCarrier {
    /// Carries a few payloads under each load, which checks the answers.
    fn verify(&self) -> Result<(), BoxError> {
        for &(load, len) in self.loads {
            for len in [4_096, len] {
                let mut carried = (self.start)(None, load, len)?;
                (0..5).try_for_each(|_| carried.carry())?;
            }
        }
        Ok(())
    }

    fn subject(&self, load: Load, len: usize, callee: usize) -> Result<Subject, BoxError> {
        let name = format!("{} {}", self.name, load.of(len));
        let measured = large::subject(name, (self.start)(Some(callee), load, len)?);
        let measured = measured.beside(&large::callgate_name(load, len));
        Ok(if self.polls { measured.polling() } else { measured })
    }
}

impl FlowWay {
    /// Carries a little of each kind, which checks the answers.
    fn verify(&self) -> Result<(), BoxError> {
        for &kind in self.kinds {
            let mut flow = (self.start)(None, kind)?;
            [1, 0, 500].into_iter().try_for_each(|count| flow.carry(kind, count))?;
        }
        Ok(())
    }

    fn subject(&self, kind: FlowKind, callee: usize) -> Result<Subject, BoxError> {
        let mut flow = (self.start)(Some(callee), kind)?;
        let (name, peer, count) = (format!("{} {}", self.name, kind.name()), flow.peer(), kind.count());
        let measured = together(name, count, move || flow.carry(kind, count)).answered_by(Some(peer));
        let measured = match kind {
            FlowKind::Stream => measured.beside(RAW_STREAM),
            FlowKind::Single | FlowKind::Pipelined => beside("add", measured),
        };
        Ok(if self.polls { measured.polling() } else { measured })
    }
}

/// The floor of streams.
fn raw_stream(callee: usize) -> Result<Subject, BoxError> {
    let (mut stream, count) = (RawStream::start(callee)?, FlowKind::Stream.count());
    let pid = stream.pid();
    let measured = together(RAW_STREAM.into(), count, move || stream.take(count));
    Ok(measured.answered_by(Some(pid)).polling())
}

/// A subject whose `operation` makes `count` calls, or takes `count` numbers.
fn together(name: String, count: u32, mut operation: impl FnMut() -> Result<(), BoxError> + 'static) -> Subject {
    if count == 1 {
        return Subject::new(name, operation);
    }
    let run = Subject::custom(name, move |batch| {
        loop {
            let begin = batch.clock.now();
            operation()?;
            batch.record_many(batch.clock.nanos(begin, batch.clock.now()) / f64::from(count), count);
            if batch.is_over() {
                return Ok(());
            }
        }
    });
    run.of_means()
}

impl TransportWay {
    fn subject(&self, name: &str, call: CallKind, transport: &Rc<RefCell<Boxed>>) -> Subject {
        let is_short = self.name == direct::NAME && call == CallKind::Add;
        let measured = if is_short {
            Subject::averaged(format!("{} {name}", self.name), TOGETHER, workload::adding(transport.clone()))
        } else {
            subject(self.name, name, call, transport)
        };
        beside(name, if self.polls { measured.polling() } else { measured })
    }
}

fn subject<T: Transport + 'static>(peer: &str, name: &str, call: CallKind, transport: &Rc<RefCell<T>>) -> Subject {
    workload::subject(format!("{peer} {name}"), call, transport)
}

/// Makes callgate's row for the same call the subject's floor.
fn beside(call: &str, subject: Subject) -> Subject {
    subject.beside(&format!("{CALLGATE} {call}"))
}
