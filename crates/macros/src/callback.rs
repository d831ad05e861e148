//! Arguments that stay with the caller, and that the method in the child asks: callbacks, and iterators that it takes items from.

use syn::{
    AssocType, GenericArgument, Ident, ParenthesizedGenericArguments, Path, PathArguments, ReturnType, TraitBound,
    Type, TypeParamBound, TypeReference, parse_quote,
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
    /// `impl Iterator<Item = T>`
    Items,
}

/// What the type of an argument says of a callback.
pub(crate) struct CallbackType<'a> {
    pub(crate) kind: CallbackKind,
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
            let last = called.segments.last()?;
            let PathArguments::Parenthesized(ParenthesizedGenericArguments { inputs, output, .. }) = &last.arguments
            else {
                return None;
            };
            let kind = match (last.ident.to_string().as_str(), mutability) {
                ("FnMut", Some(_)) => CallbackKind::FnMut,
                ("Fn", _) => CallbackKind::Fn,
                _ => return None,
            };
            let output = match output {
                ReturnType::Type(_, ty) => Some(&**ty),
                ReturnType::Default => None,
            };
            Some(CallbackType { kind, params: inputs.iter().map(|input| &input.ty).collect(), output, others })
        }
        Type::ImplTrait(hidden) => {
            let (iterator, others) = split(hidden.bounds.iter())?;
            let item = item_of(iterator)?;
            Some(CallbackType { kind: CallbackKind::Items, params: Vec::new(), output: Some(item), others })
        }
        _ => None,
    }
}

impl CallbackType<'_> {
    /// The argument of this type.
    pub(crate) fn named(self, name: Ident, position: usize, in_type: impl Fn(&Type) -> Type) -> CallbackArgument {
        let output = self.output.map_or_else(|| parse_quote!(()), &in_type);
        let params = self.params.into_iter().map(in_type).collect();
        CallbackArgument { name, position, kind: self.kind, params, output }
    }
}

/// The trait, and the other bounds.
fn split<'a>(bounds: impl Iterator<Item = &'a TypeParamBound>) -> Option<(&'a Path, Vec<&'a TypeParamBound>)> {
    let mut bounds = bounds;
    let TypeParamBound::Trait(TraitBound { path, .. }) = bounds.next()? else { return None };
    Some((path, bounds.collect()))
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
