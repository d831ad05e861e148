//! Callbacks with types: what may be an argument or a result, how it becomes a [`Value`] and comes out of one, and signatures as text.
//!
//! Layer 5. If caller and callback have the same [`Signature`], arguments cross as the tuple that they are; otherwise as [`Args`], and each
//! is converted. Texts of types are made while compiling: calls only compare them.

#![forbid(unsafe_code)]

use super::args::Args;
use super::value::{Element, Value};
use crate::decoder::Transfer;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};

/// What was given is not what was expected: another type, a number that does not fit, too many arguments or too few.
///
/// # Examples
///
/// ```
/// use callgate::args;
/// use callgate::manager::{Arguments, Item, Value};
///
/// let mismatch = u8::from_value(Value::I64(300)).unwrap_err();
/// assert_eq!(mismatch.to_string(), "expected u8, got 300");
/// let mismatch = <(i64, i64)>::from_args(args![1, "two"]).unwrap_err();
/// assert_eq!(mismatch.to_string(), "expected (i64, i64), got (i64, str)");
/// let mismatch = <(i64, i64)>::from_args(args![1, 2, 3]).unwrap_err();
/// assert_eq!(mismatch.to_string(), "expected 2 arguments (i64, i64), got 3");
/// ```
#[derive(Clone, callgate_macros::Sentence, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {found}")]
#[non_exhaustive]
pub struct Mismatch {
    /// What would have been right.
    pub expected: String,
    /// What there was.
    pub found: String,
}

impl Mismatch {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }

    /// No `T`, but a value of another kind.
    fn of<T: Item>(value: &Value) -> Self {
        Self::new(T::TYPE, value.type_name())
    }

    /// No number of type `T`, but one that does not fit, or none.
    fn of_number<T: Item>(value: &Value) -> Self {
        if value.is_number() { Self::new(T::TYPE, value.to_string()) } else { Self::of::<T>(value) }
    }

    /// The same, of the part `at` of a `kind` that should have been a `T`.
    fn inside<T: Item>(self, kind: &str, at: impl Display) -> Self {
        Self::new(T::TYPE, format!("{kind} with {} at {at}", self.found))
    }
}

/// A name from another process, as it is shown in a message: its first characters.
pub(super) fn shortened(name: &str) -> Cow<'_, str> {
    const MOST: usize = 60;
    match name.char_indices().nth(MOST) {
        None => name.into(),
        Some((end, _)) => format!("{}..", &name[..end]).into(),
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What can be one argument or the result of a callback with types.
///
/// These can: `bool`, `i8` to `i64`, `u8` to `u64`, `isize` (as an `i64`), `usize` (as a `u64`), `f32`, `f64`, `String`, `()`, [`Value`]; and of those that can, `Option<T>`, `Vec<T>`
/// (`Vec<u8>` is bytes), `BTreeMap<String, T>` and `HashMap<String, T>`. No other type can: what other programs, in other languages even,
/// are to call says what it takes in words that all know. A type of yours is made of these inside the callback.
///
/// As a [`Value`], an `Option` is `None` or what is in it: an `Option<Option<T>>`, `Option<()>` or `Option<Value>` that is `Some` of
/// nothing is `None` when it comes out of one.
///
/// # Examples
///
/// ```
/// use callgate::manager::{Item, Value};
///
/// assert_eq!(Vec::<Option<f64>>::TYPE, "list of optional f64");
/// assert_eq!(5u16.into_value(), Value::U64(5));
/// assert_eq!(i8::from_value(Value::U64(5)), Ok(5));
/// assert_eq!(i8::from_value(Value::F64(5.0)), Ok(5));
/// assert!(i8::from_value(Value::F64(5.5)).is_err());
/// assert!(i8::from_value(Value::from("5")).is_err());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument or a result of a callback",
    label = "not one of the types that callbacks take and return",
    note = "these can: bool, i8 to i64, u8 to u64, isize, usize, f32, f64, String, (), callgate::manager::Value; Option and Vec of them; BTreeMap and HashMap from String to them"
)]
pub trait Item: Element + Transfer + sealed::Sealed {
    /// The type, in words: `i64`, `list of i64`, `bytes`, `optional str`, `map of f64`, `hash map of f64`, `any`. Different types have
    /// different words.
    const TYPE: &'static str;

