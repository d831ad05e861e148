//! The generics of a block's impls, and those of its proxy.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    ConstParam, GenericArgument, GenericParam, Generics, Ident, Path, Type, TypeParam, TypeParamBound, WherePredicate,
    parse_quote,
};

use crate::model::{Block, Method, Passing, free_name};
use crate::types;

/// Writes an impl with the block's generics and what a bridge asks of them: `'static`, and `Transfer` for what crosses.
///
/// `Transfer` is asked for types without parameters too: where it is missing, the compiler then says so once, at the type, and not at
/// each use in the generated code. Readers of the documentation need no such condition, so rustdoc is given an impl without.
pub(crate) fn impls(block: &Block, write: impl Fn(Generics) -> TokenStream) -> TokenStream {
    let (for_all, for_docs) = (bridged(block, true), bridged(block, false));
    let conditions = |generics: &Generics| generics.where_clause.as_ref().map_or(0, |clause| clause.predicates.len());
    if conditions(&for_all) == conditions(&for_docs) {
        return write(for_docs);
    }
    let (for_all, for_docs) = (write(for_all), write(for_docs));
    quote! {
        #[cfg(not(doc))]
        #[allow(trivial_bounds)]
        #for_all
        #[cfg(doc)]
        #for_docs
    }
}

/// The block's generics with conditions, if asked also on types without parameters.
fn bridged(block: &Block, on_all: bool) -> Generics {
    let mut generics = block.generics().clone();
    let lasting =
        generics.type_params().map(|TypeParam { ident, .. }| -> WherePredicate { parse_quote!(#ident: 'static) });
    let conditions: Vec<WherePredicate> = lasting.chain(transferred(block, on_all)).collect();
    if !conditions.is_empty() {
        generics.make_where_clause().predicates.extend(conditions);
    }
    generics
}

/// The same and the mode of a proxy.
pub(crate) fn with_mode(mut generics: Generics, mode: &Ident) -> Generics {
    generics.params.push(parse_quote!(#mode: ::callgate::__glue::Mode));
    generics
}

/// The same, if there are any, and a condition that a block alone cannot see to be met.
pub(crate) fn with_condition(mut generics: Generics, condition: WherePredicate) -> Generics {
    if !generics.params.is_empty() {
        generics.make_where_clause().predicates.push(condition);
    }
    generics
}

/// `Vec<T>: Transfer` for each type that crosses and mentions a parameter, or else is not known to everybody.
fn transferred(block: &Block, on_all: bool) -> Vec<WherePredicate> {
    let params: Vec<Ident> = block.generics().type_params().map(|param| param.ident.clone()).collect();
    let mut seen: Vec<String> = Vec::new();
    let mut conditions = Vec::new();
    for method in block.crossing().filter(|method| !method.refused) {
        // What is compiled under a condition may name what exists under that condition only.
        let on_all = on_all && method.cfgs().is_empty();
        for ty in crossing_types(method) {
            let spelling = ty.to_token_stream().to_string();
            let is_asked = types::mentions(ty, &params) || (on_all && !types::is_well_known(ty));
            if is_asked && !seen.contains(&spelling) {
                seen.push(spelling);
                conditions.push(transfer(ty));
            }
        }
    }
    conditions
}

/// `Vec<T>: Transfer`, of which the compiler shows the type.
fn transfer(ty: &Type) -> WherePredicate {
    let tokens: Vec<_> = ty.to_token_stream().into_iter().collect();
    let (first, last) = (tokens[0].span(), tokens[tokens.len() - 1].span());
    let (path, name) = (quote_spanned!(first=> ::callgate::__glue::), quote_spanned!(last=> Transfer));
    parse_quote!(#ty: #path #name)
}

fn crossing_types(method: &Method) -> impl Iterator<Item = &Type> {
    let arguments =
        method.arguments.iter().filter(|argument| argument.passing != Passing::Text).map(|argument| &argument.ty);
    arguments.chain((!method.is_constructor()).then_some(&method.output))
}

/// A name for the mode that nothing in the block has: `M`, if possible.
pub(crate) fn mode(block: &Block) -> Ident {
    let mut name = Ident::new("M", proc_macro2::Span::call_site());
    while is_used(block, &name) {
        name = format_ident!("{name}ode");
    }
    name
}

fn is_used(block: &Block, name: &Ident) -> bool {
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
    pub(crate) fn of(block: &Block) -> ProxyGenerics {
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
    fn param_for(&self, ty: &Type, block: &Block) -> GenericParam {
        let own = block.generics().params.iter().find_map(|param| match param {
            GenericParam::Type(param) if types::is_word(ty, &param.ident.to_string()) => Some(unbounded(param)),
            GenericParam::Const(param) if types::is_word(ty, &param.ident.to_string()) => Some(without_default(param)),
            _ => None,
        });
        match own {
            Some(param) if !self.names().contains(&name(&param)) => param,
            _ => {
                let name = free_name(format_ident!("T{}", self.declared.len()), &self.names());
                parse_quote!(#name: ?Sized)
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
