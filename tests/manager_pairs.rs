//! Promise: what a call between two processes reports is true, whichever process leaves meanwhile, and a call delays nobody afterwards.

mod support;

use callgate::Started;
use callgate::manager::{AuthKey, CallError, Manager, Registration};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{address, eventually, within};

const PLENTY: Duration = Duration::from_secs(30);

/// A manager whose calls may take `timeout`.
fn manager(address: &str, timeout: Duration) -> Manager {
    Manager::new(address, &AuthKey::new("the tests' key")).timeout(timeout)
}

fn hub(address: &str) -> Manager {
    let hub = manager(address, PLENTY);
    hub.start(PLENTY).expect("the address is free");
    hub
}

fn client(address: &str, timeout: Duration) -> Manager {
    let client = manager(address, timeout);
    client.connect(PLENTY).expect("there is a hub");
    client
}

// ---- calls whose pair ends -----------------------------------------------------------------------------------------

/// How often each call ran, by its number.
type Ran = Arc<Mutex<HashMap<u64, u32>>>;

/// Registers `count`, which records the numbers of its calls.
fn register(owner: &Manager, ran: &Ran) -> Registration {
    let ran = ran.clone();
    let count = move |number: u64| *ran.lock().expect("nobody panics").entry(number).or_default() += 1;
    owner.register_fn("count", count).expect("a free name")
}

/// Numbered calls, made by several threads, and the numbers of those that are reported never to have run.
#[derive(Default)]
struct Calls {
    next: AtomicU64,
    not_run: Mutex<Vec<u64>>,
}

impl Calls {
    /// Calls `count` until an outcome satisfies `is_enough`.
    fn make(&self, caller: &Manager, is_enough: impl Fn(&Result<Option<()>, CallError>) -> bool) {
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let outcome = caller.call_as::<()>("count", (number,));
            // After a timeout a call may still run.
            let did_not_run = match &outcome {
                Ok(None) | Err(CallError::NoHub { .. }) => true,
                Err(CallError::Gone { started, .. }) => *started == Started::No,
                _ => false,
            };
            if did_not_run {
                self.not_run.lock().expect("nobody panics").push(number);
            }
            if is_enough(&outcome) {
                return;
            }
        }
    }

    /// Checks that no call ran twice, and that no call ran that is reported not to have run.
    fn check(&self, ran: &Ran) {
        let ran = ran.lock().expect("nobody panics");
        let twice = ran.values().filter(|&&times| times > 1).count();
        let not_run = self.not_run.lock().expect("nobody panics");
        let lies = not_run.iter().filter(|number| ran.contains_key(number)).count();
        assert_eq!((twice, lies), (0, 0), "calls that ran twice, and that ran though it was said that they had not");
    }
}

#[test]
fn a_call_runs_once_though_its_owner_leaves_and_comes_back() {
    within(300, "a_call_runs_once_though_its_owner_leaves_and_comes_back", || {
        let address = address();
        let _hub = hub(&address);
        for round in 0..60 {
            let (owner, caller) = (client(&address, PLENTY), client(&address, PLENTY));
            let (ran, calls, stop) = (Ran::default(), Calls::default(), AtomicBool::new(false));
            let _registration = register(&owner, &ran);
            thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| calls.make(&caller, |_| stop.load(Ordering::SeqCst)));
                }
                thread::sleep(Duration::from_millis(2 + round % 3));
                for _ in 0..5 {
                    owner.disconnect();
                    owner.connect(PLENTY).expect("there is a hub");
                    thread::sleep(Duration::from_millis(2));
                }
                stop.store(true, Ordering::SeqCst);
            });
            owner.disconnect();
            calls.check(&ran);
        }
    });
}

#[test]
fn a_call_that_is_said_not_to_have_started_when_the_hub_ended_never_runs() {
    within(300, "a_call_that_is_said_not_to_have_started_when_the_hub_ended_never_runs", || {
        for round in 0..60 {
            let address = address();
            let hub = hub(&address);
            let (owner, caller) = (client(&address, PLENTY), client(&address, PLENTY));
            let (ran, calls) = (Ran::default(), Calls::default());
            let _registration = register(&owner, &ran);
            thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| calls.make(&caller, Result::is_err));
                }
                thread::sleep(Duration::from_millis(3 + round % 5));
                hub.shutdown().expect("it does");
            });
            owner.disconnect();
            calls.check(&ran);
        }
    });
}
// ---- late answers --------------------------------------------------------------------------------------------------

#[test]
fn a_call_that_timed_out_is_in_nobodys_way() {
    within(120, "a_call_that_timed_out_is_in_nobodys_way", || {
        let address = address();
        let _hub = hub(&address);
        let owner = client(&address, PLENTY);
        let may_end = Arc::new(AtomicBool::new(false));
        let ends = may_end.clone();
        let slow = move || {
            while !ends.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let _slow = owner.register_fn("slow", slow).expect("a free name");
        let _fast = owner.register_fn("fast", |number: u64| number).expect("a free name");
        let caller = client(&address, Duration::from_secs(2));
        assert_eq!(caller.call_as::<u64>("fast", (0u64,)), Ok(Some(0)));
        assert!(matches!(caller.call_as::<()>("slow", ()), Err(CallError::Call(callgate::CallError::TimedOut { .. }))));
        // On the same thread, whose lane still belongs to the unanswered call.
        for number in 1..100 {
            assert_eq!(caller.call_as::<u64>("fast", (number,)), Ok(Some(number)));
        }
        may_end.store(true, Ordering::SeqCst);
    });
}

// ---- memory --------------------------------------------------------------------------------------------------------

#[test]
fn what_answers_lay_in_is_taken_back_though_nobody_calls() {
    within(240, "what_answers_lay_in_is_taken_back_though_nobody_calls", || {
        let address = address();
        let _hub = hub(&address);
        let owner = client(&address, PLENTY);
        let _big = owner.register_fn("big", || vec![7u8; 60 << 20]).expect("a free name");
        // Each caller has its own pair with the owner, but all pairs share the owner's memory.
        let callers: Vec<_> = (0..6).map(|_| client(&address, PLENTY)).collect();
        for caller in &callers {
            let fetched = || matches!(caller.call_as::<Vec<u8>>("big", ()), Ok(Some(bytes)) if bytes.len() == 60 << 20);
            assert!(eventually(60, "the owner has memory again", fetched));
        }
    });
}
