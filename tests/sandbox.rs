//! Promise: a child cannot do what its sandbox denies, whatever it tries. What callgate does in the child keeps working, and measures that could not
//! be applied are reported.
//!
//! The service tries from inside. Tests that do not need root also run as an ordinary user.

use callgate::{Bridge, CallError, Exit, Measure, Sandbox, Signal, StartError, Wait, bridge};
use nix::libc;
use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::{Gid, Pid, Uid};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[path = "support/slow.rs"]
mod slow;
mod support;
mod workers;
use support::{Helper, TempDir, eventually, is_stopped, open_descriptors, play, process_exists, role, say, within};
use workers::tally::Tally;
use workers::worker;

callgate::test_support!();

const NOBODY: u32 = 65_534;
const MIB: usize = 1 << 20;
const EPERM: i32 = libc::EPERM;
const EACCES: i32 = libc::EACCES;

/// The outcome of an attempt; an error is its number.
type Tried<T = ()> = Result<T, i32>;

fn number(error: impl Into<io::Error>) -> i32 {
    error.into().raw_os_error().unwrap_or(-1)
}

/// The result of a system call.
fn call(result: libc::c_long) -> Tried<i64> {
    if result < 0 { Err(number(io::Error::last_os_error())) } else { Ok(result) }
}

struct Inmate {
    calls: u64,
}

#[bridge]
impl Inmate {
    pub(crate) fn new() -> Self {
        Inmate { calls: 0 }
    }

    // ---- what must keep working ----

    pub(crate) fn add(&mut self, n: u64) -> u64 {
        self.calls += n;
        self.calls
    }

    pub(crate) fn reverse(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }

    pub(crate) fn fail(&self) {
        panic!("as asked")
    }

    pub(crate) fn abort(&self) {
        std::process::abort()
    }

    pub(crate) fn sum_in_thread(&self, n: u64) -> u64 {
        std::thread::spawn(move || (0..n).sum()).join().expect("a thread")
    }

    pub(crate) fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    // ---- files ----

    pub(crate) fn read(&self, path: &str) -> Tried<String> {
        fs::read_to_string(path).map_err(number)
    }

    pub(crate) fn list(&self, path: &str) -> Tried<u32> {
        fs::read_dir(path).map(|entries| entries.count() as u32).map_err(number)
    }

