//! Programs whose `main` runs under an async runtime or beside one. The tests of `start` run them instead of the harness.

use super::{Guest, forever, role, within};
use callgate::Builder;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Output, Termination};
use std::sync::Mutex;

/// The environment variable that names the program whose `main` a process runs.
const PROGRAM: &str = "CALLGATE_TEST_PROGRAM";

/// The environment variable for how many bridges a program starts, one after another.
const STARTS: &str = "CALLGATE_TEST_STARTS";

/// The environment variable that makes a process open descriptors before `main`, as a library loaded before it may do.
const LIBRARY: &str = "CALLGATE_TEST_LIBRARY";

const _: () = {
    extern "C" fn run_program() {
        if env::var_os(LIBRARY).is_some() {
            open_as_a_library().expect("descriptors");
        }
        if let Ok(program) = env::var(PROGRAM) {
            let ended_well = run(&program).report() == ExitCode::SUCCESS;
            std::process::exit(i32::from(!ended_well));
        }
    }

    // The number puts it before `test_support!`, which would turn the process into a child.
    #[used]
    #[unsafe(link_section = ".init_array.00100")]
    static RUN_PROGRAM: extern "C" fn() = run_program;
};

fn run(program: &str) -> ExitCode {
    match program {
        "plain" => {
            plain::main();
            ExitCode::SUCCESS
        }
        "result" => result::main().report(),
        "exit code" => exit_code::main(),
        "termination" => termination::main().report(),
        "multi" => multi::main().report(),
        "current" => current::main().report(),
        "below" => below::main().report(),
        "late multi" => late_multi::main().report(),
        "late current" => late_current::main().report(),
        "late reactor" => late_reactor::main().report(),
        "late thread" => late_thread::main().report(),
        _ => panic!("no program `{program}`"),
    }
}

type Result = std::result::Result<(), Box<dyn Error>>;

fn starts() -> u32 {
    env::var(STARTS).ok().and_then(|starts| starts.parse().ok()).unwrap_or(12)
}

/// Starts bridges, one after the other, and calls through each.
fn start_all() -> Result {
    for number in 0..starts() {
        let guest = Guest::bridge().start()?;
        assert_eq!(guest.greet(number.into())?, format!("guest {number}"));
        guest.stop()?;
    }
    println!("done");
    Ok(())
}

mod plain {
    #[callgate::main]
    pub(super) fn main() {
        super::start_all().unwrap();
    }
}

mod result {
    #[callgate::main]
    pub(super) fn main() -> super::Result {
        super::start_all()
    }
}

mod exit_code {
    #[callgate::main]
    pub(super) fn main() -> std::process::ExitCode {
        super::start_all().map_or(std::process::ExitCode::FAILURE, |()| std::process::ExitCode::SUCCESS)
    }
}

mod termination {
    #[callgate::main]
    pub(super) fn main() -> impl std::process::Termination {
        super::start_all()
    }
}

mod multi {
    #[callgate::main]
    #[tokio::main(worker_threads = 4)]
    pub(super) async fn main() -> Result<(), String> {
        let done = tokio::task::spawn_blocking(|| super::start_all().map_err(|error| error.to_string()));
        done.await.unwrap()
    }
}

mod current {
    #[callgate::main]
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn main() -> super::Result {
        super::start_all()
    }
}

mod below {
    #[tokio::main]
    #[callgate::main]
    pub(super) async fn main() -> super::Result {
        super::start_all()
    }
}

mod late_multi {
    #[tokio::main(worker_threads = 4)]
    pub(super) async fn main() -> super::Result {
        callgate::init();
        super::start_all()
    }
}

/// Calls `init` late, but no thread or reactor exists yet that could interfere: a runtime without a reactor. (`#[tokio::main]` makes one with a
/// reactor wherever any crate of the build enables it in tokio.)
mod late_current {
    pub(super) fn main() -> super::Result {
        tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
            callgate::init();
            super::start_all()
        })
    }
}

/// Like a single-threaded runtime that serves sockets.
mod late_reactor {
    pub(super) fn main() -> super::Result {
        let _reactor = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?;
        callgate::init();
        super::start_all()
    }
}

mod late_thread {
    pub(super) fn main() -> super::Result {
        std::thread::spawn(|| super::forever());
        callgate::init();
        super::start_all()
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a path"));
    command.env(PROGRAM, name);
    command
}

#[track_caller]
fn check_good(name: &str, output: io::Result<Output>) {
    let Output { status, stdout, stderr } = output.expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && stdout == "done\n" && stderr.is_empty(), "{name}: {status}\n{stdout}\n{stderr}");
}

