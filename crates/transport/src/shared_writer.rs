//! Fills boxes from data of unknown length: pieces, a file, or a socket.
//!
//! Reads straight into the box's memory, without a buffer in between.

#![forbid(unsafe_code)]

use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::memory_pool::PoolHandle;
use crate::shared_box::{Memory, SharedBox, place};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// The capacity after the first write, in bytes.
const FIRST: usize = 64 << 10;

/// Fills a [`SharedBox`] with bytes whose number is not known in advance: what is written to it, or everything that a file or socket yields.
///
/// It grows like a vector. To read a box, or to write within one of known size, use the slice that it dereferences to: `&boxed[..]` is a reader,
/// `&mut boxed[..]` a writer, and `file.read_exact(&mut boxed)` reads straight into the memory. [`io::Cursor`] makes a reader of the box itself.
///
/// # Examples
///
/// ```
/// use callgate::{SharedWriter, bridge};
/// use std::fs::File;
///
/// struct Counter;
///
/// #[bridge]
/// impl Counter {
///     pub fn new() -> Self { Counter }
///     pub fn lines(&self, text: callgate::SharedBox<[u8]>) -> usize {
///         text.iter().filter(|&&byte| byte == b'\n').count()
///     }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let counter = Counter::bridge().start()?;
///     let mut writer = SharedWriter::new_in(&counter, 0)?;
///     writer.read_to_end_of(&mut File::open("Cargo.toml")?)?;
///     assert!(counter.lines(writer.finish())? > 10);
///     Ok(())
/// }
/// ```
pub struct SharedWriter {
    bytes: SharedBox<[u8]>,
    /// How many bytes have been written.
    len: usize,
    /// Its memory, and how long to wait for it; `None` = the default place for boxes of this process.
    pool: Option<(Arc<dyn PoolHandle>, Option<Duration>)>,
}

impl SharedWriter {
    /// A writer into the memory of `bridge`, with room for `capacity` bytes before it grows.
    ///
    /// # Errors
    ///
    /// As [`SharedBox::zeroed_in`].
    pub fn new_in(bridge: &impl Memory, capacity: usize) -> Result<Self, NoMemory> {
        let place::PoolOf(pool, timeout) = bridge.pool();
        let bytes = SharedBox::for_overwrite_in(bridge, capacity)?;
        Ok(Self { bytes, len: 0, pool: Some((pool, timeout)) })
    }

    /// A writer into the memory of the child's bridge; outside of a child, into private memory.
    ///
    /// # Errors
    ///
    /// As [`SharedBox::zeroed`].
    pub fn new(capacity: usize) -> Result<Self, NoMemory> {
        Ok(Self { bytes: SharedBox::for_overwrite(capacity)?, len: 0, pool: None })
    }

    /// Reads `reader` to its end. Returns how many bytes that were.
    ///
    /// # Errors
    ///
    /// The reader's, or [`io::ErrorKind::OutOfMemory`] with a [`NoMemory`] in it. What was read before stays.
    pub fn read_to_end_of(&mut self, reader: &mut impl Read) -> io::Result<u64> {
        let before = self.len;
        loop {
            self.reserve(1)?;
            match reader.read(&mut self.bytes[self.len..]) {
                Ok(0) => return Ok((self.len - before) as u64),
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How many bytes have been written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The box, cut to what was written.
    pub fn finish(mut self) -> SharedBox<[u8]> {
        self.bytes.truncate(self.len);
        self.bytes
    }

    /// Makes room for `more` bytes: twice the capacity, else the most that there may be, else an eighth more than needed, else just that.
    fn reserve(&mut self, more: usize) -> io::Result<()> {
        let need = self.len.saturating_add(more);
        if need <= self.bytes.len() {
            return Ok(());
        }
        let wish = need.max(2 * self.bytes.len()).max(FIRST);
        let most = match self.grow(wish, Deadline::now()) {
            Err(NoMemory::TooLarge { max, .. }) => usize::try_from(max).unwrap_or(usize::MAX),
            Err(_) => need.saturating_add(need / 8),
            Ok(()) => return Ok(()),
        };
        let timeout = self.pool.as_ref().and_then(|(_, timeout)| *timeout);
        let grown = self.grow(most.max(need), Deadline::now()).or_else(|_| self.grow(need, Deadline::after(timeout)));
        grown.map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))
    }

    fn grow(&mut self, capacity: usize, deadline: Deadline) -> Result<(), NoMemory> {
        let pool = self.pool.as_ref().map(|(pool, _)| pool);
        let mut grown = SharedBox::for_overwrite_at(pool, capacity, deadline)?;
        grown[..self.len].copy_from_slice(&self.bytes[..self.len]);
        self.bytes = grown;
        Ok(())
    }
}

impl Write for SharedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reserve(bytes.len())?;
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SharedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWriter")
            .field("len", &self.len)
            .field("capacity", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
