//! Sets of signals, and the mask of a thread: what rustix has no safe face for.

use libc::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// No signal.
    pub(crate) fn empty() -> Self {
        // Some C libraries write only the words that signals have: the rest is zeros.
        let mut set = MaybeUninit::zeroed();
        // SAFETY: writes within the set; its only failure is a null pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: numbers, of which any bytes are a value, all of them initialised above.
        Self(unsafe { set.assume_init() })
    }

    /// Every signal.
    pub(crate) fn all() -> Self {
        let mut set = Self::empty();
        // SAFETY: fills a set that is there.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    /// These signals, which must exist.
    pub(crate) fn of(signals: &[c_int]) -> Self {
        let mut set = Self::empty();
        for &signal in signals {
            // SAFETY: changes a set that is there; a number that is no signal is refused.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    /// The signals that wait to be delivered to the calling thread or its process, and that the thread blocks.
    pub(crate) fn pending() -> Self {
        let mut set = Self::empty();
        // SAFETY: the kernel fills a set that is there.
        unsafe { libc::sigpending(&raw mut set.0) };
        set
    }

    pub(crate) fn contains(&self, signal: c_int) -> bool {
        // SAFETY: a set that has been initialised; a number that is no signal is refused.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// Makes the calling thread block these signals and no others. Returns those that it blocked before.
    pub(crate) fn set_mask(&self) -> io::Result<Self> {
        self.change_mask(libc::SIG_SETMASK)
    }

    /// Makes the calling thread block these signals too. Returns those that it blocked before.
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

    /// Takes one of these signals, all blocked, from those that wait to be delivered, without running a handler.
    ///
    /// # Errors
    ///
    /// If none waits (`WouldBlock`), or another signal came in between (`Interrupted`).
    pub(crate) fn take(&self) -> io::Result<()> {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a set, no room for what would be said of the signal, and a time; all outlive the call.
        let taken = unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const at_once) };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn as_raw(&self) -> libc::sigset_t {
        self.0
    }
}

/// Sends `signal` to the calling thread.
///
/// Async-signal-safe.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: sends a signal, as any process of the user might; a number that is no signal is refused.
    unsafe { libc::raise(signal) };
}
