//! Checks a block: refuses everything that cannot be bridged, with a reason, at the place where it stands.
//!
//! Types that rkyv cannot archive are not refused here, where types are only spellings; the compiler refuses them, through `Transfer`.

mod signature;

use syn::ext::IdentExt;
use syn::{GenericParam, ItemImpl, Type, Visibility};

use crate::docs::plain;
use crate::model::{ImplBlock, MethodKind, MethodModel};
use crate::parse::{Function, Parsed};
use crate::refusals::Refusals;
use crate::types::{self, TypePart};

/// Names of methods of `Bridge` and `AsyncBridge`, which would hide a user's.
const RESERVED: [&str; 18] = [
    "stop",
    "kill",
    "child_pid",
    "is_alive",
    "stats",
    "with_timeout",
    "view",
    "begin",
    "send",
    "flush",
    "batch",
    "as_async",
    "into_async",
    "as_blocking",
    "clear_doorbell",
    "generation",
    "restart",
    "sandbox_report",
];

/// Methods that any type or reference has from traits in every scope: `bridge.clone()`, for example, would copy the reference. In a trait, generic
/// code reaches methods with such names all the same, except for `drop`.
const TAKEN: [&str; 8] = ["drop", "clone", "clone_from", "to_owned", "clone_into", "into", "try_into", "deref"];

/// What to do about a name that cannot be used.
const RENAME: &str = "give callers another name with `#[bridge(rename = \"..\")]`";

/// Why a type with a lifetime is refused.
const BORROWS: &str = "a bridged type lives in another process, and cannot borrow from this one: it has no lifetimes";

/// Refuses options without effect, and removes fields from a trait's block.
pub(crate) fn options(parsed: &mut Parsed, refusals: &mut Refusals) {
    let in_trait = parsed.item.trait_.is_some();
    for Function { vis, sig, options, .. } in &parsed.functions {
        if let (Some(skip), true) = (options.skip, in_trait) {
            refusals.refuse_at(skip, "who has a bridge may call any method of the trait, so none can be left out");
        }
        if let (Some(promise), Visibility::Inherited, false) = (options.idempotent, vis, in_trait) {
            refusals
                .refuse_at(promise, format!("`{}` is private, so nobody calls it: make it `pub`", plain(&sig.ident)));
        }
        if let (Some(name), Visibility::Inherited, false) = (&options.rename, vis, in_trait) {
            let why =
                format!("`{}` is private, so callers know it by no name at all: make it `pub`", plain(&sig.ident));
            refusals.refuse(name, why);
        }
    }
    if in_trait {
        for field in parsed.get.drain(..).chain(parsed.set.drain(..)) {
            refusals.refuse(field.ident, "a trait has no fields: ask for this one on the type's own block");
        }
    }
}

/// The block's header cannot be bridged, so nothing more can be checked.
pub(crate) struct BadHeader;

/// Checks everything before the braces.
pub(crate) fn header(item: &ItemImpl, refusals: &mut Refusals) -> Result<(), BadHeader> {
    let before = refusals.len();
    if let Some(not) = &item.modifiers.polarity {
        refusals.refuse(not, "there is nothing to call in a negative impl");
    }
    if let Some(keyword) = &item.unsafety {
        refusals.refuse(keyword, "an unsafe trait promises something of its own process, and a bridge is to another");
    }
    for lifetime in item.generics.lifetimes() {
        refusals.refuse(lifetime, BORROWS);
    }
    if refusals.len() == before {
        self_type(&item.self_ty, refusals);
        parameters(item, refusals);
    }
    if refusals.len() == before { Ok(()) } else { Err(BadHeader) }
}

fn self_type(ty: &Type, refusals: &mut Refusals) {
    if types::path(ty).is_none() {
        return refusals.refuse(ty, "only a type with a name can be bridged: wrap this in a struct");
    }
    types::look(ty, &mut |part| {
        if let TypePart::Lifetime(lifetime) = part {
            refusals.refuse(lifetime, BORROWS);
        }
    });
}

/// Refuses parameters that are not the type's: a proxy has the methods of one trait for one type.
fn parameters(item: &ItemImpl, refusals: &mut Refusals) {
    for param in &item.generics.params {
        let name = match param {
            GenericParam::Type(param) => &param.ident,
            GenericParam::Const(param) => &param.ident,
            GenericParam::Lifetime(_) => continue,
        };
        if types::is_word(&item.self_ty, &plain(name)) {
            refusals.refuse(&item.self_ty, "a trait can be bridged for one type at a time, not for all that there are");
        } else if !types::mentions(&item.self_ty, std::slice::from_ref(name)) {
            let why = format!("`{name}` is no parameter of the type, so the child cannot know it: say what it is here");
            refusals.refuse(param, why);
        }
    }
}

