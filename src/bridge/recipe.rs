//! How a child of one bridge is made: what its builder has settled, to be gone through as often as a child is needed.

#![forbid(unsafe_code)]

use super::confined::SentPlan;
use super::newborn::{Newborn, system};
use crate::call::caller::Caller;
use crate::call::link::{MemoryOptions, Shared};
use crate::call::nest;
use crate::call::recorded::Recorded;
use crate::call::service::{Fingerprint, Method, Service};
use crate::doorbell::Wait;
use crate::error::{CallError, StartError};
use crate::failpoints::{self, Step};
use crate::handshake::{Entry, Hello, rkyv_format, wait_code};
use crate::layout::Geometry;
use crate::objects::Segments;
use crate::process::spawn::Launch;
use crate::segment::Segment;
use crate::signal::{Count, ParentBells, Signal};
use crate::sync::Ordering::Relaxed;
use crate::sys::limits::Wanted;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// What a builder has settled.
pub(super) struct Recipe<T> {
    pub(super) constructor: &'static Method,
    pub(super) args: Recorded,
    pub(super) geometry: Geometry,
    pub(super) memory: MemoryOptions,
    pub(super) signal: Signal,
    pub(super) segments: Segments,
    pub(super) wait: Wait,
    /// Where the child goes; `None` for a separate executable.
    pub(super) entry: Option<Entry>,
    pub(super) name: String,
    pub(super) launch: Launch,
    /// What the child is to give up before its service exists.
    pub(super) plan: Option<SentPlan>,
    pub(super) start_timeout: Duration,
    /// For the constructor.
    pub(super) timeout: Option<Duration>,
    pub(super) service: PhantomData<fn() -> T>,
}

impl<T: Service> Recipe<T> {
    /// Starts a child that serves.
    pub(super) fn start(&self) -> Result<Arc<Caller>, StartError> {
        let child = self.bring_up()?;
        self.construct(&child)?;
        Ok(child)
    }

    /// Starts a child, and gets through the handshake with it. The service is yet to be built.
    pub(super) fn bring_up(&self) -> Result<Arc<Caller>, StartError> {
        let Self { geometry, memory, .. } = *self;
        let objects = self.segments.of_parent();
        let (segment, object) = Segment::create(geometry, &*objects)
            .map_err(system::<T>(format!("creating a segment of {} bytes", geometry.segment_len()), Wanted::Memory))?;
        segment.header().chains.store(nest::new_chains(), Relaxed);
        let bells = ParentBells::new(self.signal, Count::of(&geometry), &*objects)
            .map_err(system::<T>("creating its doorbells".into(), Wanted::Memory))?;
        let spawned = self.launch.start().map_err(system::<T>(format!("starting {}", self.launch), Wanted::Task))?;
        let newborn = Newborn::<T>::new(spawned)?;
        failpoints::reach(Step::ParentSpawned);
        let (hello, plan) = (self.hello(objects.place()), self.plan.as_ref());
        let executable = self.launch.executable_name();
        let plan_sent = plan.map(SentPlan::bytes);
        let told = newborn.shake_hands(&hello, plan_sent, object, &bells, self.start_timeout, &executable)?;
        let report = plan.map(|plan| plan.report(&told)).transpose().map_err(|why| newborn.unusable(why))?;
        let link = newborn.watched(&segment, Shared { memory, objects, bells, report })?;
        failpoints::reach(Step::ParentWatched);
        Ok(Arc::new(Caller::new::<T>(&segment, link, self.wait)))
    }

    /// Has the child build the service. One that does not is killed.
    pub(super) fn construct(&self, child: &Caller) -> Result<(), StartError> {
        let error = match child.construct(self.constructor, &self.args, self.timeout) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(message)) => StartError::Constructor { service: T::NAME, message },
            Err(CallError::Died { pid, exit, last_words, .. }) => {
                StartError::Died { service: T::NAME, pid, exit, when: "in its constructor", last_words }
            }
            Err(error) => StartError::Call { service: T::NAME, error },
        };
        // There is no service to drop.
        child.kill();
        Err(error)
    }

    fn hello(&self, place: &str) -> Hello {
        Hello {
            format: rkyv_format(),
            entry: self.entry,
            fingerprint: Fingerprint::of::<T>(),
            parent_pid: std::process::id(),
            name: self.name.clone(),
            wait: wait_code(self.wait),
            signal: self.signal.code(),
            place: place.into(),
            max_payload: self.memory.max_payload,
            retained: self.memory.retained,
            trusted: self.memory.trust.is_some(),
            sandboxed: self.plan.is_some(),
        }
    }
}
