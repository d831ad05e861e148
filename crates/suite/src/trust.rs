//! The one place where the suite trusts a child: so that boxes cross both ways without a copy.

#![allow(unsafe_code, reason = "trust in a child is unsafe to give")]

use callgate::Builder;

/// Has the builder's child trusted.
pub(crate) fn trusted<T: callgate::Service>(builder: Builder<T>) -> Builder<T> {
    // SAFETY: the child runs the suite's own service and nothing else. All of that is safe code, so it does not write where it may
    // not, and it need not survive memory corruption in the child.
    unsafe { builder.trust_child() }
}
