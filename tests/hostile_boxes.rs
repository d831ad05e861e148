//! Boxes that a hostile child forges cannot harm its parent: each is an error (`Corrupt`) or a box that belongs to the parent alone. Such a child
//! cannot change what the parent's boxes hold either.
//!
//! The hostile service knows only what an attacker would know: it finds the segment in `/proc/self/maps`, reads the geometry from its header, and
//! writes to it. The test tells it what to write: the first block that is lent is number 0 of generation 1, and the child's own memory is segment 1
//! if the child is the first to ask for memory.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::{Bridge, Builder, CallError, Exit, SharedBox, Wait, bridge};
use held::{Held, leaving_nothing};
use raw::{CALL, LOANS, Raw, commit};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};
use support::{eventually, process_exists, within};

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 180;

/// States of a lent block.
const DONE: u64 = 2;
const HOME: u64 = 3;

/// In place of a segment: marks a block that returns to its owner.
const HOMEWARD: u64 = u64::MAX;

/// Length in bytes of the box that each call lends, filled with 9, and of the child's own block, filled with 7.
const LENT: u64 = 5000;

// ---- the attacker --------------------------------------------------------------------------------------------------

/// A box in a reply: segment, offset, length, loan id.
type Place = (u64, u64, u64, u64);

/// A word of the table of held blocks, and its index.
type Word = (u64, u64);

/// The boxes of a reply, the words to write to the table first, and the index plus 1 of the first block that the reply returns.
type Forgery = (Vec<Place>, Vec<Word>, u64);

/// The archived form: nothing inline, in an empty slice `distance` before it; then the place.
fn archived((segment, offset, len, loan_id): Place, distance: u64) -> [u64; 6] {
    [distance.wrapping_neg(), 0, segment, offset, len, loan_id]
}

/// Publishes a reply to the call in progress: its call word, and the first `len` bytes of its payload.
fn answer_carrying(raw: &Raw, call: u64, payload: &[u64], len: u64) {
    let position = raw.started() - 1;
    raw.reply(position, 1).store(call, Relaxed);
    raw.forge(position, commit(position, len, CALL), payload);
}

/// Publishes a forged reply of one box or a list of boxes, and sends the true reply too late.
fn forge((boxes, table, home): &Forgery, is_list: bool) {
    let raw = Raw::find();
    table.iter().for_each(|(index, word)| raw.held(0, *index).store(*word, Release));
    let mut words: Vec<u64> = boxes.iter().zip(0..).flat_map(|(place, at)| archived(*place, 48 * at)).collect();
    if is_list {
        // The list's root: how far before it the boxes begin, and their number.
        let boxes = boxes.len() as u64;
        words.extend([(48 * boxes).wrapping_neg(), boxes]);
    }
    answer_carrying(&raw, home << 32 | 1, &words, 8 * words.len() as u64);
    std::thread::sleep(Duration::from_millis(300));
}

struct Hostile;

