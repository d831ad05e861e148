//! Reads the attribute and its block, and removes `#[bridge(..)]` from the methods.
//!
//! Checks nothing but its own options; [`check`](crate::check) does the rest.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Error, Expr, ExprLit, Field, Ident, ImplItem, Item, ItemImpl, Lit, Meta, Path, Signature, Token,
    Visibility,
};

use crate::refusals::Refusals;
use crate::root::{self, Root};

/// A block as the user wrote it.
pub(crate) struct Parsed {
    /// The block, without this macro's attributes.
    pub(crate) item: ItemImpl,
    /// Its functions, in order.
    pub(crate) functions: Vec<Function>,
    /// Fields listed in `get(..)`.
    pub(crate) get: Vec<Field>,
    /// Fields listed in `set(..)`.
    pub(crate) set: Vec<Field>,
    /// The path to callgate.
    pub(crate) root: Root,
}

/// A function of the block, without its body.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) options: Options,
}

/// The options in a method's `#[bridge(..)]`.
#[derive(Default)]
pub(crate) struct Options {
    /// The position of `skip`.
    pub(crate) skip: Option<Span>,
    /// The name for callers.
    pub(crate) rename: Option<Ident>,
    /// The position of `idempotent`.
    pub(crate) idempotent: Option<Span>,
}

/// Reads a block. Refuses anything that is not an impl block and returns `None`.
pub(crate) fn block(options: TokenStream, item: TokenStream, refusals: &mut Refusals) -> Option<Parsed> {
    let mut item = match syn::parse2::<Item>(item) {
        Ok(Item::Impl(item)) => item,
        _ => {
            refusals.refuse_at(
                Span::call_site(),
                "`#[bridge]` goes on an impl block: `impl Counter { .. }` or `impl Shape for Counter { .. }`",
            );
            return None;
        }
    };
    let functions = functions(&mut item, refusals);
    let mut parsed = Parsed { item, functions, get: Vec::new(), set: Vec::new(), root: Root::default() };
    for option in options_in(options, refusals) {
        block_option(&mut parsed, &option).unwrap_or_else(|error| refusals.push(error));
    }
    Some(parsed)
}

/// Reads the functions, and removes their own options from the block.
fn functions(item: &mut ItemImpl, refusals: &mut Refusals) -> Vec<Function> {
    let mut functions = Vec::new();
    for item in &mut item.items {
        if let ImplItem::Fn(function) = item {
            let options = method_options(&mut function.attrs, refusals);
            functions.push(Function {
                attrs: function.attrs.clone(),
                vis: function.vis.clone(),
                sig: function.sig.clone(),
                options,
            });
        }
    }
    functions
}

fn method_options(attrs: &mut Vec<Attribute>, refusals: &mut Refusals) -> Options {
    let mut options = Options::default();
    for attr in attrs.extract_if(.., |attr| is_bridge(attr.path())) {
        match &attr.meta {
            Meta::List(list) => {
                for option in options_in(list.tokens.clone(), refusals) {
                    method_option(&mut options, &option).unwrap_or_else(|error| refusals.push(error));
                }
            }
            other => refusals
                .refuse(other, "on a method, this needs an option: `#[bridge(skip)]`, `#[bridge(idempotent)]` or `#[bridge(rename = \"..\")]`"),
        }
    }
    options
}

/// `bridge`, `callgate::bridge`, ..
fn is_bridge(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "bridge")
}

fn options_in(tokens: TokenStream, refusals: &mut Refusals) -> Vec<Meta> {
    match Punctuated::<Meta, Token![,]>::parse_terminated.parse2(tokens) {
        Ok(options) => options.into_iter().collect(),
        Err(error) => {
            refusals.push(error);
            Vec::new()
        }
    }
}

fn block_option(parsed: &mut Parsed, option: &Meta) -> syn::Result<()> {
    if root::is_crate(option) {
        parsed.root = Root::of_option(option)?;
        return Ok(());
    }
    let into = match name_of(option).as_str() {
        "get" => &mut parsed.get,
        "set" => &mut parsed.set,
        "skip" | "rename" | "idempotent" => {
            return Err(refusal(option, "this goes on a method of the block, not on the block"));
        }
        name => return Err(unknown(option, name, "`get(field: Type)`, `set(field: Type)` and `crate = path`")),
    };
    let Meta::List(list) = option else {
        return Err(refusal(option, "this needs fields and their types, as in `get(total: u64)`"));
    };
    let fields =
        |input: ParseStream<'_>| Punctuated::<Field, Token![,]>::parse_terminated_with(input, Field::parse_named);
    into.extend(list.parse_args_with(fields)?);
    Ok(())
}

fn method_option(options: &mut Options, option: &Meta) -> syn::Result<()> {
    match (name_of(option).as_str(), option) {
        ("skip", Meta::Path(path)) => options.skip = path.get_ident().map(Ident::span),
        ("skip", _) => return Err(refusal(option, "`skip` takes no value")),
        ("idempotent", Meta::Path(path)) => options.idempotent = path.get_ident().map(Ident::span),
        ("idempotent", _) => return Err(refusal(option, "`idempotent` takes no value")),
        ("rename", Meta::NameValue(pair)) => options.rename = Some(name_in(&pair.value)?),
        ("rename", _) => return Err(refusal(option, "`rename` needs a name, as in `rename = \"halt\"`")),
        _ if root::is_crate(option) => {
            return Err(refusal(option, "this goes on the block, as in `#[bridge(crate = cg)] impl ..`"));
        }
        ("get" | "set", _) => {
            return Err(refusal(option, "this goes on the block, as in `#[bridge(get(total: u64))] impl ..`"));
        }
        (name, _) => return Err(unknown(option, name, "`skip`, `idempotent` and `rename = \"..\"`")),
    }
    Ok(())
}

fn name_in(value: &Expr) -> syn::Result<Ident> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text
            .parse()
            .map_err(|_| Error::new(text.span(), format!("`{}` cannot be the name of a method", text.value()))),
        other => Err(refusal(other, "`rename` needs a name in quotes, as in `rename = \"halt\"`")),
    }
}

fn name_of(option: &Meta) -> String {
    option.path().get_ident().map(ToString::to_string).unwrap_or_default()
}

fn unknown(option: &Meta, name: &str, known: &str) -> Error {
    refusal(option.path(), &format!("there is no option `{name}` here, only {known}"))
}

fn refusal(tokens: impl ToTokens, why: &str) -> Error {
    Error::new_spanned(tokens, why)
}
