//! The sandbox of a child during its start: the plan that the parent sends, and the child's report. Empty in a build without sandboxes.

#![forbid(unsafe_code)]

#[cfg(feature = "sandbox")]
pub(super) use with::SentPlan;
#[cfg(not(feature = "sandbox"))]
pub(super) use without::SentPlan;

#[cfg(feature = "sandbox")]
mod with {
    use crate::start_error::StartError;
    use callgate_engine::handshake::MAX_PLAN;
    use callgate_engine::peer::Kept;
    use callgate_engine::service::Service;
    use callgate_sandbox::plan::{Plan, Sandbox};
    use callgate_sandbox::report::SandboxReply;
    use callgate_transport::copy_buffer::decode_private;
    use callgate_transport::encode::encode_to_vec;

    /// An encoded plan to send to a child.
    pub(in crate::bridge) struct SentPlan {
        plan: Plan,
        bytes: Vec<u8>,
    }

    impl SentPlan {
        /// Encodes the plan of `sandbox` for a child with `shared` bytes of shared memory, which it opens at `place`.
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
                let value = "combined with Segments::Named".into();
                return Err(refused(
                    "sandbox",
                    value,
                    "used without it, because the child opens such memory while it runs",
                ));
            }
            let plan = sandbox.plan(shared);
            let too_long = || refused("sandbox", "too long".into(), &format!("at most {MAX_PLAN} bytes"));
            Ok(Self { bytes: encode_to_vec(&plan, MAX_PLAN).map_err(|_| too_long())?.to_vec(), plan })
        }

        pub(in crate::bridge) fn bytes(&self) -> &[u8] {
            &self.bytes
        }

        /// The child's report of its sandbox, or what is wrong with the report.
        pub(in crate::bridge) fn report(&self, told: &[u8]) -> Result<Kept, String> {
            let told: SandboxReply = decode_private(told).ok_or("its sandbox report cannot be read")?;
            Ok(Box::new(told.checked(&self.plan)?))
        }
    }
}

#[cfg(not(feature = "sandbox"))]
mod without {
    use callgate_engine::peer::Kept;

    /// Has no value: this build has no sandboxes.
    pub(in crate::bridge) enum SentPlan {}

    impl SentPlan {
        pub(in crate::bridge) fn bytes(&self) -> &[u8] {
            match *self {}
        }

        pub(in crate::bridge) fn report(&self, _told: &[u8]) -> Result<Kept, String> {
            match *self {}
        }
    }
}
