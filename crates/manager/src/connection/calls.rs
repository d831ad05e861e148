//! Calls of callbacks by name, in this process or at the other side of a pair.
//!
//! A call first tries the callback's cached location. On a miss, or if the callback has left before the call started, it asks the hub and retries.

#![forbid(unsafe_code)]

use super::{BREATH, Manager};
use crate::args::Args;
use crate::call_errors::{
    CallError, Retry, as_gone, classify, failure_shown, method_named, no_hub, of_failure, refused, too_deep,
};
use crate::callbacks::DYNAMIC;
use crate::client::{CallbackPlace, Client, ResolvedCallback, Unanswered};
use crate::typed::{Arguments, Item, shallow, shallow_args};
use crate::value::Value;
use callgate_engine::caller::Caller;
use callgate_engine::nest::Within;
use callgate_engine::panic;
use callgate_engine::service::Method;
use callgate_transport::bare::Bare;
use callgate_transport::error::{self, CallbackError, Started};
use callgate_transport::reply::{CallbackReply, Reply};
use callgate_transport::request::Request;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const IN_FORK: &str = "this process is a fork of the one that is connected; connect here";

impl Manager {
    /// Calls the callback `name`; `None` if nobody has registered it.
    ///
    /// # Errors
    ///
    /// [`CallError`]: `Callback` if the callback failed, `Mismatch` if it takes other arguments, `Gone` if its process ended, `NoHub`, or
    /// `Call` with an error that bridges have too, such as `TimedOut`.
    pub fn call(&self, name: &str, args: Args) -> Result<Option<Value>, CallError> {
        let args = shallow_args(args).map_err(|error| too_deep(name, error))?;
        // Stays `Some`: values lend the callee no memory, so a failed attempt leaves them here.
        let mut args = Some(Bare(args));
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) => {
                let call = u64::from(target.number) | DYNAMIC;
                call_there(caller, method, call, &mut args, timeout).map(|Bare(value)| value)
            }
            CallbackPlace::Here => {
                let args = args.as_ref().map_or_else(Args::new, |Bare(args)| args.clone());
                self.call_here(target, method, args)
            }
        })
    }

    /// Calls the callback `name` with a tuple of typed arguments, for a typed result; `None` if nobody has registered it. If the callback was
    /// registered with the same types, nothing is converted on the way.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); also `Mismatch` if the result is no `R`.
    pub fn call_as<R: Item>(&self, name: &str, args: impl Arguments) -> Result<Option<R>, CallError> {
        self.call_typed(name, args)
    }

    fn call_typed<A: Arguments, R: Item>(&self, name: &str, args: A) -> Result<Option<R>, CallError> {
        let mut args = Some(shallow(args).map_err(|error| too_deep(name, error))?);
        let mut dynamic: Option<Args> = None;
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) if args.is_some() && target.agrees::<A, R>() => {
                call_there(caller, method, target.number.into(), &mut args, timeout)
            }
            place => {
                let args = dynamic.get_or_insert_with(|| args.take().map_or_else(Args::new, A::into_args)).clone();
                let value = match place {
                    CallbackPlace::Here => self.call_here(target, method, args)?,
                    CallbackPlace::There(caller) => {
                        let call = u64::from(target.number) | DYNAMIC;
                        let Bare(value) = call_there(caller, method, call, &mut Some(Bare(args)), timeout)?;
                        value
                    }
                };
                R::from_value(value).map_err(|mismatch| CallError::Mismatch {
                    call: method.call_name(),
                    expected: mismatch.expected,
                    found: mismatch.found,
                })
            }
        })
    }

    /// Calls a callback of this process.
    fn call_here(&self, target: &ResolvedCallback, method: &'static Method, args: Args) -> Result<Value, CallError> {
        let call = method.call_name();
        let _within = Within::new(call)?;
        let pid = std::process::id();
        let callbacks = &self.shared.callbacks;
        let registered = callbacks.get(target.number).ok_or(CallError::Gone { call, pid, started: Started::No })?;
        let spent = || {
            callbacks.remove(target.number);
            self.shared.unregistered(target.number);
        };
        let run = || registered.run(spent, |answer, begin| answer.call_dynamic(args, begin));
        let result = panic::catch(run).map_err(|fault| error::CallError::Panicked { call, fault });
        // The callback's destructor may panic too.
        let _ = panic::catch(move || drop(registered));
        result?.map_err(|failure| of_failure(failure, call, pid))
    }

    /// Runs `call` on the cached location of the callback `name`; on a miss, asks the hub and retries.
    #[inline]
    fn reach<T>(
        &self,
        name: &str,
        mut call: impl FnMut(&ResolvedCallback, &'static Method, Option<Duration>) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        let client = self.shared.client.load();
        let Some(client) = client.as_ref() else {
            return Err(no_hub(name, "this process is not connected to a hub".into()));
        };
        if let Some(target) = client.known().get(name) {
            match call(target, target.method, Some(self.shared.timeout)) {
                Ok(result) => return Ok(Some(result)),
                Err(error) => drop(self.may_retry(client, name, target, error)?),
            }
        }
        self.reach_slow(client, name, call)
    }

    #[cold]
    fn reach_slow<T>(
        &self,
        client: &Arc<Client>,
        name: &str,
        mut call: impl FnMut(&ResolvedCallback, &'static Method, Option<Duration>) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        if client.is_in_fork() {
            return Err(refused(name, IN_FORK.into()));
        }
        let deadline = self.shared.deadline();
        let mut last = None;
        loop {
            let target = match client.resolve(name, method_named, deadline) {
                Ok(Some(target)) => target,
                Ok(None) => return Ok(None),
                Err(Unanswered::Lost(why)) => return Err(no_hub(name, why)),
                Err(Unanswered::Late) => {
                    return Err(last.unwrap_or_else(|| no_hub(name, "the hub does not answer".into())));
                }
                Err(Unanswered::Refused(why)) => return Err(refused(name, why)),
            };
            let error = match call(&target, target.method, deadline.left()) {
                Ok(result) => return Ok(Some(result)),
                Err(error) => self.may_retry(client, name, &target, error)?,
            };
            // The owner has ended, and the hub may not know it yet.
            thread::sleep(BREATH.min(deadline.left().unwrap_or(BREATH)));
            if deadline.has_passed() {
                return Err(error);
            }
            last = Some(error);
        }
    }

    /// Applies the retry policy to a call of `target` that failed with `error`.
    ///
    /// # Errors
    ///
    /// The call's error, if the call is not to be retried; `Ok` has the same, in case no attempt succeeds.
    #[cold]
    fn may_retry(
        &self,
        client: &Client,
        name: &str,
        target: &Arc<ResolvedCallback>,
        error: CallError,
    ) -> Result<CallError, CallError> {
        let retry = classify(&error);
        if retry != Retry::AskHub && client.is_in_fork() {
            return Err(refused(name, IN_FORK.into()));
        }
        match retry {
            Retry::AskHub => {
                client.forget(name, target);
                Ok(as_gone(error))
            }
            Retry::ForgetLocation => {
                client.forget(name, target);
                Err(as_gone(error))
            }
            Retry::No => Err(self.with_whole_timeout(error)),
        }
    }

    /// A timeout's error names the time that the whole call had, not what an attempt had left of it.
    fn with_whole_timeout(&self, mut error: CallError) -> CallError {
        if let CallError::Call(error::CallError::TimedOut { timeout, .. }) = &mut error {
            *timeout = self.shared.timeout;
        }
        error
    }
}

/// Calls a callback at the other side of a pair.
#[inline]
fn call_there<A: Request, R: Reply>(
    caller: &Caller,
    method: &'static Method,
    call: u64,
    args: &mut Option<A>,
    timeout: Option<Duration>,
) -> Result<R, CallError> {
    let CallbackReply(result) = caller.call_by_word(method, call, args, timeout)?;
    result.map_err(|failure| failure_slow(failure, caller, method))
}

#[cold]
fn failure_slow(failure: CallbackError, caller: &Caller, method: &'static Method) -> CallError {
    of_failure(failure_shown(failure), method.call_name(), caller.peer.pid)
}
