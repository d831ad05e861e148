//! Bridges: what users hold.
//!
//! Knows nothing of memory or futexes.

#![forbid(unsafe_code)]

mod blocking;
mod builder;
mod calling;
mod child_spec;
mod env_backends;
mod sandboxing;
mod deferred;
mod entry;
mod restart;
mod starting_child;
mod supervisor;
mod target;
mod view;

pub use blocking::Blocking;
pub use builder::Builder;
pub use calling::Calling;
pub use deferred::{Deferred, Pending};
pub use entry::{init, init_before_main, serve, serve_parallel};
pub use restart::{Death, Event, Restart};
pub use view::{InPlace, View};

use callgate_engine::service::{Method, Service};
use callgate_transport::error::{CallError, Exit};
use callgate_transport::shared_box::{Memory, place};
use callgate_transport::wake::Door;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use target::Target;

/// A service in a child process.
///
/// Dereferences to the proxy that `#[bridge]` generated: the service's methods, each returning `Result<_, CallError>`. Can be
/// called from many threads at once; with more threads than lanes, some wait for a lane. The child carries out one call at a time,
/// unless it has several [workers](Builder::workers).
///
/// Dropping the bridge asks the child to stop, and does not wait for it, but for 3 ms if it has nothing else to do: it answers the calls that it was sent,
/// drops the service and exits; if that takes longer than [`Builder::stop_grace`], it is killed. Where it matters that the service has been
/// dropped, or how the child ended, [`stop`](Self::stop) it. A child dies with its parent: one that is still at it when this process ends is
/// killed.
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
    target: Target,
    timeout: Option<Duration>,
    stop_grace: Duration,
}

impl<T: Service> Bridge<T> {
    fn new(target: Target, timeout: Option<Duration>, stop_grace: Duration) -> Self {
        Self { calls: T::calls(Blocking::new(target.clone(), timeout)), target, timeout, stop_grace }
    }

    /// The child's process number. For a bridge that [restarts](Builder::restart), that of the current or last child.
    pub fn child_pid(&self) -> u32 {
        self.target.caller().peer.pid
    }

    /// Whether the child lives and takes calls. Also true of a child that was told to end, while it lives because this process may not kill it.
    pub fn is_alive(&self) -> bool {
        self.target.caller().peer.peer_status.is_alive()
    }

    /// How many children this bridge had before the one that it has now: 0, unless it [restarts](Builder::restart). Each has a service
    /// as its constructor made it, which knows nothing of what became of the one before.
    pub fn generation(&self) -> u64 {
        match &self.target {
            Target::Single(_) => 0,
            Target::Supervised(supervisor) => supervisor.current().generation,
        }
    }

    /// What is in force of the [sandbox](Builder::sandbox) that the child was started with, and what was left out. `None` if it has none.
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

