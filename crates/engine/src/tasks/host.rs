//! The service of a child whose calls are tasks, and everything that is asked of it.

#![forbid(unsafe_code)]

use crate::async_access::AsyncService;
use crate::host::{Interfaces, stop};
use crate::service::{Exchange, Incoming, Service, TaskCall, TaskDispatch, TaskFuture};
use crate::trusted::TrustedParent;
use callgate_transport::commit::Kind;
use callgate_transport::failpoints::{self, Step};
use parking_lot::{Condvar, Mutex};

/// A service, whatever its type.
pub(super) trait TaskHost {
    /// Makes a task of a call; `None` if it names no known trait.
    fn begin(&self, call: TaskCall) -> Option<TaskFuture<'_>>;

    /// Carries out a request that is no call. The request to stop comes when no task is left.
    fn control(&self, kind: Kind, exchange: &mut Exchange<'_>);

    /// Ends a worker that has answered its last request, as [`Host::end`](crate::host::Host::end).
    fn end(&self, is_first: bool);
}

pub(super) struct AsyncHost<T> {
    parent: TrustedParent,
    service: AsyncService<T>,
    interfaces: Interfaces<TaskDispatch<T>>,
    /// Workers that may still get requests, the first one not included.
    busy: Mutex<u32>,
    /// Notified when a worker has ended.
    ended: Condvar,
}

impl<T: Service> AsyncHost<T> {
    pub fn new(parent: TrustedParent, workers: u32) -> Self {
        Self {
            parent,
            service: AsyncService::new(None),
            interfaces: Interfaces::new(),
            busy: Mutex::new(workers - 1),
            ended: Condvar::new(),
        }
    }

    /// Takes the service out for good, once the other workers have ended.
    fn taken_last(&self) -> Option<T> {
        let mut busy = self.busy.lock();
        self.ended.wait_while(&mut busy, |busy| *busy > 0);
        drop(busy);
        self.service.replace(None)
    }
}

impl<T: Service> TaskHost for AsyncHost<T> {
    fn begin(&self, call: TaskCall) -> Option<TaskFuture<'_>> {
        let service = &self.service;
        match call.interface() {
            0 => Some(T::begin(service, call).unwrap_or_else(|call| {
                call.in_turn(service, T::is_exclusive, |service, incoming| T::dispatch(service, incoming))
            })),
            number => self.interfaces.get(number).map(|dispatch| dispatch(service, call)),
        }
    }

    fn control(&self, kind: Kind, exchange: &mut Exchange<'_>) {
        match kind {
            Kind::Flush => exchange.reply(Kind::Flush, &()),
            Kind::Construct => drop(self.service.replace(T::construct(Incoming { exchange, traits: &() }))),
            Kind::Bind => self.interfaces.bind(exchange, |offset, key| {
                self.parent.task_dispatch_at(offset).or_else(|| self.parent.task_dispatch_of(key))
            }),
            Kind::Stop => stop(self.taken_last(), exchange),
            _ => exchange.refuse("the child does not know this kind of request"),
        }
    }

    fn end(&self, is_first: bool) {
        if is_first {
            let service = self.taken_last();
            failpoints::reach(Step::ChildStopping);
            return drop(service);
        }
        *self.busy.lock() -= 1;
        self.ended.notify_all();
    }
}
