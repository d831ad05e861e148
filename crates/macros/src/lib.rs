//! The attributes `#[bridge]` and `#[main]` of [callgate](https://docs.rs/callgate), and `#[derive(Viewable)]`; all are used from there.
//!
//! One block goes through four steps, one file each: `parse` reads it, `model` says what there is to call,
//! `check` refuses what cannot cross, all of it at once, and `expand` writes the code. When something was refused,
//! `fallback` writes stand-ins instead, so that one mistake is one error and not one more at each call.
//!
//! What is written refers to callgate (`root` says where that is), mostly its hidden `__codegen`, and to the user's own items, by full paths. It
//! has no name that could meet one of the user's, except for the proxy.

#![forbid(unsafe_code)]

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
/// The block itself stays unchanged. Beside it comes the proxy `CounterCalls<M>`, to which a `Bridge<Counter>` derefs.
/// It has a method for each that is `pub` (or `pub(crate)`, ..): same name, same arguments, same documentation. A `pub`
/// function without `self` that returns `Self` or `Result<Self, ..>` is a **constructor**, and the block needs at least
/// one: `new` becomes `Counter::bridge`, any other `name` becomes `Counter::bridge_name`.
///
/// Arguments are values, `&T`, `&str`, `&[T]` or `&Archived<T>`; results are values. Both are whatever rkyv can
/// archive. A `&mut` argument is not: the child would change a copy.
/// Type parameters belong on the block (`impl<T> Stack<T>`). What cannot be bridged is refused where it stands, and
/// every refusal of a block comes at once.
///
/// A type has one such block. Methods that need no bridge go into another, without the attribute.
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
/// `Bridge<Circle>` implements `Shape` too, with the same signatures, so that code generic over `Shape` takes either. A
/// call that fails becomes the method's own error where it returns `Result<_, E>` with `E: From<CallError>`; else it
/// panics with the error's text. The proxy gets the methods as well, for callers who want the `CallError`.
///
/// - The trait is one of this crate: the language forbids implementing a foreign trait for `Bridge`.
/// - `CircleCalls` must be in scope beside `Circle`.
/// - All bridged blocks of a type share its proxy, so no two of them can have a method of the same name: the compiler calls that a duplicate
///   definition (E0592). `#[bridge(rename = "..")]` on one of the two is the way out; the trait's callers keep its own name.
/// - Methods that the block leaves to the trait's defaults run in the caller, and call the others over the bridge.
///   So do functions without `self`; constants and types are those of `Circle`.
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
/// Fields may carry documentation and a visibility of their own (`get(pub(crate) total: u64)`); else they are `pub`.
///
/// The methods of `Bridge` itself (`stop`, `kill`, `child_pid`, `is_alive`, `with_timeout`, `view`, `begin`, `doorbell_fd`, `clear_doorbell`,
/// `generation`, `restart`, `sandbox_report`) would hide a method of the same name, so that one needs a `rename`. `stats` and `send` are kept for
/// later versions.
/// So does one named as what every type or reference has: `drop`, `clone`, `clone_from`, `to_owned`, `clone_into`, `into`,
/// `try_into`, `deref`.
#[proc_macro_attribute]
pub fn bridge(options: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    generate(options.into(), item.into()).into()
}

/// Calls [`init`](https://docs.rs/callgate/latest/callgate/fn.init.html) before anything else in `main`: a process that a bridge has started
/// goes no further than that.
///
/// It stands above `fn main()`, whatever that returns, and above the attribute of an async runtime, whose threads must not exist yet when
/// `init` is called:
///
/// ```ignore
/// #[callgate::main]
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> { .. }
/// ```
///
/// Below a runtime's attribute it does the same, where that attribute keeps those of the function. An attribute that changes what `main`
/// returns stands above this one.
///
/// Where the dependency has another name, `#[cg::main(crate = cg)]` says so.
///
/// In tests and benches, which have no `main` of their own, `callgate::test_support!()` takes its place. A separate executable calls
/// `callgate::serve()` instead.
#[proc_macro_attribute]
pub fn main(options: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    main_attribute::expand(options.into(), item.into()).into()
}

/// Makes an archived type readable in a `View`: `#[rkyv(derive(callgate::Viewable))]` on the type whose archive it is.
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
/// Every field must be viewable; one that is not (a map, a set, a type that does not derive this) is an error, in words. Where that
/// depends on a type parameter, so does the archive's being viewable.
///
/// The methods that you give the archived type are yours to answer for: unsafe code in them must not count on more than what
/// validation has checked.
///
/// If callgate is a dependency by another name, say so beside it: `#[rkyv(derive(cg::Viewable), attr(callgate(crate = cg)))]`.
#[proc_macro_derive(Viewable, attributes(callgate))]
pub fn viewable(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    viewable::derive(item.into()).into()
}

/// Has `{:?}` show an error's sentence, and `{:#?}` its structure. For callgate's own errors.
#[doc(hidden)]
#[proc_macro_derive(Sentence)]
pub fn sentence(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    sentence::derive(item.into()).into()
}

/// [`bridge`], with tokens that also exist outside the compiler.
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
