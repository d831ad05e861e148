//! What a process does to itself and asks about itself: its death with its parent, its ids and rights, its name.

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use rustix::rand::GetRandomFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Makes the kernel send SIGKILL to this process when the thread that started it exits. Changing the uid cancels that.
pub fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Ends this process at once: no destructors, no exit handlers.
pub fn kill_self() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    // The first process of a pid namespace cannot kill itself, nor can one whose seccomp filter forbids it.
    // SAFETY: ends the process without running any of its code.
    unsafe { libc::_exit(KILLED) }
}

/// The exit code that a shell reports for a process killed by SIGKILL.
const KILLED: i32 = 137;

/// Stops this process until somebody continues it.
pub fn stop_self() {
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Unpredictable bytes, at most 256, which the kernel delivers in one piece.
pub fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    const { assert!(LEN <= 256) };
    let mut bytes = [0; LEN];
    let got = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()))?;
    if got == LEN { Ok(bytes) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// The process that started this one; 0 if it lies outside the pid namespace.
pub fn parent_pid() -> u32 {
    getppid().map_or(0, |pid| Pid::as_raw(Some(pid)) as u32)
}

/// The effective user and group of this process.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Checks that `owner`, the user of a file, is this process's effective user or root. If not, says so in words that follow the file's name.
pub fn check_owner(owner: u32) -> Result<(), String> {
    let (own, _) = effective_ids();
    if owner == own || owner == 0 {
        return Ok(());
    }
    Err(format!("belongs to user {owner} but must belong to user {own} or root"))
}

/// Whether executing this program gave it capabilities that the process that executed it did not have.
pub fn gained_capabilities() -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    // AT_SECURE is also set after a change of user or group, which the ids reveal.
    is_privileged() && getuid() == geteuid() && getgid() == getegid()
}

/// Whether executing this program gave it rights (setuid, setgid, capabilities) that the process that executed it did not have.
pub fn is_privileged() -> bool {
    // SAFETY: reads a value that the kernel placed beside the environment; any argument is valid.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Names the calling thread, cut at 15 bytes. On the main thread, `ps` and `top` show it as the process's name.
pub fn set_name(name: &str) {
    let cut: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = CString::new(cut) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Whether the kernel loaded a dynamic loader for this program. False if the program is static or was passed to a loader as an argument.
pub(crate) fn has_loader() -> bool {
    // SAFETY: reads a value that the kernel placed beside the environment; any argument is valid.
    unsafe { libc::getauxval(libc::AT_BASE) != 0 }
}

/// Marks descriptor `number`, if it is open, as closed on exec.
pub fn close_on_exec(number: RawFd) {
    // SAFETY: closes nothing now; the kernel refuses a number that is not open.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// CPU time used by the calling thread. Through the C library: rustix reads the vDSO itself, which valgrind hides.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: every thread has this clock, and the place for the time outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
