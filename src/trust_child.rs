//! `Builder::trust_child`: the promise that a child can be trusted.
//!
//! `unsafe` stands here because the promise itself is unsafe to make.

use crate::bridge::Builder;
use callgate_engine::service::Service;
use callgate_transport::decoder::TrustedPeer;

impl<T: Service> Builder<T> {
    /// Trusts the child, so that the parent reads what it writes in place: boxes pass both ways without a copy, and large
    /// replies are neither copied nor validated before they are read.
    ///
    /// The parent stays protected from crashes, panics and hangs of the child. It gives up the protection from a child
    /// that writes where it must not.
    ///
    /// # Safety
    ///
    /// The child must not write to memory that it has given away (boxes that it has passed or returned, replies that it has sent) or
    /// has only borrowed (boxes passed by reference). Every reply must be a valid archive of the method's result, and must not nest
    /// so deep that reading it overflows the stack. So the child must be free of memory corruption, and the `Serialize` and `Deserialize`
    /// of its types must be correct, as derived ones are. A handwritten one that passes on, or makes, boxes that are not in the value is wrong.
    ///
    /// # Examples
    ///
    /// ```
    /// use callgate::{SharedBox, bridge};
    ///
    /// struct Inverter;
    ///
    /// #[bridge]
    /// impl Inverter {
    ///     pub fn new() -> Self { Inverter }
    ///     pub fn invert(&self, mut picture: SharedBox<[u8]>) -> SharedBox<[u8]> {
    ///         picture.iter_mut().for_each(|byte| *byte = !*byte);
    ///         picture
    ///     }
    /// }
    ///
    /// #[callgate::main]
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     // SAFETY: the child runs safe code of this program alone.
    ///     let inverter = unsafe { Inverter::bridge().trust_child() }.start()?;
    ///     let picture = SharedBox::<[u8]>::zeroed_in(&inverter, 1 << 20)?;
    ///     let picture = inverter.invert(picture)?; // there and back, and no byte has been copied
    ///     assert!(picture.iter().all(|&byte| byte == 255));
    ///     Ok(())
    /// }
    /// ```
    pub unsafe fn trust_child(mut self) -> Self {
        // SAFETY: the caller's duty.
        self.trust = Some(unsafe { TrustedPeer::new() });
        self
    }
}
