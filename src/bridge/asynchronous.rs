//! Bridges whose methods are awaited.
//!
//! Needs no runtime: pending calls wake their tasks from the process's watcher thread. Only a start and a stop, which wait for a process, have a thread of
//! their own while they last.

#![forbid(unsafe_code)]

use super::{Bridge, Builder, Calling, Deferred};
use crate::start_error::StartError;
use callgate_engine::service::Service;
use callgate_transport::error::{CallError, Exit};
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

/// A [`Bridge`] whose methods return futures: `counter.add(2).await?`.
///
/// Dereferences to the same proxy as a bridge does, in the mode of [`Bridge::begin`]: each call is sent at once and gives a
/// [`Pending`](crate::Pending), which is `Send` and borrows nothing. Works on any executor. A task that drops a call cancels it, unless it has started.
///
/// Clones are the same bridge. Dropping the last one stops the child, and never waits. If the bridge [restarts](Builder::restart), a call made while there is no
/// child fails at once with [`CallError::Down`], and none is made again.
///
/// # Examples
///
/// ```
/// # use callgate::bridge;
/// struct Counter(u64);
///
/// #[bridge]
/// impl Counter {
///     pub fn new(start: u64) -> Self { Counter(start) }
///     pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
/// }
///
/// async fn count() -> Result<(), Box<dyn std::error::Error>> {
///     let counter = Counter::bridge(40).start_async().await?;
///     assert_eq!(counter.add(2).await?, 42);
///     let (first, second) = (counter.add(1), counter.add(1)); // both on their way
///     assert_eq!((first.await?, second.await?), (43, 44));
///     assert!(counter.stop().await?.success());
///     Ok(())
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     pollster::block_on(count()) // or any runtime
/// }
/// ```
#[must_use = "dropping a bridge stops its child"]
pub struct AsyncBridge<T: Service>(Arc<Tasks<T>>);

/// What the clones of an async bridge share.
struct Tasks<T: Service> {
    calls: T::Calls<Deferred>,
    bridge: Arc<Bridge<T>>,
}

impl<T: Service> AsyncBridge<T> {
    /// The bridge itself, for everything that waits for nothing, and for threads that call it too.
    pub fn as_blocking(&self) -> &Bridge<T> {
        &self.0.bridge
    }

    /// The same methods, with this timeout for each call.
    #[must_use = "it does nothing until a method is called on it"]
    pub fn with_timeout(&self, timeout: Duration) -> Calling<'_, T, Deferred> {
        self.0.bridge.deferred(Some(timeout))
    }

    /// Stops the child, as [`Bridge::stop`] does, without blocking the task. Begins at once, and goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Bridge::stop`].
    pub fn stop(&self) -> impl Future<Output = Result<Exit, CallError>> + Send + use<T> {
        let bridge = self.0.bridge.clone();
        aside(move || bridge.stop())
    }

    /// Replaces the child, as [`Bridge::restart`] does, without blocking the task. Begins at once, and goes on if the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Bridge::restart`].
    pub fn restart(&self) -> impl Future<Output = Result<(), CallError>> + Send + use<T> {
        let bridge = self.0.bridge.clone();
        aside(move || bridge.restart())
    }
}

impl<T: Service> Deref for AsyncBridge<T> {
    type Target = T::Calls<Deferred>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0.calls
    }
}

impl<T: Service> Clone for AsyncBridge<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Service> Drop for Tasks<T> {
    fn drop(&mut self) {
        self.bridge.let_go(Duration::ZERO);
    }
}

impl<T: Service> fmt::Debug for AsyncBridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncBridge").field(&self.0.bridge).finish()
    }
}

impl<T: Service> Bridge<T> {
    /// The same bridge, for tasks.
    pub fn into_async(self) -> AsyncBridge<T> {
        let calls = T::calls(Deferred::new(self.target.clone(), self.timeout, self.doorbell.clone()));
        AsyncBridge(Arc::new(Tasks { calls, bridge: Arc::new(self) }))
    }

    /// The same methods for a task: each returns a [`Pending`](crate::Pending), which can be awaited. Another name for [`begin`](Self::begin). Threads and
    /// tasks may use one bridge at the same time.
    #[must_use = "it does nothing until a method is called on it"]
    pub fn as_async(&self) -> Calling<'_, T, Deferred> {
        self.begin()
    }
}

impl<T: Service> Builder<T> {
    /// Starts the child as [`start`](Self::start) does, without blocking the task. Begins at once; if the future is dropped, the child is stopped.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_async(self) -> impl Future<Output = Result<AsyncBridge<T>, StartError>> + Send + use<T> {
        aside(move || self.start().map(Bridge::into_async))
    }
}

/// Runs `work` on a thread of its own; on this one if none can be started.
fn aside<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Offloaded<R> {
    let shared = Arc::new(Mutex::new(OffloadedState { outcome: None, waker: None }));
    let work = Arc::new(Mutex::new(Some((work, shared.clone()))));
    let theirs = work.clone();
    let started = thread::Builder::new().name("callgate-aside".into()).spawn(move || run(&theirs));
    if started.is_err() {
        run(&work);
    }
    Offloaded(shared)
}

/// Work, and where its outcome goes.
type SharedWork<R, W> = Mutex<Option<(W, Arc<Mutex<OffloadedState<R>>>)>>;

fn run<R, W: FnOnce() -> R>(work: &SharedWork<R, W>) {
    let Some((work, shared)) = work.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    state.outcome = Some(outcome);
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

/// The outcome of work on a thread of its own.
struct Offloaded<R>(Arc<Mutex<OffloadedState<R>>>);

struct OffloadedState<R> {
    outcome: Option<thread::Result<R>>,
    waker: Option<Waker>,
}

impl<R> Future for Offloaded<R> {
    type Output = R;

    /// # Panics
    ///
    /// If the work panicked, with the same payload.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.outcome.take() {
            Some(Ok(outcome)) => Poll::Ready(outcome),
            Some(Err(panic)) => resume_unwind(panic),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
