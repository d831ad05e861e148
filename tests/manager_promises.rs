//! Promise: whatever listens at the address, whichever process comes first, last or twice, and whatever ends in between, a manager connects or says
//! why not within its timeout, and what it holds is its own.

mod support;

use callgate::args;
use callgate::manager::{AuthKey, CallError, Handle, Manager, ManagerError};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use support::{Helper, TempDir, address, eventually, role, say, within};

const PLENTY: Duration = Duration::from_secs(30);

fn key() -> AuthKey {
    AuthKey::new("the key of the tests")
}

fn manager(address: &str) -> Manager {
    Manager::new(address, &key()).timeout(PLENTY)
}

fn hub(address: &str) -> Manager {
    let hub = manager(address);
    hub.start(PLENTY).expect("a hub");
    hub
}

fn client(address: &str) -> Manager {
    let client = manager(address);
    client.connect(PLENTY).expect("a client");
    client
}

#[test]
fn helper_process() {
    let Some(told) = role() else { return };
    let (role, told) = told.split_once(' ').expect("a role and more");
    match role {
        "hub" => {
            let hub = manager(told);
            hub.start(PLENTY).expect("a hub");
            say("ready", "hub");
            std::thread::sleep(PLENTY * 10);
        }
        "trapped" => trapped(told),
        "hooked" => hooked(told),
        _ => {
            let handle: Handle = told.parse().expect("a handle");
            let client = handle.connect(PLENTY).expect("a hub");
            assert_eq!(client.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
            assert_eq!(client.call("nobody's", args![]), Ok(None));
            assert_eq!(client.names().expect("names").len(), 1);
            assert_eq!(client.handle(), handle);
            say(
                "pid",
                client.call_as::<i64>("add", (i64::from(std::process::id()), 1i64)).expect("a sum").expect("it"),
            );
        }
    }
}

// ---- hubs that do not answer ---------------------------------------------------------------------------------------

fn black_hole(address: &str, backlog: i32) -> OwnedFd {
    let socket = new_socket();
    bind(&socket, &name(address)).expect("a free name");
    listen(&socket, backlog).expect("it listens");
    socket
}

fn new_socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket")
}

fn name(address: &str) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(&address.as_bytes()[1..]).expect("a name")
}

#[test]
fn a_black_hole_is_left_in_time() {
    within(60, "a_black_hole_is_left_in_time", || {
        let (silent, full) = (address(), address());
        // One accepts connections and never answers; the other's backlog is full, so it accepts none.
        let _silent = black_hole(&silent, 100);
        let _full = black_hole(&full, 0);
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let socket = new_socket();
            if connect(&socket, &name(&full)).is_err() {
                break;
            }
            waiting.push(socket);
        }
        assert!(waiting.len() < 100, "there is room for all");
        for address in [&silent, &full] {
            for elects in [false, true] {
                let began = Instant::now();
                let manager = manager(address);
                let timeout = Duration::from_millis(300);
                let failed = if elects { manager.start_or_connect(timeout) } else { manager.connect(timeout) };
                let failed = failed.expect_err("nobody answers");
                assert!(matches!(failed, ManagerError::TimedOut { .. }), "{failed}");
                assert!(
                    began.elapsed() >= timeout && began.elapsed() < Duration::from_secs(10),
                    "{:?}",
                    began.elapsed()
                );
                assert!(!manager.is_connected());
            }
        }
    });
}

// ---- order of arrival ----------------------------------------------------------------------------------------------

#[test]
fn of_hubs_that_race_one_starts() {
    within(60, "of_hubs_that_race_one_starts", || {
        for directory in [None, Some(TempDir::new())] {
            let address = directory.as_ref().map_or_else(address, |directory| directory.file("run/hub"));
            let racing: Vec<_> = (0..16)
                .map(|_| {
                    let address = address.clone();
                    std::thread::spawn(move || {
                        let manager = manager(&address);
                        manager.start(Duration::ZERO).map(|()| manager)
                    })
                })
                .collect();
            let results: Vec<_> = racing.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            let hubs = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(hubs, 1);
            for lost in results.iter().filter_map(|result| result.as_ref().err()) {
                assert!(matches!(lost, ManagerError::InUse { .. }), "{lost}");
            }
        }
    });
}

