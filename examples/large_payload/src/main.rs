//! Filters 4K pictures in a child process: `cargo run --release -p large_payload -- [--frames N] [--out FILE]`
//!
//! A frame of 33 MB goes through three filters. Each is a call that takes the frame by value and returns it. As a `SharedBox`, the frame
//! passes to a trusted child and back without copying a byte. For comparison, the program also measures an untrusted child, a `Vec<u8>`,
//! and the filters alone.

use std::error::Error;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use callgate::{Bridge, CallError, SharedBox, Transfer, bridge};
use image::{ExtendedColorType::Rgba8, ImageFormat};

const USAGE: &str = "usage: large_payload [--frames N] [--out FILE]";
const WIDTH: usize = 3840;
const HEIGHT: usize = 2160;
/// Bytes in a row: red, green, blue and alpha of each pixel.
const ROW: usize = WIDTH * 4;
/// Bytes in a frame.
const FRAME: usize = ROW * HEIGHT;
/// Calls for each frame.
const CALLS: usize = 3;

#[callgate::main]
fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // SAFETY: the child runs only the safe code of this file.
    let trusted = unsafe { Filters::<SharedBox<[u8]>>::bridge().trust_child() }.start()?;
    let untrusted = Filters::<SharedBox<[u8]>>::bridge().start()?;
    let by_value = Filters::<Vec<u8>>::bridge().start()?;

    // A box must be made in the memory of the bridge that it passes through. Each call returns it, so one box serves for all frames.
    let mut trusted_box = SharedBox::zeroed_in(&trusted, FRAME)?;
    let mut untrusted_box = SharedBox::zeroed_in(&untrusted, FRAME)?;
    let mut vec = vec![0; FRAME];

    let original = test_card();
    let mut here = Here::default();
    let mut trusted = Way::new("SharedBox, trusted child", trusted);
    let mut untrusted = Way::new("SharedBox, untrusted child", untrusted);
    let mut by_value = Way::new("Vec<u8>, untrusted child", by_value);
    for _ in 0..options.frames {
        let expected = here.turn(&original);
        trusted_box = trusted.turn(trusted_box, &original, &expected)?;
        untrusted_box = untrusted.turn(untrusted_box, &original, &expected)?;
        vec = by_value.turn(vec, &original, &expected)?;
    }
    print_table(here.filtered, [trusted.times, untrusted.times, by_value.times]);
    save(&trusted_box, &options.out)
}

// ---- the child's side ----

/// The filters, for any type of frame that gives access to a mutable slice of bytes.
struct Filters<F>(PhantomData<F>);

#[bridge]
impl<F: AsMut<[u8]>> Filters<F> {
    pub fn new() -> Self {
        Filters(PhantomData)
    }
    pub fn invert(&self, mut frame: F) -> F {
        invert(frame.as_mut());
        frame
    }
    pub fn blur(&self, mut frame: F) -> F {
        blur(frame.as_mut());
        frame
    }
    pub fn vignette(&self, mut frame: F) -> F {
        vignette(frame.as_mut());
        frame
    }
    /// Does nothing, to measure the cost of passing a frame.
    pub fn identity(&self, frame: F) -> F {
        frame
    }
}

/// Turns the frame into a negative.
fn invert(frame: &mut [u8]) {
    for [red, green, blue, _] in frame.as_chunks_mut().0 {
        (*red, *green, *blue) = (!*red, !*green, !*blue);
    }
}

/// Replaces each pixel by the mean of itself and the 15 pixels to its right: first means of 2 pixels, then means of two such means, and so on.
fn blur(frame: &mut [u8]) {
    let mut before = [0; ROW];
    for row in frame.chunks_exact_mut(ROW) {
        for pixels in [1, 2, 4, 8] {
            before.copy_from_slice(row);
            for (sample, right) in row.iter_mut().zip(&before[pixels * 4..]) {
                *sample = (u16::from(*sample) + u16::from(*right)).div_ceil(2) as u8;
            }
        }
    }
}

/// Darkens the frame towards the corners.
fn vignette(frame: &mut [u8]) {
    let columns: Vec<u16> = (0..WIDTH).map(|x| darkness(x, WIDTH)).collect();
    for (y, row) in frame.chunks_exact_mut(ROW).enumerate() {
        let light = 256 - darkness(y, HEIGHT);
        for ([red, green, blue, _], dark) in row.as_chunks_mut().0.iter_mut().zip(&columns) {
            let dimmed = |sample: u8| (u16::from(sample) * (light - dark) / 256) as u8;
            (*red, *green, *blue) = (dimmed(*red), dimmed(*green), dimmed(*blue));
        }
    }
}

/// The light lost at position `at` of `len`, in parts of 256: 0 in the middle, 110 at both ends.
fn darkness(at: usize, len: usize) -> u16 {
    let off = (2 * at).abs_diff(len);
    (110 * off * off / (len * len)) as u16
}

// ---- the parent's side ----

/// The filters in this process.
#[derive(Default)]
struct Here {
    filtered: Vec<Duration>,
}

impl Here {
    /// Filters one frame, measures the time, and returns the result.
    fn turn(&mut self, original: &[u8]) -> Vec<u8> {
        let mut frame = original.to_vec();
        let start = Instant::now();
        invert(&mut frame);
        blur(&mut frame);
        vignette(&mut frame);
        self.filtered.push(start.elapsed());
        frame
    }
}

/// A type as which a frame can be passed.
trait Frame: Transfer + AsMut<[u8]> + AsRef<[u8]> + 'static {}

impl<F: Transfer + AsMut<[u8]> + AsRef<[u8]> + 'static> Frame for F {}

/// The filters in a child, and the times of the frames sent there.
struct Way<F: Frame> {
    child: Bridge<Filters<F>>,
    times: Times,
}

