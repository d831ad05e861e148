//! Fills, checks and changes large payloads. Every way of carrying them, and every floor, uses these same functions on both sides.
//!
//! The caller fills or marks a payload. The other process answers with what it read, or changes the payload itself, and the caller
//! checks the answer. Nothing here allocates.

#![forbid(unsafe_code)]

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// The wrapping sum of all words; fewer bytes than a word count as a word that ends in zeros.
///
/// Never inlined, so that all subjects run the same instructions.
#[inline(never)]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<WORD>();
    let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    let mut last = [0; WORD];
    last[..rest.len()].copy_from_slice(rest);
    sum.wrapping_add(u64::from_le_bytes(last))
}

/// The [`sum`] of `len` bytes that are all `byte`.
pub fn sum_of(byte: u8, len: usize) -> u64 {
    let word = u64::from_le_bytes([byte; WORD]);
    let mut last = [0; WORD];
    last[..len % WORD].fill(byte);
    word.wrapping_mul((len / WORD) as u64).wrapping_add(u64::from_le_bytes(last))
}

/// The byte with which the other process fills its answer to a payload filled with one byte: the next one, or 0 if the payload holds any other byte.
pub fn next(bytes: &[u8]) -> u8 {
    let byte = bytes.first().copied().unwrap_or_default();
    if sum(bytes) == sum_of(byte, bytes.len()) { byte % 127 + 1 } else { 0 }
}

/// Writes every byte. Never inlined, like [`sum`].
#[inline(never)]
pub fn fill(bytes: &mut [u8], byte: u8) {
    bytes.fill(byte);
}

/// Whether the answer to a payload filled with `byte` is filled with the byte that follows it, see [`next`].
pub fn is_next(bytes: &[u8], byte: u8) -> bool {
    sum(bytes) == sum_of(byte % 127 + 1, bytes.len())
}

/// Writes `turn` at the beginning of a payload, and touches nothing else.
///
/// # Panics
///
/// If the payload is shorter than a word.
pub fn mark(bytes: &mut [u8], turn: u64) {
    bytes[..WORD].copy_from_slice(&turn.to_le_bytes());
}

/// What the other process does to a marked payload: adds the turn at its beginning to the last word. Writes one cache line.
///
/// # Panics
///
/// If the payload is shorter than a word.
pub fn edit(bytes: &mut [u8]) {
    let turn = u64::from_le_bytes(*bytes.first_chunk().expect("a word"));
    let total = bytes.last_chunk_mut().expect("a word");
    *total = u64::from_le_bytes(*total).wrapping_add(turn).to_le_bytes();
}

/// Whether a payload that began as zeros has been edited in each of the turns 1 to `turn`.
pub fn is_edited(bytes: &[u8], turn: u64) -> bool {
    let total = turn.wrapping_mul(turn + 1) / 2;
    bytes.last_chunk() == Some(&total.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_all_bytes() {
        for len in [0, 1, 7, 8, 9, 100, 4096] {
            let mut bytes = vec![0xa5; len];
            assert_eq!(sum(&bytes), sum_of(0xa5, len), "{len}");
            for at in 0..len {
                bytes[at] ^= 1;
                assert_ne!(sum(&bytes), sum_of(0xa5, len), "byte {at} of {len}");
                bytes[at] ^= 1;
            }
        }
        assert_eq!(sum(&[u64::MAX.to_le_bytes(), 43u64.to_le_bytes()].concat()), 42);
    }

    #[test]
    fn a_filled_payload_is_answered_by_the_next_byte_if_it_is_whole() {
        let mut bytes = [0; 100];
        for byte in 1..=127 {
            fill(&mut bytes, byte);
            let answer = next(&bytes);
            fill(&mut bytes, answer);
            assert!(is_next(&bytes, byte) && !is_next(&bytes, byte % 127 + 1), "{byte}");
        }
        bytes[99] = 0;
        assert_eq!(next(&bytes), 0);
        assert!(!is_next(&bytes, 127));
    }

    #[test]
    fn a_payload_that_goes_on_is_edited_in_one_word() {
        let mut bytes = [0; 64];
        for turn in 1..=4 {
            mark(&mut bytes, turn);
            assert!(!is_edited(&bytes, turn));
            edit(&mut bytes);
            assert!(is_edited(&bytes, turn) && !is_edited(&bytes, turn - 1));
        }
        assert_eq!(bytes[8..56], [0; 48]);
        // A payload that missed the earlier turns.
        let mut other = [0; 64];
        mark(&mut other, 5);
        edit(&mut other);
        assert!(!is_edited(&other, 5));
    }
}