    pub(crate) fn overwrite(&self, path: &str) -> Tried {
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"changed")).map_err(number)
    }

    pub(crate) fn create(&self, path: &str) -> Tried {
        File::create_new(path).map(drop).map_err(number)
    }

    pub(crate) fn empty(&self, path: &str) -> Tried {
        let path = std::ffi::CString::new(path).expect("no zero byte");
        // SAFETY: a path that ends in zero.
        call(unsafe { libc::truncate(path.as_ptr(), 0) }.into()).map(drop)
    }

    pub(crate) fn remove(&self, path: &str) -> Tried {
        fs::remove_file(path).map_err(number)
    }

    pub(crate) fn chmod(&self, path: &str) -> Tried {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(number)
    }

    pub(crate) fn mode_of_new(&self, path: &str) -> Tried<u32> {
        use std::os::unix::fs::PermissionsExt;
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(number)?;
        Ok(file.metadata().map_err(number)?.permissions().mode() & 0o777)
    }

    pub(crate) fn open_many(&self, path: &str) -> (u64, i32) {
        let mut files = Vec::new();
        loop {
            match File::open(path) {
                Ok(file) => files.push(file),
                Err(error) => return (files.len() as u64, number(error)),
            }
        }
    }

    // ---- the network ----

    pub(crate) fn tcp(&self, port: u16) -> Tried {
        TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(number)
    }

    pub(crate) fn udp(&self) -> Tried {
        UdpSocket::bind("127.0.0.1:0").map(drop).map_err(number)
    }

    pub(crate) fn unix(&self, path: &str) -> Tried {
        UnixStream::connect(path).map(drop).map_err(number)
    }

    pub(crate) fn abstract_unix(&self, name: &str) -> Tried {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        UnixStream::connect_addr(&address).map(drop).map_err(number)
    }

    /// The sockets of a datagram pair are connected, but can still send to any address.
    pub(crate) fn unix_through_a_pair(&self, path: &str) -> Tried {
        let (socket, _) = UnixDatagram::pair().map_err(number)?;
        socket.send_to(b"out", path).map(drop).map_err(number)
    }

    pub(crate) fn stream_pair(&self) -> Tried {
        UnixStream::pair().map(drop).map_err(number)
    }

    // ---- processes ----

    pub(crate) fn fork(&self) -> Tried {
        // SAFETY: the new process, if any, ends at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        call(pid.into()).map(drop)
    }

    pub(crate) fn raw_clone(&self) -> (Tried<i64>, Tried<i64>) {
        let signal = libc::SIGCHLD as u64;
        // SAFETY: no thread of this process is shared; the new process, if any, ends at once.
        let old = unsafe { libc::syscall(libc::SYS_clone, signal, 0, 0, 0, 0) };
        if old == 0 {
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        let old = call(old);
        let arguments: [u64; 8] = [0, 0, 0, 0, signal, 0, 0, 0];
        // SAFETY: the arguments have the given length; as above.
        let new = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
        if new == 0 {
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        (old, call(new))
    }

    pub(crate) fn run(&self, program: &str) -> Tried<bool> {
        Command::new(program).status().map(|status| status.success()).map_err(number)
    }

    pub(crate) fn exec(&self, program: &str) -> Tried {
        use std::os::unix::process::CommandExt;
        Err(number(Command::new(program).exec()))
    }

    // ---- the parent ----

    pub(crate) fn ptrace(&self, pid: i32) -> Tried {
        nix::sys::ptrace::seize(Pid::from_raw(pid), nix::sys::ptrace::Options::empty()).map_err(number)
    }

    pub(crate) fn look_into(&self, pid: i32, address: u64) -> Tried {
        let mut byte = 0_u8;
        let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let theirs = libc::iovec { iov_base: address as *mut _, iov_len: 1 };
        // SAFETY: one byte is read into `byte`.
        call(unsafe { libc::process_vm_readv(pid, &raw const ours, 1, &raw const theirs, 1, 0) } as _).map(drop)
    }

    pub(crate) fn open_memory(&self, pid: i32) -> Tried {
        OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).map(drop).map_err(number)
    }

    pub(crate) fn signal(&self, pid: i32, signal: i32) -> Tried {
        // SAFETY: takes no memory.
        call(unsafe { libc::kill(pid, signal) }.into()).map(drop)
    }

    pub(crate) fn queue_signal(&self, pid: i32) -> Tried {
        // SAFETY: the details of a signal may be zero.
        let details: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the details live long enough.
        call(unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, libc::SIGURG, &raw const details) }).map(drop)
    }

    pub(crate) fn pidfd(&self, pid: i32) -> Tried {
        // SAFETY: takes no memory.
        call(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(drop)
    }

    /// The kernel sends signals to the owner of a descriptor.
    pub(crate) fn own_a_descriptor_for(&self, pid: i32) -> Tried {
        let (socket, _other) = UnixStream::pair().map_err(number)?;
        // SAFETY: takes no memory.
        call(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, pid) }.into()).map(drop)
    }

    /// Has the kernel send SIGIO, which kills a process that has no handler for it.
    pub(crate) fn signal_through_a_descriptor(&self, pid: i32) -> Tried {
        let (socket, mut other) = UnixStream::pair().map_err(number)?;
        for (command, value) in [(libc::F_SETOWN, pid), (libc::F_SETFL, libc::O_ASYNC)] {
            // SAFETY: takes no memory.
            call(unsafe { libc::fcntl(socket.as_raw_fd(), command, value) }.into())?;
        }
        other.write_all(b"now").map_err(number)
    }

    pub(crate) fn limit(&self, pid: i32) -> Tried {
        let limit = libc::rlimit64 { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
        // SAFETY: the limit lives long enough.
        call(unsafe { libc::prlimit64(pid, libc::RLIMIT_CORE, &raw const limit, std::ptr::null_mut()) }.into())
            .map(drop)
    }

    pub(crate) fn pin(&self, pid: i32) -> Tried {
        let first: u64 = 1;
        // SAFETY: the set of CPUs has the given length.
        call(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, 8, &raw const first) }).map(drop)
    }

    pub(crate) fn nice(&self, pid: i32) -> Tried {
        // SAFETY: takes no memory.
        call(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as u32, 5) }.into()).map(drop)
    }

    pub(crate) fn forget_parent(&self) -> (Tried, Tried) {
        // SAFETY: takes no memory.
        let death = call(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) }.into()).map(drop);
        // SAFETY: takes no memory.
        (death, call(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }.into()).map(drop))
    }

    // ---- terminals and shared files ----

    /// Makes each request on `fd`, unchanged, with a window size of 7 by 9 followed by zeros as its argument.
    pub(crate) fn ioctls(&self, fd: i32, requests: Vec<u64>) -> Vec<Tried<i64>> {
        let each = |request: u64| {
            let mut argument = [0_u16; 512];
            argument[..2].copy_from_slice(&[7, 9]);
            // SAFETY: the argument is longer than any of these requests needs.
            call(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument.as_mut_ptr()) })
        };
        requests.into_iter().map(each).collect()
    }

    /// Makes each request on `fd`, with a number as its argument.
    pub(crate) fn fcntls(&self, fd: i32, requests: Vec<(u64, u64)>) -> Vec<Tried<i64>> {
        let each = |(command, value): (u64, u64)| {
            // SAFETY: the argument is a number, or is rejected as a bad address.
            call(unsafe { libc::syscall(libc::SYS_fcntl, fd, command, value) })
        };
        requests.into_iter().map(each).collect()
    }

    /// Makes holes, and has pages evicted, in the first segment and in memory of its own.
    pub(crate) fn holes(&self) -> Vec<(u64, Tried)> {
        let maps = fs::read_to_string("/proc/thread-self/maps").unwrap_or_default();
        let shared = maps.lines().find(|line| line.contains("memfd:callgate"));
        let start = shared.and_then(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
        // SAFETY: new memory, which nothing uses.
        let own = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        let advices = [libc::MADV_REMOVE, libc::MADV_PAGEOUT, libc::MADV_COLD, 25, libc::MADV_HWPOISON];
        let addresses = start.into_iter().chain((own != libc::MAP_FAILED).then(|| own.addr()));
        let pairs = addresses.flat_map(|at| advices.map(|advice| (at, advice)));
        pairs
            .map(|(at, advice)| {
                // SAFETY: the call is denied; otherwise only zeros would be lost.
                (advice as u64, call(unsafe { libc::syscall(libc::SYS_madvise, at, 4096, advice) }).map(drop))
            })
            .collect()
    }

    /// The calls that keep pages in a pipe, without a valid descriptor: a call that is not denied reports the bad descriptor.
    pub(crate) fn keep_pages(&self) -> Vec<Tried> {
        let calls = [(libc::SYS_splice, 0), (libc::SYS_tee, 1), (libc::SYS_vmsplice, 1), (libc::SYS_sendfile, 0)];
        // SAFETY: the descriptor does not exist.
        calls.map(|(number, third)| call(unsafe { libc::syscall(number, -1, 0, third, 0, 1, 0) }).map(drop)).into()
    }

    /// Copies from one pipe to another with std, which asks the kernel to do it.
    pub(crate) fn copy_through_pipes(&self) -> Tried<u64> {
        let ((from, mut input), (mut output, to)) =
            (std::io::pipe().map_err(number)?, std::io::pipe().map_err(number)?);
        input.write_all(b"copied").map_err(number)?;
        drop(input);
        std::io::copy(&mut { from }, &mut { to }).map_err(number)?;
        let mut copied = String::new();
        output.read_to_string(&mut copied).map_err(number)?;
        Ok((copied == "copied").into())
    }

    pub(crate) fn punch(&self) -> Tried {
        // SAFETY: a name that ends in zero.
        let memory = call(unsafe { libc::memfd_create(c"own".as_ptr(), 0) }.into())? as i32;
        // SAFETY: takes no memory.
        call(unsafe { libc::ftruncate(memory, 8192) }.into())?;
        // SAFETY: takes no memory.
        let punched = call(unsafe { libc::fallocate(memory, 3, 0, 4096) }.into()).map(drop);
        // SAFETY: takes no memory.
        call(unsafe { libc::fallocate(memory, 0, 0, 4096) }.into())?;
        punched
    }

    // ---- rights ----

    pub(crate) fn become_root(&self) -> (Tried, Tried) {
        // SAFETY: takes no memory.
        let user = call(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }).map(drop);
        // SAFETY: takes no memory.
        (user, call(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) }).map(drop))
    }

    pub(crate) fn change_root(&self) -> Tried {
        nix::unistd::chroot("/").map_err(number)
    }

    pub(crate) fn unshare(&self) -> Tried {
        // SAFETY: takes no memory.
        call(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into()).map(drop)
    }

    pub(crate) fn rare_calls(&self) -> Vec<Tried<i64>> {
        let calls = [libc::SYS_bpf, libc::SYS_io_uring_setup, libc::SYS_userfaultfd, libc::SYS_keyctl, libc::SYS_mount];
        // SAFETY: if the call gets that far, each of them rejects null pointers.
        calls.map(|number| call(unsafe { libc::syscall(number, 0, 0, 0, 0, 0) })).into()
    }

    /// Registers the control socket in epoll sets as often as it can. Returns how often.
    pub(crate) fn burden(&self, entries: u64) -> u64 {
        slow::burden("socket:", entries as usize).0 as u64
    }

    /// Two ways to get more descriptors than a process may have: a thread with its own table, and a new table.
    pub(crate) fn own_tables(&self) -> [Tried<i64>; 2] {
        let thread = libc::CLONE_THREAD as libc::c_ulong;
        // SAFETY: the flags are invalid, so the call is refused whatever the filters say.
        let thread = call(unsafe { libc::syscall(libc::SYS_clone, thread, 0usize, 0usize, 0usize, 0usize) });
        // SAFETY: no descriptor in this range is open, so none is closed.
        let table = unsafe { libc::syscall(libc::SYS_close_range, u32::MAX - 1, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
        [thread, call(table)]
    }

    /// A system call that no kernel has.
    pub(crate) fn newer_call(&self) -> Tried<i64> {
        // SAFETY: has no arguments.
        call(unsafe { libc::syscall(0x3fff_ffff) })
    }

    /// The process's namespaces of users and of networks.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).map(|link| link.display().to_string());
        ["user", "net"].map(|name| link(name).unwrap_or_else(|error| error.to_string())).into()
    }

    // ---- resources ----

    pub(crate) fn allocate(&self, bytes: usize) -> u64 {
        vec![1_u8; bytes].iter().map(|&byte| u64::from(byte)).sum()
    }

    pub(crate) fn can_allocate(&self, bytes: usize) -> bool {
        Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
    }

    pub(crate) fn map_shared(&self, bytes: usize) -> Tried {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: creates a new mapping.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
        if mapped == libc::MAP_FAILED { Err(number(io::Error::last_os_error())) } else { Ok(()) }
    }

    pub(crate) fn memfd(&self) -> Tried {
        // SAFETY: a name that ends in zero.
        call(unsafe { libc::memfd_create(c"more".as_ptr(), 0) }.into()).map(drop)
    }

    pub(crate) fn raise_own_limits(&self) -> Tried {
        let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit lives long enough.
        call(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const none) }.into()).map(drop)
    }

    pub(crate) fn burn(&self) {
        loop {
            std::hint::spin_loop();
        }
    }

    pub(crate) fn ids(&self) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let (user, group) = (nix::unistd::getresuid().expect("ids"), nix::unistd::getresgid().expect("ids"));
        let groups = nix::unistd::getgroups().expect("groups");
        (
            [user.real, user.effective, user.saved].map(Uid::as_raw).into(),
            [group.real, group.effective, group.saved].map(Gid::as_raw).into(),
            groups.into_iter().map(Gid::as_raw).collect(),
        )
    }

    pub(crate) fn death_signal(&self) -> bool {
        rustix::process::parent_process_death_signal() == Ok(Some(rustix::process::Signal::KILL))
    }
}

