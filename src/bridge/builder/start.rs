//! `Builder::start`: checks the options against each other, then starts the child.
//!
//! Relies on `child_spec` to start it. Refuses values that the system would reject later or misread.

#![forbid(unsafe_code)]

use super::{Builder, MAX_PAYLOAD, RETAINED};
use crate::bridge::child_spec::ChildSpec;
use crate::bridge::doorbell::Doorbell;
use crate::bridge::restart::Restart;
use crate::bridge::sandboxing::SentPlan;
use crate::bridge::starting_child::system;
use crate::bridge::supervisor::{SharedState, Supervisor};
use crate::bridge::target::Target;
use crate::bridge::{Bridge, entry, env_backends};
use crate::start_error::StartError;
use callgate_engine::bridged_traits;
use callgate_engine::link::MemoryOptions;
use callgate_engine::overdue::Lateness;
use callgate_engine::service::{MAX_INTERFACES, Service};
use callgate_os::limits::Wanted;
use callgate_transport::layout::{Geometry, LINE};
use callgate_transport::wake::Signal;
use std::fmt::Display;
use std::marker::PhantomData;
use std::time::Duration;

/// The default number of lanes, rounded up to a multiple of the workers.
const LANES: u32 = 8;

impl<T: Service> Builder<T> {
    /// Starts the child, builds the service there, and returns the bridge to it.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Whatever the error, nothing is left behind: no process, descriptor or memory.
    pub fn start(mut self) -> Result<Bridge<T>, StartError> {
        let (restart, hooks) = (self.restart.take(), std::mem::take(&mut self.hooks));
        let (timeout, stop_grace, kill_after) = (self.timeout, self.stop_grace, self.kill_after);
        let mut spec = self.spec(restart.as_ref())?;
        let doorbell = Doorbell::new().map_err(system::<T>("creating its doorbell".into(), Wanted::Memory))?;
        if restart.is_none() && hooks.is_empty() {
            spec.lateness = kill_after.map(|kill_after| Lateness { kill_after: Some(kill_after), tell: None });
            return Ok(Bridge::new(Target::Single(spec.start()?), timeout, stop_grace, doorbell));
        }
        let shared = SharedState::new();
        let mut lateness = shared.lateness(restart.as_ref(), &hooks);
        lateness.kill_after = kill_after.or(lateness.kill_after);
        spec.lateness = Some(lateness);
        let child = spec.start()?;
        let supervisor = Supervisor::start(spec, child.clone(), restart, hooks, shared).map_err(|error| {
            child.kill_within(Duration::from_millis(500));
            system::<T>("starting the thread that starts other children".into(), Wanted::Task)(error)
        })?;
        Ok(Bridge::new(Target::Supervised(supervisor), timeout, stop_grace, doorbell))
    }

    /// Checks the options, and that they fit together.
    fn spec(mut self, restart: Option<&Restart>) -> Result<ChildSpec<T>, StartError> {
        let geometry = self.geometry()?;
        let memory = self.memory_options()?;
        self.check_words()?;
        self.check_traits()?;
        let args = self.args.take().ok_or_else(|| StartError::Arguments {
            service: T::NAME,
            why: "a value's own Serialize failed, or they are longer than 2 GiB".into(),
        })?;
        let signal = self.signal.map_or_else(env_backends::signal::<T>, Ok)?;
        let segments = self.segments.map_or_else(env_backends::segments::<T>, Ok)?;
        if let Some(restart) = restart {
            check_restart::<T>(restart, signal)?;
        }
        let plan = self.plan(&memory, segments.of_parent().place())?;
        let entry = match &self.launch.executable {
            Some(_) => None,
            None if !entry::is_initialised() => return Err(StartError::NotInitialised { service: T::NAME }),
            None => Some(entry::find::<T>(self.entry)?),
        };
        Ok(ChildSpec {
            constructor: self.constructor,
            args,
            geometry,
            memory,
            signal,
            segments,
            wait: self.wait,
            entry,
            name: self.name.as_deref().unwrap_or(T::NAME).chars().take(64).collect(),
            launch: self.launch,
            plan,
            start_timeout: self.start_timeout,
            timeout: self.timeout,
            lateness: None,
            queue: self.queue,
            service: PhantomData,
        })
    }

