//! A bridge replaces the value wherever its trait is required.
#![allow(clippy::needless_lifetimes)] // The drop-in keeps them.

use callgate::rkyv::{Archive, Deserialize, Serialize};
use callgate::{CallError, bridge};

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
enum Failed {
    Shape(String),
    Bridge(String),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Failed::Bridge(error.to_string())
    }
}

trait Shape {
    type Unit;
    const SIDES: usize;
    fn name() -> &'static str;
    fn area(&self) -> Self::Unit;
    fn grow(&mut self, by: u64, and: (u8, u8)) -> Result<u64, Failed>;
    fn label<'a>(&self, prefix: &'a str) -> String
    where
        Self: Sized;
    fn sides(&self) -> [u8; 3];
    fn send(&self) -> u8;
    fn crash(&self) -> Result<(), Failed>;
    fn twice(&self) -> u64
    where
        Self::Unit: Into<u64>,
    {
        self.area().into() * 2
    }
}

struct Square(u64);

#[bridge]
impl Square {
    pub fn new(side: u64) -> Self {
        Square(side)
    }
}

#[bridge]
impl Shape for Square {
    type Unit = u64;
    const SIDES: usize = 3;
    fn name() -> &'static str {
        "square"
    }
    fn area(&self) -> Self::Unit {
        self.0 * self.0
    }
    fn grow(&mut self, by: u64, (a, b): (u8, u8)) -> Result<u64, Failed> {
        if by == 0 {
            return Err(Failed::Shape("by nothing".to_owned()));
        }
        self.0 += by + u64::from(a) + u64::from(b);
        Ok(self.0)
    }
    fn label<'a>(&self, prefix: &'a str) -> String
    where
        Self: Sized,
    {
        format!("{prefix}{}", self.0)
    }
    fn sides(&self) -> [u8; Self::SIDES] {
        [1; 3]
    }
    #[bridge(rename = "sent")]
    fn send(&self) -> u8 {
        1
    }
    fn crash(&self) -> Result<(), Failed> {
        std::process::abort()
    }
}

trait Plain {
    fn plain(&self, number: &u8) -> u8;
}

#[bridge]
impl Plain for Square {
    fn plain(&self, number: &u8) -> u8 {
        *number
    }
}

fn measured<S: Shape<Unit = u64> + Plain>(mut shape: S) -> (u64, u64, String) {
    assert_eq!(S::name().len() + S::SIDES, 9);
    assert_eq!(shape.grow(0, (0, 0)), Err(Failed::Shape("by nothing".to_owned())));
    assert_eq!(shape.grow(1, (1, 1)), Ok(5));
    assert_eq!((shape.sides(), shape.send(), shape.plain(&9)), ([1; 3], 1, 9));
    (shape.area(), shape.twice(), shape.label("side "))
}

#[test]
fn a_bridge_stands_in_for_the_value() {
    assert_eq!(measured(Square(2)), measured(Square::bridge(2).start().unwrap()));

    let square = Square::bridge(2).start().unwrap();
    assert_eq!(square.sent().unwrap(), 1);
    assert_eq!(square.area(), 4);
    assert!(matches!(square.crash(), Err(Failed::Bridge(text)) if text.contains("SIGABRT")));
}
