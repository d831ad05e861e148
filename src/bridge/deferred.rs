//! Calls that do not wait: the request is sent, and the result is taken later, by a thread or a task.

#![forbid(unsafe_code)]

use super::Opening;
use super::doorbell::Doorbell;
use super::reactor;
use super::target::Target;
use callgate_engine::caller::{self, Answered, Answerer, Converse, PendingCall, Question};
use callgate_engine::service::{Method, Mode, sealed};
use callgate_transport::decoder::Transfer;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::{CallError, Started};
use callgate_transport::request::Request;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The mode that does not wait: a method returns a [`Pending`] as soon as its request is sent, or will be sent by itself.
#[derive(Clone)]
pub struct Deferred {
    target: Target,
    timeout: Option<Duration>,
    doorbell: Arc<Doorbell>,
}

impl Deferred {
    pub(super) fn new(target: Target, timeout: Option<Duration>, doorbell: Arc<Doorbell>) -> Self {
        Self { target, timeout, doorbell }
    }
}

impl sealed::Sealed for Deferred {}

impl Mode for Deferred {
    type Out<R: Transfer> = Pending<R>;
    type Items<T: Transfer> = Opening<T>;

    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Pending<R> {
        Pending { call: self.target.begin(method, args, self.timeout, self.doorbell.waker()) }
    }

    fn open<A: Request, T: Transfer>(&self, method: &'static Method, args: A) -> Opening<T> {
        Opening::new(self.target.open(method, args, self.timeout), self.timeout)
    }
}

impl Converse for Deferred {
    type Conversed<'c, R: Transfer> = Conversing<'c, R>;

    fn converse<'c, A: Request, R: Transfer, C: FnMut(Question<'_, '_>) -> Answered + 'c>(
        &self,
        method: &'static Method,
        args: A,
        mut callbacks: C,
    ) -> Conversing<'c, R> {
        let call = self.target.begin_conversing(method, args, self.timeout, &mut callbacks);
        Conversing { call, callbacks: Box::new(callbacks) }
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A call that has begun, see [`Bridge::begin`](crate::Bridge::begin). A thread [waits](Self::wait) for its result, or [polls](Self::poll) for
/// it; a task awaits it. Errors come with the result, also those of a call that could not be begun.
///
/// Dropping it abandons the call. If it has not started by then, it never runs; one that runs goes on, and its result is dropped.
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
/// let pending: Vec<_> = (1..=100).map(|n| squares.begin().square(n)).collect();
/// let sum = pending.into_iter().try_fold(0, |sum, pending| pending.wait().map(|square| sum + square))?;
/// assert_eq!(sum, 338_350);
/// # Ok(())
/// # }
/// ```
#[must_use = "its result is lost with it, and the call may not even run"]
pub struct Pending<R: Transfer> {
    call: PendingCall<R>,
}

impl<R: Transfer> Pending<R> {
    /// Returns the result if it has arrived; never waits. After `None`, the bridge's [descriptor](crate::Bridge#a-loop-of-your-own) becomes readable when
    /// it may have. The bridge's timeout counts from the start of the call.
    ///
    /// # Errors
    ///
    /// The same as those of a call that waits, see [`CallError`], and [`CallError::Busy`].
    ///
    /// # Panics
    ///
    /// If the result has been taken before.
    pub fn poll(&mut self) -> Option<Result<R, CallError>> {
        let outcome = self.call.poll_by_thread();
        if outcome.is_none() {
            // A loop of the user's own is no reactor.
            self.call.caller().rely_on_watcher();
        }
        outcome
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    ///
    /// # Panics
    ///
    /// If the result has been taken before.
    pub fn wait(mut self) -> Result<R, CallError> {
        match self.call.wait(Deadline::NEVER) {
            Some(result) => result,
            None => unreachable!("a wait without an end ends with the result"),
        }
    }

    /// Waits for the result for at most `time`; `None` if it has not arrived by then. The call goes on.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    ///
    /// # Panics
    ///
    /// If the result has been taken before.
    pub fn wait_timeout(&mut self, time: Duration) -> Option<Result<R, CallError>> {
        self.call.wait(Deadline::after(Some(time)))
    }

    /// Withdraws the call, and returns whether it had started: after [`Started::No`] it never runs. A method that runs can learn of it by
    /// [`callgate::call::is_cancelled`](crate::call::is_cancelled), and [`Builder::kill_after`](crate::Builder::kill_after) ends one that does not
    /// look. Takes some microseconds, unlike a drop.
    pub fn cancel(self) -> Started {
        self.call.cancel()
    }
}

impl<R: Transfer> Future for Pending<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.call.poll(Some(context.waker()));
        if outcome.is_none() {
            reactor::attend(self.call.caller());
        }
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<R: Transfer> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("method", &self.call.method().name).finish_non_exhaustive()
    }
}

/// A call that has begun, and whose method calls back: its callbacks run on the thread that waits for it, or when the task that awaits it is polled.
/// Like a [`Pending`], but it borrows what its callbacks borrow.
///
/// Dropping it abandons the call: its method ends when it calls back next, and never runs if it has not started.
///
/// # Examples
///
/// ```
/// # use callgate::bridge;
/// struct Search;
///
/// #[bridge]
/// impl Search {
///     pub fn new() -> Self { Search }
///     pub fn primes(&self, below: u32, found: &mut dyn FnMut(u32)) {
///         (2..below).filter(|n| (2..*n).all(|d| n % d != 0)).for_each(found);
///     }
/// }
///
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pollster::block_on(async {
/// let search = Search::bridge().start_async().await?;
/// let mut all = Vec::new();
/// search.primes(20, &mut |prime| all.push(prime)).await?;
/// assert_eq!(all, [2, 3, 5, 7, 11, 13, 17, 19]);
/// # Ok(())
/// # })
/// # }
/// ```
#[must_use = "its callbacks run only while it is awaited or waited for"]
pub struct Conversing<'c, R: Transfer> {
    call: caller::PendingConversation<R>,
    callbacks: Box<Answerer<'c>>,
}

impl<R: Transfer> Conversing<'_, R> {
    /// Waits for the result. The callbacks run on this thread meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Pending::poll`].
    ///
    /// # Panics
    ///
    /// If a callback does: with the same payload, once the method has ended. If the result has been taken before.
    pub fn wait(mut self) -> Result<R, CallError> {
        self.call.wait(&mut *self.callbacks)
    }
}

// Nothing in it is pinned.
impl<R: Transfer> Unpin for Conversing<'_, R> {}

impl<R: Transfer> Future for Conversing<'_, R> {
    type Output = Result<R, CallError>;

    /// # Panics
    ///
    /// As [`wait`](Conversing::wait).
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { call, callbacks } = &mut *self;
        let outcome = call.poll(context.waker(), &mut **callbacks);
        if outcome.is_none() {
            reactor::attend(call.caller());
        }
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<R: Transfer> fmt::Debug for Conversing<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversing").field("method", &self.call.method().name).finish_non_exhaustive()
    }
}
