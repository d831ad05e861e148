//! The types of a callback's arguments and result, and their conversion to and from [`Value`]s.
//!
//! Values come from other processes: one that does not fit is a [`TypeMismatch`], never a panic.

#![forbid(unsafe_code)]

use super::const_text::ConstText;
use crate::value::{Element, Value};
use callgate_transport::decoder::Transfer;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

/// A value or arguments that do not fit: another type, a number out of range, too many arguments or too few.
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
pub struct TypeMismatch {
    /// What was required.
    pub expected: String,
    /// What was there instead.
    pub found: String,
}

impl TypeMismatch {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
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
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    const MOST: usize = 60;
    match name.char_indices().nth(MOST) {
        None => name.into(),
        Some((end, _)) => format!("{}..", &name[..end]).into(),
    }
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// A type that can be an argument or the result of a callback with types.
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

    /// Converts it to a value.
    fn into_value(self) -> Value {
        self.into()
    }

    /// Converts a value to this type.
    ///
    /// A number may be of any kind, as long as it is exactly one of this type; an `f32` is the nearest to an `f64` that is within its range.
    ///
    /// # Errors
    ///
    /// If it is of another type, or does not fit: what was expected, and what `value` is.
    fn from_value(value: Value) -> Result<Self, TypeMismatch>;

    #[doc(hidden)]
    const LIST: &'static ConstText = &ConstText::of(&["list of ", Self::TYPE]);

    /// A vector, from what [`Element::list`] makes of one.
    #[doc(hidden)]
    fn list_from_value(value: Value) -> Result<Vec<Self>, TypeMismatch> {
        let Value::List(list) = value else { return Err(TypeMismatch::of::<Vec<Self>>(&value)) };
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

            fn from_value(value: Value) -> Result<Self, TypeMismatch> {
                let number = value.whole().and_then(|whole| whole.try_into().ok());
                number.ok_or_else(|| TypeMismatch::of_number::<Self>(&value))
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

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        let number = value.whole().and_then(|whole| whole.try_into().ok());
        number.ok_or_else(|| TypeMismatch::of_number::<Self>(&value))
    }

    fn list_from_value(value: Value) -> Result<Vec<Self>, TypeMismatch> {
        if let Value::Bytes(bytes) = value { Ok(bytes) } else { Err(TypeMismatch::of::<Vec<Self>>(&value)) }
    }
}

impl sealed::Sealed for f32 {}

impl Item for f32 {
    const TYPE: &'static str = "f32";

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        value.as_f32().ok_or_else(|| TypeMismatch::of_number::<Self>(&value))
    }
}

impl sealed::Sealed for f64 {}

impl Item for f64 {
    const TYPE: &'static str = "f64";

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        value.as_f64().ok_or_else(|| TypeMismatch::of_number::<Self>(&value))
    }
}

impl sealed::Sealed for bool {}

impl Item for bool {
    const TYPE: &'static str = "bool";

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        value.as_bool().ok_or_else(|| TypeMismatch::of::<Self>(&value))
    }
}

impl sealed::Sealed for String {}

impl Item for String {
    const TYPE: &'static str = "str";

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        if let Value::Str(text) = value { Ok(text) } else { Err(TypeMismatch::of::<Self>(&value)) }
    }
}

impl sealed::Sealed for () {}

impl Item for () {
    const TYPE: &'static str = "none";

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        if value.is_none() { Ok(()) } else { Err(TypeMismatch::of::<Self>(&value)) }
    }
}

impl sealed::Sealed for Value {}

impl Item for Value {
    const TYPE: &'static str = "any";
    const HAS_VALUES: bool = true;

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
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

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        if value.is_none() {
            return Ok(None);
        }
        let item = T::from_value(value).map_err(|mismatch| TypeMismatch::new(Self::TYPE, mismatch.found))?;
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

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
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

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
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

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
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
fn entries<M: Item, T: Item>(
    value: Value,
) -> Result<impl Iterator<Item = Result<(String, T), TypeMismatch>>, TypeMismatch> {
    let Value::Map(map) = value else { return Err(TypeMismatch::of::<M>(&value)) };
    Ok(map.into_iter().map(|(key, value)| match T::from_value(value) {
        Ok(item) => Ok((key, item)),
        Err(mismatch) => Err(mismatch.inside::<M>("map", format_args!("{:?}", shortened(&key)))),
    }))
}

/// Where the words for types made of a `T` are.
struct Texts<T>(T);

impl<T: Item> Texts<T> {
    const OPTIONAL: &'static ConstText = &ConstText::of(&["optional ", T::TYPE]);
    const MAP: &'static ConstText = &ConstText::of(&["map of ", T::TYPE]);
    const HASH_MAP: &'static ConstText = &ConstText::of(&["hash map of ", T::TYPE]);
}
