//! Where a child keeps its service, and how methods get at it: one worker alone, or several at once.
//!
//! A child with one worker pays for no lock: [`Alone`] hands out `&mut T`. With several, methods with `&self` run side by side
//! and those with `&mut self` alone, behind the lock of [`Parallel`]. Which it is, is fixed at compile time, by the entry that
//! the parent chose. Arguments are read before the lock is taken, and results are written after it has been given back.

#![forbid(unsafe_code)]

use super::service::{Dispatch, Exchange, Incoming, MAX_INTERFACES, ParallelDispatch, Service};
use crate::failpoints::{self, Step};
use crate::frame::Kind;
use crate::trusted::TrustedParent;
use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use parking_lot::{Condvar, Mutex};
use std::sync::{OnceLock, PoisonError, TryLockError};

/// How a method gets at the service that it is called on.
pub trait Access<T> {
    /// Runs a method with `&self`, or one without a receiver.
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> R;

    /// Runs a method with `&mut self`.
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Access<T> for &mut T {
    #[inline(always)]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> R {
        method(self)
    }

    #[inline(always)]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> R {
        method(self)
    }
}

/// What carries out the requests of a worker.
pub(crate) trait Host {
    /// Carries out one request; writes its reply. There is no reply to the request to stop when it comes for the first time.
    fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>);

    /// A worker has answered all that it will ever be asked; `is_first` = the one that drops the service, which it does when the others have
    /// come to this too.
    fn end(&mut self, _is_first: bool) {}

    /// The reply has been published.
    #[inline(always)]
    fn replied(&mut self) {}
}

// ---- one worker ----------------------------------------------------------------------------------------------------

/// The service of a child with one worker.
pub(crate) struct Alone<T> {
    parent: TrustedParent,
    service: Option<T>,
    interfaces: Interfaces<Dispatch<T>>,
    /// The request to stop has come for the first time.
    is_ending: bool,
}

impl<T: Service> Alone<T> {
    pub(super) fn new(parent: TrustedParent) -> Self {
        Self { parent, service: None, interfaces: Interfaces::new(), is_ending: false }
    }

    /// The host of a service that a test has built.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn of(service: T) -> Self {
        Self { service: Some(service), ..Self::new(TrustedParent::of_itself()) }
    }
}

impl<T: Service> Host for Alone<T> {
    #[inline(always)]
    fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        match (kind, &mut self.service) {
            (Kind::Call, Some(service)) => {
                let incoming = Incoming(exchange);
                match incoming.interface() {
                    0 => T::dispatch(service, incoming),
                    number => match self.interfaces.get(number) {
                        Some(dispatch) => dispatch(service, incoming),
                        None => incoming.unknown(),
                    },
                }
            }
            (Kind::Construct, service) => *service = T::construct(Incoming(exchange)),
            (Kind::Bind, _) => self.interfaces.bind(exchange, |offset| self.parent.dispatch_at(offset)),
            (Kind::Stop, _) if !self.is_ending => self.is_ending = true,
            (Kind::Stop, service) => stop(service.take(), exchange),
            _ => exchange.refuse(NO_SERVICE),
        }
    }

    fn end(&mut self, _: bool) {
        failpoints::reach(Step::ChildStopping);
        drop(self.service.take());
    }
}

// ---- several workers -----------------------------------------------------------------------------------------------

/// The service of a child with several workers, which share this.
pub struct Parallel<T> {
    parent: TrustedParent,
    /// Each of up to eight readers has a lock on a line of its own; a writer takes them all.
    service: ShardedLock<Option<T>>,
    /// The queue of those who cannot have the service at once: its head holds this, and alone waits at the lock.
    ///
    /// So the head gets the lock next, whether it reads or writes. Without the queue, writers that follow each other closely
    /// keep out readers, because the lock prefers writers. The queue itself is fair, if not at every step.
    queue: Mutex<()>,
    interfaces: Interfaces<ParallelDispatch<T>>,
    ending: Mutex<Ending>,
    /// Rung when a worker has come to its end.
    ended: Condvar,
}

/// How far the workers of a child have come to their end.
struct Ending {
    /// The request to stop has come for the first time.
    has_begun: bool,
    /// Workers that may still be asked something, the first one not among them.
    busy: u32,
}

impl<T: Service> Parallel<T> {
    /// What so many workers share.
    pub(super) fn new(parent: TrustedParent, workers: u32) -> Self {
        Self {
            parent,
            service: ShardedLock::new(None),
            queue: Mutex::new(()),
            interfaces: Interfaces::new(),
            ending: Mutex::new(Ending { has_begun: false, busy: workers - 1 }),
            ended: Condvar::new(),
        }
    }

