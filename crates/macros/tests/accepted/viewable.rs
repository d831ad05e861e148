//! The archived types that can derive `Viewable`, and what views of them read.
#![forbid(unsafe_code)]
#![deny(warnings)]

use std::marker::PhantomData;

use callgate::{Viewable, bridge};
use rkyv::with::{AsBox, Niche, Skip};
use rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Viewable))]
pub struct Named {
    pub name: String,
    pub pair: (u32, Option<i64>),
    #[rkyv(with = Niche)]
    pub boxed: Option<Box<str>>,
    #[rkyv(with = AsBox)]
    pub apart: [u16; 4],
    #[rkyv(with = Skip)]
    pub left_out: std::collections::HashMap<u8, u8>,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(callgate::Viewable, Debug), archived = SeenUnit)]
pub struct Unit;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(::callgate::Viewable))]
pub struct Tuple(pub u8, pub Vec<Named>, Unit);

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Viewable))]
pub enum Shape<T, const N: usize>
where
    T: Clone,
{
    Nothing,
    Points([T; N]),
    Label { text: String, of: PhantomData<T>, all: Vec<T> },
}

/// Refers back to itself, and also has a field whose type is a parameter.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Viewable))]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub struct Tree<T: Archive> {
    pub value: T,
    #[rkyv(omit_bounds)]
    pub children: Vec<Tree<T>>,
}

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn tuple(&self) -> Tuple {
        let named = |n: u32| Named {
            name: format!("number {n}"),
            pair: (n, Some(-i64::from(n))),
            boxed: Some("in a box".into()),
            apart: [7; 4],
            left_out: Default::default(),
        };
        Tuple(3, (0..3).map(named).collect(), Unit)
    }
    pub fn shape(&self) -> Shape<u16, 2> {
        Shape::Points([1, 2])
    }
    pub fn tree(&self) -> Tree<String> {
        let leaf = Tree { value: "leaf".into(), children: vec![] };
        Tree { value: "root".into(), children: vec![leaf] }
    }
}

#[test]
fn views_read_what_derives_viewable() -> Result<(), Box<dyn std::error::Error>> {
    let service = Service::bridge().start()?;
    let tuple = service.view().tuple()?;
    assert_eq!(tuple.1[2].name, "number 2");
    assert_eq!(tuple.1[2].pair.1.as_ref().map(|n| n.to_native()), Some(-2));
    assert_eq!(tuple.1[0].boxed.as_deref(), Some("in a box"));
    assert_eq!(tuple.1[0].apart[3], 7);
    assert_eq!(format!("{:?}", tuple.2), "SeenUnit");
    assert!(matches!(&*service.view().shape()?, ArchivedShape::Points(points) if points[1] == 2));
    let tree = service.view().tree()?;
    assert_eq!((tree.value.as_str(), tree.children[0].value.as_str()), ("root", "leaf"));
    Ok(())
}
