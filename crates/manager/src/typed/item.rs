//! The types of a callback's arguments and result, and their conversion to and from [`Value`]s.
//!
//! Values come from other processes: one that does not fit is a [`TypeMismatch`], never a panic.

#![forbid(unsafe_code)]

use crate::value::{Element, Value};
use callgate_os::const_text::ConstText;
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

    /// A value of another kind than `T`.
    fn of<T: Item>(value: &Value) -> Self {
        Self::new(T::TYPE, value.type_name())
    }

    /// A number that does not fit into `T`, or a value that is not a number.
    fn of_number<T: Item>(value: &Value) -> Self {
        if value.is_number() { Self::new(T::TYPE, value.to_string()) } else { Self::of::<T>(value) }
    }

    /// Restates the mismatch of the part `at` for the whole `kind`, which should have been a `T`.
    fn inside<T: Item>(self, kind: &str, at: impl Display) -> Self {
        Self::new(T::TYPE, format!("{kind} with {} at {at}", self.found))
    }
}

/// A name from another process, shortened to its first 60 characters for a message.
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
/// The item types are `bool`, `i8` to `i64`, `u8` to `u64`, `isize` (as an `i64`), `usize` (as a `u64`), `f32`, `f64`, `String`, `()`,
/// [`Value`]; and, for an item type `T`, `Option<T>`, `Vec<T>` (`Vec<u8>` is bytes), `BTreeMap<String, T>` and `HashMap<String, T>`. No
/// other type is one: programs in any language must understand the signature of a callback. Build your own types from these inside the
/// callback.
///
/// As a [`Value`], an `Option` is `None` or its content. So an `Option<Option<T>>`, `Option<()>` or `Option<Value>` that is `Some` of
/// nothing comes back from a value as `None`.
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
    /// The type's name: `i64`, `list of i64`, `bytes`, `optional str`, `map of f64`, `hash map of f64`, `any`. Types with different
    /// archives have different names.
    const TYPE: &'static str;

    /// Converts it to a value.
    fn into_value(self) -> Value {
        self.into()
    }

    /// Converts a value to this type.
    ///
    /// A number of any kind converts if this type represents it exactly. An `f64` within the range of `f32` converts to
    /// the nearest `f32`.
    ///
    /// # Errors
    ///
    /// If it is of another type, or does not fit. The error says what was expected and what `value` is.
    fn from_value(value: Value) -> Result<Self, TypeMismatch>;

    #[doc(hidden)]
    const LIST: &'static ConstText = &ConstText::of(&["list of ", Self::TYPE]);

    /// Converts the result of [`Element::list`] back to a vector.
    #[doc(hidden)]
    fn list_from_value(value: Value) -> Result<Vec<Self>, TypeMismatch> {
        let Value::List(list) = value else { return Err(TypeMismatch::of::<Vec<Self>>(&value)) };
        let items = list.into_iter().enumerate().map(|(at, value)| {
            Self::from_value(value).map_err(|mismatch| mismatch.inside::<Vec<Self>>("list", format_args!("index {at}")))
        });
        items.collect()
    }

    /// Whether it contains [`Value`]s, which may nest to any depth.
    #[doc(hidden)]
    const HAS_VALUES: bool = false;

    /// Whether at most `levels` lists and maps nest in it.
    #[doc(hidden)]
    fn is_within(&self, _levels: usize) -> bool {
        true
    }
}

/// Implements [`Item`] for integers.
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

// `isize` and `usize` have the archives of the types whose names they use.
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
        // Archived as a tree: one level for each node on the way to an entry. Every node but the last has 6 below it.
        all_within(self.values(), levels, 16)
    }
}

impl<T: Item> sealed::Sealed for HashMap<String, T> {}

impl<T: Item> Item for HashMap<String, T> {
    // Its archive differs from a `BTreeMap`'s, so its name does too.
    const TYPE: &'static str = Texts::<T>::HASH_MAP.as_str();
    const HAS_VALUES: bool = T::HAS_VALUES;

    fn from_value(value: Value) -> Result<Self, TypeMismatch> {
        entries::<Self, T>(value)?.collect()
    }

    fn is_within(&self, levels: usize) -> bool {
        all_within(self.values(), levels, 1)
    }
}

/// Whether at most `levels` lists and maps nest in a container of `items` that itself takes `taken` levels.
fn all_within<'i, T: Item>(items: impl IntoIterator<Item = &'i T>, levels: usize, taken: usize) -> bool {
    let mut items = items.into_iter();
    !T::HAS_VALUES || levels.checked_sub(taken).is_some_and(|levels| items.all(|item| item.is_within(levels)))
}

/// The entries of a map, for a conversion to an `M`.
fn entries<M: Item, T: Item>(
    value: Value,
) -> Result<impl Iterator<Item = Result<(String, T), TypeMismatch>>, TypeMismatch> {
    let Value::Map(map) = value else { return Err(TypeMismatch::of::<M>(&value)) };
    Ok(map.into_iter().map(|(key, value)| match T::from_value(value) {
        Ok(item) => Ok((key, item)),
        Err(mismatch) => Err(mismatch.inside::<M>("map", format_args!("{:?}", shortened(&key)))),
    }))
}

/// Holds the names of types made from a `T`.
struct Texts<T>(T);

impl<T: Item> Texts<T> {
    const OPTIONAL: &'static ConstText = &ConstText::of(&["optional ", T::TYPE]);
    const MAP: &'static ConstText = &ConstText::of(&["map of ", T::TYPE]);
    const HASH_MAP: &'static ConstText = &ConstText::of(&["hash map of ", T::TYPE]);
}
