//! Writes the code of a block that has no refusals.

pub(crate) mod builders;
mod callbacks;
pub(crate) mod drop_in;
pub(crate) mod generics;
pub(crate) mod proxy;
mod request;
pub(crate) mod service;
mod stream;
mod tasks;

use proc_macro2::TokenStream;
use quote::quote;

use crate::model::ImplBlock;

/// The block itself and its proxy. No other generated name can clash with one of the user's.
pub(crate) fn block(block: &ImplBlock) -> TokenStream {
    let item = &block.item;
    let generated = match block.interface() {
        None => of_type(block),
        Some(_) => of_trait(block),
    };
    quote!(#item #generated)
}

fn of_type(block: &ImplBlock) -> TokenStream {
    let proxy = proxy::declaration(block);
    let builders = builders::builders(block);
    let calls = proxy::calls(block);
    let service = service::service(block);
    let hidden = hidden(block, quote!(#builders #calls #service));
    quote!(#proxy #hidden)
}

fn of_trait(block: &ImplBlock) -> TokenStream {
    let calls = proxy::calls(block);
    let interface = service::interface(block);
    let drop_in = drop_in::drop_in(block, drop_in::forwarded);
    hidden(block, quote!(#interface #calls #drop_in))
}

/// Wraps code so that its names stay private to it.
pub(crate) fn hidden(block: &ImplBlock, code: TokenStream) -> TokenStream {
    let (cfgs, crossing) = (block.cfgs(), generics::crossing(block));
    quote!(#(#cfgs)* const _: () = { #crossing #code };)
}
