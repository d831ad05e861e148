//! Every refusal: what a block asks for that cannot be bridged, said in words at the place where it stands.
//!
//! Types that rkyv cannot archive are not refused here, where types are only spellings, but by the compiler, through `Transfer`.

use syn::{
    FnArg, GenericParam, Generics, ItemImpl, PatType, Receiver, ReceiverKind, ReturnType, Safety, Signature, Type,
    TypeReference, Visibility, WherePredicate,
};

use crate::model::{Block, Kind, Method};
use crate::parse::{Function, Parsed};
use crate::refusals::Refusals;
use crate::types::{self, Part, spelled};

/// What `Bridge` itself has, and would hide.
const RESERVED: [&str; 9] = ["stop", "kill", "child_pid", "is_alive", "stats", "with_timeout", "view", "begin", "send"];

/// What rkyv's tuples reach.
const MOST_ARGUMENTS: usize = 12;

/// Refuses options that stand where they have no effect, and takes fields off a trait's block.
pub(crate) fn options(parsed: &mut Parsed, refusals: &mut Refusals) {
    let in_trait = parsed.item.trait_.is_some();
    for function in &parsed.functions {
        let Function { vis, sig, options, .. } = function;
        if let (Some(skip), true) = (options.skip, in_trait) {
            refusals.refuse_at(skip, "who has a bridge may call any method of the trait, so none can be left out");
        }
        if let (Some(name), Visibility::Inherited, false) = (&options.rename, vis, in_trait) {
            let why = format!("`{}` is private, so callers know it by no name at all: make it `pub`", sig.ident);
            refusals.refuse(name, why);
        }
    }
    if in_trait {
        let fields = parsed.get.drain(..).chain(parsed.set.drain(..));
        fields.for_each(|field| {
            refusals.refuse(field.ident, "a trait has no fields: ask for this one on the type's own block")
        });
    }
}

/// The block's header is not one that can be bridged, and there is nothing to go on with.
pub(crate) struct BadHeader;

/// Refuses what comes before the braces.
pub(crate) fn header(item: &ItemImpl, refusals: &mut Refusals) -> Result<(), BadHeader> {
    let before = refusals.len();
    if let Some(not) = &item.modifiers.polarity {
        refusals.refuse(not, "there is nothing to call in a negative impl");
    }
    if let Some(keyword) = &item.unsafety {
        refusals.refuse(
            keyword,
            "an unsafe trait makes promises about its own process, which a bridge cannot keep for another",
        );
    }
    for lifetime in item.generics.lifetimes() {
        refusals.refuse(
            lifetime,
            "a bridged type lives in another process, and cannot borrow from this one: it has no lifetimes",
        );
    }
    if refusals.len() == before {
        self_type(&item.self_ty, refusals);
        unconstrained(item, refusals);
    }
    if refusals.len() == before { Ok(()) } else { Err(BadHeader) }
}

fn self_type(ty: &Type, refusals: &mut Refusals) {
    if types::path(ty).is_none() {
        refusals.refuse(ty, "only a type with a name can be bridged: wrap this in a struct");
        return;
    }
    types::look(ty, &mut |part| {
        if let Part::Lifetime(lifetime) = part {
            refusals.refuse(
                lifetime,
                "a bridged type lives in another process, and cannot borrow from this one: it has no lifetimes",
            );
        }
    });
}

/// A trait's own parameters name no single trait that the proxy could have the methods of.
fn unconstrained(item: &ItemImpl, refusals: &mut Refusals) {
    for param in &item.generics.params {
        let name = match param {
            GenericParam::Type(param) => &param.ident,
            GenericParam::Const(param) => &param.ident,
            GenericParam::Lifetime(_) => continue,
        };
        if types::is_word(&item.self_ty, &name.to_string()) {
            refusals.refuse(&item.self_ty, "a trait can be bridged for one type at a time, not for all that there are");
        } else if !types::mentions(&item.self_ty, std::slice::from_ref(name)) {
            refusals.refuse(
                param,
                format!(
                    "`{name}` is not a parameter of the type, so the child cannot know it: name what it stands for"
                ),
            );
        }
    }
}

/// Refuses what the braces hold, and marks the methods concerned.
pub(crate) fn block(block: &mut Block, refusals: &mut Refusals) {
    let in_trait = block.interface().is_some();
    for method in &mut block.methods {
        let before = refusals.len();
        Check { method, in_trait, refusals }.method();
        method.refused = refusals.len() > before;
    }
    names(block, refusals);
    if !in_trait && block.constructors().next().is_none() {
        refusals.refuse(
            &block.item.self_ty,
            format!(
                "`{}` needs a constructor, which makes it in the child: a `pub fn` without `self` that returns `Self` or `Result<Self, ..>`",
                block.service.name
            ),
        );
    }
}

/// Names that callers could not use, or not tell apart.
fn names(block: &mut Block, refusals: &mut Refusals) {
    for at in 0..block.methods.len() {
        if let Some(why) = name_refused(block, at) {
            refusals.refuse(&block.methods[at].shown, why);
            block.methods[at].refused = true;
        }
    }
}

