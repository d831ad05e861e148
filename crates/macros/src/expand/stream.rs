//! The callee's side of a method that returns a stream: how it gets its arguments, which must live as long as the iterator.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::Index;

use super::request;
use crate::docs::plain;
use crate::model::{self, Argument, ImplBlock, MethodKind, MethodModel, Passing};
use crate::stream::Borrowing;

/// An expression for whether a stream of the block's may borrow the service beyond its call; `None` if none may.
pub(crate) fn lends(block: &ImplBlock) -> Option<TokenStream> {
    let lends = |method: &&MethodModel| method.kind == MethodKind::Method && method.stream == Some(Borrowing::All);
    model::are_there(block.proxied().filter(lends))
}

/// The code that opens the stream of `method`. `body` = the method's own call, as for any other, if its iterator borrows nothing.
pub(crate) fn opened(block: &ImplBlock, method: &MethodModel, borrowing: Borrowing, body: &TokenStream) -> TokenStream {
    let (ty, tuple, item) = (&block.service.ty, request::tuple_type(method), &method.output);
    if borrowing == Borrowing::Nothing {
        let parameter = request::closure_parameter(method);
        return quote!(__call.open_owned::<#tuple, #item, _>(|#parameter| #body));
    }
    let (split, name, text) = (split(method), method.name(), plain(method.name()));
    let (values, arguments) = (values(method), arguments(method));
    match (&method.kind, method.is_exclusive()) {
        (MethodKind::Method, is_exclusive) => {
            let way = if is_exclusive { quote!(open_exclusive) } else { quote!(open_shared) };
            quote! {
                __call.#way::<#tuple, #item, #ty, _, _>(
                    __access, #text, #split,
                    |__service, __args, #values, __held| ::std::boxed::Box::new(<#ty>::#name(__service, #arguments)),
                )
            }
        }
        _ => quote! {
            __call.open::<#tuple, #item, _, _>(
                #split, |__args, #values, __held| ::std::boxed::Box::new(<#ty>::#name(#arguments)),
            )
        },
    }
}

/// A closure that makes what is moved into the method, and what the method borrows.
fn split(method: &MethodModel) -> TokenStream {
    let made = |of: fn(Passing) -> bool| {
        method.arguments.iter().enumerate().filter(move |(_, argument)| of(argument.passing)).map(
            |(index, argument)| {
                let (index, ty) = (Index::from(index), &argument.ty);
                match argument.passing {
                    Passing::Slice => quote!(::__callgate::__codegen::slice::<#ty>(&__args.#index)),
                    _ => quote!(::__callgate::__codegen::value::<#ty>(&__args.#index)),
                }
            },
        )
    };
    let (values, held) = (made(is_moved), made(is_held));
    quote!(|__args| ((#(#values,)*), (#(#held,)*)))
}

fn is_moved(passing: Passing) -> bool {
    passing == Passing::Value
}

fn is_held(passing: Passing) -> bool {
    matches!(passing, Passing::Borrowed | Passing::Slice)
}

/// The pattern of what is moved into the method.
fn values(method: &MethodModel) -> TokenStream {
    let names = (0..method.arguments.iter().filter(|argument| is_moved(argument.passing)).count())
        .map(|index| format_ident!("__{index}"));
    quote!((#(#names,)*))
}

/// The arguments of the method: moved, held, or read from the private copy of the request.
fn arguments(method: &MethodModel) -> TokenStream {
    let (mut moved, mut held) = (0, 0);
    let arguments = method.arguments.iter().enumerate().map(|(index, Argument { passing, ty, .. })| {
        let next = |counter: &mut usize| std::mem::replace(counter, *counter + 1);
        let index = Index::from(index);
        match passing {
            Passing::Value => {
                let name = format_ident!("__{}", next(&mut moved));
                quote!(#name)
            }
            Passing::Borrowed | Passing::Slice => {
                let place = Index::from(next(&mut held));
                quote!(&__held.#place)
            }
            Passing::Text => quote!(::__callgate::__codegen::text(&__args.#index)),
            Passing::Native => quote!(::__callgate::__codegen::native_slice::<#ty>(&__args.#index)),
            // Refused.
            Passing::Archived => quote!(&__args.#index),
        }
    });
    quote!(#(#arguments),*)
}