#[test]
fn two_managers_one_after_the_other_have_nothing_in_common() {
    within(60, "two_managers_one_after_the_other_have_nothing_in_common", || {
        let address = address();
        for round in 0..5i64 {
            let hub = hub(&address);
            let other = client(&address);
            assert_eq!(other.call_as::<i64>("last", ()), Ok(None), "what the last one had is gone");
            hub.register_fn("last", move || round).expect("a free name").keep();
            assert_eq!(other.call_as::<i64>("last", ()), Ok(Some(round)));
            drop(hub);
            assert!(matches!(other.call_as::<i64>("last", ()), Err(CallError::NoHub { .. } | CallError::Gone { .. })));
        }
    });
}

#[test]
fn a_handle_is_used_from_another_process() {
    within(60, "a_handle_is_used_from_another_process", || {
        let (address, directory) = (address(), TempDir::new());
        let path = directory.file("key");
        std::fs::write(&path, "the key in the file\n").expect("a file");
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, permissions).expect("its owner's alone");
        let hub = Manager::new(&*address, &AuthKey::from_file(&path).expect("a key"));
        hub.start(PLENTY).expect("a hub");
        let _add = hub.register_fn("add", |a: i64, b: i64| a + b).expect("a free name");
        let text = hub.handle().to_string();
        assert!(text.contains(&path) && !text.contains("the key in"), "{text}");
        let mut client = Helper::start("helper_process", &format!("client {text}"));
        assert_eq!(client.hear("pid"), (client.pid() + 1).to_string());
        // A handle cannot pass on a key that only the program knows.
        let unknown = manager(&address).handle().connect(PLENTY).expect_err("whose key is not known");
        assert!(matches!(unknown, ManagerError::Key { .. }), "{unknown}");
    });
}

#[test]
fn a_callback_that_calls_itself_for_ever_is_an_error() {
    within(60, "a_callback_that_calls_itself_for_ever_is_an_error", || {
        let address = address();
        let hub = hub(&address);
        let again = hub.clone();
        let deeper = move |n: i64| -> Result<i64, String> {
            let answer = again.call_as::<i64>("deeper", (n + 1,)).map_err(|error| error.to_string())?;
            answer.ok_or_else(|| "it is gone".into())
        };
        let _deeper = hub.register_fn("deeper", deeper).expect("a free name");
        let error = hub.call_as::<i64>("deeper", (0i64,)).expect_err("there is no end to it");
        assert!(error.to_string().contains("nested more than 64 deep"), "{error}");
        assert_eq!(hub.call("nobody's", args![]), Ok(None));
    });
}

// ---- ends in between -----------------------------------------------------------------------------------------------

#[test]
fn a_lock_of_a_hub_that_is_gone_releases_nothing_of_the_next() {
    within(60, "a_lock_of_a_hub_that_is_gone_releases_nothing_of_the_next", || {
        let address = address();
        let (first, holder) = (hub(&address), client(&address));
        let old = holder.lock("lock", PLENTY).expect("a hub").expect("a free lock");
        assert!(old.is_held());
        first.shutdown().expect("its end");
        assert!(eventually(20, "it is lost", || !old.is_held()));
        let second = hub(&address);
        holder.connect(PLENTY).expect("a client again");
        let new = holder.lock("lock", PLENTY).expect("a hub").expect("the next hub knows nothing of it");
        drop(old);
        assert!(second.lock("lock", Duration::from_millis(100)).expect("a hub").is_none(), "it is held");
        assert!(holder.is_connected() && new.is_held());
        drop(new);
        assert!(second.lock("lock", PLENTY).expect("a hub").is_some());
    });
}

/// Panics when it is dropped.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        panic!("on purpose, in a destructor");
    }
}

/// Runs a function when it is dropped.
struct Last<F: FnMut()>(F);

impl<F: FnMut()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A callback that owns `held`.
fn holding<T: Send + Sync + 'static>(held: T) -> impl Fn() -> i64 + Send + Sync + 'static {
    move || {
        let _held = &held;
        1
    }
}

