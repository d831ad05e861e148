//! What can be called in a block: one [`MethodModel`] each, with everything that the later steps need.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::{
    Attribute, Field, FnArg, GenericArgument, Generics, Ident, ImplItem, ItemImpl, Pat, PatType, Path, PathArguments,
    ReceiverKind, ReturnType, Signature, Type, Visibility, parse_quote,
};

use crate::callback::{self, CallbackArgument};
use crate::parse::{Function, Parsed};
use crate::stream::{self, Borrowing};
use crate::types::{self, SelfType};

/// A block that has been read.
pub(crate) struct ImplBlock {
    /// The block, to be emitted unchanged.
    pub(crate) item: ItemImpl,
    /// The user's type.
    pub(crate) service: ServiceModel,
    /// What `Self` stands for, and the trait if the block implements one.
    pub(crate) self_type: SelfType,
    /// What can be called, in order. It includes the entries of the table, and a trait's functions without `self`, which have no index there.
    pub(crate) methods: Vec<MethodModel>,
}

/// The user's type.
pub(crate) struct ServiceModel {
    /// With its arguments: `inner::Stack<T>`.
    pub(crate) ty: Type,
    /// Its path without arguments: `inner::Stack`.
    pub(crate) path: Path,
    /// The last segment of its path: `Stack`.
    pub(crate) name: Ident,
}

/// A method, function, constructor or field that can be called.
pub(crate) struct MethodModel {
    pub(crate) kind: MethodKind,
    /// The name for callers: the proxy's method, or the builder.
    pub(crate) shown: Ident,
    /// Position in the block's table.
    pub(crate) index: u16,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    /// The signature as written; a made-up one for a field.
    pub(crate) sig: Signature,
    /// Those that cross.
    pub(crate) arguments: Vec<Argument>,
    /// Those that stay with the caller.
    pub(crate) callbacks: Vec<CallbackArgument>,
    /// The return type; `()` if there is none. Of a stream, the type of its items; of an async method, what its future gives.
    pub(crate) output: Type,
    /// What its iterator may borrow, if it returns one.
    pub(crate) stream: Option<Borrowing>,
    /// Whether it gives a future: an `async fn`, or one that returns `impl Future`.
    pub(crate) is_async: bool,
    /// The position of `idempotent`: the call may run again if the child dies in it.
    pub(crate) idempotent: Option<Span>,
    /// Whether [`check`](crate::check) refused it.
    pub(crate) refused: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MethodKind {
    /// No `self`, returns `Self`, or a `Result` of it if it can fail.
    Constructor { can_fail: bool },
    /// With `self`.
    Method,
    /// No `self`, in the type's own block: runs in the child.
    Function,
    /// No `self`, in a trait's block: runs in the caller.
    Local,
    /// Reads this field.
    Get(Ident),
    /// Writes this field.
    Set(Ident),
}

/// One argument.
pub(crate) struct Argument {
    /// A plain name, even if the user's function has a pattern there.
    pub(crate) name: Ident,
    pub(crate) passing: Passing,
    /// The type that crosses: `T` of `T` and `&T`, `str`, the element of a slice.
    pub(crate) ty: Type,
}

/// How an argument crosses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passing {
    /// `T`: archived, then deserialised.
    Value,
    /// `&T`: likewise, then lent to the method.
    Borrowed,
    /// `&str`: read in place.
    Text,
    /// `&[u64]` and similar: read in place.
    Native,
    /// `&[T]`: archived, deserialised, then lent to the method.
    Slice,
    /// `&Archived<T>`: read in place; the caller passes `&T`.
    Archived,
}

impl ImplBlock {
    /// Lists what can be called. The header must have passed [`check::header`](crate::check::header).
    pub(crate) fn read(parsed: Parsed) -> ImplBlock {
        let Parsed { item, functions, get, set, root: _ } = parsed;
        let service = ServiceModel::read(&item.self_ty);
        let self_type = SelfType::new(&service.ty, item.trait_.as_ref().map(|(path, _)| path), constants(&item));
        let of_trait = self_type.interface.is_some();
        let mut methods: Vec<MethodModel> = functions
            .into_iter()
            .filter(|function| of_trait || is_bridged(function))
            .map(|function| MethodModel::read(function, &self_type))
            .chain(get.into_iter().map(|field| MethodModel::getter(field, &self_type)))
            .chain(set.into_iter().map(|field| MethodModel::setter(field, &self_type)))
            .collect();
        number(&mut methods);
        ImplBlock { item, service, self_type, methods }
    }

