//! Callgate is available only under another name, as after a renaming in Cargo.toml.

mod callgate {}

use cg::rkyv;

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = cg::rkyv, derive(cg::Viewable), attr(callgate(crate = cg)))]
struct Track {
    title: String,
    seconds: u32,
}

struct Player {
    track: Option<u32>,
}

/// Plays.
#[cg::bridge(crate = cg, get(track: Option<u32>))]
impl Player {
    pub fn new() -> Self {
        Player { track: Some(1) }
    }
    #[cg::bridge(rename = "length")]
    pub fn track(&self, number: u32) -> Track {
        Track { title: String::from("one"), seconds: number }
    }
}

trait Skip {
    fn skip(&mut self) -> u32;
}

#[cg::bridge(crate = "cg")]
impl Skip for Player {
    fn skip(&mut self) -> u32 {
        2
    }
}

/// A path of any length.
mod inner {
    pub mod deps {
        pub extern crate callgate as cg;
    }
    pub struct Deep;

    #[::cg::bridge(crate = crate::crate_renamed::inner::deps::cg)]
    impl Deep {
        pub fn new() -> Self {
            Deep
        }
        pub fn add(&self, n: u64) -> u64 {
            n + 1
        }
    }
}

#[test]
fn callgate_works_by_another_name() {
    let mut player = Player::bridge().start().unwrap();
    let track = player.view().length(7).unwrap();
    assert_eq!((track.title.as_str(), track.seconds.to_native()), ("one", 7));
    assert_eq!(player.track().unwrap(), Some(1));
    assert_eq!(Skip::skip(&mut player), 2);
    assert_eq!(inner::Deep::bridge().start().unwrap().add(1).unwrap(), 2);
}
