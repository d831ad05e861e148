//! How to start a bridge's children: the checked options of its builder, reusable for each child.

#![forbid(unsafe_code)]

use super::sandboxing::SentPlan;
use super::starting_child::{StartWait, StartingChild, system};
use crate::spawn::Launch;
use crate::start_error::StartError;
use callgate_engine::bridged_traits;
use callgate_engine::caller::{Caller, QueueLimits};
use callgate_engine::handshake::{Entry, Hello, rkyv_format};
use callgate_engine::link::{LinkParts, MemoryOptions};
use callgate_engine::nest;
use callgate_engine::overdue::Lateness;
use callgate_engine::saved_args::SavedArgs;
use callgate_engine::service::{Fingerprint, Method, Service};
use callgate_os::limits::Wanted;
use callgate_os::sync::Ordering::Relaxed;
use callgate_os::text::shown;
use callgate_transport::backing::Segments;
use callgate_transport::doorbell::Wait;
use callgate_transport::doorbell::wait_code;
use callgate_transport::error::CallError;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::layout::Geometry;
use callgate_transport::segment::Segment;
use callgate_transport::wake::{Count, ParentBells, Signal};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// How long a failed start waits for its killed child to end.
const KILL_TIMEOUT: Duration = Duration::from_millis(500);

/// The checked options of a builder.
pub(super) struct ChildSpec<T> {
    pub(super) constructor: &'static Method,
    pub(super) args: SavedArgs,
    pub(super) geometry: Geometry,
    pub(super) memory: MemoryOptions,
    pub(super) signal: Signal,
    pub(super) segments: Segments,
    pub(super) wait: Wait,
    /// The function that the child runs; `None` for a separate executable.
    pub(super) entry: Option<Entry>,
    pub(super) name: String,
    pub(super) launch: Launch,
    /// The sandbox that the child enters before its service exists.
    pub(super) plan: Option<SentPlan>,
    pub(super) start_timeout: Duration,
    /// For the constructor.
    pub(super) timeout: Option<Duration>,
    /// How to handle calls that time out; `None`: not at all.
    pub(super) lateness: Option<Lateness>,
    pub(super) queue: QueueLimits,
    pub(super) service: PhantomData<fn() -> T>,
}

/// The least number of slots where calls are tasks: one is for cancelling calls, and two for the first call of a trait's.
const ASYNC_SLOTS: u32 = 4;

impl<T: Service> ChildSpec<T> {
    /// Starts a child and builds its service.
    pub(super) fn start(&self) -> Result<Arc<Caller>, StartError> {
        let child = self.bring_up(&|| true)?;
        self.construct(&child, self.start_timeout)?;
        Ok(child)
    }

    /// Starts a child and performs the handshake, without building the service. Gives up once `is_wanted` returns false.
    pub(super) fn bring_up(&self, is_wanted: &dyn Fn() -> bool) -> Result<Arc<Caller>, StartError> {
        let Self { mut geometry, memory, .. } = *self;
        let is_async = bridged_traits::is_async::<T>();
        if is_async {
            geometry.slots = geometry.slots.max(ASYNC_SLOTS);
        }
        let backing = self.segments.of_parent();
        let (mut segment, object) = Segment::create(geometry, &*backing)
            .map_err(system::<T>(format!("creating a segment of {} bytes", geometry.segment_len()), Wanted::Memory))?;
        if is_async {
            segment.set_unordered();
        }
        segment.header().chains.store(nest::new_chains(), Relaxed);
        // Some backends start threads, hence the task limit.
        let bells = ParentBells::new(self.signal, Count::of(&geometry), &*backing)
            .map_err(system::<T>("creating its doorbells".into(), Wanted::Task))?;
        let spawned = self.launch.start().map_err(system::<T>(format!("starting {}", self.launch), Wanted::Task))?;
        let starting = StartingChild::<T>::new(spawned)?;
        failpoints::reach(Step::ParentSpawned);
        let (hello, plan) = (self.hello(backing.place()), self.plan.as_ref());
        let executable = self.launch.executable_name();
        let plan_sent = plan.map(SentPlan::bytes);
        let wait = StartWait { timeout: self.start_timeout, is_wanted };
        let told = starting.shake_hands(&hello, plan_sent, object, &bells, wait, &executable)?;
        let report = plan.map(|plan| plan.report(&told)).transpose().map_err(|why| starting.unusable(why))?;
        let link = starting.watched(&segment, LinkParts { memory, backing, bells, kept: report })?;
        failpoints::reach(Step::ParentWatched);
        Ok(Caller::new::<T>(&segment, link, self.wait, self.lateness.clone(), self.queue))
    }

    /// Has the child build its service. Kills a child that fails, or that does not begin `within` this time.
    pub(super) fn construct(&self, child: &Caller, within: Duration) -> Result<(), StartError> {
        let error = match child.construct(self.constructor, &self.args, self.timeout, within) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(message)) => StartError::Constructor { service: T::NAME, message: shown(message) },
            Err(CallError::Died { pid, exit, last_words, .. }) => {
                StartError::Died { service: T::NAME, pid, exit, when: "in its constructor", last_words }
            }
            Err(error) => StartError::Call { service: T::NAME, error },
        };
        // There is no service to drop. If the child ends later, the watcher reaps it.
        child.kill_within(KILL_TIMEOUT);
        Err(error)
    }

    fn hello(&self, place: &str) -> Hello {
        Hello {
            format: rkyv_format(),
            entry: self.entry,
            fingerprint: Fingerprint::of::<T>(),
            interfaces: if self.entry.is_none() { bridged_traits::keys::<T>() } else { Vec::new() },
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
