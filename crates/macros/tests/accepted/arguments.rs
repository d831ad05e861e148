//! Every form of argument, and what the callee makes of it.
// The lints would reject some of the forms.
#![allow(clippy::cloned_ref_to_slice_refs, clippy::needless_arbitrary_self_type, clippy::ptr_arg)]

use callgate::bridge;
use callgate::rkyv::{self, Archive, Archived, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Point {
    x: u32,
    y: u32,
}

struct Service;

#[bridge]
impl Service {
    pub const SIDES: usize = 3;
    pub fn new() -> Self {
        Service
    }
    pub fn by_value(&self, number: u64, text: String, point: Point) -> (u64, String, Point) {
        (number, text, point)
    }
    pub fn by_reference(&self, number: &u64, text: &String, point: &Point) -> (u64, String, Point) {
        (*number, text.clone(), point.clone())
    }
    pub fn in_place<'a>(&'a self, text: &'a str, bytes: &[u8], numbers: &[f64]) -> (usize, usize, f64) {
        (text.len(), bytes.len(), numbers.iter().sum())
    }
    pub fn slices(&self, points: &[Point], texts: &[String]) -> (Vec<Point>, String) {
        (points.to_vec(), texts.concat())
    }
    pub fn archived(&self, point: &Archived<Point>, points: &rkyv::Archived<Vec<Point>>) -> (u32, usize) {
        (point.x.into(), points.len())
    }
    pub fn patterns(&self, (a, b): (u8, u8), mut c: u8, _: u8, _d: u8) -> [u8; Self::SIDES] {
        c += a;
        [a, b, c]
    }
    #[allow(clippy::too_many_arguments)]
    pub fn twelve(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8) -> u8 {
        a + b + c + d + e + f + g + h + i + j + k + l
    }
    pub fn none(&mut self) {}
    pub fn fallible(&self, works: bool) -> Result<(), String> {
        if works { Ok(()) } else { Err("as told".to_owned()) }
    }
    pub fn the_long_form(self: &mut Self) -> Option<Vec<u8>> {
        Some(vec![1])
    }
}

#[test]
fn a_method_gets_its_arguments_in_every_form() {
    let service = Service::bridge().start().unwrap();
    let point = Point { x: 1, y: 2 };
    let all = (3, "three".to_owned(), point.clone());
    assert_eq!(service.by_value(3, "three".to_owned(), point.clone()).unwrap(), all);
    assert_eq!(service.by_reference(&3, &"three".to_owned(), &point).unwrap(), all);
    assert_eq!(service.in_place("four", b"five!", &[1.5, 2.5]).unwrap(), (4, 5, 4.0));
    let slices = service.slices(&[point.clone()], &["a".to_owned(), "b".to_owned()]).unwrap();
    assert_eq!(slices, (vec![point.clone()], "ab".to_owned()));
    assert_eq!(service.archived(&point, &vec![point.clone(); 2]).unwrap(), (1, 2));
    assert_eq!(service.patterns((1, 2), 3, 4, 5).unwrap(), [1, 2, 4]);
    assert_eq!(service.twelve(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1).unwrap(), 12);
    assert_eq!(service.none().unwrap(), ());
    assert_eq!(service.fallible(true).unwrap(), Ok(()));
    assert_eq!(service.fallible(false).unwrap(), Err("as told".to_owned()));
    assert_eq!(service.the_long_form().unwrap(), Some(vec![1]));
}
