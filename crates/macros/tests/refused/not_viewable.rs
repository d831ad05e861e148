//! A map's archive has methods that validation does not make safe, so a view of one, or of what holds one, is nothing to look into.
use std::collections::{BTreeMap, HashMap};

use callgate::bridge;
use rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(callgate::Viewable))]
pub struct Index {
    pages: u32,
    words: HashMap<String, u32>,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(callgate::Viewable))]
pub enum Either<T> {
    One(T),
    List(Vec<T>),
}

#[derive(Archive, Serialize, Deserialize)]
pub struct Plain {
    pages: u32,
}

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn map(&self) -> HashMap<String, u32> {
        HashMap::new()
    }
    pub fn tree(&self) -> BTreeMap<String, u32> {
        BTreeMap::new()
    }
    pub fn index(&self) -> Index {
        Index { pages: 0, words: HashMap::new() }
    }
    pub fn either(&self) -> Either<HashMap<String, u32>> {
        Either::List(Vec::new())
    }
    pub fn plain(&self) -> Vec<Plain> {
        Vec::new()
    }
}

fn main() -> Result<(), callgate::CallError> {
    let service = Service::bridge().start().unwrap();
    let map = service.view().map()?;
    map.get("a word");
    map.archived().get("a word");
    service.view().tree()?.archived().iter();
    service.view().either()?.archived();
    service.view().plain()?.archived();
    let index = service.view().index()?;
    index.words.get("a word");
    Ok(())
}
