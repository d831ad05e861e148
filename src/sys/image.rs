//! The program's own executable in memory: where it was loaded, and which build it is.
//!
//! A function of the program is named to another process of the same build by its distance from the load address.

use std::ffi::c_int;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// The main executable of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    base: usize,
    /// The addresses that belong to the executable, as (first, length).
    extent: (usize, usize),
    /// Equal for processes of the same build, different (but for chance) for others.
    pub(crate) build: u64,
}

impl Image {
    /// The executable that this process runs.
    pub(crate) fn current() -> Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        *IMAGE.get_or_init(|| {
            let mut found: Option<Image> = None;
            // SAFETY: `first_object` has the signature that the function calls, and `found` outlives the call.
            unsafe { nix::libc::dl_iterate_phdr(Some(first_object), (&raw mut found).cast()) };
            found.unwrap_or(Image { base: 0, extent: (0, 0), build: 0 })
        })
    }

    /// How far `address` lies from where the executable was loaded; `None` if it belongs to a shared library instead.
    pub(crate) fn offset_of(&self, address: usize) -> Option<u64> {
        let inside = address.checked_sub(self.extent.0).is_some_and(|distance| distance < self.extent.1);
        inside.then(|| address.wrapping_sub(self.base) as u64)
    }

    /// The address that another process of the same build calls by `offset`; `None` if that lies outside the executable.
    pub(crate) fn address_of(&self, offset: u64) -> Option<usize> {
        let address = self.base.wrapping_add(offset as usize);
        self.offset_of(address).map(|_| address)
    }
}

/// The first object that `dl_iterate_phdr` names is the main executable; 1 ends the walk.
///
/// # Safety
///
/// `info` must be what `dl_iterate_phdr` gives, and `found` a pointer to an `Option<Image>`.
unsafe extern "C" fn first_object(
    info: *mut nix::libc::dl_phdr_info,
    _size: nix::libc::size_t,
    found: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the caller's duty; the structure lives for the duration of this call.
    let info = unsafe { &*info };
    // SAFETY: the loader describes `dlpi_phnum` program headers there, and never changes them.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let image = Image { base, extent: extent(base, headers), build: build(base, headers) };
    // SAFETY: the caller's duty.
    unsafe { *found.cast::<Option<Image>>() = Some(image) };
    1
}

fn extent(base: usize, headers: &[nix::libc::Elf64_Phdr]) -> (usize, usize) {
    let loaded = || headers.iter().filter(|header| header.p_type == nix::libc::PT_LOAD);
    let first = loaded().map(|header| header.p_vaddr).min().unwrap_or(0);
    let end = loaded().map(|header| header.p_vaddr + header.p_memsz).max().unwrap_or(0);
    (base.wrapping_add(first as usize), (end - first) as usize)
}

/// A hash over the executable's file, its notes (where the linker writes its build id) and the sizes of all its parts.
fn build(base: usize, headers: &[nix::libc::Elf64_Phdr]) -> u64 {
    let mut hash = Fnv::new();
    if let Ok(file) = std::fs::metadata("/proc/self/exe") {
        for number in [file.dev(), file.ino(), file.size(), file.mtime() as u64, file.mtime_nsec() as u64] {
            hash.add(&number.to_le_bytes());
        }
    }
    for header in headers {
        for number in [u64::from(header.p_type), header.p_vaddr, header.p_filesz, header.p_memsz] {
            hash.add(&number.to_le_bytes());
        }
        if header.p_type == nix::libc::PT_NOTE && is_loaded(header, headers) {
            let start = base.wrapping_add(header.p_vaddr as usize) as *const u8;
            // SAFETY: part of what the loader has mapped from the file, as just checked; nobody writes notes.
            hash.add(unsafe { std::slice::from_raw_parts(start, header.p_filesz as usize) });
        }
    }
    hash.finish()
}

/// Whether all of `part` lies in a readable segment that the loader has mapped from the file.
fn is_loaded(part: &nix::libc::Elf64_Phdr, headers: &[nix::libc::Elf64_Phdr]) -> bool {
    let end = |header: &nix::libc::Elf64_Phdr| header.p_vaddr.saturating_add(header.p_filesz);
    headers.iter().any(|load| {
        let is_readable = load.p_type == nix::libc::PT_LOAD && load.p_flags & nix::libc::PF_R != 0;
        is_readable && load.p_vaddr <= part.p_vaddr && end(part) <= end(load)
    })
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo: <http://www.isthe.com/chongo/tech/comp/fnv/>).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) const fn finish(self) -> u64 {
        self.0
    }
}
