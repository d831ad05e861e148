//! Stand-ins for a block with refusals, so that the rest of the program finds what it refers to, and the author sees only the mistake.
//!
//! Accepted methods look as usual. Refused ones take the arguments they were written with. Nothing is ever answered: this code never runs.

use proc_macro2::TokenStream;
use quote::quote;
use syn::visit_mut::VisitMut;
use syn::{FnArg, Generics, ReturnType, Type, parse_quote};

use crate::docs;
use crate::expand::{builders, drop_in, generics, hidden, proxy, service};
use crate::model::{ImplBlock, MethodModel};
use crate::types::{self, TypePart};

/// Writes the block itself and the stand-ins.
pub(crate) fn block(mut block: ImplBlock) -> TokenStream {
    let in_trait = block.interface().is_some();
    for method in block.methods.iter_mut().filter(|method| method.refused) {
        // The drop-in keeps the signatures as written, without requirements on their types.
        method.output = if in_trait { parse_quote!(()) } else { output(method) };
        method.arguments.clear();
        method.callbacks.clear();
    }
    let item = &block.item;
    let stand_ins = match block.interface() {
        None => Some(of_type(&block)),
        Some(_) => of_trait(&block),
    };
    quote!(#item #stand_ins)
}

/// The return type if it could cross; otherwise the closest type that can.
fn output(method: &MethodModel) -> Type {
    let own: Vec<_> = method.sig.generics.type_params().map(|param| param.ident.clone()).collect();
    let can_cross = |ty: &Type| !types::mentions(ty, &own) && !has(ty, |_| true);
    match types::bare(&method.output) {
        ty if can_cross(ty) => ty.clone(),
        Type::Reference(reference) if can_cross(&reference.elem) => types::owned(&reference.elem),
        _ => parse_quote!(()),
    }
}

fn of_type(block: &ImplBlock) -> TokenStream {
    let proxy = proxy::declaration(block);
    let builders = builders::around(block, &one_of_each(block.constructors(), |method| builder(block, method)));
    let calls = proxy::around(block, &one_of_each(block.proxied(), |method| call(block, method)));
    let service = service::around(block, &no_answers());
    let hidden = hidden(block, quote!(#builders #calls #service));
    quote!(#proxy #hidden)
}

/// The trait's own signatures. A type hidden behind `impl` has no stand-in.
fn of_trait(block: &ImplBlock) -> Option<TokenStream> {
    let hides = block.methods.iter().any(|method| match &method.sig.output {
        ReturnType::Type(_, ty) => has(ty, |part| matches!(part, TypePart::Impl(_))),
        ReturnType::Default => false,
    });
    (!hides).then(|| {
        let drop_in = drop_in::drop_in(block, |_, _, _| quote!(::core::unreachable!()));
        hidden(block, quote!(#[allow(unused_variables)] #drop_in))
    })
}

/// One method for each name: a name used twice was refused, and stands for its first use.
fn one_of_each<'a>(
    methods: impl Iterator<Item = &'a MethodModel>,
    write: impl Fn(&MethodModel) -> TokenStream,
) -> TokenStream {
    let mut seen = Vec::new();
    let mut first = |method: &&MethodModel| {
        let is_new = !types::is_among(&method.shown, &seen);
        seen.push(method.shown.clone());
        is_new
    };
    methods.filter(|method| first(method) || !method.cfgs().is_empty()).map(write).collect()
}

fn builder(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    if !method.refused {
        return builders::builder(block, method);
    }
    if block.has_function(&method.shown) {
        return TokenStream::new();
    }
    let (docs, vis, shown, ty) = (docs::builder(block, method), &method.vis, &method.shown, &block.service.ty);
    let (generics, parameters) = written(block, method);
    let (own, _, conditions) = generics.split_for_impl();
    quote! {
        #docs
        #vis fn #shown #own(#(#parameters),*) -> ::__callgate::__codegen::Builder<#ty> #conditions { ::core::unreachable!() }
    }
}

fn call(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let mode = generics::mode(block);
    if !method.refused {
        return proxy::call(block, method, &mode);
    }
    let (docs, vis, shown, output) = (docs::call(block, method), &method.vis, &method.shown, &method.output);
    let ((generics, parameters), (out, _)) = (written(block, method), proxy::way(method));
    let (own, _, conditions) = generics.split_for_impl();
    quote! {
        #docs
        #vis fn #shown #own(&self, #(#parameters),*) -> #mode::#out<#output> #conditions { ::core::unreachable!() }
    }
}

/// The method's own generics and parameters, which may be anything that a function can have.
fn written(block: &ImplBlock, method: &MethodModel) -> (Generics, Vec<FnArg>) {
    let sig = block.self_type.replaced(&method.sig, |replace, sig| replace.visit_signature_mut(sig));
    let typed = sig.inputs.into_iter().filter_map(|input| match input {
        FnArg::Typed(input) => Some(input.ty),
        FnArg::Receiver(_) => None,
    });
    (sig.generics, typed.map(|ty| parse_quote!(_: #ty)).collect())
}

fn has(ty: &Type, is_meant: impl Fn(TypePart<'_>) -> bool) -> bool {
    let mut found = false;
    types::look(ty, &mut |part| found |= is_meant(part));
    found
}

fn no_answers() -> TokenStream {
    quote! {
        fn fingerprint(_: ::__callgate::__codegen::Fingerprint) -> ::__callgate::__codegen::Fingerprint { ::core::unreachable!() }
        fn construct(_: ::__callgate::__codegen::Incoming<'_, '_>) -> ::core::option::Option<Self> { ::core::unreachable!() }
        fn is_exclusive(_: u16) -> bool { ::core::unreachable!() }
        fn dispatch(_: impl ::__callgate::__codegen::Access<Self>, _: ::__callgate::__codegen::Incoming<'_, '_>) {
            ::core::unreachable!()
        }
    }
}
