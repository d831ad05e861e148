//! The options with which a bridge is started.
//!
//! Only stores the options. `start` checks them and makes the bridge.

#![forbid(unsafe_code)]

mod start;

use super::entry;
use super::restart::{Death, Event, Restart};
use super::supervisor::Hook;
use crate::child::EntryFn;
use crate::spawn::{Launch, Output, TerminalSignals};
use callgate_engine::caller::QueueLimits;
use callgate_engine::overdue::Grace;
use callgate_engine::saved_args::SavedArgs;
use callgate_engine::service::{Method, Service};
#[cfg(feature = "sandbox")]
use callgate_sandbox::plan::Sandbox;
use callgate_transport::backing::Segments;
use callgate_transport::decoder::TrustedPeer;
use callgate_transport::doorbell::Wait;
use callgate_transport::layout::LINE;
use callgate_transport::request::Request;
use callgate_transport::wake::Signal;
use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

/// Default time that a child may take from its start to the end of the handshake.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Default time that a child may take to drop its service and exit.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Default amount of idle memory that each side keeps, in bytes.
const RETAINED: u64 = 64 << 20;

/// The longest payload, in bytes: 2 GiB - 1. Only this builder has the limit: offsets in archives and lengths of blocks have 64 bits.
const MAX_PAYLOAD: u64 = i32::MAX as u64;

/// How a bridge is started: the constructor's arguments and the options. Made by the generated `T::bridge(..)`.
///
/// # Examples
///
/// ```
/// # use callgate::{bridge, Wait};
/// # use std::time::Duration;
/// # pub struct Counter(u64);
/// # #[bridge]
/// # impl Counter {
/// #     pub fn new(start: u64) -> Self { Counter(start) }
/// #     pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counter = Counter::bridge(40)
///     .name("counter")
///     .timeout(Duration::from_secs(1))
///     .wait(Wait::Park)
///     .env("LANG", "C")
///     .start()?;
/// assert_eq!(counter.add(2)?, 42);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `start` is called"]
pub struct Builder<T> {
    constructor: &'static Method,
    args: Option<SavedArgs>,
    name: Option<String>,
    lanes: Option<u32>,
    slots: u32,
    slot_size: usize,
    max_payload: u64,
    memory: Option<u64>,
    retained: u64,
    pub(crate) trust: Option<TrustedPeer>,
    timeout: Option<Duration>,
    start_timeout: Duration,
    stop_grace: Duration,
    kill_after: Option<Grace>,
    queue: QueueLimits,
    wait: Wait,
    workers: u32,
    /// Entry point of a child that runs this same program.
    entry: EntryFn,
    signal: Option<Signal>,
    segments: Option<Segments>,
    launch: Launch,
    restart: Option<Restart>,
    hooks: Vec<Hook>,
    #[cfg(feature = "sandbox")]
    sandbox: Option<Sandbox>,
    service: PhantomData<fn() -> T>,
}

impl<T: Service> Builder<T> {
    /// Records the constructor's arguments.
    pub(crate) fn new<A: Request>(constructor: &'static Method, args: &A) -> Self {
        Self {
            constructor,
            args: SavedArgs::new(args, MAX_PAYLOAD as usize).ok(),
            name: None,
            lanes: None,
            slots: 32,
            slot_size: 9 * LINE,
            max_payload: 1 << 30,
            memory: None,
            retained: RETAINED,
            trust: None,
            timeout: None,
            start_timeout: START_TIMEOUT,
            stop_grace: STOP_GRACE,
            kill_after: None,
            queue: QueueLimits::DEFAULT,
            wait: Wait::default(),
            workers: 1,
            entry: entry::one_worker::<T>,
            signal: None,
            segments: None,
            launch: Launch { title: format!("callgate child: {}", T::NAME), ..Launch::default() },
            restart: None,
            hooks: Vec::new(),
            #[cfg(feature = "sandbox")]
            sandbox: None,
            service: PhantomData,
        }
    }

    /// The name of the child's main thread, which process listings show (at most 15 bytes). Default: the service's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// For how many calls that threads wait in there is a lane (the engine's term) each, 1 to 64; further ones share lanes. A value whose own `Serialize` or `Deserialize` calls the same bridge needs a second lane. Must be at least
    /// [`workers`](Self::workers): the lanes are divided evenly among the workers, and a lane never changes its worker. Default: 8, or the next
    /// multiple of the workers.
    pub fn concurrent_callers(mut self, callers: u32) -> Self {
        self.lanes = Some(callers);
        self
    }

