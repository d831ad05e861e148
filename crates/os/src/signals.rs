//! Signals: which ones may interrupt a thread, which ones a terminal may send to a process, and SIGXFSZ, which comes with an error.
//!
//! Never installs a handler.

use crate::signal_set::SignalSet;
use libc::c_int;
use rustix::process::{Pid, getpid, getppid, setpgid, setsid};
use std::io;

/// Blocks all signals in the calling thread, so that the program's handlers run in the program's own threads.
pub fn block() {
    // The only failure is an unknown operation.
    let _ = SignalSet::all().set_mask();
}

/// Unblocks all signals in the calling thread.
pub fn unblock() {
    let _ = SignalSet::empty().set_mask();
}

/// Signals that a terminal sends to a whole process group, or to a process that uses it from a background group.
const OF_TERMINALS: [c_int; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH];

/// Starts a session without a terminal, if this process was started in a process group of its own. The group keeps the terminal's signals away from
/// the first instruction on, except SIGTTOU, which would stop the process when it prints. Blocks all signals; [`unblock`] them later.
///
/// A group leader cannot start a session, so this process joins its parent's group for a moment. Terminal signals that arrive then are discarded.
pub fn leave_terminal() {
    let own = getpid().as_raw_pid();
    if group_of(own) != own {
        return;
    }
    block();
    let Some(group) = parents_group() else { return };
    if session_of(own) == own || setpgid(None, Some(group)).is_err() {
        return;
    }
    if setsid().is_err() {
        let _ = setpgid(None, None);
    }
    take_pending(&SignalSet::of(&OF_TERMINALS));
}

/// The parent's process group; `None` if its leader lies outside this process's pid namespace and so has no number here.
fn parents_group() -> Option<Pid> {
    Some(group_of(getppid()?.as_raw_pid())).filter(|&group| group > 0).and_then(Pid::from_raw)
}

/// The process group of a process; -1 if there is no such process. 0 means that the group's leader lies outside the pid namespace, which rustix
/// considers impossible.
fn group_of(process: libc::pid_t) -> libc::pid_t {
    // SAFETY: only asks for a number.
    unsafe { libc::getpgid(process) }
}

/// The session of a process, with the same special values as [`group_of`].
fn session_of(process: libc::pid_t) -> libc::pid_t {
    // SAFETY: only asks for a number.
    unsafe { libc::getsid(process) }
}

/// Makes a write to a pipe without readers fail instead of killing the process. Rust's runtime does this before `main`, but a child may never leave a
/// constructor.
pub fn ignore_broken_pipes() {
    // SAFETY: installs no handler: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Runs `lengthen`, which makes a file longer. Beyond `RLIMIT_FSIZE`, the kernel sends SIGXFSZ to the calling thread, which kills the program or runs
/// one of its handlers, and then fails with `EFBIG`. Here only the error remains.
pub(crate) fn without_file_signal<R>(lengthen: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let signal = SignalSet::of(&[libc::SIGXFSZ]);
    let before = signal.block()?;
    // A signal that was already pending and blocked belongs to the program.
    let is_theirs = before.contains(libc::SIGXFSZ) && SignalSet::pending().contains(libc::SIGXFSZ);
    let done = lengthen();
    let is_too_long = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    if !is_theirs && done.as_ref().is_err_and(is_too_long) {
        take_pending(&signal);
    }
    before.set_mask()?;
    done
}

/// Discards those of `signals` that are pending for this thread or process. All of them must be blocked.
fn take_pending(signals: &SignalSet) {
    while !signals.take().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::signal_set::raise;

    fn is_pending(signal: c_int) -> bool {
        SignalSet::pending().contains(signal)
    }

    /// The signals that the calling thread blocks.
    fn blocked() -> Vec<c_int> {
        let mask = SignalSet::empty().block().unwrap();
        (1..32).filter(|&signal| mask.contains(signal)).collect()
    }

    #[test]
    fn what_waits_is_forgotten_and_the_mask_is_as_before() {
        let user = SignalSet::of(&[libc::SIGURG]);
        let all_before = blocked();
        let before = user.block().unwrap();
        raise(libc::SIGURG);
        assert!(is_pending(libc::SIGURG));
        take_pending(&user);
        assert!(!is_pending(libc::SIGURG));
        before.set_mask().unwrap();
        assert_eq!(without_file_signal(|| Ok(7)).unwrap(), 7);
        assert_eq!(blocked(), all_before);
    }

    #[test]
    fn fault_24_a_signal_that_somebody_else_waits_for_stays() {
        let file = SignalSet::of(&[libc::SIGXFSZ]);
        let before = file.block().unwrap();
        raise(libc::SIGXFSZ);
        let error = without_file_signal(|| Err::<(), _>(io::Error::from_raw_os_error(libc::EFBIG))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        assert!(is_pending(libc::SIGXFSZ));
        take_pending(&file);
        before.set_mask().unwrap();
    }
}
