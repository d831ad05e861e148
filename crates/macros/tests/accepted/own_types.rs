//! The user's own types, without a direct dependency on rkyv.
use callgate::bridge;
use callgate::rkyv::{self, Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(crate = callgate::rkyv)]
struct Point {
    x: f64,
    name: Option<String>,
}

#[derive(callgate::rkyv::Archive, callgate::rkyv::Serialize, callgate::rkyv::Deserialize)]
#[rkyv(crate = callgate::rkyv, derive(callgate::Viewable))]
enum Shape {
    Dot(Point2),
    Line { from: Point2, to: Point2 },
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
#[rkyv(crate = rkyv, derive(callgate::Viewable))]
struct Point2(usize, usize);

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn point(&self, point: &Point) -> Point {
        point.clone()
    }
    pub fn shape(&self, at: Point2) -> Shape {
        if at.0 == 0 { Shape::Dot(at) } else { Shape::Line { from: Point2(0, 0), to: at } }
    }
    // Two types with the same archive.
    pub fn points(&self, points: std::collections::VecDeque<Point>) -> Vec<Point> {
        points.into()
    }
}

#[test]
fn a_type_crosses_without_rkyv_as_a_dependency() {
    let service = Service::bridge().start().unwrap();
    let point = Point { x: 1.5, name: Some("p".into()) };
    assert_eq!(service.point(&point).unwrap(), point);
    assert_eq!(service.points([point.clone()].into()).unwrap(), [point]);
    assert!(matches!(service.shape(Point2(0, 1)).unwrap(), Shape::Dot(_)));
    assert!(
        matches!(service.shape(Point2(1 << 40, 1)).unwrap(), Shape::Line { to: Point2(to, _), .. } if to == 1 << 40)
    );
}