    /// How many threads of the child serve calls, 1 to 64, and no more than [`concurrent_callers`](Self::concurrent_callers). Default: 1.
    ///
    /// With several, methods with `&self` and functions without `self` run at the same time; one with `&mut self` runs alone,
    /// as behind a lock that is fair in the long run. A lane belongs to one worker, so the calls of one thread run in
    /// order, and calls on lanes of the same worker wait for one another. If methods wait for each other, or must not wait
    /// for slow ones, set `concurrent_callers` to the number of workers: then each caller has a worker.
    ///
    /// The service is built and dropped on the child's main thread. Keep the default if all methods must run on that thread, or if they
    /// are short and mostly take `&mut self`: with several workers such a call costs about 0.2 microseconds more. With
    /// [`Wait::Spin`], each worker keeps a CPU busy.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::bridge;
    /// # use std::sync::Barrier;
    /// struct Meeting(Barrier);
    ///
    /// #[bridge]
    /// impl Meeting {
    ///     pub fn of(people: usize) -> Self { Meeting(Barrier::new(people)) }
    ///     pub fn wait_for_the_others(&self) { self.0.wait(); }
    /// }
    ///
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let meeting = Meeting::bridge_of(3).workers(3).concurrent_callers(3).start()?;
    /// std::thread::scope(|scope| {
    ///     let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| meeting.wait_for_the_others())).collect();
    ///     calls.into_iter().try_for_each(|call| call.join().expect("no panic"))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers(mut self, workers: u32) -> Self
    where
        T: Send + Sync,
    {
        self.workers = workers;
        self.entry = if workers == 1 { entry::one_worker::<T> } else { entry::any_workers::<T> };
        self
    }

    /// How many calls can be on one lane at a time, unanswered: a power of two, 2 to 4096. This is the number of slots in each ring of a lane. More
    /// [wait](Self::queue) for room. Default: 32.
    pub fn pending_calls(mut self, calls: u32) -> Self {
        self.slots = calls;
        self
    }

    /// How many calls may wait for room while every lane is full, and how many bytes their requests may have together. Beyond,
    /// a call of [`Bridge::begin`](crate::Bridge::begin) fails with [`CallError::Busy`](crate::CallError::Busy), as does one that a thread would wait in.
    /// The requests are encoded in private memory, and large ones in shared memory. Default: 16,384 calls and 16 MiB.
    pub fn queue(mut self, calls: u32, bytes: u64) -> Self {
        self.queue = QueueLimits { calls, bytes };
        self
    }