    /// The value that says the same.
    fn into_value(self) -> Value {
        self.into()
    }

    /// What `value` says, as this type.
    ///
    /// A number may be of any kind, as long as it is exactly one of this type; an `f32` is the nearest to an `f64` that is within its range.
    ///
    /// # Errors
    ///
    /// If it is of another type, or does not fit: what was expected, and what `value` is.
    fn from_value(value: Value) -> Result<Self, Mismatch>;

    #[doc(hidden)]
    const LIST: &'static ConstText = &ConstText::of(&["list of ", Self::TYPE]);

    /// A vector, from what [`Element::list`] makes of one.
    #[doc(hidden)]
    fn list_from_value(value: Value) -> Result<Vec<Self>, Mismatch> {
        let Value::List(list) = value else { return Err(Mismatch::of::<Vec<Self>>(&value)) };
        let items = list.into_iter().enumerate().map(|(at, value)| {
            Self::from_value(value).map_err(|mismatch| mismatch.inside::<Vec<Self>>("list", format_args!("index {at}")))
        });
        items.collect()
    }

    /// Whether there are values in it, which may nest as deep as somebody cares to make them.
    #[doc(hidden)]
    const HAS_VALUES: bool = false;

    /// Whether at most `levels` lists and maps are within each other.
    #[doc(hidden)]
    fn is_within(&self, _levels: usize) -> bool {
        true
    }
}

/// An item that is a whole number.
macro_rules! integers {
    ($($ty:ident $name:literal,)*) => {$(
        impl sealed::Sealed for $ty {}

        impl Item for $ty {
            const TYPE: &'static str = $name;

            fn from_value(value: Value) -> Result<Self, Mismatch> {
                let number = value.whole().and_then(|whole| whole.try_into().ok());
                number.ok_or_else(|| Mismatch::of_number::<Self>(&value))
            }
        }
    )*};
}

// `isize` and `usize` have the archives of what they are called.
integers! { i8 "i8", i16 "i16", i32 "i32", i64 "i64", isize "i64", u16 "u16", u32 "u32", u64 "u64", usize "u64", }

impl sealed::Sealed for u8 {}

impl Item for u8 {
    const TYPE: &'static str = "u8";
    const LIST: &'static ConstText = &ConstText::of(&["bytes"]);

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let number = value.whole().and_then(|whole| whole.try_into().ok());
        number.ok_or_else(|| Mismatch::of_number::<Self>(&value))
    }

    fn list_from_value(value: Value) -> Result<Vec<Self>, Mismatch> {
        if let Value::Bytes(bytes) = value { Ok(bytes) } else { Err(Mismatch::of::<Vec<Self>>(&value)) }
    }
}

impl sealed::Sealed for f32 {}

impl Item for f32 {
    const TYPE: &'static str = "f32";

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        value.as_f32().ok_or_else(|| Mismatch::of_number::<Self>(&value))
    }
}

impl sealed::Sealed for f64 {}

impl Item for f64 {
    const TYPE: &'static str = "f64";

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        value.as_f64().ok_or_else(|| Mismatch::of_number::<Self>(&value))
    }
}

impl sealed::Sealed for bool {}

impl Item for bool {
    const TYPE: &'static str = "bool";

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        value.as_bool().ok_or_else(|| Mismatch::of::<Self>(&value))
    }
}

impl sealed::Sealed for String {}

impl Item for String {
    const TYPE: &'static str = "str";

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        if let Value::Str(text) = value { Ok(text) } else { Err(Mismatch::of::<Self>(&value)) }
    }
}

impl sealed::Sealed for () {}

impl Item for () {
    const TYPE: &'static str = "none";

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        if value.is_none() { Ok(()) } else { Err(Mismatch::of::<Self>(&value)) }
    }
}

impl sealed::Sealed for Value {}

impl Item for Value {
    const TYPE: &'static str = "any";
    const HAS_VALUES: bool = true;

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        Ok(value)
    }

    fn is_within(&self, levels: usize) -> bool {
        Value::is_within(self, levels)
    }
}

impl<T: Item> sealed::Sealed for Option<T> {}

