//! The archives that may be read in place although their writer is not trusted.
//!
//! Contains nothing but `unsafe impl`: each is a claim about the code of rkyv 0.8, made after reading it. Some types are left out on purpose:
//! `docs/decisions/034-views-of-safe-archives-only.md` says why.

use rkyv::boxed::ArchivedBox;
use rkyv::ffi::ArchivedCString;
use rkyv::net::{
    ArchivedIpAddr, ArchivedIpv4Addr, ArchivedIpv6Addr, ArchivedSocketAddr, ArchivedSocketAddrV4, ArchivedSocketAddrV6,
};
use rkyv::niche::option_box::ArchivedOptionBox;
use rkyv::niche::option_nonzero::*;
use rkyv::ops::{
    ArchivedBound, ArchivedRange, ArchivedRangeFrom, ArchivedRangeFull, ArchivedRangeInclusive, ArchivedRangeTo,
    ArchivedRangeToInclusive,
};
use rkyv::option::ArchivedOption;
use rkyv::primitive::*;
use rkyv::result::ArchivedResult;
use rkyv::string::ArchivedString;
use rkyv::time::ArchivedDuration;
use rkyv::traits::ArchivePointee;
use rkyv::tuple::*;
use rkyv::vec::ArchivedVec;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::num::{NonZeroI8, NonZeroU8};

/// An archived type that can be read in a `View`: its safe methods are sound on any bytes that validate as it.
///
/// A view holds what a child wrote, and a child may write anything that passes validation. For most archives
/// their methods rely on nothing more: numbers, `bool`, `char`, texts, boxes, lists, arrays, tuples, options, results, ranges, durations and
/// addresses implement this. Maps and sets do not: validation does not look at how a table is linked together, and a
/// lookup in a forged `HashMap`, or going through a forged `BTreeMap`, reads memory that it should not.
///
/// For a type of your own, derive it on the archived type. Every field must be viewable.
///
/// ```
/// use rkyv::{Archive, Deserialize, Serialize};
///
/// #[derive(Archive, Serialize, Deserialize)]
/// #[rkyv(derive(callgate::Viewable))]
/// struct Track {
///     title: String,
///     seconds: u32,
/// }
/// ```
///
/// # Safety
///
/// No safe method or trait of the type may do anything undefined with a reference to any value that
/// `rkyv::bytecheck::CheckBytes` accepts, however unlikely: in particular none may count on what only its serialisation
/// establishes. Every type that it gives references to must be viewable too.
#[diagnostic::on_unimplemented(
    message = "a reply of an archived `{Self}` cannot be viewed",
    label = "validation does not make this type's own methods safe to call on what a child wrote",
    note = "a type of yours: `#[rkyv(derive(callgate::Viewable))]` on it, and on the types of its fields",
    note = "a map or a set: call the method without `view()`, or have it return a sorted `Vec` of pairs"
)]
pub unsafe trait Viewable {}

macro_rules! viewable {
    ($([$($generics:tt)*] $ty:ty,)*) => {$(
        // SAFETY: plain data whose bytes were validated, with no unsafe code that counts on more; or a relative pointer whose
        // target was validated as what the type gives a reference to, with the length that it gives it with.
        unsafe impl<$($generics)*> Viewable for $ty {}
    )*};
}

viewable! {
    [] (), [] bool, [] ArchivedChar,
    [] u8, [] ArchivedU16, [] ArchivedU32, [] ArchivedU64, [] ArchivedU128,
    [] i8, [] ArchivedI16, [] ArchivedI32, [] ArchivedI64, [] ArchivedI128,
    [] ArchivedF32, [] ArchivedF64,
    [] NonZeroU8, [] ArchivedNonZeroU16, [] ArchivedNonZeroU32, [] ArchivedNonZeroU64, [] ArchivedNonZeroU128,
    [] NonZeroI8, [] ArchivedNonZeroI16, [] ArchivedNonZeroI32, [] ArchivedNonZeroI64, [] ArchivedNonZeroI128,
    [] ArchivedOptionNonZeroU8, [] ArchivedOptionNonZeroU16, [] ArchivedOptionNonZeroU32, [] ArchivedOptionNonZeroU64,
    [] ArchivedOptionNonZeroU128, [] ArchivedOptionNonZeroI8, [] ArchivedOptionNonZeroI16, [] ArchivedOptionNonZeroI32,
    [] ArchivedOptionNonZeroI64, [] ArchivedOptionNonZeroI128,
    [] str, [] CStr, [] ArchivedString, [] ArchivedCString,
    [] ArchivedDuration, [] ArchivedRangeFull,
    [] ArchivedIpv4Addr, [] ArchivedIpv6Addr, [] ArchivedIpAddr,
    [] ArchivedSocketAddrV4, [] ArchivedSocketAddrV6, [] ArchivedSocketAddr,
    [T: ?Sized] PhantomData<T>,
    [T: Viewable, const N: usize] [T; N], [T: Viewable] [T], [T: Viewable] ArchivedVec<T>,
    [T: Viewable + ArchivePointee + ?Sized] ArchivedBox<T>, [T: Viewable + ArchivePointee + ?Sized] ArchivedOptionBox<T>,
    [T: Viewable] ArchivedOption<T>, [T: Viewable, E: Viewable] ArchivedResult<T, E>,
    [T: Viewable] ArchivedBound<T>, [T: Viewable] ArchivedRange<T>, [T: Viewable] ArchivedRangeInclusive<T>,
    [T: Viewable] ArchivedRangeFrom<T>, [T: Viewable] ArchivedRangeTo<T>, [T: Viewable] ArchivedRangeToInclusive<T>,
}