fn start(sandbox: Sandbox) -> Bridge<Inmate> {
    let builder = Inmate::bridge().timeout(Duration::from_secs(60)).sandbox(sandbox);
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(sandbox: Sandbox) -> (Measure, String) {
    match Inmate::bridge().sandbox(sandbox).start() {
        Err(StartError::Sandbox { measure, why, .. }) => (measure, why),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The value of `key` in `/proc/<pid>/status`.
fn status(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("such a line");
    line.trim().to_owned()
}

// ---- files ---------------------------------------------------------------------------------------------------------

fn files() {
    let (inside, outside) = (TempDir::new(), TempDir::new());
    let (own, others) = (inside.file("own"), outside.file("others"));
    fs::write(&own, "own").expect("a file");
    fs::write(&others, "others").expect("a file");
    for (sandbox, error) in [
        (Sandbox::new().read_only(inside.path()), EACCES),
        (Sandbox::new().read_write(inside.path()), EACCES),
        (Sandbox::strict().read_only(inside.path()), EACCES),
        (Sandbox::strict().read_write(inside.path()), EACCES),
        (Sandbox::strict(), EPERM),
    ] {
        let inmate = start(sandbox.clone());
        assert_eq!(inmate.read(&others), Ok(Err(error)), "{sandbox:?}");
        assert_eq!(inmate.read("/etc/passwd"), Ok(Err(error)));
        assert_eq!(inmate.list("/"), Ok(Err(error)));
        assert_eq!(inmate.overwrite(&others), Ok(Err(error)));
        assert_eq!(inmate.create(&outside.file("new")), Ok(Err(error)));
        assert_eq!(inmate.empty(&others), Ok(Err(error)));
        assert_eq!(inmate.remove(&others), Ok(Err(error)));
        assert_eq!(inmate.chmod(&others), Ok(Err(EPERM)));
        assert!(inmate.sandbox_report().is_some_and(|report| report.is_in_force(Measure::Files)));
    }
    let (reader, writer) =
        (start(Sandbox::strict().read_only(&own)), start(Sandbox::strict().read_write(inside.path())));
    assert_eq!(reader.read(&own), Ok(Ok("own".into())));
    assert_eq!((reader.overwrite(&own), reader.empty(&own)), (Ok(Err(EACCES)), Ok(Err(EACCES))));
    assert_eq!(reader.remove(&own), Ok(Err(EACCES)));
    assert_eq!(writer.overwrite(&own), Ok(Ok(())));
    assert_eq!(writer.read(&own), Ok(Ok("changed".into())));
    assert_eq!(writer.create(&inside.file("new")), Ok(Ok(())));
    assert_eq!(writer.remove(&own), Ok(Ok(())));
    assert_eq!(fs::read_to_string(&others).ok().as_deref(), Some("others"));
    assert!(!fs::exists(outside.file("new")).expect("it can be seen"));
}

#[test]
fn files_outside_of_the_paths_cannot_be_opened() {
    within(120, "files_outside_of_the_paths_cannot_be_opened", files);
}

fn paths_that_are_not_there() {
    let (measure, why) = refusal(Sandbox::strict().read_only("/not/there"));
    assert!(measure == Measure::Files && why.contains("`/not/there`"), "{why}");
    let inmate = start(Sandbox::strict().read_only("/not/there").optional(Measure::Files));
    let report = inmate.sandbox_report().expect("a report");
    assert!(!report.is_in_force(Measure::Files) && report.is_in_force(Measure::Processes), "{report}");
    assert!(
        report.left_out().any(|(measure, why)| measure == Measure::Files && why.contains("/not/there")),
        "{report}"
    );
    // Long paths are passed on unchanged, and too many are reported.
    let long = format!("/{}", "long/".repeat(800));
    let (_, why) = refusal(Sandbox::new().read_only(&long));
    assert!(why.contains("/long/long/"), "{why}");
    let many = (0..20).fold(Sandbox::new(), |sandbox, _| sandbox.read_only(&long));
    let error = Inmate::bridge().sandbox(many).start().expect_err("too long").to_string();
    assert!(error.contains("but must be at most 65536 bytes"), "{error}");
}

#[test]
fn a_path_that_is_not_there_is_said() {
    within(60, "a_path_that_is_not_there_is_said", paths_that_are_not_there);
}

// ---- the network ---------------------------------------------------------------------------------------------------

fn network() {
    let dir = TempDir::new();
    let name = format!("callgate-test-{}", std::process::id());
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("an address").port();
    let path = dir.file("socket");
    let _unix = UnixListener::bind(&path).expect("a socket");
    let datagrams = dir.file("datagrams");
    let _datagrams = UnixDatagram::bind(&datagrams).expect("a socket");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _abstract = UnixListener::bind_addr(&address).expect("a name that is free");
    // Without a sandbox all of these work, which gives the following checks their meaning.
    let free = Inmate::bridge().start().expect("a start");
    assert_eq!((free.tcp(port), free.udp()), (Ok(Ok(())), Ok(Ok(()))));
    assert_eq!((free.unix(&path), free.abstract_unix(&name)), (Ok(Ok(())), Ok(Ok(()))));
    assert_eq!(free.unix_through_a_pair(&datagrams), Ok(Ok(())));
    for sandbox in [Sandbox::new().no_network(), Sandbox::strict(), Sandbox::strict().read_write(dir.path())] {
        let inmate = start(sandbox);
        assert_eq!((inmate.tcp(port), inmate.udp()), (Ok(Err(EPERM)), Ok(Err(EPERM))));
        assert_eq!((inmate.unix(&path), inmate.abstract_unix(&name)), (Ok(Err(EPERM)), Ok(Err(EPERM))));
        assert_eq!(inmate.unix_through_a_pair(&datagrams), Ok(Err(EPERM)));
        assert_eq!(inmate.stream_pair(), Ok(Ok(())));
        let report = inmate.sandbox_report().expect("a report");
        assert!(report.is_in_force(Measure::Network), "{report}");
        if is_root() {
            let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("procfs");
            let own = network(std::process::id()) != network(inmate.child_pid());
            assert_eq!(report.is_in_force(Measure::NetworkNamespace), own, "{report}");
        }
    }
}

#[test]
fn nothing_can_be_connected_to() {
    within(60, "nothing_can_be_connected_to", network);
}

// ---- processes -----------------------------------------------------------------------------------------------------

fn processes() {
    let free = start(Sandbox::new());
    assert_eq!((free.fork(), free.run("/bin/true")), (Ok(Ok(())), Ok(Ok(true))));
    for sandbox in [Sandbox::new().no_new_processes(), Sandbox::strict(), Sandbox::strict().read_only("/")] {
        let inmate = start(sandbox);
        assert_eq!(inmate.fork(), Ok(Err(EPERM)));
        assert_eq!(inmate.raw_clone(), Ok((Err(EPERM), Err(libc::ENOSYS))));
        assert_eq!((inmate.run("/bin/true"), inmate.exec("/bin/true")), (Ok(Err(EPERM)), Ok(Err(EPERM))));
        assert_eq!(inmate.sum_in_thread(100), Ok(4950));
    }
}

#[test]
fn nothing_can_be_forked_or_executed() {
    within(60, "nothing_can_be_forked_or_executed", processes);
}

fn the_parent() {
    let byte = Box::new(42_u8);
    let address = (&raw const *byte) as u64;
    for sandbox in
        [Sandbox::new(), Sandbox::new().no_new_processes(), Sandbox::strict(), Sandbox::strict().read_write("/")]
    {
        let inmate = start(sandbox.clone());
        let parent = own_pid();
        assert_eq!(inmate.ptrace(parent), Ok(Err(EPERM)), "{sandbox:?}");
        assert_eq!(inmate.look_into(parent, address), Ok(Err(EPERM)));
        assert!(matches!(inmate.open_memory(parent), Ok(Err(EPERM | EACCES))), "{:?}", inmate.open_memory(parent));
        for signal in [0, libc::SIGURG, libc::SIGKILL] {
            assert_eq!(inmate.signal(parent, signal), Ok(Err(EPERM)), "{signal}");
        }
        assert_eq!(inmate.queue_signal(parent), Ok(Err(EPERM)));
        assert_eq!(inmate.signal(inmate.child_pid() as i32, 0), Ok(Ok(())));
        assert_eq!(inmate.pidfd(parent), Ok(Err(EPERM)));
        assert_eq!(
            (inmate.limit(parent), inmate.pin(parent), inmate.nice(parent)),
            (Ok(Err(EPERM)), Ok(Err(EPERM)), Ok(Err(EPERM)))
        );
        assert_eq!(inmate.forget_parent(), Ok((Err(EPERM), Err(EPERM))));
        assert_eq!(inmate.rare_calls(), Ok(vec![Err(EPERM); 5]));
        assert_eq!((inmate.change_root(), inmate.unshare()), (Ok(Err(EPERM)), Ok(Err(EPERM))));
        assert_eq!(inmate.death_signal(), Ok(true));
    }
    // A strict sandbox denies setting a descriptor's owner; others do so only where Landlock does not restrict the resulting signals.
    assert_eq!(start(Sandbox::strict()).own_a_descriptor_for(own_pid()), Ok(Err(EPERM)));
    // libc tries such a call first, and falls back if it does not exist.
    assert_eq!(start(Sandbox::strict()).newer_call(), Ok(Err(libc::ENOSYS)));
    // Process 0 stands for all processes of the group, here the parent's.
    assert_eq!(start(Sandbox::strict()).signal(0, libc::SIGURG), Ok(Err(EPERM)));
    assert_eq!(*byte, 42);
}

/// The kernel signals the owner of a descriptor on behalf of the process that set the owner.
#[test]
fn the_kernel_signals_no_parent_for_its_child() {
    within(60, "the_kernel_signals_no_parent_for_its_child", || {
        let owner = |role: &str| support::helper("helper_owner", role).output().expect("it runs");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(owner("plain owner").status.signal(), Some(libc::SIGIO), "without a sandbox it works");
        let sandboxed = owner("sandboxed owner");
        assert!(sandboxed.status.success(), "{}", String::from_utf8_lossy(&sandboxed.stderr));
    });
}

#[test]
fn helper_owner() {
    let builder = || Inmate::bridge().timeout(Duration::from_secs(20));
    let inmate = match role().as_deref() {
        Some("plain owner") => builder().start(),
        Some("sandboxed owner") => builder().sandbox(Sandbox::new()).start(),
        _ => return,
    };
    let tried = inmate.expect("a start").signal_through_a_descriptor(own_pid());
    assert!(matches!(tried, Ok(Ok(()) | Err(EPERM))), "{tried:?}");
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn the_parent_is_out_of_reach() {
    within(60, "the_parent_is_out_of_reach", the_parent);
}

// ---- rights --------------------------------------------------------------------------------------------------------

#[test]
fn another_user_stays_one() {
    within(60, "another_user_stays_one", || {
        if !is_root() {
            return println!("skipped: only root can change the user");
        }
        for sandbox in [Sandbox::new(), Sandbox::strict()] {
            let inmate = start(sandbox.uid(NOBODY).gid(NOBODY));
            assert_eq!(inmate.ids(), Ok((vec![NOBODY; 3], vec![NOBODY; 3], vec![])));
            assert_eq!(inmate.become_root(), Ok((Err(EPERM), Err(EPERM))));
            assert_eq!(inmate.death_signal(), Ok(true));
            let pid = inmate.child_pid();
            let capabilities = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|key| status(pid, key));
            assert_eq!(capabilities, [const { "0000000000000000" }; 4]);
            assert_eq!(inmate.add(1), Ok(1));
            assert!(inmate.stop().is_ok_and(|exit| exit.success()));
        }
        let inmate = start(Sandbox::new().uid(NOBODY).gid(NOBODY).groups([7, 8]));
        assert_eq!(inmate.ids().map(|ids| ids.2), Ok(vec![7, 8]));
        // Root without capabilities cannot regain anything either.
        let inmate = start(Sandbox::strict());
        for key in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
            assert_eq!(status(inmate.child_pid(), key), "0000000000000000", "{key}");
        }
    });
}

#[test]
fn the_kernel_agrees_with_the_report() {
    within(60, "the_kernel_agrees_with_the_report", || {
        let inmate = start(Sandbox::strict().memory(64 << 20).cpu_seconds(100).open_files(9).umask(0o27));
        let (pid, report) = (inmate.child_pid(), inmate.sandbox_report().expect("a report"));
        assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".into(), "2".into()));
        assert_eq!((status(pid, "Seccomp_filters"), status(pid, "Umask")), ("3".into(), "0027".into()));
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("procfs");
        let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit").to_owned();
        assert!(limit("Max core file size").trim_start().starts_with("1 "), "{limits}");
        assert!(limit("Max cpu time").trim_start().starts_with("100 "), "{limits}");
        for measure in [
            Measure::CoreDumps,
            Measure::Memory,
            Measure::CpuTime,
            Measure::OpenFiles,
            Measure::Umask,
            Measure::Capabilities,
            Measure::NoNewPrivileges,
            Measure::Files,
            Measure::Processes,
            Measure::SystemCalls,
            Measure::Network,
            Measure::NewProcesses,
            Measure::OrdinaryCalls,
        ] {
            assert!(report.is_in_force(measure), "{report}");
        }
        assert!(!report.is_in_force(Measure::User) && !report.is_in_force(Measure::Chroot), "{report}");
        let said = report.to_string();
        assert!(said.contains("in force: no new privileges: no_new_privs\n"), "{said}");
        assert!(Inmate::bridge().start().expect("a start").sandbox_report().is_none());
    });
}

fn chrooted() {
    let dir = TempDir::new();
    fs::write(dir.file("inside"), "inside").expect("a file");
    let inmate = start(Sandbox::new().chroot(dir.path()));
    assert_eq!(inmate.read("/inside"), Ok(Ok("inside".into())));
    assert_eq!(inmate.read("inside"), Ok(Ok("inside".into())));
    assert_eq!(inmate.read("../../../etc/passwd"), Ok(Err(libc::ENOENT)));
    assert_eq!(inmate.list("/"), Ok(Ok(1)));
    assert_eq!(inmate.change_root(), Ok(Err(EPERM)));
    let strict = start(Sandbox::strict().chroot(dir.path()).read_only("/inside"));
    assert_eq!((strict.read("/inside"), strict.list("/")), (Ok(Ok("inside".into())), Ok(Err(EACCES))));
    if is_root() {
        // This needs no namespace.
        let own = Inmate::bridge().start().expect("a start").namespaces();
        assert_eq!(start(Sandbox::new().chroot("/")).namespaces(), own);
    }
    for absent in ["/not/there", "/etc/passwd"] {
        let (measure, why) = refusal(Sandbox::new().chroot(absent));
        assert!(measure == Measure::Chroot && why.contains(absent), "{why}");
        let inmate = start(Sandbox::strict().chroot(absent).optional(Measure::Chroot));
        let report = inmate.sandbox_report().expect("a report");
        assert!(report.left_out().any(|(measure, why)| measure == Measure::Chroot && why.contains(absent)), "{report}");
        assert!(!report.is_in_force(Measure::Chroot) && report.is_in_force(Measure::Files), "{report}");
    }
}

#[test]
fn the_root_directory_can_be_another() {
    within(60, "the_root_directory_can_be_another", chrooted);
}

fn values_out_of_range() {
    let cases = [
        (Sandbox::new().umask(0o1000), "umask is 0o1000 but must be from 0 to 0o777"),
        (Sandbox::new().uid(u32::MAX), "uid is 4294967295 but must be from 0 to 4294967294"),
        (Sandbox::new().groups([1, u32::MAX]), "groups is 4294967295 but must be from 0 to 4294967294"),
        (Sandbox::new().chroot("/a\0b"), "sandbox is \"/a\\0b\" but must be paths without a zero byte"),
    ];
    for (sandbox, what) in cases {
        let error = Inmate::bridge().sandbox(sandbox).start().expect_err("out of range");
        assert_eq!(error.to_string(), format!("bridge to `Inmate` not started: {what}"));
    }
}

#[test]
fn what_makes_no_sense_is_said_before_anything_is_started() {
    within(60, "what_makes_no_sense_is_said_before_anything_is_started", values_out_of_range);
}

// ---- terminals -----------------------------------------------------------------------------------------------------

/// Requests that change a terminal, or cause signals.
#[allow(clippy::unnecessary_cast)] // With musl they are not u64.
const CHANGING: [u64; 30] = [
    libc::TIOCSWINSZ as u64,
    libc::TIOCSTI as u64,
    libc::TIOCSPGRP as u64,
    libc::TIOCSCTTY as u64,
    libc::TIOCNOTTY as u64,
    libc::TCSETS as u64,
    libc::TCSETSW as u64,
    libc::TCSETSF as u64,
    libc::TCSETA as u64,
    libc::TCSETAW as u64,
    libc::TCSETAF as u64,
    0x402c_542b, // TCSETS2
    0x402c_542c,
    0x402c_542d,
    libc::TCXONC as u64,
    libc::TCFLSH as u64,
    libc::TCSBRK as u64,
    libc::TCSBRKP as u64,
    libc::TIOCSETD as u64,
    libc::TIOCCONS as u64,
    libc::TIOCEXCL as u64,
    libc::TIOCLINUX as u64,
    libc::TIOCMSET as u64,
    0x5437,      // TIOCVHANGUP
    0x4004_5431, // TIOCSPTLCK
    0x4004_5436, // TIOCSIG
    libc::FIOASYNC as u64,
    libc::FIONBIO as u64,
    0x8901, // FIOSETOWN
    0x8902, // SIOCSPGRP
];

/// A terminal: the end that displays it, and the end that a program uses.
fn terminal() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    use std::os::fd::FromRawFd;
    let (mut shown, mut used) = (-1, -1);
    let (name, modes, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: there is room for two descriptors; the other arguments are optional.
    call(unsafe { libc::openpty(&raw mut shown, &raw mut used, name, modes, size) }.into()).expect("a terminal");
    // SAFETY: just opened, with no other owner.
    let shown = unsafe { std::os::fd::OwnedFd::from_raw_fd(shown) };
    // SAFETY: as above.
    (shown, unsafe { std::os::fd::OwnedFd::from_raw_fd(used) })
}

/// Size, settings and flags of a terminal.
fn state_of(terminal: &std::os::fd::OwnedFd) -> ([u16; 2], [u32; 4], i32) {
    let fd = terminal.as_raw_fd();
    let mut size = [0_u16; 4];
    // SAFETY: there is room for a size.
    call(unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) }.into()).expect("a size");
    // SAFETY: the settings are plain numbers, and any value is valid.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for the settings.
    call(unsafe { libc::tcgetattr(fd, &raw mut settings) }.into()).expect("settings");
    // SAFETY: takes no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let modes = [settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag];
    ([size[0], size[1]], modes, flags)
}

