//! Makes values of all kinds of reply types from a fuzzer's bytes.

#![forbid(unsafe_code)]

use super::input::Input;
use callgate_manager::{Args, Value};
use callgate_transport::shared_box::SharedBox;
use rkyv::rancor::Source;
use rkyv::ser::{Allocator, Writer};
use rkyv::validation::ArchiveContext;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI64, NonZeroU8, NonZeroU32};
use std::ops::{Bound, Range, RangeInclusive};
use std::time::Duration;

/// A type whose values can be made from any bytes.
pub(super) trait Sample: Sized {
    fn sample(input: &mut Input<'_>) -> Self;
}

/// The length of a collection: usually short, sometimes too long for a slot.
fn len(input: &mut Input<'_>) -> usize {
    match input.byte() {
        byte @ ..240 => usize::from(byte % 6),
        byte => usize::from(byte),
    }
}

fn many<T: Sample, C: FromIterator<T>>(input: &mut Input<'_>) -> C {
    (0..len(input)).map(|_| T::sample(input)).collect()
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Sample for $number {
            fn sample(input: &mut Input<'_>) -> Self {
                <$number>::from_le_bytes(input.array())
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

/// Makes values from those of another type.
macro_rules! made_of {
    ($($ty:ty: $from:ty => $make:expr;)*) => {$(
        impl Sample for $ty {
            fn sample(input: &mut Input<'_>) -> Self {
                let make: fn($from) -> $ty = $make;
                make(<$from>::sample(input))
            }
        }
    )*};
}

made_of! {
    bool: u8 => |byte| byte & 1 == 1;
    usize: u32 => |number| number as usize;
    char: u32 => |number| char::from_u32(number % 0x11_0000).unwrap_or('\u{e4}');
    String: Vec<u8> => |bytes| bytes.into_iter().map(|byte| if byte < 0xf0 { byte as char } else { '\u{1f980}' }).collect();
    CString: Vec<NonZeroU8> => CString::from;
    Duration: (u64, u32) => |(secs, nanos)| Duration::new(secs, nanos % 1_000_000_000);
    NonZeroU8: u8 => |number| NonZeroU8::new(number).unwrap_or(NonZeroU8::MAX);
    NonZeroU32: u32 => |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    NonZeroI64: i64 => |number| NonZeroI64::new(number).unwrap_or(NonZeroI64::MIN);
    IpAddr: Result<[u8; 4], [u16; 8]> => |address| address.map_or_else(IpAddr::from, IpAddr::from);
    SocketAddr: (IpAddr, u16) => SocketAddr::from;
    Range<u32>: (u32, u32) => |(start, end)| start..end;
    RangeInclusive<i16>: (i16, i16) => |(start, end)| start..=end;
    Bound<u8>: Option<(u8, bool)> => |bound| match bound {
        None => Bound::Unbounded,
        Some((at, true)) => Bound::Included(at),
        Some((at, false)) => Bound::Excluded(at),
    };
    Shape: (u8, (u32, f64), Option<String>) => |(kind, (number, float), text)| match kind % 4 {
        0 => Shape::Nothing,
        1 => Shape::Point(number as i32, float),
        2 => Shape::Named { name: text.clone().unwrap_or_default(), inner: None },
        _ => Shape::Named { name: String::new(), inner: Some(Box::new(Shape::Named { name: "inner".into(), inner: None })) },
    };
    FlagAndNumber: (u8, u16) => |(flag, number)| FlagAndNumber { flag: flag & 1 == 1, kind: if flag & 2 == 2 { NumberKind::One } else { NumberKind::Two }, number };
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<T: Sample> Sample for VecDeque<T> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<K: Sample + Eq + Hash, V: Sample> Sample for HashMap<K, V> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<K: Sample + Eq + Hash> Sample for HashSet<K> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<K: Sample + Ord, V: Sample> Sample for BTreeMap<K, V> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<K: Sample + Ord> Sample for BTreeSet<K> {
    fn sample(input: &mut Input<'_>) -> Self {
        many(input)
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(input: &mut Input<'_>) -> Self {
        input.flag().then(|| T::sample(input))
    }
}

impl<T: Sample, E: Sample> Sample for Result<T, E> {
    fn sample(input: &mut Input<'_>) -> Self {
        if input.flag() { Err(E::sample(input)) } else { Ok(T::sample(input)) }
    }
}

impl<T: Sample> Sample for Box<T> {
    fn sample(input: &mut Input<'_>) -> Self {
        Box::new(T::sample(input))
    }
}

impl Sample for Box<str> {
    fn sample(input: &mut Input<'_>) -> Self {
        String::sample(input).into()
    }
}

impl<T: Sample, const N: usize> Sample for [T; N] {
    fn sample(input: &mut Input<'_>) -> Self {
        std::array::from_fn(|_| T::sample(input))
    }
}

macro_rules! tuples {
    ($(($($part:ident)*))*) => {$(
        impl<$($part: Sample),*> Sample for ($($part,)*) {
            fn sample(input: &mut Input<'_>) -> Self {
                ($($part::sample(input),)*)
            }
        }
    )*};
}

tuples!((A) (A B) (A B C) (A B C D));

/// Boxes in private memory, whose contents travel inline. Boxes that name blocks come from mutation and from the target `ring`.
impl Sample for SharedBox<[u8]> {
    fn sample(input: &mut Input<'_>) -> Self {
        SharedBox::copied(&Vec::<u8>::sample(input)).expect("private memory")
    }
}

impl Sample for SharedBox<[u32; 4]> {
    fn sample(input: &mut Input<'_>) -> Self {
        SharedBox::new(Sample::sample(input)).expect("private memory")
    }
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(
    derive(Debug, callgate::Viewable),
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    deserialize_bounds(__D::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source))
)]
pub(super) enum Shape {
    Nothing,
    Point(i32, f64),
    Named {
        name: String,
        #[rkyv(omit_bounds)]
        inner: Option<Box<Shape>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug, callgate::Viewable))]
pub(super) enum NumberKind {
    One,
    Two,
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug, callgate::Viewable))]
pub(super) struct FlagAndNumber {
    flag: bool,
    kind: NumberKind,
    number: u16,
}

/// A type whose archive nests as deep as the input says.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
#[rkyv(
    derive(Debug, callgate::Viewable),
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    deserialize_bounds(__D::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source))
)]
pub(super) struct Tree {
    number: u16,
    #[rkyv(omit_bounds)]
    parts: Vec<Tree>,
}

