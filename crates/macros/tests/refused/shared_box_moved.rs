//! A box that was passed by value is the child's: nobody can look at it any more, nor at what it was passed in.
use callgate::rkyv::{Archive, Deserialize, Serialize};
use callgate::{SharedBox, bridge};

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub struct Picture {
    width: u32,
    pixels: SharedBox<[u8]>,
}

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn sum(&self, bytes: SharedBox<[u8]>) -> u64 {
        bytes.iter().map(|&byte| u64::from(byte)).sum()
    }
    pub fn crop(&self, picture: Picture) -> u32 {
        picture.width
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = Service::bridge().start()?;
    let mut bytes = SharedBox::<[u8]>::zeroed_in(&service, 10)?;
    service.sum(bytes)?;
    bytes[0] = 1;

    let pixels = SharedBox::zeroed_in(&service, 10)?;
    let picture = Picture { width: 5, pixels };
    println!("{}", pixels.len());
    service.crop(picture)?;
    println!("{}", picture.pixels.len());

    let again = SharedBox::<[u8]>::zeroed_in(&service, 10)?;
    let pending = service.begin().sum(again);
    println!("{}", again.len());
    pending.wait()?;
    Ok(())
}