/// Checks everything inside the braces, and marks the methods that are refused.
pub(crate) fn block(block: &mut ImplBlock, refusals: &mut Refusals) {
    let in_trait = block.interface().is_some();
    for method in &mut block.methods {
        let before = refusals.len();
        signature::check(method, in_trait, refusals);
        idempotent(method, refusals);
        method.refused = refusals.len() > before;
    }
    blocking(block, refusals);
    conversing(block, refusals);
    names(block, refusals);
    if !in_trait && block.constructors().next().is_none() {
        let (name, way_out) =
            (plain(&block.service.name), "a `pub fn` without `self` that returns `Self` or `Result<Self, ..>`");
        refusals.refuse(&block.item.self_ty, format!("the child needs a way to make its `{name}`: {way_out}"));
    }
}

/// Refuses plain methods of a trait that also has async ones: only an `AsyncBridge` implements it, and a task that called them would block.
fn blocking(block: &mut ImplBlock, refusals: &mut Refusals) {
    if block.interface().is_none() || !block.is_async() {
        return;
    }
    for method in block.methods.iter_mut().filter(|method| method.kind == MethodKind::Method && !method.is_async) {
        let why = "but other methods of this trait are async: a task that called it through a bridge would block, so make it `async`, \
                   or put it into another trait";
        refusals.refuse(method.name(), format!("`{}` is not async, {why}", plain(method.name())));
        method.refused = true;
    }
}

/// Refuses methods beside async ones that return iterators or call back: both need their lane's requests in order.
fn conversing(block: &mut ImplBlock, refusals: &mut Refusals) {
    if !block.is_async() {
        return;
    }
    for method in block.methods.iter_mut().filter(|method| !method.refused) {
        let what = match (method.stream.is_some(), method.callbacks.is_empty()) {
            (true, _) => "returns an iterator",
            (_, false) => "calls back",
            _ => continue,
        };
        let why =
            "but the service has async methods, so its calls are tasks, which cannot: put it into another service";
        refusals.refuse(method.name(), format!("`{}` {what}, {why}", plain(method.name())));
        method.refused = true;
    }
}

/// Refuses `idempotent` where nothing is called a second time.
fn idempotent(method: &MethodModel, refusals: &mut Refusals) {
    let why = match method.kind {
        MethodKind::Constructor { .. } => {
            "every child that takes over from one that died is made by its constructor anyway"
        }
        MethodKind::Local => "this runs in the caller, where nothing is tried again",
        _ if method.stream.is_some() => "a stream ends with the child that it comes from: nothing opens it again",
        _ => return,
    };
    if let Some(promise) = method.idempotent {
        refusals.refuse_at(promise, why);
    }
}

/// Refuses names that callers could not use or tell apart.
fn names(block: &mut ImplBlock, refusals: &mut Refusals) {
    for at in 0..block.methods.len() {
        let method = &block.methods[at];
        let why = match method.kind {
            MethodKind::Local => None,
            MethodKind::Constructor { .. } => builder_name(block, method, &block.methods[..at]),
            _ => call_name(method, block.interface().is_some(), &block.methods[..at]),
        };
        if let Some(why) = why {
            refusals.refuse(&method.shown, why);
            block.methods[at].refused = true;
        }
    }
}

fn call_name(method: &MethodModel, in_trait: bool, earlier: &[MethodModel]) -> Option<String> {
    // To the compiler, `r#stop` and `stop` are the same name.
    let shown = plain(&method.shown);
    if TAKEN.contains(&shown.as_str()) && (!in_trait || shown == "drop") {
        return Some(format!("`bridge.{shown}()` means something else, as it does for any type: {RENAME}"));
    }
    if RESERVED.contains(&shown.as_str()) {
        return Some(format!("`Bridge` keeps the name `{shown}` for itself: {RENAME}"));
    }
    let is_same =
        |other: &MethodModel| !other.is_constructor() && other.kind != MethodKind::Local && clash(other, method);
    earlier.iter().any(is_same).then(|| format!("callers know another method as `{shown}`: {RENAME}"))
}

/// Checks a builder's name, which must be free among the type's own functions.
fn builder_name(block: &ImplBlock, method: &MethodModel, earlier: &[MethodModel]) -> Option<String> {
    let (name, shown) = (plain(method.name()), plain(&method.shown));
    let is_same = |other: &MethodModel| other.is_constructor() && clash(other, method);
    let is_taken = block.has_function(&method.shown) || earlier.iter().any(is_same);
    is_taken.then(|| format!("the builder for `{name}` would be a second `{shown}` of this type: {RENAME}"))
}

/// Whether two methods clash. Under different conditions, they may be meant as one.
fn clash(one: &MethodModel, other: &MethodModel) -> bool {
    one.shown.unraw() == other.shown.unraw() && one.cfgs().is_empty() && other.cfgs().is_empty()
}