#[test]
fn a_destructor_may_ask_the_hub_while_other_callbacks_are_replaced() {
    within(60, "a_destructor_may_ask_the_hub_while_other_callbacks_are_replaced", || {
        let address = address();
        let hub = hub(&address);
        let other = manager(&address).timeout(Duration::from_secs(10));
        other.connect(PLENTY).expect("there is a hub");
        let (dropping, is_dropping) = mpsc::channel();
        let (replaced, was_replaced) = mpsc::channel();
        let was_replaced = Mutex::new(was_replaced);
        let (said, says) = mpsc::channel();
        let asking = other.clone();
        let last = Last(move || {
            dropping.send(()).expect("somebody listens");
            was_replaced.lock().expect("nobody panicked").recv_timeout(PLENTY).expect("the other is replaced");
            // Time for the thread that listens to the hub to read the message.
            thread::sleep(Duration::from_millis(100));
            said.send(asking.names().map(|names| names.len())).expect("somebody listens");
        });
        let first = other.register_fn("first", holding(last)).expect("a free name");
        let second = other.register_fn("second", holding(())).expect("a free name");
        let _first = hub.named("first").replace(true).register_fn(|| 2i64).expect("it may");
        is_dropping.recv_timeout(PLENTY).expect("the first is dropped");
        let _second = hub.named("second").replace(true).register_fn(|| 2i64).expect("it may");
        replaced.send(()).expect("the destructor waits for it");
        assert_eq!(says.recv_timeout(PLENTY).expect("the hub is asked").expect("it answers"), 2);
        drop((first, second));
    });
}

#[test]
fn a_callback_that_panics_when_it_is_replaced_costs_no_connection() {
    within(60, "a_callback_that_panics_when_it_is_replaced_costs_no_connection", || {
        let address = address();
        let (hub, other) = (hub(&address), client(&address));
        let first = other.register_fn("name", holding(Trap)).expect("a free name");
        let _second = hub.named("name").replace(true).register_fn(|| 2i64).expect("it may");
        assert!(eventually(20, "the first is told", || !first.is_registered()));
        assert_eq!(other.names().expect("the connection is there").len(), 1);
        assert_eq!(other.call_as::<i64>("name", ()), Ok(Some(2)));
    });
}

/// Runs a function on its manager when it is dropped.
struct AtEnd<F: Fn(&Manager)>(Manager, F);

impl<F: Fn(&Manager)> Drop for AtEnd<F> {
    fn drop(&mut self) {
        self.1(&self.0);
    }
}

#[test]
fn a_callback_has_left_before_its_destructor_runs() {
    within(60, "a_callback_has_left_before_its_destructor_runs", || {
        let address = address();
        let (hub, owner) = (hub(&address), client(&address));
        let registration = owner.register_fn("trapped", holding(Trap)).expect("a free name");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(registration))).expect_err("its own panic");
        assert_eq!(hub.call_as::<i64>("trapped", ()), Ok(None));

        let (said, heard) = std::sync::mpsc::channel();
        let calls_itself = move |owner: &Manager| said.send(owner.call_as::<i64>("itself", ())).expect("a listener");
        let at_end = AtEnd(owner.clone(), calls_itself);
        let registration = owner.register_fn("itself", holding(at_end)).expect("a free name");
        assert_eq!(owner.call_as::<i64>("itself", ()), Ok(Some(1)));
        drop(registration);
        assert_eq!(heard.recv(), Ok(Ok(None)));
    });
}

/// A client that reconnects and finds its names taken loses its callbacks, whatever their destructors do.
#[test]
fn a_callback_whose_name_was_taken_meanwhile_ends_beside() {
    within(60, "a_callback_whose_name_was_taken_meanwhile_ends_beside", || {
        let address = address();
        let (first, other) = (hub(&address), client(&address));
        let (said, heard) = std::sync::mpsc::channel();
        let asks = move |other: &Manager| {
            other.disconnect();
            other.connect(PLENTY).expect("a hub");
            said.send(other.is_hub()).expect("a listener");
        };
        let (trap, at_end) = (Trap, AtEnd(other.clone(), asks));
        let registrations = [other.register_fn("trapped", holding(trap)), other.register_fn("asking", holding(at_end))];
        let registrations = registrations.map(|registration| registration.expect("a free name"));
        first.shutdown().expect("its end");
        assert!(eventually(20, "it is lost", || !other.is_connected()));
        assert!(registrations.iter().all(|registration| !registration.is_registered()));
        let second = hub(&address);
        let _taken = ["trapped", "asking"].map(|name| second.register_fn(name, || 2i64).expect("a free name"));
        other.connect(PLENTY).expect("a client again");
        assert_eq!(heard.recv_timeout(PLENTY), Ok(false));
        assert!(other.is_connected());
        assert_eq!(other.call_as::<i64>("asking", ()), Ok(Some(2)));
        assert!(registrations.iter().all(|registration| !registration.is_registered()));
    });
}

