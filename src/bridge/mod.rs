//! `Bridge`, the handle that users hold.
//!
//! Knows nothing of memory or futexes.

#![forbid(unsafe_code)]

mod asynchronous;
mod blocking;
mod builder;
mod calling;
mod child_spec;
mod env_backends;
mod sandboxing;
mod deferred;
mod doorbell;
mod entry;
mod items;
mod one_way;
mod reactor;
mod restart;
mod starting_child;
mod supervisor;
mod target;
mod view;

pub use asynchronous::AsyncBridge;
pub use blocking::Blocking;
pub use builder::Builder;
pub use calling::Calling;
pub use deferred::{Conversing, Deferred, Pending};
pub use entry::{init, init_before_main, serve, serve_parallel};
pub use items::{ItemStream, Items, Opening};
pub use one_way::OneWay;
pub use restart::{Death, Event, Restart};
pub use view::{InPlace, View};

use callgate_engine::caller::batch;
use callgate_engine::service::{Method, Service};
use callgate_transport::error::{CallError, Exit};
use callgate_transport::shared_box::{Memory, place};
use doorbell::Doorbell;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use target::Target;

/// A service in a child process.
///
/// Dereferences to the proxy that `#[bridge]` generated: the service's methods, each returning `Result<_, CallError>`. Can be
/// called from many threads at once; with more threads than lanes, some wait for a lane. The child runs one call at a time,
/// unless it has several [workers](Builder::workers).
///
/// Dropping the bridge tells the child to stop. The child answers the calls it has been sent, drops the service and exits; if that takes
/// longer than [`Builder::stop_grace`], it is killed. The drop does not wait for this, except for up to 3 ms if the child is idle. If it matters
/// that the service has been dropped, or how the child ended, call [`stop`](Self::stop) instead. A child dies with its parent: one that is still
/// stopping when this process ends is killed.
///
/// # A loop of your own
///
/// A program that sits in a loop over epoll or poll has the bridge in it: its descriptor ([`AsFd`]) becomes readable when a [pending
/// call](Self::begin) whose last [poll](Pending::poll) returned `None` may have a result: it has been answered, its time is over, or the child has ended. Then call
/// [`clear_doorbell`](Self::clear_doorbell), and poll the pending calls. Ask for the descriptor before the first poll. It may become readable without
/// cause. Nobody else may read it or write it.
///
/// ```
/// # use callgate::bridge;
/// # use rustix::event::{PollFd, PollFlags, poll};
/// # struct Squares;
/// # #[bridge]
/// # impl Squares {
/// #     pub fn new() -> Self { Squares }
/// #     pub fn square(&self, n: u64) -> u64 { n * n }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let squares = Squares::bridge().start()?;
/// let mut loop_over = [PollFd::new(&squares, PollFlags::IN)]; // and whatever else the loop waits for
/// let mut pending = squares.begin().square(7);
/// let result = loop {
///     if let Some(result) = pending.poll() {
///         break result?;
///     }
///     poll(&mut loop_over, None)?;
///     squares.clear_doorbell();
/// };
/// assert_eq!(result, 49);
/// # Ok(())
/// # }
/// ```
///
/// # Examples
///
/// ```
/// use callgate::bridge;
///
/// struct Greeter;
///
/// #[bridge]
/// impl Greeter {
///     pub fn new() -> Self {
///         Greeter
///     }
///     pub fn greet(&self, name: &str) -> String {
///         format!("hello {name}")
///     }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let greeter = Greeter::bridge().start()?;
///     assert_eq!(greeter.greet("world")?, "hello world");
///     assert!(greeter.stop()?.success());
///     Ok(())
/// }
/// ```
#[must_use = "dropping a bridge stops its child"]
pub struct Bridge<T: Service> {
    calls: T::Calls<Blocking>,
    deferred: T::Calls<Deferred>,
    one_way: T::Calls<OneWay>,
    target: Target,
    timeout: Option<Duration>,
    stop_grace: Duration,
    doorbell: Arc<Doorbell>,
}

/// How long dropping a bridge waits for a child that only has to drop its service: enough for most.
const LET_GO_TIMEOUT: Duration = Duration::from_millis(3);

