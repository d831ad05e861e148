//! What a child does to itself first: leaves its parent's terminal, sheds what it inherited, takes the control socket from stdin, arranges to
//! die with its parent, and answers the handshake.
//!
//! Never closes a descriptor that other code in this process may own: it sheds inherited descriptors by executing the program again.

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

/// In a process that may be a child: how many threads run, and how many reactors exist, because libraries started them before `main`.
static OF_LIBRARIES: [AtomicUsize; 2] = [AtomicUsize::new(1), AtomicUsize::new(0)];

/// Records the threads and reactors that libraries have started. The program itself has started nothing yet.
pub(crate) extern "C" fn note_libraries() {
    if std::env::var_os(VARIABLE).is_some() {
        OF_LIBRARIES[0].store(threads(), Relaxed);
        OF_LIBRARIES[1].store(reactors(), Relaxed);
    }
}

// Runs after the program's own constructors, as far as the linker has placed them before this one.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_LIBRARIES: extern "C" fn() = note_libraries;

/// The function in which a child serves one service. It never returns.
pub(crate) type EntryFn = fn(Child) -> !;

/// A child that has received the handshake and has not yet answered its parent.
#[derive(Debug)]
pub(crate) struct Child {
    socket: OwnedFd,
    /// The descriptors that came with the handshake: the segment's, and those that the doorbells need.
    descriptors: Vec<OwnedFd>,
    hello: Hello,
    /// The plan of its sandbox.
    plan: Option<Vec<u8>>,
    /// `Same` once the build identities have been compared.
    build: Build,
}

/// Makes this process the child of the bridge that started it; `None` if no bridge did.
///
/// Never returns in a child whose parent is gone or whose handshake fails.
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
        fail(stdin(), "checking which process started it", &why);
    }
    signals::leave_terminal();
    signals::ignore_broken_pipes();
    check_is_early();
    if !is_bare {
        drop_inherited(inode);
    }
    let socket =
        descriptor::take_stdin().unwrap_or_else(|error| fail(stdin(), "taking the control socket from stdin", &error));
    failpoints::begin_child();
    failpoints::reach(Step::ChildAdopted);
    match Hello::receive(&socket) {
        Ok(Some(Greeting { hello, descriptors, plan })) => {
            let descriptors = descriptors.into_iter().map(descriptor::raised).collect::<io::Result<_>>();
            let descriptors =
                descriptors.unwrap_or_else(|error| fail(&socket, "keeping the descriptors of the handshake", &error));
            Some(Child { socket, descriptors, hello, plan, build: Build::Other }.prepare())
        }
        Ok(None) => std::process::exit(FAILED),
        Err(error) => fail(&socket, "receiving the handshake", &error),
    }
}

/// Follows the inode in [`VARIABLE`] when the program has been executed a second time and has inherited nothing.
const BARE: &str = " bare";

/// How long a thread that has ended may still be counted by the system.
const GOING: Duration = Duration::from_millis(50);

/// How many threads run; 1 without procfs, which alone knows the number.
fn threads() -> usize {
    limits::threads().unwrap_or(1)
}

/// How many descriptors of this process wait for other descriptors, as the reactor of an async runtime does.
fn reactors() -> usize {
    let is_own = |found: &&descriptor::InheritedDescriptor| found.is_reactor && !found.is_inheritable;
    descriptor::found().map_or(0, |found| found.iter().filter(is_own).count())
}

/// Ends this process, and tells the parent why, if it is too late to become a child: more threads or more reactors exist than libraries started
/// before `main`. In that case `main` has begun, and whatever it has started would go on beside the service.
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
        // Leaves out the threads of libraries: the reader of the message did not start them.
        let threads = 1 + threads.saturating_sub(few) as u64;
        say(&too_late_in_words(threads));
        // The parent takes this answer before its greeting has been read, and ends this process on it.
        let _ = Answer::TooLate { threads }.send(stdin(), &[]);
        std::process::exit(FAILED);
    }
}

/// What is wrong in a process that reached `init` while `threads` threads ran in it; 1 = no other thread, but a reactor.
pub(crate) fn too_late_in_words(threads: u64) -> String {
    let found = match threads {
        0 | 1 => "an async runtime was already running".into(),
        more => format!("{more} threads were already running"),
    };
    format!(
        "when it reached callgate::init(), {found}: put #[callgate::main] above `fn main` and above the runtime's attribute \
         (#[callgate::main] #[tokio::main] async fn main()), or call callgate::init() before anything else"
    )
}

/// Executes this program a second time if it has inherited descriptors, which closes them. Any other open descriptor was opened in this process
/// (by a library that was loaded before `main`, say) and belongs to its owner. Returns if there is nothing to shed.
fn drop_inherited(inode: u64) {
    // Without procfs, inherited and own descriptors cannot be told apart.
    let Ok(found) = descriptor::found() else { return };
    if found.iter().any(|found| found.is_inheritable) {
        let error = descriptor::close_on_exec()
            .err()
            .unwrap_or_else(|| program::become_again(VARIABLE, &format!("{inode}{BARE}")));
        fail(stdin(), "executing the program again without its inherited descriptors", &error);
    }
}

/// Checks that the process that made the control socket may command this one. A child carries out whatever its parent says,
/// so a program with more rights than the user who executed it (setuid, setgid, file capabilities) must not become a child.
/// The kernel recorded who made the socket.
fn check_maker() -> io::Result<()> {
    let (user, group) = socket::maker(io::stdin())?;
    let (own_user, own_group) = selfproc::effective_ids();
    let same = user == own_user && group == own_group && !selfproc::gained_capabilities();
    let why = "that process is another user's, or this program has rights which that one lacks";
    if same || user == 0 { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, why)) }
}

/// Ends this process, and says why, to its parent too.
fn fail(control: impl AsFd, what: &str, error: &io::Error) -> ! {
    let why = format!("{what}: {error}");
    say(&why);
    // Fails if the parent is gone, which does not matter: this process ends.
    let _ = Answer::Failed.send(control, checked_words(&why).as_bytes());
    std::process::exit(FAILED);
}

/// Prints why this process ends, in one write to standard error.
fn say(why: &str) {
    let line = format!("callgate: child {} ends: {why}\n", std::process::id());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Arranges to be killed when the parent dies.
fn bind_life(control: impl AsFd, parent_pid: u32) {
    if let Err(error) = selfproc::die_with_parent() {
        fail(control, "asking to die with the parent", &error);
    }
    // The parent may have died before the request. If it is in another pid namespace (parent pid 0), only the control socket shows its death.
    let parent = selfproc::parent_pid();
    if parent != 0 && parent != parent_pid {
        selfproc::kill_self();
    }
}

impl Child {
    /// Arranges to be killed when the parent dies, and takes the process name that the builder chose.
    fn prepare(self) -> Self {
        bind_life(&self.socket, self.hello.parent_pid);
        selfproc::set_name(&self.hello.name);
        // Safe now: `adopt` has left the parent's terminal.
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

    /// Tells the parent that this child serves, or why not. Refuses a segment with more than `most_workers` workers.
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

    /// Puts this process into its sandbox, if the parent sent a plan, and returns the encoded report for the parent. On failure tells the parent
    /// why and ends the process.
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
                .unwrap_or_else(|_| fail(&self.socket, "reporting its sandbox", &senseless())),
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

    /// Attaches the bridge's memory and doorbells from the descriptors that came with the handshake.
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
