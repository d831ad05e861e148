//! What is accepted and what is refused: values to archives, words of these replaced, and back.

use super::archived_slices::ArchivedSlice;
use super::marks::{Suspects, suspects};
use crate::archive::access_until;
use crate::bounds::{MAX_DEPTH, MAX_MARKS, ZERO_SIZED};
use crate::commit::ALIGN;
use crate::copy_buffer::read_copy;
use crate::decoder::{Decoder, Transfer};
use crate::doorbell::Deadline;
use crate::encode::encode_to_vec;
use crate::reading::{DecodeRefusal, last_refusal};
use proptest::prelude::*;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::with::Skip;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

mod generated;
mod hash_tables;
mod zero_sized;

/// A kilobyte whose archive is nothing.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct Weightless {
    #[rkyv(with = Skip)]
    bytes: LargeBytes,
}

#[derive(Clone, Debug, PartialEq)]
struct LargeBytes([u8; 1024]);

impl Default for LargeBytes {
    fn default() -> Self {
        Self([0; 1024])
    }
}

fn weightless() -> Weightless {
    Weightless { bytes: LargeBytes::default() }
}

fn read<R: Transfer>(bytes: &[u8]) -> Result<R, Failure> {
    read_copy(bytes, Decoder::of_child())
}

#[track_caller]
fn accept<R: Transfer + PartialEq>(value: R) {
    let bytes = encode_to_vec(&value, 1 << 24).expect("an archive");
    assert!(read::<R>(&bytes).is_ok_and(|read| read == value), "{} refused", std::any::type_name::<R>());
}

/// An honest archive with some words, counted from its end, replaced.
fn forged<R: Transfer>(value: &R, words: &[(usize, u64)]) -> AlignedVec<ALIGN> {
    let mut bytes = encode_to_vec(value, 1 << 24).expect("an archive");
    let len = bytes.len();
    for (from_end, word) in words {
        bytes[len - from_end * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[track_caller]
fn refuse<R: Transfer>(value: R, words: &[(usize, u64)]) {
    assert!(read::<R>(&forged(&value, words)).is_err(), "{} accepted", std::any::type_name::<R>());
    assert_eq!(last_refusal(), DecodeRefusal::Elements);
    assert_eq!(last_refusal(), DecodeRefusal::Invalid, "it is asked once");
}

const MANY: u64 = u64::MAX;

/// Half a pair.
const WORD: usize = size_of::<u64>();

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct SampleOrder {
    id: u64,
    count: u64,
    items: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
enum SampleEvent {
    Sale { amount: u64, items: Vec<u64> },
    Return { amount: u64, why: Option<String>, items: Vec<String> },
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
enum SampleKind {
    A,
    B,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct Flagged {
    ok: bool,
    code: u64,
    delta: i64,
    price: i64,
    tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct Priced {
    kind: SampleKind,
    n: u64,
    delta: i64,
    price: u64,
    tags: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct Tagged {
    kind: SampleKind,
    id: u64,
    tags: Vec<u8>,
}

/// Does it, in no longer than a machine under load needs.
fn within_two_minutes(what: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        what();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(std::time::Duration::from_secs(120));
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "it hangs");
    thread.join().expect("what was to be done");
}

const PAIR: usize = size_of::<ArchivedSlice>();

#[test]
fn depth_and_order_are_as_in_rkyv() {
    let bytes = encode_to_vec(&vec![vec![1u8, 2], vec![3]], 1 << 20).unwrap();
    assert!(read::<Vec<Vec<u8>>>(&bytes).is_ok());
    // Both elements point to the same bytes.
    let len = bytes.len();
    let first = i64::from_le_bytes(*bytes[len - 3 * PAIR..].first_chunk().unwrap());
    let twice = forged(&vec![vec![1u8, 2], vec![3]], &[(4, (first - PAIR as i64) as u64)]);
    assert!(read::<Vec<Vec<u8>>>(&twice).is_err(), "two parts that share bytes");
}

/// `cargo test --release -p callgate-transport --lib what_validation_costs -- --ignored --nocapture`: the fastest of many, with this validator and rkyv's own.
#[test]
#[ignore = "measures"]
fn what_validation_costs() {
    fn measure<R: Transfer>(what: &str, value: &R)
    where
        R::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::low::LowValidator<'a, Failure>>,
    {
        let bytes = encode_to_vec(value, 1 << 28).expect("an archive");
        let fastest = |check: &dyn Fn()| {
            let times = (0..200).map(|_| {
                let start = std::time::Instant::now();
                check();
                start.elapsed()
            });
            times.min().unwrap_or_default()
        };
        let ours = fastest(&|| assert!(crate::archive::access::<R::Archived>(&bytes).is_ok()));
        let theirs = fastest(&|| {
            let depth = std::num::NonZeroUsize::new(MAX_DEPTH);
            let archive = rkyv::validation::archive::ArchiveValidator::with_max_depth(&bytes, depth);
            let mut validator = rkyv::validation::Validator::new(archive, ());
            let root = rkyv::api::root_position::<R::Archived>(bytes.len());
            let checked = rkyv::api::check_pos_with_context::<R::Archived, _, Failure>(&bytes, root, &mut validator);
            assert!(checked.is_ok());
        });
        println!("{what}, {} bytes: {ours:?}, by rkyv's own {theirs:?}", bytes.len());
    }
    measure("100,000 empty", &vec![Vec::<u8>::new(); 100_000]);
    let mixed =
        |every: usize| (0..100_000).map(|n| vec![7u8; if n % every == 0 { 0 } else { 100 }]).collect::<Vec<_>>();
    measure("100,000, every other empty", &mixed(2));
    measure("100,000, every hundredth empty", &mixed(100));
    measure("100,000, none empty", &mixed(1_000_000)[1..].to_vec());
    measure("1,000 orders", &vec![SampleOrder { id: 0, count: 100_000, items: vec![] }; 1000]);
    measure("one empty", &(1u64, Vec::<u8>::new()));
    measure("one of 10", &vec![1u8; 10]);
    measure("1,000 texts", &vec![String::from("a text that is too long to stay in place"); 1000]);
}
