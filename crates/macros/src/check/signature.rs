//! Checks the signature of one method.

use quote::ToTokens;
use syn::{
    BoundLifetimes, FnArg, GenericParam, Generics, PatType, Receiver, ReceiverKind, ReturnType, Safety, Signature,
    Type, TypeReference, WherePredicate,
};

use crate::callback::{self, CallbackType};
use crate::docs::plain;
use crate::model::{MethodKind, MethodModel};
use crate::refusals::Refusals;
use crate::stream;
use crate::types::{self, TypePart, spelled};

/// The largest tuple that rkyv supports.
const MOST_ARGUMENTS: usize = 12;

/// Checks the signature of `method`.
pub(crate) fn check(method: &MethodModel, in_trait: bool, refusals: &mut Refusals) {
    SignatureCheck { method, in_trait, refusals }.signature(&method.sig);
}

struct SignatureCheck<'a> {
    method: &'a MethodModel,
    in_trait: bool,
    refusals: &'a mut Refusals,
}

impl SignatureCheck<'_> {
    fn signature(&mut self, sig: &Signature) {
        self.qualifiers(sig);
        self.generics(&sig.generics);
        if self.method.kind == MethodKind::Local {
            return self.local(sig);
        }
        for input in &sig.inputs {
            match input {
                FnArg::Receiver(receiver) => self.receiver(receiver),
                FnArg::Typed(input) => self.argument(input),
            }
        }
        self.count();
        let is_constructor = self.method.is_constructor();
        match (types::future_of(sig), returned(sig), stream::returned(sig)) {
            (Some(ty), ..) if !is_constructor => self.inside(ty, TypePlace::Output),
            (None, Some(ty), Some(_)) if self.in_trait => self.refuse(ty, STREAM_OF_TRAIT),
            (None, _, Some((item, _))) => self.inside(item, TypePlace::Output),
            (None, Some(ty), None) if !is_constructor => self.inside(ty, TypePlace::Output),
            _ => {}
        }
    }

    fn qualifiers(&mut self, sig: &Signature) {
        let name = plain(&sig.ident);
        if let (Some(keyword), true) = (&sig.asyncness, self.method.is_constructor()) {
            let why =
                "but there are no tasks in the child before it has its service: make it a plain `fn` that blocks there";
            self.refuse(keyword, format!("`{name}` is async, {why}"));
        }
        if let Safety::Unsafe(keyword) = &sig.safety {
            let why = "and a caller in another process cannot keep what it demands: make it safe";
            self.refuse(keyword, format!("`{name}` is unsafe, {why}"));
        }
        if let Some(abi) = &sig.abi {
            self.refuse(abi, format!("only the bridge calls `{name}`, and it calls as Rust does: leave out the ABI"));
        }
        if let Some(variadic) = &sig.variadic {
            self.refuse(variadic, "the child must know how many arguments there are: name each of them");
        }
    }

    fn generics(&mut self, generics: &Generics) {
        for param in &generics.params {
            let name = match param {
                GenericParam::Type(param) => &param.ident,
                GenericParam::Const(param) => &param.ident,
                GenericParam::Lifetime(_) => continue,
            };
            let way_out = format!("say what it is, or put `{name}` on the impl block");
            self.refuse(
                param,
                format!("each caller chooses `{name}`, but the child must know it beforehand: {way_out}"),
            );
        }
        let conditions = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
        for condition in conditions.filter(|condition| !is_harmless(condition)) {
            self.refuse(condition, "a bridged method has no conditions of its own: put this one on the impl block");
        }
    }

    /// Checks a trait's function without `self`, which is forwarded in the caller: its types can be anything except `Self` itself.
    fn local(&mut self, sig: &Signature) {
        let inputs = sig.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(input) => Some(&*input.ty),
            FnArg::Receiver(_) => None,
        });
        for ty in inputs.chain(returned(sig)) {
            types::look(ty, &mut |part| {
                if let TypePart::SelfAlone(ty) = part {
                    self.refuse(ty, SELF_ALONE);
                }
            });
        }
    }

    fn receiver(&mut self, receiver: &Receiver) {
        match &receiver.kind {
            ReceiverKind::Reference(..) => {}
            ReceiverKind::Typed(_, ty) if is_reference_to_self(ty) => {}
            _ => self.refuse(receiver, "the child keeps the value for all calls: take `&self` or `&mut self`"),
        }
    }

    fn count(&mut self) {
        let count = self.method.arguments.len();
        if count > MOST_ARGUMENTS {
            let way_out = "put some of them into a struct";
            let why = format!("{count} arguments, but a call has at most {MOST_ARGUMENTS}: {way_out}");
            self.refuse(self.method.name(), why);
        }
    }

    fn argument(&mut self, input: &PatType) {
        let is_condition = |attr: &&syn::Attribute| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr");
        if let Some(attr) = input.attrs.iter().find(is_condition) {
            self.refuse(attr, "an argument cannot come and go: put the condition on the whole method");
        }
        match callback::read(&input.ty) {
            Some(callback) => self.callback(&input.ty, callback),
            None => self.crosses(&input.ty),
        }
    }

    fn crosses(&mut self, ty: &Type) {
        match types::bare(ty) {
            Type::Reference(reference) => self.borrowed(reference),
            ty => self.inside(ty, TypePlace::Argument),
        }
    }

    fn callback(&mut self, ty: &Type, callback: CallbackType<'_>) {
        if self.method.is_constructor() {
            return self.refuse(ty, "a constructor may run again, when its caller is gone: it has no callbacks");
        }
        for other in &callback.others {
            self.refuse(
                other,
                "a callback stays on the thread that calls the method, and only the method uses it: leave this out",
            );
        }
        for param in &callback.params {
            self.callback_lifetime(param, callback.lifetimes);
            let archived = |ty| types::argument_of(types::bare(ty), "Archived").is_some();
            match types::bare(param) {
                Type::Reference(reference) if archived(&reference.elem) => {
                    self.refuse(param, "a callback gets values: leave out the `Archived`");
                }
                _ => self.crosses(param),
            }
        }
        if self.method.is_async {
            self.refuse(ty, "an async method leaves its thread while it waits, and could not be answered there: make it a plain `fn`");
        }
        if self.method.stream.is_some() {
            self.refuse(ty, "an iterator that a method returns outlives its call, and so nobody would run this: return what it gives");
        }
        if callback.params.len() > MOST_ARGUMENTS {
            let why = format!("a callback has at most {MOST_ARGUMENTS} arguments: put some of them into a struct");
            self.refuse(ty, why);
        }
        callback.output.into_iter().for_each(|ty| self.inside(ty, TypePlace::Output));
    }

    /// Refuses the lifetime of a trait's method in what a callback is called with: the trait's callers have a callback for this lifetime alone, and a bridge
    /// calls it with what lives as long as the call.
    fn callback_lifetime(&mut self, param: &Type, declared: Option<&BoundLifetimes>) {
        let Type::Reference(TypeReference { lifetime: Some(lifetime), .. }) = types::bare(param) else { return };
        let is_declared =
            |param: &GenericParam| matches!(param, GenericParam::Lifetime(param) if param.lifetime == *lifetime);
        let is_any =
            lifetime.ident == "_" || declared.is_some_and(|declared| declared.lifetimes.iter().any(is_declared));
        if self.in_trait && lifetime.ident != "static" && !is_any {
            let why =
                "is the method's, but a callback has what it is called with for one call only: leave out the lifetime";
            self.refuse(lifetime, format!("`{lifetime}` {why}"));
        }
    }

    fn borrowed(&mut self, reference: &TypeReference) {
        let inner = types::bare(&reference.elem);
        let owned = types::owned_name(inner);
        if reference.mutability.is_some() {
            self.refuse(
                reference,
                format!("the child would change its own copy: take `{owned}` and return it changed"),
            );
        } else if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static") {
            self.refuse(reference, "the child has an argument for one call only: leave out the `'static`");
        } else if self.method.stream.is_some() && types::argument_of(inner, "Archived").is_some() {
            self.refuse(
                reference,
                "a stream keeps its arguments, and the archive is there for one call only: take the value",
            );
        } else if self.in_trait && types::argument_of(inner, "Archived").is_some() {
            self.refuse(reference, "a trait's callers have only the archive, but a bridge sends what it was made from");
        } else {
            self.inside(inner, TypePlace::Argument);
        }
    }

    /// Refuses every part of `ty` that cannot cross.
    fn inside(&mut self, ty: &Type, place: TypePlace) {
        types::look(ty, &mut |part| match part {
            TypePart::Reference(reference) => self.refuse(reference, place.reference(reference)),
            TypePart::Lifetime(lifetime) => self.refuse(lifetime, place.lifetime()),
            TypePart::Pointer(ty) => self.refuse(ty, "a pointer means nothing in another process: pass the value"),
            TypePart::Function(ty) => self.refuse(
                ty,
                "a function has no address in another process: take `&mut dyn FnMut(..)`, which calls back",
            ),
            TypePart::Dyn(ty) => {
                self.refuse(ty, "what is behind `dyn` is not known: use an enum or, for an error, its text")
            }
            TypePart::Impl(ty) if callback::read(ty).is_some() => self
                .refuse(ty, "an iterator cannot be part of a value: let it stand alone, and give errors as its items"),
            TypePart::Impl(ty) => self.refuse(ty, "the other process cannot know the type behind `impl`: name it"),
            TypePart::Never(ty) => self.refuse(ty, "every call is answered: return nothing instead of `!`"),
            TypePart::SelfAlone(ty) if self.in_trait => self.refuse(ty, SELF_ALONE),
            TypePart::SelfAlone(_) => {}
        });
    }

    fn refuse(&mut self, tokens: impl ToTokens, why: impl std::fmt::Display) {
        self.refusals.refuse(tokens, why);
    }
}

