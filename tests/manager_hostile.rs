//! A client that writes into its pair what no healthy client writes harms only itself, whether it is the caller or the owner: the pair ends, the call
//! in progress says so, other pairs keep working, and the next call uses a new pair.
//!
//! The hostile client is an ordinary one, in a process of its own. It finds the pair's segment in `/proc/self/maps`. The hub makes pairs of one lane
//! here, so their layout is that of a bridge with one lane.

#[path = "support/raw.rs"]
mod raw;
#[path = "support/slow.rs"]
mod slow;
mod support;

use callgate::manager::{Args, AuthKey, CallError, HubOptions, Item, Manager, Registration, Value};
use callgate::rkyv::{rancor, to_bytes};
use callgate::{Wait, args};
use raw::{CALL, FAILED, IN_BLOCK, REFUSED, Raw, STOP, commit, own_memory, words};
use rustix::thread::futex;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{Debug, Display};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};
use support::{Helper, address, eventually, role, say, within};

const PLENTY: Duration = Duration::from_secs(20);

fn manager(address: &str) -> Manager {
    Manager::new(address, &AuthKey::new("the key of the tests")).timeout(PLENTY)
}

fn hub(address: &str) -> Manager {
    let hub = manager(address).options(HubOptions::new().concurrent_calls(1));
    hub.start(PLENTY).expect("a hub");
    hub
}

/// A client that polls for answers, because an attacker need not ring.
fn caller(address: &str, timeout: Duration) -> Manager {
    let caller = manager(address).wait(Wait::Spin).timeout(timeout);
    caller.connect(PLENTY).expect("a client");
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
    if role == "relay" {
        relay(address, told.next().expect("the hub's address"));
    }
    let manager = manager(address).timeout(timeout);
    if role == "relayed" {
        return say("joined", manager.connect(PLENTY).map_or_else(|error| error.to_string(), |()| "yes".into()));
    }
    manager.connect(PLENTY).expect("a client");
    let _registrations = (role == "owner").then(|| own(&manager));
    say("ready", role);
    if role == "caller" {
        attack(&manager, told.next().expect("an attack"));
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

// ---- values of any depth -------------------------------------------------------------------------------------------

/// `levels` lists inside each other.
fn nested(levels: u64) -> Value {
    (0..levels).fold(Value::from(7), |value, _| Value::List(vec![value]))
}

/// The depths of the three honest values from which a deep one is made, at equal distances.
const STEPS: [u64; 3] = [STEP, 2 * STEP, 3 * STEP];
const STEP: u64 = 8;

/// The payload of [`nested`] with `levels`, which no honest process would send that deep; made from the payloads for [`STEPS`].
///
/// Relies only on all levels of an archive looking alike: it repeats what the second payload has and the first lacks, and lets the numbers behind it,
/// which may be lengths or distances, grow at the same rate. As a check, it must also produce the third payload.
fn deep([first, second, third]: &[Vec<u8>; 3], levels: u64) -> Vec<u8> {
    let made = |times: u32| {
        let more = second.len() - first.len();
        let same = first.iter().zip(second).take_while(|(one, other)| one == other).count() & !7;
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).expect("four bytes");
        let (levels, end) = second[same..].split_at(more);
        let ends =
            first[same..].chunks_exact(4).zip(end.chunks_exact(4)).map(|(one, other)| (number(one), number(other)));
        let grown =
            ends.flat_map(|(one, other)| other.wrapping_add(other.wrapping_sub(one).wrapping_mul(times)).to_le_bytes());
        let mut made = second[..same].to_vec();
        (0..=times).for_each(|_| made.extend(levels));
        made.extend(grown);
        made.extend(&end[end.len() & !3..]);
        made
    };
    assert_eq!(made(1), *third, "levels do not look alike");
    made((levels / STEP - 2) as u32)
}

/// Overwrites the memory of this process's last large payload, which `word` of its slot locates, with `payload`. Returns the words that name it.
fn in_block<'a>(word: impl Fn(u64) -> &'a AtomicU64, payload: &[u8]) -> [u64; 3] {
    let [commit, segment, offset, len] = [0, 2, 3, 4].map(|at| word(at).load(Relaxed));
    assert!(commit & IN_BLOCK != 0 && len >= payload.len() as u64, "{commit:#x}: {len} bytes");
    let (start, size) = own_memory();
    assert!(offset + len <= size, "{len} bytes at {offset} of {size}");
    for (at, word) in (0..).zip(words(payload)) {
        // SAFETY: inside memory of this process that stays mapped as long as the pair, aligned to 8, and without references to it.
        unsafe { AtomicU64::from_ptr((start + offset + 8 * at) as *mut u64) }.store(word, Relaxed);
    }
    [segment, offset, payload.len() as u64]
}