impl<T: Service> Bridge<T> {
    fn new(target: Target, timeout: Option<Duration>, stop_grace: Duration, doorbell: Arc<Doorbell>) -> Self {
        Self {
            calls: T::calls(Blocking::new(target.clone(), timeout)),
            deferred: T::calls(Deferred::new(target.clone(), timeout, doorbell.clone())),
            one_way: T::calls(OneWay::new(target.clone(), timeout)),
            target,
            timeout,
            stop_grace,
            doorbell,
        }
    }

    /// The child's process number. If the bridge [restarts](Builder::restart), the number of the current or most recent child.
    pub fn child_pid(&self) -> u32 {
        self.target.caller().peer.pid
    }

    /// Whether the child is alive and takes calls. Stays `true` for a child that this process is not permitted to kill, as long as it lives.
    pub fn is_alive(&self) -> bool {
        self.target.caller().peer.peer_status.is_alive()
    }

    /// How many children this bridge had before the current one: 0, unless it [restarts](Builder::restart). Each child has a freshly constructed
    /// service, without any state of the one before.
    pub fn generation(&self) -> u64 {
        match &self.target {
            Target::Single(_) => 0,
            Target::Supervised(supervisor) => supervisor.current().generation,
        }
    }

    /// Which parts of the child's [sandbox](Builder::sandbox) are in force, and which were left out. `None` if it has no sandbox.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{Measure, Sandbox, bridge};
    /// # struct Service;
    /// # #[bridge]
    /// # impl Service { pub fn new() -> Self { Service } }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let service = Service::bridge().sandbox(Sandbox::new().no_network().optional(Measure::Processes)).start()?;
    /// let report = service.sandbox_report().ok_or("no sandbox")?;
    /// assert!(report.is_in_force(Measure::Network));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sandbox")]
    pub fn sandbox_report(&self) -> Option<crate::SandboxReport> {
        let caller = self.target.caller();
        caller.peer.kept.as_ref()?.downcast_ref::<crate::SandboxReport>().cloned()
    }

