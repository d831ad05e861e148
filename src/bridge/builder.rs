//! Starting a bridge: the options, the child, the handshake, the constructor.

#![forbid(unsafe_code)]

use super::Bridge;
use crate::call::caller::Caller;
use crate::call::link::Link;
use crate::call::recorded::Recorded;
use crate::call::service::{Fingerprint, Method, Service};
use crate::doorbell::{Deadline, Wait};
use crate::error::{CallError, Exit, StartError};
use crate::frame::Request;
use crate::handshake::{Answer, Entry, Hello, rkyv_format, wait_code};
use crate::layout::{Geometry, LINE, PROTOCOL};
use crate::process::child::{self, Child};
use crate::process::spawn::{Launch, Spawned};
use crate::process::watch::{self, Watched};
use crate::segment::Segment;
use crate::sys::image::Image;
use crate::sys::pidfd::Pidfd;
use crate::sys::poll;
use crate::{call::callee, trusted};
use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether the program has called [`init`]: only then is it safe to execute it again.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// How long a child may take from its start to the end of the handshake, unless the builder says otherwise.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a child may take to drop its service and exit, unless the builder says otherwise.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long to wait for the status of a child that has been killed.
const REAP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a child that has closed its control socket may take to end.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The longest payload that rkyv's 32-bit relative pointers reach across, in bytes.
const MAX_PAYLOAD: u64 = i32::MAX as u64;

/// Makes a process that a bridge started into its child, which never returns from here; does nothing in any other process.
///
/// Must be the first line of `main`: a bridge starts its child by executing the running program again, and what comes before
/// this line runs in the child too. In a child, every descriptor from 3 on is closed here, so nothing may have been opened.
/// In tests and benches, [`test_support!`](crate::test_support) takes its place.
///
/// # Examples
///
/// ```
/// callgate::init();
/// // .. the rest of main
/// ```
pub fn init() {
    // In a child too: its service may have bridges of its own.
    INITIALISED.store(true, Ordering::Relaxed);
    if let Some(child) = child::adopt() {
        child.run_entry();
    }
}

/// Serves `T` to the parent that started this program with [`Builder::executable`]. Never returns.
///
/// The parent and this program must agree on `T`: its methods and their types are compared by fingerprint, and requests are
/// validated before they are read. Methods of bridged traits cannot be called this way.
///
/// A program that is not started by a bridge says so on stderr and exits with code 2.
pub fn serve<T: Service>() -> ! {
    match child::adopt() {
        Some(child) => entry::<T>(child),
        None => {
            eprintln!(
                "this program serves `{}` to the program that starts it through callgate's Builder::executable; \
                 it does nothing when started by hand",
                T::NAME
            );
            std::process::exit(2)
        }
    }
}

fn entry<T: Service>(child: Child) -> ! {
    callee::serve::<T>(child.answer(Fingerprint::of::<T>()))
}

/// How a bridge is started: the constructor's arguments and the options. Made by the generated `T::bridge(..)`.
///
/// # Examples
///
/// ```
/// # use callgate::{bridge, Wait};
/// # use std::time::Duration;
/// # pub struct Counter(u64);
/// # #[bridge]
/// # impl Counter {
/// #     pub fn new(start: u64) -> Self { Counter(start) }
/// #     pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # callgate::init();
/// let counter = Counter::bridge(40)
///     .name("counter")
///     .timeout(Duration::from_secs(1))
///     .wait(Wait::Park)
///     .env("LANG", "C")
///     .start()?;
/// assert_eq!(counter.add(2)?, 42);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `start` is called"]
pub struct Builder<T> {
    constructor: &'static Method,
    args: Option<Recorded>,
    name: Option<String>,
    lanes: u32,
    slots: u32,
    slot_size: usize,
    max_payload: u64,
    timeout: Option<Duration>,
    start_timeout: Duration,
    stop_grace: Duration,
    wait: Wait,
    launch: Launch,
    service: PhantomData<fn() -> T>,
}