/// Row 45 of the faults: the child cannot change the window size or anything else of a terminal that it was given.
#[test]
fn fault_45_a_terminal_stays_as_it_is() {
    within(60, "fault_45_a_terminal_stays_as_it_is", || {
        let (shown, used) = terminal();
        let before = state_of(&used);
        let output = || used.try_clone().expect("a descriptor");
        let builder = Inmate::bridge().stdout(output()).stderr(output()).sandbox(Sandbox::strict());
        let inmate = builder.timeout(Duration::from_secs(30)).start().expect("a start");
        // Setting bits that the kernel ignores does not help.
        for bits in [0, 0xdead_beef << 32] {
            for fd in [1, 2] {
                let denied = vec![Err(EPERM); CHANGING.len()];
                let tried = inmate.ioctls(fd, CHANGING.iter().map(|request| request | bits).collect());
                assert_eq!(tried, Ok(denied), "{bits:x}");
            }
            // Requests that only query, or concern the descriptor alone, keep working.
            let asking = [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIOCLEX, libc::FIONCLEX];
            let tried = inmate.ioctls(1, asking.map(|request| request | bits).into());
            assert!(tried.is_ok_and(|tried| tried.iter().all(Result::is_ok)));
        }
        assert_eq!(state_of(&used), before);
        drop((inmate, shown));
    });
}

