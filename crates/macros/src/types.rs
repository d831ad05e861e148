//! Inspects types as they are spelled, and replaces `Self` in them.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{
    Expr, ExprPath, GenericArgument, Path, PathArguments, ReturnType, Signature, Type, TypeParamBound, TypePath,
    TypeSlice, parse_quote,
};

/// Element types whose slices are read in place, because they have the same bytes in an archive as in memory.
const NATIVE: [&str; 13] = ["bool", "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128", "f32", "f64"];

/// Further names that occur only in types that can cross if their arguments can.
const WELL_KNOWN: [&str; 52] = [
    "usize",
    "isize",
    "char",
    "str",
    "String",
    "CString",
    "Vec",
    "VecDeque",
    "Option",
    "Result",
    "Box",
    "PhantomData",
    "Duration",
    "NonZero",
    "NonZeroUsize",
    "NonZeroIsize",
    "NonZeroU8",
    "NonZeroU16",
    "NonZeroU32",
    "NonZeroU64",
    "NonZeroU128",
    "NonZeroI8",
    "NonZeroI16",
    "NonZeroI32",
    "NonZeroI64",
    "NonZeroI128",
    "Range",
    "RangeInclusive",
    "RangeFrom",
    "RangeTo",
    "RangeToInclusive",
    "RangeFull",
    "Bound",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
    "std",
    "core",
    "alloc",
    "string",
    "vec",
    "option",
    "result",
    "num",
    "ops",
    "net",
    "time",
    "ffi",
    "marker",
];

/// Types that can cross if and only if all of their arguments can.
const TRANSPARENT: [&str; 4] = ["Vec", "VecDeque", "Option", "Box"];

/// The type without parentheses, including the invisible ones that `macro_rules!` puts around `$t:ty`.
pub(crate) fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        ty => ty,
    }
}

/// The path of the type, if it is a plain path: no `<T as Trait>::`.
pub(crate) fn path(ty: &Type) -> Option<&Path> {
    match bare(ty) {
        Type::Path(TypePath { qself: None, path, .. }) => Some(path),
        _ => None,
    }
}

/// Whether the type is this one word.
pub(crate) fn is_word(ty: &Type, word: &str) -> bool {
    path(ty).and_then(Path::get_ident).is_some_and(|ident| ident.unraw() == word)
}

pub(crate) fn is_native(ty: &Type) -> bool {
    NATIVE.iter().any(|name| is_word(ty, name))
}

/// Whether the type uses only well-known names: `Option<Vec<u8>>`.
pub(crate) fn is_well_known(tokens: impl ToTokens) -> bool {
    tokens.into_token_stream().into_iter().all(|token| match token {
        TokenTree::Group(group) => is_well_known(group.stream()),
        TokenTree::Ident(ident) => NATIVE.iter().chain(&WELL_KNOWN).any(|name| ident == name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => true,
    })
}

/// The types that decide whether the type can cross: `T` for `Vec<Option<T>>`, otherwise the type itself.
pub(crate) fn leaves(ty: &Type) -> Vec<&Type> {
    match bare(ty) {
        Type::Tuple(tuple) => tuple.elems.iter().flat_map(leaves).collect(),
        Type::Array(array) => leaves(&array.elem),
        Type::Slice(slice) => leaves(&slice.elem),
        ty => match TRANSPARENT.iter().find_map(|name| argument_of(ty, name)) {
            Some(inner) => leaves(inner),
            None => vec![ty],
        },
    }
}

/// The `T` of a path that ends in `name<T, ..>`.
pub(crate) fn argument_of<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let last = path(ty)?.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if last.ident.unraw() == name => Some(ty),
        _ => None,
    }
}

/// What the future gives that a function declares to return: `R` of `impl Future<Output = R> + Send`.
pub(crate) fn future_of(sig: &Signature) -> Option<&Type> {
    let ReturnType::Type(_, ty) = &sig.output else { return None };
    let Type::ImplTrait(hidden) = bare(ty) else { return None };
    hidden.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) => output_of(bound.path.segments.last()?),
        _ => None,
    })
}