impl<T: Item> Item for Option<T> {
    const TYPE: &'static str = Texts::<T>::OPTIONAL.as_str();
    const HAS_VALUES: bool = T::HAS_VALUES;

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        if value.is_none() {
            return Ok(None);
        }
        let item = T::from_value(value).map_err(|mismatch| Mismatch::new(Self::TYPE, mismatch.found))?;
        Ok(Some(item))
    }

    fn is_within(&self, levels: usize) -> bool {
        self.as_ref().is_none_or(|item| item.is_within(levels))
    }
}

impl<T: Item> sealed::Sealed for Vec<T> {}

impl<T: Item> Item for Vec<T> {
    const TYPE: &'static str = T::LIST.as_str();
    const HAS_VALUES: bool = T::HAS_VALUES;

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        T::list_from_value(value)
    }

    fn is_within(&self, levels: usize) -> bool {
        all_within(self, levels, 1)
    }
}

impl<T: Item> sealed::Sealed for BTreeMap<String, T> {}

impl<T: Item> Item for BTreeMap<String, T> {
    const TYPE: &'static str = Texts::<T>::MAP.as_str();
    const HAS_VALUES: bool = T::HAS_VALUES;

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        entries::<Self, T>(value)?.collect()
    }

    fn is_within(&self, levels: usize) -> bool {
        // Archived as a tree: a level for each of its nodes on the way to an entry, each of which but the last has 6 below it.
        all_within(self.values(), levels, 16)
    }
}

impl<T: Item> sealed::Sealed for HashMap<String, T> {}

impl<T: Item> Item for HashMap<String, T> {
    // Another archive than a `BTreeMap`'s, so other words.
    const TYPE: &'static str = Texts::<T>::HASH_MAP.as_str();
    const HAS_VALUES: bool = T::HAS_VALUES;

    fn from_value(value: Value) -> Result<Self, Mismatch> {
        entries::<Self, T>(value)?.collect()
    }

    fn is_within(&self, levels: usize) -> bool {
        all_within(self.values(), levels, 1)
    }
}

/// Whether at most `levels` lists and maps are within each other, where what the items are in takes `taken` of them.
fn all_within<'i, T: Item>(items: impl IntoIterator<Item = &'i T>, levels: usize, taken: usize) -> bool {
    let mut items = items.into_iter();
    !T::HAS_VALUES || levels.checked_sub(taken).is_some_and(|levels| items.all(|item| item.is_within(levels)))
}

/// The entries of a map that is to be an `M`.
fn entries<M: Item, T: Item>(value: Value) -> Result<impl Iterator<Item = Result<(String, T), Mismatch>>, Mismatch> {
    let Value::Map(map) = value else { return Err(Mismatch::of::<M>(&value)) };
    Ok(map.into_iter().map(|(key, value)| match T::from_value(value) {
        Ok(item) => Ok((key, item)),
        Err(mismatch) => Err(mismatch.inside::<M>("map", format_args!("{:?}", shortened(&key)))),
    }))
}

// ---- arguments and results -----------------------------------------------------------------------------------------

/// The arguments of a callback with types: a tuple of up to eight [`Item`]s; of one it is `(a,)`, of none `()`.
///
/// # Examples
///
/// ```
/// use callgate::args;
/// use callgate::manager::Arguments;
///
/// assert_eq!(<(i64, Vec<String>)>::TYPES, "(i64, list of str)");
/// assert_eq!((1i64, true).into_args(), args![1i64, true]);
/// assert_eq!(<(f64,)>::from_args(args![1]), Ok((1.0,)));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the arguments of a callback",
    label = "not a tuple of at most eight items",
    note = "a single argument is a tuple too: `(1i64,)`; see `callgate::manager::Item` for what an item is"
)]
pub trait Arguments: Transfer + sealed::Sealed {
    /// The types, in words: `(i64, str)`.
    const TYPES: &'static str;

    /// The same, as they are called without knowing the types.
    fn into_args(self) -> Args;

    /// From arguments that were given without knowing the types.
    ///
    /// # Errors
    ///
    /// If they are more or fewer, if one is of another type, or if there are keywords: what was expected, and what `args` are.
    fn from_args(args: Args) -> Result<Self, Mismatch>;

    /// Whether none is too deep to cross to another process.
    #[doc(hidden)]
    fn is_shallow(&self) -> bool;
}

