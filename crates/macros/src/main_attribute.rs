//! `#[callgate::main]`: calls `callgate::init()` before anything else in a program's `main`.
//!
//! The function becomes the inner one of two functions that are both called `main`. The outer one is the program's: it calls `init` and then the
//! inner one, which keeps the attributes below this one. So a runtime's attribute builds its runtime only in a process that is not a child.

use proc_macro2::TokenStream;
use quote::quote;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, FnArg, ItemFn, Meta, Path, Safety, Signature, Token};

use crate::refusals::Refusals;
use crate::root::{self, Root};
use crate::with_errors;

/// The compiler's own attributes: none of them turns an async function into a plain one.
const BUILT_IN: &[&str] = &[
    "allow",
    "cfg",
    "cold",
    "deny",
    "deprecated",
    "doc",
    "expect",
    "forbid",
    "inline",
    "must_use",
    "track_caller",
    "warn",
];

/// Tools whose attributes the compiler ignores.
const TOOLS: &[&str] = &["clippy", "diagnostic", "miri", "rust_analyzer", "rustdoc", "rustfmt"];

/// The path to callgate, from the attribute's options.
fn root(options: TokenStream) -> syn::Result<Root> {
    const KNOWN: &str = "the only option is `crate`, the path of callgate where the dependency has another name: \
                         `#[callgate::main(crate = cg)]`";
    if options.is_empty() {
        return Ok(Root::default());
    }
    match syn::parse2::<Meta>(options.clone()) {
        Ok(option) if root::is_crate(&option) => Root::of_option(&option),
        Ok(option) => Err(Error::new_spanned(option.path(), KNOWN)),
        Err(_) => Err(Error::new_spanned(options, KNOWN)),
    }
}

/// Expands `#[callgate::main(options)]` on `item`.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut refusals = Refusals::default();
    let root = root(options).map_err(|error| refusals.push(error));
    let Ok(function) = syn::parse2::<ItemFn>(item.clone()) else {
        refusals.refuse(first(&item), "`#[callgate::main]` stands above the program's `fn main()`, which this is not");
        return with_errors(&refusals, item);
    };
    if function.sig.ident != "main" {
        let why =
            format!("`#[callgate::main]` stands above the program's `fn main()`, and this is `{}`", function.sig.ident);
        refusals.refuse(&function.sig.ident, why);
        return with_errors(&refusals, item);
    }
    check(&function, &mut refusals);
    match root {
        Ok(root) if refusals.is_empty() => program(root.path(), function),
        _ => with_errors(
            &refusals,
            quote!(
                fn main() {}
            ),
        ),
    }
}

fn program(callgate: &Path, function: ItemFn) -> TokenStream {
    let ItemFn { attrs, vis, sig, block, .. } = function;
    let (outer, inner): (Vec<Attribute>, Vec<_>) = attrs.into_iter().partition(is_of_the_program);
    let Signature { ident, output, .. } = &sig;
    // No semicolon: a `main` that no attribute has made a plain function returns a future, which is a type error here.
    quote! {
        #(#outer)*
        #vis fn #ident() #output {
            #(#inner)*
            #sig #block
            #callgate::init();
            #ident()
        }
    }
}

/// Whether the attribute belongs on the program's function and not on its body.
fn is_of_the_program(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc") || attribute.path().is_ident("cfg")
}

/// Whether the attribute belongs to neither the compiler nor a tool: it may turn the function into another.
fn is_foreign(attribute: &Attribute) -> bool {
    let path = attribute.path();
    let is_tools = || path.segments.len() > 1 && TOOLS.iter().any(|tool| path.segments[0].ident == tool);
    !BUILT_IN.iter().any(|name| path.is_ident(name)) && !is_tools()
}

fn check(function: &ItemFn, refusals: &mut Refusals) {
    let ItemFn { attrs, sig, .. } = function;
    let is_turned = attrs.iter().any(is_foreign);
    if let Some(word) = sig.asyncness.filter(|_| !is_turned) {
        let why = "an async `main` takes a runtime: put its attribute below this one, as in \
                   `#[callgate::main] #[tokio::main] async fn main()`";
        refusals.refuse(word, why);
    }
    if let Safety::Unsafe(word) = &sig.safety {
        refusals.refuse(word, "`main` cannot be unsafe");
    }
    if let Some(abi) = &sig.abi {
        refusals
            .refuse(abi, "`#[callgate::main]` stands above Rust's `main`: in another call `callgate::init()` first");
    }
    if let Some(word) = &sig.constness {
        refusals.refuse(word, "a `main` that calls `callgate::init()` cannot be const");
    }
    if !sig.generics.params.is_empty() {
        refusals.refuse(&sig.generics.params, "`main` has no parameters: the system calls it");
    } else if let Some(clause) = &sig.generics.where_clause {
        refusals.refuse(clause, "`main` has no parameters: the system calls it");
    }
    // A foreign attribute may be the one that uses the arguments.
    if !sig.inputs.is_empty() && !is_turned {
        let inputs: &Punctuated<FnArg, Token![,]> = &sig.inputs;
        refusals.refuse(inputs, "`main` takes no arguments: `std::env::args()` has the program's");
    }
}

/// The first token, at which an error about the whole item points.
fn first(item: &TokenStream) -> TokenStream {
    item.clone().into_iter().take(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_33_an_async_main_without_a_runtime_is_no_program() {
        let refused = |item| expand(TokenStream::new(), item).to_string().contains("takes a runtime");
        assert!(refused(quote!(
            #[rustfmt::skip]
            #[clippy::msrv = "1.85"]
            #[allow(unused)]
            async fn main() {}
        )));
        let maybe = quote!(
            #[cfg_attr(feature = "rt", tokio::main)]
            async fn main() {}
        );
        assert!(!refused(maybe.clone()));
        // The outer function would return the future.
        let program = expand(TokenStream::new(), maybe).to_string().replace(' ', "");
        assert!(program.ends_with("::init();main()}"), "{program}");
    }
}
