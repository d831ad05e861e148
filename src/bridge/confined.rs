//! The sandbox of a child, as its start sees it: the plan that is sent, and what has come of it. Nothing in a build without sandboxes.

#![forbid(unsafe_code)]

use crate::process::Report;

#[cfg(feature = "sandbox")]
pub(super) use with::SentPlan;
#[cfg(not(feature = "sandbox"))]
pub(super) use without::SentPlan;

#[cfg(feature = "sandbox")]
mod with {
    use super::Report;
    use crate::call::service::Service;
    use crate::error::StartError;
    use crate::handshake::MAX_PLAN;
    use crate::process::sandbox::report::SandboxReply;
    use crate::process::sandbox::{Plan, Sandbox};

    /// A plan that is sent to a child.
    pub(in crate::bridge) struct SentPlan {
        plan: Plan,
        bytes: Vec<u8>,
    }

    impl SentPlan {
        /// The plan of `sandbox`, for a child with so much shared memory, which it finds at `place`.
        pub(in crate::bridge) fn of<T: Service>(
            sandbox: &Sandbox,
            shared: u64,
            place: &str,
        ) -> Result<Self, StartError> {
            let refused = |option, value: String, range: &str| StartError::Option {
                service: T::NAME,
                option,
                value,
                range: range.into(),
            };
            sandbox.check().map_err(|(option, value, range)| refused(option, value, range))?;
            if !place.is_empty() {
                let value = "together with Segments::Named".into();
                return Err(refused("sandbox", value, "without, because the child opens such memory as it comes"));
            }
            let plan = sandbox.plan(shared);
            let too_long =
                || refused("sandbox", "longer than the child can be told".into(), &format!("at most {MAX_PLAN} bytes"));
            Ok(Self { bytes: plan.encode().ok_or_else(too_long)?, plan })
        }

        pub(in crate::bridge) fn bytes(&self) -> &[u8] {
            &self.bytes
        }

        /// What the child says of it; or what is wrong with that.
        pub(in crate::bridge) fn report(&self, told: &[u8]) -> Result<Report, String> {
            SandboxReply::checked(&self.plan, told)
        }
    }
}

#[cfg(not(feature = "sandbox"))]
mod without {
    use super::Report;

    /// There is none.
    pub(in crate::bridge) enum SentPlan {}

    impl SentPlan {
        pub(in crate::bridge) fn bytes(&self) -> &[u8] {
            match *self {}
        }

        pub(in crate::bridge) fn report(&self, _told: &[u8]) -> Result<Report, String> {
            match *self {}
        }
    }
}