#[bridge]
impl Hostile {
    pub fn new() -> Self {
        Hostile
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    /// A box of the child's own, filled with 7.
    pub fn own(&self, len: usize) -> SharedBox<[u8]> {
        SharedBox::copied(&vec![7; len]).expect("memory")
    }

    pub fn forged(&self, lent: SharedBox<[u8]>, forgery: Forgery) -> Vec<SharedBox<[u8]>> {
        forge(&forgery, true);
        drop(lent);
        Vec::new()
    }

    pub fn forged_while_lent(&self, _lent: &SharedBox<[u8]>, forgery: Forgery) -> Vec<SharedBox<[u8]>> {
        forge(&forgery, true);
        Vec::new()
    }

    pub fn forged_numbers(&self, forgery: Forgery) -> SharedBox<[u64]> {
        forge(&forgery, false);
        SharedBox::zeroed(0).expect("memory")
    }

    pub fn forged_value(&self, forgery: Forgery) -> SharedBox<[u8; 16]> {
        forge(&forgery, false);
        SharedBox::new([0; 16]).expect("memory")
    }

    /// Keeps the box for good.
    pub fn keep(&self, bytes: SharedBox<[u8]>) {
        std::mem::forget(bytes);
    }

    /// A box of its own, cut off after `len` bytes.
    pub fn truncated(&self, len: u64) -> SharedBox<[u8]> {
        answer_carrying(&Raw::find(), 1, &archived((1, 0, LENT, ONLY), 0), len);
        std::thread::sleep(Duration::from_secs(20));
        self.own(1)
    }

    /// From now on, changes replies and the child's memory while the parent reads them.
    pub fn hammer(&self) {
        std::thread::spawn(|| {
            let raw = Raw::find();
            for round in 0.. {
                let place = [round % 3, 64 * (round % 2), LENT - round % 2 * 64, round];
                for position in 0..raw.slots {
                    let word = 3 + round % 4;
                    let true_word = raw.reply(position, word).load(Relaxed);
                    raw.reply(position, word).store(place[round as usize % 4], Relaxed);
                    raw.reply(position, word).store(true_word, Relaxed);
                }
            }
        });
        std::thread::spawn(|| {
            let mine = SharedBox::<[u8]>::zeroed(LENT as usize).expect("memory");
            // The neighbouring blocks are those of the replies.
            let (start, end) = mapped_around(mine.as_ptr().addr()).expect("it is mapped");
            for round in (0..=u8::MAX).cycle() {
                for at in (start..end).step_by(4096) {
                    // SAFETY: inside the segment of the box, which stays mapped as long as the box lives.
                    unsafe { (at as *mut u8).write_volatile(round) };
                }
            }
        });
    }

    /// An honest method: returns the box.
    pub fn back(&self, bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes
    }

    /// An honest method: changes the box and returns it.
    pub fn edit(&self, mut bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes.fill(1);
        bytes
    }

    /// From now on, overwrites both sides' tables of held blocks with words that could be true and some that could not.
    pub fn scribble(&self) {
        std::thread::spawn(|| {
            let (raw, mut random) = (Raw::find(), 0x9e37_79b9_7f4a_7c15u64);
            loop {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let (index, table) = (random >> 8 & 15, u64::from(random & 7 == 0));
                let word = raw.held(table, index);
                let is_junk = random >> 12 & 63 == 0;
                let next = random >> 20 & 15;
                let likely = word.load(Relaxed) & 0xffff_fffc | next << 32 | random >> 40 & 3;
                word.store(if is_junk { random } else { likely }, Release);
            }
        });
    }

    /// Tries to gain write access to the memory of the parent's box. Returns what has worked.
    pub fn break_in(&self, bytes: &SharedBox<[u8]>) -> Vec<String> {
        let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        let mut worked = Vec::new();
        // SAFETY: even if this works, nothing here writes there.
        if unsafe { mprotect(start.cast(), len, MprotectFlags::READ | MprotectFlags::WRITE) }.is_ok() {
            worked.push("mprotect".into());
        }
        // SAFETY: if this works, the test fails.
        if unsafe { madvise(start.cast(), len, Advice::LinuxRemove) }.is_ok() {
            worked.push("madvise".into());
        }
        for path in ways_to_the_object(start.addr()) {
            let Ok(object) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            worked.extend(written(&object, len).map(|how| format!("{how} of {}", path.display())));
        }
        worked
    }

    /// Writes to the memory of the box.
    pub fn overwrite(&self, bytes: &SharedBox<[u8]>) {
        // SAFETY: none; the process is expected to die here.
        unsafe { bytes.as_ptr().cast_mut().write_volatile(66) };
    }
}

/// Paths by which this process could open the memory objects of its bridge, and the one mapped at `address`.
fn ways_to_the_object(address: usize) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten().map(|entry| entry.path());
    let is_ours = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("callgate"));
    let mapped = mapped_around(address).map(|(start, end)| format!("/proc/self/map_files/{start:x}-{end:x}").into());
    links.filter(is_ours).chain(mapped).collect()
}