/// As large as a payload that is 200,000 levels deep.
fn room() -> Vec<u8> {
    vec![7; 8 << 20]
}

// ---- a hostile owner -----------------------------------------------------------------------------------------------

/// Publishes a forged reply to the call in progress, and delays the true one.
fn forge<R: Default>(len: u64, kind: u64, payload: Vec<u64>) -> R {
    let raw = Raw::find();
    let position = raw.started() - 1;
    raw.forge(position, commit(position, len, kind), &payload);
    std::thread::sleep(Duration::from_secs(60));
    R::default()
}

/// Publishes a reply that is `levels` deep. Before it must come calls of `nested` with each of [`STEPS`], and one of `room`.
fn forge_deep(levels: u64) -> Value {
    let raw = Raw::find();
    let position = raw.started() - 1;
    let honest = [4, 3, 2].map(|before| raw.reply_bytes(position - before));
    let block = in_block(|word| raw.reply(position - 1, word), &deep(&honest, levels));
    raw.forge(position, commit(position, 0, CALL | IN_BLOCK), &block);
    std::thread::sleep(Duration::from_secs(60));
    Value::None
}

/// Changes random bits of replies, for ever.
fn flip() {
    std::thread::spawn(|| {
        let raw = Raw::find();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        loop {
            for position in 0..raw.slots {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Sometimes also length and kind, but never the sequence: with a wrong sequence, the reply would never arrive.
                match random % 64 {
                    0 => raw.reply(position, 0).fetch_xor(1 << (random >> 32 & 15), Relaxed),
                    word => raw.reply(position, 2 + word % 16).fetch_xor(1 << (random >> 32 & 63), Relaxed),
                };
            }
            std::thread::sleep(Duration::from_micros(random % 100));
        }
    });
}

/// Scribbles over both doorbells and wakes all sleepers there, for ever.
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
        manager.register_fn("texts", forge::<Vec<String>>),
        manager.register_fn("nothings", forge::<Vec<()>>),
        manager.register_fn("value", forge::<Value>),
        manager.register_fn("map", forge::<HashMap<String, i64>>),
        manager.register_fn("nested", nested),
        manager.register_fn("room", room),
        manager.register_fn("deep", forge_deep),
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

    /// Replaces the hostile owner by a new one.
    fn renew(&mut self) {
        self.owner.kill();
        assert!(eventually(20, "its names are free", || self.hub.call("add", args![1, 2]) == Ok(None)));
        self.owner = process("owner", &self.address);
    }

    /// Checks that calls to others work as before, and that a call to this owner works through a new pair.
    fn goes_on(&self, case: &str) {
        assert_eq!(self.caller.call_as::<i64>("honest", (1i64,)), Ok(Some(2)), "{case}");
        assert_eq!(self.caller.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "{case}: a new pair");
        assert_eq!(self.hub.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)), "{case}: another pair");
    }

    fn refuses<R: Item>(&mut self, name: &str, cases: &[(&str, u64, u64, &[u64])]) {
        for &(case, len, kind, payload) in cases {
            let began = Instant::now();
            let answer = self.caller.call_as::<R>(name, (len, kind, payload.to_vec()));
            assert!(
                matches!(answer, Err(CallError::Call(callgate::CallError::Corrupt { .. }))),
                "{case}: {:?}",
                answer.err()
            );
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
                ("a text that points outside", 16, CALL, &[0xbf, 16u64.wrapping_neg()]),
                ("a text that is no UTF-8", 16, CALL, &[0xfefe_fefe_fefe_fefe; 2]),
            ],
        );
        scene.refuses::<Vec<u64>>(
            "list",
            &[
                ("a list longer than its frame", 16, CALL, &[16u64.wrapping_neg(), 0x7fff_ffff]),
                ("a list that is not aligned", 16, CALL, &[3u64.wrapping_neg(), 1]),
            ],
        );
        scene.refuses::<Value>(
            "value",
            &[("a value cut short", 9, CALL, &[7, 7]), ("none such", 16, CALL, &[250, 250])],
        );
    });
}

