//! Promise: what a service does to its process stays there. Its environment, directory, ids, umask, signals, limits and priority are its own,
//! whatever they were when it started, and the builder's settings reach it.

use callgate::{Bridge, Builder, bridge};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, User, chdir, setgid, setuid};
use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};

#[path = "support/held.rs"]
mod held;
mod support;
use held::alone;
use support::{TempDir, eventually, process_exists, within};

callgate::test_support!();

/// A property of a process: how to change it, and how to read it.
struct Attribute {
    name: &'static str,
    change: fn(),
    read: fn() -> String,
    /// Whether this process can change it.
    possible: fn() -> bool,
}

const ATTRIBUTES: &[Attribute] = &[
    Attribute { name: "memory", change: || _ = GLOBAL.fetch_add(1, Ordering::Relaxed), read: global, possible: always },
    Attribute { name: "environment", change: set_variable, read: environment, possible: always },
    Attribute {
        name: "directory",
        change: || chdir("/proc").expect("chdir"),
        read: || format!("{:?}", env::current_dir()),
        possible: always,
    },
    Attribute {
        name: "umask",
        change: || _ = umask(Mode::from_bits_truncate(0o777)),
        read: || status("Umask"),
        possible: always,
    },
    Attribute {
        name: "blocked signals",
        change: || SigSet::all().thread_block().expect("sigmask"),
        read: || status("SigBlk"),
        possible: always,
    },
    Attribute { name: "ignored signals", change: ignore_signal, read: || status("SigIgn"), possible: always },
    Attribute {
        name: "limit of descriptors",
        change: || setrlimit(Resource::RLIMIT_NOFILE, 17, 18).expect("setrlimit"),
        read: || format!("{:?}", getrlimit(Resource::RLIMIT_NOFILE)),
        possible: always,
    },
    Attribute {
        name: "priority",
        change: || setpriority_process(None, priority() + 1).expect("setpriority"),
        read: || priority().to_string(),
        possible: || priority() < 19,
    },
    Attribute { name: "processors", change: use_one_processor, read: processors, possible: || processors() != "1" },
    Attribute {
        name: "thread's name",
        change: || rustix::thread::set_name(c"renamed").expect("set_name"),
        read: || status("Name"),
        possible: always,
    },
    Attribute {
        name: "score at lack of memory",
        change: || std::fs::write("/proc/self/oom_score_adj", "998").expect("oom_score_adj"),
        read: || std::fs::read_to_string("/proc/self/oom_score_adj").expect("oom_score_adj"),
        possible: always,
    },
    Attribute {
        name: "group",
        change: || setgid(Gid::from_raw(nobody().1)).expect("setgid"),
        read: || status("Gid"),
        possible: is_root,
    },
    Attribute {
        name: "user",
        change: || setuid(Uid::from_raw(nobody().0)).expect("setuid"),
        read: || status("Uid"),
        possible: is_root,
    },
];

fn always() -> bool {
    true
}

fn is_root() -> bool {
    Uid::effective().is_root()
}

static GLOBAL: AtomicU64 = AtomicU64::new(0);

fn global() -> String {
    GLOBAL.load(Ordering::Relaxed).to_string()
}

fn set_variable() {
    // SAFETY: called only in a child, whose other thread never reads the environment.
    unsafe { env::set_var("CALLGATE_TEST_CHANGED", "there") };
}

fn environment() -> String {
    let variables: BTreeSet<_> = env::vars_os().filter(|(key, _)| key != "CALLGATE_CHILD").collect();
    format!("{variables:?}")
}

fn ignore_signal() {
    // SAFETY: no handler runs: the signal is ignored.
    unsafe { signal(Signal::SIGUSR1, SigHandler::SigIgn) }.expect("signal");
}

fn priority() -> i32 {
    getpriority_process(None).expect("getpriority")
}

fn processors() -> String {
    sched_getaffinity(None).map(|set| set.count()).expect("sched_getaffinity").to_string()
}

/// Keeps only the first processor.
fn use_one_processor() {
    let all = sched_getaffinity(None).expect("sched_getaffinity");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).expect("a processor"));
    sched_setaffinity(None, &one).expect("sched_setaffinity");
}

/// A field of the kernel's status of the calling thread.
fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
    let values = status.lines().filter_map(|line| line.split_once(':'));
    values.filter(|(name, _)| *name == field).map(|(_, value)| value.trim().to_owned()).next().expect("the field")
}

/// The user and group numbers of a user without rights.
fn nobody() -> (u32, u32) {
    let nobody = User::from_name("nobody").ok().flatten();
    nobody.map_or((65534, 65534), |user| (user.uid.as_raw(), user.gid.as_raw()))
}

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn change(&mut self, attribute: usize) {
        (ATTRIBUTES[attribute].change)();
    }

    pub(crate) fn read(&self, attribute: usize) -> String {
        (ATTRIBUTES[attribute].read)()
    }

    pub(crate) fn status(&self, field: &str) -> String {
        status(field)
    }

    pub(crate) fn variable(&self, key: &str) -> Option<String> {
        env::var(key).ok()
    }

    pub(crate) fn directory(&self) -> String {
        env::current_dir().map_or_else(|error| error.to_string(), |path| path.display().to_string())
    }
}

