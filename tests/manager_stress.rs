//! Promise: owners may be killed and come back, and processes may race to become the hub, at any time: no answer is wrong, and no call hangs.
//!
//! Small by default. `CALLGATE_MANAGER_CALLS` is the number of calls of each calling process (full size: 200000), and `CALLGATE_MANAGER_ROUNDS` how
//! often fifty processes race for a hub (full size: 20). In release:
//! `CALLGATE_MANAGER_CALLS=200000 CALLGATE_MANAGER_ROUNDS=20 cargo test --release --test manager_stress -- --nocapture --test-threads=1`

#![forbid(unsafe_code)]

mod support;

use callgate::manager::{AuthKey, CallError, Manager};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Helper, TempDir, address, eventually, role, say, within};

const PLENTY: Duration = Duration::from_secs(60);

/// The number of registering processes, and of calling processes.
const SIDE: usize = 8;

/// The longest that a call may take, whatever becomes of its owner.
const BOUND: Duration = Duration::from_secs(10);

fn number<N: FromStr>(variable: &str, default: N) -> N {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn manager(address: &str) -> Manager {
    Manager::new(address, &AuthKey::new("the key of the tests")).timeout(BOUND)
}

fn process(role: &str, address: &str, told: impl std::fmt::Display) -> Helper {
    Helper::start("helper_process", &format!("{role} {address} {told}"))
}

#[test]
fn helper_process() {
    let Some(told) = role() else { return };
    let words: Vec<_> = told.split(' ').collect();
    let [role, address, told] = words[..] else { panic!("a role, an address and a number") };
    let manager = manager(address);
    let mut registrations = Vec::new();
    match role {
        "owner" => {
            manager.connect(PLENTY).expect("a client");
            let salt: u64 = told.parse().expect("a number");
            let mixed = move |n: u64| mix(n, salt);
            let name = format!("mix{told}");
            // The hub may not have noticed yet that the previous owner is dead.
            registrations.push(manager.named(&name).replace(true).register_fn(mixed).expect("its name"));
            say("ready", told);
        }
        "caller" => {
            manager.connect(PLENTY).expect("a client");
            say("outcome", call_all(&manager, told.parse().expect("a number")));
        }
        _ => {
            manager.start_or_connect(PLENTY).expect("a hub or a client");
            say("hub", format!("{} {}", manager.is_hub(), manager.hub_pid().unwrap_or(0)));
        }
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn mix(n: u64, salt: u64) -> u64 {
    (n ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// Makes `calls` calls, to all owners in turn. Returns the outcomes and the longest duration.
fn call_all(manager: &Manager, calls: u64) -> String {
    let names: Vec<_> = (0..SIDE).map(|owner| format!("mix{owner}")).collect();
    let mut outcomes = BTreeMap::<String, u64>::new();
    let (mut longest, mut right) = (Duration::ZERO, 0);
    for n in 0..calls {
        let owner = n as usize % SIDE;
        let began = Instant::now();
        let outcome = match manager.call_as::<u64>(&names[owner], (n,)) {
            Ok(Some(answer)) => {
                assert_eq!(answer, mix(n, owner as u64), "a wrong answer");
                right += 1;
                None
            }
            Ok(None) => Some("None"),
            Err(CallError::Gone { .. }) => Some("Gone"),
            Err(error) => panic!("call {n}: {error}"),
        };
        longest = longest.max(began.elapsed());
        if let Some(outcome) = outcome {
            *outcomes.entry(outcome.into()).or_default() += 1;
        }
    }
    assert!(longest < 2 * BOUND, "{longest:?}");
    assert!(right > 0, "no call was answered: {outcomes:?}");
    format!("{right} right, {outcomes:?}, the longest took {longest:?}")
}

#[test]
fn owners_are_killed_and_come_back_while_they_are_called() {
    let calls: u64 = number("CALLGATE_MANAGER_CALLS", 3000);
    within(300 + calls / 100, "owners_are_killed_and_come_back_while_they_are_called", || {
        let address = address();
        let hub = manager(&address);
        hub.start(PLENTY).expect("a hub");
        let mut owners: Vec<_> = (0..SIDE).map(|owner| process("owner", &address, owner)).collect();
        owners.iter_mut().for_each(|owner| drop(owner.hear("ready")));
        let began = Instant::now();
        let mut callers: Vec<_> = (0..SIDE).map(|_| process("caller", &address, calls)).collect();
        let are_done = AtomicBool::new(false);
        let killed = std::thread::scope(|scope| {
            let _at_last = SetOnDrop(&are_done);
            let killer = scope.spawn(|| {
                let mut killed = 0;
                for owner in (0..SIDE).cycle() {
                    if are_done.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    owners[owner].kill();
                    owners[owner] = process("owner", &address, owner);
                    owners[owner].hear("ready");
                    killed += 1;
                }
                killed
            });
            for caller in &mut callers {
                println!("{}", caller.hear("outcome"));
            }
            are_done.store(true, Ordering::Relaxed);
            killer.join().expect("no panic")
        });
        println!("{} x {calls} calls in {:?}, {killed} owners killed", SIDE, began.elapsed());
        assert!(killed > 0);
        callers.iter_mut().chain(&mut owners).for_each(Helper::kill);
        assert!(eventually(20, "all names are free", || hub.names().is_ok_and(|names| names.is_empty())));
    });
}

/// Sets a flag when it is dropped, even by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn of_fifty_processes_at_once_one_is_the_hub() {
    let rounds: u32 = number("CALLGATE_MANAGER_ROUNDS", 2);
    within(60 + 30 * u64::from(rounds), "of_fifty_processes_at_once_one_is_the_hub", || {
        let directory = TempDir::new();
        for round in 0..rounds {
            // At a path, a file lock decides which process is the hub; at an abstract address, the name does.
            let address = if round % 2 == 0 { address() } else { directory.file(&format!("hub-{round}")) };
            let began = Instant::now();
            let mut processes: Vec<_> = (0..50).map(|number| process("elected", &address, number)).collect();
            let said: Vec<_> = processes.iter_mut().map(|process| process.hear("hub")).collect();
            let hubs = said.iter().filter(|said| said.starts_with("true")).count();
            let mut pids: Vec<_> = said.iter().filter_map(|said| said.split(' ').nth(1)).collect();
            pids.sort_unstable();
            pids.dedup();
            println!("round {round}: {hubs} hub, {} of one hub, {:?}", said.len(), began.elapsed());
            assert_eq!((hubs, pids.len(), said.len()), (1, 1, 50), "{said:?}");
        }
    });
}