impl<T: Service> Builder<T> {
    /// Records the constructor's arguments.
    pub(crate) fn new<A: Request>(constructor: &'static Method, args: &A) -> Self {
        Self {
            constructor,
            args: Recorded::new(args, MAX_PAYLOAD as usize).ok(),
            name: None,
            lanes: 8,
            slots: 32,
            slot_size: 9 * LINE,
            max_payload: 1 << 30,
            timeout: None,
            start_timeout: START_TIMEOUT,
            stop_grace: STOP_GRACE,
            wait: Wait::default(),
            launch: Launch { title: format!("callgate child: {}", T::NAME), ..Launch::default() },
            service: PhantomData,
        }
    }

    /// The name of the child's main thread, which process listings show (at most 15 bytes). Default: the service's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many threads can be in a call at the same time, 1 to 64; more wait for one another. Default: 8.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes;
        self
    }

    /// How many calls can be unanswered on a lane: a power of two, 2 to 4096. Default: 32.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Bytes in a slot, 1 to 65,472, rounded up to an odd number of cache lines; 16 of them are not payload. Larger payloads
    /// go through shared memory of their own, which costs more. Default: 576.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// The longest request or reply, in bytes, from what a slot holds to 2,147,483,647; longer ones fail with
    /// [`CallError::TooLarge`]. All large payloads of a bridge together may have four times as much memory, and 64 MiB.
    /// Default: 1 GiB.
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// The longest time that a call may take, including the constructor's. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The longest time that the child may take to come up, before its constructor runs. Default: 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long the child may take to drop its service and exit before it is killed. Default: 5 s.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// How both sides wait for each other. Default: [`Wait::Adaptive`].
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Sets an environment variable in the child, beside those that it inherits.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.launch.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The child's working directory. Default: inherited.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.launch.current_dir = Some(dir.as_ref().into());
        self
    }

    /// Where the child's standard output goes. Default: inherited.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.launch.stdout = Some(stdout.into());
        self
    }

    /// Where the child's standard error goes. Default: inherited.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.launch.stderr = Some(stderr.into());
        self
    }

    /// Executes another program, whose `main` calls [`serve::<T>()`](serve), instead of the running one.
    pub fn executable(mut self, path: impl AsRef<Path>) -> Self {
        self.launch.executable = Some(path.as_ref().into());
        self
    }

    /// Starts the child, builds the service there, and returns the bridge to it.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Whatever the error, nothing is left behind: no process, descriptor or memory.
    pub fn start(self) -> Result<Bridge<T>, StartError> {
        let geometry = self.geometry()?;
        let args = self.args.as_ref().ok_or_else(|| StartError::Arguments {
            service: T::NAME,
            why: "a value's own Serialize failed, or they are longer than 2 GiB".into(),
        })?;
        let hello = self.hello()?;
        let (segment, object) = Segment::create(geometry)
            .map_err(system::<T>(format!("creating a segment of {} bytes", geometry.segment_len())))?;
        let executable = self.launch.executable_name();
        let what = format!("starting {}", self.launch);
        let spawned = self.launch.start().map_err(system::<T>(what))?;
        let newborn = Newborn::<T>::new(spawned)?;
        newborn.shake_hands(&hello, object, self.start_timeout, &executable)?;
        let link = newborn.watched(self.max_payload)?;
        let caller = Arc::new(Caller::new(&segment, link, self.wait));
        let bridge = Bridge::new(caller.clone(), self.timeout, self.stop_grace);
        match caller.construct(self.constructor, args, self.timeout) {
            Ok(()) => Ok(bridge),
            Err(error) => {
                bridge.kill_unless_exiting(&error);
                Err(unbuilt::<T>(error))
            }
        }
    }

    fn geometry(&self) -> Result<Geometry, StartError> {
        let lines = self.slot_size.div_ceil(LINE) | 1;
        check::<T>("lanes", self.lanes, Geometry::LANES)?;
        check::<T>("slots", self.slots, Geometry::SLOTS)?;
        check::<T>("slot_size", self.slot_size, 1..=*Geometry::SLOT_LINES.end() as usize * LINE)?;
        let geometry = Geometry { lanes: self.lanes, slots: self.slots, slot_lines: lines as u32 };
        check::<T>("max_payload", self.max_payload, geometry.capacity() as u64..=MAX_PAYLOAD)?;
        if geometry.is_valid() {
            return Ok(geometry);
        }
        let (service, option, value) = (T::NAME, "slots", self.slots.to_string());
        Err(StartError::Option { service, option, value, range: "a power of two".into() })
    }

    fn hello(&self) -> Result<Hello, StartError> {
        let entry = match &self.launch.executable {
            Some(_) => None,
            None if !INITIALISED.load(Ordering::Relaxed) => {
                return Err(StartError::NotInitialised { service: T::NAME });
            }
            None => Some(own_entry::<T>()?),
        };
        Ok(Hello {
            format: rkyv_format(),
            entry,
            fingerprint: Fingerprint::of::<T>(),
            parent_pid: std::process::id(),
            name: self.name.as_deref().unwrap_or(T::NAME).chars().take(64).collect(),
            wait: wait_code(self.wait),
            max_payload: self.max_payload,
        })
    }
}

