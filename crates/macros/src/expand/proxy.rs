//! The proxy: the caller's side of every method.

use proc_macro2::TokenStream;
use quote::quote;

use super::generics::{self, ProxyGenerics};
use super::{callbacks, request};
use crate::docs;
use crate::model::{ImplBlock, MethodModel};

/// `pub struct CounterCalls<M>`
pub(crate) fn declaration(block: &ImplBlock) -> TokenStream {
    let (cfgs, docs, name) = (block.cfgs(), docs::proxy(block), block.service.proxy_name());
    let (mode, of) = (generics::mode(block), ProxyGenerics::of(block));
    let (declared, phantoms) = (of.declaration(&mode), of.phantoms());
    let service = (!phantoms.is_empty()).then(
        || quote!(__service: ::core::marker::PhantomData<fn() -> (#(::core::marker::PhantomData<#phantoms>,)*)>,),
    );
    quote! {
        #(#cfgs)*
        #docs
        pub struct #name #declared {
            pub(crate) __mode: #mode,
            #service
        }
    }
}

/// An expression that makes a proxy with the mode `__mode`.
pub(crate) fn construction(block: &ImplBlock) -> TokenStream {
    let name = block.service.proxy_name();
    let has_service = !ProxyGenerics::of(block).phantoms().is_empty();
    let service = has_service.then(|| quote!(__service: ::core::marker::PhantomData,));
    quote!(#name { __mode, #service })
}

/// The impl block with all of the proxy's methods.
pub(crate) fn calls(block: &ImplBlock) -> TokenStream {
    let mode = generics::mode(block);
    let calls = block.proxied().map(|method| call(block, method, &mode));
    around(block, &quote!(#(#calls)*))
}

/// The impl block around `calls`.
pub(crate) fn around(block: &ImplBlock, calls: &TokenStream) -> TokenStream {
    let (mode, ty) = (generics::mode(block), &block.service.ty);
    let proxy = ProxyGenerics::of(block).proxy(&block.proxy(), &mode);
    let allowed = docs::allowed(&block.item.attrs);
    let service = block.interface().map(|_| quote!(#ty: ::__callgate::__codegen::Service));
    generics::impls(block, service, |bridged| {
        let bridged = generics::with_mode(bridged, &mode);
        let (impl_generics, _, conditions) = bridged.split_for_impl();
        quote!(#allowed impl #impl_generics #proxy #conditions { #calls })
    })
}

/// One method of the proxy.
pub(crate) fn call(block: &ImplBlock, method: &MethodModel, mode: &syn::Ident) -> TokenStream {
    let (docs, vis, shown, output) =
        (docs::call(block, method), visibility(block, method), &method.shown, &method.output);
    let (parameters, tuple) = (request::parameters(method), request::tuple(method));
    let descriptor = request::descriptor(block, method);
    let separator = (!parameters.is_empty()).then(|| quote!(,));
    if !method.callbacks.is_empty() {
        let answers = callbacks::answers(method);
        return quote! {
            #docs
            #vis fn #shown<'__callgate>(&self #separator #parameters) -> #mode::Conversed<'__callgate, #output>
            where
                #mode: ::__callgate::__codegen::Converse,
            {
                ::__callgate::__codegen::Converse::converse::<_, #output, _>(&self.__mode, #descriptor, #tuple, #answers)
            }
        };
    }
    let (out, way) = way(method);
    quote! {
        #docs
        #vis fn #shown(&self #separator #parameters) -> #mode::#out<#output> {
            ::__callgate::__codegen::Mode::#way::<_, #output>(&self.__mode, #descriptor, #tuple)
        }
    }
}

/// What a mode makes of the method's result, and how it calls the method.
pub(crate) fn way(method: &MethodModel) -> (TokenStream, TokenStream) {
    if method.stream.is_some() { (quote!(Items), quote!(open)) } else { (quote!(Out), quote!(call)) }
}

/// The original method's visibility; a trait's methods are as public as the proxy.
fn visibility(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let vis = &method.vis;
    if block.interface().is_some() { quote!(pub) } else { quote!(#vis) }
}
