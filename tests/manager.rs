//! Promise: a callback runs in the process that registered it, whichever process calls it by name. Every call ends, whatever becomes of owner,
//! caller and hub.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::manager::{Args, AuthKey, CallError, Manager, ManagerError, Value};
use callgate::{args, bridge};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Helper, address, eventually, role, say, within};

callgate::test_support!();

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

/// Starts a process that plays `role` at `address`.
fn process(role: &str, address: &str) -> Helper {
    let mut helper = Helper::start("helper_process", &format!("{role} {address}"));
    assert_eq!(helper.hear("ready"), role);
    helper
}

#[test]
fn helper_process() {
    let Some(told) = role() else { return };
    let (role, address) = told.split_once(' ').expect("a role and an address");
    let manager = manager(address);
    match role {
        "elected" => manager.start_or_connect(PLENTY).expect("a hub or a client"),
        "hub" => manager.start(PLENTY).expect("a hub"),
        _ => manager.connect(PLENTY).expect("a client"),
    }
    let registrations = match role {
        "owner" => own(&manager),
        "elected" => {
            vec![manager.register_fn(&format!("pid {}", std::process::id()), std::process::id).expect("a name")]
        }
        _ => vec![],
    };
    let held = (role == "holder").then(|| manager.lock("lock", PLENTY).expect("a hub").expect("a lock"));
    say("ready", role);
    if role == "elected" {
        say("hub", manager.is_hub());
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let _ = (&registrations, &held);
    }
}

/// Registers an owner's callbacks.
fn own(manager: &Manager) -> Vec<callgate::manager::Registration> {
    let total = AtomicU64::new(0);
    let other = manager.clone();
    let twice = move |name: String, n: i64| match other.call_as::<i64>(&name, (n,)) {
        Ok(Some(result)) => Ok(2 * result),
        Ok(None) => Err(format!("nobody has {name}")),
        Err(error) => Err(error.to_string()),
    };
    let described = |args: Args| -> Result<Value, String> { Ok(args.to_string().into()) };
    let divided = |a: i64, b: i64| if b == 0 { Err("division by zero") } else { Ok(a / b) };
    let named = [
        manager.register_fn("pid", std::process::id),
        manager.register_fn("add", |a: i64, b: i64| a + b),
        manager.register_fn("count", move |n: u64| total.fetch_add(n, Ordering::Relaxed) + n),
        manager.register_fn("divide", divided),
        manager.register_fn("panic", |text: String| -> () { panic!("{text}") }),
        manager.register_fn("reverse", |mut bytes: Vec<u8>| {
            bytes.reverse();
            bytes
        }),
        manager.register_fn("sleep", |ms: u64| std::thread::sleep(Duration::from_millis(ms))),
        manager.register_fn("twice", twice),
        manager.register("describe", described),
    ];
    named.into_iter().collect::<Result<_, _>>().expect("free names")
}