/// Where the entry for `T` is in the running program.
fn own_entry<T: Service>() -> Result<Entry, StartError> {
    let image = Image::current();
    let address = entry::<T> as trusted::Entry as usize;
    let offset = image.offset_of(address).ok_or_else(|| StartError::System {
        service: T::NAME,
        what: "finding the service in the running program".into(),
        source: io::Error::other("it lies in a shared library; use Builder::executable"),
    })?;
    Ok(Entry { build: image.build, offset })
}

fn check<T: Service>(
    option: &'static str,
    value: impl PartialOrd + Display + Copy + TryInto<u64>,
    range: std::ops::RangeInclusive<impl Display + Copy + TryInto<u64>>,
) -> Result<(), StartError> {
    let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
    let (start, end) = (number((*range.start()).try_into().ok()), number((*range.end()).try_into().ok()));
    if (start..=end).contains(&number(value.try_into().ok())) {
        return Ok(());
    }
    let range = format!("from {start} to {end}");
    Err(StartError::Option { service: T::NAME, option, value: value.to_string(), range })
}

fn system<T: Service>(what: String) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { service: T::NAME, what, source }
}

/// What the failed call of a constructor means for the start.
fn unbuilt<T: Service>(error: CallError) -> StartError {
    let service = T::NAME;
    match error {
        CallError::Refused { why, .. } => StartError::Constructor { service, message: why },
        CallError::Died { pid, exit, .. } => StartError::Died { service, pid, exit, when: "in its constructor" },
        error => StartError::Call { service, error },
    }
}

impl<T: Service> Bridge<T> {
    /// After a failed constructor there is no service to drop.
    fn kill_unless_exiting(&self, error: &CallError) {
        if !matches!(error, CallError::Died { .. }) {
            self.kill();
        }
    }
}

/// A child between its start and the end of the handshake; killed and reaped when dropped.
struct Newborn<T> {
    pid: u32,
    pidfd: Option<Pidfd>,
    control: Option<OwnedFd>,
    service: PhantomData<fn() -> T>,
}

impl<T: Service> Newborn<T> {
    fn new(spawned: Spawned) -> Result<Self, StartError> {
        let Spawned { pid, pidfd, control } = spawned;
        match pidfd {
            Some(pidfd) => Ok(Self { pid, pidfd: Some(pidfd), control: Some(control), service: PhantomData }),
            None => Err(Self::died(pid, Exit::Unknown)),
        }
    }

    fn died(pid: u32, exit: Exit) -> StartError {
        StartError::Died { service: T::NAME, pid, exit, when: "during the handshake" }
    }