/// Start and end of the mapping that contains `address`.
fn mapped_around(address: usize) -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let ranges = maps.lines().filter_map(|line| line.split_whitespace().next()?.split_once('-'));
    let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
    ranges.map(|(start, end)| (number(start), number(end))).find(|&(start, end)| (start..end).contains(&address))
}

/// How `object` can be written to, if at all.
fn written(object: &File, len: usize) -> Option<&'static str> {
    if object.write_at(b"B", 0).is_ok() {
        return Some("a write");
    }
    if fallocate(object, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, len as u64).is_ok() {
        return Some("a hole");
    }
    if object.set_len(0).is_ok() {
        return Some("another length");
    }
    // SAFETY: the kernel chooses a free address range, so no existing memory changes.
    let mapped = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::WRITE, MapFlags::SHARED, object, 0) };
    mapped.ok().map(|_| "a mapping")
}

// ---- the parent ----------------------------------------------------------------------------------------------------

/// One lane, so that the attacker knows which one it is. The caller polls, because an attacker need not ring the bell.
fn builder() -> Builder<Hostile> {
    Hostile::bridge().concurrent_callers(1).wait(Wait::Spin).timeout(Duration::from_secs(20))
}

/// Starts a bridge whose child has a block of `len` bytes of its own.
fn start(builder: Builder<Hostile>, len: usize) -> Bridge<Hostile> {
    let bridge = builder.start().expect("the bridge starts");
    assert!(bridge.own(len).expect("a box").iter().all(|&byte| byte == 7));
    bridge
}

fn filled(bridge: &Bridge<Hostile>, len: u64, byte: u8) -> SharedBox<[u8]> {
    let mut new = SharedBox::<[u8]>::for_overwrite_in(bridge, len as usize).expect("memory");
    new.fill(byte);
    new
}

/// Checks that the child was killed, that later calls say why, and that the parent can start another.
#[track_caller]
fn assert_poisoned<R: std::fmt::Debug>(bridge: &Bridge<Hostile>, result: Result<R, CallError>, case: &str) {
    assert!(matches!(result, Err(CallError::Corrupt { .. })), "{case}: {result:?}");
    let pid = bridge.child_pid();
    assert!(eventually(5, "the child is gone", || !process_exists(pid)), "{case}");
    let later = bridge.add(1);
    assert!(matches!(later, Err(CallError::Corrupt { .. })), "{case}: {later:?}");
}

/// Checks that each box holds what it should and belongs to the parent alone: filling it changes no other box.
#[track_caller]
fn assert_sound(mut boxes: Vec<SharedBox<[u8]>>, expected: &[(u64, u8)], case: &str) {
    let found: Vec<_> = boxes.iter().map(|bytes| (bytes.len() as u64, bytes.first().copied().unwrap_or(0))).collect();
    assert_eq!(found, expected, "{case}");
    assert!(boxes.iter().all(|bytes| bytes.iter().all(|byte| *byte == bytes[0])), "{case}");
    let marks = || (10..=255).cycle();
    boxes.iter_mut().zip(marks()).for_each(|(bytes, mark)| bytes.fill(mark));
    assert!(boxes.iter().zip(marks()).all(|(bytes, mark)| bytes.iter().all(|&byte| byte == mark)), "{case}");
}

/// The loan id of the only lent block, and the word by which the child says that it returns, followed by block `next`.
const ONLY: u64 = 1 << 32;
const fn home(next: u64) -> u64 {
    next << 32 | 1 << 2 | HOME
}

