//! Measures all peers in turn with callgate.

#![forbid(unsafe_code)]

use crate::carriers::{self, CARRIERS, PayloadCarrier};
use crate::direct;
use crate::python::{self, Python};
use crate::transports::{self, Boxed, TransportWay, WAYS};
use callgate::Wait;
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
const ABSENT: &[(&str, &str)] =
    &[("Cap'n Proto", "its Rust crates need a system package to build, the schema compiler `capnp`")];

/// The names of all peers.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rust = WAYS.iter().map(|way| way.name).chain(CARRIERS.iter().map(|carrier| carrier.name));
    rust.chain(python::NAMES).chain(ABSENT.iter().map(|(name, _)| *name))
}

/// The peers that can be called, and the reasons why others cannot.
pub struct Peers {
    rust: Vec<&'static TransportWay>,
    carriers: Vec<&'static PayloadCarrier>,
    python: Vec<(&'static str, Python)>,
    skipped: Vec<String>,
}

impl Peers {
    /// Finds the peers of these names, and notes for each missing one why it is missing.
    pub fn find(names: &[&'static str]) -> Self {
        let mut peers = Self { rust: Vec::new(), carriers: Vec::new(), python: Vec::new(), skipped: Vec::new() };
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
        match (transports::find(name), carriers::find(name)) {
            (Some(way), _) => self.rust.push(way),
            (_, Some(carrier)) => self.carriers.push(carrier),
            _ => self.python.push((name, Python::for_peer(name)?)),
        }
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
        if !(self.rust.is_empty() && self.python.is_empty()) {
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
