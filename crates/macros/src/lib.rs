//! The attributes `#[bridge]` and `#[main]` of [callgate](https://docs.rs/callgate), and `#[derive(Viewable)]`; use them from there.
//!
//! A block goes through four steps, one file each: `parse` reads it, `model` lists what can be called, `check` refuses whatever cannot be bridged and
//! reports all of it together, and `expand` writes the code. If something was refused, `fallback` writes stand-ins instead, so that a mistake causes
//! one error and not another at each call.
//!
//! Generated code refers by full paths to callgate (`root` says where that is), mostly to its hidden `__codegen`, and to the user's own items. Except
//! for the proxy, it adds no name that could clash with one of the user's.

#![forbid(unsafe_code)]

mod callback;
mod check;
mod docs;
mod expand;
mod fallback;
mod main_attribute;
mod model;
mod parse;
mod refusals;
mod root;
mod sentence;
mod stream;
#[cfg(test)]
mod tests;
mod types;
mod viewable;

use proc_macro2::TokenStream;
use quote::quote;

use crate::model::ImplBlock;
use crate::refusals::Refusals;

/// Makes a type's methods callable in another process.
///
/// # On the type's own block
///
/// ```ignore
/// #[bridge]
/// impl Counter {
///     pub fn new(start: u64) -> Self { .. }            // Counter::bridge(start) -> Builder<Counter>
///     pub fn with_label(label: &str) -> Self { .. }    // Counter::bridge_with_label(label)
///     pub fn add(&mut self, n: u64) -> u64 { .. }      // counter.add(n) -> Result<u64, CallError>
///     pub fn pid() -> u32 { .. }                       // counter.pid(), in the child
///     fn helper(&self) { .. }                          // private: stays as it is
/// }
/// ```
///
/// The block itself stays unchanged. The macro adds the proxy `CounterCalls<M>`, to which a `Bridge<Counter>` derefs. The proxy has a method for each
/// one that is `pub` (or `pub(crate)`, ..), with the same name, arguments and documentation. A `pub` function without `self` that returns `Self` or
/// `Result<Self, ..>` is a **constructor**, and the block needs at least one: `new` becomes `Counter::bridge`, any other `name` becomes
/// `Counter::bridge_name`.
///
/// Arguments are values, `&T`, `&str`, `&[T]` or `&Archived<T>`; results are values. Both can be anything that rkyv can archive. `&mut` arguments are
/// refused, because the child would change a copy. Type parameters belong on the block (`impl<T> Stack<T>`). Whatever cannot be bridged is an error
/// at the place where it stands, and a block's errors are all reported together.
///
/// A type has only one such block. Put methods that need no bridge into another block, without the attribute.
///
/// # On a trait's block
///
/// ```ignore
/// #[bridge]
/// impl Shape for Circle {
///     fn area(&self) -> f64 { .. }
/// }
/// ```
///
/// `Bridge<Circle>` implements `Shape` too, with the same signatures, so code generic over `Shape` accepts either. A failed call returns the method's
/// own error if the method returns `Result<_, E>` with `E: From<CallError>`, and otherwise panics with the error's text. The proxy gets the methods
/// as well, for callers who want the `CallError`.
///
/// If the trait has async methods (`async fn`, or `-> impl Future<Output = R>`), `AsyncBridge<Circle>` implements it, and all of its methods with `self` must
/// be async. Async methods may also stand in the type's own block. See the guide's page on calls.
///
/// - The trait must belong to this crate: the language forbids implementing a foreign trait for `Bridge`.
/// - `CircleCalls` must be in scope beside `Circle`.
/// - All bridged blocks of a type share its proxy, so no two of them can have methods of the same name: the compiler reports a duplicate definition
///   (E0592). Put `#[bridge(rename = "..")]` on one of the two; callers of the trait keep using the original name.
/// - Methods for which the block uses the trait's defaults run in the caller and call the others over the bridge. Functions without `self` run in the
///   caller, too; constants and types are those of `Circle`.
///
/// # Options
///
/// | where | option | effect |
/// | --- | --- | --- |
/// | a method | `#[bridge(skip)]` | it is left alone, though `pub` |
/// | a method | `#[bridge(rename = "halt")]` | callers know it by this name, also as a builder |
/// | a method | `#[bridge(idempotent)]` | it may run twice: a bridge with `Builder::restart` calls it again if the child dies in it |
/// | the type's block | `#[bridge(get(total: u64))]` | callers get `total() -> u64`, a clone of that field |
/// | the type's block | `#[bridge(set(total: u64))]` | callers get `set_total(value: u64)` |
/// | any block | `#[bridge(crate = cg)]` | callgate is a dependency by this name, or lies at this path |
///
/// Fields may have documentation and a visibility of their own (`get(pub(crate) total: u64)`); otherwise they are `pub`.
///
/// The methods of `Bridge` and `AsyncBridge` themselves (`stop`, `kill`, `child_pid`, `is_alive`, `with_timeout`, `view`, `begin`, `send`, `flush`,
/// `batch`, `as_async`, `into_async`, `as_blocking`, `clear_doorbell`, `generation`, `restart`, `sandbox_report`) would hide a method of the same
/// name, so such a method needs a `rename`. So does one named `stats`, which is reserved for later versions, or like a method that every type or
/// reference has: `drop`, `clone`, `clone_from`, `to_owned`, `clone_into`, `into`, `try_into`, `deref`.
#[proc_macro_attribute]
pub fn bridge(options: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    generate(options.into(), item.into()).into()
}

