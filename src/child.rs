//! What a child does to itself first: leaves its parent's terminal, sheds what it inherited, takes the control socket from stdin, arranges to
//! die with its parent, and answers the handshake.
//!
//! Never closes a descriptor that somebody in this process may own: what is inherited goes by executing the program again.

use crate::spawn::VARIABLE;
use callgate_engine::callee::Serving;
use callgate_engine::control::Control;
use callgate_engine::handshake::{Answer, Entry, Greeting, Hello, rkyv_format};
use callgate_engine::trusted::{self, Build, TrustedParent};
use callgate_os::image::Image;
use callgate_os::text::checked_words;
use callgate_os::{descriptor, limits, program, selfproc, signals, socket};
use callgate_transport::backing::{self, Backing};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::segment::Segment;
use callgate_transport::wake::{Bells, Count, Signal};
use rustix::stdio::stdin;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Exit code of a child that could not get as far as serving.
const FAILED: i32 = 70;

/// Threads, and what waits for descriptors, that libraries have started before `main`, in a process that may be a child.
static OF_LIBRARIES: [AtomicUsize; 2] = [AtomicUsize::new(1), AtomicUsize::new(0)];

/// Notes what libraries have started: nothing of the program's has begun.
pub(crate) extern "C" fn note_libraries() {
    if std::env::var_os(VARIABLE).is_some() {
        OF_LIBRARIES[0].store(threads(), Relaxed);
        OF_LIBRARIES[1].store(reactors(), Relaxed);
    }
}

// Behind what the program's own constructors start, as far as the linker has put those before.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_LIBRARIES: extern "C" fn() = note_libraries;

/// Where a child goes that serves one service: it never comes back.
pub(crate) type EntryFn = fn(Child) -> !;

/// A child that knows what it is, and has not yet answered its parent.
#[derive(Debug)]
pub(crate) struct Child {
    socket: OwnedFd,
    /// What came with the handshake: the segment, and what the doorbells need.
    descriptors: Vec<OwnedFd>,
    hello: Hello,
    /// The plan of its sandbox.
    plan: Option<Vec<u8>>,
    /// `Same` once the build identities have been compared.
    build: Build,
}

/// Makes this process the child that a bridge started it as; `None` if it is none.
///
/// Never returns if it is one but its parent is gone, or the handshake cannot go on.
pub(crate) fn adopt() -> Option<Child> {
    failpoints::begin();
    let said = std::env::var(VARIABLE).ok()?;
    let (number, is_bare) = said.strip_suffix(BARE).map_or((&*said, false), |number| (number, true));
    let inode: u64 = number.parse().ok()?;
    // Only the very socket that the parent made counts: the variable alone is inherited by grandchildren.
    if socket::inode(io::stdin().as_fd()) != Some(inode) {
        return None;
    }
    if let Err(why) = check_maker() {
        fail(stdin(), "whoever started it may not command it", &why);
    }
    signals::leave_terminal();
    signals::ignore_broken_pipes();
    check_is_early();
    if !is_bare {
        shed_inherited(inode);
    }
    let socket =
        descriptor::take_stdin().unwrap_or_else(|error| fail(stdin(), "taking the control socket from stdin", &error));
    failpoints::begin_child();
    failpoints::reach(Step::ChildAdopted);
    match Hello::receive(&socket) {
        Ok(Some(Greeting { hello, descriptors, plan })) => {
            let descriptors = descriptors.into_iter().map(descriptor::raised).collect::<io::Result<_>>();
            let descriptors =
                descriptors.unwrap_or_else(|error| fail(&socket, "keeping what came with the handshake", &error));
            Some(Child { socket, descriptors, hello, plan, build: Build::Other }.come_up())
        }
        Ok(None) => std::process::exit(FAILED),
        Err(error) => fail(&socket, "receiving the handshake", &error),
    }
}

/// Stands in [`VARIABLE`] behind the inode, in a program that has been executed once more and has inherited nothing.
const BARE: &str = " bare";

/// How long threads that have ended may take to be gone.
const GOING: Duration = Duration::from_millis(50);

/// How many threads run. Without procfs nobody knows.
fn threads() -> usize {
    limits::threads().unwrap_or(1)
}

/// How many descriptors there are that wait for others, as the reactor of an async runtime does.
fn reactors() -> usize {
    let is_own = |found: &&descriptor::InheritedDescriptor| found.is_reactor && !found.is_inheritable;
    descriptor::found().map_or(0, |found| found.iter().filter(is_own).count())
}

