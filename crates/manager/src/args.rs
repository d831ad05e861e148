//! The arguments of a call whose types only the callback knows: positional and keyword arguments.
//!
//! Plain data; `codec` encodes it. Arguments from another process are [checked](Args::checked) before a callback sees them.

#![forbid(unsafe_code)]

use super::value::Value;
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// The arguments of a call: values in order, and values with names.
///
/// Build them with `args!`, or one by one.
///
/// # Examples
///
/// ```
/// use callgate::args;
/// use callgate::manager::{Args, Value};
///
/// let args = args![1, 2.5; unit = "mm", exact = true];
/// assert_eq!(args.get(0), Some(&Value::I64(1)));
/// assert_eq!(args.keyword("unit").and_then(Value::as_str), Some("mm"));
/// assert_eq!(args.keyword("scale"), None);
/// assert_eq!(args.to_string(), r#"(1, 2.5; unit = "mm", exact = true)"#);
///
/// let same = Args::new().with(1).with(2.5).with_keyword("unit", "mm")?.with_keyword("exact", true)?;
/// assert_eq!(same, args);
/// assert!(same.with_keyword("unit", "cm").is_err());
/// # Ok::<(), callgate::manager::RepeatedKeyword>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args {
    /// The positional values, then the values of the keywords.
    values: Vec<Value>,
    /// The keywords, each unique, in the order given.
    names: Names,
}

/// Keyword names. Up to two, which covers most calls, need no allocation.
pub(super) type Names = SmallVec<[SmolStr; 2]>;

