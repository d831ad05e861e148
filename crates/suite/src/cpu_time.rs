//! Measures how much CPU time processes and threads have used.

#![forbid(unsafe_code)]

use nix::time::ClockId;
use nix::unistd::Pid;
use std::io;
use std::time::Duration;

/// The CPU clocks of this process and of the process that answers it.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    peer: Option<ClockId>,
}

impl CpuTime {
    /// The clocks of this process and of `peer`, if there is one.
    ///
    /// # Errors
    ///
    /// If no process `peer` exists.
    pub fn with(peer: Option<u32>) -> io::Result<Self> {
        let clock = |pid: u32| ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32));
        Ok(Self { peer: peer.map(clock).transpose()? })
    }

    /// The CPU time that all threads of both processes have used since they began.
    pub fn used(&self) -> io::Result<Duration> {
        let own = ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?;
        let peer = self.peer.map(ClockId::now).transpose()?;
        Ok(Duration::from(own) + peer.map_or(Duration::ZERO, Duration::from))
    }
}

/// The CPU time that the calling thread has used since it began.
pub fn of_this_thread() -> io::Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn sleeping_costs_little_and_spinning_costs_what_it_takes() {
        let at = || of_this_thread().expect("a clock");
        let begin = at();
        std::thread::sleep(Duration::from_millis(30));
        assert!(at() - begin < Duration::from_millis(15));
        // The wall clock starts first, so that the time between the two readings counts as wall time.
        let (wall, begin) = (Instant::now(), at());
        while at() - begin < Duration::from_millis(5) {}
        assert!(wall.elapsed() >= Duration::from_millis(5), "no thread uses more than one CPU");
    }

    #[test]
    fn a_process_that_is_not_there_has_no_clock() {
        let child = crate::floor::spawn().expect("a child");
        let pid = child.pid();
        CpuTime::with(Some(pid)).expect("it has not been waited for").used().expect("a clock");
        drop(child);
        assert!(CpuTime::with(Some(pid)).is_err());
    }
}
