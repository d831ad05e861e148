//! A child between its start and the end of the handshake.

#![forbid(unsafe_code)]

use crate::child::too_late_in_words;
use crate::spawn::Spawned;
use crate::start_error::StartError;
use callgate_engine::bridged_traits;
use callgate_engine::handshake::{Answer, Hello, send_plan};
use callgate_engine::link::{Link, LinkParts};
use callgate_engine::service::Service;
use callgate_engine::watcher::{self, Watched};
use callgate_os::close;
use callgate_os::image::Image;
use callgate_os::limits::{self, Wanted};
use callgate_os::memfd;
use callgate_os::pidfd::Pidfd;
use callgate_os::poll;
use callgate_os::text::checked_words;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::Exit;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::layout::PROTOCOL;
use callgate_transport::segment::Segment;
use callgate_transport::wake::ParentBells;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for the exit status of a killed child before leaving it to the watcher.
const REAP_TIMEOUT: Duration = Duration::from_millis(500);

/// How often to check, while a child starts, whether it is still wanted.
const WANTED_SLICE: Duration = Duration::from_millis(20);

/// How long a child may live on after it has closed its control socket.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for a child to start: at most `timeout`, and only while `is_wanted` says yes.
pub(super) struct StartWait<'a> {
    pub(super) timeout: Duration,
    pub(super) is_wanted: &'a dyn Fn() -> bool,
}

/// A started child that is not yet watched; killed and reaped when dropped.
pub(super) struct StartingChild<T> {
    pid: u32,
    pidfd: Option<Pidfd>,
    control: Option<OwnedFd>,
    service: PhantomData<fn() -> T>,
}

impl<T: Service> StartingChild<T> {
    pub(super) fn new(spawned: Spawned) -> Result<Self, StartError> {
        let Spawned { pid, pidfd, control } = spawned;
        match pidfd {
            Some(pidfd) => Ok(Self { pid, pidfd: Some(pidfd), control: Some(control), service: PhantomData }),
            None => Err(Self::died(pid, Exit::Unknown)),
        }
    }

    fn died(pid: u32, exit: Exit) -> StartError {
        StartError::Died { service: T::NAME, pid, exit, when: "during the handshake", last_words: None }
    }

    /// Performs the handshake. Returns the child's sandbox report; empty if no sandbox was requested.
    pub(super) fn shake_hands(
        &self,
        hello: &Hello,
        plan: Option<&[u8]>,
        segment: Option<OwnedFd>,
        bells: &ParentBells,
        wait: StartWait<'_>,
        executable: &str,
    ) -> Result<Vec<u8>, StartError> {
        let StartWait { timeout, is_wanted } = wait;
        let Some(control) = &self.control else { return Err(Self::died(self.pid, Exit::Unknown)) };
        let descriptors: Vec<BorrowedFd<'_>> = segment.iter().map(AsFd::as_fd).chain(bells.for_child()).collect();
        let greeted =
            hello.send(control, &descriptors).and_then(|()| plan.map_or(Ok(()), |plan| send_plan(control, plan)));
        match greeted {
            // The child may have sent its reason before it closed the socket.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(system::<T>("greeting the child".into(), Wanted::Memory))?,
        }
        drop(descriptors);
        failpoints::reach(Step::ParentGreeted);
        let deadline = Deadline::after(Some(timeout));
        while !poll::readable(control, deadline.left().unwrap_or(timeout).min(WANTED_SLICE))
            .map_err(system::<T>("waiting for the child".into(), Wanted::Memory))?
        {
            if !is_wanted() {
                return Err(self.unusable("no caller waits for it any longer".into()));
            }
            if deadline.has_passed() {
                return Err(StartError::NoAnswer { service: T::NAME, executable: executable.into(), timeout });
            }
        }
        match Answer::receive(control) {
            Ok(Some((answer, body))) => {
                let body = self.judge(answer, body, hello)?;
                // The child has mapped the segment. Sealed before any code of the service runs, so nobody can punch holes in it.
                match segment.map_or(Ok(()), memfd::seal) {
                    Ok(()) => Ok(body),
                    Err(error) => Err(self.unusable(format!("its segment cannot be sealed: {error}"))),
                }
            }
            Ok(None) => Err(self.ended()),
            Err(error) => Err(self.unusable(error.to_string())),
        }
    }

