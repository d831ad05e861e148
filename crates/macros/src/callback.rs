//! Arguments that stay with the caller, and that the method in the child asks: callbacks, and iterators that it takes items from.

use syn::{
    AssocType, BoundLifetimes, GenericArgument, Ident, ParenthesizedGenericArguments, Path, PathArguments, ReturnType,
    TraitBound, Type, TypeParamBound, TypeReference, parse_quote,
};

use crate::types;

/// An argument that the method asks.
pub(crate) struct CallbackArgument {
    /// A plain name, like that of any argument.
    pub(crate) name: Ident,
    /// Its position among all arguments.
    pub(crate) position: usize,
    pub(crate) kind: CallbackKind,
    /// What it is called with.
    pub(crate) params: Vec<Type>,
    /// What it returns; for an iterator, an item.
    pub(crate) output: Type,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallbackKind {
    /// `&mut dyn FnMut(..) -> R`
    FnMut,
    /// `&dyn Fn(..) -> R`
    Fn,
    /// `&mut dyn Fn(..) -> R`
    FnByMut,
    /// `impl Iterator<Item = T>`
    Items,
}

/// What the type of an argument says of a callback.
pub(crate) struct CallbackType<'a> {
    pub(crate) kind: CallbackKind,
    /// The lifetimes that `for<..>` declares.
    pub(crate) lifetimes: Option<&'a BoundLifetimes>,
    pub(crate) params: Vec<&'a Type>,
    pub(crate) output: Option<&'a Type>,
    /// Further bounds: `+ Send`.
    pub(crate) others: Vec<&'a TypeParamBound>,
}

/// Reads the type of an argument; `None` if it is an ordinary one, which crosses.
pub(crate) fn read(ty: &Type) -> Option<CallbackType<'_>> {
    match types::bare(ty) {
        Type::Reference(TypeReference { mutability, elem, .. }) => {
            let Type::TraitObject(object) = types::bare(elem) else { return None };
            let (called, others) = split(object.bounds.iter())?;
            let last = called.path.segments.last()?;
            let PathArguments::Parenthesized(ParenthesizedGenericArguments { inputs, output, .. }) = &last.arguments
            else {
                return None;
            };
            let kind = match (last.ident.to_string().as_str(), mutability) {
                ("FnMut", Some(_)) => CallbackKind::FnMut,
                ("Fn", None) => CallbackKind::Fn,
                ("Fn", Some(_)) => CallbackKind::FnByMut,
                _ => return None,
            };
            let output = match output {
                ReturnType::Type(_, ty) => Some(&**ty),
                ReturnType::Default => None,
            };
            let (lifetimes, params) = (called.lifetimes.as_ref(), inputs.iter().map(|input| &input.ty).collect());
            Some(CallbackType { kind, lifetimes, params, output, others })
        }
        Type::ImplTrait(hidden) => {
            let (iterator, others) = split(hidden.bounds.iter())?;
            let (kind, item) = (CallbackKind::Items, item_of(&iterator.path)?);
            Some(CallbackType { kind, lifetimes: None, params: Vec::new(), output: Some(item), others })
        }
        _ => None,
    }
}

impl CallbackType<'_> {
    /// The argument of this type.
    pub(crate) fn named(self, name: Ident, position: usize, in_type: impl Fn(&Type) -> Type) -> CallbackArgument {
        let output = self.output.map_or_else(|| parse_quote!(()), &in_type);
        let params = self.params.into_iter().map(|ty| without_lifetime(in_type(ty))).collect();
        CallbackArgument { name, position, kind: self.kind, params, output }
    }
}

/// `&str` for `&'a str`: what it is called with lives as long as the call, whatever declares the lifetime.
fn without_lifetime(ty: Type) -> Type {
    match ty {
        Type::Reference(reference) => Type::Reference(TypeReference { lifetime: None, ..reference }),
        Type::Group(group) => without_lifetime(*group.elem),
        Type::Paren(paren) => without_lifetime(*paren.elem),
        ty => ty,
    }
}

/// The trait, and the other bounds.
fn split<'a>(bounds: impl Iterator<Item = &'a TypeParamBound>) -> Option<(&'a TraitBound, Vec<&'a TypeParamBound>)> {
    let mut bounds = bounds;
    let TypeParamBound::Trait(called) = bounds.next()? else { return None };
    Some((called, bounds.collect()))
}

/// The `T` of `Iterator<Item = T>`.
fn item_of(path: &Path) -> Option<&Type> {
    let last = path.segments.last().filter(|last| last.ident == "Iterator")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::AssocType(AssocType { ident, ty, .. }) if ident == "Item" => Some(ty),
        _ => None,
    }
}
