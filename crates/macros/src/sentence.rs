//! `#[derive(Sentence)]` on error types: `{:?}` prints the same sentence as `{}`, and `{:#?}` the structure.
//!
//! `unwrap`, `expect` and a `main` that returns the error print it with `{:?}`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Ident};

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    match syn::parse2::<DeriveInput>(input).and_then(|input| implementation(&input)) {
        Ok(code) => code,
        Err(error) => error.to_compile_error(),
    }
}

fn implementation(input: &DeriveInput) -> Result<TokenStream, Error> {
    let name = &input.ident;
    let arms: Vec<_> = match &input.data {
        Data::Struct(data) => vec![arm(&quote!(#name), name, &[], &data.fields)],
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|variant| {
                let ident = &variant.ident;
                arm(&quote!(#name::#ident), ident, &variant.attrs, &variant.fields)
            })
            .collect(),
        Data::Union(_) => return Err(Error::new_spanned(name, "a union has no structure that can be shown")),
    };
    let (impl_generics, arguments, conditions) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::core::fmt::Debug for #name #arguments #conditions {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                if !f.alternate() {
                    return ::core::fmt::Display::fmt(self, f);
                }
                match self { #(#arms)* }
            }
        }
    })
}

/// The match arm that prints one variant, or a struct.
fn arm(path: &TokenStream, name: &Ident, attributes: &[Attribute], fields: &Fields) -> TokenStream {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    let shown = name.to_string();
    let (pattern, body) = match fields {
        Fields::Named(fields) => {
            let names: Vec<_> = fields.named.iter().filter_map(|field| field.ident.as_ref()).collect();
            let texts = names.iter().map(ToString::to_string);
            (quote!({ #(#names),* }), quote!(f.debug_struct(#shown) #(.field(#texts, #names))* .finish()))
        }
        Fields::Unnamed(fields) => {
            let names: Vec<_> = (0..fields.unnamed.len()).map(|at| quote::format_ident!("field_{at}")).collect();
            (quote!(( #(#names),* )), quote!(f.debug_tuple(#shown) #(.field(#names))* .finish()))
        }
        Fields::Unit => (quote!(), quote!(f.write_str(#shown))),
    };
    quote! { #(#conditions)* #path #pattern => #body, }
}