#[test]
fn fault_08_a_box_that_the_child_cannot_send_is_refused() {
    leaving_nothing(
        "fault_08_a_box_that_the_child_cannot_send_is_refused",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            type Case<'a> = (&'a str, Place, &'a [Word]);
            let brought: &[Word] = &[(0, home(0))];
            let places: &[Case<'_>] = &[
                ("a block never lent", (HOMEWARD, 0, 8, 1 << 32 | 500), &[]),
                ("a block never lent, said to come home", (HOMEWARD, 0, 8, 1 << 32 | 500), &[(500, home(0))]),
                ("another generation", (HOMEWARD, 0, 8, 2 << 32), brought),
                ("the last generation", (HOMEWARD, 0, 8, (u64::from(u32::MAX) >> 2) << 32), brought),
                ("a generation out of range", (HOMEWARD, 0, 8, u64::MAX << 32), brought),
                ("an index out of range", (HOMEWARD, 0, 8, 1 << 32 | LOANS), &[]),
                ("no generation", (HOMEWARD, 0, 8, 5), &[]),
                ("junk", (u64::MAX, u64::MAX, u64::MAX, u64::MAX), brought),
                ("longer than was lent", (HOMEWARD, 0, LENT + 1, ONLY), &[]),
                ("brought home longer than it left", (HOMEWARD, 0, LENT + 1, ONLY), brought),
                ("brought home endless", (HOMEWARD, 0, u64::MAX, ONLY), brought),
                ("a segment that there is not", (3, 0, 8, ONLY), &[]),
                ("segment 0", (0, 0, 8, ONLY), &[]),
                ("the last segment but one", (u64::MAX - 1, 0, 8, ONLY), &[]),
                ("the parent's own memory", (2, 0, 8, ONLY), &[]),
                ("behind the segment", (1, 128 << 10, 1, ONLY), &[]),
                ("across the end of the segment", (1, 64, 128 << 10, ONLY), &[]),
                ("far behind the segment", (1, u64::MAX - 63, 8, ONLY), &[]),
                ("around the end of all memory", (1, u64::MAX - 63, 128, ONLY), &[]),
                ("endless", (1, 0, u64::MAX, ONLY), &[]),
                ("not aligned", (1, 8, 64, ONLY), &[]),
                ("a place without a loan id that could be one", (1, 0, 64, 5), &[]),
            ];
            let held = Held::now();
            for &(case, place, table) in places {
                let bridge = start(builder(), LENT as usize);
                let forgery = (vec![place], table.to_vec(), u64::from(!table.is_empty()));
                assert_poisoned(&bridge, bridge.forged(filled(&bridge, LENT, 9), forgery), case);
                drop(bridge);
                held.again(case);
            }
            let bridge = start(builder(), LENT as usize);
            let twice = (vec![(HOMEWARD, 0, LENT, ONLY); 2], brought.to_vec(), 1);
            assert_poisoned(&bridge, bridge.forged(filled(&bridge, LENT, 9), twice), "brought home twice");
        },
    );
}

#[test]
fn fault_08_a_box_of_the_wrong_length_for_its_contents_is_refused() {
    leaving_nothing(
        "fault_08_a_box_of_the_wrong_length_for_its_contents_is_refused",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            let of_len = |len| (vec![(1, 0, len, ONLY)], vec![], 0);
            for len in [1, 7, 9, LENT - 1] {
                let bridge = start(builder(), LENT as usize);
                assert_poisoned(&bridge, bridge.forged_numbers(of_len(len)), &format!("numbers in {len} bytes"));
            }
            for len in [0, 1, 15, 17, 32] {
                let bridge = start(builder(), LENT as usize);
                assert_poisoned(&bridge, bridge.forged_value(of_len(len)), &format!("16 bytes in {len}"));
            }
            let bridge = start(builder(), LENT as usize);
            assert_eq!(bridge.forged_numbers(of_len(16)).expect("two numbers")[..], [0x0707_0707_0707_0707; 2]);
            assert_eq!(*bridge.forged_value(of_len(16)).expect("a value"), [7; 16]);
            assert!(bridge.forged_numbers(of_len(0)).expect("no numbers").is_empty());
            assert_eq!(bridge.add(1), Ok(2));
        },
    );
}

