//! The callee's side of async methods: a match over those of the block, each of which makes a future.
//!
//! In a child whose calls are tasks, the other methods must know whether they need the service for themselves before they run.

use proc_macro2::TokenStream;
use quote::quote;

use super::{request, service};
use crate::model::{self, ImplBlock, MethodKind, MethodModel};

/// What the `impl Service` or `impl Interface` of a block says of tasks.
pub(super) fn tasks(block: &ImplBlock) -> TokenStream {
    let exclusive = block.proxied().filter(|method| method.is_exclusive() || matches!(method.kind, MethodKind::Set(_)));
    let exclusive = exclusive.map(|method| {
        let (cfgs, index) = (method.cfgs(), method.index);
        quote!(#(#cfgs)* #index => true,)
    });
    let futures = is_async(block).map(|is_async| futures(block, is_async));
    quote! {
        fn is_exclusive(__index: u16) -> bool { match __index { #(#exclusive)* _ => false } }
        #futures
    }
}

/// An expression for whether any of its methods is async; `None` if none is.
pub(super) fn is_async(block: &ImplBlock) -> Option<TokenStream> {
    model::are_there(block.crossing().filter(|method| method.is_async))
}

/// The function that begins a call of an async method.
fn futures(block: &ImplBlock, is_async: TokenStream) -> TokenStream {
    let ty = &block.service.ty;
    let arms = block.proxied().filter(|method| method.is_async).map(|method| {
        let (cfgs, index, tuple, output) = (method.cfgs(), method.index, request::tuple_type(method), &method.output);
        let (parameter, body) = (request::closure_parameter(method), body(block, method));
        quote!(#(#cfgs)* #index => ::core::result::Result::Ok(__call.answer::<#tuple, #output>(async move |#parameter| #body)),)
    });
    quote! {
        const IS_ASYNC: bool = #is_async;
        fn begin<'__s>(
            __access: ::__callgate::__codegen::TaskAccess<'__s, #ty>,
            __call: ::__callgate::__codegen::TaskCall,
        ) -> ::core::result::Result<::__callgate::__codegen::TaskFuture<'__s>, ::__callgate::__codegen::TaskCall> {
            match __call.index() { #(#arms)* _ => ::core::result::Result::Err(__call) }
        }
    }
}

/// The code of one async method: it makes the arguments when it is first polled, and then waits for the service.
fn body(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (ty, name, received) = (&block.service.ty, method.name(), request::received(method));
    let names = service::argument_names(method);
    let run = match (&method.kind, block.interface()) {
        (MethodKind::Method, Some(interface)) => quote!(<#ty as #interface>::#name(__service, #(#names),*)),
        (MethodKind::Method, None) => quote!(<#ty>::#name(__service, #(#names),*)),
        _ => quote!(<#ty>::#name(#(#names),*)),
    };
    let run = match (&method.kind, method.is_exclusive()) {
        (MethodKind::Function, _) => quote!(#run.await),
        (_, false) => quote!({ let __guard = __access.shared().await; let __service = &*__guard; #run.await }),
        (_, true) => {
            quote!({ let mut __guard = __access.exclusive().await; let __service = &mut *__guard; #run.await })
        }
    };
    if names.is_empty() { run } else { quote!(match (#received,) { (#(#names,)*) => #run }) }
}
