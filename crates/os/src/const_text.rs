//! Text concatenated at compile time.

#![forbid(unsafe_code)]

/// Text of at most [`MAX`](Self::MAX) bytes, concatenated at compile time. A longer one does not compile.
#[derive(Debug)]
pub struct ConstText {
    bytes: [u8; ConstText::MAX],
    len: usize,
}

impl ConstText {
    pub const MAX: usize = 1024;

    pub const fn of(parts: &[&str]) -> Self {
        let mut text = Self { bytes: [0; Self::MAX], len: 0 };
        let mut at = 0;
        while at < parts.len() {
            text = text.with(parts[at]);
            at += 1;
        }
        text
    }

    pub const fn of_tuple(types: &[&str]) -> Self {
        let mut text = Self::of(&["("]);
        let mut at = 0;
        while at < types.len() {
            text = text.with(if at == 0 { "" } else { ", " }).with(types[at]);
            at += 1;
        }
        text.with(")")
    }

    const fn with(mut self, part: &str) -> Self {
        assert!(self.len + part.len() <= Self::MAX, "the text is too long");
        let (_, rest) = self.bytes.split_at_mut(self.len);
        let (place, _) = rest.split_at_mut(part.len());
        place.copy_from_slice(part.as_bytes());
        self.len += part.len();
        self
    }

    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => panic!("whole texts one after the other are a text"),
        }
    }
}
