//! The bytes of a fuzzer, read as decisions. When they are used up, every decision is the first.

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

    /// A number below `end`, at most 256.
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

    /// A word of the kind that finds mistakes: small, near a power of two, near the largest, or any.
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

    /// The next `len` bytes, or as many as there are.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Changes `bytes` in up to seven places, as the input says; perhaps in none, or only their length.
pub(super) fn mutate(bytes: &mut Vec<u8>, input: &mut Input<'_>) -> bool {
    let original = bytes.clone();
    for _ in 0..input.below(8) {
        let (how, at) = (input.byte(), usize::from(u16::from_le_bytes(input.array())));
        if bytes.is_empty() {
            break;
        }
        // The last bytes, where the root is, as often as all others.
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
