//! Signals: which a thread is interrupted by, which a terminal may send to a process, and one that the kernel sends instead of an error.
//!
//! Never installs a handler.

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::{getpgid, getpgrp, getpid, getppid, getsid};
use rustix::process::{Pid, setpgid, setsid};
use std::io;
use std::ptr;

/// Lets no signal interrupt the calling thread: the program's handlers run in the program's threads.
pub fn block() {
    // The only failure is an unknown operation.
    let _ = SigSet::all().thread_set_mask();
}

/// Lets every signal through to the calling thread.
pub fn unblock() {
    let _ = SigSet::empty().thread_set_mask();
}

/// What a terminal sends to all of a process group, and to whoever uses it from another one.
const OF_TERMINALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

/// Begins a session of its own, without a terminal, if this process has been started with a process group of its own: that keeps a terminal's
/// signals away from the first instruction on, but not SIGTTOU, which would stop it when it prints. Blocks signals; [`unblock`] them later.
///
/// The numbers come from nix: those of a leader outside of the pid namespace are 0, which rustix takes for impossible.
/// Who leads a group cannot begin a session, so it goes back into its parent's group for a moment; what that is sent then, it forgets.
pub fn leave_terminal() {
    if getpgrp() != getpid() {
        return;
    }
    block();
    let Some(group) = parents_group() else { return };
    let leads_session = getsid(None) == Ok(getpid());
    if leads_session || setpgid(None, Some(group)).is_err() {
        return;
    }
    if setsid().is_err() {
        let _ = setpgid(None, None);
    }
    take_pending(&SigSet::from_iter(OF_TERMINALS));
}

/// The process group of the parent; `None` if that lies outside of this process's pid namespace, where it has no number.
fn parents_group() -> Option<Pid> {
    let parent = Some(getppid()).filter(|parent| parent.as_raw() != 0)?;
    let group = getpgid(Some(parent)).ok()?;
    Pid::from_raw(group.as_raw())
}

/// Has writing to a pipe that nobody reads fail, as Rust's runtime does before `main`: a child may get no further than a constructor.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler: to ignore a signal runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// Does what makes a file longer. Beyond `RLIMIT_FSIZE` the kernel sends SIGXFSZ to the calling thread, which ends the program or calls a
/// handler of its, and then says `EFBIG`: here it says only that.
pub(crate) fn without_file_signal<R>(lengthen: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let signal = SigSet::from(Signal::SIGXFSZ);
    let before = signal.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    // One that somebody else has caused, and blocks, is theirs.
    let is_theirs = before.contains(Signal::SIGXFSZ) && is_pending(Signal::SIGXFSZ);
    let done = lengthen();
    let is_too_long = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    if !is_theirs && done.as_ref().is_err_and(is_too_long) {
        take_pending(&signal);
    }
    before.thread_set_mask()?;
    done
}

fn is_pending(signal: Signal) -> bool {
    let mut pending = SigSet::empty().as_ref().to_owned();
    // SAFETY: the kernel fills the set.
    let known = unsafe { libc::sigpending(&raw mut pending) } == 0;
    // SAFETY: a set that has been initialised, and a signal that there is.
    known && unsafe { libc::sigismember(&raw const pending, signal as libc::c_int) } == 1
}

/// Forgets those of `signals`, all blocked, that wait to be delivered to this thread or process.
fn take_pending(signals: &SigSet) {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        // SAFETY: a set, no room for what would be said of the signal, and a time; all outlive the call.
        let taken = unsafe { libc::sigtimedwait(signals.as_ref(), ptr::null_mut(), &raw const at_once) };
        if taken < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[test]
    fn what_waits_is_forgotten_and_the_mask_is_as_before() {
        let (user, before) = (SigSet::from(Signal::SIGURG), SigSet::thread_get_mask().unwrap());
        user.thread_block().unwrap();
        raise(Signal::SIGURG).unwrap();
        assert!(is_pending(Signal::SIGURG));
        take_pending(&user);
        assert!(!is_pending(Signal::SIGURG));
        before.thread_set_mask().unwrap();
        assert_eq!(without_file_signal(|| Ok(7)).unwrap(), 7);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn fault_24_a_signal_that_somebody_else_waits_for_stays() {
        let (file, before) = (SigSet::from(Signal::SIGXFSZ), SigSet::thread_get_mask().unwrap());
        file.thread_block().unwrap();
        raise(Signal::SIGXFSZ).unwrap();
        let error = without_file_signal(|| Err::<(), _>(io::Error::from_raw_os_error(libc::EFBIG))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        assert!(is_pending(Signal::SIGXFSZ));
        take_pending(&file);
        before.thread_set_mask().unwrap();
    }
}
