//! The outcome of a call: the value in its reply, or an error.
//!
//! Kills a child that broke an invariant. Never waits.

#![forbid(unsafe_code)]

use super::{CallContext, Caller};
use crate::lane::{CallerLane, Frame, SendError};
use crate::peer_status::Cause;
use callgate_os::text::shown;
use callgate_transport::commit::{Beyond, Kind, Limit, Place};
use callgate_transport::error::{Awaited, CallError, CallbackError, Exit, Fault, NoMemory, Payload, Started};
use callgate_transport::reading::{DecodeRefusal, TOO_MANY, last_refusal};
use callgate_transport::reply::Reply;
use rkyv::rancor::Failure;

impl Caller {
    /// The value in the reply to a request of `kind`.
    #[inline]
    pub(super) fn outcome<R: Reply>(
        &self,
        frame: &Frame<'_>,
        kind: Kind,
        context: &CallContext,
    ) -> Result<R, CallError> {
        if frame.commit.kind == kind {
            return self.payload(frame, context);
        }
        if frame.commit.kind == Kind::Failed {
            return self.callback_failure_slow(frame, context);
        }
        Err(self.failure_slow(frame, context))
    }

    /// The failure that a callback reports. A bridge's child has no callbacks.
    #[cold]
    fn callback_failure_slow<R: Reply>(&self, frame: &Frame<'_>, context: &CallContext) -> Result<R, CallError> {
        let failure = self.payload::<CallbackError>(frame, context)?;
        R::from_failure(failure).ok_or_else(|| self.corrupt("a failure that only callbacks report", context))
    }

    #[inline]
    fn payload<R: Reply>(&self, frame: &Frame<'_>, context: &CallContext) -> Result<R, CallError> {
        let decoded = match frame.commit.place {
            Place::Slot(_) => R::from_slot(frame.line, frame.payload, self.decoder(context)),
            Place::Block(place) => {
                let block = self.pool.peer_block(place);
                let block = block.ok_or_else(|| self.corrupt("a reply in memory that it does not have", context))?;
                match self.peer.trust {
                    Some(trust) => R::from_trusted_block(block, place.loan_id, self.decoder(context), trust),
                    None => R::from_block(block, self.decoder(context)),
                }
            }
        };
        decoded.map(|value| value.with_trust(self.peer.trust)).map_err(|Failure| self.unread(context))
    }

    #[cold]
    pub(super) fn failure_slow(&self, frame: &Frame<'_>, context: &CallContext) -> CallError {
        let call = context.name();
        let failure =
            match frame.commit.kind {
                Kind::Fault => self
                    .payload::<Fault>(frame, context)
                    .map(|fault| CallError::Panicked { call, fault: Box::new(fault.shown()) }),
                Kind::TooLarge => self.payload::<Limit>(frame, context).map(|Limit { len, max }| CallError::TooLarge {
                    call,
                    what: Payload::Reply,
                    len,
                    max,
                }),
                Kind::Exhausted => self
                    .payload::<Limit>(frame, context)
                    .map(|Limit { len, max }| CallError::Exhausted { call, what: Payload::Reply, len, budget: max }),
                Kind::Refused if frame.commit.place == Place::Slot(0) => {
                    Ok(CallError::Refused { call, why: "there is no memory left to say why".into() })
                }
                Kind::Refused => self.payload::<String>(frame, context).map(|why| match why == TOO_MANY {
                    true => CallError::TooMany { call, what: Payload::Request, limit: why },
                    false => CallError::Refused { call, why: shown(why) },
                }),
                Kind::Beyond => self.payload::<Beyond>(frame, context).map(|Beyond { is_request, is_depth, limit }| {
                    let (what, limit) = (if is_request { Payload::Request } else { Payload::Reply }, shown(limit));
                    match is_depth {
                        true => CallError::TooDeep { call, what, limit },
                        false => CallError::TooMany { call, what, limit },
                    }
                }),
                _ => Err(self.corrupt("a reply to another kind of request", context)),
            };
        failure.unwrap_or_else(|error| error)
    }

