//! Callbacks: functions with static types or with dynamic arguments, and the one trait behind which both are called.
//!
//! Does not catch panics; the caller of these functions does.

#![forbid(unsafe_code)]

use super::args::Args;
use super::typed::{Arguments, Item, Outcome, Signature, TypeMismatch, shallow_item};
use super::value::Value;
use callgate_transport::error::CallbackError;
use callgate_transport::error::TooDeep;
use std::marker::PhantomData;

/// A function that can be registered with its types: it takes up to eight [`Item`]s and returns an [`Outcome`].
///
/// Implemented for every `Fn(A1, .., An) -> O + Send + Sync + 'static`, with `A` the tuple of its arguments. Write the types in the
/// closure: `|a: i64, b: i64| a + b`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a callback",
    label = "not a function of at most eight items that returns one",
    note = "say the types of a closure's arguments: `|a: i64, name: String| ..`; see `callgate::manager::Item` for what an item is",
    note = "it must be `Fn + Send + Sync + 'static`: called by several threads at once, for as long as it is registered"
)]
pub trait Callback<A: Arguments, O: Outcome>: Send + Sync + 'static {
    /// Calls it.
    fn call(&self, arguments: A) -> O;
}

macro_rules! callbacks {
    ($($($item:ident)*;)*) => {$(
        impl<Function, O: Outcome, $($item: Item),*> Callback<($($item,)*), O> for Function
        where
            Function: Fn($($item),*) -> O + Send + Sync + 'static,
        {
            #[allow(non_snake_case, reason = "named after their types")]
            fn call(&self, ($($item,)*): ($($item,)*)) -> O {
                self($($item),*)
            }
        }
    )*};
}

callbacks! {
    ;
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

impl From<TypeMismatch> for CallbackError {
    fn from(mismatch: TypeMismatch) -> Self {
        CallbackError::Mismatch { expected: mismatch.expected, found: mismatch.found }
    }
}

/// Called once the arguments are known to fit, just before the callback runs. Counts the call, or refuses it if the callback takes no more.
pub(crate) type Begin<'a> = &'a mut dyn FnMut() -> Result<(), CallbackError>;

/// A callback of any kind.
pub(crate) trait ErasedCallback: Send + Sync {
    /// The types of its arguments and result.
    fn signature(&self) -> &Signature;

    /// Calls it with dynamic arguments. The result can cross to another process.
    ///
    /// # Errors
    ///
    /// If the arguments do not fit, if `begin` refuses, if the callback fails, or if its result cannot cross.
    fn call_dynamic(&self, args: Args, begin: Begin<'_>) -> Result<Value, CallbackError>;
}

/// A callback with types.
pub(crate) struct Typed<A, O, F> {
    callback: F,
    signature: Signature,
    types: PhantomData<fn(A) -> O>,
}

impl<A: Arguments, O: Outcome, F: Callback<A, O>> Typed<A, O, F> {
    pub(crate) fn new(callback: F) -> Self {
        Self { callback, signature: Signature::of::<A, O::Value>(), types: PhantomData }
    }

    /// Calls it. The result can cross to another process.
    ///
    /// # Errors
    ///
    /// If it fails, or if its result cannot cross.
    pub(crate) fn call(&self, arguments: A) -> Result<O::Value, CallbackError> {
        crossing(self.callback.call(arguments))
    }
}

impl<A: Arguments, O: Outcome, F: Callback<A, O>> ErasedCallback for Typed<A, O, F> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn call_dynamic(&self, args: Args, begin: Begin<'_>) -> Result<Value, CallbackError> {
        // A keyword given twice is refused with all keywords.
        let arguments = A::from_args(args)?;
        begin()?;
        self.call(arguments).map(Item::into_value)
    }
}

/// A callback with dynamic arguments.
pub(crate) struct Dynamic<F> {
    callback: F,
    signature: Signature,
}

impl<F> Dynamic<F> {
    pub(crate) fn new<O: Outcome>(callback: F) -> Self
    where
        F: Fn(Args) -> O + Send + Sync + 'static,
    {
        Self { callback, signature: Signature::any() }
    }
}

impl<F, O: Outcome> ErasedCallback for Dynamic<F>
where
    F: Fn(Args) -> O + Send + Sync + 'static,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn call_dynamic(&self, args: Args, begin: Begin<'_>) -> Result<Value, CallbackError> {
        let args = args.checked().map_err(|repeated| CallbackError::Mismatch {
            expected: String::from("each keyword once"),
            found: format!("the keyword `{}` twice", super::typed::shortened(&repeated.keyword)),
        })?;
        begin()?;
        crossing((self.callback)(args)).map(Item::into_value)
    }
}