/// The times of each frame for one way of passing it.
struct Times {
    way: &'static str,
    /// Times of three calls, one for each filter.
    filtered: Vec<Duration>,
    /// Times of three calls that do nothing.
    passed: Vec<Duration>,
}

impl<F: Frame> Way<F> {
    fn new(way: &'static str, child: Bridge<Filters<F>>) -> Self {
        Way { child, times: Times { way, filtered: Vec::new(), passed: Vec::new() } }
    }

    /// Filters one frame, measures the time, checks the result against `expected`, and returns the frame.
    fn turn(&mut self, mut frame: F, original: &[u8], expected: &[u8]) -> Result<F, Box<dyn Error>> {
        frame.as_mut().copy_from_slice(original);

        let start = Instant::now();
        let frame = self.pass(frame)?;
        self.times.passed.push(start.elapsed());

        let start = Instant::now();
        let frame = self.filter(frame)?;
        self.times.filtered.push(start.elapsed());

        let is_right = frame.as_ref() == expected;
        is_right.then_some(frame).ok_or_else(|| format!("{}: a different picture", self.times.way).into())
    }

    fn pass(&self, mut frame: F) -> Result<F, CallError> {
        for _ in 0..CALLS {
            frame = self.child.identity(frame)?;
        }
        Ok(frame)
    }

    fn filter(&self, frame: F) -> Result<F, CallError> {
        let frame = self.child.invert(frame)?;
        let frame = self.child.blur(frame)?;
        self.child.vignette(frame)
    }
}

fn save(picture: &[u8], path: &Path) -> Result<(), Box<dyn Error>> {
    image::save_buffer_with_format(path, picture, WIDTH as u32, HEIGHT as u32, Rgba8, ImageFormat::Png)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("\nthe picture, the same from all: {}", path.display());
    Ok(())
}

// ---- the table ----

fn print_table(here: Vec<Duration>, ways: [Times; 3]) {
    let (frames, bytes) = (here.len(), (2 * CALLS * FRAME) as f64);
    let here = median(here);
    println!("{WIDTH} x {HEIGHT} pixels, {FRAME} bytes; {CALLS} filters, a call each; medians; frames: {frames}\n");
    println!("{:28}{:>14}{:>14}{:>14}{:>14}", "per frame", "filtered", "by the bridge", "just passed", "throughput");
    println!("{:28}{:>11.2} ms", "in this process", here * 1e3);
    for Times { way, filtered, passed } in ways {
        let (filtered, passed) = (median(filtered), median(passed));
        let [all, bridge, passed] = [filtered, filtered - here, passed].map(|seconds| seconds * 1e3);
        println!("{way:28}{all:>11.2} ms{bridge:>11.2} ms{passed:>11.2} ms{:>9.2} GB/s", bytes / filtered / 1e9);
    }
    println!("{}", EXPLANATION.trim_end());
}

const EXPLANATION: &str = "
filtered       three calls, from a frame in hand to its picture in hand
by the bridge  the part of it beyond what the filters take in this process
just passed    three calls of a method that gives the frame back untouched
throughput     bytes of the frame, there and back with each call, by the time filtered
";

/// The median, in seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

// ---- the picture ----

/// Gradients from side to side, rings around two centres, and a word.
fn test_card() -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            frame.extend(pixel_at(x, y));
        }
    }
    frame
}

fn pixel_at(x: usize, y: usize) -> [u8; 4] {
    if is_in_word(x, y) {
        return [250, 250, 240, 255];
    }
    let ring = |centre: usize| (x.abs_diff(centre).pow(2) + y.abs_diff(HEIGHT / 2).pow(2)) >> 17;
    let shade = if (ring(WIDTH / 4) ^ ring(WIDTH * 3 / 4)) % 2 == 0 { 200 } else { 80 };
    [(x * 255 / WIDTH) as u8, (y * 255 / HEIGHT) as u8, shade, 255]
}

/// The word, in letters of 5 by 7 dots with an empty column between them.
const WORD: [&str; 7] = [
    " ###   ###  #     #      ####  ###  ##### #####",
    "#   # #   # #     #     #     #   #   #   #    ",
    "#     #   # #     #     #     #   #   #   #    ",
    "#     ##### #     #     #  ## #####   #   #### ",
    "#     #   # #     #     #   # #   #   #   #    ",
    "#   # #   # #     #     #   # #   #   #   #    ",
    " ###  #   # ##### #####  ###  #   #   #   #####",
];

/// Whether a pixel is part of [`WORD`], which stands in the middle.
fn is_in_word(x: usize, y: usize) -> bool {
    const DOT: usize = 64;
    let (left, top) = ((WIDTH - WORD[0].len() * DOT) / 2, (HEIGHT - WORD.len() * DOT) / 2);
    let (Some(x), Some(y)) = (x.checked_sub(left), y.checked_sub(top)) else { return false };
    WORD.get(y / DOT).and_then(|line| line.as_bytes().get(x / DOT)) == Some(&b'#')
}

// ---- the command line ----

struct Options {
    frames: usize,
    out: PathBuf,
}

impl Options {
    /// Parses the arguments. The error is a sentence.
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Options { frames: 10, out: std::env::temp_dir().join("large_payload.png") };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{} needs a value", arg.display()));
            match arg.to_str() {
                Some("--frames") => options.frames = count(&value()?)?,
                Some("--out") => options.out = value()?.into(),
                _ => return Err(format!("there is no option {}", arg.display())),
            }
        }
        Ok(options)
    }
}

fn count(value: &OsString) -> Result<usize, String> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    number.ok_or_else(|| format!("--frames takes a number from 1 on, not {}", value.display()))
}
