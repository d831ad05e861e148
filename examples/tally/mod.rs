//! The service that the examples `worker` and `parent` agree on: both include this file.

use callgate::bridge;
use std::collections::BTreeMap;

/// Counts words.
pub(crate) struct Tally {
    counts: BTreeMap<String, u64>,
    least: usize,
}

#[bridge]
impl Tally {
    /// Counts words of at least `least` bytes.
    pub(crate) fn new(least: usize) -> Result<Self, String> {
        match least {
            0 => Err("a word has at least one byte".into()),
            least => Ok(Tally { counts: BTreeMap::new(), least }),
        }
    }

    /// Counts the words of `text`. Returns how many there were.
    pub(crate) fn add(&mut self, text: &str) -> u64 {
        let words = text.split(|letter: char| !letter.is_alphabetic()).filter(|word| word.len() >= self.least);
        words.map(|word| *self.counts.entry(word.to_owned()).or_default() += 1).count() as u64
    }

    /// How often each word was there, in alphabetical order.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        self.counts.iter().map(|(word, &count)| (word.clone(), count)).collect()
    }

    /// The executable that counts.
    pub(crate) fn executable() -> String {
        std::env::current_exe().map_or_else(|error| error.to_string(), |path| path.display().to_string())
    }
}

/// What may be said of words that were counted.
pub(crate) trait Summary {
    /// All in one line.
    fn summary(&self, limit: usize) -> String;
}

#[bridge]
impl Summary for Tally {
    fn summary(&self, limit: usize) -> String {
        let words = self.counts.iter().take(limit).map(|(word, count)| format!("{word}: {count}"));
        words.collect::<Vec<_>>().join(", ")
    }
}