    #[cold]
    pub(super) fn unsent(&self, error: SendError, context: &CallContext) -> CallError {
        let call = context.name();
        // A dead child gives no memory back: its end is the reason, not the memory.
        if matches!(&error, SendError::NoMemory(why) if !matches!(why, NoMemory::TooLarge { .. }))
            && self.peer.peer_status.is_over()
        {
            return self.over(Started::No, context);
        }
        match error {
            SendError::NoMemory(NoMemory::TooLarge { len, max }) => {
                CallError::TooLarge { call, what: Payload::Request, len, max }
            }
            SendError::NoMemory(NoMemory::Exhausted { len, budget }) => {
                CallError::Exhausted { call, what: Payload::Request, len, budget }
            }
            SendError::NoMemory(NoMemory::Late { .. }) => self.timed_out_for(Awaited::Memory, Started::No, context),
            SendError::NoMemory(NoMemory::Unread { .. }) if context.deadline().has_passed() => {
                self.timed_out_for(Awaited::Memory, Started::No, context)
            }
            SendError::NoMemory(NoMemory::Failed { why }) => CallError::Refused { call, why },
            SendError::NoMemory(other) => CallError::Refused { call, why: other.to_string() },
            SendError::Encode | SendError::Beyond(_) => {
                CallError::Refused { call, why: "its arguments cannot be encoded".into() }
            }
        }
    }

    #[cold]
    pub(super) fn spent_slow(&self, context: &CallContext) -> CallError {
        let why = "its arguments were used up by an earlier attempt".into();
        CallError::Refused { call: context.name(), why }
    }

    #[cold]
    pub fn in_fork_slow(&self, context: &CallContext) -> CallError {
        let call = context.name();
        let why = match call.service {
            "" => "this process is a fork of the one that is connected; connect here",
            _ => "this process is a fork of the one that started the bridge; start another here",
        };
        CallError::Refused { call, why: why.into() }
    }

    /// The error of a call whose time ran out before it was sent: it waited for a lane, or for room on one.
    #[cold]
    pub(super) fn late(&self, context: &CallContext) -> CallError {
        self.timed_out_for(Awaited::Lane { lanes: self.lanes.len() as u32 }, Started::No, context)
    }

    #[cold]
    pub fn timed_out(&self, started: Started, context: &CallContext) -> CallError {
        self.timed_out_for(Awaited::Answer, started, context)
    }

    #[cold]
    pub(super) fn timed_out_for(&self, awaited: Awaited, started: Started, context: &CallContext) -> CallError {
        let error = self.out_of_time(awaited, started, context);
        self.overdue.iter().for_each(|overdue| overdue.tell(&error));
        error
    }

    #[cold]
    pub(super) fn out_of_time(&self, awaited: Awaited, started: Started, context: &CallContext) -> CallError {
        let timeout = context.limit.timeout.unwrap_or_default();
        CallError::TimedOut { call: context.name(), pid: self.peer.pid, timeout, awaited, started }
    }

    /// The error of a call whose reply this thread has just refused. A reply that no healthy peer sends breaks the protocol; if this side lacks the
    /// stack or the time for it, nobody is to blame.
    #[cold]
    pub fn unread(&self, context: &CallContext) -> CallError {
        let (call, what, refusal) = (context.name(), Payload::Reply, last_refusal());
        match refusal {
            DecodeRefusal::Invalid => self.corrupt("a reply that is not a valid archive of its type", context),
            DecodeRefusal::Depth => self.corrupt("a reply that nests deeper than 256 levels", context),
            DecodeRefusal::Elements => {
                self.corrupt("a reply with more zero-sized elements than bytes, and more than 65,536", context)
            }
            DecodeRefusal::Stack { .. } => {
                CallError::TooDeep { call, what, limit: refusal.limit().unwrap_or_default() }
            }
            DecodeRefusal::Memory { .. } => {
                CallError::Refused { call, why: format!("its {what}: {}", refusal.limit().unwrap_or_default()) }
            }
            DecodeRefusal::Late => self.timed_out(Started::Yes, context),
        }
    }

    /// Kills a child that broke an invariant.
    #[cold]
    pub fn corrupt(&self, what: &'static str, context: &CallContext) -> CallError {
        self.hold.end(Cause::Corrupt(what));
        CallError::Corrupt { call: context.name(), pid: self.peer.pid, what }
    }

    /// The error of a call whose peer, or conversation, ended before the reply.
    #[cold]
    pub fn ended(&self, lane: &CallerLane, position: u64, context: &CallContext) -> CallError {
        self.over(lane.leave(position), context)
    }

    /// The error of a call to a child that is gone, or about to be.
    #[cold]
    pub fn over(&self, started: Started, context: &CallContext) -> CallError {
        let (call, pid) = (context.name(), self.peer.pid);
        match self.peer.peer_status.cause() {
            Some(Cause::Corrupt(what)) => CallError::Corrupt { call, pid, what },
            Some(Cause::Stopped) => CallError::Stopped { call, pid, started },
            None => CallError::Died {
                call,
                pid,
                exit: self.peer.peer_status.exit().unwrap_or(Exit::Unknown),
                because: self.peer.peer_status.because(),
                started,
                last_words: self.peer.peer_status.last_words(),
            },
        }
    }
}