    /// The host of a service that a test has built.
    #[cfg(all(test, debug_assertions, not(loom)))]
    pub(crate) fn of(service: T) -> Self {
        Self { service: ShardedLock::new(Some(service)), ..Self::new(TrustedParent::of_itself(), 2) }
    }
}

impl<T> Parallel<T> {
    /// The service, beside other readers. That a method panicked poisons nothing, as with one worker.
    #[inline]
    fn read(&self) -> ShardedLockReadGuard<'_, Option<T>> {
        match self.service.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.read_slow(),
        }
    }

    #[cold]
    fn read_slow(&self) -> ShardedLockReadGuard<'_, Option<T>> {
        let _head = self.queue.lock();
        self.service.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service, for good: when the other workers have answered all that they were asked.
    fn taken_last(&self) -> Option<T> {
        let mut ending = self.ending.lock();
        self.ended.wait_while(&mut ending, |ending| ending.busy > 0);
        drop(ending);
        self.write().take()
    }

    /// The service, for this thread alone: after the methods that run, and before those that wait behind this.
    fn write(&self) -> ShardedLockWriteGuard<'_, Option<T>> {
        let _head = self.queue.lock();
        self.service.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Access<T> for &Parallel<T> {
    #[inline]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> R {
        match &*self.read() {
            Some(service) => method(service),
            None => absent(),
        }
    }

    #[inline]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> R {
        match &mut *self.write() {
            Some(service) => method(service),
            None => absent(),
        }
    }
}

/// A panic, because the method's result cannot be had; its caller gave up before the child was told to stop, or the service
/// would still be here.
#[cold]
fn absent() -> ! {
    panic!("{NO_SERVICE}")
}

impl<T: Service> Host for &Parallel<T> {
    #[inline(always)]
    fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        match kind {
            Kind::Call => {
                let incoming = Incoming(exchange);
                match incoming.interface() {
                    0 => T::dispatch(*self, incoming),
                    number => match self.interfaces.get(number) {
                        Some(dispatch) => dispatch(self, incoming),
                        None => incoming.unknown(),
                    },
                }
            }
            Kind::Construct => {
                let service = T::construct(Incoming(exchange));
                *self.write() = service;
            }
            Kind::Bind => self.interfaces.bind(exchange, |offset| self.parent.parallel_dispatch_at(offset)),
            Kind::Stop if !std::mem::replace(&mut self.ending.lock().has_begun, true) => {}
            Kind::Stop => stop(self.taken_last(), exchange),
            _ => exchange.refuse(NO_SERVICE),
        }
    }

    fn end(&mut self, is_first: bool) {
        if is_first {
            let service = self.taken_last();
            failpoints::reach(Step::ChildStopping);
            return drop(service);
        }
        self.ending.lock().busy -= 1;
        self.ended.notify_all();
    }
}

// ---- what both have ------------------------------------------------------------------------------------------------

const NO_SERVICE: &str = "the child has no service";

/// Drops the service. It has been taken out before: a panic in its destructor must not leave it to be dropped again.
fn stop<T>(service: Option<T>, exchange: &mut Exchange<'_>) {
    failpoints::reach(Step::ChildStopping);
    exchange.reply(Kind::Stop, &());
    drop(service);
}

/// The dispatch functions of a service's bridged traits, each with its offset: number n is at n - 1. A number belongs to one
/// interface for good.
struct Interfaces<D>([OnceLock<(u64, D)>; MAX_INTERFACES]);

impl<D: Copy> Interfaces<D> {
    fn new() -> Self {
        Self([const { OnceLock::new() }; MAX_INTERFACES])
    }

    #[inline]
    fn get(&self, number: u16) -> Option<D> {
        let (_, dispatch) = self.place(number)?.get()?;
        Some(*dispatch)
    }

    #[inline]
    fn place(&self, number: u16) -> Option<&OnceLock<(u64, D)>> {
        self.0.get(usize::from(number).checked_sub(1)?)
    }

    /// Takes an interface into the table: the call word is its number, the payload where its dispatch function is.
    fn bind(&self, exchange: &mut Exchange<'_>, dispatch_at: impl FnOnce(u64) -> Option<D>) {
        let offset = exchange.request.read::<(u64,)>().map(|(args, _)| args.0.to_native());
        let found = offset.ok().and_then(|offset| Some((offset, dispatch_at(offset)?)));
        let (Some((offset, dispatch)), Some(place)) = (found, self.place((exchange.call & 0xffff) as u16)) else {
            return exchange.refuse("a trait's methods cannot be called in a separate executable");
        };
        // The parent may ask for the same again, after a timeout, but for no other.
        let (known, _) = place.get_or_init(|| (offset, dispatch));
        if *known != offset {
            return exchange.refuse("the child knows another interface by this number");
        }
        failpoints::reach(Step::ChildBound);
        exchange.reply(Kind::Bind, &());
    }
}