    /// Greets the child and hears its answer.
    fn shake_hands(
        &self,
        hello: &Hello,
        segment: OwnedFd,
        timeout: Duration,
        executable: &str,
    ) -> Result<(), StartError> {
        let Some(control) = &self.control else { return Err(Self::died(self.pid, Exit::Unknown)) };
        match hello.send(control, segment.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(self.ended()),
            sent => sent.map_err(system::<T>("greeting the child".into()))?,
        }
        drop(segment);
        let deadline = Deadline::after(Some(timeout));
        while !poll::readable(control, deadline.left().unwrap_or(timeout))
            .map_err(system::<T>("waiting for the child".into()))?
        {
            if deadline.has_passed() {
                return Err(StartError::NoAnswer { service: T::NAME, executable: executable.into(), timeout });
            }
        }
        match Answer::receive(control) {
            Ok(Some(answer)) => self.judge(answer, hello),
            Ok(None) => Err(self.ended()),
            Err(error) => Err(self.unusable(error.to_string())),
        }
    }

    fn judge(&self, answer: Answer, hello: &Hello) -> Result<(), StartError> {
        let mismatch = |what, here: u64, there: u64| {
            let (here, there) = (format!("{here:#x}"), format!("{there:#x}"));
            Err(StartError::Mismatch { service: T::NAME, pid: self.pid, what, here, there })
        };
        match answer {
            Answer::Ready { pid } if pid == u64::from(self.pid) => Ok(()),
            Answer::Ready { pid } => Err(self.unusable(format!("it says that its process number is {pid}"))),
            Answer::Protocol { version } => mismatch("the version of callgate's protocol", PROTOCOL.into(), version),
            Answer::Format { format } => mismatch("the format of rkyv's archives", hello.format, format),
            Answer::Build { build } => mismatch("the build of the program", Image::current().build, build),
            Answer::Fingerprint { fingerprint } => {
                mismatch("the fingerprint of the service's methods and types", hello.fingerprint, fingerprint)
            }
            Answer::NotServing => Err(self
                .unusable("its main calls callgate::init(), and a separate executable needs callgate::serve()".into())),
            Answer::Segment => Err(self.unusable("it could not map the bridge's segment".into())),
        }
    }

    fn unusable(&self, why: String) -> StartError {
        StartError::Handshake { service: T::NAME, pid: self.pid, why }
    }

    /// The child has let go of the control socket: it has ended, or is about to.
    fn ended(&self) -> StartError {
        match self.pidfd.as_ref().and_then(|pidfd| reap(pidfd, END_PATIENCE)) {
            Some(exit) => Self::died(self.pid, exit),
            None => self.unusable("it closed its control socket and went on".into()),
        }
    }

    /// Hands the child to the watcher.
    fn watched(mut self, max_payload: u64) -> Result<Arc<Link>, StartError> {
        let parts = self.pidfd.take().zip(self.control.take());
        let (pidfd, control) = parts.ok_or_else(|| Self::died(self.pid, Exit::Unknown))?;
        let link = Arc::new(Link::new(self.pid, pidfd, control, max_payload));
        if let Err(error) = watch::watch(link.clone()) {
            link.pidfd().kill();
            reap(link.pidfd(), REAP_PATIENCE);
            return Err(system::<T>("watching the child".into())(error));
        }
        Ok(link)
    }
}

impl<T> Drop for Newborn<T> {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            pidfd.kill();
            reap(pidfd, REAP_PATIENCE);
        }
    }
}

/// Waits until the child has ended, at most `patience`, and takes its status.
fn reap(pidfd: &Pidfd, patience: Duration) -> Option<Exit> {
    let deadline = Deadline::after(Some(patience));
    loop {
        if let Some(exit) = pidfd.reap() {
            return Some(exit);
        }
        if deadline.has_passed() {
            return None;
        }
        let _ = poll::readable(pidfd, deadline.left().unwrap_or_default());
    }
}