    fn judge(&self, answer: Answer, body: Vec<u8>, hello: &Hello) -> Result<Vec<u8>, StartError> {
        let mismatch = |what, here: u64, there: u64| {
            let (here, there) = (format!("{here:#x}"), format!("{there:#x}"));
            Err(StartError::Mismatch { service: T::NAME, pid: self.pid, what, here, there })
        };
        match answer {
            Answer::Ready { .. } if !hello.sandboxed && !body.is_empty() => {
                Err(self.unusable("it reported a sandbox, but none was requested".into()))
            }
            Answer::Ready { pid } if pid == u64::from(self.pid) => {
                failpoints::reach(Step::ParentAnswered);
                Ok(body)
            }
            Answer::Ready { pid } => Err(self.unusable(format!("it reported the process number {pid}"))),
            Answer::Protocol { version } => mismatch("the version of callgate's protocol", PROTOCOL.into(), version),
            Answer::Format { format } => mismatch("the format of rkyv's archives", hello.format, format),
            Answer::Build { build } => mismatch("the build of the program", Image::current().build, build),
            Answer::Fingerprint { fingerprint } => {
                mismatch("the fingerprint of the service's methods and types", hello.fingerprint, fingerprint)
            }
            Answer::Interface { interface } => Err(self.lacks(interface)),
            Answer::NotServing => Err(self
                .unusable("its main begins with #[callgate::main] or callgate::init(), but a separate executable needs callgate::serve()".into())),
            Answer::Segment { error } => Err(self.unusable(no_segment(error))),
            Answer::OneWorker => Err(self.unusable(
                "it serves with one worker; to serve with several, its main must call callgate::serve_parallel()".into(),
            )),
            Answer::NoSandbox => Err(self.unusable(
                "it was built without callgate's feature `sandbox`, which the bridge's sandbox needs"
                    .into(),
            )),
            Answer::Unconfined { measure } if hello.sandboxed => Err(self.unconfined(measure, &body)),
            Answer::TooLate { threads } => {
                Err(StartError::InitTooLate { service: T::NAME, pid: self.pid, why: too_late_in_words(threads) })
            }
            Answer::Failed => {
                Err(self.unusable(format!("it ended: {}", checked_words(&String::from_utf8_lossy(&body)))))
            }
            Answer::Unconfined { .. } => {
                Err(self.unusable("it reported a sandbox failure, but none was requested".into()))
            }
        }
    }

    /// The child's executable does not bridge the trait with this number.
    fn lacks(&self, interface: u64) -> StartError {
        self.unusable(match bridged_traits::name_of::<T>(interface) {
            Some(name) => format!(
                "its executable has no bridged trait `{name}` of `{}` with the same methods and types: build it with `#[bridge] impl {name} for {}`",
                T::NAME, T::NAME
            ),
            None => "it reported as missing a bridged trait that this program does not have".into(),
        })
    }

    #[cfg(feature = "sandbox")]
    fn unconfined(&self, measure: u64, why: &[u8]) -> StartError {
        use callgate_sandbox::measure::Measure;
        match Measure::from_code(measure) {
            Some(measure) => {
                let why = checked_words(&String::from_utf8_lossy(why));
                StartError::Sandbox { service: T::NAME, pid: self.pid, measure, why }
            }
            None => self.unusable("it reported the failure of a sandbox measure that does not exist".into()),
        }
    }

