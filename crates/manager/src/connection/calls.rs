//! Calls of callbacks by their names, wherever they are: in this process, or at the other side of a pair.
//!
//! A callback is called where it was found before. If it is there no more, the hub is asked, as long as nothing of the call has begun.

#![forbid(unsafe_code)]

use super::{BREATH, Manager};
use crate::args::Args;
use crate::call_errors::{as_gone, is_moved, method_named, no_hub, refused, too_deep};
use crate::callbacks::DYNAMIC;
use crate::client::{CallbackPlace, Client, ResolvedCallback, Unanswered};
use crate::typed::{Arguments, Item, shallow, shallow_args};
use crate::value::Value;
use callgate_engine::nest::Within;
use callgate_engine::panic;
use callgate_engine::service::Method;
use callgate_transport::bare::Bare;
use callgate_transport::error::TooDeep;
use callgate_transport::error::{CallError, CallbackError, Payload, Started};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const IN_FORK: &str = "this process is a fork of the one that is connected; connect here";

impl Manager {
    /// Calls the callback `name`; `None` if nobody has registered it.
    ///
    /// # Errors
    ///
    /// [`CallError`]: `Callback` if the callback failed, `Mismatch` if it takes other arguments, `Gone` if its process ended, `NoHub`,
    /// `TimedOut`, and others.
    pub fn call(&self, name: &str, args: Args) -> Result<Option<Value>, CallError> {
        let args = shallow_args(args).map_err(|error| too_deep(name, error))?;
        // Always there: values carry no memory of their own to the callee.
        let mut args = Some(Bare(args));
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) => {
                let call = u64::from(target.number) | DYNAMIC;
                caller.call_by_word(method, call, &mut args, timeout).map(|Bare(value)| value)
            }
            CallbackPlace::Here => {
                let args = args.as_ref().map_or_else(Args::new, |Bare(args)| args.clone());
                self.call_here(target, method, args)
            }
        })
    }

    /// Calls the callback `name` with typed arguments, a tuple, for a typed result; `None` if nobody has registered it. If the callback has
    /// just these types, none is converted on the way.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); `Mismatch` too if the result is no `R`.
    pub fn call_as<R: Item>(&self, name: &str, args: impl Arguments) -> Result<Option<R>, CallError> {
        self.call_typed(name, args)
    }

    fn call_typed<A: Arguments, R: Item>(&self, name: &str, args: A) -> Result<Option<R>, CallError> {
        let mut args = Some(shallow(args).map_err(|error| too_deep(name, error))?);
        let mut dynamic: Option<Args> = None;
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) if args.is_some() && target.agrees::<A, R>() => {
                caller.call_by_word(method, target.number.into(), &mut args, timeout)
            }
            place => {
                let args = dynamic.get_or_insert_with(|| args.take().map_or_else(Args::new, A::into_args)).clone();
                let value = match place {
                    CallbackPlace::Here => self.call_here(target, method, args)?,
                    CallbackPlace::There(caller) => {
                        let call = u64::from(target.number) | DYNAMIC;
                        let Bare(value) = caller.call_by_word(method, call, &mut Some(Bare(args)), timeout)?;
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

    /// Carries out a call of a callback of this very process.
    fn call_here(&self, target: &ResolvedCallback, method: &'static Method, args: Args) -> Result<Value, CallError> {
        let call = method.call_name();
        let _within = Within::new(call)?;
        let gone = || CallError::Gone { call, pid: std::process::id(), started: Started::No };
        let callbacks = &self.shared.callbacks;
        let registered = callbacks.get(target.number).ok_or_else(gone)?;
        let spent = || {
            callbacks.remove(target.number);
            self.shared.unregistered(target.number);
        };
        let run = || registered.run(spent, |answer, begin| answer.call_dynamic(args, begin));
        let result = panic::catch(run).map_err(|fault| CallError::Panicked { call, fault });
        // Its destructor may panic too.
        let _ = panic::catch(move || drop(registered));
        result?.map_err(|failure| match failure {
            CallbackError::Failed(message) => CallError::Callback { call, message },
            CallbackError::Mismatch { expected, found } => CallError::Mismatch { call, expected, found },
            CallbackError::Gone => gone(),
            CallbackError::TooDeep => CallError::TooDeep { call, what: Payload::Reply, limit: TooDeep.to_string() },
        })
    }

    /// Has `call` made of the callback `name`, wherever it is. If it is found to be there no more, looks for it anew.
    #[inline]
    fn reach<T>(
        &self,
        name: &str,
        mut call: impl FnMut(&ResolvedCallback, &'static Method, Option<Duration>) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        let client = self.shared.client.load();
        let Some(client) = client.as_ref() else {
            return Err(no_hub(name, "this process is connected to none".into()));
        };
        if let Some(target) = client.known().get(name) {
            match call(target, target.method, Some(self.shared.timeout)) {
                Ok(result) => return Ok(Some(result)),
                Err(error) if !is_moved(&error) => return Err(lost(client, name, target, error)),
                Err(_) => client.forget(name, target),
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
            match call(&target, target.method, deadline.left()).map_err(as_gone) {
                Err(error @ CallError::Gone { started: Started::No, .. }) => {
                    client.forget(name, &target);
                    // Its process has ended, and the hub may not know it yet.
                    thread::sleep(BREATH.min(deadline.left().unwrap_or(BREATH)));
                    if deadline.has_passed() {
                        return Err(error);
                    }
                    last = Some(error);
                }
                Err(error @ CallError::Gone { .. }) => {
                    client.forget(name, &target);
                    return Err(error);
                }
                // What was left of the time is not what the call was given.
                Err(CallError::TimedOut { call, pid, awaited, started, .. }) => {
                    return Err(CallError::TimedOut { call, pid, timeout: self.shared.timeout, awaited, started });
                }
                Err(error) => return Err(lost(client, name, &target, error)),
                Ok(result) => return Ok(Some(result)),
            }
        }
    }
}

/// The error of a call that is not made again. What broke the protocol is not called again either: the next call finds another way.
#[cold]
fn lost(client: &Client, name: &str, target: &Arc<ResolvedCallback>, error: CallError) -> CallError {
    if client.is_in_fork() {
        return refused(name, IN_FORK.into());
    }
    if matches!(error, CallError::Corrupt { .. }) {
        client.forget(name, target);
    }
    as_gone(error)
}