fn name_refused(block: &Block, at: usize) -> Option<String> {
    let method = &block.methods[at];
    let shown = &method.shown;
    if method.kind == Kind::Local {
        return None;
    }
    if method.is_constructor() {
        return builder_refused(block, method, &block.methods[..at]);
    }
    if RESERVED.iter().any(|reserved| shown == reserved) {
        return Some(format!(
            "`{shown}` is a method of `Bridge` itself, which would hide this one: give callers another name with `#[bridge(rename = \"..\")]`"
        ));
    }
    let same = |other: &Method| !other.is_constructor() && clash(other, method);
    block.methods[..at].iter().any(same).then(|| {
        format!("callers would know two methods as `{shown}`: give one another name with `#[bridge(rename = \"..\")]`")
    })
}

/// A builder stands beside the type's own functions.
fn builder_refused(block: &Block, method: &Method, earlier: &[Method]) -> Option<String> {
    let (name, shown) = (method.name(), &method.shown);
    if earlier.iter().any(|other| other.is_constructor() && clash(other, method)) {
        return Some(format!(
            "two builders would be called `{shown}`: give one another name with `#[bridge(rename = \"..\")]`"
        ));
    }
    block.has_function(shown).then(|| {
        format!(
            "the builder for `{name}` would be `{shown}`, and that name is taken in this block: give it another with `#[bridge(rename = \"..\")]`"
        )
    })
}

/// Two of the same name may be meant as one under different conditions.
fn clash(one: &Method, other: &Method) -> bool {
    one.kind != Kind::Local && one.shown == other.shown && one.cfgs().is_empty() && other.cfgs().is_empty()
}

/// The check of one method.
struct Check<'a> {
    method: &'a Method,
    in_trait: bool,
    refusals: &'a mut Refusals,
}

