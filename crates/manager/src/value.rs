//! Values whose types are known only at run time. Programs that share no types exchange them.
//!
//! Plain data; `codec` encodes it. Only derived code recurses deeper than [`Value::MAX_DEPTH`] into a value: see "Depth" at [`Value`].

#![forbid(unsafe_code)]

use callgate_transport::bounds::MAX_VALUE_DEPTH;
use callgate_transport::reading::may_nest;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// An argument or a result of a callback, whose type is known only at run time.
///
/// [`From`] converts the usual types: numbers, texts, vectors, maps, options, `()`. To read a value, match it or use an accessor
/// ([`as_i64`](Self::as_i64), [`as_str`](Self::as_str), ..). [`Item::from_value`](super::Item::from_value) converts it to a type of your choice.
///
/// Two values are equal if they are of the same kind and hold the same: `Value::I64(1)` is not `Value::U64(1)`. The accessors convert
/// between kinds of numbers.
///
/// # Depth
///
/// A value can cross to another process if at most [`MAX_DEPTH`](Self::MAX_DEPTH) lists and maps nest in it. Sending a deeper value fails
/// before any of it is sent, and a value from another process is never deeper. As with any recursive Rust type, cloning, comparing,
/// formatting with `{:?}` and dropping a value recurse to its full depth. If you build a value of many thousand levels, drop it with
/// [`drop_without_recursion`](Self::drop_without_recursion). Callgate does this itself with values that it receives from you and that are
/// too deep.
///
/// # Examples
///
/// ```
/// use callgate::manager::Value;
///
/// let value = Value::from(vec![1, 2, 3]);
/// assert_eq!(value.type_name(), "list");
/// assert_eq!(value.as_list().unwrap()[1].as_i64(), Some(2));
/// assert_eq!(value.to_string(), "[1, 2, 3]");
/// assert_eq!(Value::from(b"a\0".to_vec()), Value::Bytes(vec![97, 0]));
/// assert_eq!(Value::from(Some("five")).as_str(), Some("five"));
/// assert!(Value::from(()).is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing: `()`, or an `Option` without a value.
    #[default]
    None,
    /// True or false.
    Bool(bool),
    /// A signed whole number.
    I64(i64),
    /// A whole number that is not negative.
    U64(u64),
    /// A floating-point number.
    F64(f64),
    /// Text.
    Str(String),
    /// Bytes that need not be text.
    Bytes(Vec<u8>),
    /// A sequence of values.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// The maximum nesting of lists and maps in a value that crosses to another process.
    pub const MAX_DEPTH: usize = MAX_VALUE_DEPTH;

    /// While at least this many levels are left, the remaining stack is not checked.
    pub(super) const UNMEASURED: usize = Self::MAX_DEPTH - 4;

    /// The kind of value, in one word: `none`, `bool`, `i64`, `u64`, `f64`, `str`, `bytes`, `list` or `map`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::None => "none",
            Value::Bool(_) => "bool",
            Value::I64(_) => "i64",
            Value::U64(_) => "u64",
            Value::F64(_) => "f64",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) => "map",
        }
    }

    /// Whether it is [`Value::None`].
    pub fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(truth) = *self { Some(truth) } else { None }
    }

    /// The number, of any kind, if an `i64` represents it exactly.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::I64(number) = *self { Some(number) } else { self.whole()?.try_into().ok() }
    }

    /// The number, of any kind, if a `u64` represents it exactly.
    pub fn as_u64(&self) -> Option<u64> {
        if let Value::U64(number) = *self { Some(number) } else { self.whole()?.try_into().ok() }
    }

    /// The number, of any kind, if an `f64` represents it exactly.
    pub fn as_f64(&self) -> Option<f64> {
        if let Value::F64(number) = *self { Some(number) } else { exactly(self.whole()?, |whole| whole as f64) }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = self { Some(text) } else { None }
    }

    /// The bytes, if it is [`Value::Bytes`]. Returns `None` for text.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The list's values, if it is one.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(list) = self { Some(list) } else { None }
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        if let Value::Map(map) = self { Some(map) } else { None }
    }

    /// Whether lists and maps nest deeper than [`MAX_DEPTH`](Self::MAX_DEPTH), so that the value cannot cross to another process.
    ///
    /// Itself recurses no deeper than that.
    #[inline]
    pub fn is_too_deep(&self) -> bool {
        !self.is_within(Self::MAX_DEPTH)
    }

    /// Whether at most `levels` lists and maps nest in it, and this thread has enough stack to visit them.
    #[inline]
    pub(super) fn is_within(&self, levels: usize) -> bool {
        !matches!(self, Value::List(_) | Value::Map(_)) || self.nests_within(levels)
    }

    #[inline(never)]
    fn nests_within(&self, levels: usize) -> bool {
        let Some(levels) = levels.checked_sub(1) else { return false };
        // Encoding needs stack for each level too, so a value too deep to check here is too deep to send.
        if levels < Self::UNMEASURED && !may_nest() {
            return false;
        }
        match self {
            Value::List(list) => list.iter().all(|value| value.is_within(levels)),
            Value::Map(map) => map.values().all(|value| value.is_within(levels)),
            _ => true,
        }
    }

    /// Drops the value without recursion, however deep it is. An ordinary drop needs stack for each level.
    ///
    /// # Examples
    ///
    /// ```
    /// use callgate::manager::Value;
    ///
    /// let deep = (0..1_000_000).fold(Value::None, |value, _| Value::List(vec![value]));
    /// assert!(deep.is_too_deep());
    /// deep.drop_without_recursion();
    /// ```
    pub fn drop_without_recursion(self) {
        let mut rest = vec![self];
        while let Some(value) = rest.pop() {
            match value {
                Value::List(list) => rest.extend(list),
                Value::Map(map) => rest.extend(map.into_values()),
                _ => {}
            }
        }
    }

    /// The number, if it is whole and an `i64` or a `u64` can hold it.
    pub(super) fn whole(&self) -> Option<i128> {
        match *self {
            Value::I64(number) => Some(number.into()),
            Value::U64(number) => Some(number.into()),
            Value::F64(number) if number.trunc() == number && number.abs() <= u64::MAX as f64 => Some(number as i128),
            _ => None,
        }
    }

    /// The number as an `f32`: a whole `I64` or `U64` only if exact, an `F64` rounded to the nearest.
    pub(super) fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F64(number) => {
                let nearest = number as f32;
                (nearest.is_finite() || !number.is_finite()).then_some(nearest)
            }
            _ => exactly(self.whole()?, |whole| f64::from(whole as f32)).map(|number| number as f32),
        }
    }

    /// Whether it is a number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Value::I64(_) | Value::U64(_) | Value::F64(_))
    }
}

