//! The service that the examples `worker` and `parent` share: both include this file.

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

    /// Counts the words of `text` and returns their number.
    pub(crate) fn add(&mut self, text: &str) -> u64 {
        let words = text.split(|letter: char| !letter.is_alphabetic()).filter(|word| word.len() >= self.least);
        words.map(|word| *self.counts.entry(word.to_owned()).or_default() += 1).count() as u64
    }

    /// The words with their counts, in alphabetical order.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        self.counts.iter().map(|(word, &count)| (word.clone(), count)).collect()
    }

    /// The path of the executable that does the counting.
    pub(crate) fn executable() -> String {
        std::env::current_exe().map_or_else(|error| error.to_string(), |path| path.display().to_string())
    }
}

/// Sums up counted words.
pub(crate) trait Summary {
    /// The first `limit` words with their counts, on one line.
    fn summary(&self, limit: usize) -> String;
}

#[bridge]
impl Summary for Tally {
    fn summary(&self, limit: usize) -> String {
        let words = self.counts.iter().take(limit).map(|(word, count)| format!("{word}: {count}"));
        words.collect::<Vec<_>>().join(", ")
    }
}