#[test]
fn fault_03_a_reply_truncated_at_any_length_ends_the_pair() {
    within(120, "fault_03_a_reply_truncated_at_any_length_ends_the_pair", || {
        let honest = vec!["one text, far away".to_owned(), "another text".to_owned()];
        let honest = to_bytes::<rancor::Error>(&honest).expect("an archive");
        let mut scene = Scene::new(PLENTY);
        for len in 0..honest.len() {
            scene.refuses::<Vec<String>>(
                "texts",
                &[(&format!("{len} bytes"), len as u64, CALL, &words(&honest[..len]))],
            );
        }
        let whole = (honest.len() as u64, CALL, words(&honest));
        assert_eq!(
            scene.caller.call_as::<Vec<String>>("texts", whole).map(|texts| texts.map(|texts| texts.len())),
            Ok(Some(2))
        );
    });
}

#[test]
fn fault_06_a_reply_200_000_deep_ends_the_pair() {
    within(120, "fault_06_a_reply_200_000_deep_ends_the_pair", || {
        let mut scene = Scene::new(PLENTY);
        let deep = |scene: &Scene, levels: u64| {
            for honest in STEPS {
                assert_eq!(scene.caller.call("nested", args![honest]), Ok(Some(nested(honest))));
            }
            assert!(scene.caller.call("room", args![]).is_ok_and(|room| room.is_some()));
            scene.caller.call("deep", args![levels])
        };
        // At the greatest allowed depth it is a valid value, so only their depth can be what is wrong with the others.
        assert_eq!(deep(&scene, 96), Ok(Some(nested(96))));
        scene.renew();
        for levels in [1000, 200_000] {
            let answer = deep(&scene, levels);
            assert!(
                matches!(answer, Err(CallError::Call(callgate::CallError::Corrupt { .. }))),
                "{levels} deep: {:?}",
                answer.err()
            );
            scene.goes_on(&format!("{levels} deep"));
            scene.renew();
        }
    });
}