const SELF_ALONE: &str = "`Self` would be the bridge, which cannot cross: a trait with this function cannot be bridged";

const STREAM_OF_TRAIT: &str = "a bridge has items that may fail to come, and the trait wants this very iterator: put the method on the type's own block";

fn returned(sig: &Signature) -> Option<&Type> {
    match &sig.output {
        ReturnType::Type(_, ty) => Some(ty),
        ReturnType::Default => None,
    }
}

/// Whether the condition concerns only lifetimes, or holds for every bridge.
fn is_harmless(condition: &WherePredicate) -> bool {
    match condition {
        WherePredicate::Lifetime(_) => true,
        WherePredicate::Type(condition) => {
            types::is_word(&condition.bounded_ty, "Self") && spelled(&condition.bounds) == "Sized"
        }
        _ => false,
    }
}

/// Whether the receiver's type is `&Self` or `&mut Self`.
fn is_reference_to_self(ty: &Type) -> bool {
    matches!(types::bare(ty), Type::Reference(reference) if types::is_word(&reference.elem, "Self"))
}

#[derive(Clone, Copy)]
enum TypePlace {
    Argument,
    Output,
}

impl TypePlace {
    fn reference(self, reference: &TypeReference) -> String {
        let owned = types::owned_name(&reference.elem);
        match self {
            TypePlace::Argument => {
                format!("a reference crosses as a whole argument, not inside of one: use `{owned}` here")
            }
            TypePlace::Output => format!("a reply cannot refer to memory of the child: return `{owned}`"),
        }
    }

    fn lifetime(self) -> &'static str {
        match self {
            TypePlace::Argument => "a type that borrows cannot be an argument: use one that owns",
            TypePlace::Output => "a type that borrows cannot be a reply: use one that owns",
        }
    }
}