/// Checks that a callback's result can cross to another process.
fn crossing<O: Outcome>(outcome: O) -> Result<O::Value, CallbackError> {
    let value = outcome.into_result().map_err(CallbackError::Failed)?;
    shallow_item(value).map_err(|TooDeep| CallbackError::TooDeep)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::args;
    use callgate_transport::copy_buffer::decode_private;
    use callgate_transport::encode::encode_to_vec;
    use std::collections::BTreeMap;

    /// As registering does: the types are inferred.
    fn typed<A, O, F>(callback: F) -> Typed<A, O, F>
    where
        A: Arguments,
        O: Outcome,
        F: Callback<A, O>,
    {
        Typed::new(callback)
    }

    /// Of those that take any number of calls.
    fn may() -> Result<(), CallbackError> {
        Ok(())
    }

    fn failed<T>(text: &str) -> Result<T, CallbackError> {
        Err(CallbackError::Failed(text.into()))
    }

    #[test]
    fn the_types_of_closures_are_inferred() {
        let add = typed(|a: i64, b: i64| a + b);
        assert_eq!(add.signature().as_str(), "(i64, i64) -> i64");
        assert_eq!(add.call((1, 2)), Ok(3));
        let greeting = String::from("Hello");
        let greet = typed(move |name: String| format!("{greeting}, {name}"));
        assert_eq!(greet.signature().as_str(), "(str) -> str");
        assert_eq!(greet.call(("you".into(),)), Ok("Hello, you".into()));
        assert_eq!(typed(|| ()).signature().as_str(), "() -> none");
        assert_eq!(typed(triple).signature().as_str(), "(i64) -> i64");
        let eight =
            typed(|a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: Vec<u8>| vec![a, b, c, d, e, f, g, h[0]]);
        assert_eq!(eight.call((1, 2, 3, 4, 5, 6, 7, vec![8])), Ok(vec![1, 2, 3, 4, 5, 6, 7, 8]));
        let half = typed(|number: f64| if number < 0.0 { Err("negative") } else { Ok(number / 2.0) });
        assert_eq!(half.signature().as_str(), "(f64) -> f64");
        assert_eq!(half.call((-1.0,)), failed("negative"));
    }

    fn triple(number: i64) -> i64 {
        number * 3
    }

    #[test]
    fn callbacks_of_both_kinds_are_called_alike() {
        let callbacks: Vec<Box<dyn ErasedCallback>> = vec![
            Box::new(typed(|a: i64, b: f64| a as f64 + b)),
            Box::new(Dynamic::new(|args: Args| {
                let numbers = args.positional().iter().map(Value::as_f64);
                numbers.sum::<Option<f64>>().ok_or("not all are numbers")
            })),
        ];
        for callback in &callbacks {
            assert_eq!(callback.call_dynamic(args![1, 2], &mut may), Ok(Value::F64(3.0)));
        }
        assert_eq!(callbacks[0].signature().as_str(), "(i64, f64) -> f64");
        assert!(callbacks[1].signature().is_any());
        let mismatch = callbacks[0].call_dynamic(args![1, "two"], &mut may).unwrap_err();
        assert_eq!(mismatch.to_string(), "expected (i64, f64), got (i64, str)");
        assert_eq!(callbacks[1].call_dynamic(args![1, "two"], &mut may), failed("not all are numbers"));
    }

    #[test]
    fn a_dynamic_callback_gets_keywords_and_returns_what_it_likes() {
        let describe = Dynamic::new(|args: Args| -> Result<Value, String> {
            let kinds = args.keywords().map(|(name, value)| (name, value.type_name()));
            Ok(kinds.collect::<BTreeMap<_, _>>().into())
        });
        let described = describe.call_dynamic(args![; b = 1, a = "x"], &mut may).unwrap();
        assert_eq!(described.to_string(), r#"{"a": "str", "b": "i64"}"#);
        let plain = Dynamic::new(|args: Args| args.positional().len() as u64);
        assert_eq!(plain.call_dynamic(args![1, 2], &mut may), Ok(Value::U64(2)));
    }

    #[test]
    fn a_keyword_twice_never_reaches_a_callback() {
        let forged = || Args::__of_macro(vec![1.into(), 2.into()], ["a", "a"]);
        let refused = Dynamic::new(|_: Args| -> () { unreachable!("is not called") }).call_dynamic(forged(), &mut may);
        assert_eq!(refused.unwrap_err().to_string(), "expected each keyword once, got the keyword `a` twice");
        assert!(matches!(typed(|| ()).call_dynamic(forged(), &mut may), Err(CallbackError::Mismatch { .. })));
    }

    #[test]
    fn what_does_not_fit_never_begins() {
        let mut begun = 0;
        let mut begin = || {
            begun += 1;
            if begun == 1 { Ok(()) } else { Err(CallbackError::Gone) }
        };
        let half = typed(|number: i64| number / 2);
        assert!(matches!(half.call_dynamic(args!["one"], &mut begin), Err(CallbackError::Mismatch { .. })));
        assert_eq!(half.call_dynamic(args![8], &mut begin), Ok(Value::I64(4)));
        assert_eq!(half.call_dynamic(args![8], &mut begin), Err(CallbackError::Gone));
        let forged = Args::__of_macro(vec![1.into(), 2.into()], ["a", "a"]);
        let any = Dynamic::new(|_: Args| ());
        assert!(matches!(any.call_dynamic(forged, &mut begin), Err(CallbackError::Mismatch { .. })));
        assert_eq!(any.call_dynamic(args![], &mut begin), Err(CallbackError::Gone));
        assert_eq!(begun, 3);
    }

    #[test]
    fn what_is_too_deep_to_come_back_is_an_error() {
        let deep = || (0..500_000).fold(Value::None, |value, _| Value::List(vec![value]));
        assert_eq!(typed(deep).call(()), Err(CallbackError::TooDeep));
        assert_eq!(
            Dynamic::new(move |_: Args| vec![deep()]).call_dynamic(args![], &mut may),
            Err(CallbackError::TooDeep)
        );
    }

    #[test]
    fn failures_come_back_from_their_archives() {
        let mismatch = typed(|| ()).call_dynamic(args![1], &mut may).unwrap_err();
        for failure in [CallbackError::Failed("why".into()), mismatch, CallbackError::Gone] {
            let bytes = encode_to_vec(&failure, 1 << 10).unwrap();
            assert_eq!(decode_private::<CallbackError>(&bytes), Some(failure));
        }
    }
}