/// Ends this process, and tells the parent why, unless it can still be made a child: not when other threads run, nor when something waits for
/// descriptors, beyond what libraries have started before `main`. Then `main` has begun, and what it has begun would go on beside the service.
fn check_is_early() {
    let [few, waiting] = OF_LIBRARIES.each_ref().map(|count| count.load(Relaxed));
    let mut threads = threads();
    for _ in 0..GOING.as_millis() {
        if threads <= few {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        threads = self::threads();
    }
    if threads > few || reactors() > waiting {
        // Who has started none of them is not to hear of those of libraries.
        let threads = 1 + threads.saturating_sub(few) as u64;
        say(&too_late_in_words(threads));
        // It goes without the parent's greeting, and ends this process when it hears this.
        let _ = Answer::TooLate { threads }.send(stdin(), &[]);
        std::process::exit(FAILED);
    }
}

/// What is wrong in a process that came to `init` when so many threads ran in it; 1 = something waited for descriptors.
pub(crate) fn too_late_in_words(threads: u64) -> String {
    let found = match threads {
        0 | 1 => "an async runtime was there already".into(),
        more => format!("{more} threads ran already"),
    };
    format!(
        "when it came to callgate::init(), {found}: put #[callgate::main] above `fn main` and above the runtime's attribute \
         (#[callgate::main] #[tokio::main] async fn main()), or call callgate::init() before anything else"
    )
}

/// Executes this program once more if it has inherited descriptors, which are closed thereby: what is open then, somebody in this process has
/// opened (a library that was loaded before `main`, say), and keeps. Returns if there is nothing to shed.
fn shed_inherited(inode: u64) {
    // Without procfs the two cannot be told apart.
    let Ok(found) = descriptor::found() else { return };
    if found.iter().any(|found| found.is_inheritable) {
        let error = descriptor::close_on_exec()
            .err()
            .unwrap_or_else(|| program::become_again(VARIABLE, &format!("{inode}{BARE}")));
        fail(stdin(), "executing the program again, without what it inherited", &error);
    }
}

/// Whether the process that made the control socket may tell this one what to do: a child carries out whatever its parent
/// says, so a program that runs with more rights than whoever executed it (setuid, setgid, file capabilities) must not be
/// one. The kernel recorded who made the socket.
fn check_maker() -> io::Result<()> {
    let (user, group) = socket::maker(io::stdin())?;
    let (own_user, own_group) = selfproc::effective_ids();
    let same = user == own_user && group == own_group && !selfproc::gained_capabilities();
    if same || user == 0 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
}

/// Ends this process, and says why, to its parent too.
fn fail(control: impl AsFd, what: &str, error: &io::Error) -> ! {
    let why = format!("{what}: {error}");
    say(&why);
    // One that is gone hears nothing.
    let _ = Answer::Failed.send(control, checked_words(&why).as_bytes());
    std::process::exit(FAILED);
}

/// Says on standard error why this process ends, all at once.
fn say(why: &str) {
    let line = format!("callgate: child {} ends: {why}\n", std::process::id());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Arranges to be killed when the parent dies.
fn bind_life(control: impl AsFd, parent_pid: u32) {
    if let Err(error) = selfproc::die_with_parent() {
        fail(control, "asking to die with the parent", &error);
    }
    // The parent may have died before that; if it lives in another pid namespace, only the control socket tells.
    let parent = selfproc::parent_pid();
    if parent != 0 && parent != parent_pid {
        selfproc::kill_self();
    }
}

impl Child {
    /// Arranges to be killed when the parent dies, and is called what the builder said.
    fn come_up(self) -> Self {
        bind_life(&self.socket, self.hello.parent_pid);
        selfproc::set_name(&self.hello.name);
        // It has left its parent's terminal: see `adopt`.
        signals::unblock();
        failpoints::reach(Step::ChildGreeted);
        self
    }

    /// Runs the entry of the service that the parent wants served. Tells the parent and exits if this is another build.
    pub(crate) fn run_entry(mut self) -> ! {
        let here = Image::current().build;
        let offset = match self.hello.entry {
            None => self.refuse(Answer::NotServing),
            Some(Entry { build, .. }) if build != here => self.refuse(Answer::Build { build: here }),
            Some(Entry { offset, .. }) => offset,
        };
        self.build = Build::Same;
        // SAFETY: the offset comes from the handshake, and the build identities are equal.
        let entry: Option<EntryFn> = unsafe { trusted::entry_at(offset) };
        match entry {
            Some(entry) => entry(self),
            None => self.refuse(Answer::Build { build: here }),
        }
    }

    fn refuse(&self, answer: Answer) -> ! {
        let _ = answer.send(&self.socket, &[]);
        std::process::exit(FAILED);
    }

    /// Tells the parent that this child serves, with at most so many workers, or why not.
    pub(crate) fn answer(mut self, fingerprint: u64, interfaces: &[u64], most_workers: u32) -> Serving {
        if self.hello.format != rkyv_format() {
            self.refuse(Answer::Format { format: rkyv_format() });
        }
        if self.hello.fingerprint != fingerprint {
            self.refuse(Answer::Fingerprint { fingerprint });
        }
        if let Some(&interface) = self.hello.interfaces.iter().find(|number| !interfaces.contains(number)) {
            self.refuse(Answer::Interface { interface });
        }
        let (backing, segment, bells) = self.attach().unwrap_or_else(|error| {
            let error = error.raw_os_error().and_then(|number| number.try_into().ok()).unwrap_or(0);
            self.refuse(Answer::Segment { error })
        });
        if segment.geometry().workers > most_workers {
            self.refuse(Answer::OneWorker);
        }
        failpoints::reach(Step::ChildAttached);
        let body = self.confine(segment.geometry().workers);
        if let Err(error) = (Answer::Ready { pid: std::process::id().into() }).send(&self.socket, &body) {
            fail(&self.socket, "answering the handshake", &error);
        }
        failpoints::reach(Step::ChildAnswered);
        // SAFETY: this process is a child (`adopt` found its control socket), and the handshake is done. `Same` is set only by
        // `run_entry`, after it has compared the build identities.
        let parent = unsafe { TrustedParent::new(self.build) };
        Serving { control: Control::to_trusted(self.socket), backing, segment, bells, hello: self.hello, parent }
    }

    /// Puts this process into its sandbox, if it is to have one. What to tell the parent of it; if there is more to tell than that, it is told,
    /// and the process ends.
    #[cfg(feature = "sandbox")]
    fn confine(&self, workers: u32) -> Vec<u8> {
        use callgate_sandbox::{apply, plan::Plan};
        use callgate_transport::bounds::MAX_BODY;
        use callgate_transport::{copy_buffer::decode_private, encode::encode_to_vec};
        let Some(plan) = &self.plan else { return Vec::new() };
        let senseless = || io::Error::from(io::ErrorKind::InvalidData);
        let Some(plan) = decode_private::<Plan>(plan) else {
            fail(&self.socket, "reading the plan of its sandbox", &senseless())
        };
        match apply::apply(&plan, workers, || bind_life(&self.socket, self.hello.parent_pid)) {
            Ok(told) => encode_to_vec(&told, MAX_BODY)
                .map(|bytes| bytes.to_vec())
                .unwrap_or_else(|_| fail(&self.socket, "telling of its sandbox", &senseless())),
            Err(refusal) => {
                let measure = refusal.measure.code().into();
                let _ = Answer::Unconfined { measure }.send(&self.socket, refusal.why.as_bytes());
                std::process::exit(FAILED)
            }
        }
    }

    #[cfg(not(feature = "sandbox"))]
    fn confine(&self, _workers: u32) -> Vec<u8> {
        if self.plan.is_some() {
            self.refuse(Answer::NoSandbox);
        }
        Vec::new()
    }

    /// The bridge's memory and doorbells, from what came with the handshake.
    fn attach(&mut self) -> io::Result<(Arc<dyn Backing>, Segment, Bells)> {
        let unknown = || io::Error::from(io::ErrorKind::Unsupported);
        let backing = backing::of_child(&self.hello.place).ok_or_else(unknown)?;
        let signal = Signal::from_code(self.hello.signal).ok_or_else(unknown)?;
        let mut descriptors = std::mem::take(&mut self.descriptors).into_iter();
        let segment = Segment::attach(&*backing, &mut descriptors)?;
        let bells = Bells::of_child(signal, Count::of(&segment.geometry()), &*backing, &mut descriptors);
        Ok((backing, segment, bells.ok_or_else(unknown)?))
    }
}
