//! Boxes of all kinds of plain data, wherever a value may occur: in types, enums, lists, generic services, traits and setters.
#![deny(warnings)]

use callgate::bytemuck::{Pod, Zeroable};
use callgate::rkyv::{Archive, Deserialize, Serialize};
use callgate::{CallError, NoMemory, SharedBox, SharedWriter, bridge};
use std::error::Error;
use std::io::Write;
use std::marker::PhantomData;

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[bytemuck(crate = "callgate::bytemuck")]
#[repr(C)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub struct Picture {
    pub title: String,
    pub pixels: SharedBox<[u8]>,
    pub mask: Option<SharedBox<[u8]>>,
    pub tiles: Vec<SharedBox<[[u16; 4]]>>,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub enum Shape {
    Nothing,
    Dot(SharedBox<Point>),
    Outline { points: SharedBox<[Point]>, inside: Result<Box<SharedBox<Point>>, String> },
}

pub struct Studio {
    backdrop: SharedBox<[u8]>,
    shown: u32,
}

#[bridge(get(shown: u32), set(shown: u32, pub(crate) backdrop: SharedBox<[u8]>))]
impl Studio {
    pub fn on(backdrop: SharedBox<[u8]>) -> Result<Self, String> {
        Ok(Studio { backdrop, shown: 0 })
    }
    pub fn show(&mut self, mut picture: Picture) -> Picture {
        self.shown += 1;
        picture.pixels.copy_from_slice(&self.backdrop);
        picture.tiles.pop();
        picture
    }
    pub fn inside(&self, shape: Shape) -> Result<SharedBox<Point>, String> {
        match shape {
            Shape::Nothing => Err("nothing".to_owned()),
            Shape::Dot(point) => Ok(point),
            Shape::Outline { points, inside } => inside.map(|point| if points.len() > 1 { *point } else { panic!() }),
        }
    }
    pub fn lent(&self, bytes: &SharedBox<[u8]>, (point, number): (SharedBox<Point>, Option<SharedBox<u64>>)) -> f32 {
        f32::from(bytes[0]) + point.x + number.map_or(0.0, |number| *number as f32)
    }
}

#[derive(Archive, Serialize, Deserialize, Debug)]
#[rkyv(crate = callgate::rkyv)]
pub struct Failed(String);

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Failed(error.to_string())
    }
}

/// Takes boxes and returns them, here or in a child.
trait Fill<T: Pod> {
    fn fill(&self, boxed: SharedBox<[T]>) -> Result<SharedBox<[T]>, Failed>;
    fn first_of(&self, boxed: &SharedBox<[T]>) -> Option<SharedBox<T>>;
}

/// Generic over the contents of the boxes.
pub struct Filler<T>(T);

#[bridge]
impl<T: Pod + Archive> Filler<T> {
    pub fn new(with: T) -> Self {
        Filler(with)
    }
    pub fn filled(&self, len: usize) -> SharedBox<[T]> {
        let mut new = SharedBox::zeroed(len).expect("memory");
        new.fill(self.0);
        new
    }
}

#[bridge]
impl<T: Pod + Archive> Fill<T> for Filler<T> {
    fn fill(&self, mut boxed: SharedBox<[T]>) -> Result<SharedBox<[T]>, Failed> {
        boxed.fill(self.0);
        Ok(boxed)
    }
    fn first_of(&self, boxed: &SharedBox<[T]>) -> Option<SharedBox<T>> {
        boxed.first().and_then(|&first| SharedBox::new(first).ok())
    }
}

/// Generic over boxes and other slices.
pub struct Inverter<F>(PhantomData<F>);

#[bridge]
impl<F: AsMut<[u8]>> Inverter<F> {
    pub fn new() -> Self {
        Inverter(PhantomData)
    }
    pub fn invert(&self, mut frame: F) -> F {
        frame.as_mut().iter_mut().for_each(|byte| *byte = !*byte);
        frame
    }
}

#[test]
fn boxes_cross_wherever_a_value_may_stand() -> Result<(), Box<dyn Error>> {
    studio()?;
    filler()?;
    let inverter = Inverter::<SharedBox<[u8]>>::bridge().start()?;
    assert_eq!(inverter.invert(SharedBox::zeroed_in(&inverter, 3)?)?[..], [255; 3]);
    assert_eq!(Inverter::<Vec<u8>>::bridge().start()?.invert(vec![0; 3])?, [255; 3]);
    Ok(())
}

fn studio() -> Result<(), Box<dyn Error>> {
    let mut writer = SharedWriter::new(0)?;
    writer.write_all(b"grey")?;
    let studio = Studio::bridge_on(writer.finish()).start()?;
    let picture = || -> Result<Picture, NoMemory> {
        Ok(Picture {
            title: "a title".to_owned(),
            pixels: SharedBox::zeroed_in(&studio, 4)?,
            mask: Some(SharedBox::zeroed_in(&studio, 4)?),
            tiles: vec![SharedBox::zeroed_in(&studio, 2)?],
        })
    };
    let shown = studio.show(picture()?)?;
    assert_eq!((&shown.pixels[..], shown.tiles.len(), shown.title.len()), (&b"grey"[..], 0, 7));
    studio.set_backdrop(SharedBox::copied_in(&studio, b"blue")?)?;
    assert_eq!(studio.show(picture()?)?.pixels[..], *b"blue");
    assert_eq!(studio.shown()?, 2);

    let dot = || SharedBox::new_in(&studio, Point { x: 1.0, y: 2.0 });
    assert_eq!(studio.inside(Shape::Nothing)?, Err("nothing".to_owned()));
    assert_eq!(*studio.inside(Shape::Dot(dot()?))??, *dot()?);
    let points = SharedBox::zeroed_in(&studio, 3)?;
    assert_eq!(studio.inside(Shape::Outline { points, inside: Ok(Box::new(dot()?)) })??, dot()?);
    assert_eq!(studio.lent(&shown.pixels, (dot()?, Some(SharedBox::new(3)?)))?, f32::from(b'g') + 1.0 + 3.0);
    Ok(())
}

fn filler() -> Result<(), Box<dyn Error>> {
    let here = Filler(7u16);
    let there = Filler::<u16>::bridge(7).start()?;
    assert_eq!(there.filled(5)?[..], [7; 5]);
    assert_eq!((both(&here).unwrap(), both(&there).unwrap()), (14, 14));
    Ok(())
}

fn both(filler: &impl Fill<u16>) -> Result<u16, Failed> {
    let filled = filler.fill(SharedBox::zeroed(4).expect("memory"))?;
    Ok(filled[3] + filler.first_of(&filled).map_or(0, |first| *first))
}