/// Row 45 of the faults: nor can it without the strict list, as far as signals, the session and the window are concerned.
#[test]
fn fault_45_any_sandbox_leaves_the_window_alone() {
    within(60, "fault_45_any_sandbox_leaves_the_window_alone", || {
        let (shown, used) = terminal();
        let before = state_of(&used);
        let output = used.try_clone().expect("a descriptor");
        let inmate = Inmate::bridge().stdout(output).sandbox(Sandbox::new()).start().expect("a start");
        let changing =
            [libc::TIOCSWINSZ, libc::TIOCSTI, libc::TIOCSCTTY, libc::TIOCNOTTY, libc::TIOCSETD, libc::TIOCEXCL];
        let tried = inmate.ioctls(1, changing.map(|request| request | 1 << 40).into());
        assert_eq!(tried, Ok(vec![Err(EPERM); changing.len()]));
        assert_eq!(state_of(&used), before);
        drop((inmate, shown));
    });
}

/// Row 45 of the faults: requests that change a file for all processes that have it open, or that cause signals.
#[test]
fn fault_45_what_is_open_elsewhere_too_keeps_its_flags() {
    within(60, "fault_45_what_is_open_elsewhere_too_keeps_its_flags", || {
        let (reader, writer) = io::pipe().expect("a pipe");
        let output: std::os::fd::OwnedFd = writer.try_clone().expect("a descriptor").into();
        let inmate = Inmate::bridge().stdout(output).sandbox(Sandbox::strict()).start().expect("a start");
        let nonblocking = libc::O_NONBLOCK as u64;
        let denied = [
            (libc::F_SETFL, nonblocking),
            (libc::F_SETFL, libc::O_ASYNC as u64),
            (libc::F_SETOWN, std::process::id().into()),
            (libc::F_SETLEASE, libc::F_WRLCK as u64),
            (libc::F_NOTIFY, 1),
            (10, libc::SIGWINCH as u64), // F_SETSIG
            (15, 0),                     // F_SETOWN_EX
        ];
        for bits in [0, 0xdead_beef << 32] {
            let requests = denied.map(|(command, value)| (command as u64 | bits, value));
            assert_eq!(inmate.fcntls(1, requests.into()), Ok(vec![Err(EPERM); denied.len()]), "{bits:x}");
        }
        let asked = inmate.fcntls(1, vec![(libc::F_GETFL as u64, 0), (libc::F_DUPFD_CLOEXEC as u64, 10)]);
        assert!(asked.is_ok_and(|asked| asked.iter().all(Result::is_ok)));
        // SAFETY: takes no memory.
        let flags = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & (libc::O_NONBLOCK | libc::O_ASYNC), 0);
        drop((inmate, reader));
    });
}

