//! The generics of a block's impls, and those of its proxy.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{
    ConstParam, GenericArgument, GenericParam, Generics, Ident, Path, Type, TypeParam, TypeParamBound, WherePredicate,
    parse_quote,
};

use crate::docs::plain;
use crate::model::{ImplBlock, MethodModel, Passing, free_name};
use crate::types;

/// Writes an impl with the block's generics and what a bridge asks of them: `'static`, and `Transfer` for what crosses.
///
/// The impl takes for given what depends on no parameter: that other types cross too, and what `service` says of the
/// type. Where that is wrong, the compiler says so once, in [`crossing`] or in the type's own block, and not at each
/// use in the generated code. Readers of the documentation need no such conditions: rustdoc is given an impl without.
pub(crate) fn impls(
    block: &ImplBlock,
    service: Option<TokenStream>,
    write: impl Fn(&Generics) -> TokenStream,
) -> TokenStream {
    let depends = !block.generics().params.is_empty();
    let (needed, known) = if depends { (service, None) } else { (None, service) };
    let needed = with_conditions(bridged(block), needed.map(|service| parse_quote!(#service)));
    // Of a `Vec<T>` and a `VecDeque<T>` the `T`: two types with the same archive, both taken for given, are one too many for the compiler.
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

/// A condition that holds where it is made: the compiler does not look into one that has a lifetime of its own.
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

/// Requires of each type in turn that it can cross.
pub(crate) fn crossing(block: &ImplBlock) -> Option<TokenStream> {
    let types = certain(block, |method| !method.refused);
    (!types.is_empty()).then(|| {
        quote! {
            fn __crosses<T: ::__callgate::__codegen::Transfer + ?::core::marker::Sized>() {}
            fn __all_cross() { #(__crosses::<#types>();)* }
        }
    })
}

/// The types that can or cannot cross whatever the block's parameters are, without those of which everybody knows.
fn certain(block: &ImplBlock, of: impl Fn(&MethodModel) -> bool) -> Vec<&Type> {
    // What is compiled under a condition may name what exists under that condition only.
    let types = crossing_types(block).filter(|(method, _)| of(method) && method.cfgs().is_empty());
    distinct(types.map(|(_, ty)| ty).filter(|ty| !mentions_param(block, ty) && !types::is_well_known(ty)))
}

fn mentions_param(block: &ImplBlock, ty: &Type) -> bool {
    let params: Vec<Ident> = block.generics().params.iter().map(name).collect();
    types::mentions(ty, &params)
}

/// Every type once, however often it crosses.
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

/// Each type that crosses, with the method that it crosses for.
fn crossing_types(block: &ImplBlock) -> impl Iterator<Item = (&MethodModel, &Type)> {
    block.crossing().flat_map(|method| {
        let arguments =
            method.arguments.iter().filter(|argument| argument.passing != Passing::Text).map(|argument| &argument.ty);
        let output = (!method.is_constructor()).then_some(&method.output);
        arguments.chain(output).map(move |ty| (method, ty))
    })
}

/// The same and the mode of a proxy.
pub(crate) fn with_mode(generics: &Generics, mode: &Ident) -> Generics {
    let mut generics = generics.clone();
    generics.params.push(parse_quote!(#mode: ::__callgate::__codegen::Mode));
    generics
}

/// A name for the mode that nothing in the block has: `M`, if possible.
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

/// The proxy's own generics: those of the type, as far as the block shows them, then the mode.
pub(crate) struct ProxyGenerics {
    /// `T: ?Sized, const N: usize`
    declared: Vec<GenericParam>,
    /// `T, N` or whatever the block has in their place.
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

    /// The block's own parameter, if that is what stands there; else a new one.
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

    /// The type parameters, which the proxy has no value of.
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

/// Bounds are for the impls; only what takes one away must stay.
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
