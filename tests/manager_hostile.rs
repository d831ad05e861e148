//! A member that writes into its pair what no healthy member writes harms nobody but itself, whether it calls or is called: the pair is over, the
//! call under way says so, other pairs go on, and the next call is made by a new pair.
//!
//! The hostile member is an ordinary one, in a process of its own. It finds the pair's segment in `/proc/self/maps`; the hub makes pairs of one lane
//! here, so that their layout is that of a bridge with one.

#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::manager::{AuthKey, HubOptions, Item, Manager, Registration, Value};
use callgate::{CallError, Wait, args};
use raw::{CALL, IN_BLOCK, Raw, STOP, commit};
use rustix::thread::futex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};
use support::{Helper, eventually, role, say, within};

const PLENTY: Duration = Duration::from_secs(20);

/// An address that nobody else uses.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("@callgate-hostile-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

fn manager(address: &str) -> Manager {
    Manager::new(address, &AuthKey::new("the key of the tests")).timeout(PLENTY)
}

fn hub(address: &str) -> Manager {
    let hub = manager(address).options(HubOptions::new().lanes(1));
    hub.start(PLENTY).expect("a hub");
    hub
}

/// A member that polls for answers: an attacker need not ring.
fn caller(address: &str, timeout: Duration) -> Manager {
    let caller = manager(address).wait(Wait::Spin).timeout(timeout);
    caller.connect(PLENTY).expect("a member");
    caller
}

fn process(role: &str, address: &str) -> Helper {
    let mut helper = Helper::start("helper_process", &format!("{role} {address}"));
    assert_eq!(helper.hear("ready"), role);
    helper
}