/// Row 39 of the faults: after the kernel has reported an object gone, a strict child holds none of its pages in a pipe.
#[test]
fn fault_39_a_strict_child_keeps_no_pages_in_pipes() {
    within(60, "fault_39_a_strict_child_keeps_no_pages_in_pipes", || {
        for sandbox in [Sandbox::strict(), Sandbox::strict().read_only("/proc")] {
            let inmate = start(sandbox);
            assert_eq!(inmate.keep_pages(), Ok(vec![Err(EPERM); 4]));
            assert_eq!(inmate.copy_through_pipes(), Ok(Ok(1)));
        }
        assert_eq!(start(Sandbox::new()).keep_pages(), Ok(vec![Err(libc::EBADF); 4]), "a program's own pipes");
    });
}

/// Row 41 of the faults: filters deny calls that would slow down the parent's next access to shared memory.
#[test]
fn fault_41_no_filtered_child_makes_holes() {
    within(60, "fault_41_no_filtered_child_makes_holes", || {
        for sandbox in [Sandbox::new(), Sandbox::strict(), Sandbox::strict().read_only("/proc")] {
            let inmate = start(sandbox.clone());
            let tried = inmate.holes().expect("a reply");
            assert!(tried.len() >= 5, "{tried:?}");
            assert!(tried.iter().all(|(_, tried)| *tried == Err(EPERM)), "{sandbox:?}: {tried:?}");
        }
        assert_eq!(start(Sandbox::strict()).punch(), Ok(Err(EPERM)));
        assert_eq!(start(Sandbox::new()).punch(), Ok(Ok(())), "a program's own files");
    });
}

// ---- resources -----------------------------------------------------------------------------------------------------

