//! The arguments of a callback with types, as a tuple and as [`Args`], and its outcome.
//!
//! Refuses values that nest too deep to cross to another process, on the sending side.

#![forbid(unsafe_code)]

use super::item::{Item, TypeMismatch, sealed, shortened};
use crate::args::Args;
use crate::value::Value;
use callgate_os::const_text::ConstText;
use callgate_transport::decoder::Transfer;
use callgate_transport::error::TooDeep;
use std::fmt::Display;

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

    /// Converts them to arguments without types.
    fn into_args(self) -> Args;

    /// Converts from arguments without types.
    ///
    /// # Errors
    ///
    /// If the number of arguments differs, if one has another type, or if there are keywords. The error says what was expected and what
    /// `args` are.
    fn from_args(args: Args) -> Result<Self, TypeMismatch>;

    /// Whether every argument is shallow enough to cross to another process.
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
            fn from_args(args: Args) -> Result<Self, TypeMismatch> {
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
    // `()` is an `Item` too, so it is sealed already.
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

impl TypeMismatch {
    /// Restates the mismatch of argument number `index` for all arguments, whose kinds are `found`.
    fn of_argument<A: Arguments>(self, index: usize, found: &[&str]) -> Self {
        let found: Vec<_> =
            found.iter().enumerate().map(|(at, kind)| if at == index { &self.found } else { *kind }).collect();
        Self::new(A::TYPES, format!("({})", found.join(", ")))
    }
}

/// The arguments, if there are exactly `COUNT` and no keywords.
fn positional<A: Arguments, const COUNT: usize>(args: Args) -> Result<[Value; COUNT], TypeMismatch> {
    let given = args.positional().len();
    if let Some((name, _)) = args.keywords().next() {
        return Err(TypeMismatch::new(
            format!("{} without keywords", counted::<A>(COUNT)),
            format!("{given} and the keyword `{}`", shortened(name)),
        ));
    }
    let (positional, _) = args.into_parts();
    positional.try_into().map_err(|_| TypeMismatch::new(counted::<A>(COUNT), given.to_string()))
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

/// Returns the arguments if they can cross to another process; otherwise drops them without recursion.
///
/// # Errors
///
/// If one [is too deep](Value::is_too_deep).
pub(crate) fn shallow<A: Arguments>(arguments: A) -> Result<A, TooDeep> {
    if arguments.is_shallow() {
        return Ok(arguments);
    }
    arguments.into_args().drop_without_recursion();
    Err(TooDeep)
}

/// [`shallow`] for arguments without types.
///
/// # Errors
///
/// As there.
pub(crate) fn shallow_args(args: Args) -> Result<Args, TooDeep> {
    if !args.is_too_deep() {
        return Ok(args);
    }
    args.drop_without_recursion();
    Err(TooDeep)
}

/// [`shallow`] for a result.
///
/// # Errors
///
/// As there.
pub(crate) fn shallow_item<R: Item>(item: R) -> Result<R, TooDeep> {
    if item.is_within(Value::MAX_DEPTH) {
        return Ok(item);
    }
    item.into_value().drop_without_recursion();
    Err(TooDeep)
}

/// Holds the name of a tuple type.
struct Tuples<T>(T);
