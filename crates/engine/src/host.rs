//! Carries out the requests of a child: with one worker alone, or with several at once.
//!
//! A child with one worker pays for no lock: [`Alone`] hands out `&mut T`. With several, or if streams borrow the service, [`Parallel`] hands out what
//! is [guarded](Guarded). The entry that the parent picks fixes the choice at compile time.

#![forbid(unsafe_code)]

use crate::access::{AnyAccess, LentService, NO_SERVICE};
use crate::service::{Dispatch, Exchange, Incoming, MAX_INTERFACES, Service};
use crate::shared_service::SharedService;
use crate::streamed_service::StreamedService;
use crate::streams;
use crate::trusted::TrustedParent;
use callgate_transport::commit::Kind;
use callgate_transport::failpoints::{self, Step};
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, OnceLock};

/// Carries out the requests of a worker.
pub trait Host {
    /// Carries out one call and writes its reply.
    fn call(&mut self, exchange: &mut Exchange<'_>);

    /// Carries out one request of another kind and writes its reply. The first time that the request to stop comes, there is no reply.
    fn control(&mut self, _kind: Kind, exchange: &mut Exchange<'_>) {
        exchange.refuse("a request of a kind that callbacks do not have");
    }

    /// Ends a worker that has answered its last request; `is_first` = the worker that drops the service, once the others have ended too.
    fn end(&mut self, _is_first: bool) {}

    /// Called when the reply has been published.
    #[inline(always)]
    fn replied(&mut self) {}
}

// ---- one worker ----------------------------------------------------------------------------------------------------

/// The service of a child with one worker.
pub struct Alone<T> {
    service: Option<T>,
    traits: Traits<T>,
    /// Whether the request to stop has come once.
    is_ending: bool,
}

impl<T: Service> Alone<T> {
    pub fn new(parent: TrustedParent) -> Self {
        Self { service: None, traits: Traits::new(parent), is_ending: false }
    }

    /// The host of a service built by a test.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    pub fn of(service: T) -> Self {
        Self { service: Some(service), ..Self::new(TrustedParent::of_itself()) }
    }
}

impl<T: Service> Host for Alone<T> {
    #[inline(always)]
    fn call(&mut self, exchange: &mut Exchange<'_>) {
        let Some(service) = &mut self.service else { return exchange.refuse(NO_SERVICE) };
        match exchange.interface() {
            0 => T::dispatch(service, Incoming { exchange, traits: &self.traits }),
            number => self.traits.dispatch(number, AnyAccess::Alone(service), exchange),
        }
    }

    fn control(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        match (kind, &mut self.service) {
            (Kind::Flush, _) => exchange.reply(Kind::Flush, &()),
            (Kind::Construct, service) => *service = T::construct(Incoming { exchange, traits: &self.traits }),
            (Kind::Bind, _) => self.traits.bind(exchange),
            (Kind::Stop, _) if !self.is_ending => self.is_ending = true,
            (Kind::Stop, service) => {
                streams::drop_all();
                stop(service.take(), exchange);
            }
            _ => exchange.refuse(NO_SERVICE),
        }
    }

    fn end(&mut self, _: bool) {
        failpoints::reach(Step::ChildStopping);
        streams::drop_all();
        drop(self.service.take());
    }
}

// ---- several workers, or streams that borrow -----------------------------------------------------------------------

/// A service that several methods, or streams, reach at once.
pub trait Guarded<T>: Sized + 'static {
    /// No service yet, for this number of workers.
    fn of_workers(workers: u32) -> Self;

    /// Puts the service in.
    fn put(&self, service: Option<T>);

    /// Takes the service out for good.
    fn take(&self) -> Option<T>;

    /// Runs the method named by the call.
    fn dispatch(&self, call: Incoming<'_, '_>);

    /// The service, for the dispatch function of an interface.
    fn any(&self) -> AnyAccess<'_, T>;
}

impl<T: Service> Guarded<T> for SharedService<T> {
    fn of_workers(_: u32) -> Self {
        Self::new(None)
    }

    fn put(&self, service: Option<T>) {
        *self.write() = service;
    }

    fn take(&self) -> Option<T> {
        self.write().take()
    }

    #[inline(always)]
    fn dispatch(&self, call: Incoming<'_, '_>) {
        T::dispatch(self, call);
    }

    fn any(&self) -> AnyAccess<'_, T> {
        AnyAccess::Parallel(self)
    }
}

impl<T: Service> Guarded<T> for Arc<StreamedService<T>> {
    fn of_workers(workers: u32) -> Self {
        Arc::new(StreamedService::new(workers))
    }

    fn put(&self, service: Option<T>) {
        StreamedService::put(self, service);
    }

    fn take(&self) -> Option<T> {
        StreamedService::take(self)
    }

    fn dispatch(&self, call: Incoming<'_, '_>) {
        T::dispatch(self, call);
    }

    fn any(&self) -> AnyAccess<'_, T> {
        AnyAccess::Streamed(self)
    }
}

/// The service of a child with several workers, which share this; or with one, if streams borrow it.
pub struct Parallel<T, S = SharedService<T>> {
    service: S,
    traits: Traits<T>,
    ending: Mutex<Ending>,
    /// Notified when a worker has ended.
    ended: Condvar,
}

/// How far the workers of a child have ended.
struct Ending {
    /// Whether the request to stop has come once.
    has_begun: bool,
    /// Workers that may still get requests, the first one not included.
    busy: u32,
}

impl<T: Service, S: Guarded<T>> Parallel<T, S> {
    /// The state that this number of workers share.
    pub fn new(parent: TrustedParent, workers: u32) -> Self {
        Self {
            service: S::of_workers(workers),
            traits: Traits::new(parent),
            ending: Mutex::new(Ending { has_begun: false, busy: workers - 1 }),
            ended: Condvar::new(),
        }
    }
}

