//! Child processes: started, watched, and what a child does to itself before anything else.
//!
//! Layer 4. Knows nothing of rings or calls.

pub(crate) mod child;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
pub(crate) mod spawn;
pub(crate) mod watch;

/// What has come of a child's sandbox.
#[cfg(feature = "sandbox")]
pub(crate) type Report = sandbox::report::SandboxReport;
/// Nothing ever comes of a sandbox in this build.
#[cfg(not(feature = "sandbox"))]
pub(crate) type Report = std::convert::Infallible;