#[test]
fn fault_07_elements_without_size_are_refused_in_a_pair() {
    within(60, "fault_07_elements_without_size_are_refused_in_a_pair", || {
        Scene::new(PLENTY).refuses::<Vec<()>>("nothings", &[("four billion", 16, CALL, &[0, 0xffff_ffff])]);
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

/// Checks calls whose replies change while they are read: they give values of the type or errors, and after an error a new pair.
fn flipped<R: Item>(name: &str, honest: impl Fn(&R) -> bool) {
    let mut scene = Scene::new(Duration::from_millis(500));
    let (mut values, mut lies, mut errors) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        // The flipping thread works on the present pair.
        let _ = scene.caller.call_as::<()>("flip", ());
        for _ in 0..2000 {
            match scene.caller.call_as::<R>(name, ()) {
                Ok(Some(value)) if honest(&value) => values += 1,
                Ok(Some(_)) => lies += 1,
                Err(CallError::Call(callgate::CallError::Corrupt { .. })) => {
                    errors += 1;
                    break;
                }
                Ok(None) | Err(_) => {
                    errors += 1;
                    // An owner that stops answering, or that died of its own writes because the memory was gone.
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
        // A client that sleeps at the doorbell that is being scribbled over.
        let sleeper = manager(&scene.address).wait(Wait::Park);
        sleeper.connect(PLENTY).expect("a client");
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

/// Publishes a forged request: `payload`, the word that names the callee, then the commit word.
fn request(raw: &Raw, position: u64, commit: u64, call: u64, payload: &[u64]) {
    for (word, value) in (2..).zip(payload) {
        raw.request(position, word).store(*value, Relaxed);
    }
    raw.request(position, 1).store(call, Relaxed);
    raw.request(position, 0).store(commit, Release);
    raw.bell(Raw::WORKER_BELL).store(0, Relaxed);
    let _ = futex::wake(raw.bell(Raw::WORKER_BELL), futex::Flags::empty(), i32::MAX as u32);
}

/// Waits for the reply at `position`, and returns its kind.
fn answered(raw: &Raw, position: u64) -> u64 {
    let began = Instant::now();
    loop {
        let word = raw.reply(position, 0).load(Acquire);
        if word >> 32 == position + 1 && word & 0x7f != 0 {
            return word & 0x7f;
        }
        assert!(began.elapsed() < PLENTY, "no answer");
        std::thread::sleep(Duration::from_micros(10));
    }
}

/// A request that this process has made: the word that names its callee, and its payload.
struct Made {
    call: u64,
    payload: Vec<u8>,
}

impl Made {
    /// The request of the call that `call` makes.
    fn by<R: Debug + PartialEq>(raw: &Raw, call: impl FnOnce() -> Result<Option<R>, CallError>) -> Self {
        let position = raw.started();
        let answer = call();
        assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
        Self { call: raw.request(position, 1).load(Relaxed), payload: raw.request_bytes(position) }
    }

    /// Repeats the request with another payload, and returns the kind of the answer.
    fn again(&self, raw: &Raw, payload: &[u8]) -> u64 {
        let position = raw.started();
        request(raw, position, commit(position, payload.len() as u64, CALL), self.call, &words(payload));
        answered(raw, position)
    }
}

/// How many bent requests were carried out and how many were refused. No other result is possible, and both must occur.
#[derive(Default)]
struct Bent {
    carried_out: u64,
    refused: u64,
}

impl Bent {
    fn count(&mut self, answer: u64, case: impl Display) {
        match answer {
            CALL => self.carried_out += 1,
            REFUSED | FAILED => self.refused += 1,
            kind => panic!("{case}: an answer of kind {kind}"),
        }
    }

    fn assert_both(&self) {
        let Self { carried_out, refused } = self;
        assert!(*carried_out > 0 && *refused > 0, "{carried_out} carried out, {refused} refused");
    }
}

/// Requests to each of the callbacks that [`look`] registers.
fn looked_at(manager: &Manager, raw: &Raw) -> Vec<Made> {
    let text = || "a text that is too long to stay where it is named".to_owned();
    let map = || HashMap::from([(text(), 1i64), ("short".to_owned(), -2), (String::new(), 3)]);
    let value = || Value::from(BTreeMap::from([("list", Value::from(vec![1.5, 2.5])), ("text", Value::from(text()))]));
    let lists = || vec![Some("short".to_owned()), None, Some(text())];
    vec![
        Made::by(raw, || manager.call("args", args![1, true, value(), text(); key = b"bytes", other = value()])),
        Made::by(raw, || manager.call_as::<u64>("hash", (map(),))),
        Made::by(raw, || manager.call_as::<u64>("tree", (map().into_iter().collect::<BTreeMap<_, _>>(),))),
        Made::by(raw, || manager.call_as::<u64>("lists", (lists(), vec![1u8, 2, 3], true, Some(0.5f32)))),
        Made::by(raw, || manager.call_as::<u64>("value", (value(),))),
    ]
}

/// Registers callbacks that read all of their arguments.
fn look(manager: &Manager) -> Vec<Registration> {
    type Map = HashMap<String, i64>;
    type Tree = BTreeMap<String, i64>;
    let counted = |is_whole: bool, shown: String| {
        assert!(is_whole, "a table in which not all is found that is in it");
        shown.chars().count() as u64
    };
    let named = [
        manager.register("args", |args: Args| args.to_string().chars().count() as u64),
        manager.register_fn("hash", move |map: Map| {
            counted(map.iter().all(|(key, value)| map.get(key) == Some(value)), format!("{map:?}"))
        }),
        manager.register_fn("tree", move |map: Tree| {
            counted(map.iter().all(|(key, value)| map.get(key) == Some(value)), format!("{map:?}"))
        }),
        manager.register_fn("lists", |lists: Vec<Option<String>>, bytes: Vec<u8>, truth: bool, number: Option<f32>| {
            format!("{lists:?} {bytes:?} {truth} {number:?}").chars().count() as u64
        }),
        manager.register_fn("value", |value: Value| value.to_string().chars().count() as u64),
        manager.register_fn("nothings", |nothings: Vec<()>| nothings.len() as u64),
        manager.register_fn("lists of nothings", |lists: Vec<Vec<()>>| lists.len() as u64),
    ];
    named.into_iter().collect::<Result<_, _>>().expect("free names")
}

/// Makes requests that change while they are read, until one ends the pair or is never answered.
fn changing_requests(manager: &Manager, raw: &Raw) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(std::process::id());
            while !is_over.load(Relaxed) {
                for slot in 0..raw.slots {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // Sometimes also length, kind and callee, but never the sequence: with a wrong sequence, it would be no request.
                    let (word, bit) = match random % 512 {
                        0 => (0, random >> 32 & 15),
                        1 => (1, random >> 32 & 31),
                        word => (2 + word % 16, random >> 32 & 63),
                    };
                    raw.request(slot, word).fetch_xor(1 << bit, Relaxed);
                }
            }
        });
        let texts = || vec![Some("a text that is somewhere else".to_owned()), None, Some("short".to_owned())];
        let mut outcomes = BTreeMap::new();
        for _ in 0..5000 {
            let answer = manager.call_as::<u64>("lists", (texts(), vec![1u8, 2, 3], true, Some(0.5f32)));
            let outcome = match &answer {
                Ok(_) => "carried out",
                Err(
                    CallError::Call(callgate::CallError::Refused { .. })
                    | CallError::Callback { .. }
                    | CallError::Mismatch { .. },
                ) => "refused",
                Err(_) => "the last",
            };
            *outcomes.entry(outcome).or_insert(0) += 1;
            if outcome == "the last" {
                println!("{answer:?}");
                break;
            }
        }
        println!("{outcomes:?}");
        is_over.store(true, Relaxed);
    });
}

/// Requests that end early. A prefix that is valid by itself may be carried out.
fn truncated_requests(manager: &Manager, raw: &Raw) {
    for made in looked_at(manager, raw) {
        let mut bent = Bent::default();
        for len in 0..=made.payload.len() {
            bent.count(made.again(raw, &made.payload[..len]), format_args!("{len} bytes of {:#x}", made.call));
        }
        bent.assert_both();
    }
}

/// Requests with up to four flipped bits.
fn flipped_requests(manager: &Manager, raw: &Raw) {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |end: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % end
    };
    for made in looked_at(manager, raw) {
        let mut bent = Bent::default();
        for round in 0..2000 {
            let mut payload = made.payload.clone();
            let flips: Vec<_> = (0..=next(4)).map(|_| (next(payload.len()), next(8))).collect();
            flips.iter().for_each(|(at, bit)| payload[*at] ^= 1 << bit);
            bent.count(made.again(raw, &payload), format_args!("round {round} of {:#x}: {flips:?}", made.call));
        }
        bent.assert_both();
    }
}

/// Requests with one changed byte, either a table's control byte or one near it.
fn forged_tables(manager: &Manager, raw: &Raw) {
    for made in looked_at(manager, raw) {
        let mut bent = Bent::default();
        for at in 0..made.payload.len() {
            for byte in [0, 0x80, 0xff, made.payload[at] ^ 1] {
                let mut payload = made.payload.clone();
                payload[at] = byte;
                bent.count(made.again(raw, &payload), format_args!("byte {at} of {:#x}: {byte}", made.call));
            }
        }
        bent.assert_both();
    }
}

/// Requests made by `call` with a value of the greatest allowed depth, and with deeper ones.
fn deep_requests(raw: &Raw, call: impl Fn(Value) -> Result<Option<Value>, CallError>) {
    let honest = STEPS.map(|levels| Made::by(raw, || call(nested(levels))).payload);
    let position = raw.started();
    assert!(matches!(call(Value::from(room())), Ok(Some(_))));
    let called = raw.request(position, 1).load(Relaxed);
    // At the greatest allowed depth it is a valid value, so only their depth can be what is wrong with the others.
    for (levels, answers) in [(96, [CALL; 2]), (1000, [REFUSED, FAILED]), (200_000, [REFUSED, FAILED])] {
        let block = in_block(|word| raw.request(position, word), &deep(&honest, levels));
        let next = raw.started();
        request(raw, next, commit(next, 0, CALL | IN_BLOCK), called, &block);
        let answer = answered(raw, next);
        assert!(answers.contains(&answer), "{levels} deep: an answer of kind {answer}");
    }
}

/// Requests of a few bytes that claim billions of zero-sized elements.
fn claimed_nothings(manager: &Manager, raw: &Raw) {
    let nothings = Made::by(raw, || manager.call_as::<u64>("nothings", (vec![(); 3],)));
    let lists = Made::by(raw, || manager.call_as::<u64>("lists of nothings", (vec![vec![(); 3]; 3],)));
    // A pointer to itself, and a number of elements.
    let claim = |count: u64| [0u64, count].map(u64::to_le_bytes).concat();
    const MANY: u64 = u32::MAX as u64;
    assert_eq!(nothings.again(raw, &claim(3)), CALL);
    assert_eq!(nothings.again(raw, &claim(MANY)), REFUSED);
    assert_eq!(nothings.again(raw, &claim(70_000)), REFUSED);
    // Lists side by side, each pointing to the start of the first, and the list of them.
    let inner = (0..33u64).map(|at| [(16 * at).wrapping_neg(), MANY]);
    let outer = inner.chain([[528u64.wrapping_neg(), 33]]).flatten().flat_map(u64::to_le_bytes).collect::<Vec<_>>();
    assert_eq!(lists.again(raw, &outer), REFUSED);
    assert_eq!(lists.again(raw, &claim(MANY)), REFUSED);
}

/// Attacks the owner of `add`, after calling it once.
fn attack(manager: &Manager, what: &str) {
    assert_eq!(manager.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
    let raw = Raw::find().kept();
    let position = raw.started();
    let request = |commit: u64, call: u64, payload: &[u64]| request(&raw, position, commit, call, payload);
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
        // Well-formed requests that this owner does not take: they are refused, and the pair stays.
        "stop" => request(commit(position, 0, STOP), 0, &[]),
        "number" => request(commit(position, 8, CALL), 0x1234, &[1]),
        "arguments" => request(commit(position, 5, CALL), 1, &[u64::MAX]),
        "home" => request(commit(position, 16, CALL), 7 << 32 | 1, &[1, 2]),
        "cut" => truncated_requests(manager, &raw),
        "flips" => flipped_requests(manager, &raw),
        "tables" => forged_tables(manager, &raw),
        "deep arguments" => deep_requests(&raw, |value| manager.call("args", args![value])),
        "deep value" => deep_requests(&raw, |value| Ok(manager.call_as::<u64>("value", (value,))?.map(Value::from))),
        "nothings" => claimed_nothings(manager, &raw),
        "flip" => changing_requests(manager, &raw),
        "storm" => storm(),
        "slow" => return be_slow(manager),
        other => panic!("no attack `{other}`"),
    }
    if ["cut", "flips", "tables", "deep arguments", "deep value", "nothings"].contains(&what) {
        return say("done", "refused");
    }
    if let Some(kind) = [("stop", REFUSED), ("number", FAILED), ("arguments", REFUSED), ("home", CALL)]
        .iter()
        .find_map(|(attack, kind)| (*attack == what).then_some(*kind))
    {
        // The answer is one that a healthy caller would read.
        assert_eq!(answered(&raw, position), kind);
        return say("done", "refused");
    }
    if !["flip", "storm"].contains(&what) {
        // The hub closes the pair. Nothing of it remains here then, except perhaps this mapping's line.
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
    attacked("fault_02_a_request_that_changes_while_it_is_read_harms_no_owner", &["flip"; 8]);
}

#[test]
fn fault_03_a_request_that_is_no_archive_is_refused() {
    attacked("fault_03_a_request_that_is_no_archive_is_refused", &["stop", "number", "arguments", "cut"]);
}

#[test]
fn fault_04_requests_with_flipped_bits_are_carried_out_or_refused() {
    attacked("fault_04_requests_with_flipped_bits_are_carried_out_or_refused", &["flips"]);
}

#[test]
fn fault_05_forged_tables_of_a_request_are_whole_or_refused() {
    attacked("fault_05_forged_tables_of_a_request_are_whole_or_refused", &["tables"]);
}

#[test]
fn fault_06_a_request_200_000_deep_is_refused() {
    attacked("fault_06_a_request_200_000_deep_is_refused", &["deep arguments", "deep value"]);
}

#[test]
fn fault_07_a_request_that_claims_elements_without_size_is_refused() {
    attacked("fault_07_a_request_that_claims_elements_without_size_is_refused", &["nothings"]);
}

#[test]
fn fault_08_a_forged_block_of_a_request_ends_the_pair() {
    attacked("fault_08_a_forged_block_of_a_request_ends_the_pair", &["segment", "block", "too long", "home"]);
}

#[test]
fn fault_09_a_wake_storm_at_an_owner_disturbs_no_other() {
    attacked("fault_09_a_wake_storm_at_an_owner_disturbs_no_other", &["storm"]);
}

// ---- a slow socket -------------------------------------------------------------------------------------------------

/// Makes its end of the connection to the hub slow, and asks the hub until it stops answering.
fn be_slow(manager: &Manager) {
    let (made, _held) = slow::burden("socket:", slow::entries());
    assert!(made * 2 > slow::entries(), "{made} entries");
    let answers = (0..10).take_while(|n| manager.call(&format!("nobody's {n}"), args![]) == Ok(None)).count();
    say("done", answers);
    std::thread::sleep(Duration::from_secs(60));
}

/// A client that makes its connection slow loses it; the locks and calls of others work as before.
#[test]
fn fault_40_a_client_that_makes_its_socket_slow_is_left() {
    within(120, "fault_40_a_client_that_makes_its_socket_slow_is_left", || {
        let address = address();
        let hub = hub(&address);
        let _add = hub.register_fn("add", |a: i64, b: i64| a + b).expect("a free name");
        let other = caller(&address, PLENTY);
        let lock = || {
            let begun = Instant::now();
            drop(other.lock("a lock", PLENTY).expect("a lock"));
            begun.elapsed()
        };
        let mut quiet: Vec<_> = (0..2000).map(|_| lock()).collect();
        let mut helper = Helper::start("helper_process", &format!("caller {address} slow"));
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| helper.hear("done"));
            let mut attacked = Vec::new();
            while !slow.is_finished() || attacked.len() < 2000 {
                attacked.push(lock());
            }
            slow::compare("a lock", &mut quiet, &mut attacked);
            let answers: u32 = slow.join().expect("the attacker lives").parse().expect("a number");
            assert!(answers < 2, "{answers} answers");
        });
        assert_eq!(other.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
        helper.kill();
    });
}

