//! The program's own executable in memory: where it is loaded, and which build it is.
//!
//! Another process of the same build finds a function of the program by its distance from the load address.

use std::ffi::c_int;
use std::sync::OnceLock;

/// The main executable of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    base: usize,
    /// The address range of the executable, as (first, length).
    extent: (usize, usize),
    /// Equal for processes of the same build; different for others, unless hashes collide.
    pub build: u64,
}

impl Image {
    /// The executable that this process runs.
    pub fn current() -> Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        *IMAGE.get_or_init(|| {
            let mut found: Option<Image> = None;
            // SAFETY: `first_object` has the signature that the function calls, and `found` outlives the call.
            unsafe { libc::dl_iterate_phdr(Some(first_object), (&raw mut found).cast()) };
            found.unwrap_or(Image { base: 0, extent: (0, 0), build: 0 })
        })
    }

    /// The address of its first byte.
    pub fn start(&self) -> usize {
        self.extent.0
    }

    /// The distance of `address` from the load address; `None` if it does not belong to the executable but to a shared library.
    pub fn offset_of(&self, address: usize) -> Option<u64> {
        let inside = address.checked_sub(self.extent.0).is_some_and(|distance| distance < self.extent.1);
        inside.then(|| address.wrapping_sub(self.base) as u64)
    }

    /// The address that another process of the same build knows as `offset`; `None` if it lies outside the executable.
    pub fn address_of(&self, offset: u64) -> Option<usize> {
        let address = self.base.wrapping_add(offset as usize);
        self.offset_of(address).map(|_| address)
    }
}

/// Handles the first object that `dl_iterate_phdr` reports, the main executable; returning 1 ends the walk.
///
/// # Safety
///
/// `info` must come from `dl_iterate_phdr`, and `found` must point to an `Option<Image>`.
unsafe extern "C" fn first_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut std::ffi::c_void,
) -> c_int {
    // SAFETY: the caller's duty; the structure lives for the duration of this call.
    let info = unsafe { &*info };
    // SAFETY: the loader describes `dlpi_phnum` program headers there and never changes them.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let image = Image { base, extent: extent(base, headers), build: build(base, headers) };
    // SAFETY: the caller's duty.
    unsafe { *found.cast::<Option<Image>>() = Some(image) };
    1
}

fn extent(base: usize, headers: &[libc::Elf64_Phdr]) -> (usize, usize) {
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let first = loaded().map(|header| header.p_vaddr).min().unwrap_or(0);
    let end = loaded().map(|header| header.p_vaddr + header.p_memsz).max().unwrap_or(0);
    (base.wrapping_add(first as usize), (end - first) as usize)
}

/// Hashes the executable as it is in memory: its headers, and its notes, where the linker writes the build id. Without a build id, also everything
/// that is not writable. Ignores the file, which may have been moved, touched, replaced or removed.
fn build(base: usize, headers: &[libc::Elf64_Phdr]) -> u64 {
    let mut hash = Fnv::new();
    let mut has_id = false;
    for header in headers {
        for number in [u64::from(header.p_type), header.p_vaddr, header.p_filesz, header.p_memsz] {
            hash.add(&number.to_le_bytes());
        }
        if header.p_type == libc::PT_NOTE && is_loaded(header, headers) {
            let start = base.wrapping_add(header.p_vaddr as usize) as *const u8;
            // SAFETY: mapped from the file by the loader, as just checked; nobody writes to notes.
            let notes = unsafe { std::slice::from_raw_parts(start, header.p_filesz as usize) };
            hash.add(notes);
            has_id |= holds_build_id(notes, header.p_align as usize);
        }
    }
    for header in headers.iter().filter(|header| !has_id && is_constant(header)) {
        let start = base.wrapping_add(header.p_vaddr as usize) as *const u8;
        // SAFETY: the loader has mapped it readable and not writable, and such a segment contains no relocations.
        hash.add_fast(unsafe { std::slice::from_raw_parts(start, header.p_filesz as usize) });
    }
    hash.finish()
}

/// Whether `notes` contain GNU's build id.
fn holds_build_id(mut notes: &[u8], align: usize) -> bool {
    let align = if align == 8 { 8 } else { 4 };
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
        let (name_len, desc_len, kind) = (word(0), word(4), word(8));
        if kind == NT_GNU_BUILD_ID && rest.starts_with(b"GNU\0") && name_len == 4 && desc_len > 0 {
            return true;
        }
        let padded = |len: usize| len.next_multiple_of(align);
        // The padding counts the 12-byte header too, because `align` may be 8.
        let Some(next) = notes.get(padded(12 + name_len) + padded(desc_len)..) else { return false };
        notes = next;
    }
    false
}

const NT_GNU_BUILD_ID: usize = 3;

/// Whether the segment is mapped from the file and never written, so that it stays as it is there.
fn is_constant(header: &libc::Elf64_Phdr) -> bool {
    let readable_only = header.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R;
    header.p_type == libc::PT_LOAD && readable_only
}

/// Whether all of `part` lies in a readable segment that the loader has mapped from the file.
fn is_loaded(part: &libc::Elf64_Phdr, headers: &[libc::Elf64_Phdr]) -> bool {
    let end = |header: &libc::Elf64_Phdr| header.p_vaddr.saturating_add(header.p_filesz);
    headers.iter().any(|load| {
        let is_readable = load.p_type == libc::PT_LOAD && load.p_flags & libc::PF_R != 0;
        is_readable && load.p_vaddr <= part.p_vaddr && end(part) <= end(load)
    })
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo: <http://www.isthe.com/chongo/tech/comp/fnv/>).
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Fnv {
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds many bytes, eight at a time.
    fn add_fast(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for &word in words {
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ (mixed >> 32);
        }
        self.add(rest);
    }

    pub const fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn note(name: &[u8], desc: &[u8], kind: u32) -> Vec<u8> {
        let mut note: Vec<u8> =
            [name.len() as u32, desc.len() as u32, kind].iter().flat_map(|n| n.to_le_bytes()).collect();
        for part in [name, desc] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn fault_28_a_build_id_is_found_among_other_notes() {
        let (abi, id) = (note(b"GNU\0", &[0; 16], 1), note(b"GNU\0", &[7; 20], 3));
        assert!(holds_build_id(&[&abi[..], &id].concat(), 4));
        assert!(!holds_build_id(&abi, 4));
        assert!(!holds_build_id(&note(b"Go\0\0", &[7; 20], 3), 4));
        assert!(!holds_build_id(&[abi, vec![0xff; 40]].concat(), 4));
        assert!(!holds_build_id(&[], 8));
    }

    #[test]
    fn fault_28_contents_tell_apart_what_has_no_build_id() {
        let hash = |bytes: &[u8]| {
            let mut hash = Fnv::new();
            hash.add_fast(bytes);
            hash.finish()
        };
        let bytes = vec![1; 1001];
        for at in [0, 7, 8, 500, 992, 999, 1000] {
            let mut other = bytes.clone();
            other[at] ^= 0x80;
            assert_ne!(hash(&bytes), hash(&other), "{at}");
        }
    }
}
