//! Defaults that the environment chooses, for trying a backend without rebuilding.

#![forbid(unsafe_code)]

use crate::call::service::Service;
use crate::error::StartError;
use crate::objects::Segments;
use crate::signal::Signal;
use crate::sys::selfproc;

/// Names the default of [`Builder::signal`](super::Builder::signal).
const SIGNAL: &str = "CALLGATE_SIGNAL";

/// What wakes a side that sleeps, unless the builder says it.
pub(super) fn signal<T: Service>() -> Result<Signal, StartError> {
    match variable(SIGNAL) {
        None => Ok(Signal::default()),
        Some(name) => Signal::named(&name).ok_or_else(|| unknown::<T>(SIGNAL, name, Signal::names())),
    }
}

/// Names the default of [`Builder::segments`](super::Builder::segments).
const SEGMENTS: &str = "CALLGATE_SEGMENTS";

/// What the shared memory is, unless the builder says it.
pub(super) fn segments<T: Service>() -> Result<Segments, StartError> {
    match variable(SEGMENTS) {
        None => Ok(Segments::default()),
        Some(name) => Segments::named(&name).ok_or_else(|| unknown::<T>(SEGMENTS, name, Segments::names())),
    }
}

/// The variable's value. A program that runs with more rights than whoever executed it takes no orders from there.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|_| !selfproc::is_privileged())?;
    Some(value.to_string_lossy().into_owned())
}

fn unknown<T: Service>(variable: &'static str, name: String, names: String) -> StartError {
    StartError::Option {
        service: T::NAME,
        option: variable,
        value: format!("`{name}`"),
        range: format!("one of {names}, or not set"),
    }
}
