//! What a named callback in another process costs beside a bridge's `add`: with types, and with values that have none.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::interleave::{Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind, check};
use crate::{BoxError, Clock, Progress};
use callgate::manager::{Args, AuthKey, Manager, Registration, Value};
use callgate::{Bridge, Wait, args, bridge};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The bridge's call, and the callbacks beside it.
pub const ROWS: [&str; 3] = ["bridge add", "callback add", "callback of values"];

/// How long the two processes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key of an address that only these two processes know, for as long as the measurement takes.
const KEY: &str = "callgate bench --only manager";

/// The process that has the callbacks.
pub struct OwnerProcess {
    registrations: Vec<Registration>,
    _manager: Manager,
}

#[bridge]
impl OwnerProcess {
    /// Joins the hub at `address`. The threads that run the callbacks stay on `cpu`.
    pub fn new(address: &str, cpu: usize) -> Result<Self, String> {
        // What is started from here inherits it.
        pin::this_thread(&[cpu]).map_err(|error| format!("pinning to CPU {cpu}: {error}"))?;
        let manager = Manager::new(address, &AuthKey::new(KEY));
        manager.connect(PATIENCE).map_err(|error| error.to_string())?;
        let registrations =
            [manager.register_fn("add", |a: i64, b: i64| a.wrapping_add(b)), manager.register("sum", sum)];
        let registrations = registrations.into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(Self { registrations, _manager: manager })
    }

    /// How many callbacks there are.
    pub fn count(&self) -> u64 {
        self.registrations.len() as u64
    }
}

/// The sum of all numbers, those with keywords too.
fn sum(args: Args) -> i64 {
    let keywords = args.keywords().map(|(_, value)| value);
    args.positional().iter().chain(keywords).filter_map(Value::as_i64).sum()
}

/// The group `manager`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let Ok((caller, callee)) = pin::pair() else { return Ok(BenchReport::left_out("Callbacks")) };
    let _pin = Pinned::to(caller)?;
    let measured = interleave(budget, &clock, progress, || polling(callee))?;
    let series = measured.iter().map(|measured| measured.curve("manager")).collect();
    Ok(BenchReport { rows: rows("manager", &measured), series, ..BenchReport::default() })
}

/// Both sides find what they wait for while they still poll. The caller is pinned to another CPU than `callee`.
pub fn polling(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let [floor, typed, values] = ROWS;
    let counter = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let called = Rc::new(Called::start(callee)?);
    let (adding, summing, pid) = (called.clone(), called.clone(), Some(called.owner.child_pid()));
    Ok(vec![
        workload::subject(floor, CallKind::Add, &counter),
        Subject::new(typed, move || adding.add(41)).answered_by(pid).beside(floor),
        Subject::new(values, move || summing.sum()).answered_by(pid).beside(floor),
    ])
}

/// A callback of values, called from the CPU of this thread, as a subject of this name.
pub fn of_values(name: &str, callee: usize) -> Result<Subject, BoxError> {
    let called = Called::start(callee)?;
    let pid = Some(called.owner.child_pid());
    Ok(Subject::new(name, move || called.sum()).answered_by(pid))
}

/// The calling process, which is the hub too, and the one that it calls.
struct Called {
    manager: Manager,
    owner: Bridge<OwnerProcess>,
}

impl Called {
    fn start(callee: usize) -> Result<Self, BoxError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let address = format!("@callgate-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let manager = Manager::new(&address, &AuthKey::new(KEY));
        // What the hub starts may run anywhere; as may the owner, which says itself where it stays.
        let owner = Pinned::nowhere(|| -> Result<_, BoxError> {
            manager.start(PATIENCE)?;
            Ok(OwnerProcess::bridge(&address, callee).start()?)
        })??;
        check(owner.count()? == 2, "count")?;
        Ok(Self { manager, owner })
    }

    #[inline(always)]
    fn add(&self, n: i64) -> Result<(), BoxError> {
        check(self.manager.call_as::<i64>("add", black_box((n, 1i64)))? == Some(n + 1), "add")
    }

    #[inline(always)]
    fn sum(&self) -> Result<(), BoxError> {
        let sum = self.manager.call("sum", black_box(args![1, 2, 3; a = 4, b = 5]))?;
        check(sum == Some(Value::I64(15)), "sum")
    }
}