fn start(builder: Builder<Guest>) -> Bridge<Guest> {
    builder.start().expect("the guest starts")
}

/// Changes one attribute in a child, and reads it there, here, and in a child started afterwards.
fn changes_there_only(number: usize, attribute: &Attribute) {
    let name = attribute.name;
    let guest = start(Guest::bridge());
    let (here, there) = ((attribute.read)(), guest.read(number).expect(name));
    guest.change(number).expect(name);
    let changed = guest.read(number).expect(name);
    assert_ne!(changed, there, "{name}: the change had no effect");
    assert_eq!((attribute.read)(), here, "{name}: changed here too");
    assert_eq!(start(Guest::bridge()).read(number).as_ref(), Ok(&there), "{name}: changed for the next child too");
    assert!(guest.stop().expect(name).success(), "{name}: the child does not stop as ever");
}

#[test]
fn what_a_service_does_to_its_process_stays_there() {
    for (number, attribute) in ATTRIBUTES.iter().enumerate() {
        if !(attribute.possible)() {
            eprintln!("skipped: this process cannot change its {}", attribute.name);
            continue;
        }
        within(60, attribute.name, || changes_there_only(number, attribute));
    }
}

#[test]
fn a_child_that_changed_its_user_can_still_be_killed() {
    if !is_root() {
        eprintln!("skipped: this process cannot change its user");
        return;
    }
    within(60, "a_child_that_changed_its_user_can_still_be_killed", || {
        let user = ATTRIBUTES.iter().position(|attribute| attribute.name == "user").expect("in the table");
        let guest = start(Guest::bridge());
        guest.change(user).expect("setuid");
        guest.kill();
        assert!(eventually(10, "the child's end", || !process_exists(guest.child_pid())));
    });
}

#[test]
fn a_child_blocks_no_signals_though_its_parent_does() {
    alone("a_child_blocks_no_signals_though_its_parent_does", 60, || {
        // Before the first start, so that any thread that outlives this one blocks them too.
        SigSet::all().thread_block().expect("sigmask");
        let guest = start(Guest::bridge());
        assert_eq!(guest.status("SigBlk").map(|mask| u64::from_str_radix(&mask, 16)), Ok(Ok(0)));
    });
}

#[test]
fn the_environment_is_inherited_and_added_to() {
    within(60, "the_environment_is_inherited_and_added_to", || {
        let guest = start(Guest::bridge().env("ADDED", "1").env("ADDED", "2").env("PATH", "replaced").env("EMPTY", ""));
        let own = |key: &str| env::var(key).ok();
        let cases = [
            ("ADDED", Some("2".into())),
            ("PATH", Some("replaced".into())),
            ("EMPTY", Some(String::new())),
            ("HOME", own("HOME")),
            ("CARGO_MANIFEST_DIR", own("CARGO_MANIFEST_DIR")),
            ("CALLGATE_TEST_NOT_SET", None),
        ];
        for (key, value) in cases {
            assert_eq!(guest.variable(key).as_ref(), Ok(&value), "{key}");
        }
        assert_eq!(own("ADDED"), None);
        assert_ne!(own("PATH").as_deref(), Some("replaced"));
    });
}

#[test]
fn the_directory_is_inherited_or_what_the_builder_says() {
    within(60, "the_directory_is_inherited_or_what_the_builder_says", || {
        let (dir, own) = (TempDir::new(), env::current_dir().expect("a directory").display().to_string());
        let given = dir.path().canonicalize().expect("a path").display().to_string();
        for (builder, directory) in [
            (Guest::bridge(), &own),
            (Guest::bridge().current_dir(dir.path()), &given),
            (Guest::bridge().current_dir("/"), &"/".to_owned()),
        ] {
            assert_eq!(start(builder).directory().as_ref(), Ok(directory));
        }
        assert_eq!(env::current_dir().expect("a directory").display().to_string(), own);
    });
}

#[test]
fn listings_show_the_name() {
    within(60, "listings_show_the_name", || {
        let cases = [
            (Guest::bridge(), "Guest"),
            (Guest::bridge().name("gate keeper"), "gate keeper"),
            (Guest::bridge().name("exactly 15 char"), "exactly 15 char"),
            (Guest::bridge().name("more than 15 characters"), "more than 15 ch"),
            (Guest::bridge().name("a".repeat(100_000)), "aaaaaaaaaaaaaaa"),
            (Guest::bridge().name(""), ""),
        ];
        let own = std::fs::read_to_string("/proc/self/comm").expect("a name");
        for (builder, name) in cases {
            let guest = start(builder);
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", guest.child_pid())).expect("a name");
            assert_eq!(comm, format!("{name}\n"));
        }
        assert_eq!(std::fs::read_to_string("/proc/self/comm").expect("a name"), own);
    });
}
