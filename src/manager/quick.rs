//! Hashing of the short keys that each call looks up: a name on one side, a callback's number on the other.
//!
//! Not for keys that a stranger may choose: it could have them collide. Names come from this process's own calls, numbers from its own count.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys this process has chosen.
pub(super) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Eight bytes at a time, each multiplied by an odd number so that its bits reach the upper ones, which are folded back at the end.
#[derive(Default)]
pub(super) struct Quick(u64);

/// 2 to the 64th over the golden ratio, made odd: Knuth, The Art of Computer Programming, volume 3, 6.4.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Quick {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        eights.iter().for_each(|eight| self.write_u64(u64::from_le_bytes(*eight)));
        if !rest.is_empty() {
            self.write_u64(rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(ODD);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    #[test]
    fn keys_that_are_alike_are_spread() {
        let hash = BuildHasherDefault::<Quick>::default();
        let names: HashSet<u64> = (0..10_000).map(|n| hash.hash_one(format!("callback {n}"))).collect();
        assert!(names.len() > 9_990, "{}", names.len());
        // What a map uses: its lowest bits for the place, its highest seven beside it.
        let places =
            |hashes: &mut dyn Iterator<Item = u64>| hashes.map(|hash| hash % 1024).collect::<HashSet<_>>().len();
        assert!(places(&mut (0..4096u32).map(|n| hash.hash_one(n))) > 900);
        assert!(places(&mut names.iter().copied()) > 900);
        for (one, other) in [("", "\0"), ("a", "a\0"), ("ab", "ba"), ("add", "bdd"), ("aaaaaaaab", "aaaaaaaac")] {
            assert_ne!(hash.hash_one(one), hash.hash_one(other), "{one:?} {other:?}");
        }
    }
}
