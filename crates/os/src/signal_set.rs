//! Signal sets and a thread's signal mask, for which rustix has no safe interface.

use libc::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(crate) fn empty() -> Self {
        // Some C libraries write only the words that hold signals; the rest stays zero.
        let mut set = MaybeUninit::zeroed();
        // SAFETY: writes within the set; the only failure is a null pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: integers, for which any bytes are valid, all initialised above.
        Self(unsafe { set.assume_init() })
    }

    pub(crate) fn all() -> Self {
        let mut set = Self::empty();
        // SAFETY: fills an existing set.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    /// These signals, which must exist.
    pub(crate) fn of(signals: &[c_int]) -> Self {
        let mut set = Self::empty();
        for &signal in signals {
            // SAFETY: changes an existing set; a number that is no signal is refused.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    /// The signals that the calling thread blocks and that are pending for it or its process.
    pub(crate) fn pending() -> Self {
        let mut set = Self::empty();
        // SAFETY: the kernel fills an existing set.
        unsafe { libc::sigpending(&raw mut set.0) };
        set
    }

    pub(crate) fn contains(&self, signal: c_int) -> bool {
        // SAFETY: reads an initialised set; a number that is no signal is refused.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// Sets the calling thread's signal mask to these signals. Returns the previous mask.
    pub(crate) fn set_mask(&self) -> io::Result<Self> {
        self.change_mask(libc::SIG_SETMASK)
    }

    /// Adds these signals to the calling thread's signal mask. Returns the previous mask.
    pub(crate) fn block(&self) -> io::Result<Self> {
        self.change_mask(libc::SIG_BLOCK)
    }

    fn change_mask(&self, how: c_int) -> io::Result<Self> {
        let mut before = Self::empty();
        // SAFETY: reads one set and fills another; both outlive the call.
        match unsafe { libc::pthread_sigmask(how, &raw const self.0, &raw mut before.0) } {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Consumes one pending signal of this set, all blocked, without running a handler.
    ///
    /// # Errors
    ///
    /// If none is pending (`WouldBlock`), or another signal interrupted the call (`Interrupted`).
    pub(crate) fn take(&self) -> io::Result<()> {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a set, a null pointer for the details, and a time; all outlive the call.
        let taken = unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const at_once) };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn as_raw(&self) -> libc::sigset_t {
        self.0
    }
}

/// Sends `signal` to the calling thread. Async-signal-safe.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: sends a signal that the process may send to itself; a number that is no signal is refused.
    unsafe { libc::raise(signal) };
}