macro_rules! arguments {
    ($($count:literal: $($item:ident $index:tt)*;)*) => {$(
        arguments!(@sealed $($item)*);

        impl<$($item: Item),*> Arguments for ($($item,)*) {
            const TYPES: &'static str = Tuples::<($($item,)*)>::TUPLE.as_str();

            fn into_args(self) -> Args {
                Args::new()$(.with(self.$index))*
            }

            #[allow(non_snake_case, reason = "named after their types")]
            fn from_args(args: Args) -> Result<Self, Mismatch> {
                let [$($item),*]: [Value; $count] = positional::<Self, $count>(args)?;
                let found: [&str; $count] = [$($item.type_name()),*];
                let _ = found;
                Ok(($(
                    $item::from_value($item).map_err(|mismatch| mismatch.of_argument::<Self>($index, &found))?,
                )*))
            }

            fn is_shallow(&self) -> bool {
                true $(&& self.$index.is_within(Value::MAX_DEPTH))*
            }
        }

        impl<$($item: Item),*> Tuples<($($item,)*)> {
            const TUPLE: &'static ConstText = &ConstText::of_tuple(&[$($item::TYPE),*]);
        }
    )*};
    // Nothing is an item, too.
    (@sealed) => {};
    (@sealed $($item:ident)+) => {
        impl<$($item: Item),*> sealed::Sealed for ($($item,)*) {}
    };
}

arguments! {
    0: ;
    1: A 0;
    2: A 0 B 1;
    3: A 0 B 1 C 2;
    4: A 0 B 1 C 2 D 3;
    5: A 0 B 1 C 2 D 3 E 4;
    6: A 0 B 1 C 2 D 3 E 4 F 5;
    7: A 0 B 1 C 2 D 3 E 4 F 5 G 6;
    8: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7;
}

impl Mismatch {
    /// The same of argument number `index` of arguments of the kinds `found`.
    fn of_argument<A: Arguments>(self, index: usize, found: &[&str]) -> Self {
        let found: Vec<_> =
            found.iter().enumerate().map(|(at, kind)| if at == index { &self.found } else { *kind }).collect();
        Self::new(A::TYPES, format!("({})", found.join(", ")))
    }
}

/// The arguments, if they are `COUNT`, and no keywords.
fn positional<A: Arguments, const COUNT: usize>(args: Args) -> Result<[Value; COUNT], Mismatch> {
    let given = args.positional().len();
    if let Some((name, _)) = args.keywords().next() {
        return Err(Mismatch::new(
            format!("{} without keywords", counted::<A>(COUNT)),
            format!("{given} and the keyword `{}`", shortened(name)),
        ));
    }
    let (positional, _) = args.into_parts();
    positional.try_into().map_err(|_| Mismatch::new(counted::<A>(COUNT), given.to_string()))
}

fn counted<A: Arguments>(count: usize) -> String {
    match count {
        0 => String::from("no arguments"),
        1 => format!("1 argument {}", A::TYPES),
        _ => format!("{count} arguments {}", A::TYPES),
    }
}

/// What a callback returns: an [`Item`], or a `Result` of one with an error that can be shown.
pub trait Outcome {
    /// What the caller gets if all goes well.
    type Value: Item;

    /// The value, or the error's text.
    ///
    /// # Errors
    ///
    /// If the callback returned one.
    fn into_result(self) -> Result<Self::Value, String>;
}

impl<R: Item> Outcome for R {
    type Value = R;

    fn into_result(self) -> Result<R, String> {
        Ok(self)
    }
}

impl<R: Item, E: Display> Outcome for Result<R, E> {
    type Value = R;

    fn into_result(self) -> Result<R, String> {
        self.map_err(|error| error.to_string())
    }
}

/// The arguments as they are, if they can cross to another process. If not they have been taken apart.
///
/// # Errors
///
/// If one [is too deep](Value::is_too_deep).
pub(crate) fn shallow<A: Arguments>(arguments: A) -> Result<A, TooDeep> {
    if arguments.is_shallow() {
        return Ok(arguments);
    }
    arguments.into_args().take_apart();
    Err(TooDeep)
}

/// [`shallow`], of arguments without types.
///
/// # Errors
///
/// As there.
pub(crate) fn shallow_args(args: Args) -> Result<Args, TooDeep> {
    if !args.is_too_deep() {
        return Ok(args);
    }
    args.take_apart();
    Err(TooDeep)
}