    /// What the child answers, in order.
    pub(crate) fn crossing(&self) -> impl Iterator<Item = &MethodModel> {
        self.methods.iter().filter(|method| method.kind != MethodKind::Local)
    }

    pub(crate) fn constructors(&self) -> impl Iterator<Item = &MethodModel> {
        self.crossing().filter(|method| method.is_constructor())
    }

    /// The methods of the proxy.
    pub(crate) fn proxied(&self) -> impl Iterator<Item = &MethodModel> {
        self.crossing().filter(|method| !method.is_constructor())
    }

    /// The trait that the block implements, if any.
    pub(crate) fn interface(&self) -> Option<&Path> {
        self.self_type.interface.as_ref()
    }

    /// The path of the proxy: beside the type's own block; for a trait's block, beside the type.
    pub(crate) fn proxy(&self) -> Path {
        let name = self.service.proxy_name();
        if self.interface().is_none() {
            return name.into();
        }
        let mut path = self.service.path.clone();
        path.segments.last_mut().expect("a path has a last word").ident = name;
        path
    }

    /// Whether the block has a function or constant with this name.
    pub(crate) fn has_function(&self, name: &Ident) -> bool {
        let name = name.unraw();
        self.item.items.iter().any(|item| match item {
            ImplItem::Fn(function) => function.sig.ident.unraw() == name,
            ImplItem::Const(constant) => constant.ident.unraw() == name,
            _ => false,
        })
    }

    /// Whether any of its methods is async, under whatever condition.
    pub(crate) fn is_async(&self) -> bool {
        self.crossing().any(|method| method.is_async)
    }

    pub(crate) fn generics(&self) -> &Generics {
        &self.item.generics
    }

    /// The block's `cfg` attributes.
    pub(crate) fn cfgs(&self) -> Vec<&Attribute> {
        cfgs(&self.item.attrs)
    }
}

/// Numbers the entries of the table.
fn number(methods: &mut [MethodModel]) {
    let crossing = methods.iter_mut().filter(|method| method.kind != MethodKind::Local);
    for (index, method) in (0..).zip(crossing) {
        method.index = index;
    }
}

fn is_bridged(function: &Function) -> bool {
    !matches!(function.vis, Visibility::Inherited) && function.options.skip.is_none()
}

fn constants(item: &ItemImpl) -> Vec<Ident> {
    let constant = |item: &ImplItem| match item {
        ImplItem::Const(constant) => Some(constant.ident.clone()),
        _ => None,
    };
    item.items.iter().filter_map(constant).collect()
}

impl ServiceModel {
    fn read(ty: &Type) -> ServiceModel {
        let mut path = types::path(ty).expect("the header was checked").clone();
        let last = path.segments.last_mut().expect("a path has a last word");
        last.arguments = PathArguments::None;
        let name = last.ident.clone();
        ServiceModel { ty: types::bare(ty).clone(), path, name }
    }

    /// The proxy's name: `CounterCalls`.
    pub(crate) fn proxy_name(&self) -> Ident {
        format_ident!("{}Calls", self.name)
    }