// ---- a relayed handshake -------------------------------------------------------------------------------------------

/// Listens at `own` and relays everything between its visitors and the hub at `hubs`, without having the key.
fn relay(own: &str, hubs: &str) -> ! {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, connect, listen, socket};
    let new = || socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let name = |text: &str| SocketAddrUnix::new_abstract_name(&text.as_bytes()[1..]).expect("a name");
    let listener = new();
    bind(&listener, &name(own)).expect("a free name");
    listen(&listener, 8).expect("it listens");
    say("ready", "relay");
    loop {
        let (theirs, hub) = (accept(&listener).expect("a connection"), new());
        connect(&hub, &name(hubs)).expect("the hub listens");
        std::thread::scope(|scope| {
            scope.spawn(|| pass_on(&theirs, &hub));
            pass_on(&hub, &theirs);
        });
    }
}

fn pass_on(from: &std::os::fd::OwnedFd, to: &std::os::fd::OwnedFd) {
    use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
    let mut buffer = vec![0; 1 << 16];
    while let Ok((len, _)) = recv(from, &mut buffer[..], RecvFlags::empty()) {
        if len == 0 || send(to, &buffer[..len], SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    let _ = shutdown(to, Shutdown::Both);
}

/// A process without the key stands between the hub and a client with the key, and relays their messages: neither takes it for the other side.
#[test]
fn fault_44_a_handshake_that_is_passed_on_is_refused() {
    within(120, "fault_44_a_handshake_that_is_passed_on_is_refused", || {
        let (address, between) = (address(), address());
        let hub = hub(&address);
        let mut relay = Helper::start("helper_process", &format!("relay {between} {address}"));
        relay.hear("ready");
        let joined = Helper::start("helper_process", &format!("relayed {between}")).hear("joined");
        assert!(
            joined.contains(&format!("process {}", relay.pid())) && joined.contains("relays its messages"),
            "{joined}"
        );
        // Without the relay, a client joins as usual.
        assert_eq!(Helper::start("helper_process", &format!("relayed {address}")).hear("joined"), "yes");
        drop(hub);
    });
}

/// Clients attack an owner, each in another way; the owner keeps working.
fn attacked(test: &str, attacks: &[&str]) {
    within(120, test, || {
        let address = address();
        let hub = hub(&address);
        let _add = hub.register_fn("add", |a: i64, b: i64| a.wrapping_add(b)).expect("a free name");
        let _look = look(&hub);
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

/// A connection used to cost the owner one thread for every lane, and anyone could make any number of connections.
#[test]
fn fault_43_who_connects_and_calls_once_costs_the_owner_one_thread() {
    within(120, "fault_43_who_connects_and_calls_once_costs_the_owner_one_thread", || {
        let address = address();
        let hub = manager(&address);
        hub.start(PLENTY).expect("a hub");
        let owner = process("owner", &address);
        let call = |client: &Manager| client.call_as::<Value>("nested", (1u64,)).expect("an answer");
        call(&hub);
        let before = support::threads(owner.pid());
        let clients: Vec<_> = (0..8).map(|_| caller(&address, PLENTY)).collect();
        for client in &clients {
            assert!(call(client).is_some());
        }
        let after = support::threads(owner.pid());
        assert!(after <= before + clients.len(), "{before} threads, then {after}");
        drop(clients);
        assert!(eventually(20, "the threads end", || support::threads(owner.pid()) <= before));
    });
}
