//! Signals: which a thread is interrupted by, which a terminal may send to a process, and one that the kernel sends instead of an error.
//!
//! Never installs a handler.

use crate::signal_set::SignalSet;
use libc::c_int;
use rustix::process::{Pid, getpid, getppid, setpgid, setsid};
use std::io;

/// Lets no signal interrupt the calling thread: the program's handlers run in the program's threads.
pub fn block() {
    // The only failure is an unknown operation.
    let _ = SignalSet::all().set_mask();
}

/// Lets every signal through to the calling thread.
pub fn unblock() {
    let _ = SignalSet::empty().set_mask();
}

/// What a terminal sends to all of a process group, and to whoever uses it from another one.
const OF_TERMINALS: [c_int; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH];

/// Begins a session of its own, without a terminal, if this process has been started with a process group of its own: that keeps a terminal's
/// signals away from the first instruction on, but not SIGTTOU, which would stop it when it prints. Blocks signals; [`unblock`] them later.
///
/// Who leads a group cannot begin a session, so it goes back into its parent's group for a moment; what that is sent then, it forgets.
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

/// The process group of the parent; `None` if that lies outside of this process's pid namespace, where it has no number.
fn parents_group() -> Option<Pid> {
    Some(group_of(getppid()?.as_raw_pid())).filter(|&group| group > 0).and_then(Pid::from_raw)
}

/// The process group of a process: 0 if its leader lies outside of the pid namespace, which rustix takes for impossible; -1 if there is no such
/// process.
fn group_of(process: libc::pid_t) -> libc::pid_t {
    // SAFETY: asks for a number.
    unsafe { libc::getpgid(process) }
}

/// The session of a process, as [`group_of`] says its group.
fn session_of(process: libc::pid_t) -> libc::pid_t {
    // SAFETY: asks for a number.
    unsafe { libc::getsid(process) }
}

/// Has writing to a pipe that nobody reads fail, as Rust's runtime does before `main`: a child may get no further than a constructor.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler: to ignore a signal runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Does what makes a file longer. Beyond `RLIMIT_FSIZE` the kernel sends SIGXFSZ to the calling thread, which ends the program or calls a
/// handler of its, and then says `EFBIG`: here it says only that.
pub(crate) fn without_file_signal<R>(lengthen: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    let signal = SignalSet::of(&[libc::SIGXFSZ]);
    let before = signal.block()?;
    // One that somebody else has caused, and blocks, is theirs.
    let is_theirs = before.contains(libc::SIGXFSZ) && SignalSet::pending().contains(libc::SIGXFSZ);
    let done = lengthen();
    let is_too_long = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    if !is_theirs && done.as_ref().is_err_and(is_too_long) {
        take_pending(&signal);
    }
    before.set_mask()?;
    done
}

/// Forgets those of `signals`, all blocked, that wait to be delivered to this thread or process.
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

    /// Which signals the calling thread blocks.
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