/// An odd statement of the child may still give the parent a box. Then the box holds what the statement names, and belongs to the parent alone.
#[test]
fn fault_08_an_odd_box_is_the_parents_alone() {
    leaving_nothing(
        "fault_08_an_odd_box_is_the_parents_alone",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            let (lent, own): (Place, Place) = ((HOMEWARD, 0, LENT, ONLY), (1, 0, LENT, 77 << 32 | 3));
            type Case<'a> = (&'a str, &'a [Place], &'a [Word], u64);
            let brought: &[Word] = &[(0, home(0))];
            let cases: &[Case<'_>] = &[
                ("lent, and not brought home", &[lent], &[], 0),
                ("lent, and not brought home, twice", &[lent, lent], &[], 0),
                ("brought home, and not said so", &[lent], brought, 0),
                ("said to come home, and not brought", &[lent], &[], 1),
                ("said to be let go", &[lent], &[(0, 1 << 2 | DONE)], 1),
                ("brought home", &[lent], brought, 1),
                ("brought home, and not named", &[], brought, 1),
                ("brought home in part", &[(HOMEWARD, 0, 100, ONLY)], brought, 1),
                ("brought home beside another", &[lent, own, own], brought, 1),
                ("a ring", &[lent], &[(0, home(1))], 1),
                ("a ring, and nothing of it named", &[], &[(0, home(1))], 1),
                ("a chain that goes on with junk", &[lent], &[(0, home(u64::from(u32::MAX)))], 1),
                ("a chain that goes on with what is not lent", &[lent], &[(0, home(7)), (6, home(1))], 1),
                ("a chain of junk", &[lent], brought, u64::from(u32::MAX)),
                ("a chain that begins behind the end", &[lent], brought, LOANS + 1),
                ("a chain that begins at the end", &[lent], brought, LOANS),
                ("the child's own, with a loan id of nobody", &[own], &[], 0),
                ("the child's own, and what overlaps it", &[own, (1, 64, LENT, ONLY), (1, 0, 1, 1 << 32 | 1)], &[], 0),
                ("no length and no loan id", &[(1, 0, LENT, 0), (u64::MAX, u64::MAX, u64::MAX, 0)], &[], 0),
            ];
            for &(case, places, table, home) in cases {
                let expected = |place: &Place| match *place {
                    (_, _, _, 0) => (0, 0),
                    (HOMEWARD, _, len, _) => (len, 9),
                    (_, _, len, _) => (len, 7),
                };
                let expected: Vec<_> = places.iter().map(expected).collect();
                let forgery = || (places.to_vec(), table.to_vec(), home);

                let bridge = start(builder(), LENT as usize + 64);
                let boxes = bridge.forged(filled(&bridge, LENT, 9), forgery()).expect(case);
                assert_sound(boxes, &expected, case);
                assert_eq!(bridge.back(filled(&bridge, LENT, 3)).expect("a box")[..], [3; LENT as usize], "{case}");

                // The same, while the caller still has the box.
                let bridge = start(builder(), LENT as usize + 64);
                let mut mine = filled(&bridge, LENT, 9);
                let boxes = bridge.forged_while_lent(&mine, forgery()).expect(case);
                assert!(boxes.iter().all(|bytes| bytes.is_empty() || bytes.as_ptr() != mine.as_ptr()), "{case}");
                assert_sound(boxes, &expected, case);
                assert!(mine.iter().all(|&byte| byte == 9), "{case}");
                mine.fill(4);
                assert_eq!(bridge.back(mine).expect("a box")[..], [4; LENT as usize], "{case}");
            }
        },
    );
}

