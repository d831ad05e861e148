//! The archive formats that rkyv's features select, and which of them this library supports.
//!
//! Any crate of a program can enable a feature of rkyv for the whole program. A feature that changes archives would break slices
//! that are read in place, or truncate numbers. So the build fails here, with a message that says why.

#![forbid(unsafe_code)]

use rkyv::primitive::{ArchivedU16, ArchivedUsize};
use rkyv::rend::{u16_be, u16_le, unaligned};

/// How a number is archived.
trait Number {
    const IS_LITTLE_ENDIAN: bool;
    const IS_ALIGNED: bool;
}

macro_rules! numbers {
    ($($ty:ty: $is_little_endian:literal, $is_aligned:literal;)*) => {$(
        impl Number for $ty {
            const IS_LITTLE_ENDIAN: bool = $is_little_endian;
            const IS_ALIGNED: bool = $is_aligned;
        }
    )*};
}

numbers! {
    u16_le: true, true;
    u16_be: false, true;
    unaligned::u16_ule: true, false;
    unaligned::u16_ube: false, false;
}

/// Why a format is not supported; `None` if it is.
const fn complaint(is_little_endian: bool, is_aligned: bool, pointer_bytes: usize) -> Option<&'static str> {
    if !is_little_endian {
        return Some(
            "callgate cannot be built with rkyv's feature `big_endian`: find who enables it with `cargo tree -e features -i rkyv`",
        );
    }
    if !is_aligned {
        return Some(
            "callgate cannot be built with rkyv's feature `unaligned`: find who enables it with `cargo tree -e features -i rkyv`",
        );
    }
    if pointer_bytes != 8 {
        return Some("callgate needs rkyv's feature `pointer_width_64`, without which a `usize` is cut");
    }
    None
}

const _: () = {
    let pointer_bytes = size_of::<ArchivedUsize>();
    if let Some(why) =
        complaint(<ArchivedU16 as Number>::IS_LITTLE_ENDIAN, <ArchivedU16 as Number>::IS_ALIGNED, pointer_bytes)
    {
        panic!("{}", why)
    }
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fault_37_a_format_that_others_switch_on_is_refused_in_words() {
        assert_eq!(complaint(true, true, 8), None);
        for (is_little_endian, is_aligned, pointer_bytes, name) in [
            (false, true, 8, "`big_endian`"),
            (false, false, 8, "`big_endian`"),
            (true, false, 8, "`unaligned`"),
            (true, true, 4, "`pointer_width_64`"),
            (true, true, 2, "`pointer_width_64`"),
        ] {
            let why = complaint(is_little_endian, is_aligned, pointer_bytes).expect("a complaint");
            assert!(why.starts_with("callgate ") && why.contains(name), "{why}");
        }
    }
}