impl<T: Service> Parallel<T> {
    /// The host of a service built by a test.
    #[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
    pub fn of(service: T) -> Self {
        let host = Self::new(TrustedParent::of_itself(), 2);
        host.service.put(Some(service));
        host
    }
}

impl<T: Service, S: Guarded<T>> Parallel<T, S> {
    /// Takes the service out for good, once the other workers have answered all their requests.
    fn taken_last(&self) -> Option<T> {
        let mut ending = self.ending.lock();
        self.ended.wait_while(&mut ending, |ending| ending.busy > 0);
        drop(ending);
        self.service.take()
    }
}

impl<T: Service, S: Guarded<T>> Host for &Parallel<T, S> {
    #[inline(always)]
    fn call(&mut self, exchange: &mut Exchange<'_>) {
        match exchange.interface() {
            0 => self.service.dispatch(Incoming { exchange, traits: &self.traits }),
            number => self.traits.dispatch(number, self.service.any(), exchange),
        }
    }

    fn control(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        match kind {
            Kind::Flush => exchange.reply(Kind::Flush, &()),
            Kind::Construct => {
                let service = T::construct(Incoming { exchange, traits: &self.traits });
                self.service.put(service);
            }
            Kind::Bind => self.traits.bind(exchange),
            Kind::Stop if !std::mem::replace(&mut self.ending.lock().has_begun, true) => {}
            Kind::Stop => {
                streams::drop_all();
                stop(self.taken_last(), exchange);
            }
            _ => exchange.refuse(NO_SERVICE),
        }
    }

    fn end(&mut self, is_first: bool) {
        streams::drop_all();
        if is_first {
            let service = self.taken_last();
            failpoints::reach(Step::ChildStopping);
            return drop(service);
        }
        self.ending.lock().busy -= 1;
        self.ended.notify_all();
    }
}

// ---- both kinds ------------------------------------------------------------------------------------------------------

/// Drops the service. It has been taken out before, so that a panic in its destructor does not leave it to be dropped again.
pub(crate) fn stop<T>(service: Option<T>, exchange: &mut Exchange<'_>) {
    failpoints::reach(Step::ChildStopping);
    exchange.reply(Kind::Stop, &());
    drop(service);
}

/// The dispatch functions of a service's bridged traits, each with what the parent said of it: number n is at n - 1. A number stays with one
/// interface for good.
pub(crate) struct Interfaces<D>([OnceLock<((u64, u64), D)>; MAX_INTERFACES]);

impl<D: Copy> Interfaces<D> {
    pub(crate) fn new() -> Self {
        Self([const { OnceLock::new() }; MAX_INTERFACES])
    }

    #[inline]
    pub(crate) fn get(&self, number: u16) -> Option<D> {
        let (_, dispatch) = self.place(number)?.get()?;
        Some(*dispatch)
    }

    #[inline]
    fn place(&self, number: u16) -> Option<&OnceLock<((u64, u64), D)>> {
        self.0.get(usize::from(number).checked_sub(1)?)
    }

    /// Enters an interface into the table: the call word is its number, the payload the offset of its dispatch function in the parent's executable,
    /// and its number in any executable.
    pub(crate) fn bind(&self, exchange: &mut Exchange<'_>, dispatch_at: impl FnOnce(u64, u64) -> Option<D>) {
        let said = exchange.request.read::<(u64, u64)>().map(|(args, _)| (args.0.to_native(), args.1.to_native()));
        let found = said.ok().and_then(|said| Some((said, dispatch_at(said.0, said.1)?)));
        let (Some((said, dispatch)), Some(place)) = (found, self.place((exchange.call & 0xffff) as u16)) else {
            return exchange.refuse("the child does not have this trait with the same methods");
        };
        // After a timeout the parent may repeat this entry, but never change it.
        let (known, _) = place.get_or_init(|| (said, dispatch));
        if *known != said {
            return exchange.refuse("the child has another interface under this number");
        }
        failpoints::reach(Step::ChildBound);
        exchange.reply(Kind::Bind, &());
    }
}

/// The bridged traits of a service whose calls are no tasks.
pub(crate) struct Traits<T> {
    parent: TrustedParent,
    known: Interfaces<Dispatch<T>>,
}

impl<T: Service> Traits<T> {
    fn new(parent: TrustedParent) -> Self {
        Self { parent, known: Interfaces::new() }
    }

    /// Runs the method of interface `number` that the call names.
    #[inline]
    fn dispatch(&self, number: u16, access: AnyAccess<'_, T>, exchange: &mut Exchange<'_>) {
        let incoming = Incoming { exchange, traits: self };
        match self.known.get(number) {
            Some(dispatch) => dispatch(access, incoming),
            None => streams::serve(incoming),
        }
    }

    fn bind(&self, exchange: &mut Exchange<'_>) {
        let find = |offset, key| self.parent.dispatch_at(offset).or_else(|| self.parent.dispatch_of(key));
        self.known.bind(exchange, find);
    }

    /// Carries out a request that comes from a callback, within the method that called back.
    pub(crate) fn carry_out_lent(&self, service: LentService<'_, T>, kind: Kind, exchange: &mut Exchange<'_>) {
        match kind {
            Kind::Call => match exchange.interface() {
                0 => T::dispatch(service, Incoming { exchange, traits: self }),
                number => self.dispatch(number, AnyAccess::Lent(service), exchange),
            },
            Kind::Bind => self.bind(exchange),
            _ => exchange.refuse("a callback can only call methods"),
        }
    }
}