/// The child returns a block that it had kept and declared done. The parent copies it before anything else can use the block.
#[test]
fn a_block_that_was_let_go_is_nobody_elses_while_it_is_copied() {
    within(PATIENCE, "a_block_that_was_let_go_is_nobody_elses_while_it_is_copied", || {
        for len in [LENT, 70_000, 3 << 20] {
            let bridge = start(builder(), LENT as usize);
            let kept = filled(&bridge, len, 9);
            let place = kept.as_ptr();
            bridge.keep(kept).expect("a call");
            let copy = bridge.forged_numbers((vec![(HOMEWARD, 0, len, ONLY)], vec![(0, 1 << 2 | DONE)], 0));
            let copy = copy.expect("a copy");
            assert_ne!(copy.as_ptr().cast(), place, "{len} bytes");
            assert_eq!(copy[..], vec![0x0909_0909_0909_0909; len as usize / 8], "{len} bytes");
            let mut next = [(); 2].map(|()| filled(&bridge, len, 4));
            assert!(next.iter().any(|bytes| bytes.as_ptr() == place), "{len} bytes: the block is free again");
            next.iter_mut().for_each(|bytes| bytes.fill(5));
            assert!(copy.iter().all(|&number| number == 0x0909_0909_0909_0909), "{len} bytes");
        }
    });
}

/// Several lent blocks, in a ring or in a chain with a gap, by value and by reference.
#[test]
fn fault_08_chains_of_several_end() {
    leaving_nothing(
        "fault_08_chains_of_several_end",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            let lent = |index: u64| (HOMEWARD, 0, LENT, ONLY | index);
            for (case, nexts) in [("a ring", [2, 3, 1]), ("a ring of the last two", [2, 3, 2]), ("a chain", [2, 3, 0])]
            {
                let bridge = start(builder(), LENT as usize);
                let table: Vec<_> = (0..).zip(nexts.map(home)).collect();
                // These calls give up, so that the blocks stay with the child: they only lend.
                let kept = [0, 1].map(|_| filled(&bridge, LENT, 9));
                let hasty = bridge.with_timeout(Duration::from_millis(1));
                for bytes in &kept {
                    let late = hasty.forged_while_lent(bytes, (vec![], vec![], u64::from(u32::MAX)));
                    assert!(late.is_err() || late.is_ok_and(|boxes| boxes.is_empty()));
                }
                let boxes = bridge.forged(filled(&bridge, LENT, 9), (vec![lent(2)], table, 1));
                if let Ok(boxes) = boxes {
                    assert_sound(boxes, &[(LENT, 9)], case);
                }
                assert!(kept.iter().all(|bytes| bytes.iter().all(|&byte| byte == 9)), "{case}");
            }
        },
    );
}

/// Many boxes name the same block: the parent copies at most the bytes of one payload.
#[test]
fn fault_08_boxes_together_have_no_more_bytes_than_a_payload() {
    const MAX: u64 = 1 << 20;
    within(PATIENCE, "fault_08_boxes_together_have_no_more_bytes_than_a_payload", || {
        let (own, lent) = (|len| (1, 0, len, ONLY), |len| (HOMEWARD, 0, len, ONLY));
        // The boxes, and whether they are too many.
        let cases: [(&str, Vec<Place>, bool); 8] = [
            ("one of the longest", vec![own(MAX)], false),
            ("one that is too long", vec![own(MAX + 1)], true),
            ("the longest, and a byte", vec![own(MAX), own(1)], true),
            ("16 of 64 KiB", vec![own(MAX / 16); 16], false),
            ("17 of 64 KiB", vec![own(MAX / 16); 17], true),
            ("1500 of the longest", vec![own(MAX); 1500], true),
            ("1500 of a byte", vec![own(1); 1500], false),
            ("what was lent, many times", vec![lent(MAX); 1500], true),
        ];
        for (case, places, is_too_much) in cases {
            let bridge = start(builder().max_payload(MAX).slot_size(65_472), MAX as usize);
            let expected: Vec<_> = places.iter().map(|place| (place.2, 7)).collect();
            let began = Instant::now();
            let boxes = bridge.forged(filled(&bridge, MAX, 9), (places, vec![], 0));
            assert!(began.elapsed() < Duration::from_secs(15), "{case}: {:?}", began.elapsed());
            match boxes {
                Ok(boxes) if !is_too_much => assert_sound(boxes, &expected, case),
                boxes => assert_poisoned(&bridge, boxes.map(|boxes| assert!(is_too_much, "{}", boxes.len())), case),
            }
        }
    });
}

