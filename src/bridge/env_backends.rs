//! Defaults that the environment chooses, for trying a backend without rebuilding.

#![forbid(unsafe_code)]

use crate::start_error::StartError;
use callgate_engine::service::Service;
use callgate_os::selfproc;
use callgate_transport::backing::Segments;
use callgate_transport::wake::Signal;

/// Names the default of [`Builder::signal`](super::Builder::signal).
const SIGNAL: &str = "CALLGATE_SIGNAL";

/// What wakes a side that sleeps, unless the builder says it.
pub(super) fn signal<T: Service>() -> Result<Signal, StartError> {
    chosen::<T, _>(SIGNAL, Signal::ALL, Signal::name, Signal::trusts_the_child)
}

/// Names the default of [`Builder::segments`](super::Builder::segments).
const SEGMENTS: &str = "CALLGATE_SEGMENTS";

/// What the shared memory is, unless the builder says it.
pub(super) fn segments<T: Service>() -> Result<Segments, StartError> {
    chosen::<T, _>(SEGMENTS, Segments::ALL, Segments::name, Segments::trusts_the_child)
}

/// Whether the environment may choose backends that are for trusted children only, which safe code could then be undone by: so
/// this is said when callgate is built, for its own tests.
const MAY_TRUST: bool = option_env!("CALLGATE_TRUST_THE_ENVIRONMENT").is_some();

/// The backend that `variable` names, of `all`; the default if it is not set.
fn chosen<T: Service, B: Copy + Default>(
    variable: &'static str,
    all: &[B],
    name: fn(B) -> &'static str,
    trusts: fn(B) -> bool,
) -> Result<B, StartError> {
    let Some(value) = value_of(variable) else { return Ok(B::default()) };
    let choices = || all.iter().copied().filter(|&backend| MAY_TRUST || !trusts(backend));
    let found = choices().find(|&backend| name(backend) == value);
    found.ok_or_else(|| StartError::Option {
        service: T::NAME,
        option: variable,
        value: format!("`{value}`"),
        range: format!("one of {}, or not set", choices().map(name).collect::<Vec<_>>().join(", ")),
    })
}

/// The variable's value. A program that runs with more rights than whoever executed it takes no orders from there.
fn value_of(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|_| !selfproc::is_privileged())?;
    Some(value.to_string_lossy().into_owned())
}
