//! The drop-in: `impl Shape for Bridge<Circle>`, with the trait's signatures. A trait with async methods is `AsyncBridge`'s.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::visit_mut::VisitMut;
use syn::{FnArg, ImplItem, ImplItemConst, ImplItemType, Path, Signature, parse_quote};

use super::generics::{self, ProxyGenerics};
use super::service;
use crate::model::{ImplBlock, MethodKind, MethodModel};

/// The impl block, with function bodies written by `body`.
pub(crate) fn drop_in(
    block: &ImplBlock,
    body: impl Fn(&ImplBlock, &Path, &MethodModel) -> TokenStream,
) -> Option<TokenStream> {
    let interface = block.interface()?;
    let (proxy, ty) = (proxy(block), &block.service.ty);
    let (bridge, mode) = (bridge(block), mode(block));
    let service = quote!(#ty: ::__callgate::__codegen::Service<Calls<#mode> = #proxy>);
    let declared = block.item.items.iter().filter_map(|item| declared(block, interface, item));
    let functions = block.methods.iter().map(|method| {
        let (cfgs, sig, body) = (method.cfgs(), signature(block, method), body(block, interface, method));
        quote!(#(#cfgs)* #sig { #body })
    });
    let (items, deprecated) = (quote!(#(#declared)* #(#functions)*), service::deprecated(block));
    Some(generics::impls(block, Some(service), |bridged| {
        let (impl_generics, _, conditions) = bridged.split_for_impl();
        quote!(#deprecated impl #impl_generics #interface for #bridge<#ty> #conditions { #items })
    }))
}

/// The proxy type that a bridge derefs to.
fn proxy(block: &ImplBlock) -> TokenStream {
    ProxyGenerics::of(block).proxy(&block.proxy(), mode(block))
}

/// The mode in which that bridge calls.
fn mode(block: &ImplBlock) -> TokenStream {
    if block.is_async() { quote!(::__callgate::Deferred) } else { quote!(::__callgate::Blocking) }
}

/// The bridge that implements the trait.
fn bridge(block: &ImplBlock) -> TokenStream {
    let name = if block.is_async() { quote!(AsyncBridge) } else { quote!(Bridge) };
    quote!(::__callgate::__codegen::#name)
}

/// A body that calls over the bridge; a function without `self` runs in the caller.
pub(crate) fn forwarded(block: &ImplBlock, interface: &Path, method: &MethodModel) -> TokenStream {
    let (ty, name, shown, output) = (&block.service.ty, method.name(), &method.shown, &method.output);
    let arguments = method.in_order(|_, argument| argument.name.clone(), |_, callback| callback.name.clone());
    match method.kind {
        MethodKind::Local => {
            let awaited = method.sig.asyncness.map(|_| quote!(.await));
            quote!(<#ty as #interface>::#name(#(#arguments),*) #awaited)
        }
        _ => {
            // Method syntax could pick a trait's method that takes `self` by value, such as `into`, before the proxy's own.
            let proxy = proxy(block);
            let call = quote!(<#proxy>::#shown(&**self, #(#arguments),*));
            match (method.is_async, method.sig.asyncness) {
                (false, _) => quote!(::__callgate::__codegen::drop_in!(#call, #output)),
                (true, Some(_)) => quote!(::__callgate::__codegen::drop_in!(#call.await, #output)),
                // The call borrows nothing.
                (true, None) => {
                    quote!(let __call = #call; async move { ::__callgate::__codegen::drop_in!(__call.await, #output) })
                }
            }
        }
    }
}

/// The trait's types and constants, taken from the service.
fn declared(block: &ImplBlock, interface: &Path, item: &ImplItem) -> Option<TokenStream> {
    let ty = &block.service.ty;
    match item {
        ImplItem::Type(ImplItemType { attrs, ident, generics, .. }) => {
            let cfgs = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
            let (declared, used, conditions) = generics.split_for_impl();
            Some(quote!(#(#cfgs)* type #ident #declared = <#ty as #interface>::#ident #used #conditions;))
        }
        ImplItem::Const(ImplItemConst { attrs, ident, ty: of, .. }) => {
            let cfgs = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
            let of = block.self_type.in_type(of);
            Some(quote!(#(#cfgs)* const #ident: #of = <#ty as #interface>::#ident;))
        }
        _ => None,
    }
}

/// The trait's signature, with a plain name for each argument.
fn signature(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let mut sig = if method.refused { method.sig.clone() } else { with_self_replaced(block, &method.sig) };
    let typed = sig.inputs.iter_mut().filter_map(|input| match input {
        FnArg::Typed(input) => Some(input),
        FnArg::Receiver(_) => None,
    });
    let names = method.in_order(|_, argument| argument.name.clone(), |_, callback| callback.name.clone());
    for (input, name) in typed.zip(names) {
        *input.pat = parse_quote!(#name);
    }
    sig.into_token_stream()
}

/// Replaces `Self` by the service: only then does `Self::Name` mean the same in both impls.
fn with_self_replaced(block: &ImplBlock, sig: &Signature) -> Signature {
    block.self_type.replaced(sig, |replace, sig| {
        let inputs = sig.inputs.iter_mut().filter(|input| matches!(input, FnArg::Typed(_)));
        inputs.for_each(|input| replace.visit_fn_arg_mut(input));
        replace.visit_return_type_mut(&mut sig.output);
    })
}
