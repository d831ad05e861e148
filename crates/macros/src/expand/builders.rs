//! The builders: `Counter::bridge(..)` beside each constructor.

use proc_macro2::TokenStream;
use quote::quote;

use super::{generics, request};
use crate::docs;
use crate::model::{ImplBlock, MethodModel};

pub(crate) fn builders(block: &ImplBlock) -> TokenStream {
    let builders = block.constructors().map(|method| builder(block, method));
    around(block, &quote!(#(#builders)*))
}

/// The impl block around the builders.
pub(crate) fn around(block: &ImplBlock, builders: &TokenStream) -> TokenStream {
    let (ty, allowed) = (&block.service.ty, docs::allowed(&block.item.attrs));
    generics::impls(block, None, |bridged| {
        let (impl_generics, _, conditions) = bridged.split_for_impl();
        quote!(#allowed impl #impl_generics #ty #conditions { #builders })
    })
}

/// The builder for one constructor.
pub(crate) fn builder(block: &ImplBlock, method: &MethodModel) -> TokenStream {
    let (docs, vis, shown) = (docs::builder(block, method), &method.vis, &method.shown);
    let (parameters, tuple) = (request::parameters(method), request::tuple(method));
    let (descriptor, ty) = (request::descriptor(block, method), &block.service.ty);
    quote! {
        #docs
        #vis fn #shown(#parameters) -> ::__callgate::__codegen::Builder<#ty> {
            ::__callgate::__codegen::builder(#descriptor, &#tuple)
        }
    }
}
