//! How the arguments of one method cross: as the tuple that is sent, and as what the callee makes of it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Index, Type};

use super::callbacks;
use crate::docs::plain;
use crate::model::{Argument, ImplBlock, MethodModel, Passing};

/// The caller's parameters: `n: u64, name: &str`.
pub(crate) fn parameters(method: &MethodModel) -> TokenStream {
    let parameter = |_, Argument { name, passing, ty }: &Argument| match passing {
        Passing::Value => quote!(#name: #ty),
        Passing::Borrowed | Passing::Archived | Passing::Text => quote!(#name: &#ty),
        Passing::Native | Passing::Slice => quote!(#name: &[#ty]),
    };
    let parameters = method.in_order(parameter, |_, callback| callbacks::parameter(callback));
    quote!(#(#parameters),*)
}

/// The tuple that is sent: `(Own(n), Text(name),)`.
pub(crate) fn tuple(method: &MethodModel) -> TokenStream {
    sent(method.arguments.iter().map(|Argument { name, passing, ty }| (name, *passing, ty)))
}

/// The same, of any arguments.
pub(crate) fn sent<'a>(arguments: impl Iterator<Item = (&'a Ident, Passing, &'a Type)>) -> TokenStream {
    let elements = arguments.map(|(name, passing, ty)| match passing {
        Passing::Value => quote_spanned!(ty.span()=> ::__callgate::__codegen::Own(#name)),
        Passing::Borrowed | Passing::Archived => quote_spanned!(ty.span()=> ::__callgate::__codegen::Val(#name)),
        Passing::Text => quote!(::__callgate::__codegen::Text(#name)),
        Passing::Native | Passing::Slice => quote_spanned!(ty.span()=> ::__callgate::__codegen::Slice(#name)),
    });
    quote!((#(#elements,)*))
}

/// The tuple's type: `(Own<u64>, Text<'static>,)`.
pub(crate) fn tuple_type(method: &MethodModel) -> TokenStream {
    sent_type(method.arguments.iter().map(|Argument { passing, ty, .. }| (*passing, ty)))
}

/// The same, of any arguments.
pub(crate) fn sent_type<'a>(arguments: impl Iterator<Item = (Passing, &'a Type)>) -> TokenStream {
    let elements = arguments.map(|(passing, ty)| match passing {
        Passing::Value => quote!(::__callgate::__codegen::Own<#ty>),
        Passing::Borrowed | Passing::Archived => quote!(::__callgate::__codegen::Val<'static, #ty>),
        Passing::Text => quote!(::__callgate::__codegen::Text<'static>),
        Passing::Native | Passing::Slice => quote!(::__callgate::__codegen::Slice<'static, #ty>),
    });
    quote!((#(#elements,)*))
}

/// The arguments that the callee passes on: `value::<u64>(&__args.0), text(&__args.1)`.
pub(crate) fn received(method: &MethodModel) -> TokenStream {
    let received = method.arguments.iter().enumerate().map(|(index, Argument { passing, ty, .. })| {
        let index = Index::from(index);
        let archived = quote!(&__args.#index);
        match passing {
            Passing::Value => quote!(::__callgate::__codegen::value::<#ty>(#archived)),
            Passing::Borrowed => quote!(&::__callgate::__codegen::value::<#ty>(#archived)),
            Passing::Text => quote!(::__callgate::__codegen::text(#archived)),
            Passing::Native => quote!(::__callgate::__codegen::native_slice::<#ty>(#archived)),
            Passing::Slice => quote!(&::__callgate::__codegen::slice::<#ty>(#archived)),
            Passing::Archived => archived,
        }
    });
    quote!(#(#received),*)
}

/// The parameter of the callee's closure.
pub(crate) fn closure_parameter(method: &MethodModel) -> TokenStream {
    if method.arguments.is_empty() { quote!(_) } else { quote!(__args) }
}

/// Which method it is: `const { &Method { .. } }`.
pub(crate) fn descriptor(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (service, name) = (plain(&block.service.name), plain(method.name()));
    let (index, ty) = (method.index, &block.service.ty);
    let interface = match block.interface() {
        None => quote!(::core::option::Option::None),
        Some(_) => {
            quote!(::core::option::Option::Some(::__callgate::__codegen::InterfaceId::of::<#ty, __CallgateInterface>()))
        }
    };
    let idempotent = method.idempotent.is_some();
    quote! {
        const {
            &::__callgate::__codegen::Method {
                service: #service,
                name: #name,
                index: #index,
                interface: #interface,
                idempotent: #idempotent,
                lends: <#ty as ::__callgate::__codegen::Service>::LENDS,
            }
        }
    }
}