/// A callback that owns its manager: when the callback ends, so does the manager.
#[test]
fn a_callback_may_have_the_last_manager() {
    within(60, "a_callback_may_have_the_last_manager", || {
        let address = address();
        let hub = hub(&address);
        let other = client(&address);
        let inner = other.clone();
        let calls_itself = move |n: i64| inner.call_as::<i64>("twice", (n,)).ok().flatten().unwrap_or(-1);
        let registration = other.named("once").for_calls(1).register_fn(calls_itself).expect("a free name");
        let _twice = hub.register_fn("twice", |n: i64| 2 * n).expect("a free name");
        drop(other);
        assert!(registration.is_registered());
        assert_eq!(hub.call_as::<i64>("once", (4i64,)), Ok(Some(8)));
        assert!(eventually(20, "it has gone with its last call", || hub.call_as::<i64>("once", (4i64,)) == Ok(None)));
        assert!(!registration.is_registered());
    });
}

/// The messages exceed what the socket of a hub that does not read can hold: about 280.
#[test]
fn what_a_stopped_hub_is_not_told_it_learns_all_the_same() {
    within(120, "what_a_stopped_hub_is_not_told_it_learns_all_the_same", || {
        let address = address();
        let mut hub = Helper::start("helper_process", &format!("hub {address}"));
        hub.hear("ready");
        let holder = client(&address);
        let names: Vec<_> = (0..200).map(|number| format!("lock {number}")).collect();
        let locks = names.iter().map(|name| holder.lock(name, PLENTY).expect("a hub").expect("free"));
        let callbacks = (0..400).map(|number| holder.register_fn(&format!("{number}"), || ()).expect("a free name"));
        let held: Vec<(_, Option<_>)> = callbacks.zip(locks.map(Some).chain(iter::repeat_with(|| None))).collect();
        let signal = |signal| {
            let pid = nix::unistd::Pid::from_raw(hub.pid().cast_signed());
            nix::sys::signal::kill(pid, signal).expect("it is there");
        };
        signal(nix::sys::signal::Signal::SIGSTOP);
        let dropping: Vec<_> = held.into_iter().map(|held| thread::spawn(move || drop(held))).collect();
        dropping.into_iter().for_each(|thread| thread.join().expect("no panic"));
        signal(nix::sys::signal::Signal::SIGCONT);
        let other = client(&address);
        for name in &names {
            assert!(other.lock(name, PLENTY).expect("a hub").is_some(), "{name} is held by nobody");
        }
        assert!(eventually(20, "no callback is left", || other.names().is_ok_and(|names| names.is_empty())));
        hub.kill();
    });
}

