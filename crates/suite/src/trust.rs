//! The one place where the suite trusts a child, so that boxes cross in both directions without a copy.

#![allow(unsafe_code, reason = "trust in a child is unsafe to give")]

use callgate::Builder;

/// Makes the builder trust its child.
pub(crate) fn trusted<T: callgate::Service>(builder: Builder<T>) -> Builder<T> {
    // SAFETY: the child runs only the suite's own service. That is safe code, so it writes only where it may, and this process need not
    // survive memory corruption in the child.
    unsafe { builder.trust_child() }
}