#[test]
fn fault_33_the_attribute_stands_above_every_main() {
    within(240, "fault_33_the_attribute_stands_above_every_main", || {
        for name in ["plain", "result", "exit code", "termination", "multi", "current", "below", "late current"] {
            check_good(name, program(name).output());
        }
    });
}

/// As many starts as the environment asks for; all must succeed.
#[test]
#[ignore = "takes long; CALLGATE_TEST_STARTS says how many"]
fn fault_33_all_of_many_starts_under_a_runtime() {
    within(600, "fault_33_all_of_many_starts_under_a_runtime", || {
        let starts = env::var(STARTS).unwrap_or("200".into());
        check_good("multi", program("multi").env(STARTS, starts).output());
    });
}

#[test]
fn fault_33_init_under_a_runtime_is_told_with_its_cure() {
    within(120, "fault_33_init_under_a_runtime_is_told_with_its_cure", || {
        let cure = "put #[callgate::main] above `fn main` and above the runtime's attribute \
                    (#[callgate::main] #[tokio::main] async fn main()), or call callgate::init() before anything else";
        for (name, found) in [
            ("late multi", "5 threads were already running"),
            ("late reactor", "an async runtime was already running"),
            ("late thread", "2 threads were already running"),
        ] {
            let output = program(name).output().expect("the program starts");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{name}: {stderr}");
            let sentence = format!("when it reached callgate::init(), {found}: {cure}");
            // Once printed by the child itself, once in its parent's error.
            assert!(stderr.contains(&format!(" ends: {sentence}\n")), "{name}: {stderr}");
            assert!(stderr.contains("InitTooLate") || stderr.contains("not started: child"), "{name}: {stderr}");
            assert_eq!(stderr.matches(&sentence).count(), 2, "{name}: {stderr}");
        }
    });
}

// ---- libraries loaded before `main` --------------------------------------------------------------------------------

/// The descriptors that the library has opened, with their inodes.
static OPENED: Mutex<Vec<(i32, u64)>> = Mutex::new(Vec::new());

/// Opens descriptors and keeps them: some are inheritable, some have numbers that a child might use itself.
fn open_as_a_library() -> io::Result<()> {
    let own = || Ok::<_, io::Error>(OwnedFd::from(io::pipe()?.0));
    let passed_on = own()?;
    rustix::io::fcntl_setfd(&passed_on, rustix::io::FdFlags::empty())?;
    let mut all = vec![passed_on, own()?];
    for least in [100, 511, 512, 513, 700] {
        let copy = rustix::io::fcntl_dupfd_cloexec(own()?, least)?;
        if least % 2 == 0 {
            rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
        }
        all.push(copy);
    }
    let known = all.into_iter().map(|descriptor| {
        let inode = File::from(descriptor.as_fd().try_clone_to_owned()?).metadata()?.ino();
        Ok((descriptor.into_raw_fd(), inode))
    });
    *OPENED.lock().expect("no panic") = known.collect::<io::Result<_>>()?;
    Ok(())
}

/// The library's descriptors that now refer to something else.
pub(crate) fn lost_of_the_library() -> Vec<String> {
    let is_other = |&(number, inode): &(i32, u64)| {
        let found = fs::metadata(format!("/proc/self/fd/{number}")).map(|found| found.ino());
        found.as_ref().ok() != Some(&inode)
    };
    let opened = OPENED.lock().expect("no panic");
    assert!(!opened.is_empty(), "no library has been loaded");
    opened.iter().filter(|known| is_other(known)).map(|(number, _)| number.to_string()).collect()
}

#[test]
fn fault_33_what_a_library_opened_before_main_stays_its_own() {
    const TEST: &str = "runtimes::fault_33_what_a_library_opened_before_main_stays_its_own";
    if role().is_none() {
        let output = super::helper(TEST, "library").env(LIBRARY, "1").output().expect("the helper starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
        return;
    }
    within(60, TEST, || {
        // No child keeps what this process itself has opened.
        let inherited = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 600).expect("a copy");
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("a copy");
        let builders: [fn() -> Builder<Guest>; 2] =
            [Guest::bridge, || Guest::bridge().signal(callgate::Signal::EventFd)];
        for builder in builders {
            let guest = builder().start().expect("a start");
            assert_eq!(guest.lost_of_the_library(), Ok(vec![]));
            let held = super::support::open_descriptors(guest.child_pid());
            let pipes = held.iter().filter(|target| target.starts_with("pipe:")).count();
            // The library's, and perhaps standard output and error.
            assert!((7..=9).contains(&pipes), "{held:?}");
            assert!(
                fs::metadata(format!("/proc/{}/fd/{}", guest.child_pid(), inherited.as_raw_fd())).is_err(),
                "{held:?}"
            );
        }
        assert_eq!(lost_of_the_library(), [""; 0]);
    });
}