#[test]
fn fault_47_a_drop_does_not_wait_for_a_hub_that_does_not_read() {
    within(120, "fault_47_a_drop_does_not_wait_for_a_hub_that_does_not_read", || {
        let address = address();
        let mut hub = Helper::start("helper_process", &format!("hub {address}"));
        hub.hear("ready");
        let holder = client(&address);
        let name = |number| format!("{number}");
        let locks: Vec<_> =
            (0..200).map(|number| holder.lock(&name(number), PLENTY).expect("a hub").expect("free")).collect();
        let callbacks: Vec<_> =
            (0..400).map(|number| holder.register_fn(&name(number), || ()).expect("a free name")).collect();
        let pid = nix::unistd::Pid::from_raw(hub.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it is there");
        let begin = std::time::Instant::now();
        drop((locks, callbacks, holder));
        let taken = begin.elapsed();
        assert!(taken < Duration::from_secs(3), "{taken:?}");
        hub.kill();
    });
}

#[test]
fn a_fork_leaves_the_connection_alone() {
    within(60, "a_fork_leaves_the_connection_alone", || {
        let address = address();
        let hub = hub(&address);
        let other = client(&address);
        let registration = other.register_fn("name", || 1i64).expect("a free name");
        let lock = other.lock("lock", PLENTY).expect("a hub").expect("a free lock");
        let _add = hub.register_fn("add", |a: i64, b: i64| a + b).expect("a free name");
        assert_eq!(other.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
        // SAFETY: the child only uses the library, which supports forks of threaded programs, and ends without running anything else.
        match unsafe { nix::unistd::fork() }.expect("a fork") {
            nix::unistd::ForkResult::Child => {
                let refused = other.call_as::<i64>("add", (1i64, 2i64)).expect_err("it is not connected");
                let refused = refused.to_string().contains("connect here");
                let lost = matches!(other.lock("another", PLENTY), Err(ManagerError::NoHub { .. }));
                let alone = !other.is_connected() && other.hub_pid().is_none() && !registration.is_registered();
                // It may connect by itself; the name stays its parent's.
                let connected = other.connect(PLENTY).is_ok() && other.is_connected();
                let called = other.call_as::<i64>("add", (1i64, 2i64)) == Ok(Some(3))
                    && other.call_as::<i64>("name", ()) == Ok(Some(1));
                drop((lock, registration, other));
                // SAFETY: ends the process.
                unsafe { nix::libc::_exit(i32::from(!(refused && lost && alone && connected && called))) };
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).expect("a child");
                assert!(matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 0)), "{ended:?}");
            }
        }
        assert!(other.is_connected() && lock.is_held());
        assert!(hub.lock("lock", Duration::ZERO).expect("a hub").is_none(), "it is held");
        assert_eq!(other.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
        assert_eq!(hub.call_as::<i64>("name", ()), Ok(Some(1)));
        assert!(registration.is_registered());
    });
}

#[test]
fn what_is_unregistered_while_there_is_no_hub_is_not_there_afterwards() {
    within(120, "what_is_unregistered_while_there_is_no_hub_is_not_there_afterwards", || {
        let address = address();
        let mut first = Helper::start("helper_process", &format!("hub {address}"));
        first.hear("ready");
        let me = manager(&address);
        me.start_or_connect(PLENTY).expect("a client");
        let mut registrations: Vec<_> =
            (0..50).map(|n| me.register_fn(&format!("name {n}"), move || n).expect("a free name")).collect();
        first.kill();
        registrations.truncate(10);
        assert!(eventually(60, "a hub again", || me.is_hub() && me.is_connected()));
        let are_ten = || me.names().is_ok_and(|names| names.len() == 10);
        assert!(eventually(20, "those that are left", are_ten), "{:?}", me.names().map(|names| names.len()));
        assert_eq!(me.call_as::<i64>("name 3", ()), Ok(Some(3)));
        assert_eq!(me.call_as::<i64>("name 30", ()), Ok(None));
    });
}

/// The next "hub" accepts no client: a black hole replaces the hub that has ended.
#[test]
fn nothing_waits_for_an_election_longer_than_it_may() {
    within(120, "nothing_waits_for_an_election_longer_than_it_may", || {
        let directory = TempDir::new();
        let (address, aside) = (directory.file("hub"), directory.file("hole"));
        let mut first = Helper::start("helper_process", &format!("hub {address}"));
        first.hear("ready");
        let other = manager(&address);
        other.start_or_connect(PLENTY).expect("a client");
        let hole = new_socket();
        bind(&hole, &SocketAddrUnix::new(&*aside).expect("a path")).expect("a free path");
        listen(&hole, 100).expect("a backlog");
        std::fs::rename(aside, &address).expect("the same file system");
        first.kill();
        assert!(eventually(20, "it is lost", || !other.is_connected()));
        // One attempt of the election takes seconds.
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let given = Duration::from_millis(100);
        let late = other.connect(given).expect_err("nobody answers");
        assert!(matches!(&late, ManagerError::TimedOut { waited, .. } if *waited >= given), "{late}");
        assert!(!other.is_hub());
        other.disconnect();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    });
}

/// Runs in its own process, because of its panic hook.
#[test]
fn panics_outside_of_callbacks_go_to_the_programs_own_hook() {
    within(60, "panics_outside_of_callbacks_go_to_the_programs_own_hook", || {
        support::play("helper_process", &format!("hooked {}", address()));
    });
}