#[test]
fn a_callback_runs_where_it_was_registered() {
    within(60, "a_callback_runs_where_it_was_registered", || {
        let address = address();
        let hub = hub(&address);
        assert!(hub.is_hub() && hub.hub_pid() == Some(std::process::id()));
        assert_eq!(hub.call("add", args![1, 2]), Ok(None));
        let mut owner = process("owner", &address);
        for caller in [&hub, &client(&address)] {
            assert_eq!(caller.call_as::<u32>("pid", ()), Ok(Some(owner.pid())));
            assert_eq!(caller.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
            assert_eq!(caller.call_as::<i8>("add", (1u8, 2u8)), Ok(Some(3)), "converted");
            assert_eq!(caller.call("add", args![1, 2]), Ok(Some(Value::I64(3))));
            assert_eq!(
                caller.call("describe", args![1, 2, 3; a = 4, b = "five"]),
                Ok(Some(Value::from(r#"(1, 2, 3; a = 4, b = "five")"#)))
            );
            assert_eq!(caller.call("no such name", args![]), Ok(None));
        }
        for len in [0, 100, 5000, 300_000, 5 << 20] {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
            assert_eq!(hub.call_as::<Vec<u8>>("reverse", (bytes,)), Ok(Some(reversed)), "{len}");
        }
        owner.kill();
        assert!(eventually(10, "the name is free", || hub.call_as::<i64>("add", (1i64, 2i64)) == Ok(None)));
    });
}

#[test]
fn a_callback_that_fails_stays_registered() {
    within(60, "a_callback_that_fails_stays_registered", || {
        let address = address();
        let hub = hub(&address);
        let _owner = process("owner", &address);
        for _ in 0..3 {
            let failed = hub.call_as::<i64>("divide", (1i64, 0i64)).expect_err("an error");
            assert!(
                matches!(&failed, CallError::Callback { message, .. } if message == "division by zero"),
                "{failed}"
            );
            let panicked = hub.call_as::<()>("panic", ("on purpose".to_owned(),)).expect_err("a panic");
            assert!(
                matches!(&panicked, CallError::Call(callgate::CallError::Panicked { fault, .. }) if fault.message == "on purpose"),
                "{panicked}"
            );
            let mismatched = hub.call("divide", args![1]).expect_err("one too few");
            assert!(matches!(&mismatched, CallError::Mismatch { .. }), "{mismatched}");
            let mismatched = hub.call_as::<i64>("divide", (1i64, "two".to_owned())).expect_err("no number");
            assert!(mismatched.to_string().contains("expected (i64, i64)"), "{mismatched}");
            assert_eq!(hub.call_as::<i64>("divide", (6i64, 3i64)), Ok(Some(2)));
        }
    });
}

#[test]
fn an_owner_that_dies_in_a_call_ends_it() {
    within(60, "an_owner_that_dies_in_a_call_ends_it", || {
        let address = address();
        let hub = hub(&address);
        let mut owner = process("owner", &address);
        assert_eq!(hub.call_as::<()>("sleep", (0u64,)), Ok(Some(())));
        let caller = hub.clone();
        let call = std::thread::spawn(move || caller.call_as::<()>("sleep", (60_000u64,)));
        std::thread::sleep(Duration::from_millis(200));
        let pid = owner.pid();
        owner.kill();
        let gone = call.join().expect("no panic").expect_err("its owner is dead");
        assert!(matches!(gone, CallError::Gone { pid: dead, .. } if dead == pid), "{gone}");
        assert!(gone.to_string().contains("the call had started"), "{gone}");
        let _another = process("owner", &address);
        assert_eq!(hub.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
    });
}

/// A service that calls callbacks from a child.
struct Inside {
    manager: Manager,
}

#[bridge]
impl Inside {
    pub fn new(address: String) -> Self {
        let manager = Manager::new(address.as_str(), &key()).timeout(PLENTY);
        manager.connect(PLENTY).expect("there is a hub");
        Inside { manager }
    }

    pub fn call(&self, name: String, n: i64) -> Result<i64, String> {
        match self.manager.call_as::<i64>(&name, (n,)) {
            Ok(result) => result.ok_or_else(|| format!("nobody has {name}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Two processes call each other's callbacks, nested within each other.
#[test]
fn fault_30_nested_calls_come_back_or_fail_at_once() {
    within(120, "fault_30_nested_calls_come_back_or_fail_at_once", || {
        let address = address();
        let hub = hub(&address);
        let _owner = process("owner", &address);
        let again = hub.clone();
        let back = move |n: i64| match n {
            0 => Ok(1),
            n => match again.call_as::<i64>("twice", ("back".to_owned(), n - 1)) {
                Ok(result) => result.ok_or_else(|| "it is gone".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        };
        let _back = hub.register_fn("back", back).expect("a free name");
        let nested = |n: i64| hub.call_as::<i64>("twice", ("back".to_owned(), n));
        for n in [0, 3, 8, 31] {
            assert_eq!(nested(n), Ok(Some(1 << (n + 1))), "{} deep", 2 * n + 1);
        }
        let began = Instant::now();
        let error = nested(60).expect_err("too deep");
        assert!(error.to_string().contains("nested more than 64 deep"), "{error}");
        // Many chains at once: each comes to an end, and calls that are not nested keep working.
        std::thread::scope(|scope| {
            let chains: Vec<_> = (0..6).map(|_| scope.spawn(|| nested(60))).collect();
            assert_eq!(hub.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
            for chain in chains {
                let error = chain.join().expect("no panic").expect_err("too deep").to_string();
                assert!(error.contains("nested"), "{error}");
            }
        });
        assert!(began.elapsed() < PLENTY, "they waited for each other: {:?}", began.elapsed());
        assert_eq!(nested(31), Ok(Some(1 << 32)), "nothing is left behind");
    });
}

#[test]
fn fault_30_a_callback_that_calls_its_own_bridge_is_told_at_once() {
    within(120, "fault_30_a_callback_that_calls_its_own_bridge_is_told_at_once", || {
        let address = address();
        let hub = hub(&address);
        let inside = Arc::new(Inside::bridge(address.clone()).start().expect("the bridge starts"));
        let other = Arc::new(Inside::bridge(address).start().expect("the bridge starts"));
        let (own, next) = (inside.clone(), other.clone());
        let _leaf = hub.register_fn("leaf", |n: i64| n + 1).expect("a free name");
        let _own = hub
            .register_fn("own", move |n: i64| own.call("leaf".into(), n).map_err(|error| error.to_string())?)
            .expect("a free name");
        let _next = hub
            .register_fn("next", move |n: i64| next.call("own".into(), n).map_err(|error| error.to_string())?)
            .expect("a free name");
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(inside.call("leaf".into(), 1), Ok(Ok(2)));
            assert_eq!(other.call("own".into(), 1), Ok(Ok(2)), "through another");
            for name in ["own", "next"] {
                let error =
                    inside.call(name.into(), 1).expect("the child lives").expect_err("it would wait for itself");
                assert!(error.contains("Inside::call") && error.contains("waits for this one"), "{name}: {error}");
            }
            assert!(began.elapsed() < PLENTY);
        }
        drop((_own, _next));
    });
}

#[test]
fn callbacks_call_back() {
    within(60, "callbacks_call_back", || {
        let address = address();
        let hub = hub(&address);
        let _owner = process("owner", &address);
        let caller = hub.clone();
        let _half = hub.register_fn("half", |n: i64| n / 2).expect("a free name");
        // From here to the owner, back here, and to the owner again.
        let _deep = hub
            .register_fn("deep", move |n: i64| caller.call_as::<i64>("add", (n, 1i64)).ok().flatten().unwrap_or(-1))
            .expect("a free name");
        assert_eq!(hub.call_as::<i64>("half", (8i64,)), Ok(Some(4)), "of this process");
        assert_eq!(hub.call_as::<i64>("twice", ("half".to_owned(), 8i64)), Ok(Some(8)));
        assert_eq!(hub.call_as::<i64>("twice", ("deep".to_owned(), 8i64)), Ok(Some(18)));
        // Endless recursion, which ends when no lanes are left.
        let caller = Manager::new(address.as_str(), &key()).timeout(Duration::from_secs(2));
        caller.connect(PLENTY).expect("a client");
        let again = caller.clone();
        let _endless = caller
            .register_fn("endless", move |n: i64| match again.call_as::<i64>("twice", ("endless".to_owned(), n)) {
                Ok(result) => Ok(result.unwrap_or(0)),
                Err(error) => Err(error.to_string()),
            })
            .expect("a free name");
        let began = Instant::now();
        let endless = caller.call_as::<i64>("endless", (1i64,));
        assert!(endless.is_err(), "{endless:?}");
        assert!(began.elapsed() < PLENTY);
        assert_eq!(hub.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "goes on");
    });
}

#[test]
fn registrations_have_limits() {
    within(60, "registrations_have_limits", || {
        let address = address();
        let (hub, other) = (hub(&address), client(&address));
        let three = hub.named("three").for_calls(3).register_fn(|| 1i64).expect("a free name");
        assert!(three.is_registered());
        for _ in 0..3 {
            assert_eq!(other.call_as::<i64>("three", ()), Ok(Some(1)));
        }
        assert_eq!(other.call_as::<i64>("three", ()), Ok(None));
        assert!(!three.is_registered());

        let short = other.named("short").expires_in(Duration::from_millis(200)).register_fn(|| 2i64).expect("a name");
        assert_eq!(hub.call_as::<i64>("short", ()), Ok(Some(2)));
        assert!(eventually(10, "its time is over", || hub.call_as::<i64>("short", ()) == Ok(None)));
        assert!(!short.is_registered());

        let first = hub.register_fn("name", || 1i64).expect("a free name");
        let taken = other.register_fn("name", || 2i64).expect_err("it is taken");
        assert!(matches!(&taken, ManagerError::Taken { pid, .. } if *pid == std::process::id()), "{taken}");
        assert_eq!(other.call_as::<i64>("name", ()), Ok(Some(1)));
        let second = other.named("name").replace(true).register_fn(|| 2i64).expect("it may");
        assert!(eventually(10, "the other takes over", || hub.call_as::<i64>("name", ()) == Ok(Some(2))));
        assert!(eventually(10, "the first is told", || !first.is_registered()));
        drop(first);
        assert_eq!(hub.call_as::<i64>("name", ()), Ok(Some(2)), "the first no longer had it");
        second.unregister();
        assert!(eventually(10, "nobody has it", || hub.call_as::<i64>("name", ()) == Ok(None)));
        assert!(hub.named("none").for_calls(0).register_fn(|| ()).is_err());
        assert!(hub.register_fn("", || ()).is_err() && hub.register_fn("a\nb", || ()).is_err());
    });
}

#[test]
fn names_say_who_and_how_often() {
    within(60, "names_say_who_and_how_often", || {
        let address = address();
        let hub = hub(&address);
        let owner = process("owner", &address);
        (0..10).for_each(|n| drop(hub.call_as::<i64>("add", (n, 1i64))));
        let names = hub.names().expect("names");
        assert_eq!(names.len(), 9, "{names:?}");
        let add = names.iter().find(|name| name.name == "add").expect("it is registered");
        assert_eq!((add.pid, &*add.signature, add.calls), (owner.pid(), "(i64, i64) -> i64", 10));
        assert!(names.iter().any(|name| name.name == "describe" && name.signature == "any" && name.calls == 0));
    });
}

#[test]
fn locks_are_released_when_their_holders_die() {
    within(60, "locks_are_released_when_their_holders_die", || {
        let address = address();
        let (hub, other) = (hub(&address), client(&address));
        let lock = hub.lock("lock", PLENTY).expect("a hub").expect("a free lock");
        assert!(!lock.was_abandoned());
        assert!(other.lock("lock", Duration::from_millis(50)).expect("a hub").is_none());
        let waiting = std::thread::spawn(move || other.lock("lock", PLENTY).expect("a hub").is_some());
        std::thread::sleep(Duration::from_millis(50));
        drop(lock);
        assert!(waiting.join().expect("no panic"));

        let mut holder = process("holder", &address);
        assert!(hub.lock("lock", Duration::ZERO).expect("a hub").is_none());
        holder.kill();
        let lock = hub.lock("lock", PLENTY).expect("a hub").expect("its holder is dead");
        assert!(lock.was_abandoned());
        drop(lock);
        assert!(!hub.lock("lock", PLENTY).expect("a hub").expect("free").was_abandoned());

        let semaphore = hub.semaphore("three", 3);
        let permits: Vec<_> = (0..3).map(|_| semaphore.acquire(PLENTY).expect("a hub").expect("a permit")).collect();
        assert!(semaphore.acquire(Duration::ZERO).expect("a hub").is_none());
        drop(permits);
        assert!(semaphore.acquire(PLENTY).expect("a hub").is_some());
    });
}

#[test]
fn a_hub_can_be_started_again_at_once() {
    within(60, "a_hub_can_be_started_again_at_once", || {
        let address = address();
        for round in 0..10 {
            let (hub, other) = (hub(&address), client(&address));
            let _name = hub.register_fn("round", move || round).expect("a free name");
            assert_eq!(other.call_as::<i64>("round", ()), Ok(Some(round)));
            let taken = manager(&address).start(Duration::ZERO).expect_err("it is there");
            assert!(matches!(taken, ManagerError::InUse { .. }), "{taken}");
            if round % 2 == 0 {
                other.shutdown().expect("an end")
            } else {
                hub.shutdown().expect("an end")
            }
            let gone = other.call_as::<i64>("round", ()).expect_err("there is no hub");
            assert!(matches!(gone, CallError::NoHub { .. }), "{gone}");
        }
    });
}

#[test]
fn who_has_another_key_or_no_hub_is_told() {
    within(60, "who_has_another_key_or_no_hub_is_told", || {
        let address = address();
        let nobody = manager(&address).connect(Duration::from_millis(100)).expect_err("nobody is there");
        assert!(matches!(nobody, ManagerError::NobodyListens { .. }), "{nobody}");
        let unconnected = manager(&address).call("add", args![]).expect_err("it is not connected");
        assert!(matches!(unconnected, CallError::NoHub { .. }), "{unconnected}");
        let _hub = hub(&address);
        let stranger = Manager::new(address.as_str(), &AuthKey::new("another"));
        let refused = stranger.connect(PLENTY).expect_err("another key");
        assert!(matches!(refused, ManagerError::WrongKey { .. }), "{refused}");
        assert!(matches!(hub_twice(&address), ManagerError::InUse { .. }));
    });
}

fn hub_twice(address: &str) -> ManagerError {
    manager(address).start(Duration::from_millis(10)).expect_err("there is one")
}

#[test]
fn who_has_started_an_owner_and_caller_hears_how_it_ended() {
    within(60, "who_has_started_an_owner_and_caller_hears_how_it_ended", || {
        let address = address();
        let hub = hub(&address);
        let _mine = hub.register_fn("mine", |n: i64| n + 1).expect("a free name");
        for _ in 0..3 {
            let mut child = process("owner", &address);
            // The child is called from here and calls back: that takes two pairs, and a connection to the hub in this process.
            assert_eq!(hub.call_as::<i64>("twice", ("mine".to_owned(), 20i64)), Ok(Some(42)));
            let pid = Pid::from_raw(child.pid() as i32).expect("no 0");
            kill_process(pid, Signal::KILL).expect("it was there");
            assert!(eventually(20, "its names are free", || hub.call("add", args![1, 2]) == Ok(None)));
            // Gives other threads time to notice the child; they must leave its entry in the process table.
            std::thread::sleep(Duration::from_millis(100));
            let status = child.wait().expect("its status is there for its parent");
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        }
    });
}

#[test]
fn a_hub_that_dies_is_succeeded() {
    within(120, "a_hub_that_dies_is_succeeded", || {
        let address = address();
        let mut processes: Vec<_> = (0..6).map(|_| process("elected", &address)).collect();
        let hubs: Vec<bool> = processes.iter_mut().map(|process| process.hear("hub") == "true").collect();
        assert_eq!(hubs.iter().filter(|&&is_hub| is_hub).count(), 1, "{hubs:?}");
        let me = manager(&address);
        me.start_or_connect(PLENTY).expect("a client");
        let _mine = me.register_fn("mine", || 1i64).expect("a free name");
        assert!(!me.is_hub());
        let at = hubs.iter().position(|is_hub| *is_hub).expect("one is");
        let mut dead = processes.remove(at);
        assert_eq!(me.hub_pid(), Some(dead.pid()));
        dead.kill();
        for process in &processes {
            let name = format!("pid {}", process.pid());
            let is_back = || me.call_as::<u32>(&name, ()) == Ok(Some(process.pid()));
            assert!(eventually(60, "its callback is back", is_back), "{name}");
        }
        assert_ne!(me.hub_pid(), Some(dead.pid()));
        assert!(eventually(60, "mine is back", || me.call_as::<i64>("mine", ()) == Ok(Some(1))));
    });
}

#[test]
fn many_threads_call_at_once() {
    within(120, "many_threads_call_at_once", || {
        let address = address();
        let hub = Arc::new(hub(&address));
        let _owner = process("owner", &address);
        let threads: Vec<_> = (0..16)
            .map(|thread: i64| {
                let hub = hub.clone();
                std::thread::spawn(move || {
                    for n in 0..200 {
                        assert_eq!(hub.call_as::<i64>("add", (thread, n)), Ok(Some(thread + n)));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(hub.call_as::<u64>("count", (1u64,)), Ok(Some(1)));
    });
}
