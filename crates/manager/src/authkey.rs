//! The key that a hub and its clients share, and its source.
//!
//! Never shown: not by `Debug`, not in errors. Its memory is overwritten when it is dropped.

#![forbid(unsafe_code)]

use super::error::ManagerError;
use callgate_os::private_file;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The key that a hub and its clients share: 1 to 4,096 bytes. Use 32 random ones (`head -c 32 /dev/urandom`); a word can be guessed.
///
/// Clones share one copy, which is overwritten when the last is dropped.
///
/// # Examples
///
/// ```
/// use callgate::manager::AuthKey;
///
/// let key = AuthKey::new(b"correct horse battery staple");
/// assert!(!format!("{key:?}").contains("horse"));
/// ```
#[derive(Clone)]
pub struct AuthKey {
    key: Arc<Zeroizing<Vec<u8>>>,
    reference: KeyReference,
}

/// The source of a key, where another process may find it too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyReference {
    /// A file, by its absolute path.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The program supplied it; other processes cannot look it up.
    Given,
}

impl fmt::Display for KeyReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyReference::File(path) => write!(f, "the file {}", path.display()),
            KeyReference::Environment(variable) => write!(f, "the environment variable {variable}"),
            KeyReference::Given => f.write_str("the program"),
        }
    }
}

/// Shows the key's source, never its bytes.
impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthKey").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// The longest key, in bytes.
const MAX_KEY: u64 = 4096;

impl AuthKey {
    /// The key `bytes`, 1 to 4,096 of them; other lengths are an error when the key is used.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self::of(Zeroizing::new(bytes.as_ref().to_vec()), KeyReference::Given)
    }

    /// The contents of the file at `path`, without a line break at the end.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no regular file, does not belong to this user or root, can be read or written by others than its owner, or
    /// holds no key of 1 to 4,096 bytes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ManagerError> {
        let path = path.as_ref();
        let reference = KeyReference::File(std::path::absolute(path).unwrap_or_else(|_| path.into()));
        let failed = |why: String| ManagerError::Key { from: reference.to_string(), why };
        // One byte more than a key and its line break, so that a longer one is seen.
        let mut key = Zeroizing::new(Vec::new());
        private_file::read(path, MAX_KEY as usize + 3, &mut key).map_err(failed)?;
        if key.last() == Some(&b'\n') {
            key.pop();
            key.pop_if(|last| *last == b'\r');
        }
        Self::of(key, reference).checked()
    }

    /// The value of the environment variable `variable`.
    ///
    /// This user and root can read it in this process's environment, and children inherit it: a file is safer.
    ///
    /// # Errors
    ///
    /// If it is not set, or holds no key of 1 to 4,096 bytes.
    pub fn from_env(variable: &str) -> Result<Self, ManagerError> {
        let reference = KeyReference::Environment(variable.into());
        let Some(value) = std::env::var_os(variable) else {
            return Err(ManagerError::Key { from: reference.to_string(), why: "it is not set".into() });
        };
        Self::of(Zeroizing::new(OsString::into_vec(value)), reference).checked()
    }

    /// The key's source.
    pub fn reference(&self) -> &KeyReference {
        &self.reference
    }

    fn of(key: Zeroizing<Vec<u8>>, reference: KeyReference) -> Self {
        Self { key: Arc::new(key), reference }
    }

    /// This key, if its length is valid.
    pub(super) fn checked(self) -> Result<Self, ManagerError> {
        let why = match self.key.len() as u64 {
            0 => "it is empty".to_owned(),
            1..=MAX_KEY => return Ok(self),
            len => format!("it is {len} bytes long, and the limit is {MAX_KEY}"),
        };
        Err(ManagerError::Key { from: self.reference.to_string(), why })
    }

    /// The message authentication code of `parts`, whose lengths must be fixed.
    pub(super) fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.code(parts).finalize().into_bytes().into()
    }

    /// Whether `code` is that of `parts`. Compares in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        self.code(parts).verify_slice(code).is_ok()
    }

    fn code(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut code = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| code.update(part));
        code
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A file of its own, which goes with the test.
    struct KeyFile(PathBuf);

    impl KeyFile {
        fn new(name: &str, contents: &[u8], mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("callgate-key-{}-{name}", std::process::id()));
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Self(path)
        }
    }

    impl Drop for KeyFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn refusal(key: Result<AuthKey, ManagerError>) -> String {
        match key {
            Err(error @ ManagerError::Key { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_what_a_file_of_ones_own_holds() {
        for (name, contents, key) in [
            ("line", &b"a key\n"[..], &b"a key"[..]),
            ("crlf", b"a key\r\n", b"a key"),
            ("bytes", b"\n\x00\xff", b"\n\x00\xff"),
        ] {
            let file = KeyFile::new(name, contents, 0o600);
            let read = AuthKey::from_file(&file.0).unwrap();
            assert_eq!(read.key.as_slice(), key, "{name}");
            assert_eq!(read.reference(), &KeyReference::File(file.0.clone()));
        }
        let longest = KeyFile::new("longest", &[7; 4096], 0o400);
        assert_eq!(AuthKey::from_file(&longest.0).unwrap().key.len(), 4096);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o644, 0o640, 0o620, 0o604, 0o601] {
            let file = KeyFile::new(&format!("mode-{mode:o}"), b"a key", mode);
            let why = refusal(AuthKey::from_file(&file.0));
            assert!(why.contains(&format!("{mode:o}")) && why.contains(file.0.to_str().unwrap()), "{why}");
            assert!(!why.contains("a key"), "{why}");
        }
        let file = KeyFile::new("strangers", b"a key", 0o600);
        if std::os::unix::fs::chown(&file.0, Some(65534), None).is_ok() {
            assert!(refusal(AuthKey::from_file(&file.0)).contains("65534"));
        }
    }

    #[test]
    fn what_holds_no_key_is_refused() {
        let empty = KeyFile::new("empty", b"\n", 0o600);
        let long = KeyFile::new("long", &[7; 4097], 0o600);
        assert!(refusal(AuthKey::from_file(&empty.0)).contains("empty"));
        assert!(refusal(AuthKey::from_file(&long.0)).contains("4096"));
        assert!(refusal(AuthKey::from_file(std::env::temp_dir())).contains("regular"));
        refusal(AuthKey::from_file("/no/such/file"));
        assert!(refusal(AuthKey::from_env("CALLGATE_NO_SUCH_VARIABLE")).contains("not set"));
        assert!(refusal(AuthKey::new(b"").checked()).contains("empty"));
        refusal(AuthKey::new([0; 4097]).checked());
    }

    #[test]
    fn a_variable_is_a_key_and_is_remembered() {
        // One that every test process has.
        let key = AuthKey::from_env("PATH").unwrap();
        assert_eq!(key.key.as_slice(), std::env::var("PATH").unwrap().as_bytes());
        assert_eq!(key.reference(), &KeyReference::Environment("PATH".into()));
    }

    #[test]
    fn nothing_is_shown_and_codes_differ() {
        let key = AuthKey::new("secret");
        assert_eq!(format!("{key:?}"), "AuthKey { reference: Given, .. }");
        let code = key.authenticate(&[b"one", b"two"]);
        assert!(key.verify(&[b"one", b"two"], &code));
        assert!(!key.verify(&[b"one", b"twp"], &code));
        assert!(!key.verify(&[b"one", b"two"], &code[..31]));
        assert!(!AuthKey::new("Secret").verify(&[b"one", b"two"], &code));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn a_code_is_hmac_sha256() {
        let code = AuthKey::new("Jefe").authenticate(&[b"what do ya want ", b"for nothing?"]);
        let text: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
