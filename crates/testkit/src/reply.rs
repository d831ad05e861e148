//! Fuzz target: replies of every type, by every way that a reply arrives, as honest archives, mutated ones and arbitrary bytes.

#![forbid(unsafe_code)]

use super::fake_child::{FakeChild, in_line};
use super::input::{Input, mutate};
use super::types::{FlagAndNumber, NumberKind, Sample, Shape, Tree};
use callgate_manager::{Args, Value};
use callgate_os::mapping::{HeapMemory, Mapping, Protection};
use callgate_transport::backing::heap::Heap;
use callgate_transport::commit::Limit;
use callgate_transport::copy_buffer::decode_private;
use callgate_transport::decoder::{Decoder, Transfer};
use callgate_transport::doorbell::Deadline;
use callgate_transport::encode::encode_to_vec;
use callgate_transport::error::Fault;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::reply::{ArchivedReply, Reply};
use callgate_transport::segment::{Block, Slots, Span};
use callgate_transport::shared_box::SharedBox;
use callgate_transport::viewable::Viewable;
use rkyv::rancor::Failure;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fmt::Debug;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI64, NonZeroU8, NonZeroU32};
use std::ops::{Bound, Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

/// The longest archive made, in bytes.
const LONGEST: usize = 1 << 16;

/// Reads the input as a reply.
///
/// The first byte chooses the type, the second the number of steps in which the reply is copied. The third says whether the rest is the reply itself
/// or describes a value to archive.
pub fn reply(data: &[u8]) {
    let mut input = Input::new(data);
    let check = TYPES[usize::from(input.byte()) % TYPES.len()];
    check(&mut input);
}

type TypeCheck = fn(&mut Input<'_>);

/// Lists the types, each with how to compare its values and what to do with a view of its archive.
macro_rules! types {
    ($($name:ty: $same:ident $view:ident,)*) => {
        /// One entry for each type. The corpora refer to types by their index, so add new ones at the end.
        const TYPES: &[TypeCheck] = &[$(|input| check::<$name>(input, &$same::<$name>(), $view::<$name>),)*];

        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

types! {
    u8: printed viewed,
    u64: printed viewed,
    i128: printed viewed,
    f64: printed viewed,
    bool: printed viewed,
    char: printed viewed,
    String: printed viewed,
    Vec<u8>: printed viewed,
    Vec<u64>: printed viewed,
    Vec<u128>: printed viewed,
    Vec<f32>: printed viewed,
    Vec<String>: printed viewed,
    Vec<Vec<bool>>: printed viewed,
    Vec<char>: printed viewed,
    [u32; 7]: printed viewed,
    [String; 3]: printed viewed,
    (u8, u64, String): printed viewed,
    Option<String>: printed viewed,
    Option<Option<NonZeroU32>>: printed viewed,
    Result<Vec<u16>, String>: printed viewed,
    Box<str>: printed viewed,
    Option<Box<(u64, Vec<u8>)>>: printed viewed,
    Shape: printed viewed,
    Vec<Shape>: printed viewed,
    Vec<FlagAndNumber>: printed viewed,
    HashMap<u32, String>: equal kept,
    HashMap<String, Vec<u8>>: equal kept,
    HashSet<u64>: equal kept,
    BTreeMap<u16, String>: equal kept,
    BTreeMap<String, u8>: equal kept,
    BTreeSet<String>: equal kept,
    VecDeque<u32>: printed viewed,
    IpAddr: printed viewed,
    Vec<SocketAddr>: printed viewed,
    Duration: printed viewed,
    (NonZeroU8, NonZeroI64): printed viewed,
    Range<u32>: printed viewed,
    (RangeInclusive<i16>, Bound<u8>): printed viewed,
    CString: printed kept,
    Tree: printed viewed,
    SharedBox<[u8]>: boxes kept,
    SharedBox<[u32; 4]>: boxes kept,
    Vec<SharedBox<[u8]>>: boxes kept,
    (String, Option<SharedBox<[u8]>>): boxes kept,
    HashMap<u8, BTreeMap<u8, Vec<String>>>: equal kept,
    Fault: printed kept,
    Limit: printed kept,
    Value: printed kept,
    Args: printed kept,
    // Place here types with an empty archive, and collections of them: `()`, `Vec<()>`, `HashSet<()>`, a struct whose fields are all skipped.
    // Eight bytes of such a collection can claim 2^32 elements.
}

impl Sample for Fault {
    fn sample(input: &mut Input<'_>) -> Self {
        Fault::new(Sample::sample(input), Sample::sample(input), Sample::sample(input))
    }
}

impl Sample for Limit {
    fn sample(input: &mut Input<'_>) -> Self {
        Limit { len: Sample::sample(input), max: Sample::sample(input) }
    }
}

impl Sample for NumberKind {
    fn sample(input: &mut Input<'_>) -> Self {
        if input.flag() { NumberKind::One } else { NumberKind::Two }
    }
}

// ---- how values are told apart -------------------------------------------------------------------------------------

struct Same<R> {
    same: fn(&R, &R) -> bool,
    /// Whether all ways of reading must agree even on a dishonest archive. With boxes they need not: of two boxes that name one block, only the first
    /// one gets it.
    ways_agree: bool,
}

/// Compares values by their `Debug` text, because NaN is not equal to itself.
fn printed<R: Debug>() -> Same<R> {
    Same { same: |one, other| format!("{one:?}") == format!("{other:?}"), ways_agree: true }
}

/// Compares values with `==`, because unordered collections print differently each time.
fn equal<R: PartialEq>() -> Same<R> {
    Same { same: |one, other| one == other, ways_agree: true }
}

fn boxes<R: Debug>() -> Same<R> {
    Same { ways_agree: false, ..printed() }
}

fn viewed<R: Transfer<Archived: Viewable + Debug>>(held: &ArchivedReply<R::Archived>) {
    let text = format!("{:?}", held.get());
    black_box(text);
}

fn kept<R: Transfer>(_: &ArchivedReply<R::Archived>) {}

// ---- one reply -----------------------------------------------------------------------------------------------------

fn check<R: Transfer + Sample + Debug>(input: &mut Input<'_>, by: &Same<R>, view: fn(&ArchivedReply<R::Archived>)) {
    let steps = usize::from(input.byte() % 8) + 1;
    if !input.flag() {
        return drop(read(input.rest(), steps, by, view));
    }
    let value = R::sample(input);
    let Ok(archive) = encode_to_vec(&value, LONGEST) else { return };
    let mut bytes = archive.to_vec();
    let is_honest = !mutate(&mut bytes, input);
    for result in read(&bytes, steps, by, view) {
        let is_same = result.as_ref().is_ok_and(|read| (by.same)(read, &value));
        assert!(!is_honest || is_same, "an honest archive of {value:?} became {result:?}");
    }
}

/// Reads `bytes` in every way. All ways must give the same result, which must be safe to print and drop.
fn read<R: Transfer + Debug>(
    bytes: &[u8],
    steps: usize,
    by: &Same<R>,
    view: fn(&ArchivedReply<R::Archived>),
) -> Vec<Result<R, Failure>> {
    let mut results = by_every_way::<R>(bytes, steps);
    results.push(decode_private::<R>(bytes).ok_or(Failure));
    for result in &results {
        black_box(format!("{result:?}"));
        let agrees = match (result, &results[0]) {
            (Ok(one), Ok(other)) => (by.same)(one, other),
            (one, other) => one.is_err() && other.is_err(),
        };
        assert!(agrees || !by.ways_agree, "{results:?} of the same {} bytes", bytes.len());
    }
    for held in by_every_way::<ArchivedReply<R::Archived>>(bytes, steps) {
        match held {
            Ok(held) => view(&held),
            Err(_) => assert!(results.iter().all(Result::is_err), "what is no archive became one of {results:?}"),
        }
    }
    results
}

/// Reads `bytes` from a slot, from a block, and through a copy buffer in `steps` steps.
fn by_every_way<R: Reply>(bytes: &[u8], steps: usize) -> Vec<Result<R, Failure>> {
    HOME.with(|pool| {
        let decoder = || Decoder::of(pool, 1 << 20, Deadline::NEVER);
        let slots = Slots::on_heap(2);
        in_line(slots.line(0), bytes);
        // Memory that ends where the reply ends, so that a read beyond it is caught.
        let exact: Box<[u8]> = bytes.into();
        let span = Span::of(&exact);
        let slot = R::from_slot(slots.line(0), span, decoder());
        let block = R::from_block(block_of(span), decoder());
        let mut copy_buffer = R::copy_buffer();
        copy_buffer.begin(bytes.len() * steps / 4).unwrap();
        (1..=steps).for_each(|step| {
            let copied = copy_buffer.copy_up_to(span.first(bytes.len() * step / steps), Deadline::NEVER);
            assert!(copied.is_ok(), "there is time");
        });
        vec![slot, block, R::from_copy_buffer(copy_buffer, decoder())]
    })
}

fn block_of(span: Span<'_>) -> Block {
    let mapping = Arc::new(Mapping::on_heap(&HeapMemory::new(span.len().max(1)), Protection::ReadWrite));
    let block = Block::new(&mapping, 0, span.len() as u64).expect("inside");
    span.copy_into_for_test(block.span());
    block
}

thread_local! {
    /// The memory pool that boxes are decoded with. Its peer has one segment, number 1.
    static HOME: Arc<dyn PoolHandle> = {
        let fake = FakeChild::new(Arc::new(Heap::default()));
        fake.need(1 << 14);
        fake.caller.pool().clone()
    };
}

// ---- seeds ---------------------------------------------------------------------------------------------------------

/// For each type a value made from many bytes, unchanged and mutated; for some types also an archive.
#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for number in 0..TYPES.len() as u8 {
        let many: Vec<u8> = (0..60u8).map(|at| at.wrapping_mul(37).wrapping_add(number)).collect();
        seeds.push([&[number, 2, 1][..], &many[..32], &[0; 24]].concat());
        seeds.push([&[number, 3, 1, 2], &many[..], &[1, 0x80, 8, 0, 4]].concat());
    }
    for name in ["Vec<u8>", "String", "HashMap<u32, String>", "Tree", "SharedBox<[u8]>"] {
        let number = NAMES.iter().position(|other| *other == name).expect("in the table") as u8;
        seeds.push([&[number, 1, 0][..], &archive(name)].concat());
    }
    seeds
}

#[cfg(test)]
fn archive(name: &str) -> Vec<u8> {
    let mut input = Input::new(&[4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]);
    match name {
        "Vec<u8>" => encode_to_vec(&Vec::<u8>::sample(&mut input), LONGEST),
        "String" => encode_to_vec(&String::from("a text that is too long for its root"), LONGEST),
        "HashMap<u32, String>" => encode_to_vec(&HashMap::<u32, String>::sample(&mut input), LONGEST),
        "Tree" => encode_to_vec(&Tree::sample(&mut input), LONGEST),
        _ => return super::fake_child::boxed(&[[1, 64, 8, 1 << 32]]),
    }
    .expect("short")
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_transport::reply::UntrustedReply;

    /// When one box of a vector is refused, the boxes before it are dropped, together with their references to the pool.
    #[test]
    fn a_box_that_is_refused_leaves_nothing_of_the_others() {
        let fake = FakeChild::new(Arc::new(Heap::default()));
        let (segment, _) = fake.need(1 << 14).unwrap();
        let pool = fake.caller.pool();
        let (good, bad) = ([segment, 0, 8192, 1 << 32], [segment + 1, 0, 8192, 1 << 32]);
        let made = decode_boxes(&[good, good], pool);
        assert!(made.is_ok_and(|made| made.iter().all(SharedBox::is_shared)));
        let holders = Arc::strong_count(pool);
        for names in [[good, bad], [bad, good], [bad, bad]] {
            assert!(decode_boxes(&names, pool).is_err());
            assert_eq!(Arc::strong_count(pool), holders, "{names:?}");
        }
    }

    fn decode_boxes(names: &[[u64; 4]], pool: &Arc<dyn PoolHandle>) -> Result<Vec<SharedBox<[u8]>>, Failure> {
        let bytes = super::super::fake_child::boxed(names);
        UntrustedReply::from_block(block_of(Span::of(&bytes)), Decoder::of(pool, 1 << 20, Deadline::NEVER))
    }
}