/// [`shallow`], of a result.
///
/// # Errors
///
/// As there.
pub(super) fn shallow_item<R: Item>(item: R) -> Result<R, TooDeep> {
    if item.is_within(Value::MAX_DEPTH) {
        return Ok(item);
    }
    item.into_value().take_apart();
    Err(TooDeep)
}

/// A value nests deeper than can cross to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value nests deeper than {} lists and maps", Value::MAX_DEPTH)]
pub(crate) struct TooDeep;

// ---- signatures ----------------------------------------------------------------------------------------------------

/// Which types a callback takes and returns, in words: `(i64, i64) -> i64`, or `any` if only the callback knows.
///
/// A call whose types have the signature of the callback needs no conversion.
///
/// # Examples
///
/// ```
/// use callgate::manager::Signature;
///
/// assert_eq!(Signature::of::<(i64, i64), String>().as_str(), "(i64, i64) -> str");
/// assert_ne!(Signature::of::<(i64,), ()>(), Signature::of::<(i32,), ()>());
/// assert!(Signature::any().is_any());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature(Cow<'static, str>);

impl Signature {
    /// How long its text may be, in bytes.
    pub const MAX_LEN: usize = 4096;

    const ANY: &'static str = "any";

    /// Of a callback that takes whatever there is.
    pub const fn any() -> Self {
        Self(Cow::Borrowed(Self::ANY))
    }

    /// Of a callback that takes `A` and returns `R`. Allocates nothing.
    pub const fn of<A: Arguments, R: Item>() -> Self {
        Self(Cow::Borrowed(Signatures::<A, R>::TEXT.as_str()))
    }

    /// What another process said.
    ///
    /// `None` if it is longer than [`MAX_LEN`](Self::MAX_LEN), or has control characters in it.
    pub(crate) fn checked(text: String) -> Option<Self> {
        let is_sound = text.len() <= Self::MAX_LEN && !text.is_empty() && !text.contains(char::is_control);
        is_sound.then(|| Self(text.into()))
    }

    /// Whether who calls with an `A` for an `R` and the callback mean the same types, so that those cross as they are. Allocates nothing.
    pub(crate) fn agrees_with<A: Arguments, R: Item>(&self) -> bool {
        // No type's text is `any`: there are arguments in all.
        self.0 == Signatures::<A, R>::TEXT.as_str()
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the callback knows which types it takes.
    pub fn is_any(&self) -> bool {
        self.0 == Self::ANY
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Words for a type, put together by the compiler. Too long ones do not compile.
#[doc(hidden)]
pub struct ConstText {
    bytes: [u8; ConstText::MAX],
    len: usize,
}

impl ConstText {
    const MAX: usize = 1024;

    const fn of(parts: &[&str]) -> Self {
        let mut text = Self { bytes: [0; Self::MAX], len: 0 };
        let mut at = 0;
        while at < parts.len() {
            text = text.with(parts[at]);
            at += 1;
        }
        text
    }

    const fn of_tuple(types: &[&str]) -> Self {
        let mut text = Self::of(&["("]);
        let mut at = 0;
        while at < types.len() {
            text = text.with(if at == 0 { "" } else { ", " }).with(types[at]);
            at += 1;
        }
        text.with(")")
    }

    const fn with(mut self, part: &str) -> Self {
        assert!(self.len + part.len() <= Self::MAX, "the types of a callback are too long to be put in words");
        let (_, rest) = self.bytes.split_at_mut(self.len);
        let (place, _) = rest.split_at_mut(part.len());
        place.copy_from_slice(part.as_bytes());
        self.len += part.len();
        self
    }

    const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => panic!("whole texts one after the other are a text"),
        }
    }
}

const _: () = assert!(ConstText::MAX <= Signature::MAX_LEN);

/// Where the words for types made of a `T` are.
struct Texts<T>(T);

impl<T: Item> Texts<T> {
    const OPTIONAL: &'static ConstText = &ConstText::of(&["optional ", T::TYPE]);
    const MAP: &'static ConstText = &ConstText::of(&["map of ", T::TYPE]);
    const HASH_MAP: &'static ConstText = &ConstText::of(&["hash map of ", T::TYPE]);
}

/// Where the words for a tuple are.
struct Tuples<T>(T);

/// Where the words for a callback are.
struct Signatures<A, R>(A, R);

impl<A: Arguments, R: Item> Signatures<A, R> {
    const TEXT: &'static ConstText = &ConstText::of(&[A::TYPES, " -> ", R::TYPE]);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::value::tests::{nested, values};
    use super::*;
    use crate::copy_buffer::decode_private;
    use crate::encode::encode_to_vec;
    use callgate::args;
    use proptest::prelude::*;
    use std::fmt::Debug;