    /// The type's generic arguments in this block.
    pub(crate) fn arguments(&self) -> Vec<&GenericArgument> {
        let last = types::path(&self.ty).and_then(|path| path.segments.last());
        match last.map(|last| &last.arguments) {
            Some(PathArguments::AngleBracketed(arguments)) => arguments.args.iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl MethodModel {
    fn read(function: Function, self_type: &SelfType) -> MethodModel {
        let Function { attrs, vis, sig, options } = function;
        let kind = kind(&sig, self_type);
        let shown = options.rename.unwrap_or_else(|| match kind {
            MethodKind::Constructor { .. } => builder_name(&sig.ident),
            _ => sig.ident.clone(),
        });
        MethodModel { shown, idempotent: options.idempotent, ..MethodModel::new(kind, attrs, vis, sig, self_type) }
    }

    fn getter(field: Field, self_type: &SelfType) -> MethodModel {
        let (name, ty) = (field_name(&field), &field.ty);
        let sig = parse_quote!(fn #name(&self) -> #ty);
        MethodModel::new(MethodKind::Get(name), field.attrs, or_public(field.vis), sig, self_type)
    }

    fn setter(field: Field, self_type: &SelfType) -> MethodModel {
        let (name, ty) = (field_name(&field), &field.ty);
        let setter = format_ident!("set_{}", name.unraw(), span = name.span());
        let sig = parse_quote!(fn #setter(&mut self, value: #ty));
        MethodModel::new(MethodKind::Set(name), field.attrs, or_public(field.vis), sig, self_type)
    }

    fn new(
        kind: MethodKind,
        attrs: Vec<Attribute>,
        vis: Visibility,
        sig: Signature,
        self_type: &SelfType,
    ) -> MethodModel {
        let future = types::future_of(&sig);
        let is_async = sig.asyncness.is_some() || future.is_some();
        // A trait's would be its own type, which a bridge does not have.
        let stream = stream::returned(&sig).filter(|_| self_type.interface.is_none() && !is_async);
        let output = match (stream, future, &sig.output) {
            (Some((item, _)), ..) => self_type.in_type(item),
            (None, Some(ty), _) => self_type.in_type(ty),
            (None, None, ReturnType::Default) => parse_quote!(()),
            (None, None, ReturnType::Type(_, ty)) => self_type.in_type(ty),
        };
        let stream = stream.map(|(_, borrowing)| borrowing);
        let (shown, (arguments, callbacks)) = (sig.ident.clone(), arguments(&sig, self_type));
        let (index, idempotent, refused) = (0, None, false);
        MethodModel {
            kind,
            shown,
            index,
            attrs,
            vis,
            sig,
            arguments,
            callbacks,
            output,
            stream,
            is_async,
            idempotent,
            refused,
        }
    }

    pub(crate) fn is_constructor(&self) -> bool {
        matches!(self.kind, MethodKind::Constructor { .. })
    }

    /// Something for each argument, in the order in which the method takes them. The functions get its number among those of its sort.
    pub(crate) fn in_order<R>(
        &self,
        argument: impl Fn(usize, &Argument) -> R,
        callback: impl Fn(usize, &CallbackArgument) -> R,
    ) -> Vec<R> {
        let mut all: Vec<R> = self.arguments.iter().enumerate().map(|(number, of)| argument(number, of)).collect();
        for (number, of) in self.callbacks.iter().enumerate() {
            all.insert(of.position, callback(number, of));
        }
        all
    }

    /// Whether the method takes `&mut self`.
    pub(crate) fn is_exclusive(&self) -> bool {
        match self.sig.receiver().map(|receiver| &receiver.kind) {
            Some(ReceiverKind::Reference(_, _, mutability)) => mutability.is_some(),
            Some(ReceiverKind::Typed(_, ty)) => {
                matches!(types::bare(ty), Type::Reference(reference) if reference.mutability.is_some())
            }
            _ => false,
        }
    }

    /// The name in the user's code.
    pub(crate) fn name(&self) -> &Ident {
        &self.sig.ident
    }

    /// An expression for whether its conditions hold.
    fn is_there(&self) -> TokenStream {
        let conditions =
            self.cfgs().into_iter().filter_map(|attr| attr.meta.require_list().ok()).map(|list| &list.tokens);
        quote!(::core::cfg!(all(#(#conditions),*)))
    }

    /// The method's `cfg` attributes.
    pub(crate) fn cfgs(&self) -> Vec<&Attribute> {
        cfgs(&self.attrs)
    }
}

/// An expression for whether any of these methods is there, which the compiler knows and the macro does not; `None` if there are no such methods.
pub(crate) fn are_there<'a>(methods: impl Iterator<Item = &'a MethodModel>) -> Option<TokenStream> {
    methods.map(|method| method.is_there()).reduce(|one, other| quote!(#one || #other))
}

fn cfgs(attrs: &[Attribute]) -> Vec<&Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).collect()
}

fn field_name(field: &Field) -> Ident {
    field.ident.clone().expect("parsed as a named field")
}

fn or_public(vis: Visibility) -> Visibility {
    match vis {
        Visibility::Inherited => parse_quote!(pub),
        vis => vis,
    }
}

/// `new` becomes `bridge`, `with_x` becomes `bridge_with_x`.
fn builder_name(constructor: &Ident) -> Ident {
    if constructor.unraw() == "new" {
        Ident::new("bridge", constructor.span())
    } else {
        format_ident!("bridge_{}", constructor.unraw(), span = constructor.span())
    }
}

fn kind(sig: &Signature, self_type: &SelfType) -> MethodKind {
    if sig.receiver().is_some() {
        return MethodKind::Method;
    }
    if self_type.interface.is_some() {
        return MethodKind::Local;
    }
    match &sig.output {
        ReturnType::Type(_, ty) if is_self(ty, self_type) => MethodKind::Constructor { can_fail: false },
        ReturnType::Type(_, ty) if types::argument_of(ty, "Result").is_some_and(|ty| is_self(ty, self_type)) => {
            MethodKind::Constructor { can_fail: true }
        }
        _ => MethodKind::Function,
    }
}

/// Whether the type is `Self`, or spelled like the block's type.
fn is_self(ty: &Type, self_type: &SelfType) -> bool {
    let spelling = |ty: &Type| types::bare(ty).to_token_stream().to_string();
    types::is_word(ty, "Self") || spelling(ty) == spelling(&self_type.ty)
}

fn arguments(sig: &Signature, self_type: &SelfType) -> (Vec<Argument>, Vec<CallbackArgument>) {
    let inputs = || sig.inputs.iter().filter_map(typed);
    let mut taken: Vec<Ident> = inputs().filter_map(|input| written_name(&input.pat)).collect();
    let (mut arguments, mut callbacks) = (Vec::new(), Vec::new());
    for (position, input) in inputs().enumerate() {
        let name = plain_name(&input.pat, position, &taken);
        taken.push(name.clone());
        if let Some(callback) = callback::read(&input.ty) {
            callbacks.push(callback.named(name, position, |ty| self_type.in_type(ty)));
            continue;
        }
        let (passing, ty) = passing(&input.ty);
        arguments.push(Argument { name, passing, ty: self_type.in_type(ty) });
    }
    (arguments, callbacks)
}

/// An argument other than `self`.
fn typed(input: &FnArg) -> Option<&PatType> {
    match input {
        FnArg::Typed(input) => Some(input),
        FnArg::Receiver(_) => None,
    }
}

fn written_name(pattern: &Pat) -> Option<Ident> {
    match pattern {
        Pat::Ident(pattern) => Some(pattern.ident.clone()),
        _ => None,
    }
}

/// A name for the argument: `n` for `mut n` and `_n`, `arg0` for a pattern.
fn plain_name(pattern: &Pat, position: usize, taken: &[Ident]) -> Ident {
    match written_name(pattern) {
        Some(name) => used_name(&name).filter(|used| !types::is_among(used, taken)).unwrap_or(name),
        None => free_name(format_ident!("arg{position}"), taken),
    }
}

/// The name without the leading underscore, which marks it as unused in the user's body: the proxy does use it.
fn used_name(name: &Ident) -> Option<Ident> {
    let text = name.to_string();
    let mut used: Ident = syn::parse_str(text.strip_prefix('_')?).ok()?;
    used.set_span(name.span());
    Some(used)
}

/// The name, with underscores appended until nothing else has it.
pub(crate) fn free_name(name: Ident, taken: &[Ident]) -> Ident {
    if types::is_among(&name, taken) { free_name(format_ident!("{name}_"), taken) } else { name }
}

pub(crate) fn passing(ty: &Type) -> (Passing, &Type) {
    let Type::Reference(reference) = types::bare(ty) else {
        return (Passing::Value, ty);
    };
    match types::bare(&reference.elem) {
        ty if types::is_word(ty, "str") => (Passing::Text, ty),
        Type::Slice(slice) if types::is_native(&slice.elem) => (Passing::Native, &slice.elem),
        Type::Slice(slice) => (Passing::Slice, &slice.elem),
        ty => match types::argument_of(ty, "Archived") {
            Some(ty) => (Passing::Archived, ty),
            None => (Passing::Borrowed, ty),
        },
    }
}
