//! Decodes pictures in a child process: `cargo run --release -p isolate -- FILES..`
//!
//! A file that breaks the decoder (a panic, an abort, an endless loop, more memory than granted) costs one
//! error line; a fresh child decodes the next file. This process reads the files and never decodes one.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use callgate::{Bridge, Output, bridge, rkyv};
use image::{DynamicImage, ImageReader, Rgb, RgbImage};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, setrlimit};

const USAGE: &str = "usage: isolate [--thumbnails DIR] FILES..";
/// How much the child may allocate, in bytes.
const MEMORY: u64 = 256 << 20;
/// How long one file may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longer side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 48;

#[callgate::main]
fn main() -> ExitCode {
    let Some(options) = Options::parse(env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut decoder = FreshDecoder { child: None };
    let progress = progress_bar(options.files.len());
    let mut failed = false;
    for file in &options.files {
        match describe(&mut decoder, file, options.thumbnails.as_deref()) {
            Ok(line) => progress.suspend(|| println!("{line}")),
            Err(error) => {
                progress.suspend(|| eprintln!("{}: {error}", file.display()));
                failed = true;
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    ExitCode::from(u8::from(failed))
}

/// Decodes one file and returns its line of output. Writes its thumbnail if there is a directory for it.
fn describe(decoder: &mut FreshDecoder, file: &Path, thumbnails: Option<&Path>) -> Result<String, Box<dyn Error>> {
    let Answer { picture, child } = decoder.decode(&fs::read(file)?)?;
    if let Some(directory) = thumbnails {
        write_thumbnail(picture.thumbnail, file, directory)?;
    }
    let [r, g, b] = picture.mean;
    let (file, width, height) = (file.display(), picture.width, picture.height);
    Ok(format!("{file}: {width} x {height}, mean #{r:02x}{g:02x}{b:02x}, by child {child}"))
}

fn write_thumbnail(thumbnail: Thumbnail, file: &Path, directory: &Path) -> Result<(), Box<dyn Error>> {
    let Thumbnail { width, height, rgb } = thumbnail;
    // The child may lie about the size: `from_raw` refuses one that the bytes do not fill.
    let image = RgbImage::from_raw(width, height, rgb).ok_or("the thumbnail lacks pixels")?;
    let mut name = file.file_name().unwrap_or(file.as_os_str()).to_owned();
    name.push(".thumbnail.png");
    fs::create_dir_all(directory)?;
    Ok(image.save(directory.join(name))?)
}

/// A progress bar on stderr, shown only if that is a terminal and there is more than one file.
fn progress_bar(files: usize) -> ProgressBar {
    if files < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}").expect("a valid template");
    ProgressBar::new(files as u64).with_style(style)
}

// ---- the parent's side ----

/// A decoder in a child process, started when it is needed and replaced after a failed call.
struct FreshDecoder {
    child: Option<Bridge<Decoder>>,
}

/// A picture, and the process that decoded it.
struct Answer {
    picture: Picture,
    child: u32,
}

impl FreshDecoder {
    /// Decodes a file in the child. A damaged file is an error that the child reports and survives; anything worse ends the child.
    fn decode(&mut self, file: &[u8]) -> Result<Answer, Box<dyn Error>> {
        let child = match self.child.take() {
            Some(child) if child.is_alive() => child,
            // A dying child's message on stderr would only repeat the error line.
            _ => Decoder::bridge(MEMORY).timeout(TIMEOUT).stderr(Output::null()).start()?,
        };
        let decoded = child.decode(file).inspect_err(|_| {
            child.kill(); // it may still be decoding
        })?;
        let pid = self.child.insert(child).child_pid();
        let picture = decoded.map_err(|reason| format!("damaged file: {}", reason.trim_end()))?;
        Ok(Answer { picture, child: pid })
    }
}

// ---- the child's side ----

/// Decodes PNG and JPEG files within a limit of memory.
pub struct Decoder;

#[bridge]
impl Decoder {
    /// Limits this process, the child, to `memory` bytes of allocations.
    ///
    /// The limit covers private writable memory: shared memory that the bridge maps does not count.
    pub fn new(memory: u64) -> Result<Self, io::Error> {
        let limit = Rlimit { current: Some(memory), maximum: Some(memory) };
        setrlimit(Resource::Data, limit)?;
        Ok(Decoder)
    }

    /// Decodes a whole file. The decoder's own limits are off, because the process has a limit, and ends when it exceeds that.
    pub fn decode(&self, file: &[u8]) -> Result<Picture, String> {
        let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|e| e.to_string())?;
        reader.no_limits();
        let image = reader.decode().map_err(|error| error.to_string())?;
        Ok(Picture::of(on_white(image)))
    }
}

/// What the child reports about a picture.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The mean of all pixels: red, green, blue.
    pub mean: [u8; 3],
    /// The picture reduced to a small size.
    pub thumbnail: Thumbnail,
}

/// A small picture: rows from the top, three bytes a pixel.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = callgate::rkyv)]
pub struct Thumbnail {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Red, green, blue, red, ..
    pub rgb: Vec<u8>,
}

impl Picture {
    fn of(image: RgbImage) -> Self {
        let (width, height) = image.dimensions();
        let mean = mean_colour(&image);
        let small = DynamicImage::from(image).thumbnail(THUMBNAIL, THUMBNAIL).into_rgb8();
        let thumbnail = Thumbnail { width: small.width(), height: small.height(), rgb: small.into_raw() };
        Picture { width, height, mean, thumbnail }
    }
}

fn mean_colour(image: &RgbImage) -> [u8; 3] {
    let mut sums = [0u64; 3];
    for Rgb(pixel) in image.pixels() {
        for (sum, &sample) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(sample);
        }
    }
    let count = image.pixels().len().max(1) as u64;
    sums.map(|sum| (sum / count) as u8)
}

/// The picture as it looks on white paper: transparent pixels let the white through.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|sample| ((sample * alpha + 255 * (255 - alpha)) / 255) as u8))
    })
}

// ---- the command line ----

#[derive(Default)]
struct Options {
    files: Vec<PathBuf>,
    thumbnails: Option<PathBuf>,
}

impl Options {
    /// Parses the arguments; `None` if they are wrong.
    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--thumbnails") => options.thumbnails = Some(args.next()?.into()),
                Some(flag) if flag.starts_with("--") => return None,
                _ => options.files.push(arg.into()),
            }
        }
        (!options.files.is_empty()).then_some(options)
    }
}
