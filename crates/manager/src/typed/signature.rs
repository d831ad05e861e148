//! Signatures: the types of a callback's arguments and result, as text.
//!
//! The text of known types is made at compile time; a call only compares it.

#![forbid(unsafe_code)]

use super::arguments::Arguments;
use super::item::Item;
use callgate_os::const_text::ConstText;
use std::borrow::Cow;
use std::fmt;

/// The types of a callback's arguments and result, as text: `(i64, i64) -> i64`, or `any` for dynamic ones.
///
/// A call with the callback's own signature needs no conversion.
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
    /// The longest text, in bytes.
    pub const MAX_LEN: usize = 4096;

    const ANY: &'static str = "any";

    /// The signature of a callback with dynamic arguments.
    pub const fn any() -> Self {
        Self(Cow::Borrowed(Self::ANY))
    }

    /// The signature of a callback that takes `A` and returns `R`. Allocates nothing.
    pub const fn of<A: Arguments, R: Item>() -> Self {
        Self(Cow::Borrowed(Signatures::<A, R>::TEXT.as_str()))
    }

    /// A signature from another process.
    ///
    /// `None` if it is empty, is longer than [`MAX_LEN`](Self::MAX_LEN), or contains control characters.
    pub(crate) fn checked(text: String) -> Option<Self> {
        let is_sound = text.len() <= Self::MAX_LEN && !text.is_empty() && !text.contains(char::is_control);
        is_sound.then(|| Self(text.into()))
    }

    /// Whether a caller's `A` and `R` are the callback's types, so that they cross without conversion. Allocates nothing.
    pub(crate) fn agrees_with<A: Arguments, R: Item>(&self) -> bool {
        // A typed signature never reads `any`, because it lists its arguments.
        self.0 == Signatures::<A, R>::TEXT.as_str()
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the callback's arguments are dynamic.
    pub fn is_any(&self) -> bool {
        self.0 == Self::ANY
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const _: () = assert!(ConstText::MAX <= Signature::MAX_LEN);

/// Holds the text of a callback's signature.
struct Signatures<A, R>(A, R);

impl<A: Arguments, R: Item> Signatures<A, R> {
    const TEXT: &'static ConstText = &ConstText::of(&[A::TYPES, " -> ", R::TYPE]);
}