    /// The same methods, but none waits: each sends its request and returns a [`Pending`] that yields the result.
    ///
    /// Each such call has a lane of the bridge to itself until its result has been taken or it has been dropped; one that finds no
    /// lane free fails with [`CallError::Refused`], and a call that waits for its result waits for a lane too. So have as many
    /// [lanes](Builder::concurrent_callers) as calls that are to be pending at once, and one more. A service with one worker answers them one
    /// after the other. [`stop`](Self::stop) comes after them: the child answers those that are still pending, as long as its grace
    /// lasts, and their results can be taken afterwards.
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
    ///     let pending = squares.begin().square(7)?;
    ///     // .. something else meanwhile
    ///     assert_eq!(pending.wait()?, 49);
    ///     Ok(())
    /// }
    /// ```
    #[must_use = "it does nothing until a method is called on it"]
    pub fn begin(&self) -> Calling<'_, T, Deferred> {
        self.deferred(self.timeout)
    }

    /// The same methods, but none makes a value of what comes back: each returns a [`View`], which dereferences to the result as it
    /// is archived. For large results of which little is looked at: nothing is allocated but the copy that the view owns.
    ///
    /// The copy is validated as any reply is. What validation does not make safe to read in place, above all maps and sets, has no
    /// view to look into: see [`Viewable`](crate::Viewable). A type of yours says so with `#[rkyv(derive(callgate::Viewable))]`.
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

    fn deferred(&self, timeout: Option<Duration>) -> Calling<'_, T, Deferred> {
        Calling::new(self, Deferred::new(self.target.clone(), timeout), timeout)
    }

    fn in_place(&self, timeout: Option<Duration>) -> Calling<'_, T, InPlace> {
        Calling::new(self, InPlace::new(self.target.clone(), timeout), timeout)
    }

    /// A descriptor for a loop over epoll or poll: readable when a [pending call](Self::begin) may have been answered, or the
    /// child has ended. `None` unless the bridge was started with [`Signal::EventFd`](crate::Signal::EventFd), and without
    /// [`Builder::restart`] and [`Builder::on_death`].
    ///
    /// When it is readable: [`clear_doorbell`](Self::clear_doorbell), then [poll](Pending::poll) every pending call. It rings for
    /// every call whose last poll returned `None`.
    ///
    /// To be waited for by one thread, and not to be read or changed. It may become readable for nothing, and a hostile child can
    /// make it so over and over. Once the child has ended it stays readable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use callgate::{bridge, Signal};
    /// # use rustix::event::{PollFd, PollFlags, poll};
    /// # struct Squares;
    /// # #[bridge]
    /// # impl Squares {
    /// #     pub fn new() -> Self { Squares }
    /// #     pub fn square(&self, n: u64) -> u64 { n * n }
    /// # }
    /// # #[callgate::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let squares = Squares::bridge().signal(Signal::EventFd).start()?;
    /// let mut pending = squares.begin().square(7)?;
    /// let doorbell = squares.doorbell_fd().ok_or("no doorbell")?;
    /// let result = loop {
    ///     if let Some(result) = pending.poll() {
    ///         break result?;
    ///     }
    ///     poll(&mut [PollFd::new(&doorbell, PollFlags::IN)], None)?; // and whatever else the loop waits for
    ///     squares.clear_doorbell();
    /// };
    /// assert_eq!(result, 49);
    /// # Ok(())
    /// # }
    /// ```
    pub fn doorbell_fd(&self) -> Option<BorrowedFd<'_>> {
        self.door().map(|door| door.as_fd())
    }

    /// Makes the [doorbell](Self::doorbell_fd) quiet until it is rung again. Call it before polling pending calls: a ring after it
    /// must not be lost. Does nothing without such a doorbell.
    pub fn clear_doorbell(&self) {
        if let Some(door) = self.door() {
            let _rung = door.clear();
        }
    }

    /// Each child has its own doorbell, so a supervised bridge has none to offer.
    fn door(&self) -> Option<&Door> {
        match &self.target {
            Target::Single(caller) => caller.peer.door.as_ref(),
            Target::Supervised(_) => None,
        }
    }

    /// The same methods, with another timeout for each call: the longest time to wait for a lane and for the reply together.
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

    /// Stops the child: after the calls that were sent before, the service is dropped there and the process exits. Returns
    /// how it ended. Calls made after this fail with [`CallError::Stopped`]. Results that were not taken stay, to be taken, and keep nobody waiting.
    ///
    /// # Errors
    ///
    /// [`CallError::Panicked`] if the service's destructor panicked; the child has exited all the same.
    /// [`CallError::TimedOut`] if stopping took longer than [`Builder::stop_grace`]; the child has been killed.
    /// [`CallError::Died`] or [`CallError::Corrupt`] if the child had come to its end before. A second `stop` returns what the
    /// child's end was.
    pub fn stop(&self) -> Result<Exit, CallError> {
        self.target.stop(const { &Method::drop_of::<T>() }, self.stop_grace)
    }

    /// Exchanges the child for another, whatever it is at, and returns when that serves: its service is as its constructor makes it. For bridges
    /// that [restart](Builder::restart). It comes at once, and counts as none of the restarts that [`Restart::at_most`] allows; a bridge that has
    /// given up goes on.
    ///
    /// A call that the child was at fails with [`CallError::Died`], which says so; those that it had not begun are made again in the other, but for
    /// those of [`begin`](Self::begin). A [hook](Builder::on_event) may call this, and does not wait for the other child.
    ///
    /// # Errors
    ///
    /// [`CallError::Down`] if the other child does not come to serve; the bridge goes on trying, if it says `restarting`. [`CallError::Stopped`] if
    /// the bridge has been stopped. [`CallError::Refused`] if it is none that restarts: such a bridge keeps nothing to make another child of.
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

    /// Kills the child at once (SIGKILL), and returns when it is gone, and how it ended. There will be no other, also of a bridge that
    /// [restarts](Builder::restart). Calls in flight fail with [`CallError::Stopped`].
    ///
    /// A child that this process may not kill (one of the two has changed its user since the start) is told to end itself, which it does at once,
    /// whatever its service is at. One that cannot even do that, because it was stopped by a signal, say, is waited for no longer than 10 s:
    /// [`Exit::Running`].
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

impl<T: Service> Drop for Bridge<T> {
    fn drop(&mut self) {
        self.target.let_go(const { &Method::drop_of::<T>() }, self.stop_grace);
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
