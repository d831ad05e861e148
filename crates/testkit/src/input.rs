//! Reads a fuzzer's bytes as decisions. After the last byte, every decision reads as zero: the first choice.

#![forbid(unsafe_code)]

pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `end`; `end` may be at most 256.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub(super) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A word of a kind that tends to find errors: small, near a power of two, near the maximum, or arbitrary.
    pub(super) fn odd_word(&mut self) -> u64 {
        let kind = self.byte();
        let small = u64::from(self.byte());
        match kind % 8 {
            0..=2 => small,
            3 => small << 6,
            4 => (1u64 << (small % 64)).wrapping_sub(u64::from(kind / 8 % 4)),
            5 => u64::MAX - small,
            6 => small << 32 | u64::from(kind / 8),
            _ => self.word(),
        }
    }

    /// The next `len` bytes, or all that are left if there are fewer.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Makes up to seven changes to `bytes`, some of which change their length. Returns whether the result differs.
pub(super) fn mutate(bytes: &mut Vec<u8>, input: &mut Input<'_>) -> bool {
    let original = bytes.clone();
    for _ in 0..input.below(8) {
        let (how, at) = (input.byte(), usize::from(u16::from_le_bytes(input.array())));
        if bytes.is_empty() {
            break;
        }
        // Half of the changes hit the last 48 bytes, where the root is.
        let at = if how & 0x80 != 0 { bytes.len() - 1 - at % bytes.len().min(48) } else { at % bytes.len() };
        match how % 8 {
            0 => bytes[at] ^= 1 << input.below(8),
            1 => bytes[at] = input.byte(),
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes[at] = bytes[at].wrapping_sub(1),
            4 => {
                let word = input.odd_word().to_le_bytes();
                bytes.iter_mut().skip(at & !3).zip(word).for_each(|(byte, new)| *byte = new);
            }
            5 => bytes.truncate(at),
            6 => {
                let from = input.below(256) % bytes.len();
                let copy: Vec<u8> = bytes[from..].iter().copied().take(8).collect();
                bytes.iter_mut().skip(at).zip(copy).for_each(|(byte, new)| *byte = new);
            }
            _ => {
                let more = input.bytes(usize::from(how >> 3));
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    *bytes != original
}
