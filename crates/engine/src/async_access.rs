//! How calls that are tasks reach the service of a child: through a lock that a task waits for without its thread.
//!
//! Methods with `&self` run interleaved, those with `&mut self` alone, whether or not they await. Turns are given in the order in which tasks asked, so
//! neither kind keeps out the other. A task that is dropped gives up its place.

#![forbid(unsafe_code)]

use crate::access::NO_SERVICE;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The service of a child whose calls are tasks.
pub struct AsyncService<T> {
    /// Locked only by whoever has a turn for it, so that nobody waits at this lock.
    service: RwLock<Option<T>>,
    turns: Mutex<TurnQueue>,
}

/// How a task wants the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// `&self`: with others that want it so.
    Shared,
    /// `&mut self`: alone.
    Exclusive,
}

/// Who has the service, and who waits for it.
#[derive(Default)]
struct TurnQueue {
    /// Tasks that have it shared.
    readers: usize,
    has_writer: bool,
    /// Tasks that wait, in the order in which they asked.
    queue: VecDeque<WaitingTask>,
    /// The number of the next task that waits.
    next: u64,
}

struct WaitingTask {
    number: u64,
    want: Want,
    waker: Waker,
}

impl TurnQueue {
    fn is_free_for(&self, want: Want) -> bool {
        !self.has_writer && (want == Want::Shared || self.readers == 0)
    }

    fn give(&mut self, want: Want) {
        match want {
            Want::Shared => self.readers += 1,
            Want::Exclusive => self.has_writer = true,
        }
    }

    /// The waker of the first in the queue, if its turn has come.
    fn next_waker(&self) -> Option<Waker> {
        let first = self.queue.front()?;
        self.is_free_for(first.want).then(|| first.waker.clone())
    }
}

impl<T> AsyncService<T> {
    pub fn new(service: Option<T>) -> Self {
        Self { service: RwLock::new(service), turns: Mutex::default() }
    }

    /// A turn for the service, once it is this task's.
    pub(crate) async fn turn(&self, want: Want) -> Turn<'_> {
        let mut waiting = WaitForTurn { turns: &self.turns, want, number: None };
        std::future::poll_fn(move |context| Pin::new(&mut waiting).poll(context)).await
    }

    /// The service for a method with `&self`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn shared(&self) -> SharedGuard<'_, T> {
        let turn = self.turn(Want::Shared).await;
        self.share(turn)
    }

    /// The service for a method with `&mut self`.
    ///
    /// # Panics
    ///
    /// As [`shared`](Self::shared).
    pub async fn exclusive(&self) -> ExclusiveGuard<'_, T> {
        let turn = self.turn(Want::Exclusive).await;
        self.exclude(turn)
    }

    pub(crate) fn share<'a>(&'a self, turn: Turn<'a>) -> SharedGuard<'a, T> {
        let service = self.service.read();
        assert!(service.is_some(), "{NO_SERVICE}");
        SharedGuard { service, _turn: turn }
    }

    pub(crate) fn exclude<'a>(&'a self, turn: Turn<'a>) -> ExclusiveGuard<'a, T> {
        let service = self.service.write();
        assert!(service.is_some(), "{NO_SERVICE}");
        ExclusiveGuard { service, _turn: turn }
    }

    /// Puts the service in place, or takes it out: `None` while tasks have it.
    pub(crate) fn replace(&self, service: Option<T>) -> Option<T> {
        std::mem::replace(&mut *self.service.write(), service)
    }
}

/// Waits in the queue.
struct WaitForTurn<'a> {
    turns: &'a Mutex<TurnQueue>,
    want: Want,
    /// Its number there, from the first poll until it has its turn.
    number: Option<u64>,
}

