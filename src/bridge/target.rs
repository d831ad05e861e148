//! From a bridge to its child: for good, or to whichever child there is.

#![forbid(unsafe_code)]

use super::supervisor::{Supervisor, no_restart};
use callgate_engine::caller::{Begun, Caller};
use callgate_engine::service::Method;
use callgate_transport::error::{CallError, Exit};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use std::sync::Arc;
use std::time::Duration;

/// The way to a bridge's child.
#[derive(Clone)]
pub(super) enum Target {
    /// There is one child, and no other after it.
    Single(Arc<Caller>),
    /// There may be others after it.
    Supervised(Arc<Supervisor>),
}

impl Target {
    /// The calling side of the child that there is now, or was last.
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

    /// Begins a call that is not waited for. It is not made again if the child dies.
    pub(super) fn begin<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<Begun, CallError> {
        match self {
            Target::Single(caller) => caller.begin(method, args, timeout),
            Target::Supervised(supervisor) => supervisor.now(method)?.caller.begin(method, args, timeout),
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

    /// Tells the child to stop, without waiting, and starts no other.
    pub(super) fn let_go(&self, drop: &'static Method, grace: Duration) {
        match self {
            Target::Single(caller) => caller.let_go(drop, grace),
            Target::Supervised(supervisor) => supervisor.let_go(drop, grace),
        }
    }
}