#[test]
fn helper_process() {
    let Some(told) = role() else { return };
    let mut told = told.splitn(3, ' ');
    let (role, address) = (told.next().expect("a role"), told.next().expect("an address"));
    let timeout = if told.clone().next() == Some("flip") { Duration::from_secs(1) } else { PLENTY };
    let manager = manager(address).timeout(timeout);
    manager.connect(PLENTY).expect("a member");
    let _registrations = (role == "owner").then(|| own(&manager));
    say("ready", role);
    if role == "caller" {
        attack(&manager, told.next().expect("an attack"));
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

// ---- a hostile owner -----------------------------------------------------------------------------------------------

/// Publishes a forged reply to the call that is being carried out, and sits on the true one.
fn forge<R: Default>(len: u64, kind: u64, payload: Vec<u64>) -> R {
    let raw = Raw::find();
    let position = raw.started() - 1;
    raw.forge(position, commit(position, len, kind), &payload);
    std::thread::sleep(Duration::from_secs(60));
    R::default()
}

/// Changes random bits of replies, without end.
fn flip() {
    std::thread::spawn(|| {
        let raw = Raw::find();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        loop {
            for position in 0..raw.slots {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Also length and kind, now and then; never the sequence, or the reply would never come.
                match random % 64 {
                    0 => raw.reply(position, 0).fetch_xor(1 << (random >> 32 & 15), Relaxed),
                    word => raw.reply(position, 2 + word % 16).fetch_xor(1 << (random >> 32 & 63), Relaxed),
                };
            }
            std::thread::sleep(Duration::from_micros(random % 100));
        }
    });
}

/// Scribbles over both doorbells and wakes whoever sleeps there, without end.
fn storm() {
    std::thread::spawn(|| {
        let raw = Raw::find();
        for round in 0u64.. {
            for bell in [Raw::CALLER_BELL, Raw::WORKER_BELL] {
                raw.bell(bell).store((round % 3) as u32, Relaxed);
                let _ = futex::wake(raw.bell(bell), futex::Flags::empty(), i32::MAX as u32);
            }
        }
    });
}

fn own(manager: &Manager) -> Vec<Registration> {
    let list = || Value::from(vec![Value::from(1i64), Value::from("two"), Value::from(3.0)]);
    let map = || HashMap::from([("a key".to_owned(), 1i64), ("another".to_owned(), 2)]);
    let named = [
        manager.register_fn("number", forge::<u64>),
        manager.register_fn("text", forge::<String>),
        manager.register_fn("list", forge::<Vec<u64>>),
        manager.register_fn("nothings", forge::<Vec<()>>),
        manager.register_fn("value", forge::<Value>),
        manager.register_fn("map", forge::<HashMap<String, i64>>),
        manager.register_fn("flip", flip),
        manager.register_fn("storm", storm),
        manager.register_fn("a list", list),
        manager.register_fn("a map", map),
        manager.register_fn("add", |a: i64, b: i64| a + b),
        manager.register_fn("sleep", |ms: u64| std::thread::sleep(Duration::from_millis(ms))),
    ];
    named.into_iter().collect::<Result<_, _>>().expect("free names")
}

/// A hub with an honest owner, a hostile one, and a caller of both.
struct Scene {
    hub: Manager,
    caller: Manager,
    owner: Helper,
    address: String,
    _honest: Registration,
}

impl Scene {
    fn new(timeout: Duration) -> Self {
        let address = address();
        let hub = hub(&address);
        let honest = hub.register_fn("honest", |n: i64| n + 1).expect("a free name");
        let (caller, owner) = (caller(&address, timeout), process("owner", &address));
        Self { hub, caller, owner, address, _honest: honest }
    }

    /// Another hostile owner in the place of this one.
    fn renew(&mut self) {
        self.owner.kill();
        assert!(eventually(20, "its names are free", || self.hub.call("add", args![1, 2]) == Ok(None)));
        self.owner = process("owner", &self.address);
    }

    /// Others are called as before, and this owner is by a new pair.
    fn goes_on(&self, case: &str) {
        assert_eq!(self.caller.call_as::<i64>("honest", (1i64,)), Ok(Some(2)), "{case}");
        assert_eq!(self.caller.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "{case}: a new pair");
        assert_eq!(self.hub.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "{case}: another pair");
    }

    fn refuses<R: Item>(&mut self, name: &str, cases: &[(&str, u64, u64, &[u64])]) {
        for &(case, len, kind, payload) in cases {
            let began = Instant::now();
            let answer = self.caller.call_as::<R>(name, (len, kind, payload.to_vec()));
            assert!(matches!(answer, Err(CallError::Corrupt { .. })), "{case}: {:?}", answer.err());
            assert!(began.elapsed() < PLENTY, "{case}");
            self.goes_on(case);
            self.renew();
        }
    }
}

#[test]
fn fault_01_a_forged_reply_ends_the_pair() {
    within(120, "fault_01_a_forged_reply_ends_the_pair", || {
        Scene::new(PLENTY).refuses::<u64>(
            "number",
            &[
                ("one byte more than the slot", 561, CALL, &[]),
                ("the longest length", 0xff_ffff, CALL, &[]),
                ("no bytes for a number", 0, CALL, &[]),
                ("an unknown kind", 8, 0x7e, &[]),
                ("a reply to another kind of request", 0, STOP, &[]),
                ("a failure that is none", 8, 10, &[u64::MAX]),
            ],
        );
    });
}

#[test]
fn fault_03_a_truncated_reply_ends_the_pair() {
    within(120, "fault_03_a_truncated_reply_ends_the_pair", || {
        let mut scene = Scene::new(PLENTY);
        scene.refuses::<String>(
            "text",
            &[
                ("seven bytes", 7, CALL, &[0]),
                ("a text that points outside", 8, CALL, &[0xffff_fff0_0000_00bf]),
                ("a text that is no UTF-8", 8, CALL, &[0xfefe_fefe_fefe_fefe]),
            ],
        );
        scene.refuses::<Vec<u64>>(
            "list",
            &[
                ("a list longer than its frame", 8, CALL, &[0x7fff_ffff_ffff_fff8]),
                ("a list that is not aligned", 8, CALL, &[0x0000_0001_ffff_fffd]),
            ],
        );
        scene.refuses::<Value>(
            "value",
            &[("a value cut short", 9, CALL, &[7, 7]), ("none such", 16, CALL, &[250, 250])],
        );
    });
}

#[test]
fn fault_07_elements_without_size_are_refused_in_a_pair() {
    within(60, "fault_07_elements_without_size_are_refused_in_a_pair", || {
        Scene::new(PLENTY).refuses::<Vec<()>>("nothings", &[("four billion", 8, CALL, &[0xffff_ffff_0000_0000])]);
    });
}

#[test]
fn fault_08_a_forged_block_ends_the_pair() {
    within(60, "fault_08_a_forged_block_ends_the_pair", || {
        Scene::new(PLENTY).refuses::<u64>(
            "number",
            &[
                ("a segment that does not exist", 0, CALL | IN_BLOCK, &[77, 0, 8]),
                ("a block that is too long", 0, CALL | IN_BLOCK, &[1, 0, u64::MAX]),
                ("a block that lies outside", 0, CALL | IN_BLOCK, &[1, u64::MAX - 63, 64]),
            ],
        );
    });
}

/// What comes of calls whose replies are changed while they are read: values of the type or errors, and after an error a new pair.
fn flipped<R: Item>(name: &str, honest: impl Fn(&R) -> bool) {
    let mut scene = Scene::new(Duration::from_millis(500));
    let (mut values, mut lies, mut errors) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        // Its thread has the pair that there is.
        let _ = scene.caller.call_as::<()>("flip", ());
        for _ in 0..2000 {
            match scene.caller.call_as::<R>(name, ()) {
                Ok(Some(value)) if honest(&value) => values += 1,
                Ok(Some(_)) => lies += 1,
                Err(CallError::Corrupt { .. }) => {
                    errors += 1;
                    break;
                }
                Ok(None) | Err(_) => {
                    errors += 1;
                    // One whose answers do not come at all, or that has died of what it did: the memory was there no longer.
                    scene.renew();
                    break;
                }
            }
        }
        assert_eq!(scene.caller.call_as::<i64>("honest", (1i64,)), Ok(Some(2)), "another pair");
    }
    println!("{name}: {values} values, {lies} others, {errors} errors");
    assert!(values > 0, "{lies} lies, {errors} errors");
}

#[test]
fn fault_02_a_reply_that_changes_while_it_is_read_in_a_pair() {
    let name = "fault_02_a_reply_that_changes_while_it_is_read_in_a_pair";
    within(60, name, || flipped::<Vec<Value>>("a list", |list| list.len() == 3));
}

#[test]
fn fault_04_flipped_values_are_values_or_errors_in_a_pair() {
    let name = "fault_04_flipped_values_are_values_or_errors_in_a_pair";
    within(60, name, || flipped::<Value>("a list", |value| value.to_string().contains("two")));
}

#[test]
fn fault_05_forged_tables_are_values_or_errors_in_a_pair() {
    let name = "fault_05_forged_tables_are_values_or_errors_in_a_pair";
    within(60, name, || {
        flipped::<HashMap<String, i64>>("a map", |map| map.len() == 2);
        flipped::<BTreeMap<String, i64>>("a map", |map| map.len() == 2);
    });
}

#[test]
fn fault_09_scribbled_doorbells_of_a_pair_cost_no_answer() {
    within(60, "fault_09_scribbled_doorbells_of_a_pair_cost_no_answer", || {
        let mut scene = Scene::new(PLENTY);
        // One that sleeps at the doorbell that is scribbled over.
        let sleeper = manager(&scene.address).wait(Wait::Park);
        sleeper.connect(PLENTY).expect("a member");
        assert_eq!(sleeper.call_as::<()>("storm", ()), Ok(Some(())));
        for n in 0..50 {
            assert_eq!(sleeper.call_as::<i64>("add", (n, 1i64)), Ok(Some(n + 1)));
            assert_eq!(scene.caller.call_as::<i64>("honest", (n,)), Ok(Some(n + 1)));
        }
        let last = sleeper.clone();
        let call = std::thread::spawn(move || last.call_as::<()>("sleep", (60_000u64,)));
        std::thread::sleep(Duration::from_millis(200));
        scene.owner.kill();
        let gone = call.join().expect("no panic").expect_err("its owner is dead");
        assert!(matches!(gone, CallError::Gone { .. }), "{gone}");
    });
}

// ---- a hostile caller ----------------------------------------------------------------------------------------------

/// Attacks the owner of `add`, whom it has just called.
fn attack(manager: &Manager, what: &str) {
    assert_eq!(manager.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
    let raw = Raw::find();
    let position = raw.started();
    let request = |commit: u64, call: u64, payload: &[u64]| {
        for (word, value) in (2..).zip(payload) {
            raw.request(position, word).store(*value, Relaxed);
        }
        raw.request(position, 1).store(call, Relaxed);
        raw.request(position, 0).store(commit, Release);
        raw.bell(Raw::WORKER_BELL).store(0, Relaxed);
        let _ = futex::wake(raw.bell(Raw::WORKER_BELL), futex::Flags::empty(), i32::MAX as u32);
    };
    let scribble = |turns: u64| {
        for turn in 0..turns {
            for slot in 0..raw.slots {
                let word = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(slot as u32);
                raw.request(slot, word % 16).fetch_xor(1 << (word >> 58), Relaxed);
            }
        }
    };
    match what {
        "length" => request(commit(position, 561, CALL), 1, &[]),
        "longest" => request(commit(position, 0xff_ffff, CALL), 1, &[]),
        "kind" => request(commit(position, 8, 0x7e), 1, &[]),
        "segment" => request(commit(position, 0, CALL | IN_BLOCK), 1, &[77, 0, 8]),
        "block" => request(commit(position, 0, CALL | IN_BLOCK), 1, &[1, u64::MAX - 63, 64]),
        "too long" => request(commit(position, 0, CALL | IN_BLOCK), 1, &[1, 0, u64::MAX]),
        "all" => {
            for offset in (128..raw.len).step_by(8) {
                raw.at(offset).store(u64::MAX, Relaxed);
            }
            request(commit(position, 8, CALL), 1, &[]);
        }
        // What makes sense as a request, and is none that this owner takes: it is refused, and the pair stays.
        "stop" => request(commit(position, 0, STOP), 0, &[]),
        "number" => request(commit(position, 8, CALL), 0x1234, &[1]),
        "arguments" => request(commit(position, 5, CALL), 1, &[u64::MAX]),
        "home" => request(commit(position, 16, CALL), 7 << 32 | 1, &[1, 2]),
        "flip" => {
            std::thread::scope(|scope| {
                scope.spawn(|| scribble(200_000));
                for n in 0..300 {
                    let answer = manager.call_as::<i64>("add", (n, 1i64));
                    // What of the request was flipped may be why there is none, ever.
                    if matches!(answer, Err(CallError::TimedOut { .. })) {
                        break;
                    }
                }
            });
        }
        "storm" => storm(),
        other => panic!("no attack `{other}`"),
    }
    if ["stop", "number", "arguments", "home"].contains(&what) {
        // Answered, and the answer is one that a healthy caller would read.
        assert!(eventually(20, "an answer", || raw.reply(position, 0).load(Relaxed) >> 32 == position + 1));
        assert_eq!(
            raw.reply(position, 0).load(Relaxed) & 0x7f,
            if what == "home" {
                CALL
            } else if what == "number" {
                10
            } else {
                7
            }
        );
        return say("done", "refused");
    }
    if !["flip", "storm"].contains(&what) {
        // The hub closes the pair, and then nothing of it is left here but this mapping's line, if anything.
        let began = Instant::now();
        while manager.call_as::<i64>("add", (1i64, 2i64)) != Ok(Some(3)) {
            assert!(began.elapsed() < PLENTY, "a new pair");
        }
    }
    say("done", "attacked");
}

#[test]
fn fault_01_a_forged_request_ends_the_pair() {
    attacked("fault_01_a_forged_request_ends_the_pair", &["length", "longest", "kind", "all"]);
}

#[test]
fn fault_02_a_request_that_changes_while_it_is_read_harms_no_owner() {
    attacked("fault_02_a_request_that_changes_while_it_is_read_harms_no_owner", &["flip"]);
}

#[test]
fn fault_03_a_request_that_is_no_archive_is_refused() {
    attacked("fault_03_a_request_that_is_no_archive_is_refused", &["stop", "number", "arguments"]);
}

#[test]
fn fault_08_a_forged_block_of_a_request_ends_the_pair() {
    attacked("fault_08_a_forged_block_of_a_request_ends_the_pair", &["segment", "block", "too long", "home"]);
}

#[test]
fn fault_09_a_wake_storm_at_an_owner_disturbs_no_other() {
    attacked("fault_09_a_wake_storm_at_an_owner_disturbs_no_other", &["storm"]);
}

/// Has members attack an owner, each in another way; it goes on.
fn attacked(test: &str, attacks: &[&str]) {
    within(120, test, || {
        let address = address();
        let hub = hub(&address);
        let _add = hub.register_fn("add", |a: i64, b: i64| a.wrapping_add(b)).expect("a free name");
        let honest = caller(&address, PLENTY);
        assert_eq!(honest.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
        for attack in attacks {
            let mut helper = Helper::start("helper_process", &format!("caller {address} {attack}"));
            std::thread::scope(|scope| {
                let attacked = scope.spawn(|| {
                    assert_eq!(helper.hear("ready"), "caller");
                    helper.hear("done")
                });
                while !attacked.is_finished() {
                    assert_eq!(honest.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "{attack}");
                }
                attacked.join().expect("the attacker lives");
            });
            for n in 0..100 {
                assert_eq!(honest.call_as::<i64>("add", (n, 2i64)), Ok(Some(n + 2)), "{attack}");
            }
            helper.kill();
        }
    });
}
