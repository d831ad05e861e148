//! Default backends from environment variables, for trying a backend without a rebuild.

#![forbid(unsafe_code)]

use crate::start_error::StartError;
use callgate_engine::service::Service;
use callgate_os::selfproc;
use callgate_transport::backing::Segments;
use callgate_transport::wake::Signal;

/// Names the default of [`Builder::signal`](super::Builder::signal).
const SIGNAL: &str = "CALLGATE_SIGNAL";

/// The default of `Builder::signal`.
pub(super) fn signal<T: Service>() -> Result<Signal, StartError> {
    backend_from_env::<T, _>(SIGNAL, Signal::ALL, Signal::name, Signal::trusts_the_child)
}

/// Names the default of [`Builder::segments`](super::Builder::segments).
const SEGMENTS: &str = "CALLGATE_SEGMENTS";

/// The default of `Builder::segments`.
pub(super) fn segments<T: Service>() -> Result<Segments, StartError> {
    backend_from_env::<T, _>(SEGMENTS, Segments::ALL, Segments::name, Segments::trusts_the_child)
}

/// Whether the environment may select backends that trust the child. Setting a variable would then make safe code unsound, so only a
/// build of callgate for its own tests allows it.
const MAY_TRUST: bool = option_env!("CALLGATE_TRUST_THE_ENVIRONMENT").is_some();

/// The backend of `all` that `variable` names; the default if the variable is not set.
fn backend_from_env<T: Service, B: Copy + Default>(
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

/// The variable's value. Ignored in a program that runs with more rights than its caller (setuid, say).
fn value_of(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|_| !selfproc::is_privileged())?;
    Some(value.to_string_lossy().into_owned())
}
