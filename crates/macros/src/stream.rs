//! Streams: methods that return `impl Iterator<Item = T>`, recognised by how that is spelled.

use syn::{CapturedParam, GenericArgument, PathArguments, ReturnType, Signature, Type, TypeParamBound};

use crate::types;

/// What a method's iterator may borrow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Borrowing {
    /// Everything that the method has: the service, and the arguments.
    All,
    /// Nothing: it says `use<>` without a lifetime, or `'static`.
    Nothing,
}

/// The items of the stream that a method returns, and what its iterator may borrow; `None` if it returns none.
pub(crate) fn returned(sig: &Signature) -> Option<(&Type, Borrowing)> {
    let ReturnType::Type(_, ty) = &sig.output else { return None };
    let Type::ImplTrait(iterator) = types::bare(ty) else { return None };
    let item = iterator.bounds.iter().find_map(item)?;
    let borrows_nothing = iterator.bounds.iter().any(is_without_borrow);
    Some((item, if borrows_nothing { Borrowing::Nothing } else { Borrowing::All }))
}

/// The `T` of `Iterator<Item = T>`.
fn item(bound: &TypeParamBound) -> Option<&Type> {
    let TypeParamBound::Trait(bound) = bound else { return None };
    let last = bound.path.segments.last().filter(|last| last.ident == "Iterator")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if item.ident == "Item" => Some(&item.ty),
        _ => None,
    })
}

fn is_without_borrow(bound: &TypeParamBound) -> bool {
    match bound {
        TypeParamBound::Lifetime(lifetime) => lifetime.ident == "static",
        TypeParamBound::PreciseCapture(captured) => {
            !captured.params.iter().any(|param| matches!(param, CapturedParam::Lifetime(_)))
        }
        _ => false,
    }
}
