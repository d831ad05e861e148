//! Calls that are tasks: what generated code makes of a request, and what becomes of it.
//!
//! A task owns its request, because the slot that it came in is used again while the task waits. It gives what is to be done with the reply's slot, which
//! it has only for a moment, when it ends.

#![forbid(unsafe_code)]

use super::{Access, Exchange, Incoming, UNREADABLE};
use crate::async_access::{AsyncService, ExclusiveGuard, SharedGuard, Want};
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Transfer;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::reading::ForArguments;
use callgate_transport::request::{Request, RequestSpan};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;

/// The service, as tasks have it.
pub type TaskAccess<'a, T> = &'a AsyncService<T>;

/// A task that carries out a call.
pub type TaskFuture<'a> = Pin<Box<dyn Future<Output = Finish<'a>> + 'a>>;

/// Writes the reply of a task that has ended.
pub type Finish<'a> = Box<dyn FnOnce(&mut Exchange<'_>) + 'a>;

/// The payload of a request that its task owns.
pub(crate) trait OwnedRequest {
    fn span(&self) -> RequestSpan<'_>;
}

/// A request that generated code makes a task of.
pub struct TaskCall {
    pub(crate) word: u64,
    pub(crate) request: Rc<dyn OwnedRequest>,
}

impl TaskCall {
    /// The method's number in its block.
    pub fn index(&self) -> u16 {
        (self.word & 0xffff) as u16
    }

    /// The number of the block, as [`Incoming::interface`].
    pub(crate) fn interface(&self) -> u16 {
        (self.word >> 16 & 0xffff) as u16
    }

    /// Reads the request and runs an async method, which makes its arguments at the first poll.
    pub fn answer<'a, A: Request + 'a, R: Transfer + 'a>(
        self,
        body: impl AsyncFnOnce(&A::Archived) -> R + 'a,
    ) -> TaskFuture<'a> {
        Box::pin(async move {
            let read = self.request.span().read::<A>();
            let need = read.and_then(|(args, need)| Ok((args, need.of_arguments(|| true)?)));
            let Ok((args, need)) = need else { return refused() };
            failpoints::reach(Step::ChildCalling);
            let value = run(need, body(args)).await;
            failpoints::reach(Step::ChildReturned);
            Box::new(move |exchange: &mut Exchange<'_>| exchange.reply(Kind::Call, &value)) as Finish<'a>
        })
    }

    /// Runs a method that is not async, in its turn.
    pub(crate) fn in_turn<'a, T>(
        self,
        service: TaskAccess<'a, T>,
        is_exclusive: fn(u16) -> bool,
        dispatch: impl FnOnce(LockedService<'_, 'a, T>, Incoming<'_, '_>) + 'a,
    ) -> TaskFuture<'a> {
        let want = if is_exclusive(self.index()) { Want::Exclusive } else { Want::Shared };
        Box::pin(async move {
            let turn = service.turn(want).await;
            Box::new(move |exchange: &mut Exchange<'_>| match want {
                Want::Shared => {
                    dispatch(LockedService::Shared(&service.share(turn)), Incoming { exchange, traits: &() })
                }
                Want::Exclusive => {
                    dispatch(LockedService::Exclusive(&mut service.exclude(turn)), Incoming { exchange, traits: &() })
                }
            }) as Finish<'a>
        })
    }
}

/// Refuses the request that this thread could not read just now.
fn refused<'a>() -> Finish<'a> {
    Box::new(|exchange| exchange.refuse_request(UNREADABLE))
}

/// Runs an async method, with the stack measured that its arguments need: they are made before it first waits.
async fn run<F: Future>(need: Option<ForArguments>, method: F) -> F::Output {
    let (mut need, mut method) = (need, pin!(method));
    poll_fn(|context| {
        let _need = need.take();
        method.as_mut().poll(context)
    })
    .await
}

/// The service, which a task has while its method runs.
pub(crate) enum LockedService<'g, 'a, T> {
    Shared(&'g SharedGuard<'a, T>),
    Exclusive(&'g mut ExclusiveGuard<'a, T>),
}

impl<T> Access<T> for LockedService<'_, '_, T> {
    type Refusal = Infallible;

    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, Infallible> {
        Ok(match self {
            Self::Shared(service) => method(service),
            Self::Exclusive(service) => method(service),
        })
    }

    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, Infallible> {
        match self {
            Self::Exclusive(service) => Ok(method(service)),
            Self::Shared(_) => unreachable!("the block says which of its methods are exclusive"),
        }
    }
}
