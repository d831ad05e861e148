//! Where a bridge's calls go: to its only child, or to the current one of several.

#![forbid(unsafe_code)]

use super::supervisor::{Supervisor, no_restart};
use callgate_engine::caller::{Answerer, CallContext, Caller, PendingCall, PendingConversation, StreamCall};
use callgate_engine::service::Method;
use callgate_transport::decoder::Transfer;
use callgate_transport::error::{CallError, Exit};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

/// Where a bridge's calls go.
#[derive(Clone)]
pub(super) enum Target {
    /// The only child.
    Single(Arc<Caller>),
    /// The current child of a bridge that restarts or has hooks.
    Supervised(Arc<Supervisor>),
}

impl Target {
    /// The caller of the current or last child.
    pub(super) fn caller(&self) -> Arc<Caller> {
        match self {
            Target::Single(caller) => caller.clone(),
            Target::Supervised(supervisor) => supervisor.current().caller.clone(),
        }
    }

    /// Calls a method, and waits for the reply. `timeout` = the longest time to wait; `None` = no limit.
    #[inline]
    pub(super) fn call<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        match self {
            Target::Single(caller) => caller.call(method, args, timeout),
            Target::Supervised(supervisor) => supervisor.call(method, args, timeout),
        }
    }

    /// Calls a method that calls back. `callbacks` runs on this thread meanwhile.
    pub(super) fn converse<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        callbacks: &mut Answerer<'_>,
    ) -> Result<R, CallError> {
        match self {
            Target::Single(caller) => {
                caller.call_conversing(&CallContext::new(method, timeout), &mut Some(args), callbacks)
            }
            Target::Supervised(supervisor) => supervisor.converse(method, args, timeout, callbacks),
        }
    }

    /// Begins a call whose method calls back, likewise.
    pub(super) fn begin_conversing<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        callbacks: &mut Answerer<'_>,
    ) -> PendingConversation<R> {
        match self {
            Target::Single(caller) => caller.begin_conversing(method, args, timeout, callbacks),
            Target::Supervised(supervisor) => match supervisor.now(method) {
                Ok(child) => child.caller.begin_conversing(method, args, timeout, callbacks),
                Err((child, error)) => child.caller.conversing_failed(method, error),
            },
        }
    }

    /// Begins a call without waiting. It is not repeated if the child dies. `polled_by` = what wakes whoever polls it without a task.
    #[inline]
    pub(super) fn begin<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        polled_by: &Arc<OnceLock<Waker>>,
    ) -> PendingCall<R> {
        match self {
            Target::Single(caller) => caller.polled_by(polled_by).begin(method, args, timeout),
            Target::Supervised(supervisor) => match supervisor.now(method) {
                Ok(child) => child.caller.polled_by(polled_by).begin(method, args, timeout),
                Err((child, error)) => child.caller.begin_failed(method, error),
            },
        }
    }

    /// Opens a stream without waiting. It stays with the child.
    pub(super) fn open<A: Request, T: Transfer>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> StreamCall<T> {
        match self {
            Target::Single(caller) => caller.open_stream(method, args, timeout, false),
            Target::Supervised(supervisor) => match supervisor.now(method) {
                Ok(child) => child.caller.open_stream(method, args, timeout, false),
                Err((child, error)) => child.caller.open_failed(method, error),
            },
        }
    }

    /// The same for a thread that waits, for memory and for a child, too.
    pub(super) fn open_waiting<A: Request, T: Transfer>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<StreamCall<T>, CallError> {
        Ok(match self {
            Target::Single(caller) => caller.open_stream(method, args, timeout, true),
            Target::Supervised(supervisor) => {
                supervisor.living(method, timeout)?.caller.open_stream(method, args, timeout, true)
            }
        })
    }

    /// Sends a call that wants no result. It is not repeated if the child dies.
    pub(super) fn send<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<(), CallError> {
        match self {
            Target::Single(caller) => caller.send_one_way(method, args, timeout),
            Target::Supervised(supervisor) => supervisor.send(method, args, timeout),
        }
    }

    /// Waits until every call that wants no result has been carried out.
    pub(super) fn flush(&self, method: &'static Method, timeout: Option<Duration>) -> Result<(), CallError> {
        match self {
            Target::Single(caller) => caller.flush(method, timeout),
            Target::Supervised(supervisor) => supervisor.flush(method, timeout),
        }
    }

    /// Stops the child and starts no other.
    pub(super) fn stop(&self, drop: &'static Method, grace: Duration) -> Result<Exit, CallError> {
        match self {
            Target::Single(caller) => caller.stop(drop, grace),
            Target::Supervised(supervisor) => supervisor.stop(drop, grace),
        }
    }

    /// Replaces the child.
    pub(super) fn restart(&self, method: &'static Method) -> Result<(), CallError> {
        match self {
            Target::Single(_) => Err(no_restart(method)),
            Target::Supervised(supervisor) => supervisor.restart(method),
        }
    }

    /// Kills the child and starts no other.
    pub(super) fn kill(&self) -> Exit {
        match self {
            Target::Single(caller) => caller.kill(),
            Target::Supervised(supervisor) => supervisor.kill(),
        }
    }

    /// Tells the child to stop, and starts no other. Waits for an idle child for at most `patience`.
    pub(super) fn let_go(&self, drop: &'static Method, grace: Duration, patience: Duration) {
        match self {
            Target::Single(caller) => caller.let_go(drop, grace, patience),
            Target::Supervised(supervisor) => supervisor.let_go(drop, grace, patience),
        }
    }
}