fn hooked(address: &str) {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    std::panic::set_hook(Box::new(|_| {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }));
    let (hub, owner) = (hub(address), client(address));
    let outside = || std::thread::spawn(|| panic!("outside")).join().expect_err("a panic");
    let panics = || -> i64 { std::thread::spawn(|| panic!("beside")).join().map_or_else(|_| panic!("inside"), |()| 0) };
    let _panics = owner.register_fn("panics", panics).expect("a free name");
    for round in 1..4 {
        let panicked = hub.call_as::<i64>("panics", ()).expect_err("it panics");
        assert!(panicked.to_string().contains("inside"), "{panicked}");
        outside();
        assert_eq!(SEEN.load(Ordering::SeqCst), 2 * round, "those on other threads");
    }
}

#[test]
fn an_address_that_is_no_text_is_refused() {
    let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/tmp/\xff/hub"));
    let refused = Manager::new(path, &key()).start(PLENTY).expect_err("a handle could not say it");
    assert!(matches!(refused, ManagerError::Address { .. }), "{refused}");
}

#[test]
#[should_panic(expected = "a manager is set up before it is used")]
fn a_manager_that_has_registered_something_is_not_set_up_any_more() {
    let hub = hub(&address());
    hub.register_fn("name", || ()).expect("a free name").keep();
    drop(hub.timeout(PLENTY));
}

// ---- limits --------------------------------------------------------------------------------------------------------

#[test]
fn a_last_call_that_panics_is_the_last() {
    within(60, "a_last_call_that_panics_is_the_last", || {
        let address = address();
        let (hub, owner) = (hub(&address), client(&address));
        for caller in [&hub, &owner] {
            let once =
                owner.named("once").for_calls(1).register_fn(|| -> i64 { panic!("on purpose") }).expect("a name");
            let panicked = caller.call_as::<i64>("once", ()).expect_err("it panics");
            assert!(matches!(panicked, CallError::Call(callgate::CallError::Panicked { .. })), "{panicked}");
            assert!(!once.is_registered());
            assert_eq!(caller.call_as::<i64>("once", ()), Ok(None));
            assert_eq!(hub.names().expect("names"), []);
            let _again = caller.register_fn("once", || 1i64).expect("the name is free");
        }
    });
}

/// Runs in its own process, because a failure would end the process.
#[test]
fn a_last_call_that_panics_drops_what_panics_again() {
    within(60, "a_last_call_that_panics_drops_what_panics_again", || {
        support::play("helper_process", &format!("trapped {}", address()));
    });
}

fn trapped(address: &str) {
    let (hub, owner) = (hub(address), client(address));
    for caller in [&hub, &owner] {
        let trap = Trap;
        let trapped = move || -> i64 {
            let _trap = &trap;
            panic!("on purpose, in a call")
        };
        let _once = owner.named("once").for_calls(1).register_fn(trapped).expect("a free name");
        let panicked = caller.call_as::<i64>("once", ()).expect_err("it panics");
        assert!(panicked.to_string().contains("in a call"), "{panicked}");
        assert_eq!(caller.call_as::<i64>("once", ()), Ok(None));
    }
}

#[test]
fn arguments_that_do_not_fit_spend_no_call() {
    within(60, "arguments_that_do_not_fit_spend_no_call", || {
        let address = address();
        let (hub, owner) = (hub(&address), client(&address));
        for caller in [&hub, &owner] {
            let once = owner.named("once").for_calls(1).register_fn(|n: i64| n).expect("a free name");
            for _ in 0..3 {
                let mismatch = caller.call("once", args!["no number"]).expect_err("it takes a number");
                assert!(matches!(mismatch, CallError::Mismatch { .. }), "{mismatch}");
            }
            assert!(once.is_registered());
            let names = hub.names().expect("names");
            assert_eq!(names.iter().map(|name| name.calls).sum::<u64>(), 0, "nothing has run");
            assert_eq!(caller.call_as::<i64>("once", (5i64,)), Ok(Some(5)));
            assert_eq!(caller.call_as::<i64>("once", (5i64,)), Ok(None));
        }
    });
}
