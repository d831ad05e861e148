//! Methods that return streams, in every form.

use callgate::{CallError, ItemStream, Items, bridge};

pub struct Shelf<T> {
    items: Vec<T>,
}

#[bridge]
impl<T: Clone + Send + Sync> Shelf<T> {
    pub fn new(items: Vec<T>) -> Self {
        Shelf { items }
    }

    /// With the service alone.
    pub fn all(&self) -> impl Iterator<Item = T> {
        self.items.iter().cloned()
    }

    pub fn some<'a>(&'a mut self, (from, to): (usize, usize), also: &'a [T]) -> impl Iterator<Item = T> + 'a {
        self.items.drain(from..to).chain(also.iter().cloned())
    }

    pub fn owned(&self, _count: &u64, mut text: String) -> impl Iterator<Item = String> + use<T> {
        text.push('!');
        std::iter::once(text)
    }

    #[allow(clippy::ptr_arg)]
    pub fn count(numbers: &[u64], words: &[String], word: &String, more: u64) -> impl Iterator<Item = u64> + Clone {
        numbers.iter().map(move |number| number + more + (words.len() + word.len()) as u64)
    }

    #[bridge(rename = "numbers")]
    #[deprecated]
    #[allow(clippy::needless_arbitrary_self_type)]
    pub fn older(self: &Self) -> impl std::iter::Iterator<Item = (u8, Option<T>)> + '_ {
        (0..).map(|number| (number, self.items.first().cloned()))
    }
}

#[test]
#[allow(deprecated)]
fn every_form_gives_its_items() -> Result<(), Box<dyn std::error::Error>> {
    let shelf = Shelf::<u64>::bridge(vec![1, 2, 3]).start()?;
    let all: Items<u64> = shelf.all()?;
    assert_eq!(all.collect::<Result<Vec<_>, _>>()?, [1, 2, 3]);
    assert_eq!(shelf.owned(&1, "a".into())?.collect::<Result<Vec<_>, _>>()?, ["a!"]);
    assert_eq!(shelf.view().some((0, 2), &[5])?.collect::<Result<Vec<_>, _>>()?, [1, 2, 5]);
    assert_eq!(shelf.begin().numbers().wait()?.nth(1), Some(Ok((1, Some(3)))));
    assert_eq!(shelf.count(&[1], &["x".into()], &"ab".into(), 10)?.collect::<Result<Vec<_>, _>>()?, [14]);
    let refused: Result<(), CallError> = shelf.send().all();
    assert!(matches!(refused, Err(CallError::Refused { .. })));
    Ok(())
}

#[allow(dead_code)]
async fn awaited(shelf: &callgate::AsyncBridge<Shelf<u64>>) -> Result<ItemStream<u64>, CallError> {
    shelf.all().await
}
