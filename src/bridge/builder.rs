//! The options with which a bridge is started.
//!
//! Stores the options unchecked; `start` checks them and makes the bridge.

#![forbid(unsafe_code)]

mod start;

use super::entry;
use super::restart::{Death, Event, Restart};
use super::supervisor::Hook;
use crate::child::EntryFn;
use crate::spawn::{Launch, Output, TerminalSignals};
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

/// How long a child may take from its start to the end of the handshake, unless the builder says otherwise.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a child may take to drop its service and exit, unless the builder says otherwise.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How much memory each side keeps idle, unless the builder says otherwise.
const RETAINED: u64 = 64 << 20;

/// The longest payload, in bytes: 2 GiB - 1. A limit of this builder alone: offsets in archives and lengths of blocks have 64 bits.
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
    wait: Wait,
    workers: u32,
    /// Where a child goes that is this program again.
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

    /// How many threads can be in a call at the same time, 1 to 64; more wait for one another. Each has a lane of its own, which is what
    /// the engine calls it, and a value whose own `Serialize` or `Deserialize` calls the same bridge needs a second one. At least as many as
    /// [`workers`](Self::workers), which share the lanes evenly, each lane with one worker for good. Default: 8, or the next multiple
    /// of the workers.
    pub fn concurrent_callers(mut self, callers: u32) -> Self {
        self.lanes = Some(callers);
        self
    }

    /// How many threads of the child serve calls, 1 to 64, and no more than [`concurrent_callers`](Self::concurrent_callers). Default: 1.
    ///
    /// With several, methods with `&self` and functions without `self` run at the same time; one with `&mut self` runs alone,
    /// as behind a lock that is fair in the long run. A lane belongs to one worker, so the calls of one thread run in their
    /// order, and calls on lanes of the same worker wait for one another: where methods wait for each other, or must not wait
    /// for slow ones, choose as many concurrent callers as workers. Then each caller has a worker.
    ///
    /// The service is built and dropped on the child's main thread. One whose methods must all run there keeps the default, and
    /// so should one whose methods are short and mostly have `&mut self`: such a call costs about 0.2 microseconds more. With
    /// [`Wait::Spin`], each worker burns a CPU.
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

    /// How many calls of one caller can be unanswered: a power of two, 2 to 4096. It is the number of slots in each ring of a lane.
    /// Default: 32.
    pub fn pending_calls(mut self, calls: u32) -> Self {
        self.slots = calls;
        self
    }

    /// Bytes in a slot, 1 to 65,472, rounded up to an odd number of cache lines; 16 of them are not payload. Larger payloads
    /// go through shared memory of their own, which costs more. Default: 576.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// The longest request, reply or [`SharedBox`](crate::SharedBox), in bytes, from what a slot holds to 2,147,483,647; longer
    /// ones fail with [`CallError::TooLarge`](crate::CallError::TooLarge). Default: 1 GiB.
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// The shared memory that all large payloads and boxes of the bridge together may have, in bytes: half of it for requests and the parent's boxes,
    /// half for replies and the child's. At least 4 times [`max_payload`](Self::max_payload), which leaves each side room for a
    /// payload of that size while it grows. Default: that, and 128 MiB.
    ///
    /// A request that finds its half in use waits for memory to come back until its timeout, and fails then with
    /// [`CallError::Exhausted`](crate::CallError::Exhausted); without a timeout it waits for other calls only, and for memory that the child is about to let go of. A reply fails with it at once.
    ///
    /// Memory that a child has been given counts until no process has it any more, whatever the child says; so a child cannot have more than this.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// How much of that each side keeps when it is idle, in bytes, to be used again: memory that is new costs several times as much.
    /// What goes beyond is given back to the system. Default: 64 MiB.
    pub fn retained(mut self, bytes: u64) -> Self {
        self.retained = bytes;
        self
    }

    /// The longest time that a call may take, including the constructor's. Default: no limit.
    ///
    /// A call ends some hundred microseconds later at most while it waits, copies, or validates; but not while the `Deserialize` of its result
    /// runs, or the destructor of what has been made of it by then: that is added.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The longest time that the child may take to come up, before its constructor runs. Default: 30 s.
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

    /// What wakes a side that sleeps. Default: what the environment variable `CALLGATE_SIGNAL` names (`futex` or `eventfd`), for
    /// trying it without rebuilding; else [`Signal::Futex`]. A program that runs with more rights than whoever executed it does
    /// not look at the variable.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// What the shared memory is. Default: [`Segments::Sealed`].
    pub fn segments(mut self, segments: Segments) -> Self {
        self.segments = Some(segments);
        self
    }

    /// Sets an environment variable in the child, beside those that it inherits. A key that is empty or has a `=` in it is refused by
    /// [`start`](Self::start), and so are a zero byte in key or value, and 128 KiB or more of the two together.
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

    /// Whether Ctrl-C and what else a terminal sends reach the child. Default: they do not ([`TerminalSignals::Isolated`]), so that the parent
    /// decides what becomes of its children; they end when it does.
    ///
    /// A program that a separate [executable](Self::executable) starts on its way is kept from them too.
    pub fn signals(mut self, signals: TerminalSignals) -> Self {
        self.launch.signals = signals;
        self
    }

    /// Starts another child when one has died, or with [`Restart::on_failure`] is hung, as `restart` says, and builds the service there from the same arguments: its state is
    /// what the constructor makes. Default: the bridge ends with its child.
    ///
    /// A call that was on its way when the child died is made again in the next one if that is safe, which its caller sees nothing of
    /// but the time: if the method had not begun; and if it is marked `#[bridge(idempotent)]`, up to 3 times in all. It waits for the
    /// next child as long as its timeout allows. Not made again are calls that have [boxes](crate::SharedBox) among their arguments and
    /// were sent, those of [`Bridge::begin`](crate::Bridge::begin), and those that failed otherwise ([`CallError::Corrupt`](crate::CallError::Corrupt)). Whether a method had begun is what the child said before it died: one
    /// that is hostile can lie about it. Arguments are serialised again for each attempt.
    ///
    /// While there is no child, calls [wait](Restart::calls_wait) for the next one or fail at once with [`CallError::Down`](crate::CallError::Down), as `restart`
    /// says. When no more restarts are allowed, they always do. A bridge that restarts has a thread of its own, and no [`doorbell_fd`](crate::Bridge::doorbell_fd).
    /// Boxes that lie in the memory of a child that has died stay valid; passing them to the next one copies them.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = Some(restart);
        self
    }

    /// Has `hook` called after each death of the bridge's child that [`Bridge::stop`](crate::Bridge::stop) and [`Bridge::kill`](crate::Bridge::kill) did not ask for. May be given several times.
    ///
    /// It runs on a thread of the bridge's own, before another child is started: a call that it makes to this bridge fails with
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

    /// Has `hook` called when something happens to the bridge: see [`Event`]. May be given several times.
    ///
    /// It runs as [`on_death`](Self::on_death)'s do, on the same thread; events come in their order. Of calls that time out while a hook runs, the first
    /// 1,000 are told of.
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
    /// is looked up in `PATH`. It must bridge the same traits of `T` as this program; those of a generic type cannot be.
    pub fn executable(mut self, path: impl AsRef<Path>) -> Self {
        self.launch.executable = Some(path.as_ref().into());
        self
    }

    /// Takes rights away from the child before the service is built. Default: it may do what this process may.
    ///
    /// A separate [executable](Self::executable) must be built with callgate's feature `sandbox` too. Not together with
    /// `Segments::Named`, whose memory the child has to open as it comes.
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