/// Calls [`init`](https://docs.rs/callgate/latest/callgate/fn.init.html) before anything else in `main`: a process started by a bridge never gets
/// past that.
///
/// Put it above `fn main()`, whatever its return type, and above the attribute of an async runtime, whose threads must not exist yet when `init`
/// runs:
///
/// ```ignore
/// #[callgate::main]
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> { .. }
/// ```
///
/// It also works below a runtime's attribute if that attribute keeps the function's other attributes. An attribute that changes what `main` returns
/// must stand above this one.
///
/// If the dependency has another name, write `#[cg::main(crate = cg)]`.
///
/// Tests and benches have no `main` of their own: use `callgate::test_support!()` there. A separate executable calls `callgate::serve()` instead.
#[proc_macro_attribute]
pub fn main(options: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    main_attribute::expand(options.into(), item.into()).into()
}

/// Makes an archived type readable in a `View`. Put `#[rkyv(derive(callgate::Viewable))]` on the type that is archived:
///
/// ```ignore
/// #[derive(Archive, Serialize, Deserialize)]
/// #[rkyv(derive(callgate::Viewable))]
/// struct Track {
///     title: String,
///     seconds: u32,
/// }
/// ```
///
/// Every field must be viewable. A field that is not (a map, a set, a type that does not derive this) is a compile error that says so. If that
/// depends on a type parameter, the archive is viewable only where the parameter's type is.
///
/// You are responsible for methods that you add to the archived type: unsafe code in them must not rely on more than validation has checked.
///
/// If callgate is a dependency under another name, say so as well: `#[rkyv(derive(cg::Viewable), attr(callgate(crate = cg)))]`.
#[proc_macro_derive(Viewable, attributes(callgate))]
pub fn viewable(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    viewable::derive(item.into()).into()
}

/// Makes `{:?}` show an error's sentence, and `{:#?}` its structure. For callgate's own errors.
#[doc(hidden)]
#[proc_macro_derive(Sentence)]
pub fn sentence(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    sentence::derive(item.into()).into()
}

/// [`bridge`], on tokens that also exist outside the compiler.
fn generate(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut refusals = Refusals::default();
    let Some(mut parsed) = parse::block(options, item.clone(), &mut refusals) else {
        return with_errors(&refusals, item);
    };
    let root = std::mem::take(&mut parsed.root);
    check::options(&mut parsed, &mut refusals);
    if check::header(&parsed.item, &mut refusals).is_err() {
        let item = &parsed.item;
        return with_errors(&refusals, quote!(#item));
    }
    let mut block = ImplBlock::read(parsed);
    check::block(&mut block, &mut refusals);
    root.put_into(if refusals.is_empty() {
        expand::block(&block)
    } else {
        with_errors(&refusals, fallback::block(block))
    })
}

fn with_errors(refusals: &Refusals, code: TokenStream) -> TokenStream {
    let errors = refusals.to_compile_errors();
    quote!(#errors #code)
}