    /// Kills the child if it still runs a call this long after the call has timed out, or has been [cancelled](crate::Pending::cancel) or dropped.
    /// Other calls fail with [`CallError::Died`](crate::CallError::Died), which says why. A bridge that [restarts](Self::restart) goes on with the next
    /// child. Default: never; with [`Restart::on_failure`], as [that](Restart::kill_after) says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{CallError, bridge};
    /// # use std::time::Duration;
    /// # struct Stuck;
    /// # #[bridge]
    /// # impl Stuck {
    /// #     pub fn new() -> Self { Stuck }
    /// #     pub fn spin(&self) { loop { std::hint::spin_loop() } }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let stuck = Stuck::bridge().kill_after(Duration::from_millis(20)).start()?;
    /// let mut pending = stuck.begin().spin();
    /// assert!(pending.wait_timeout(Duration::from_millis(50)).is_none());
    /// pending.cancel();
    /// assert!(matches!(stuck.spin(), Err(CallError::Died { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.kill_after = Some(Grace::Of(grace));
        self
    }

    /// Bytes in a slot, 1 to 65,472, rounded up to an odd number of cache lines; 16 of them are not payload. Larger payloads
    /// use separate shared memory, which costs more. Default: 576.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// The longest request, reply or [`SharedBox`](crate::SharedBox), in bytes: from the capacity of a slot to 2,147,483,647. Longer
    /// ones fail with [`CallError::TooLarge`](crate::CallError::TooLarge). Default: 1 GiB.
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// The shared memory for all large payloads and boxes of the bridge together, in bytes. Half is for requests and the parent's boxes,
    /// half for replies and the child's boxes. At least 4 times [`max_payload`](Self::max_payload), which leaves each side room for a
    /// payload of that size while it grows. Default: 4 times `max_payload` plus 128 MiB.
    ///
    /// A request that finds its half in use waits for memory until its timeout, then fails with
    /// [`CallError::Exhausted`](crate::CallError::Exhausted). Without a timeout it waits only for other calls, for memory that the child is
    /// about to release, and up to a second for a child that does not read its control socket. A reply that finds its half in use fails at once.
    ///
    /// Memory given to a child counts until no process has it any more, whatever the child says. So a child cannot hold more than this.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// How much of its [`memory`](Self::memory) each side keeps for reuse while idle, in bytes. New memory costs several times as much as reused
    /// memory. The rest goes back to the system. Default: 64 MiB.
    pub fn retained(mut self, bytes: u64) -> Self {
        self.retained = bytes;
        self
    }

    /// The longest time that a call may take, including the constructor's. Default: no limit.
    ///
    /// A call that waits, copies or validates ends within a few hundred microseconds of its timeout. The `Deserialize` of its result and
    /// the destructors of what that has built are not interrupted, so their time adds to the limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The longest time that the child may take to start, until its constructor runs. Default: 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long the child may take to drop its service and exit before it is killed. Default: 5 s.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// How both sides wait for each other. Default: [`Wait::Adaptive`].
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// How a sleeping side is woken. Default: the backend that the environment variable `CALLGATE_SIGNAL` names (`futex` or `eventfd`), for
    /// trying one without rebuilding; if it is not set, [`Signal::Futex`]. A program that runs with more rights than the user who executed it
    /// ignores the variable.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// What kind of shared memory the bridge uses. Default: [`Segments::Sealed`].
    pub fn segments(mut self, segments: Segments) -> Self {
        self.segments = Some(segments);
        self
    }

    /// Sets an environment variable in the child, in addition to those that it inherits. [`start`](Self::start) refuses a key that is empty
    /// or contains `=`, a zero byte in key or value, and a key and value of 128 KiB or more together.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.launch.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The child's working directory. Default: inherited.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.launch.current_dir = Some(dir.as_ref().into());
        self
    }

    /// Where the child's standard output goes. Default: inherited.
    pub fn stdout(mut self, stdout: impl Into<Output>) -> Self {
        self.launch.stdout = stdout.into();
        self
    }

    /// Where the child's standard error goes. Default: inherited.
    pub fn stderr(mut self, stderr: impl Into<Output>) -> Self {
        self.launch.stderr = stderr.into();
        self
    }

    /// Whether Ctrl-C and other signals of the terminal reach the child. Default: they do not ([`TerminalSignals::Isolated`]), so the parent
    /// decides when its children end; they end when it does.
    ///
    /// Programs that a separate [executable](Self::executable) starts before it serves are isolated too.
    pub fn signals(mut self, signals: TerminalSignals) -> Self {
        self.launch.signals = signals;
        self
    }

    /// Replaces a child that has died, or with [`Restart::on_failure`] one that hangs, as `restart` says. The new child builds the service from
    /// the same constructor arguments; the old service's state is lost. Default: the bridge ends with its child.
    ///
    /// A call that was in progress when the child died runs again in the next child if that is safe: if the method had not begun, or, up to
    /// 3 times in all, if it is marked `#[bridge(idempotent)]`. The caller notices only the delay. The call waits for the next child until its
    /// timeout, and its arguments are serialised again for each attempt. Some calls never run again: those that have already sent a
    /// [box](crate::SharedBox), those of [`Bridge::begin`](crate::Bridge::begin), and those that failed for another reason than the child's death
    /// ([`CallError::Corrupt`](crate::CallError::Corrupt)). Whether a method had begun is what the child reported before it died; a hostile child
    /// can lie about it.
    ///
    /// While there is no child, calls [wait](Restart::calls_wait) for the next one, or fail at once with
    /// [`CallError::Down`](crate::CallError::Down), as `restart` says. Once no more restarts are allowed, they always fail at once. A bridge that
    /// restarts has a thread of its own. Boxes in the memory of a dead child stay valid;
    /// passing them to the next child copies them.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = Some(restart);
        self
    }

    /// Calls `hook` after each death of a child that neither [`Bridge::stop`](crate::Bridge::stop) nor [`Bridge::kill`](crate::Bridge::kill)
    /// asked for. May be given several times.
    ///
    /// The hook runs on a thread of the bridge, before another child is started. A call that it makes to this bridge fails with
    /// [`CallError::Down`](crate::CallError::Down). It may stop the bridge. A panic in it is ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::bridge;
    /// # struct Decoder;
    /// # #[bridge]
    /// # impl Decoder {
    /// #     pub fn new() -> Self { Decoder }
    /// #     pub fn crash(&self) { std::process::abort() }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, deaths) = std::sync::mpsc::channel();
    /// let decoder = Decoder::bridge().on_death(move |death| drop(sender.send(death.to_string()))).start()?;
    /// assert!(decoder.crash().is_err());
    /// assert!(deaths.recv()?.contains("SIGABRT"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_death(mut self, hook: impl FnMut(&Death) + Send + 'static) -> Self {
        self.hooks.push(Hook::Death(Box::new(hook)));
        self
    }

    /// Calls `hook` for each [`Event`] of the bridge. May be given several times.
    ///
    /// The hook runs as those of [`on_death`](Self::on_death) do, on the same thread; events come in order. Of the calls that time out while a hook
    /// runs, only the first 1,000 are reported.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{Event, Restart, bridge};
    /// # use std::time::Duration;
    /// # struct Decoder;
    /// # #[bridge]
    /// # impl Decoder {
    /// #     pub fn new() -> Self { Decoder }
    /// #     pub fn decode(&self, data: &[u8]) -> u64 { while data.is_empty() { std::thread::yield_now() } 1 }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, events) = std::sync::mpsc::channel();
    /// let decoder = Decoder::bridge()
    ///     .timeout(Duration::from_millis(500))
    ///     .restart(Restart::on_failure())
    ///     .on_event(move |event| drop(sender.send(event.clone())))
    ///     .start()?;
    /// assert!(decoder.decode(&[]).is_err()); // it never ends
    /// assert_eq!(decoder.decode(&[1])?, 1); // in another child
    /// assert!(matches!(events.recv()?, Event::Started { .. }));
    /// assert!(matches!(events.recv()?, Event::TimedOut { .. }));
    /// assert!(matches!(events.recv()?, Event::Died(death) if death.overdue.is_some()));
    /// assert!(matches!(events.recv()?, Event::Restarted { generation: 1, .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event(mut self, hook: impl FnMut(&Event) + Send + 'static) -> Self {
        self.hooks.push(Hook::Event(Box::new(hook)));
        self
    }

    /// Executes another program, whose `main` calls [`serve::<T>()`](crate::serve), or
    /// [`serve_parallel::<T>()`](crate::serve_parallel) for several workers, instead of the running one. A name without a slash
    /// is looked up in `PATH`. It must bridge the same traits of `T` as this program. A trait that is bridged for a generic type works in the running program only.
    pub fn executable(mut self, path: impl AsRef<Path>) -> Self {
        self.launch.executable = Some(path.as_ref().into());
        self
    }

    /// Takes rights away from the child before the service is built. Default: the child has the rights of this process.
    ///
    /// A separate [executable](Self::executable) must be built with callgate's feature `sandbox` too. Cannot be
    /// combined with `Segments::Named`, because the child opens such memory by name as it arrives.
    #[cfg(feature = "sandbox")]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }
}

impl<T: Service> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("service", &T::NAME)
            .field("constructor", &self.constructor.name)
            .field("concurrent_callers", &self.lanes)
            .field("pending_calls", &self.slots)
            .field("slot_size", &self.slot_size)
            .field("max_payload", &self.max_payload)
            .field("memory", &self.memory)
            .field("retained", &self.retained)
            .field("trusted", &self.trust.is_some())
            .field("timeout", &self.timeout)
            .field("wait", &self.wait)
            .field("workers", &self.workers)
            .field("signal", &self.signal)
            .field("segments", &self.segments)
            .field("launch", &self.launch)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