macro_rules! viewable_tuples {
    ($($tuple:ident<$($part:ident),*>)*) => {$(
        // SAFETY: nothing but its public fields, which were validated.
        unsafe impl<$($part: Viewable),*> Viewable for $tuple<$($part),*> {}
    )*};
}

viewable_tuples! {
    ArchivedTuple1<A>
    ArchivedTuple2<A, B>
    ArchivedTuple3<A, B, C>
    ArchivedTuple4<A, B, C, D>
    ArchivedTuple5<A, B, C, D, E>
    ArchivedTuple6<A, B, C, D, E, F>
    ArchivedTuple7<A, B, C, D, E, F, G>
    ArchivedTuple8<A, B, C, D, E, F, G, H>
    ArchivedTuple9<A, B, C, D, E, F, G, H, I>
    ArchivedTuple10<A, B, C, D, E, F, G, H, I, J>
    ArchivedTuple11<A, B, C, D, E, F, G, H, I, J, K>
    ArchivedTuple12<A, B, C, D, E, F, G, H, I, J, K, L>
    ArchivedTuple13<A, B, C, D, E, F, G, H, I, J, K, L, M>
}

/// Why trees and tables are not in the lists above: forgeries that validate, whose own methods go where validation has not been.
/// If one of these tests fails, rkyv now validates more.
#[cfg(all(test, not(loom)))]
mod tests {
    use rkyv::collections::btree_set::ArchivedBTreeSet;
    use rkyv::collections::swiss_table::ArchivedHashMap;
    use rkyv::rancor::Failure;
    use rkyv::util::AlignedVec;
    use std::cell::Cell;

    /// No entry that validation accepts as one of the archive has this key. Any byte would be as good, also for a type that has
    /// bytes which it must not be made of.
    const UNCHECKED: u8 = 77;

    fn archive(parts: &[&[u8]]) -> AlignedVec {
        let mut bytes = AlignedVec::new();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    #[test]
    fn fault_05_a_forged_tree_iterates_over_what_was_not_checked() {
        // A leaf without entries, where iteration takes the first one all the same.
        let leaf: [&[u8]; 2] = [&[0, UNCHECKED, 0, 0, 0, 0, 0, 0], &0u64.to_le_bytes()];
        // An inner node with five keys, and that leaf before the first.
        let [to_leaf, none] = [(-24i64).to_le_bytes(), 1i64.to_le_bytes()];
        let inner: [&[u8]; 7] = [&[1, 1, 2, 3, 4, 5, 0, 0], &to_leaf, &none, &none, &none, &none, &none];
        let root: [&[u8]; 2] = [&(-56i64).to_le_bytes(), &5u64.to_le_bytes()];
        let bytes = archive(&[&leaf[..], &inner, &root].concat());

        let tree = rkyv::access::<ArchivedBTreeSet<u8>, Failure>(&bytes).unwrap();
        assert_eq!(tree.len(), 5);
        assert_eq!(tree.iter().next(), Some(&UNCHECKED));
    }

    #[test]
    fn fault_05_a_lookup_in_a_forged_table_compares_what_was_not_checked() {
        // Two buckets of a key and a value, last first; only the first is said to be full. Behind the control bytes that are
        // checked, all say that they stand for keys of one kind of hash.
        let buckets = [UNCHECKED, 0, 1, 1];
        let (full, empty) = (0x01, 0xff);
        let control = [&[full, empty, full, empty][..], &[0x02; 27]].concat();
        let root: [&[u8]; 3] = [&(-36i64).to_le_bytes(), &1u64.to_le_bytes(), &2u64.to_le_bytes()];
        let bytes = archive(&[&[&buckets[..], &control, &[0; 5]], &root[..]].concat());

        let table = rkyv::access::<ArchivedHashMap<u8, u8>, Failure>(&bytes).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), [&1]);
        let is_compared = Cell::new(false);
        for key in 0..=u8::MAX {
            table.get_with(&key, |_, found| {
                is_compared.set(is_compared.get() || *found == UNCHECKED);
                false
            });
        }
        assert!(is_compared.get());
    }
}
