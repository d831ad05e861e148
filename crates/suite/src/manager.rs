//! Measures a named callback in another process, typed and with dynamic values, against a bridge's `add`.

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

/// The rows: the bridge's call, which is the floor, and the two callbacks.
pub const ROWS: [&str; 3] = ["bridge add", "callback add", "callback of values"];

/// How long the two processes may take to find each other.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The key of the hub. Only these two processes know its address, and only during the measurement.
const KEY: &str = "callgate bench --only manager";

/// The process that owns the callbacks.
pub struct OwnerProcess {
    registrations: Vec<Registration>,
    _manager: Manager,
}

#[bridge]
impl OwnerProcess {
    /// Joins the hub at `address`. The threads that run the callbacks are pinned to `cpu`.
    pub fn new(address: &str, cpu: usize) -> Result<Self, String> {
        // Threads started from here inherit the pinning.
        pin::this_thread(&[cpu]).map_err(|error| format!("pinning to CPU {cpu}: {error}"))?;
        let manager = Manager::new(address, &AuthKey::new(KEY));
        manager.connect(TIMEOUT).map_err(|error| error.to_string())?;
        let registrations =
            [manager.register_fn("add", |a: i64, b: i64| a.wrapping_add(b)), manager.register("sum", sum)];
        let registrations = registrations.into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(Self { registrations, _manager: manager })
    }

    /// The number of callbacks.
    pub fn count(&self) -> u64 {
        self.registrations.len() as u64
    }
}

/// The sum of all numbers, positional and keyword arguments alike.
fn sum(args: Args) -> i64 {
    let keywords = args.keywords().map(|(_, value)| value);
    args.positional().iter().chain(keywords).filter_map(Value::as_i64).sum()
}

/// Measures the group `manager`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let Ok((caller, callee)) = pin::pair() else { return Ok(BenchReport::left_out("Callbacks")) };
    let _pin = Pinned::to(caller)?;
    let measured = interleave(budget, &clock, progress, || polling(callee))?;
    let series = measured.iter().map(|measured| measured.curve("manager")).collect();
    Ok(BenchReport { rows: rows("manager", &measured), series, ..BenchReport::default() })
}

/// Subjects whose two sides get what they wait for while they still poll. Pin the caller to another CPU than `callee`.
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

/// A subject that calls the callback of dynamic values from the CPU of this thread.
pub fn of_values(name: &str, callee: usize) -> Result<Subject, BoxError> {
    let called = Called::start(callee)?;
    let pid = Some(called.owner.child_pid());
    Ok(Subject::new(name, move || called.sum()).answered_by(pid))
}

/// The manager of the calling process, which is also the hub, and the process that it calls.
struct Called {
    manager: Manager,
    owner: Bridge<OwnerProcess>,
}

impl Called {
    fn start(callee: usize) -> Result<Self, BoxError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let address = format!("@callgate-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let manager = Manager::new(&address, &AuthKey::new(KEY));
        // The hub's threads may run on any CPU. So may the owner at first; it pins itself.
        let owner = Pinned::nowhere(|| -> Result<_, BoxError> {
            manager.start(TIMEOUT)?;
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