/// `whole` as a float, if the conversion is exact.
fn exactly(whole: i128, number_of: impl Fn(i128) -> f64) -> Option<f64> {
    let number = number_of(whole);
    (number as i128 == whole).then_some(number)
}

/// Readable, and different for different values: `[1, 2.5, "five", none, {"key": b"\x00"}]`. Levels beyond [`Value::MAX_DEPTH`] show as `..`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, Self::MAX_DEPTH)
    }
}

impl Value {
    fn show(&self, f: &mut fmt::Formatter<'_>, levels: usize) -> fmt::Result {
        match self {
            Value::None => f.write_str("none"),
            Value::Bool(truth) => write!(f, "{truth}"),
            Value::I64(number) => write!(f, "{number}"),
            Value::U64(number) => write!(f, "{number}"),
            Value::F64(number) => write!(f, "{number:?}"),
            Value::Str(text) => write!(f, "{text:?}"),
            Value::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
            Value::List(_) | Value::Map(_) if levels == 0 => f.write_str(".."),
            Value::List(list) => {
                f.write_str("[")?;
                for (at, value) in list.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    value.show(f, levels - 1)?;
                }
                f.write_str("]")
            }
            Value::Map(map) => {
                f.write_str("{")?;
                for (at, (key, value)) in map.iter().enumerate() {
                    write!(f, "{}{key:?}: ", if at == 0 { "" } else { ", " })?;
                    value.show(f, levels - 1)?;
                }
                f.write_str("}")
            }
        }
    }
}

// ---- from Rust's types ---------------------------------------------------------------------------------------------

/// A type whose vectors convert to a value too: bytes for `u8`, a list for all others.
pub trait Element: Into<Value> + Sized {
    /// Converts a vector of them.
    fn list(elements: Vec<Self>) -> Value {
        Value::List(elements.into_iter().map(Into::into).collect())
    }
}

impl Element for u8 {
    fn list(elements: Vec<u8>) -> Value {
        Value::Bytes(elements)
    }
}

impl Element for Value {
    fn list(elements: Vec<Value>) -> Value {
        Value::List(elements)
    }
}

/// Implements `From` for types that convert into the content of one variant.
macro_rules! from {
    ($($ty:ty => $variant:ident,)*) => {$(
        impl From<$ty> for Value {
            fn from(value: $ty) -> Value {
                Value::$variant(value.into())
            }
        }
    )*};
}

