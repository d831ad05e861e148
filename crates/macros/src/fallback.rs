//! What stands in for a block of which something was refused, so that the rest of the program has what it refers to, and its author
//! sees the mistake alone.
//!
//! Methods in order are what they would be. The others take whatever they are given, and nothing is ever answered: this code never runs.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Path, Type, parse_quote};

use crate::docs;
use crate::expand::{builders, drop_in, generics, hidden, proxy, service};
use crate::model::{Block, Method};
use crate::types::{self, Part};

/// The block itself, and stand-ins.
pub(crate) fn block(block: &Block) -> TokenStream {
    let item = &block.item;
    let stand_ins = match block.interface() {
        None => Some(of_type(block)),
        Some(_) => of_trait(block),
    };
    quote!(#item #stand_ins)
}

fn of_type(block: &Block) -> TokenStream {
    let proxy = proxy::declaration(block);
    let builders = builders::around(block, &one_of_each(block.constructors(), |method| builder(block, method)));
    let calls = proxy::around(block, &one_of_each(block.proxied(), |method| call(block, method)));
    let service = service::around(block, &no_answers());
    let hidden = hidden(block, quote!(#builders #calls #service));
    quote!(#proxy #hidden)
}

/// The trait's own signatures; what hides its type behind `impl` cannot be stood in for.
fn of_trait(block: &Block) -> Option<TokenStream> {
    let hides = block.methods.iter().any(|method| has(&method.output, |part| matches!(part, Part::Impl(_))));
    (!hides).then(|| {
        let drop_in = drop_in::drop_in(block, nothing);
        hidden(block, quote!(#drop_in))
    })
}

/// A name that is used twice was refused, and stands for the first.
fn one_of_each<'a>(methods: impl Iterator<Item = &'a Method>, write: impl Fn(&Method) -> TokenStream) -> TokenStream {
    let mut seen = Vec::new();
    let mut first = |method: &&Method| {
        let is_new = !seen.contains(&method.shown);
        seen.push(method.shown.clone());
        is_new
    };
    methods.filter(|method| first(method) || !method.cfgs().is_empty()).map(write).collect()
}

fn builder(block: &Block, method: &Method) -> TokenStream {
    if !method.refused {
        return builders::builder(block, method);
    }
    if block.has_function(&method.shown) {
        return TokenStream::new();
    }
    let (docs, vis, shown, anything) = (docs::builder(block, method), &method.vis, &method.shown, anything(method));
    let ty = &block.service.ty;
    quote!(#docs #vis fn #shown(#anything) -> ::callgate::__glue::Builder<#ty> { ::core::unreachable!() })
}

fn call(block: &Block, method: &Method) -> TokenStream {
    let mode = generics::mode(block);
    if !method.refused {
        return proxy::call(block, method, &mode);
    }
    let (docs, vis, shown, anything) = (docs::call(block, method), &method.vis, &method.shown, anything(method));
    let output = output(&method.output);
    quote!(#docs #vis fn #shown(&self, #anything) -> #mode::Out<#output> { ::core::unreachable!() })
}

/// Arguments of whatever type.
fn anything(method: &Method) -> TokenStream {
    let arguments = method.arguments.iter().map(|_| quote!(_: impl Sized));
    quote!(#(#arguments),*)
}

/// The type itself if it could cross, or else what is most like it.
fn output(ty: &Type) -> Type {
    match types::bare(ty) {
        ty if !has(ty, |_| true) => ty.clone(),
        Type::Reference(reference) if !has(&reference.elem, |_| true) => types::owned(&reference.elem),
        _ => parse_quote!(()),
    }
}

fn has(ty: &Type, is_meant: impl Fn(Part<'_>) -> bool) -> bool {
    let mut found = false;
    types::look(ty, &mut |part| found |= is_meant(part));
    found
}

fn no_answers() -> TokenStream {
    quote! {
        fn fingerprint(_: ::callgate::__glue::Fingerprint) -> ::callgate::__glue::Fingerprint { ::core::unreachable!() }
        fn construct(_: ::callgate::__glue::Incoming<'_, '_>) -> ::core::option::Option<Self> { ::core::unreachable!() }
        fn dispatch(&mut self, _: ::callgate::__glue::Incoming<'_, '_>) { ::core::unreachable!() }
    }
}

fn nothing(_: &Block, _: &Path, method: &Method) -> TokenStream {
    let arguments = method.arguments.iter().map(|argument| &argument.name);
    quote!(let _ = (#(#arguments,)*); ::core::unreachable!())
}