    /// An item's archive and its value both give it back.
    fn item_comes_back<T: Item + Clone + PartialEq + Debug>(item: T) {
        let bytes = encode_to_vec(&item, 1 << 20).expect("less than a MiB");
        assert_eq!(decode_private::<T>(&bytes).as_ref(), Some(&item), "{} through an archive", T::TYPE);
        assert_eq!(T::from_value(item.clone().into_value()), Ok(item), "{} through a value", T::TYPE);
    }

    /// The same for arguments.
    fn arguments_come_back<A: Arguments + Clone + PartialEq + Debug>(arguments: A) {
        let bytes = encode_to_vec(&arguments, 1 << 20).expect("less than a MiB");
        assert_eq!(decode_private::<A>(&bytes).as_ref(), Some(&arguments), "{} through an archive", A::TYPES);
        assert_eq!(A::from_args(arguments.clone().into_args()), Ok(arguments), "{} through values", A::TYPES);
    }

    proptest! {
        #[test]
        fn items_come_back(
            small: (i8, i16, u8, u16, bool),
            large: (i32, i64, u32, u64),
            float in any::<f64>().prop_filter("is equal to itself", |number| !number.is_nan()),
            text in ".{0,20}",
            bytes: Vec<u8>,
            value in values(),
        ) {
            item_comes_back(small.0);
            item_comes_back(small.1);
            item_comes_back(small.2);
            item_comes_back(small.3);
            item_comes_back(small.4);
            item_comes_back(large.0);
            item_comes_back(large.1);
            item_comes_back(large.2);
            item_comes_back(large.3);
            item_comes_back(float);
            item_comes_back(float as f32);
            item_comes_back(text.clone());
            item_comes_back(());
            item_comes_back(vec![Some(float), None]);
            item_comes_back(vec![bytes.clone(), Vec::new()]);
            item_comes_back(vec![(), ()]);
            item_comes_back(BTreeMap::from([(text.clone(), vec![large.1]), (String::from("key"), Vec::new())]));
            item_comes_back(HashMap::from([(text.clone(), Some(BTreeMap::from([(text.clone(), small.0)])))]));
            item_comes_back(vec![value.clone(), Value::None]);
            item_comes_back(bytes.clone());
            arguments_come_back((large.1, text, bytes, value));
        }

        #[test]
        fn a_number_converts_if_it_fits_and_else_says_so(number: i64, shift in 0..64u32) {
            let number = number >> shift;
            let expected = i16::try_from(number).map_err(|_| Mismatch::new("i16", number.to_string()));
            prop_assert_eq!(i16::from_value(Value::I64(number)), expected.clone());
            let expected_unsigned = u32::try_from(number).map_err(|_| Mismatch::new("u32", number.to_string()));
            prop_assert_eq!(u32::from_value(Value::I64(number)), expected_unsigned);
            if let Ok(unsigned) = u64::try_from(number) {
                prop_assert_eq!(i16::from_value(Value::U64(unsigned)), expected);
            }
        }
    }

    #[test]
    fn fault_23_sizes_are_items() {
        for size in [0, 1 << 32, u32::MAX as usize, usize::MAX] {
            item_comes_back(size);
            item_comes_back(Some(vec![size]));
            item_comes_back(isize::MIN.wrapping_add_unsigned(size));
            arguments_come_back((size, BTreeMap::from([(String::from("size"), size.cast_signed())])));
        }
        assert_eq!((usize::TYPE, isize::TYPE), (u64::TYPE, i64::TYPE));
        assert_eq!(usize::from_value(Value::I64(-1)), Err(Mismatch::new("u64", "-1")));
    }