impl<'a> Future for WaitForTurn<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<'a>> {
        // Wakers are other people's code: none is cloned, dropped or woken under the lock.
        let waker = context.waker().clone();
        let mut turns = self.turns.lock();
        let is_first = turns.queue.front().is_none_or(|first| Some(first.number) == self.number);
        if is_first && turns.is_free_for(self.want) {
            let old = if self.number.take().is_some() { turns.queue.pop_front() } else { None };
            turns.give(self.want);
            // The one behind may have the service, too.
            let next = turns.next_waker();
            drop(turns);
            next.into_iter().for_each(Waker::wake);
            drop((old, waker));
            return Poll::Ready(Turn { turns: self.turns, want: self.want });
        }
        let old = match self.number {
            Some(number) => {
                let own = turns.queue.iter_mut().find(|waiting| waiting.number == number);
                own.map(|own| std::mem::replace(&mut own.waker, waker))
            }
            None => {
                let number = turns.next;
                turns.next += 1;
                turns.queue.push_back(WaitingTask { number, want: self.want, waker });
                self.number = Some(number);
                None
            }
        };
        drop(turns);
        drop(old);
        Poll::Pending
    }
}

impl Drop for WaitForTurn<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut turns = self.turns.lock();
        let place = turns.queue.iter().position(|waiting| waiting.number == number);
        let own = place.and_then(|place| turns.queue.remove(place));
        // It may have been woken because its turn had come, or may have kept those behind from theirs.
        let next = turns.next_waker();
        drop(turns);
        drop(own);
        next.into_iter().for_each(Waker::wake);
    }
}

/// A task's turn.
pub(crate) struct Turn<'a> {
    turns: &'a Mutex<TurnQueue>,
    want: Want,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        match self.want {
            Want::Shared => turns.readers -= 1,
            Want::Exclusive => turns.has_writer = false,
        }
        let next = turns.next_waker();
        drop(turns);
        next.into_iter().for_each(Waker::wake);
    }
}

/// The service, shared with other tasks. Fields are dropped in their order: the lock first, then the turn.
pub struct SharedGuard<'a, T> {
    service: RwLockReadGuard<'a, Option<T>>,
    _turn: Turn<'a>,
}

impl<T> Deref for SharedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.service.as_ref().expect("looked at when it was locked")
    }
}

/// The service, for one task alone. Fields are dropped as those of [`SharedGuard`].
pub struct ExclusiveGuard<'a, T> {
    service: RwLockWriteGuard<'a, Option<T>>,
    _turn: Turn<'a>,
}

impl<T> Deref for ExclusiveGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.service.as_ref().expect("looked at when it was locked")
    }
}

impl<T> DerefMut for ExclusiveGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.service.as_mut().expect("looked at when it was locked")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::pin::pin;

    /// Polls once, with a waker that does nothing.
    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn readers_share_and_a_writer_has_it_alone() {
        let service = AsyncService::new(Some(1));
        let (mut one, mut other, mut writer) =
            (pin!(service.shared()), pin!(service.shared()), pin!(service.exclusive()));
        let Poll::Ready(first) = poll(one.as_mut()) else { panic!("the first reader waits") };
        let Poll::Ready(second) = poll(other.as_mut()) else { panic!("the second reader waits") };
        assert!(poll(writer.as_mut()).is_pending());
        drop((first, second));
        let Poll::Ready(mut alone) = poll(writer.as_mut()) else { panic!("the writer waits") };
        *alone += 1;
        assert!(poll(pin!(service.shared())).is_pending());
        drop(alone);
        let Poll::Ready(reader) = poll(pin!(service.shared())) else { panic!("the last reader waits") };
        assert_eq!(*reader, 2);
    }

    #[test]
    fn a_reader_behind_a_waiting_writer_waits_for_it() {
        let service = AsyncService::new(Some(()));
        let Poll::Ready(reader) = poll(pin!(service.shared())) else { panic!("a reader waits") };
        let mut writer = Box::pin(service.exclusive());
        assert!(poll(writer.as_mut()).is_pending());
        let mut behind = pin!(service.shared());
        assert!(poll(behind.as_mut()).is_pending());
        // A writer that gives up lets those behind it pass.
        drop(writer);
        assert!(poll(behind.as_mut()).is_ready());
        drop(reader);
    }
}
