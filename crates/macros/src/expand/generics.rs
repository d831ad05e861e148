//! The generics of a block's impls and of its proxy.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{
    ConstParam, GenericArgument, GenericParam, Generics, Ident, Path, Type, TypeParam, TypeParamBound, WherePredicate,
    parse_quote,
};

use crate::docs::plain;
use crate::model::{ImplBlock, MethodModel, Passing, free_name, passing};
use crate::types;

/// Writes an impl with the block's generics and a bridge's requirements: `'static`, and `Transfer` for everything that crosses.
///
/// The impl assumes whatever depends on no parameter: that other types can cross too, and what `service` says of the type. If that is wrong, the
/// compiler reports it once, in [`crossing`] or in the type's own block, and not at each use in generated code. Readers of the documentation need no
/// such conditions, so rustdoc gets an impl without them.
pub(crate) fn impls(
    block: &ImplBlock,
    service: Option<TokenStream>,
    write: impl Fn(&Generics) -> TokenStream,
) -> TokenStream {
    let depends = !block.generics().params.is_empty();
    let (needed, known) = if depends { (service, None) } else { (None, service) };
    let needed = with_conditions(bridged(block), needed.map(|service| parse_quote!(#service)));
    // The leaves, such as `T` for `Vec<T>` and `VecDeque<T>`: the compiler cannot handle two assumed types with the same archive.
    let leaves =
        distinct(certain(block, |_| true).into_iter().flat_map(types::leaves).filter(|ty| !types::is_well_known(ty)));
    let given: Vec<WherePredicate> = leaves.into_iter().map(transfer).chain(known).map(given).collect();
    let for_docs = write(&needed);
    if given.is_empty() {
        return for_docs;
    }
    let for_all = write(&with_conditions(needed, given));
    quote! {
        #[cfg(not(doc))]
        #for_all
        #[cfg(doc)]
        #for_docs
    }
}

/// A condition that the compiler assumes without checking it: it does not check one that has a lifetime of its own.
fn given(condition: TokenStream) -> WherePredicate {
    parse_quote!(for<'__a> #condition)
}

fn transfer(ty: &Type) -> TokenStream {
    quote!(#ty: ::__callgate::__codegen::Transfer)
}

fn with_conditions(mut generics: Generics, conditions: impl IntoIterator<Item = WherePredicate>) -> Generics {
    let mut conditions = conditions.into_iter().peekable();
    if conditions.peek().is_some() {
        generics.make_where_clause().predicates.extend(conditions);
    }
    generics
}

/// The block's generics, with conditions on its parameters.
fn bridged(block: &ImplBlock) -> Generics {
    let generics = block.generics();
    let lasting =
        generics.type_params().map(|TypeParam { ident, .. }| -> WherePredicate { parse_quote!(#ident: 'static) });
    let of_params = distinct(crossing_types(block).map(|(_, ty)| ty).filter(|ty| mentions_param(block, ty)));
    let transfer = of_params.into_iter().map(transfer).map(|condition| parse_quote!(#condition));
    with_conditions(generics.clone(), lasting.chain(transfer))
}

/// Requires that each type can cross.
pub(crate) fn crossing(block: &ImplBlock) -> Option<TokenStream> {
    let types = certain(block, |method| !method.refused);
    (!types.is_empty()).then(|| {
        quote! {
            fn __crosses<T: ::__callgate::__codegen::Transfer + ?::core::marker::Sized>() {}
            fn __all_cross() { #(__crosses::<#types>();)* }
        }
    })
}

/// Types that can or cannot cross independently of the block's parameters, without the well-known ones.
fn certain(block: &ImplBlock, of: impl Fn(&MethodModel) -> bool) -> Vec<&Type> {
    // A method under a condition may name types that exist only under that condition.
    let types = crossing_types(block).filter(|(method, _)| of(method) && method.cfgs().is_empty());
    distinct(types.map(|(_, ty)| ty).filter(|ty| !mentions_param(block, ty) && !types::is_well_known(ty)))
}

fn mentions_param(block: &ImplBlock, ty: &Type) -> bool {
    let params: Vec<Ident> = block.generics().params.iter().map(name).collect();
    types::mentions(ty, &params)
}

/// Each type once, however often it crosses.
fn distinct<'a>(types: impl Iterator<Item = &'a Type>) -> Vec<&'a Type> {
    let mut seen = Vec::new();
    let mut distinct = Vec::new();
    for ty in types {
        let spelling = ty.to_token_stream().to_string();
        if !seen.contains(&spelling) {
            seen.push(spelling);
            distinct.push(ty);
        }
    }
    distinct
}

/// Each type that crosses, with its method.
fn crossing_types(block: &ImplBlock) -> impl Iterator<Item = (&MethodModel, &Type)> {
    block.crossing().flat_map(|method| {
        let arguments =
            method.arguments.iter().filter(|argument| argument.passing != Passing::Text).map(|argument| &argument.ty);
        let output = (!method.is_constructor()).then_some(&method.output);
        let called = method.callbacks.iter().flat_map(|callback| {
            let params = callback.params.iter().map(passing).filter(|(passing, _)| *passing != Passing::Text);
            params.map(|(_, ty)| ty).chain([&callback.output])
        });
        arguments.chain(output).chain(called).map(move |ty| (method, ty))
    })
}

/// `generics` with a proxy's mode added.
pub(crate) fn with_mode(generics: &Generics, mode: &Ident) -> Generics {
    let mut generics = generics.clone();
    generics.params.push(parse_quote!(#mode: ::__callgate::__codegen::Mode));
    generics
}

/// A name for the mode that the block does not use: `M`, if possible.
pub(crate) fn mode(block: &ImplBlock) -> Ident {
    let mut name = Ident::new("M", proc_macro2::Span::call_site());
    while is_used(block, &name) {
        name = format_ident!("{name}ode");
    }
    name
}

fn is_used(block: &ImplBlock, name: &Ident) -> bool {
    let name = std::slice::from_ref(name);
    let item = &block.item;
    types::mentions(&item.generics, name)
        || types::mentions(&item.generics.where_clause, name)
        || types::mentions(&item.self_ty, name)
        || types::mentions(block.interface(), name)
        || block.methods.iter().any(|method| types::mentions(&method.sig, name))
}

/// The proxy's own generics: those of the type that the block mentions, and then the mode.
pub(crate) struct ProxyGenerics {
    /// `T: ?Sized, const N: usize`
    declared: Vec<GenericParam>,
    /// `T, N`, or whatever the block has in their place.
    used: Vec<GenericArgument>,
}

impl ProxyGenerics {
    pub(crate) fn of(block: &ImplBlock) -> ProxyGenerics {
        let mut generics = ProxyGenerics { declared: Vec::new(), used: Vec::new() };
        for argument in block.service.arguments() {
            if let GenericArgument::Type(ty) = argument {
                let param = generics.param_for(ty, block);
                generics.declared.push(param);
                generics.used.push(argument.clone());
            }
        }
        generics
    }

    /// The block's own parameter, if the argument is one; otherwise a new parameter.
    fn param_for(&self, ty: &Type, block: &ImplBlock) -> GenericParam {
        let own = block.generics().params.iter().find_map(|param| match param {
            GenericParam::Type(param) if types::is_word(ty, &plain(&param.ident)) => Some(unbounded(param)),
            GenericParam::Const(param) if types::is_word(ty, &plain(&param.ident)) => Some(without_default(param)),
            _ => None,
        });
        match own {
            Some(param) if !types::is_among(&name(&param), &self.names()) => param,
            _ => {
                let name = free_name(format_ident!("T{}", self.declared.len()), &self.names());
                parse_quote!(#name: ?::core::marker::Sized)
            }
        }
    }

    fn names(&self) -> Vec<Ident> {
        self.declared.iter().map(name).collect()
    }

    /// `<T: ?Sized, M>`
    pub(crate) fn declaration(&self, mode: &Ident) -> TokenStream {
        let declared = &self.declared;
        quote!(<#(#declared,)* #mode>)
    }

    /// `StackCalls<T, M>`
    pub(crate) fn proxy(&self, path: &Path, mode: impl ToTokens) -> TokenStream {
        let used = &self.used;
        quote!(#path<#(#used,)* #mode>)
    }

    /// The type parameters, for which the proxy holds no value.
    pub(crate) fn phantoms(&self) -> Vec<Ident> {
        let types = self.declared.iter().filter(|param| matches!(param, GenericParam::Type(_)));
        types.map(name).collect()
    }
}

fn name(param: &GenericParam) -> Ident {
    match param {
        GenericParam::Type(param) => param.ident.clone(),
        GenericParam::Const(param) => param.ident.clone(),
        GenericParam::Lifetime(param) => param.lifetime.ident.clone(),
    }
}

/// The parameter without its bounds, which only the impls need, except for `?Sized`.
fn unbounded(param: &TypeParam) -> GenericParam {
    let name = &param.ident;
    let relaxed =
        param.bounds.iter().find(|bound| matches!(bound, TypeParamBound::Trait(bound) if bound.maybe.is_some()));
    match relaxed {
        Some(relaxed) => parse_quote!(#name: #relaxed),
        None => parse_quote!(#name),
    }
}

fn without_default(param: &ConstParam) -> GenericParam {
    let (name, ty) = (&param.ident, &param.ty);
    parse_quote!(const #name: #ty)
}