impl Sample for Tree {
    /// A chain with leaves along it, as deep as the input says but never deeper than an archive may be.
    fn sample(input: &mut Input<'_>) -> Self {
        let leaf = |number| Tree { number, parts: Vec::new() };
        let mut tree = leaf(u16::from(input.byte()));
        for _ in 0..input.below(120) {
            let width = input.below(3);
            let leaves = (0..width).map(|number| leaf(number as u16));
            tree = Tree { number: width as u16, parts: leaves.chain([tree]).collect() };
        }
        tree
    }
}

impl Sample for Value {
    /// Lists and maps with a few other values between them, as deep as the input says but never deeper than a value may be.
    fn sample(input: &mut Input<'_>) -> Self {
        let mut value = innermost(input);
        for _ in 0..input.below(Value::MAX_DEPTH + 1) {
            value = match input.below(4) {
                0 => Value::List(vec![value]),
                1 => Value::List(vec![innermost(input), value, innermost(input)]),
                2 => Value::Map([(String::sample(input), value)].into()),
                _ => Value::Map([(String::new(), innermost(input)), (String::sample(input), value)].into()),
            };
        }
        value
    }
}

fn innermost(input: &mut Input<'_>) -> Value {
    match input.below(9) {
        0 => Value::None,
        1 => input.flag().into(),
        2 => i64::sample(input).into(),
        3 => u64::sample(input).into(),
        4 => f64::sample(input).into(),
        5 => String::sample(input).into(),
        6 => Vec::<u8>::sample(input).into(),
        7 => Value::List(Vec::new()),
        // Resembles an archived pointer to elements and their number.
        _ => Value::U64(input.odd_word()),
    }
}

impl Sample for Args {
    fn sample(input: &mut Input<'_>) -> Self {
        let (positional, keyword) = (many(input), Vec::<(u8, Value)>::sample(input));
        let keyword = keyword.into_iter().map(|(name, value)| (name.to_string(), value)).collect::<BTreeMap<_, _>>();
        Args::from_parts(positional, keyword.into_iter().collect()).expect("the names of a map")
    }
}
