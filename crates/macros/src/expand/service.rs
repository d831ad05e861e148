//! The callee's side: a match over the table's indices.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};

use super::generics::{self, ProxyGenerics};
use super::{callbacks, proxy, request, stream, tasks};
use crate::docs::plain;
use crate::model::{ImplBlock, MethodKind, MethodModel};

/// The `impl Service for Counter`.
pub(crate) fn service(block: &ImplBlock) -> TokenStream {
    let (fingerprint, construct) = (fingerprint(block), construct(block));
    let (dispatch, tasks) = (dispatch(block), tasks::tasks(block));
    around(
        block,
        &quote! {
            #tasks
            fn fingerprint(__of: ::__callgate::__codegen::Fingerprint) -> ::__callgate::__codegen::Fingerprint { #fingerprint }
            fn construct(__call: ::__callgate::__codegen::Incoming<'_, '_>) -> ::core::option::Option<Self> { #construct }
            fn dispatch(
                __access: impl ::__callgate::__codegen::Access<Self>,
                __call: ::__callgate::__codegen::Incoming<'_, '_>,
            ) {
                #dispatch
            }
        },
    )
}

/// The impl block around `answers`, with everything that depends on no method.
pub(crate) fn around(block: &ImplBlock, answers: &TokenStream) -> TokenStream {
    let (ty, name, mode) = (&block.service.ty, plain(&block.service.name), generics::mode(block));
    let proxy = ProxyGenerics::of(block).proxy(&block.proxy(), &mode);
    let (construction, deprecated) = (proxy::construction(block), deprecated(block));
    let lends = stream::lends(block).map(|lends| quote!(const LENDS: bool = #lends;));
    generics::impls(block, None, |bridged| {
        let (impl_generics, _, conditions) = bridged.split_for_impl();
        quote! {
            #[doc(hidden)]
            #deprecated
            impl #impl_generics ::__callgate::__codegen::Service for #ty #conditions {
                const NAME: &'static str = #name;
                #lends
                type Calls<#mode: ::__callgate::__codegen::Mode> = #proxy;
                fn calls<#mode: ::__callgate::__codegen::Mode>(__mode: #mode) -> Self::Calls<#mode> { #construction }
                #answers
            }
        }
    })
}

/// The marker type for the trait's block, and its `impl Interface<Circle>`.
pub(crate) fn interface(block: &ImplBlock) -> TokenStream {
    let (ty, deprecated) = (&block.service.ty, deprecated(block));
    let (dispatch, tasks) = (dispatch(block), tasks::tasks(block));
    let (fingerprint, registration) = (fingerprint(block), registration(block));
    let name = interface_name(block);
    let service = quote!(#ty: ::__callgate::__codegen::Service);
    let interface = generics::impls(block, Some(service), |bridged| {
        let (impl_generics, _, conditions) = bridged.split_for_impl();
        quote! {
            #deprecated
            impl #impl_generics ::__callgate::__codegen::Interface<#ty> for __CallgateInterface #conditions {
                const NAME: &'static str = #name;
                #tasks
                fn fingerprint(__of: ::__callgate::__codegen::Fingerprint) -> ::__callgate::__codegen::Fingerprint {
                    #fingerprint
                }
                fn dispatch(
                    __access: impl ::__callgate::__codegen::Access<#ty>,
                    __call: ::__callgate::__codegen::Incoming<'_, '_>,
                ) {
                    #dispatch
                }
            }
        }
    });
    quote!(struct __CallgateInterface; #interface #registration)
}

/// The trait's last segment: `Shape`.
fn interface_name(block: &ImplBlock) -> String {
    let last = block.interface().and_then(|path| path.segments.last());
    last.map(|last| plain(&last.ident)).unwrap_or_default()
}

/// Code that tells the program, before its `main`, that the trait is bridged.
fn registration(block: &ImplBlock) -> TokenStream {
    let (ty, service, name) = (&block.service.ty, plain(&block.service.name), interface_name(block));
    let bridged = if block.generics().params.is_empty() {
        quote!(of::<#ty, __CallgateInterface>())
    } else {
        let is_async = tasks::is_async(block).unwrap_or_else(|| quote!(false));
        quote!(of_generic(#service, #name, #is_async))
    };
    quote! {
        #[cfg(not(doc))]
        const _: () = {
            static __BRIDGED: ::__callgate::__codegen::Bridged = ::__callgate::__codegen::Bridged::#bridged;

            extern "C" fn __name() {
                __BRIDGED.name();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static __NAME: extern "C" fn() = __name;
        };
    }
}

/// Allows deprecated methods to be answered: that is not a use their author warns against.
pub(crate) fn deprecated(block: &ImplBlock) -> Option<TokenStream> {
    let is_deprecated = |method: &MethodModel| method.attrs.iter().any(|attr| attr.path().is_ident("deprecated"));
    block.methods.iter().any(is_deprecated).then(|| quote!(#[allow(deprecated)]))
}

fn fingerprint(block: &ImplBlock) -> TokenStream {
    let steps = block.crossing().map(|method| {
        let (cfgs, name, tuple) = (method.cfgs(), plain(method.name()), request::tuple_type(method));
        let (sig, output) = (&method.sig, &method.output);
        let signature = quote!(#sig).to_string();
        let step = match method.kind {
            MethodKind::Constructor { .. } => quote!(constructor::<#tuple>),
            _ => quote!(method::<#tuple, #output>),
        };
        let callbacks = callbacks::fingerprint(method);
        quote!(#(#cfgs)* let __of = __of.#step(#name, #signature)#callbacks;)
    });
    quote!(#(#steps)* __of)
}

fn construct(block: &ImplBlock) -> TokenStream {
    let ty = &block.service.ty;
    let arms = block.constructors().map(|method| {
        let (cfgs, index, name, tuple) = (method.cfgs(), method.index, method.name(), request::tuple_type(method));
        let (parameter, received) = (request::closure_parameter(method), request::received(method));
        let construct = match method.kind {
            MethodKind::Constructor { can_fail: true } => quote!(try_construct::<#tuple, Self, _>),
            _ => quote!(construct::<#tuple, Self>),
        };
        quote!(#(#cfgs)* #index => __call.#construct(|#parameter| <#ty>::#name(#received)),)
    });
    quote!(match __call.index() { #(#arms)* _ => __call.unknown_constructor() })
}

fn dispatch(block: &ImplBlock) -> TokenStream {
    let arms = block.proxied().map(|method| {
        let (cfgs, index, tuple, output) = (method.cfgs(), method.index, request::tuple_type(method), &method.output);
        let (parameter, body) = (request::closure_parameter(method), body(block, method));
        match (method.stream, method.callbacks.is_empty()) {
            (Some(borrowing), _) => {
                let opened = stream::opened(block, method, borrowing, &body);
                quote!(#(#cfgs)* #index => #opened,)
            }
            (None, true) => quote!(#(#cfgs)* #index => __call.answer::<#tuple, #output, _>(|#parameter| #body),),
            (None, false) => {
                quote!(#(#cfgs)* #index => __call.converse::<#tuple, #output, _>(|#parameter, __talk| #body),)
            }
        }
    });
    quote!(match __call.index() { #(#arms)* _ => __call.unknown() })
}

/// How a method reaches the service.
pub(crate) fn way(method: &MethodModel) -> TokenStream {
    if method.is_exclusive() { quote!(exclusive) } else { quote!(shared) }
}

/// Names for the arguments that the callee has made.
pub(super) fn argument_names(method: &MethodModel) -> Vec<Ident> {
    (0..method.arguments.len()).map(|index| format_ident!("__{index}")).collect()
}

/// The code of one method in the callee: it first makes the arguments, and then borrows the service.
fn body(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (ty, name, received) = (&block.service.ty, method.name(), request::received(method));
    let names = argument_names(method);
    let passed = method.in_order(|index, _| names[index].to_token_stream(), callbacks::passed);
    let run = match (&method.kind, block.interface()) {
        (MethodKind::Get(field), _) => {
            // If the field's type has no `Clone`, the error shows up where the getter was requested.
            let there = Span::call_site().located_at(field.span());
            quote_spanned!(there=> ::core::clone::Clone::clone(&__service.#field))
        }
        (MethodKind::Set(field), _) => quote!(__service.#field = #(#names)*),
        (MethodKind::Method, Some(interface)) => quote!(<#ty as #interface>::#name(__service, #(#passed),*)),
        (MethodKind::Method, None) => quote!(<#ty>::#name(__service, #(#passed),*)),
        _ => quote!(<#ty>::#name(#(#passed),*)),
    };
    // Where calls are no tasks, the worker drives the future.
    let run = if method.is_async { quote!(::__callgate::__codegen::block_on(#run)) } else { run };
    let run = match (&method.stream, &method.output) {
        (Some(_), item) => {
            quote!(::std::boxed::Box::new(#run) as ::__callgate::__codegen::BoxedIterator<'static, #item>)
        }
        (None, _) => run,
    };
    let (way, run) = match (method.callbacks.is_empty(), method.kind == MethodKind::Function) {
        (false, _) => callbacks::conversation(method, ty, run),
        (true, true) => (quote!(free), quote!(|| #run)),
        (true, false) => (way(method), quote!(|__service| #run)),
    };
    let run = quote!(::__callgate::__codegen::Access::<#ty>::#way(__access, #run));
    if names.is_empty() { run } else { quote!(match (#received,) { (#(#names,)*) => #run }) }
}