from! {
    bool => Bool,
    i8 => I64, i16 => I64, i32 => I64, i64 => I64,
    u8 => U64, u16 => U64, u32 => U64, u64 => U64,
    f32 => F64, f64 => F64,
    &str => Str, String => Str, Cow<'_, str> => Str, char => Str,
    &[u8] => Bytes,
}

impl From<isize> for Value {
    fn from(number: isize) -> Value {
        Value::I64(number as i64)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::U64(number as u64)
    }
}

impl From<()> for Value {
    fn from((): ()) -> Value {
        Value::None
    }
}

impl<const LEN: usize> From<&[u8; LEN]> for Value {
    fn from(bytes: &[u8; LEN]) -> Value {
        Value::Bytes(bytes.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::None, Into::into)
    }
}

impl<T: Element> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Value {
        T::list(elements)
    }
}

impl<T: Element, const LEN: usize> From<[T; LEN]> for Value {
    fn from(elements: [T; LEN]) -> Value {
        T::list(elements.into())
    }
}

impl<K: Into<String>, T: Into<Value>> From<BTreeMap<K, T>> for Value {
    fn from(map: BTreeMap<K, T>) -> Value {
        Value::Map(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<K: Into<String>, T: Into<Value>, S> From<HashMap<K, T, S>> for Value {
    fn from(map: HashMap<K, T, S>) -> Value {
        Value::Map(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

macro_rules! elements {
    ($([$($generics:tt)*] $ty:ty,)*) => {$(
        impl<$($generics)*> Element for $ty {}
    )*};
}

elements! {
    [] bool, [] i8, [] i16, [] i32, [] i64, [] isize, [] u16, [] u32, [] u64, [] usize, [] f32, [] f64,
    [] (), [] &str, [] String, [] Cow<'_, str>, [] &[u8],
    [T: Into<Value>] Option<T>, [T: Element] Vec<T>, [T: Element, const LEN: usize] [T; LEN],
    [K: Into<String>, T: Into<Value>] BTreeMap<K, T>, [K: Into<String>, T: Into<Value>, S] HashMap<K, T, S>,
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use callgate_transport::copy_buffer::decode_private;
    use callgate_transport::encode::encode_to_vec;
    use proptest::prelude::*;

    /// Any value of a few levels.
    pub(crate) fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::I64),
            // Numbers that look like a pointer and a count of elements in an archive.
            (-64i64..64, 0i64..1 << 31).prop_map(|(pointer, count)| Value::I64(count << 32 | pointer & 0xffff_ffff)),
            any::<u64>().prop_map(Value::U64),
            any::<f64>().prop_filter("is equal to itself", |number| !number.is_nan()).prop_map(Value::F64),
            ".{0,12}".prop_map(Value::Str),
            proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                proptest::collection::btree_map(".{0,10}", inner, 0..6).prop_map(Value::Map),
            ]
        })
    }

    /// `levels` lists and maps within each other, around a text that has a place of its own in the archive.
    pub(crate) fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::from("a text that fits nowhere else"), |value, level| match level % 2 {
            0 => Value::List(vec![value]),
            _ => Value::from(BTreeMap::from([("a key that fits nowhere else", value)])),
        })
    }

    fn there_and_back(value: &Value) -> Option<Value> {
        decode_private(&encode_to_vec(value, 1 << 20).expect("less than a MiB"))
    }

    proptest! {
        #[test]
        fn a_value_comes_back_from_its_archive(value in values()) {
            prop_assert_eq!(there_and_back(&value), Some(value));
        }

        #[test]
        fn a_value_reads_a_bent_archive_or_refuses_it(value in values(), at: prop::sample::Index, bit in 0..8u32) {
            let mut bytes = encode_to_vec(&value, 1 << 20).expect("less than a MiB");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Some(read) = decode_private::<Value>(&bytes) {
                let _ = (read.to_string(), read.is_too_deep());
            }
        }

        #[test]
        fn a_number_is_given_as_what_it_exactly_is(number: i64, float: f64) {
            prop_assert_eq!(Value::I64(number).as_u64(), u64::try_from(number).ok());
            let float_of = number as f64;
            let is_exact = float_of as i128 == i128::from(number);
            prop_assert_eq!(Value::I64(number).as_f64(), is_exact.then_some(float_of));
            let whole = Value::F64(float.trunc()).as_i64();
            prop_assert!(whole.is_none_or(|whole| whole as f64 == float.trunc()));
            prop_assert_eq!(Value::F64(float).as_i64().is_some(), whole.is_some() && float.trunc() == float);
        }
    }

    #[test]
    fn as_deep_as_is_allowed_crosses_with_what_is_around_it() {
        let deepest = nested(Value::MAX_DEPTH);
        assert!(!deepest.is_too_deep());
        assert_eq!(there_and_back(&deepest).as_ref(), Some(&deepest));
        let wrapped = vec![vec![vec![(deepest.clone(), String::from("a text that fits nowhere else"))]]];
        let bytes = encode_to_vec(&wrapped, 1 << 20).unwrap();
        assert_eq!(decode_private::<Vec<Vec<Vec<(Value, String)>>>>(&bytes), Some(wrapped));
        assert!(nested(Value::MAX_DEPTH + 1).is_too_deep());
    }

    #[test]
    fn a_map_of_any_size_is_one_level() {
        let mut map: BTreeMap<_, _> = (0..10_000).map(|number| (number.to_string(), number.into())).collect();
        map.insert(String::from("5000"), nested(Value::MAX_DEPTH - 1));
        let value = Value::Map(map);
        assert!(!value.is_too_deep());
        let bytes = encode_to_vec(&value, 16 << 20).unwrap();
        assert!(decode_private::<Value>(&bytes) == Some(value));
    }

    #[test]
    fn a_very_deep_value_overflows_nothing() {
        let mut deep = Value::None;
        for level in 0..1_000_000 {
            deep = match level % 2 {
                0 => Value::List(vec![Value::I64(1), deep]),
                _ => Value::Map(BTreeMap::from([(String::new(), deep)])),
            };
        }
        assert!(deep.is_too_deep());
        assert!(deep.to_string().contains(".."));
        deep.drop_without_recursion();
    }

    #[test]
    fn rust_types_become_the_values_that_they_look_like() {
        for (value, shown, type_name) in [
            (Value::from(()), "none", "none"),
            (Value::from(None::<i32>), "none", "none"),
            (true.into(), "true", "bool"),
            (4.into(), "4", "i64"),
            (Some(-4i8).into(), "-4", "i64"),
            (4usize.into(), "4", "u64"),
            (1.0f32.into(), "1.0", "f64"),
            (f64::NAN.into(), "NaN", "f64"),
            ("fi\"ve".into(), r#""fi\"ve""#, "str"),
            ('x'.into(), r#""x""#, "str"),
            (b"\x00a\"".into(), r#"b"\x00a\"""#, "bytes"),
            (vec![1u8, 2].into(), r#"b"\x01\x02""#, "bytes"),
            ([1u8].into(), r#"b"\x01""#, "bytes"),
            (vec!["a", "b"].into(), r#"["a", "b"]"#, "list"),
            ([[1, 2], [3, 4]].into(), "[[1, 2], [3, 4]]", "list"),
            (vec![vec![0u8], vec![]].into(), r#"[b"\x00", b""]"#, "list"),
            (vec![Value::None, 1u64.into()].into(), "[none, 1]", "list"),
            (BTreeMap::from([("b", 1), ("a", 2)]).into(), r#"{"a": 2, "b": 1}"#, "map"),
            (HashMap::from([(String::from("a"), Some(2.5))]).into(), r#"{"a": 2.5}"#, "map"),
        ] {
            assert_eq!((value.to_string().as_str(), value.type_name()), (shown, type_name));
        }
    }

    #[test]
    fn numbers_at_the_edge_of_what_fits() {
        assert_eq!(Value::U64(1 << 63).as_i64(), None);
        assert_eq!(Value::F64(9_223_372_036_854_775_808.0).as_i64(), None, "2^63");
        assert_eq!(Value::F64(-9_223_372_036_854_775_808.0).as_i64(), Some(i64::MIN));
        assert_eq!(Value::F64(9_223_372_036_854_775_808.0).as_u64(), Some(1 << 63));
        assert_eq!(Value::F64(18_446_744_073_709_551_616.0).as_u64(), None, "2^64");
        assert_eq!(Value::U64(u64::MAX).as_f64(), None);
        assert_eq!(Value::I64((1 << 53) + 1).as_f64(), None);
        assert_eq!(Value::F64(0.5).as_i64(), None);
        assert_eq!(Value::F64(f64::NAN).as_i64(), None);
        assert_eq!(Value::F64(f64::INFINITY).as_u64(), None);
        assert_eq!(Value::F64(0.1).as_f32(), Some(0.1));
        assert_eq!(Value::F64(1e300).as_f32(), None);
        assert_eq!(Value::F64(f64::INFINITY).as_f32(), Some(f32::INFINITY));
        assert_eq!(Value::I64((1 << 24) + 1).as_f32(), None);
        assert_eq!(Value::I64(1 << 24).as_f32(), Some(16_777_216.0));
        assert_eq!(Value::Bool(true).as_i64(), None);
    }
}