    /// The same methods, without waiting: each sends its request and returns a [`Pending`], which yields the result later, to a thread or a task.
    ///
    /// A lane carries [`Builder::pending_calls`] of them. If all lanes are full, the request is encoded all the same and sent when there is room, up to
    /// the bounds of [`Builder::queue`]; beyond, the call fails with [`CallError::Busy`]. A result that nobody takes holds up nothing. A service
    /// with one worker answers them one after the other. [`stop`](Self::stop) takes effect after those that have been sent: the child answers
    /// them, as far as its grace period allows, and their results can be taken afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::bridge;
    /// struct Squares;
    ///
    /// #[bridge]
    /// impl Squares {
    ///     pub fn new() -> Self { Squares }
    ///     pub fn square(&self, n: u64) -> u64 { n * n }
    /// }
    ///
    /// #[callgate::main]
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let squares = Squares::bridge().start()?;
    ///     let pending = squares.begin().square(7);
    ///     // .. something else meanwhile
    ///     assert_eq!(pending.wait()?, 49);
    ///     Ok(())
    /// }
    /// ```
    #[must_use = "it does nothing until a method is called on it"]
    #[inline]
    pub fn begin(&self) -> Calling<'_, T, Deferred> {
        Calling::kept(self, &self.deferred)
    }

    /// The same methods, without deserialising the result: each returns a [`View`], which dereferences to the archived result.
    /// Use it to read a small part of a large result: the only allocation is the copy that the view owns.
    ///
    /// The copy is validated like any reply. A view gives no access to types that validation does not make safe to read in place, above all
    /// maps and sets: see [`Viewable`](crate::Viewable). Derive it on your types with `#[rkyv(derive(callgate::Viewable))]`.
    ///
    /// # Examples
    ///
    /// ```
    /// use callgate::{Viewable, bridge};
    /// use rkyv::{Archive, Deserialize, Serialize};
    ///
    /// #[derive(Archive, Serialize, Deserialize)]
    /// #[rkyv(derive(Viewable))]
    /// pub struct Track {
    ///     title: String,
    ///     seconds: u32,
    /// }
    ///
    /// struct Album;
    ///
    /// #[bridge]
    /// impl Album {
    ///     pub fn new() -> Self { Album }
    ///     pub fn tracks(&self) -> Vec<Track> {
    ///         let track = |n: u32| Track { title: format!("Track number {n}"), seconds: 60 * n };
    ///         (1..=12).map(track).collect()
    ///     }
    /// }
    ///
    /// #[callgate::main]
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let album = Album::bridge().start()?;
    ///     let tracks = album.view().tracks()?;
    ///     assert_eq!(tracks.len(), 12);
    ///     let longest = tracks.iter().max_by_key(|track| track.seconds).ok_or("no tracks")?;
    ///     assert_eq!(longest.title, "Track number 12");
    ///     assert_eq!(longest.seconds.to_native(), 720);
    ///     Ok(())
    /// }
    /// ```
    #[must_use = "it does nothing until a method is called on it"]
    pub fn view(&self) -> Calling<'_, T, InPlace> {
        self.in_place(self.timeout)
    }

    /// The same methods, one-way: each returns when its request is written, and its result is dropped in the child. The cheapest way to tell a service
    /// something. Waits for room if the child is behind.
    ///
    /// The one-way calls of a thread and its calls after them, of any kind, are carried out in their order. [`flush`](Self::flush) waits for them and
    /// returns the first failure. Not for methods that are called within calls of the same child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::bridge;
    /// # struct Log(Vec<String>);
    /// # #[bridge]
    /// # impl Log {
    /// #     pub fn new() -> Self { Log(Vec::new()) }
    /// #     pub fn line(&mut self, text: &str) { self.0.push(text.into()) }
    /// #     pub fn lines(&self) -> usize { self.0.len() }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let log = Log::bridge().start()?;
    /// for number in 0..1000 {
    ///     log.send().line(&format!("line {number}"))?;
    /// }
    /// assert_eq!(log.lines()?, 1000);
    /// log.flush()?; // none has failed
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "it does nothing until a method is called on it"]
    #[inline]
    pub fn send(&self) -> Calling<'_, T, OneWay> {
        Calling::kept(self, &self.one_way)
    }

    fn one_way(&self, timeout: Option<Duration>) -> Calling<'_, T, OneWay> {
        Calling::new(self, OneWay::new(self.target.clone(), timeout), timeout)
    }

    /// Waits until every [one-way call](Self::send) of this bridge has been carried out, by whichever thread.
    ///
    /// # Errors
    ///
    /// The first failure of a one-way call since the last flush: above all [`CallError::Panicked`], and [`CallError::Died`] if the child ended before it
    /// had acknowledged them all. Any other error that a call can have.
    pub fn flush(&self) -> Result<(), CallError> {
        self.target.flush(const { &Method::flush_of::<T>() }, self.timeout)
    }

    /// Runs `begin`, which begins calls, and notifies the child once for all of them. `begin` gets the same methods as [`begin`](Self::begin) returns;
    /// [one-way calls](Self::send) belong to the batch, too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::bridge;
    /// # struct Squares;
    /// # #[bridge]
    /// # impl Squares {
    /// #     pub fn new() -> Self { Squares }
    /// #     pub fn square(&self, n: u64) -> u64 { n * n }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let squares = Squares::bridge().start()?;
    /// let pending = squares.batch(|batch| [1, 2, 3].map(|n| batch.square(n)));
    /// for (pending, square) in pending.into_iter().zip([1, 4, 9]) {
    ///     assert_eq!(pending.wait()?, square);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch<R>(&self, begin: impl FnOnce(&Calling<'_, T, Deferred>) -> R) -> R {
        let calling = self.begin();
        batch(|| begin(&calling))
    }

    fn deferred(&self, timeout: Option<Duration>) -> Calling<'_, T, Deferred> {
        Calling::new(self, Deferred::new(self.target.clone(), timeout, self.doorbell.clone()), timeout)
    }

    fn in_place(&self, timeout: Option<Duration>) -> Calling<'_, T, InPlace> {
        Calling::new(self, InPlace::new(self.target.clone(), timeout), timeout)
    }

    /// Silences the [descriptor](#a-loop-of-your-own) until it rings again. Call it before polling the pending calls, not after: otherwise it
    /// can erase a ring that arrives in between.
    pub fn clear_doorbell(&self) {
        self.doorbell.clear();
    }

    /// The same methods, with this timeout for each call: the longest time to wait for a lane and the reply together.
    /// [`begin`](Calling::begin) and [`view`](Calling::view) can follow.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{bridge, CallError};
    /// # use std::time::Duration;
    /// struct Sleeper;
    ///
    /// #[bridge]
    /// impl Sleeper {
    ///     pub fn new() -> Self { Sleeper }
    ///     pub fn sleep(&self, ms: u64) { std::thread::sleep(Duration::from_millis(ms)) }
    /// }
    ///
    /// #[callgate::main]
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let sleeper = Sleeper::bridge().start()?;
    ///     let late = sleeper.with_timeout(Duration::from_millis(20)).sleep(200);
    ///     assert!(matches!(late, Err(CallError::TimedOut { .. })));
    ///     sleeper.sleep(0)?;
    ///     Ok(())
    /// }
    /// ```
    #[must_use = "it does nothing until a method is called on it"]
    pub fn with_timeout(&self, timeout: Duration) -> Calling<'_, T, Blocking> {
        let timeout = Some(timeout);
        Calling::new(self, Blocking::new(self.target.clone(), timeout), timeout)
    }

    /// Stops the child and returns how it ended: it answers the calls already sent, drops the service and exits. Later calls
    /// fail with [`CallError::Stopped`]. Results of pending calls can still be taken; they do not delay the stop.
    ///
    /// # Errors
    ///
    /// [`CallError::Panicked`] if the service's destructor panicked; the child has exited all the same.
    /// [`CallError::TimedOut`] if stopping took longer than [`Builder::stop_grace`]; the child has been killed.
    /// [`CallError::Died`] or [`CallError::Corrupt`] if the child had already ended. A second `stop` returns how the
    /// child ended.
    pub fn stop(&self) -> Result<Exit, CallError> {
        self.target.stop(const { &Method::drop_of::<T>() }, self.stop_grace)
    }

    /// Replaces the child at once, even in the middle of a call, and returns when the new child serves. The new service is as its constructor
    /// makes it. Only for bridges that [restart](Builder::restart). The replacement does not count towards [`Restart::at_most`], and a bridge
    /// that has given up comes back into use.
    ///
    /// A call that the child was running fails with [`CallError::Died`], which says so. Calls that it had not begun run again in the new child,
    /// except those of [`begin`](Self::begin). A [hook](Builder::on_event) may call this; it does not wait for the new child.
    ///
    /// # Errors
    ///
    /// [`CallError::Down`] if the new child does not start; if the error says `restarting`, the bridge keeps trying. [`CallError::Stopped`] if
    /// the bridge has been stopped. [`CallError::Refused`] if the bridge does not restart: it keeps nothing to start another child from.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{Restart, bridge};
    /// # struct Counter(u64);
    /// # #[bridge]
    /// # impl Counter {
    /// #     pub fn new() -> Self { Counter(0) }
    /// #     pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counter = Counter::bridge().restart(Restart::on_failure()).start()?;
    /// assert_eq!(counter.add(1)?, 1);
    /// counter.restart()?;
    /// assert_eq!((counter.add(1)?, counter.generation()), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn restart(&self) -> Result<(), CallError> {
        self.target.restart(const { &Method::restart_of::<T>() })
    }

    /// Kills the child at once (SIGKILL), waits until it is gone, and returns how it ended. No other child is started, even if the bridge
    /// [restarts](Builder::restart). Calls in flight fail with [`CallError::Stopped`].
    ///
    /// If this process is not permitted to kill the child (one of the two has changed its user since the start), it tells the child to end itself,
    /// which the child does at once, whatever its service is doing. If the child cannot do even that (a signal has stopped it, say), this returns
    /// [`Exit::Running`] after 10 s.
    pub fn kill(&self) -> Exit {
        self.target.kill()
    }
}

impl<T: Service> Memory for Bridge<T> {}

impl<T: Service> place::Sealed for Bridge<T> {
    fn pool(&self) -> place::PoolOf {
        place::PoolOf::new(self.target.caller().pool().clone(), self.timeout)
    }

    fn take_late_replies(&self) {
        self.target.caller().take_late_replies();
    }
}

impl<T: Service> Deref for Bridge<T> {
    type Target = T::Calls<Blocking>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.calls
    }
}

impl<T: Service> Bridge<T> {
    fn let_go(&self, patience: Duration) {
        self.target.let_go(const { &Method::drop_of::<T>() }, self.stop_grace, patience);
    }
}

impl<T: Service> Drop for Bridge<T> {
    fn drop(&mut self) {
        self.let_go(LET_GO_TIMEOUT);
    }
}

/// See [a loop of your own](#a-loop-of-your-own).
impl<T: Service> AsFd for Bridge<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

impl<T: Service> fmt::Debug for Bridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("service", &T::NAME)
            .field("child_pid", &self.child_pid())
            .field("is_alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}