/// A keyword was given twice among the arguments of one call.
#[derive(Clone, callgate_macros::Sentence, PartialEq, Eq, thiserror::Error)]
#[error("the keyword `{keyword}` is given twice")]
#[non_exhaustive]
pub struct RepeatedKeyword {
    /// Its name.
    pub keyword: String,
}

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Arguments from their positional and keyword parts.
    ///
    /// # Errors
    ///
    /// If two keywords have the same name.
    pub fn from_parts(positional: Vec<Value>, keyword: Vec<(String, Value)>) -> Result<Self, RepeatedKeyword> {
        let (names, named): (Names, Vec<_>) =
            keyword.into_iter().map(|(name, value)| (SmolStr::from(name), value)).unzip();
        let mut values = positional;
        values.extend(named);
        Self { values, names }.checked()
    }

    /// Appends a positional argument.
    #[must_use]
    pub fn with(mut self, value: impl Into<Value>) -> Self {
        self.values.insert(self.values.len() - self.names.len(), value.into());
        self
    }

    /// Appends a keyword argument.
    ///
    /// # Errors
    ///
    /// If a keyword with this name exists.
    pub fn with_keyword(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Value>,
    ) -> Result<Self, RepeatedKeyword> {
        let name = match name.into() {
            Cow::Borrowed(name) => SmolStr::new_static(name),
            Cow::Owned(name) => name.into(),
        };
        if self.names.contains(&name) {
            return Err(RepeatedKeyword { keyword: name.into() });
        }
        self.names.push(name);
        self.values.push(value.into());
        Ok(self)
    }

    /// The positional arguments.
    pub fn positional(&self) -> &[Value] {
        self.parts().0
    }

    /// The keywords with their values, in the order given.
    pub fn keywords(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.names.iter().map(SmolStr::as_str).zip(self.parts().1)
    }

    /// The positional argument number `index`, from 0.
    pub fn get(&self, index: usize) -> Option<&Value> {
        self.positional().get(index)
    }

    /// The value of the keyword `name`.
    pub fn keyword(&self, name: &str) -> Option<&Value> {
        self.keywords().find(|(keyword, _)| *keyword == name).map(|(_, value)| value)
    }

    /// Whether there are no arguments, positional or with a keyword.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The positional arguments, and the keywords with their values.
    pub fn into_parts(self) -> (Vec<Value>, Vec<(String, Value)>) {
        let Self { mut values, names } = self;
        let named = values.split_off(values.len() - names.len());
        (values, names.into_iter().map(String::from).zip(named).collect())
    }

    /// Whether one of the values [is too deep](Value::is_too_deep) to cross to another process.
    #[inline]
    pub fn is_too_deep(&self) -> bool {
        self.values.iter().any(Value::is_too_deep)
    }

    /// Drops them without recursion, as [`Value::drop_without_recursion`] does.
    pub fn drop_without_recursion(self) {
        Value::List(self.values).drop_without_recursion();
    }

    /// The positional values and the values of the keywords.
    fn parts(&self) -> (&[Value], &[Value]) {
        self.values.split_at(self.values.len() - self.names.len())
    }

    /// All values (positional first, then those of the keywords), and the keywords.
    pub(super) fn flat_parts(&self) -> (&[Value], &[SmolStr]) {
        (&self.values, &self.names)
    }

    /// Arguments from `values`, whose last ones belong to `names`. Not [checked](Self::checked).
    #[inline]
    pub(super) fn of_flat_parts(values: Vec<Value>, names: Names) -> Self {
        debug_assert!(names.len() <= values.len());
        Self { values, names }
    }

    /// Returns the arguments if their keywords are unique, which decoding does not check.
    ///
    /// # Errors
    ///
    /// If a keyword repeats.
    #[inline]
    pub(super) fn checked(self) -> Result<Self, RepeatedKeyword> {
        let repeated = match &*self.names {
            [] | [_] => None,
            // Most calls have few keywords, and comparing a few is faster than hashing them.
            names if names.len() <= 8 => (1..names.len()).find(|&at| names[..at].contains(&names[at])),
            names => {
                let mut seen = HashSet::new();
                names.iter().position(|name| !seen.insert(name))
            }
        };
        match repeated {
            None => Ok(self),
            Some(at) => Err(RepeatedKeyword { keyword: self.names[at].as_str().into() }),
        }
    }

    /// For `args!`, where the compiler rejects repeated keywords.
    #[doc(hidden)]
    #[inline]
    pub fn __of_macro<const NAMED: usize>(values: Vec<Value>, names: [&'static str; NAMED]) -> Self {
        // A raw identifier escapes a keyword of Rust; the callee sees the ordinary name.
        let name = |name: &'static str| SmolStr::new_static(name.strip_prefix("r#").unwrap_or(name));
        let mut known = Names::new();
        names.into_iter().for_each(|each| known.push(name(each)));
        Self::of_flat_parts(values, known)
    }
}

/// Shows them as written in `args!`, in parentheses: `(1, 2; a = 4, b = "five")`.
impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (at, value) in self.positional().iter().enumerate() {
            write!(f, "{}{value}", if at == 0 { "" } else { ", " })?;
        }
        for (at, (keyword, value)) in self.keywords().enumerate() {
            write!(f, "{}{keyword} = {value}", if at == 0 { "; " } else { ", " })?;
        }
        f.write_str(")")
    }
}

