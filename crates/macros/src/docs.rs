//! Documentation of generated items, so that a user's rustdoc reads as if written by hand, and the other attributes that are copied.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, Token};

use crate::model::{ImplBlock, MethodKind, MethodModel};
use crate::types::spelled;

/// With `&self`, these are too many arguments for clippy, which would then report the user's own function.
const CLIPPYS_MANY: usize = 7;

/// Documentation of the proxy.
pub(crate) fn proxy(block: &ImplBlock) -> TokenStream {
    let service = spelled(&block.service.ty);
    lines(&[
        &format!("The calls of a `{service}` in a child process: a method for each of its own."),
        "",
        &format!("A [`Bridge<{service}>`](::__callgate::Bridge) derefs to this. `M` says how a call is made, and"),
        "`M::Out<R>` is what one that returns `R` gives: `Result<R, CallError>` on the bridge itself.",
    ])
}

/// Documentation of a proxy's method: the user's, or else what it calls.
pub(crate) fn call(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let service = spelled(&block.service.path);
    let written = written(method).map(|attr| with_self_named(attr, &service));
    let in_short = (!is_documented(method)).then(|| call_in_short(block, method));
    let others = others(method);
    quote!(#(#written)* #in_short #others)
}

fn call_in_short(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (service, name) = (spelled(&block.service.path), plain(method.name()));
    let text = match (&method.kind, block.interface()) {
        (MethodKind::Get(field), _) => format!("Returns a copy of the field `{}`.", plain(field)),
        (MethodKind::Set(field), _) => format!("Sets the field `{}`.", plain(field)),
        (_, Some(interface)) => format!("Calls `{}::{name}` of the `{service}` in the child.", spelled(interface)),
        (_, None) => format!("Calls `{service}::{name}` in the child."),
    };
    lines(&[&text])
}

/// Documentation of a builder: its purpose, then the user's text for the constructor.
pub(crate) fn builder(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (service, name) = (plain(&block.service.name), method.name());
    let link = format!("[`{}`](Self::{name})", plain(name));
    let first = lines(&[&format!("Prepares a bridge to a `{service}` that {link} will make in a child process.")]);
    let more = is_documented(method).then(|| lines(&[""]));
    let (written, others) = (written(method), others(method));
    quote!(#first #more #(#written)* #others)
}

/// Whether the method has text of its own, and not just a setting such as `#[doc(hidden)]`.
fn is_documented(method: &MethodModel) -> bool {
    written(method).any(|attr| matches!(attr.meta, Meta::NameValue(_)))
}

fn written(method: &MethodModel) -> impl Iterator<Item = &Attribute> {
    method.attrs.iter().filter(|attr| is_doc(attr))
}

/// Whether the attribute is `#[doc ..]` or `#[cfg_attr(.., doc ..)]`.
fn is_doc(attr: &Attribute) -> bool {
    let conditional = || {
        let metas = attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
        Some(metas.iter().skip(1).all(|meta| meta.path().is_ident("doc")))
    };
    attr.path().is_ident("doc") || (attr.path().is_ident("cfg_attr") && conditional().unwrap_or(false))
}

/// Points links through `Self::` at the type, which has more items than the proxy.
fn with_self_named(attr: &Attribute, service: &str) -> TokenStream {
    match &attr.meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().contains("Self::") => {
                lines(&[&text.value().replace("Self::", &format!("{service}::"))])
            }
            _ => attr.to_token_stream(),
        },
        _ => attr.to_token_stream(),
    }
}

/// The attributes that apply to the copy as well: allowed lints, deprecation, conditions.
fn others(method: &MethodModel) -> TokenStream {
    let allowed = allowed(&method.attrs);
    let many = (method.arguments.len() >= CLIPPYS_MANY).then(|| quote!(#[allow(clippy::too_many_arguments)]));
    let kept = method.attrs.iter().filter(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("deprecated"));
    quote!(#(#kept)* #allowed #many)
}

/// `#[allow(..)]` and `#[expect(..)]` as `#[allow(..)]`, because the lint need not fire on the copy.
pub(crate) fn allowed(attrs: &[Attribute]) -> TokenStream {
    let lists = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::List(list) if list.path.is_ident("allow") || list.path.is_ident("expect") => Some(&list.tokens),
        _ => None,
    });
    quote!(#(#[allow(#lists)])*)
}

fn lines(lines: &[&str]) -> TokenStream {
    quote!(#(#[doc = #lines])*)
}

/// The name without `r#`.
pub(crate) fn plain(name: &syn::Ident) -> String {
    name.unraw().to_string()
}
