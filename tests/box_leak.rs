//! Boxes and large payloads leave nothing behind, whichever side dies and whenever. If the child dies, the parent can still read its boxes; once it
//! drops them, it has no descriptor, mapping, thread or zombie left. If the parent is killed, nothing at all remains.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{Bridge, SharedBox, bridge};
use held::{Held, alone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use support::{Helper, eventually, is_stopped, process_exists, role, say, within};

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 240;

/// How many children the test makes die.
const LIVES: u64 = 240;

/// Seconds that a child may outlive its parent. The promise is one; a busy machine gets more.
const GONE_WITHIN: u64 = 5;

#[derive(Default)]
struct Guest {
    kept: Vec<SharedBox<[u8]>>,
}

#[bridge]
impl Guest {
    pub fn new() -> Self {
        Guest::default()
    }
    /// Keeps the last eight boxes.
    pub fn keep(&mut self, bytes: SharedBox<[u8]>) {
        self.kept.push(bytes);
        if self.kept.len() > 8 {
            self.kept.remove(0);
        }
    }
    pub fn kept(&mut self) -> Option<SharedBox<[u8]>> {
        self.kept.pop()
    }
    pub fn back(&self, bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes
    }
    pub fn make(&self, len: usize, byte: u8) -> SharedBox<[u8]> {
        let mut new = SharedBox::for_overwrite(len).expect("memory");
        new.fill(byte);
        new
    }
    pub fn sum(&self, bytes: &SharedBox<[u8]>) -> u64 {
        bytes.iter().map(|&byte| u64::from(byte)).sum()
    }
    pub fn len(&self, text: &str) -> usize {
        text.len()
    }
    pub fn text(&self, len: usize) -> String {
        "x".repeat(len)
    }
    pub fn abort(&self) {
        std::process::abort();
    }
    pub fn exit(&self) {
        std::process::exit(3);
    }
}

fn filled(guest: &Bridge<Guest>, len: usize, byte: u8) -> Option<SharedBox<[u8]>> {
    let mut new = SharedBox::<[u8]>::for_overwrite_in(guest, len).ok()?;
    new.fill(byte);
    Some(new)
}

/// A box, and the byte that fills it.
type Kept = (SharedBox<[u8]>, u8);

/// One step of the traffic; `None` once the child is gone.
fn step(guest: &Bridge<Guest>, turn: usize, len: usize, live: &mut Vec<Kept>) -> Option<()> {
    let byte = turn as u8;
    match turn % 7 {
        0 => live.push((guest.back(filled(guest, len, byte)?).ok()?, byte)),
        1 => guest.keep(filled(guest, len, byte)?).ok()?,
        2 => live.push((guest.make(len, byte).ok()?, byte)),
        3 => assert_eq!(guest.len(&"x".repeat(len)).ok()?, len),
        4 => assert_eq!(guest.text(len).ok()?.len(), len),
        5 => {
            let bytes = filled(guest, len, byte)?;
            // The box must survive, whatever becomes of the call.
            let sum = guest.sum(&bytes);
            live.push((bytes, byte));
            assert_eq!(sum.ok()?, len as u64 * u64::from(byte));
        }
        _ => drop(guest.kept().ok()?),
    }
    Some(())
}

/// Sends large payloads and boxes in both directions until the child is gone. Returns the boxes that the parent holds then.
fn traffic(guest: &Bridge<Guest>, mut random: Random) -> Vec<Kept> {
    let mut live = Vec::new();
    let mut turn = random.below(7);
    while step(guest, turn, 1 + random.below(300_000), &mut live).is_some() {
        turn += 1;
        if live.len() > 8 {
            live.drain(..4);
        }
    }
    live
}

fn signal(guest: &Bridge<Guest>, signal: Signal) {
    kill(Pid::from_raw(guest.child_pid() as i32), signal).expect("the child is there");
}

/// A way in which a child dies, and its name.
type Death = (&'static str, fn(&Bridge<Guest>));

const DEATHS: &[Death] = &[
    ("SIGKILL", |guest| signal(guest, Signal::SIGKILL)),
    ("abort", |guest| drop(guest.abort().expect_err("it is gone"))),
    ("exit", |guest| drop(guest.exit().expect_err("it is gone"))),
    ("kill", |guest| _ = guest.kill()),
    ("SIGSTOP, then kill", |guest| {
        signal(guest, Signal::SIGSTOP);
        assert!(eventually(30, "the child stops", || is_stopped(guest.child_pid())));
        guest.kill();
    }),
    ("SIGTERM", |guest| signal(guest, Signal::SIGTERM)),
];

#[test]
fn nothing_is_left_of_boxes_whose_child_dies() {
    alone("nothing_is_left_of_boxes_whose_child_dies", PATIENCE, || {
        let _first = Guest::bridge().start().expect("a start");
        let (held, mut random) = (Held::now(), Random(1));
        for life in 0..LIVES {
            let (death, die) = DEATHS[random.below(DEATHS.len())];
            let builder = Guest::bridge();
            // SAFETY: the child runs the safe code above.
            let builder = if life % 3 == 0 { unsafe { builder.trust_child() } } else { builder };
            let guest = builder.start().expect("a start");
            let mut boxes = Vec::new();
            std::thread::scope(|scope| {
                let threads = [(); 2].map(|()| Random(random.next()));
                let threads = threads.map(|random| scope.spawn(|| traffic(&guest, random)));
                std::thread::sleep(Duration::from_micros(random.below(30_000) as u64));
                die(&guest);
                boxes.extend(threads.into_iter().flat_map(|thread| thread.join().expect("no panic")));
            });
            drop(guest);
            let is_whole = |(bytes, byte): &Kept| bytes.iter().all(|found| found == byte);
            assert!(boxes.iter().all(is_whole), "life {life}, {death}: a box has changed");
            boxes.iter_mut().for_each(|(bytes, byte)| bytes.fill(*byte));
            assert!(boxes.iter().all(is_whole), "life {life}, {death}: a box cannot be written");
            drop(boxes);
            // Descriptors and mappings of memory are released a quarter to half a second after their last use.
            if life % 10 == 9 {
                held.again(&format!("life {life} and nine before it"));
            }
        }
    });
}

/// A splitmix64 generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

// ---- the parent dies -----------------------------------------------------------------------------------------------

/// The inode numbers of the bridges' memory objects that process `pid` has mapped.
fn objects(pid: &str) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let ours = maps.lines().filter(|line| line.contains("memfd:callgate"));
    ours.filter_map(|line| line.split_whitespace().nth(4)).map(String::from).collect()
}

/// Whether any process maps one of the objects.
fn is_mapped_anywhere(objects_sought: &[String]) -> bool {
    let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let mut pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.any(|pid| objects(&pid).iter().any(|object| objects_sought.contains(object)))
}

#[test]
fn nothing_is_left_when_the_parent_is_killed() {
    within(PATIENCE, "nothing_is_left_when_the_parent_is_killed", || {
        for role in ["held by the child", "held by both, child trusted", "on their way", "child stopped"] {
            let mut parent = Helper::start("helper_parent", role);
            let child: u32 = parent.hear("child").parse().expect("a process number");
            parent.hear("busy");
            if role == "child stopped" {
                kill(Pid::from_raw(child as i32), Signal::SIGSTOP).expect("the child is there");
            }
            let objects = objects(&child.to_string());
            assert!(objects.len() > 1, "{role}: {objects:?}");
            parent.kill();
            assert!(eventually(GONE_WITHIN, "the child is gone", || !process_exists(child)), "{role}");
            assert!(eventually(GONE_WITHIN, "its memory is gone", || !is_mapped_anywhere(&objects)), "{role}");
        }
    });
}

#[test]
fn helper_parent() {
    let Some(role) = role() else { return };
    let builder = Guest::bridge();
    // SAFETY: the child runs the safe code above.
    let builder = if role.contains("trusted") { unsafe { builder.trust_child() } } else { builder };
    let guest = builder.start().expect("a start");
    say("child", guest.child_pid());
    (0..5).for_each(|n| guest.keep(filled(&guest, 300_000, n).expect("memory")).expect("a call"));
    let _held = [1, 2, 3].map(|byte| guest.make(300_000, byte).expect("a box"));
    say("busy", &role);
    if role == "on their way" {
        traffic(&guest, Random(2));
    }
    std::thread::sleep(Duration::from_secs(3600));
}