/// Builds the [`Args`](crate::Args) of a call: values in order, then, after a semicolon, values with names.
///
/// An argument is any type that is `Into<`[`Value`](crate::Value)`>`. A repeated name does not compile. For a name that is not an
/// identifier, use [`Args::with_keyword`](crate::Args::with_keyword).
///
/// # Examples
///
/// ```
/// use callgate::args;
/// use callgate::manager::Value;
///
/// let args = args![1, 2, 3; a = 4, b = "five"];
/// assert_eq!(args.positional().len(), 3);
/// assert_eq!(args.keyword("b"), Some(&Value::from("five")));
///
/// assert!(args![].is_empty());
/// assert_eq!(args!["one"].get(0), Some(&Value::from("one")));
/// assert_eq!(args![; a = 1].keyword("a"), Some(&Value::I64(1)));
/// assert_eq!(args![vec![1, 2], None::<i64>, b"bytes", true,].to_string(), r#"([1, 2], none, b"bytes", true)"#);
/// ```
///
/// ```compile_fail
/// callgate::args![; a = 1, a = 2]; // error: field `a` is already declared
/// ```
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)? $(; $($keyword:ident = $named:expr),* $(,)?)?) => {{
        #[allow(dead_code, non_snake_case)]
        struct NoKeywordTwice {
            $($($keyword: (),)*)?
        }
        $crate::Args::__of_macro(
            ::std::vec![$($crate::Value::from($value),)* $($($crate::Value::from($named),)*)?],
            [$($(::std::stringify!($keyword)),*)?],
        )
    }};
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::value::tests::{nested, values};
    use super::*;
    use callgate_transport::bare::{Bare, Plain};
    use callgate_transport::doorbell::Deadline;
    use callgate_transport::encode::encode_to_vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arguments_come_back_from_their_archive(
            positional in proptest::collection::vec(values(), 0..5),
            keyword in proptest::collection::btree_map(".{0,12}", values(), 0..5),
        ) {
            let args = Args::from_parts(positional, keyword.into_iter().collect()).unwrap();
            let bytes = encode_to_vec(&Bare(args.clone()), 1 << 20).unwrap();
            prop_assert_eq!(Args::read(&bytes, Deadline::NEVER).ok(), Some(args));
        }
    }

    #[test]
    fn the_macro_takes_every_form() {
        for (args, shown) in [
            (args![], "()"),
            (args![1], "(1)"),
            (args![1,], "(1)"),
            (args![1; ], "(1)"),
            (args![; a = 1], "(; a = 1)"),
            (args![; a = 1,], "(; a = 1)"),
            (args![1, 2, 3; a = 4, b = "five"], r#"(1, 2, 3; a = 4, b = "five")"#),
            (args![1, "two",; type_of = (), r#type = [1.5, 2.0],], r#"(1, "two"; type_of = none, type = [1.5, 2.0])"#),
        ] {
            assert_eq!(args.to_string(), shown);
        }
    }

    #[test]
    fn a_keyword_given_twice_is_refused() {
        let repeated = |keyword: &str| Err(RepeatedKeyword { keyword: keyword.into() });
        assert_eq!(args![; a = 1].with_keyword("a", 2), repeated("a"));
        for count in [2, 3, 8, 9, 1000] {
            let mut keyword: Vec<_> = (0..count).map(|number| (number.to_string(), Value::None)).collect();
            assert!(Args::from_parts(Vec::new(), keyword.clone()).is_ok());
            keyword[count - 1].0 = String::from("0");
            assert_eq!(Args::from_parts(Vec::new(), keyword), repeated("0"), "{count} keywords");
        }
    }

    #[test]
    fn an_archive_with_a_keyword_twice_is_found_out() {
        let forged = Args::__of_macro(vec![1.into(), 2.into()], ["a", "a"]);
        let bytes = encode_to_vec(&Bare(forged), 1 << 20).unwrap();
        let read = Args::read(&bytes, Deadline::NEVER).unwrap();
        assert!(read.checked().is_err());
    }

    #[test]
    fn the_deepest_values_cross_as_arguments() {
        let args = args![nested(Value::MAX_DEPTH); a_keyword_that_is_long = nested(Value::MAX_DEPTH)];
        assert!(!args.is_too_deep());
        let bytes = encode_to_vec(&Bare(args.clone()), 1 << 20).unwrap();
        assert_eq!(Args::read(&bytes, Deadline::NEVER).ok(), Some(args));
        assert!(args![nested(Value::MAX_DEPTH + 1)].is_too_deep());
        assert!(args![1; a = nested(Value::MAX_DEPTH + 1)].is_too_deep());
    }

    #[test]
    fn very_deep_arguments_are_taken_apart() {
        let deep = || (0..500_000).fold(Value::None, |value, _| Value::List(vec![value]));
        let args = args![1, deep(); a = deep()];
        assert!(args.is_too_deep());
        args.drop_without_recursion();
    }
}