    fn geometry(&self) -> Result<Geometry, StartError> {
        let lines = self.slot_size.div_ceil(LINE) | 1;
        let lanes = self.lanes.unwrap_or_else(|| LANES.next_multiple_of(self.workers.max(1)));
        check::<T>("workers", self.workers, Geometry::WORKERS)?;
        check::<T>("concurrent_callers", lanes, Geometry::LANES)?;
        check::<T>("pending_calls", self.slots, Geometry::SLOTS)?;
        check::<T>("slot_size", self.slot_size, 1..=*Geometry::SLOT_LINES.end() as usize * LINE)?;
        let geometry = Geometry { lanes, slots: self.slots, slot_lines: lines as u32, workers: self.workers };
        check::<T>("max_payload", self.max_payload, geometry.capacity() as u64..=MAX_PAYLOAD)?;
        let refused = |option, value: u32, range: &str| {
            Err(StartError::Option { service: T::NAME, option, value: value.to_string(), range: range.into() })
        };
        if !self.slots.is_power_of_two() {
            return refused("pending_calls", self.slots, "a power of two");
        }
        if self.workers > lanes {
            return refused("workers", self.workers, &format!("at most {lanes}, the value of concurrent_callers"));
        }
        Ok(geometry)
    }

    fn memory_options(&self) -> Result<MemoryOptions, StartError> {
        let least = self.max_payload.saturating_mul(4);
        let total = self.memory.unwrap_or(least.saturating_add(2 * RETAINED));
        check::<T>("memory", total, least..=u64::MAX)?;
        let Self { max_payload, retained, trust, .. } = *self;
        Ok(MemoryOptions { max_payload, total, retained, trust })
    }

    /// Refuses strings that the system would reject, truncate or misread.
    fn check_words(&self) -> Result<(), StartError> {
        let name = self.name.iter().find(|name| name.contains('\0'));
        let wrong = name.map(|name| ("name", format!("{name:?}"), "without a zero byte"));
        match wrong.or_else(|| self.launch.mistake()) {
            None => Ok(()),
            Some((option, value, range)) => {
                Err(StartError::Option { service: T::NAME, option, value, range: range.into() })
            }
        }
    }

    /// Refuses traits that could not be called once the child runs.
    fn check_traits(&self) -> Result<(), StartError> {
        let refused = |option, value, range| Err(StartError::Option { service: T::NAME, option, value, range });
        let count = bridged_traits::keys::<T>().len();
        if count > MAX_INTERFACES {
            return refused("the number of bridged traits", count.to_string(), format!("at most {MAX_INTERFACES}"));
        }
        match bridged_traits::generic_of::<T>() {
            Some(name) if self.launch.executable.is_some() => {
                let way_out = format!(
                    "left out: the trait `{name}` is bridged for a generic type, whose methods exist in this program only"
                );
                refused("executable", format!("`{}`", self.launch.executable_name()), way_out)
            }
            _ => Ok(()),
        }
    }

    #[cfg(feature = "sandbox")]
    fn plan(&self, memory: &MemoryOptions, place: &str) -> Result<Option<SentPlan>, StartError> {
        self.sandbox.as_ref().map(|sandbox| SentPlan::of::<T>(sandbox, memory.total, place)).transpose()
    }

    #[cfg(not(feature = "sandbox"))]
    fn plan(&self, _memory: &MemoryOptions, _place: &str) -> Result<Option<SentPlan>, StartError> {
        Ok(None)
    }
}

fn check_restart<T: Service>(restart: &Restart, signal: Signal) -> Result<(), StartError> {
    check::<T>("Restart::at_most", restart.most.unwrap_or(u32::MAX), 1..=u32::MAX)?;
    if restart.within.is_zero() {
        let (option, value, range) = ("Restart::within", "zero".into(), "longer than zero".into());
        return Err(StartError::Option { service: T::NAME, option, value, range });
    }
    if signal.trusts_the_child() {
        let (option, value, range) = (
            "restart",
            format!("combined with {signal:?}"),
            "used without it, because each child that dies may leave a thread behind",
        );
        return Err(StartError::Option { service: T::NAME, option, value, range: range.into() });
    }
    Ok(())
}

fn check<T: Service>(
    option: &'static str,
    value: impl PartialOrd + Display + Copy + TryInto<u64>,
    range: std::ops::RangeInclusive<impl Display + Copy + TryInto<u64>>,
) -> Result<(), StartError> {
    let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
    let (start, end) = (number((*range.start()).try_into().ok()), number((*range.end()).try_into().ok()));
    if (start..=end).contains(&number(value.try_into().ok())) {
        return Ok(());
    }
    let range = format!("from {start} to {end}");
    Err(StartError::Option { service: T::NAME, option, value: value.to_string(), range })
}