fn memory() {
    for sandbox in [Sandbox::new().memory(64 << 20), Sandbox::strict().memory(64 << 20)] {
        let inmate = start(sandbox);
        assert_eq!(inmate.allocate(48 * MIB), Ok(48 * MIB as u64));
        assert_eq!(inmate.can_allocate(256 * MIB), Ok(false));
        assert_eq!(inmate.map_shared(MIB), Ok(Err(EPERM)));
        assert_eq!(inmate.memfd(), Ok(Err(EPERM)));
        assert_eq!(inmate.raise_own_limits(), Ok(Err(EPERM)));
        // Shared memory does not count.
        assert_eq!(inmate.reverse(vec![1; 16 * MIB]).map(|bytes| bytes.len()), Ok(16 * MIB));
        match inmate.allocate(256 * MIB) {
            Err(CallError::Died { exit: Exit::Signal(libc::SIGABRT), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn memory_beyond_the_limit_aborts() {
    within(60, "memory_beyond_the_limit_aborts", memory);
}

fn cpu_time() {
    let inmate = Inmate::bridge().sandbox(Sandbox::strict().cpu_seconds(1)).wait(Wait::Park).start().expect("a start");
    match inmate.burn() {
        Err(CallError::Died { exit: Exit::Signal(libc::SIGXCPU | libc::SIGKILL), .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn cpu_time_beyond_the_limit_kills() {
    within(120, "cpu_time_beyond_the_limit_kills", cpu_time);
}

fn descriptors() {
    let inmate = start(Sandbox::new().open_files(10));
    let (opened, error) = inmate.open_many("/").expect("a reply");
    // Four are reserved for callgate's own use.
    assert_eq!((opened, error), (14, libc::EMFILE));
    drop(inmate);
    let inmate = start(Sandbox::new().open_files(0));
    assert_eq!(inmate.reverse(vec![1; 16 * MIB]).map(|bytes| bytes.len()), Ok(16 * MIB));
    assert_eq!(inmate.raise_own_limits(), Ok(Err(EPERM)));
}

/// Each message to the child notifies every entry of an epoll set, in its parent's time.
#[test]
fn fault_40_a_strict_child_may_have_few_epoll_entries() {
    within(60, "fault_40_a_strict_child_may_have_few_epoll_entries", || {
        let inmate = start(Sandbox::strict());
        let made = inmate.burden(1_000_000).expect("a reply");
        assert!((1..20_000).contains(&made), "{made} entries");
        assert_eq!(inmate.own_tables(), Ok([Err(EPERM); 2]));
        assert_eq!(inmate.reverse(vec![1; 16 * MIB]).map(|bytes| bytes.len()), Ok(16 * MIB));
        let report = inmate.sandbox_report().expect("a report").to_string();
        assert!(report.contains("RLIMIT_NOFILE"), "{report}");
    });
}

/// How long the first large call through another bridge takes, and how long its kill takes.
fn bystander() -> (Duration, Duration) {
    let (bridge, begun) = (Inmate::bridge().start().expect("a start"), Instant::now());
    assert_eq!(bridge.reverse(vec![1; MIB]).map(|bytes| bytes.len()), Ok(MIB));
    let (first, begun) = (begun.elapsed(), Instant::now());
    bridge.kill();
    (first, begun.elapsed())
}

/// One after another, strict children make their sockets as slow as they can, and have their parent send to them.
#[test]
fn fault_40_others_hardly_notice_what_a_strict_child_makes_slow() {
    let samples = std::env::var("CALLGATE_TEST_SAMPLES").ok().and_then(|number| number.parse().ok()).unwrap_or(20);
    within(60 + samples, "fault_40_others_hardly_notice_what_a_strict_child_makes_slow", || {
        let (mut firsts, mut kills) = (0..samples).map(|_| bystander()).unzip::<_, _, Vec<_>, Vec<_>>();
        let done = AtomicBool::new(false);
        let attack = || {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                let inmate = start(Sandbox::strict());
                assert!(inmate.burden(1_000_000).expect("a reply") > 1000);
                asked += (1..8).filter(|times| inmate.reverse(vec![1; times * MIB]).is_ok()).count();
            }
            asked
        };
        let (mut first, mut kill) = std::thread::scope(|scope| {
            let attack = scope.spawn(attack);
            let times = (0..samples).map(|_| bystander()).unzip::<_, _, Vec<_>, Vec<_>>();
            done.store(true, Ordering::Relaxed);
            assert!(attack.join().expect("no panic") > 0, "nothing was asked for");
            times
        });
        slow::compare("a first large call", &mut firsts, &mut first);
        slow::compare("a kill", &mut kills, &mut kill);
    });
}

#[test]
fn descriptors_beyond_the_limit_are_refused() {
    within(60, "descriptors_beyond_the_limit_are_refused", descriptors);
}

#[test]
fn new_files_have_what_the_umask_leaves() {
    within(60, "new_files_have_what_the_umask_leaves", || {
        let dir = TempDir::new();
        let inmate = start(Sandbox::strict().umask(0o77).read_write(dir.path()));
        assert_eq!(inmate.mode_of_new(&dir.file("private")), Ok(Ok(0o600)));
    });
}

/// Row 18 of the faults: the child inherits nothing, and no descriptor used to set up the sandbox stays open.
#[test]
fn no_descriptor_is_left() {
    within(60, "no_descriptor_is_left", || {
        let _open = File::open("/etc/passwd").expect("a file");
        let plain = Inmate::bridge().start().expect("a start");
        let inmate = start(Sandbox::strict().read_only("/etc").memory(1 << 30).open_files(5));
        let kinds = |pid: u32| {
            let kinds =
                open_descriptors(pid).into_iter().map(|name| name.split(':').next().unwrap_or_default().to_owned());
            kinds.collect::<Vec<_>>()
        };
        assert_eq!(kinds(inmate.child_pid()), kinds(plain.child_pid()));
    });
}

// ---- what keeps working --------------------------------------------------------------------------------------------

fn everything_else() {
    let strict = || Sandbox::strict().memory(512 << 20).cpu_seconds(100).open_files(20);
    let payloads = [1000, 200_000, 3 * MIB].map(|len| (0..len).map(|at| at as u8).collect::<Vec<_>>());
    let reversed = payloads.clone().map(|bytes| bytes.into_iter().rev().collect::<Vec<_>>());
    for (wait, signal) in [
        (Wait::Adaptive, Signal::Futex),
        (Wait::Park, Signal::Futex),
        (Wait::Park, Signal::EventFd),
        (Wait::SpinFor(Duration::from_micros(5)), Signal::EventFd),
    ] {
        let builder = Inmate::bridge().wait(wait).signal(signal).workers(4).timeout(Duration::from_secs(60));
        let inmate = builder.sandbox(strict()).start().unwrap_or_else(|error| panic!("{error}"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        inmate.add(1).expect("a call");
                        inmate.sleep(0).expect("a call");
                    }
                    for (bytes, reversed) in payloads.iter().zip(&reversed) {
                        assert!(inmate.reverse(bytes.clone()).expect("a call") == *reversed);
                    }
                    let CallError::Panicked { fault, .. } = inmate.fail().expect_err("a panic") else { panic!() };
                    assert_eq!(fault.message, "as asked");
                });
            }
        });
        assert_eq!(inmate.add(0), Ok(200));
        assert!(inmate.stop().is_ok_and(|exit| exit.success()), "{wait:?} {signal:?}");
    }
}

#[test]
fn calls_go_on_as_without() {
    within(240, "calls_go_on_as_without", everything_else);
}

fn ends() {
    for backtrace in ["0", "1", "full"] {
        let inmate =
            Inmate::bridge().env("RUST_BACKTRACE", backtrace).sandbox(Sandbox::strict()).start().expect("a start");
        let CallError::Panicked { fault, .. } = inmate.fail().expect_err("a panic") else { panic!() };
        assert_eq!((fault.message.as_str(), fault.backtrace.is_some()), ("as asked", backtrace != "0"));
        assert_eq!(inmate.add(1), Ok(1));
        match inmate.abort() {
            Err(CallError::Died { exit: Exit::Signal(libc::SIGABRT), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let inmate = start(Sandbox::strict());
    assert_eq!(inmate.kill(), Exit::Signal(libc::SIGKILL));
    let inmate = start(Sandbox::strict());
    let pid = inmate.child_pid();
    drop(inmate);
    assert!(eventually(10, "the child is gone", || !process_exists(pid)));
}

#[test]
fn panics_deaths_and_stops_are_as_without() {
    within(60, "panics_deaths_and_stops_are_as_without", ends);
}

// ---- an ordinary user ----------------------------------------------------------------------------------------------

#[test]
fn an_ordinary_user_has_the_same() {
    within(300, "an_ordinary_user_has_the_same", || {
        if !is_root() {
            return println!("skipped: the other tests run as an ordinary user already");
        }
        play("helper_nobody", "nobody");
    });
}

#[test]
fn helper_nobody() {
    if role().as_deref() != Some("nobody") {
        return;
    }
    within(280, "helper_nobody", || {
        nix::unistd::setgroups(&[]).expect("root may");
        let (group, user) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        nix::unistd::setresgid(group, group, group).expect("root may");
        nix::unistd::setresuid(user, user, user).expect("root may");
        for body in
            [files, paths_that_are_not_there, network, processes, the_parent, memory, cpu_time, descriptors, ends]
        {
            body();
        }
        if is_namespace_allowed() {
            chrooted();
        }
        everything_else();
        let (measure, why) = refusal(Sandbox::strict().uid(1).gid(1));
        assert!(measure == Measure::Groups && why.contains("it takes root"), "{measure} {why}");
        let (measure, why) =
            refusal(Sandbox::strict().uid(1).gid(1).optional(Measure::Groups).optional(Measure::Group));
        assert!(measure == Measure::User && why.contains("it takes root"), "{measure} {why}");
        let all = [Measure::Groups, Measure::Group, Measure::User];
        let sandbox = all.into_iter().fold(Sandbox::strict().uid(1).gid(1), Sandbox::optional);
        let inmate = start(sandbox);
        let report = inmate.sandbox_report().expect("a report");
        assert!(all.into_iter().all(|measure| report.left_out().any(|(other, _)| other == measure)), "{report}");
        assert_eq!(inmate.ids().map(|ids| ids.0), Ok(vec![NOBODY; 3]));
    });
}

/// Whether an ordinary user may create a user namespace here.
fn is_namespace_allowed() -> bool {
    let inmate = start(Sandbox::new().no_network());
    inmate.sandbox_report().is_some_and(|report| report.is_in_force(Measure::NetworkNamespace))
}

// ---- the parent's end ------------------------------------------------------------------------------------------------

/// When a process changes its user, the kernel clears its request to die with its parent.
#[test]
fn fault_15_a_child_that_is_another_user_ends_with_its_parent() {
    within(60, "fault_15_a_child_that_is_another_user_ends_with_its_parent", || {
        for role in ["user", "strict"] {
            if role == "user" && !is_root() {
                println!("skipped, as it takes root: {role}");
                continue;
            }
            for stopped in [false, true] {
                let mut parent = Helper::start("helper_parent", role);
                let child: u32 = parent.hear("child").parse().expect("a process number");
                if stopped {
                    // A stopped child cannot end itself, so the kernel must do it.
                    kill(Pid::from_raw(child as i32), Number::SIGSTOP).expect("the child is there");
                    assert!(eventually(30, "the child stops", || is_stopped(child)));
                }
                parent.kill();
                assert!(eventually(5, "the child is gone", || !process_exists(child)), "{role} {stopped}");
            }
        }
    });
}

#[test]
fn helper_parent() {
    let sandbox = match role().as_deref() {
        Some("user") => Sandbox::strict().uid(NOBODY).gid(NOBODY),
        Some("strict") => Sandbox::strict(),
        _ => return,
    };
    let inmate = start(sandbox);
    assert_eq!(inmate.add(1), Ok(1));
    say("child", inmate.child_pid());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

// ---- a separate executable -------------------------------------------------------------------------------------------

#[test]
fn a_separate_executable_is_sandboxed_too() {
    let worker = worker();
    within(60, "a_separate_executable_is_sandboxed_too", || {
        let tally = Tally::bridge(3).executable(&worker).sandbox(Sandbox::strict()).start().expect("a start");
        assert_eq!(tally.add("the gate is the bridge"), Ok(4));
        assert_eq!(status(tally.child_pid(), "Seccomp_filters"), "3");
        // It asks for the link to its own file, and returns the error.
        let answer = tally.executable().expect("an answer");
        assert!(answer.contains("Operation not permitted"), "{answer}");
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

/// The environment variable with the path of a worker that was built without the feature.
const PLAIN_WORKER: &str = "CALLGATE_TEST_PLAIN_WORKER";

#[test]
fn a_child_that_was_built_without_sandboxes_is_refused() {
    within(60, "a_child_that_was_built_without_sandboxes_is_refused", || {
        let Some(plain) = std::env::var_os(PLAIN_WORKER) else { return println!("skipped: {PLAIN_WORKER} is not set") };
        let start = |sandbox: Option<Sandbox>| {
            let builder = Tally::bridge(3).executable(&plain);
            sandbox.map_or_else(|| Tally::bridge(3).executable(&plain), |sandbox| builder.sandbox(sandbox)).start()
        };
        assert_eq!(start(None).expect("a start").add("as ever"), Ok(1));
        let error = start(Some(Sandbox::new())).expect_err("no sandbox");
        assert!(matches!(error, StartError::Handshake { .. }), "{error:?}");
        assert!(error.to_string().contains("it was built without callgate's feature `sandbox`"), "{error}");
    });
}

/// A sandbox binds only threads that start after it, so earlier ones would be outside.
#[test]
fn a_child_that_has_threads_already_is_refused() {
    within(60, "a_child_that_has_threads_already_is_refused", || {
        let error = Inmate::bridge().env(EARLY_THREAD, "1").sandbox(Sandbox::new()).start().expect_err("no bridge");
        assert!(error.to_string().contains("the child already has 2 threads"), "{error}");
        assert!(Inmate::bridge().env(EARLY_THREAD, "1").start().is_ok());
    });
}

/// The environment variable that makes a process start a thread first of all.
const EARLY_THREAD: &str = "CALLGATE_TEST_EARLY_THREAD";

const _: () = {
    extern "C" fn early_thread() {
        if std::env::var_os(EARLY_THREAD).is_some() {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
        }
    }

    // The number puts it before `test_support!`, which does not return in a child.
    #[used]
    #[unsafe(link_section = ".init_array.00200")]
    static EARLY: extern "C" fn() = early_thread;
};

/// A child's standard input is `/dev/null`, whatever the sandbox.
#[test]
fn standard_input_is_empty() {
    within(60, "standard_input_is_empty", || {
        let inmate = start(Sandbox::strict());
        let mut input = Vec::new();
        let link = fs::read_link(format!("/proc/{}/fd/0", inmate.child_pid())).expect("procfs");
        File::open(link).and_then(|mut file| file.read_to_end(&mut input)).expect("it can be read");
        assert!(input.is_empty());
    });
}