    #[test]
    fn tuples_of_every_length_come_back() {
        arguments_come_back(());
        arguments_come_back((1i64,));
        arguments_come_back((String::from("a text that is longer than a few bytes"),));
        arguments_come_back((1i64, 2.5f64));
        arguments_come_back((1i64, 2u8, true));
        arguments_come_back((1i64, 2u8, true, String::from("four")));
        arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32]));
        arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], ()));
        arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], (), Some(7u64)));
        arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], (), Some(7u64), Value::from(8)));
    }

    #[test]
    fn types_are_put_in_words_that_differ() {
        let words = [
            <()>::TYPE,
            bool::TYPE,
            i8::TYPE,
            i16::TYPE,
            i32::TYPE,
            i64::TYPE,
            u8::TYPE,
            u16::TYPE,
            u32::TYPE,
            u64::TYPE,
            f32::TYPE,
            f64::TYPE,
            String::TYPE,
            Value::TYPE,
            Vec::<u8>::TYPE,
            Vec::<i8>::TYPE,
            Vec::<Vec<u8>>::TYPE,
            Option::<u8>::TYPE,
            Option::<Vec<i64>>::TYPE,
            Vec::<Option<i64>>::TYPE,
            BTreeMap::<String, f64>::TYPE,
            HashMap::<String, f64>::TYPE,
            BTreeMap::<String, Option<Vec<Value>>>::TYPE,
        ];
        assert_eq!(
            words.join(" | "),
            "none | bool | i8 | i16 | i32 | i64 | u8 | u16 | u32 | u64 | f32 | f64 | str | any | bytes | list of i8 | list of bytes | \
             optional u8 | optional list of i64 | list of optional i64 | map of f64 | hash map of f64 | map of optional list of any"
        );
        for (at, word) in words.iter().enumerate() {
            assert!(!words[..at].contains(word), "{word} twice");
        }
    }

    #[test]
    fn signatures_say_both_sides_and_agree_with_their_own_only() {
        let add = Signature::of::<(i64, i64), i64>();
        assert_eq!(add.to_string(), "(i64, i64) -> i64");
        assert_eq!(Signature::of::<(), ()>().as_str(), "() -> none");
        assert_eq!(Signature::of::<(Vec<u8>,), Option<String>>().as_str(), "(bytes) -> optional str");
        let received = Signature::checked(add.to_string()).unwrap();
        assert_eq!(received, add);
        assert!(received.agrees_with::<(i64, i64), i64>());
        assert!(!received.agrees_with::<(i64, i64), u64>());
        assert!(!received.agrees_with::<(i64, i32), i64>());
        assert!(!received.is_any());
        assert!(Signature::checked(String::from("any")).unwrap().is_any());
        assert!(!Signature::any().agrees_with::<(Value,), Value>());
        assert_eq!(Signature::checked("x".repeat(Signature::MAX_LEN + 1)), None);
        assert!(Signature::checked("x".repeat(Signature::MAX_LEN)).is_some());
        assert_eq!(Signature::checked(String::from("(i64)\n -> i64")), None);
        assert_eq!(Signature::checked(String::new()), None);
    }

    #[test]
    fn what_does_not_match_says_what_was_expected_and_what_came() {
        fn said<T: Item + Debug>(value: impl Into<Value>) -> String {
            T::from_value(value.into()).unwrap_err().to_string()
        }
        let texts = BTreeMap::from([("a", "text")]);
        for (said, expected) in [
            (said::<i64>("1"), "expected i64, got str"),
            (said::<u64>(-1), "expected u64, got -1"),
            (said::<i8>(200.5), "expected i8, got 200.5"),
            (said::<f64>(u64::MAX), "expected f64, got 18446744073709551615"),
            (said::<f32>(1e300), "expected f32, got 1e300"),
            (said::<bool>(1), "expected bool, got i64"),
            (said::<String>(b"bytes"), "expected str, got bytes"),
            (said::<()>(0), "expected none, got i64"),
            (said::<i64>(()), "expected i64, got none"),
            (said::<Option<u8>>(300), "expected optional u8, got 300"),
            (said::<Vec<u8>>([1, 2]), "expected bytes, got list"),
            (said::<Vec<u16>>([1, 2, -3]), "expected list of u16, got list with -3 at index 2"),
            (
                said::<Vec<Vec<bool>>>([[1]]),
                "expected list of list of bool, got list with list with i64 at index 0 at index 0",
            ),
            (said::<BTreeMap<String, i64>>(texts.clone()), "expected map of i64, got map with str at \"a\""),
            (
                said::<HashMap<String, Option<i64>>>(texts),
                "expected hash map of optional i64, got map with str at \"a\"",
            ),
            (said::<BTreeMap<String, i64>>([1]), "expected map of i64, got list"),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn arguments_that_do_not_match_say_which() {
        fn said<A: Arguments + Debug>(args: Args) -> String {
            A::from_args(args).unwrap_err().to_string()
        }
        let long = Args::new().with_keyword("k".repeat(1 << 20), 1).unwrap();
        for (said, expected) in [
            (said::<(i64, i64)>(args![1, "two"]), "expected (i64, i64), got (i64, str)"),
            (said::<(u8, String)>(args![256, "two"]), "expected (u8, str), got (256, str)"),
            (said::<(Vec<i64>,)>(args![[0.5]]), "expected (list of i64), got (list with 0.5 at index 0)"),
            (said::<(i64, i64)>(args![1, 2, 3]), "expected 2 arguments (i64, i64), got 3"),
            (said::<(i64, i64)>(args![]), "expected 2 arguments (i64, i64), got 0"),
            (said::<(bool,)>(args![true, false]), "expected 1 argument (bool), got 2"),
            (said::<()>(args![()]), "expected no arguments, got 1"),
            (
                said::<(i64, i64)>(args![1, 2; a = 3]),
                "expected 2 arguments (i64, i64) without keywords, got 2 and the keyword `a`",
            ),
            (
                said::<()>(long),
                &format!("expected no arguments without keywords, got 0 and the keyword `{}..`", "k".repeat(60)),
            ),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn the_deepest_items_that_are_let_through_cross() {
        fn crosses<T: Item + PartialEq>(item: T) -> bool {
            let Ok(item) = shallow_item(item) else { return false };
            let bytes = encode_to_vec(&item, 16 << 20).unwrap();
            assert!(decode_private::<T>(&bytes).as_ref() == Some(&item), "{}", T::TYPE);
            true
        }
        const MOST: usize = Value::MAX_DEPTH;
        assert!(crosses(nested(MOST)));
        assert!(!crosses(nested(MOST + 1)));
        assert!(crosses(Some(vec![Some(nested(MOST - 1))])));
        assert!(!crosses(Some(vec![Some(nested(MOST))])));
        assert!(crosses(vec![HashMap::from([(String::from("a key of some length"), nested(MOST - 2))])]));
        assert!(!crosses(vec![HashMap::from([(String::new(), nested(MOST - 1))])]));
        // A tree of some levels, with another in each leaf.
        let inner = |value| BTreeMap::from([(String::from("a key of some length"), value)]);
        let mut tree: BTreeMap<_, _> =
            (0..3000).map(|number| (format!("key number {number}"), inner(Value::None))).collect();
        tree.insert(String::from("key number 2000"), inner(nested(MOST - 32)));
        assert!(crosses(tree.clone()));
        tree.insert(String::new(), inner(nested(MOST - 31)));
        assert!(!crosses(tree));
        assert!(shallow((1i64, nested(MOST))).is_ok());
        assert_eq!(shallow((1i64, vec![nested(MOST)])), Err(TooDeep));
    }

    #[test]
    fn what_is_very_deep_is_taken_apart_where_it_is_refused() {
        let deep = || (0..500_000).fold(Value::None, |value, _| Value::List(vec![value]));
        assert_eq!(shallow((1i64, vec![Some(deep())])), Err(TooDeep));
        assert_eq!(shallow_args(args![deep(); a = deep()]), Err(TooDeep));
        assert_eq!(shallow_item(BTreeMap::from([(String::new(), deep())])), Err(TooDeep));
        assert_eq!(TooDeep.to_string(), "a value nests deeper than 100 lists and maps");
    }

    #[test]
    fn an_outcome_is_a_value_or_the_text_of_an_error() {
        assert_eq!(5i64.into_result(), Ok(5));
        assert_eq!(Ok::<_, fmt::Error>(5i64).into_result(), Ok(5));
        assert_eq!(Err::<i64, _>("no such thing").into_result(), Err("no such thing".into()));
        assert_eq!(<Result<Vec<i64>, String> as Outcome>::Value::TYPE, "list of i64");
    }
}