/// `R` of `Future<Output = R>`.
fn output_of(last: &syn::PathSegment) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().filter(|_| last.ident == "Future").find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(&output.ty),
        _ => None,
    })
}

/// The owned type for a reference to `ty`, which can cross: `String` for `str`.
pub(crate) fn owned(ty: &Type) -> Type {
    let last = path(ty).and_then(|path| path.segments.last()).map(|last| last.ident.to_string());
    match (bare(ty), last.as_deref()) {
        (_, Some("str" | "Path")) => parse_quote!(::std::string::String),
        (Type::Slice(TypeSlice { elem, .. }), _) => parse_quote!(::std::vec::Vec<#elem>),
        (ty, _) => ty.clone(),
    }
}

/// The name of [`owned`], for messages.
pub(crate) fn owned_name(ty: &Type) -> String {
    let full = spelled(owned(ty));
    match full.strip_prefix("::std::").and_then(|rest| rest.split_once("::")) {
        Some((_, name)) => name.to_owned(),
        None => full,
    }
}

/// Whether any of `names` occurs in the tokens.
pub(crate) fn mentions(tokens: impl ToTokens, names: &[Ident]) -> bool {
    tokens.into_token_stream().into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Ident(ident) => is_among(&ident, names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Whether one of `names` is the same to the compiler: `r#n` is `n`.
pub(crate) fn is_among(name: &Ident, names: &[Ident]) -> bool {
    let name = name.unraw();
    names.iter().any(|other| other.unraw() == name)
}

/// The tokens as a person would type them: `Option<&str>`, not `Option < & str >`.
pub(crate) fn spelled(tokens: impl ToTokens) -> String {
    let mut text = String::new();
    for token in tokens.into_token_stream() {
        let next = match &token {
            TokenTree::Group(group) => grouped(group),
            token => token.to_string(),
        };
        if needs_space(text.chars().last(), &next) {
            text.push(' ');
        }
        text.push_str(&next);
    }
    text
}

fn grouped(group: &Group) -> String {
    let inner = spelled(group.stream());
    match group.delimiter() {
        Delimiter::Parenthesis => format!("({inner})"),
        Delimiter::Bracket => format!("[{inner}]"),
        Delimiter::Brace => format!("{{{inner}}}"),
        Delimiter::None => inner,
    }
}

/// Whether to put a space before `next`: between words, after separators, around `+` and `=`.
fn needs_space(before: Option<char>, next: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts_word = next.starts_with(is_word) || next.starts_with('[');
    match before {
        None => false,
        Some(',' | ';' | '+' | '=') => true,
        Some(before) => matches!(next, "+" | "=") || (starts_word && (is_word(before) || before == '>')),
    }
}

/// What `Self` stands for in a block.
pub(crate) struct SelfType {
    /// The type of the block.
    pub(crate) ty: Type,
    /// The trait that the block implements, with `Self` already replaced.
    pub(crate) interface: Option<Path>,
    /// The constants that the block declares.
    pub(crate) constants: Vec<Ident>,
}

impl SelfType {
    pub(crate) fn new(ty: &Type, interface: Option<&Path>, constants: Vec<Ident>) -> SelfType {
        let mut self_type = SelfType { ty: ty.clone(), interface: None, constants };
        self_type.interface = interface.map(|path| self_type.replaced(path, Replace::visit_path_mut));
        self_type
    }

    /// A copy with `Self` replaced, so that it means the same in another block.
    pub(crate) fn replaced<'a, T: Clone>(&'a self, within: &T, visit: impl FnOnce(&mut Replace<'a>, &mut T)) -> T {
        let mut within = within.clone();
        visit(&mut Replace(self), &mut within);
        within
    }

    /// [`replaced`](Self::replaced) for a type.
    pub(crate) fn in_type(&self, ty: &Type) -> Type {
        self.replaced(ty, Replace::visit_type_mut)
    }

    /// The qualified form of `Self::Name`: `<Circle as Shape>::Name`.
    fn qualified(&self, rest: &Path, through_trait: bool) -> TokenStream {
        let span = rest.segments[0].ident.span();
        let ty = respanned(self.ty.to_token_stream(), span);
        let rest = rest.segments.iter().skip(1);
        match &self.interface {
            Some(interface) if through_trait => {
                let interface = respanned(interface.to_token_stream(), span);
                quote_spanned!(span=> <#ty as #interface> #(::#rest)*)
            }
            _ => quote_spanned!(span=> <#ty> #(::#rest)*),
        }
    }
}

/// Replaces `Self` by the type, and `Self::Name` by the qualified path.
pub(crate) struct Replace<'a>(&'a SelfType);

impl VisitMut for Replace<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        match path(ty).filter(|path| starts_with_self(path)) {
            Some(path) if path.segments.len() == 1 => {
                let tokens = respanned(self.0.ty.to_token_stream(), path.segments[0].ident.span());
                *ty = parse_quote!(#tokens);
            }
            Some(path) => {
                let tokens = self.0.qualified(path, true);
                *ty = parse_quote!(#tokens);
            }
            None => syn::visit_mut::visit_type_mut(self, ty),
        }
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Path(ExprPath { qself: None, path, .. }) if starts_with_self(path) && path.segments.len() > 1 => {
                let declared = is_among(&path.segments[1].ident, &self.0.constants);
                let tokens = self.0.qualified(path, declared);
                *expr = parse_quote!(#tokens);
            }
            expr => syn::visit_mut::visit_expr_mut(self, expr),
        }
    }
}

fn starts_with_self(path: &Path) -> bool {
    path.segments.first().is_some_and(|first| first.ident == "Self")
}

/// The tokens, which the compiler shows at `span` but resolves where they were written.
fn respanned(tokens: TokenStream, span: Span) -> TokenStream {
    tokens
        .into_iter()
        .map(|mut token| {
            if let TokenTree::Group(group) = &token {
                token = TokenTree::Group(Group::new(group.delimiter(), respanned(group.stream(), span)));
            }
            token.set_span(token.span().located_at(span));
            token
        })
        .collect()
}

/// Walks through a type and reports each outermost part that may need a refusal.
pub(crate) fn look<'a>(ty: &'a Type, found: &mut impl FnMut(TypePart<'a>)) {
    TypeVisitor(found).visit_type(ty);
}

/// A part of a type that may need a refusal.
pub(crate) enum TypePart<'a> {
    Reference(&'a syn::TypeReference),
    Pointer(&'a Type),
    Function(&'a Type),
    Dyn(&'a Type),
    Impl(&'a Type),
    Never(&'a Type),
    /// `Self` as the whole type.
    SelfAlone(&'a Type),
    /// A type's lifetime argument other than `'static`.
    Lifetime(&'a syn::Lifetime),
}

struct TypeVisitor<'f, F>(&'f mut F);

impl<'a, F: FnMut(TypePart<'a>)> Visit<'a> for TypeVisitor<'_, F> {
    fn visit_type(&mut self, ty: &'a Type) {
        match ty {
            Type::Reference(reference) => (self.0)(TypePart::Reference(reference)),
            Type::Ptr(_) => (self.0)(TypePart::Pointer(ty)),
            Type::FnPtr(_) => (self.0)(TypePart::Function(ty)),
            Type::TraitObject(_) => (self.0)(TypePart::Dyn(ty)),
            Type::ImplTrait(_) => (self.0)(TypePart::Impl(ty)),
            Type::Never(_) => (self.0)(TypePart::Never(ty)),
            ty if is_word(ty, "Self") => (self.0)(TypePart::SelfAlone(ty)),
            ty => syn::visit::visit_type(self, ty),
        }
    }

    fn visit_lifetime(&mut self, lifetime: &'a syn::Lifetime) {
        if lifetime.ident != "static" {
            (self.0)(TypePart::Lifetime(lifetime));
        }
    }

    /// An array's length is not a type.
    fn visit_expr(&mut self, _: &'a Expr) {}
}
