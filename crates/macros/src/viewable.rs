//! `#[derive(Viewable)]` on archived types: viewable if every field is.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Type, WherePredicate, parse_quote};

use crate::root::Root;
use crate::types;

/// Writes the impl, and the check of every field.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let parsed = syn::parse2::<DeriveInput>(input);
    match parsed.and_then(|input| Ok(Root::of_attributes(&input.attrs)?.put_into(implementation(&input)?))) {
        Ok(code) => code,
        Err(error) => error.to_compile_error(),
    }
}

/// Each field becomes a condition of the impl, or is checked beside it under these conditions, so that nothing gets in that is not viewable. A
/// condition must depend on a parameter and must not lead back to the type itself.
fn implementation(input: &DeriveInput) -> Result<TokenStream, Error> {
    let name = &input.ident;
    let parameters: Vec<Ident> = input.generics.type_params().map(|param| param.ident.clone()).collect();
    let own = own_names(name);
    let is_condition = |ty: &&Type| types::mentions(ty, &parameters) && !types::mentions(ty, &own);
    let (conditions, checked): (Vec<&Type>, Vec<&Type>) =
        fields(&input.data)?.into_iter().map(|field| &field.ty).partition(is_condition);

    let mut generics = input.generics.clone();
    let conditions = conditions.into_iter().map(|ty| -> WherePredicate { parse_quote!(#ty: ::__callgate::Viewable) });
    generics.make_where_clause().predicates.extend(conditions);
    let (impl_generics, arguments, conditions) = generics.split_for_impl();
    let checked = checked.into_iter().map(|ty| located(ty.to_token_stream(), place(ty)));
    Ok(quote! {
        const _: () = {
            fn __viewable<__Field: ::__callgate::Viewable + ?::core::marker::Sized>() {}

            // rkyv repeats bounds of the type's parameters in `where`.
            #[allow(dead_code, clippy::multiple_bound_locations)]
            fn __fields #impl_generics () #conditions {
                #(__viewable::<#checked>();)*
            }

            #[automatically_derived]
            unsafe impl #impl_generics ::__callgate::Viewable for #name #arguments #conditions {}
        };
    })
}

fn fields(data: &Data) -> Result<Vec<&Field>, Error> {
    match data {
        Data::Struct(data) => Ok(data.fields.iter().collect()),
        Data::Enum(data) => Ok(data.variants.iter().flat_map(|variant| &variant.fields).collect()),
        Data::Union(data) => {
            let why = "which field of a union is there cannot be known from its bytes, so it cannot be viewed";
            Err(Error::new_spanned(data.union_token, why))
        }
    }
}

/// The place where the user wrote the type: `T` of the `<T as Archive>::Archived` that rkyv makes of it.
fn place(ty: &Type) -> Span {
    match ty {
        Type::Path(path) => path.qself.as_ref().map_or_else(|| ty.span(), |qself| qself.ty.span()),
        ty => ty.span(),
    }
}

/// The tokens with an unchanged meaning, but all located at `there`, so that errors about them show up there.
fn located(tokens: TokenStream, there: Span) -> TokenStream {
    let locate = |mut token: TokenTree| {
        let span = token.span().located_at(there);
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), located(group.stream(), there)).into();
        }
        token.set_span(span);
        token
    };
    tokens.into_iter().map(locate).collect()
}

/// The archived type's name, and most likely the name of the type that it archives.
fn own_names(name: &Ident) -> Vec<Ident> {
    let text = name.to_string();
    let archived = text.strip_prefix("Archived").and_then(|rest| syn::parse_str(rest).ok());
    archived.into_iter().chain([name.clone()]).collect()
}
