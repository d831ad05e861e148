//! The promise that a child is trusted, which the backends of the feature `portable` require.

/// Proof that the programmer trusts a child with the parent's own memory.
///
/// [`Segments::Named`](crate::backing::Segments::Named) and [`Signal::RawSync`](crate::wake::Signal::RawSync) put objects into shared memory
/// that a child can turn against its parent. The other backends do not. Hence the `unsafe`, once.
///
/// # Examples
///
/// ```
/// # use callgate::{bridge, Segments, Signal, TrustedChild};
/// # struct Echo;
/// # #[bridge]
/// # impl Echo {
/// #     pub fn new() -> Self { Echo }
/// #     pub fn say(&self, n: u32) -> u32 { n }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // SAFETY: the child runs only code of this program, and the parent need not survive memory corruption in it.
/// let trusted = unsafe { TrustedChild::new() };
/// let echo = Echo::bridge().segments(Segments::Named(trusted)).signal(Signal::RawSync(trusted)).start()?;
/// assert_eq!(echo.say(7)?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrustedChild(());

impl TrustedChild {
    /// # Safety
    ///
    /// For every child that it is used for: nothing in the child, and no other process of the same user that opens the memory by its name, may shrink that memory
    /// (the parent's next access would be a SIGBUS) or write to the events in it (they are a C library's mutexes, and hold
    /// pointers and modes that it acts upon). A child that corrupts its own memory may do either.
    pub unsafe fn new() -> Self {
        Self(())
    }

    /// For the lists of all backends. Their users ask each whether it
    /// [trusts the child](crate::wake::Signal::trusts_the_child) before they start it.
    pub(crate) const fn for_lists() -> Self {
        Self(())
    }
}