    #[cfg(not(feature = "sandbox"))]
    fn unconfined(&self, _measure: u64, _why: &[u8]) -> StartError {
        self.unusable("it reported a sandbox failure, but this build has no sandboxes".into())
    }

    pub(super) fn unusable(&self, why: String) -> StartError {
        StartError::Handshake { service: T::NAME, pid: self.pid, why }
    }

    /// The child has closed the control socket: it has ended, or is about to.
    fn ended(&self) -> StartError {
        match self.pidfd.as_ref().and_then(|pidfd| reap(pidfd, END_TIMEOUT)) {
            Some(exit) => Self::died(self.pid, exit),
            None => self.unusable("it closed its control socket but kept running".into()),
        }
    }

    /// Hands the child to the watcher.
    pub(super) fn watched(mut self, segment: &Segment, shared: LinkParts) -> Result<Arc<Link>, StartError> {
        let parts = self.pidfd.take().zip(self.control.take());
        let (pidfd, control) = parts.ok_or_else(|| Self::died(self.pid, Exit::Unknown))?;
        let link = Link::new(self.pid, pidfd, control, segment, shared);
        if let Err(error) = watcher::watch(link.clone()) {
            link.put_an_end();
            reap(link.pidfd(), REAP_TIMEOUT);
            return Err(system::<T>("watching the child".into(), Wanted::Memory)(error));
        }
        Ok(link)
    }
}

impl<T> Drop for StartingChild<T> {
    fn drop(&mut self) {
        let (Some(pidfd), Some(control)) = (self.pidfd.take(), self.control.take()) else { return };
        if pidfd.kill().is_err() {
            // The child ends itself when its control socket ends.
            close::shut_down(&control);
        }
        if reap(&pidfd, REAP_TIMEOUT).is_none() {
            // The kernel holds it up. The watcher reaps it, so the caller need not wait.
            let _ = watcher::watch(Arc::new(Remains { pidfd, control }));
        }
    }
}

/// A child that was killed before it belonged to a bridge, and has not ended yet. Watched only to reap it.
struct Remains {
    pidfd: Pidfd,
    control: OwnedFd,
}

impl Watched for Remains {
    fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Ignores all messages.
    fn read_control(&self) -> bool {
        false
    }

    fn give_up(&self) -> bool {
        true
    }

    fn tidy(&self) -> bool {
        false
    }

    fn ended(&self, _: Exit) {}
}

/// Waits until the child has ended, at most `timeout`, and takes its status.
fn reap(pidfd: &Pidfd, timeout: Duration) -> Option<Exit> {
    let deadline = Deadline::after(Some(timeout));
    loop {
        if let Some(exit) = pidfd.reap() {
            return Some(exit);
        }
        if deadline.has_passed() {
            return None;
        }
        if poll::readable(pidfd, deadline.left().unwrap_or_default()).is_ok_and(|ended| ended) {
            // It has ended, but a tracer withholds its status.
            return Some(pidfd.reap().unwrap_or_else(|| {
                let _ = pidfd.try_clone().map(watcher::reap_later);
                Exit::Unknown
            }));
        }
    }
}

/// Why a child could not map its segment, from the error number it reported; 0 if it reported none.
fn no_segment(error: u64) -> String {
    match i32::try_from(error).unwrap_or(0) {
        0 => "it could not map the bridge's segment, or was built without the backends that the bridge uses".into(),
        number => {
            let error = io::Error::from_raw_os_error(number);
            // The child has this process's resource limits.
            format!("it could not map the bridge's segment{}: {error}", limits::behind(&error, Wanted::Memory))
        }
    }
}

/// Turns an I/O error during `what` into a `StartError` that names the resource limit likely behind it.
pub(super) fn system<T: Service>(what: String, wanted: Wanted) -> impl FnOnce(io::Error) -> StartError {
    move |error| {
        let what = what + &limits::behind(&error, wanted);
        StartError::System { service: T::NAME, what, error }
    }
}
