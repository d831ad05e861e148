//! Text shown to a user. What another process says may contain anything.

#![forbid(unsafe_code)]

/// The longest beginning of `text` that fits into `most` bytes.
pub fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Whether a character shows where it stands: it moves no cursor, reverses no text and is not invisible.
pub fn is_visible(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Makes a peer's text safe to show: characters that do more than show are written as `\u{..}`. Line breaks, tabs and joined letters stay.
pub fn shown(text: String) -> String {
    let is_fine = |char: char| is_visible(char) || matches!(char, '\n' | '\t' | '\u{200d}');
    if text.chars().all(is_fine) {
        return text;
    }
    text.chars().fold(String::with_capacity(2 * text.len()), |mut shown, char| {
        match is_fine(char) {
            true => shown.push(char),
            false => shown.extend(char.escape_unicode()),
        }
        shown
    })
}

/// The longest explanation that a child may give, in bytes.
pub(crate) const MAX_WORDS: usize = 400;

/// An explanation from a child, cut to [`MAX_WORDS`] bytes, with blanks for control characters, which could move a terminal's cursor.
pub fn checked_words(words: &str) -> String {
    let visible = words.chars().map(|char| if is_visible(char) { char } else { ' ' });
    let mut words: String = visible.collect();
    words.truncate(beginning(&words, MAX_WORDS).len());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_between_characters() {
        assert_eq!(checked_words("a\nb"), "a b");
        assert!(checked_words(&"\u{e4}".repeat(1000)).len() <= MAX_WORDS);
    }

    #[test]
    fn fault_38_what_a_peer_has_said_is_seen_and_does_nothing() {
        assert_eq!(shown("a\u{1b}[2Jb\u{202e}c\u{9b}".into()), r"a\u{1b}[2Jb\u{202e}c\u{9b}");
        let fine = "two\n\tlines, \u{e4}, \u{1f469}\u{200d}\u{1f467}";
        assert_eq!(shown(fine.into()), fine);
    }
}