#[test]
fn fault_03_a_truncated_box_is_refused() {
    leaving_nothing(
        "fault_03_a_truncated_box_is_refused",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            for len in 0..48 {
                let bridge = start(builder(), LENT as usize);
                assert_poisoned(&bridge, bridge.truncated(len), &format!("{len} bytes of a box"));
            }
        },
    );
}

/// The result is a box that no longer changes, or an error.
#[test]
fn fault_02_a_box_that_changes_while_it_is_read_is_a_box_or_an_error() {
    leaving_nothing(
        "fault_02_a_box_that_changes_while_it_is_read_is_a_box_or_an_error",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            let mut boxes = 0;
            for _ in 0..10 {
                let bridge = start(builder().timeout(Duration::from_secs(2)), LENT as usize);
                bridge.hammer().expect("a call");
                for _ in 0..300 {
                    let Ok(bytes) = bridge.own(LENT as usize) else { break };
                    let seen = bytes.to_vec();
                    std::thread::sleep(Duration::from_micros(100));
                    assert!(bytes[..] == seen[..], "a box has changed");
                    boxes += 1;
                }
                bridge.kill();
            }
            assert!(boxes > 0, "no call was answered");
        },
    );
}

/// The parent's boxes do not change while the child lies about every block at random.
#[test]
fn fault_08_scribbled_tables_change_no_box() {
    leaving_nothing(
        "fault_08_scribbled_tables_change_no_box",
        PATIENCE,
        || drop(start(builder(), 64)),
        || {
            let mut answers = 0;
            for _ in 0..6 {
                let bridge = builder().timeout(Duration::from_secs(2)).start().expect("the bridge starts");
                bridge.scribble().expect("a call");
                let (mut live, began) = (Vec::<(SharedBox<[u8]>, u8)>::new(), Instant::now());
                for (round, byte) in (0..).zip((2..=255u8).cycle()) {
                    let bytes = SharedBox::copied_in(&bridge, &vec![byte; 4096 + 700 * (round % 8)]);
                    let Ok(bytes) = bytes else { break };
                    let outcome = match round % 4 {
                        0 => bridge.back(bytes).map(|back| live.push((back, byte))),
                        1 => bridge.edit(bytes).map(drop),
                        2 => bridge.own(9000).map(drop),
                        _ => {
                            live.push((bytes, byte));
                            Ok(())
                        }
                    };
                    answers += usize::from(outcome.is_ok());
                    for (bytes, byte) in &live {
                        assert!(bytes.iter().all(|found| found == byte), "a box of {byte} has changed");
                    }
                    if live.len() > 12 {
                        live.drain(..8);
                    }
                    if !bridge.is_alive() || began.elapsed() > Duration::from_secs(2) {
                        break;
                    }
                }
                bridge.kill();
            }
            assert!(answers > 0);
            assert_eq!(start(builder(), 100).add(1), Ok(2), "and another can be started");
        },
    );
}

#[test]
fn the_child_cannot_write_to_the_parents_boxes() {
    within(PATIENCE, "the_child_cannot_write_to_the_parents_boxes", || {
        for len in [LENT, 3 << 20] {
            let bridge = start(builder(), LENT as usize);
            let bytes = filled(&bridge, len, 9);
            assert_eq!(bridge.break_in(&bytes), Ok(vec![]));
            let died = bridge.overwrite(&bytes);
            assert!(matches!(died, Err(CallError::Died { exit: Exit::Signal(11), .. })), "{died:?}");
            assert!(bytes.iter().all(|&byte| byte == 9));
        }
        assert_eq!(start(builder(), 100).add(1), Ok(2), "and another can be started");
    });
}
