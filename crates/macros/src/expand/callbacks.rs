//! Arguments that stay with the caller: what the proxy answers, and what the method in the child is given instead.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Ident, Type};

use super::{request, service};
use crate::callback::{CallbackArgument, CallbackKind};
use crate::model::{MethodKind, MethodModel, Passing, passing};

/// The caller's parameter: `on_step: &mut dyn FnMut(u32) -> bool`.
pub(crate) fn parameter(callback: &CallbackArgument) -> TokenStream {
    let CallbackArgument { name, params, output, .. } = callback;
    match callback.kind {
        CallbackKind::FnMut => quote!(#name: &'__callgate mut (dyn FnMut(#(#params),*) -> #output + '__callgate)),
        CallbackKind::Fn => quote!(#name: &'__callgate (dyn Fn(#(#params),*) -> #output + '__callgate)),
        CallbackKind::FnByMut => quote!(#name: &'__callgate mut (dyn Fn(#(#params),*) -> #output + '__callgate)),
        CallbackKind::Items => quote!(mut #name: impl ::core::iter::Iterator<Item = #output> + '__callgate),
    }
}

/// What answers the child: a match over the numbers of the callbacks.
pub(crate) fn answers(method: &MethodModel) -> TokenStream {
    let arms = method.callbacks.iter().zip(0u64..).map(|(callback, number)| {
        let CallbackArgument { name, params, output, .. } = callback;
        let (sent, received, call) = match callback.kind {
            CallbackKind::Items => {
                let item = quote!(::core::option::Option<#output>);
                (item, quote!(()), quote!(|()| ::core::iter::Iterator::next(&mut #name)))
            }
            CallbackKind::FnMut | CallbackKind::Fn | CallbackKind::FnByMut => {
                let (owned, names, passed) = (params.iter().map(owned), names(params), lent(params));
                (quote!(#output), quote!((#(#owned,)*)), quote!(|(#(#names,)*)| (*#name)(#(#passed),*)))
            }
        };
        quote!(#number => __question.answer::<#received, #sent>(#call),)
    });
    quote! {
        move |__question: ::__callgate::__codegen::Question<'_, '_>| match __question.number() {
            #(#arms)*
            _ => __question.unknown(),
        }
    }
}

/// The type that a parameter of a callback becomes in the caller.
fn owned(ty: &Type) -> TokenStream {
    match passing(ty) {
        (Passing::Value | Passing::Borrowed | Passing::Archived, ty) => quote!(#ty),
        (Passing::Text, _) => quote!(::std::boxed::Box<str>),
        (Passing::Native | Passing::Slice, ty) => quote!(::std::boxed::Box<[#ty]>),
    }
}

fn names(params: &[Type]) -> Vec<Ident> {
    (0..params.len()).map(|index| format_ident!("__p{index}")).collect()
}

/// What a callback is called with: what became of its parameters, or a reference to that.
fn lent(params: &[Type]) -> impl Iterator<Item = TokenStream> {
    params.iter().zip(names(params)).map(|(ty, name)| match passing(ty).0 {
        Passing::Value => quote!(#name),
        _ => quote!(&#name),
    })
}

/// What the method in the child is given: a closure that asks the caller.
pub(crate) fn passed(number: usize, callback: &CallbackArgument) -> TokenStream {
    let (number, CallbackArgument { params, output, .. }) = (number as u16, callback);
    if callback.kind == CallbackKind::Items {
        return quote!(__asker.items::<#output>(#number));
    }
    let names = names(params);
    let sent = request::sent(names.iter().zip(params).map(|(name, ty)| {
        let (passing, ty) = passing(ty);
        (name, passing, ty)
    }));
    let closure = quote!(|#(#names: #params),*| -> #output { __asker.ask::<_, #output>(#number, &#sent) });
    match callback.kind {
        CallbackKind::FnMut | CallbackKind::FnByMut => quote!(&mut #closure),
        CallbackKind::Fn | CallbackKind::Items => quote!(&#closure),
    }
}

/// How a method that calls back reaches the service, and the closure that runs it.
pub(crate) fn conversation(method: &MethodModel, ty: &Type, run: TokenStream) -> (TokenStream, TokenStream) {
    let (way, lent) = match (method.kind == MethodKind::Function, method.is_exclusive()) {
        (true, _) => (quote!(free_lending), quote!(__service)),
        (false, true) => (service::way(method), quote!(::core::option::Option::None)),
        (false, false) => (service::way(method), quote!(::core::option::Option::Some(__service))),
    };
    (way, quote!(|__service| __talk.run::<#ty, _>(#lent, |__asker| #run)))
}

/// The callbacks' part of the fingerprint.
pub(crate) fn fingerprint(method: &MethodModel) -> TokenStream {
    let steps = method.callbacks.iter().map(|callback| {
        let (name, output) = (callback.name.to_string(), &callback.output);
        let tuple = request::sent_type(callback.params.iter().map(passing));
        quote!(.method::<#tuple, #output>(#name, "callback"))
    });
    quote!(#(#steps)*)
}