impl Check<'_> {
    fn method(&mut self) {
        let sig = &self.method.sig;
        self.qualifiers(sig);
        self.generics(&sig.generics);
        if self.method.kind == Kind::Local {
            return self.local(sig);
        }
        for input in &sig.inputs {
            match input {
                FnArg::Receiver(receiver) => self.receiver(receiver),
                FnArg::Typed(input) => self.argument(input),
            }
        }
        self.count();
        if let ReturnType::Type(_, ty) = &sig.output
            && !self.method.is_constructor()
        {
            self.output(ty);
        }
    }

    fn qualifiers(&mut self, sig: &Signature) {
        let name = &sig.ident;
        if let Some(keyword) = &sig.asyncness {
            self.refusals.refuse(
                keyword,
                format!(
                    "`{name}` is async, but a call runs to its end in the child: make it a plain `fn` that blocks there"
                ),
            );
        }
        if let Safety::Unsafe(keyword) = &sig.safety {
            self.refusals.refuse(
                keyword,
                format!(
                    "`{name}` is unsafe, and a caller in another process cannot keep what it demands: make it safe"
                ),
            );
        }
        if let Some(abi) = &sig.abi {
            self.refusals
                .refuse(abi, format!("only the bridge calls `{name}`, and it calls as Rust does: leave out the ABI"));
        }
        if let Some(variadic) = &sig.variadic {
            self.refusals.refuse(variadic, "the child must know how many arguments there are");
        }
    }

    fn generics(&mut self, generics: &Generics) {
        for param in &generics.params {
            let name = match param {
                GenericParam::Type(param) => &param.ident,
                GenericParam::Const(param) => &param.ident,
                GenericParam::Lifetime(_) => continue,
            };
            let why = format!(
                "each caller chooses `{name}`, but the child must know it beforehand: name it, or put `{name}` on the impl block"
            );
            self.refusals.refuse(param, why);
        }
        let conditions = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
        for condition in conditions.filter(|condition| !is_harmless(condition)) {
            self.refusals
                .refuse(condition, "a bridged method has no conditions of its own: put this one on the impl block");
        }
    }

    /// A trait's function without `self` is forwarded here, where everything can be passed on except the type itself.
    fn local(&mut self, sig: &Signature) {
        let inputs = sig.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(input) => Some(&*input.ty),
            FnArg::Receiver(_) => None,
        });
        let output = match &sig.output {
            ReturnType::Type(_, ty) => Some(&**ty),
            ReturnType::Default => None,
        };
        for ty in inputs.chain(output) {
            types::look(ty, &mut |part| {
                if let Part::SelfAlone(ty) = part {
                    self.refusals.refuse(ty, self_alone());
                }
            });
        }
    }

    fn receiver(&mut self, receiver: &Receiver) {
        let name = self.method.name();
        match &receiver.kind {
            ReceiverKind::Reference(..) => {}
            ReceiverKind::Value => {
                self.refusals.refuse(receiver, format!("`{name}` would use up the value that the child keeps for all calls: take `&self` or `&mut self`"));
            }
            ReceiverKind::Typed(_, ty) if is_reference_to_self(ty) => {}
            _ => self.refusals.refuse(
                receiver,
                "the child keeps the value itself, so a call reaches it only by `&self` or `&mut self`",
            ),
        }
    }

    fn count(&mut self) {
        let count = self.method.arguments.len();
        if count > MOST_ARGUMENTS {
            let why =
                format!("{count} arguments, but a call has at most {MOST_ARGUMENTS}: put some of them into a struct");
            self.refusals.refuse(self.method.name(), why);
        }
    }

    fn argument(&mut self, input: &PatType) {
        if let Some(attr) =
            input.attrs.iter().find(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr"))
        {
            self.refusals.refuse(attr, "an argument cannot come and go: put the condition on the whole method");
        }
        match types::bare(&input.ty) {
            Type::Reference(reference) => self.borrowed(reference),
            ty => self.inside(ty, Place::Argument),
        }
    }

    fn borrowed(&mut self, reference: &TypeReference) {
        let inner = types::bare(&reference.elem);
        if reference.mutability.is_some() {
            let owned = types::owned_name(inner);
            self.refusals.refuse(
                reference,
                format!("the child would change a copy of its own: take `{owned}` and return it changed"),
            );
        } else if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static") {
            self.refusals.refuse(reference, "the child has the argument for one call only, not for `'static`: leave out the lifetime, or take it by value");
        } else if let Some(owner) = unsized_owner(inner) {
            self.refusals.refuse(reference, format!("only `&str` and slices cross as they are: take `&{owner}`"));
        } else if self.in_trait && types::argument_of(inner, "Archived").is_some() {
            self.refusals.refuse(reference, "the trait's callers have an archive, not the value that a bridge sends: `&Archived<_>` is for the type's own block");
        } else {
            self.inside(inner, Place::Argument);
        }
    }

    fn output(&mut self, ty: &Type) {
        self.inside(ty, Place::Output);
    }

    /// Refuses what cannot be anywhere inside a type that crosses.
    fn inside(&mut self, ty: &Type, place: Place) {
        let in_trait = self.in_trait;
        types::look(ty, &mut |part| match part {
            Part::Reference(reference) => self.refusals.refuse(reference, place.reference(reference)),
            Part::Lifetime(lifetime) => self.refusals.refuse(lifetime, place.lifetime()),
            Part::Pointer(ty) => self.refusals.refuse(ty, "a pointer means nothing in another process: pass the value"),
            Part::Function(ty) => self
                .refusals
                .refuse(ty, "a function pointer means nothing in another process: pass a value that says what to do"),
            Part::Dyn(ty) => self.refusals.refuse(
                ty,
                "what is behind `dyn` is not known, and cannot cross: use an enum or, for an error, its text",
            ),
            Part::Impl(ty) => {
                self.refusals.refuse(ty, "`impl` stands for a type that the other process cannot know: name it")
            }
            Part::Never(ty) => self.refusals.refuse(ty, "every call is answered: return nothing instead of `!`"),
            Part::SelfAlone(ty) if in_trait => self.refusals.refuse(ty, self_alone()),
            Part::SelfAlone(_) => {}
        });
    }
}

fn self_alone() -> &'static str {
    "`Self` would be the bridge here, which cannot cross: a trait with this function cannot be bridged"
}

/// What says only how long things live, or holds for every bridge.
fn is_harmless(condition: &WherePredicate) -> bool {
    match condition {
        WherePredicate::Lifetime(_) => true,
        WherePredicate::Type(condition) => {
            types::is_word(&condition.bounded_ty, "Self") && spelled(&condition.bounds) == "Sized"
        }
        _ => false,
    }
}

/// `self: &Self`, `self: &mut Self`.
fn is_reference_to_self(ty: &Type) -> bool {
    matches!(types::bare(ty), Type::Reference(reference) if types::is_word(&reference.elem, "Self"))
}

/// What to take instead of a reference to what has no size.
fn unsized_owner(ty: &Type) -> Option<&'static str> {
    let last = types::path(ty)?.segments.last()?;
    [("Path", "PathBuf"), ("OsStr", "OsString"), ("CStr", "CString")]
        .into_iter()
        .find(|(name, _)| last.ident == name)
        .map(|(_, owner)| owner)
}

/// Where a type stands.
#[derive(Clone, Copy)]
enum Place {
    Argument,
    Output,
}

impl Place {
    fn reference(self, reference: &TypeReference) -> String {
        let owned = types::owned_name(&reference.elem);
        match self {
            Place::Argument => {
                format!("a reference crosses only as a whole argument, not inside of one: use `{owned}` here")
            }
            Place::Output => format!("a reply cannot refer to memory of the child: return `{owned}`"),
        }
    }

    fn lifetime(self) -> &'static str {
        match self {
            Place::Argument => "a type that borrows cannot be an argument: use one that owns",
            Place::Output => "a type that borrows cannot be a reply: use one that owns",
        }
    }
}
