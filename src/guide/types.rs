//! What can cross, and what can be bridged.
//!
//! # Types of your own
//!
//! A type crosses when it derives three traits of [rkyv](https://docs.rs/rkyv), which callgate re-exports. `usize` and all other numbers cross in their
//! full range.
//!
//! ```
//! use callgate::bridge;
//! use callgate::rkyv::{Archive, Deserialize, Serialize};
//!
//! #[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
//! #[rkyv(crate = callgate::rkyv)] // where the derives find what they need
//! pub struct Match {
//!     file: String,
//!     lines: Vec<usize>,
//! }
//!
//! pub struct Index;
//!
//! #[bridge]
//! impl Index {
//!     pub fn new() -> Self {
//!         Index
//!     }
//!     pub fn first(&self, among: &[Match]) -> Option<Match> {
//!         among.first().map(|first| Match { file: first.file.clone(), lines: first.lines.clone() })
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let index = Index::bridge().start()?;
//!     let found = Match { file: "a.rs".into(), lines: vec![1, 1 << 40] };
//!     assert_eq!(index.first(std::slice::from_ref(&found))?, Some(found));
//!     Ok(())
//! }
//! ```
//!
//! Callgate turns on rkyv's feature `pointer_width_64` for the whole program. If another crate turns on one of rkyv's other formats
//! (`pointer_width_32`, `big_endian`, `unaligned`), the build stops and says so. Callgate also turns on parking_lot's feature `send_guard`, which
//! excludes parking_lot's `deadlock_detection`.
//!
//! If callgate is a dependency under another name (`cg = { package = "callgate", .. }`), write `#[bridge(crate = cg)]`.
//!
//! # Methods
//!
//! - **Constructors.** `new` becomes `T::bridge`; `with_x` becomes `T::bridge_with_x`. If a constructor returns `Result<Self, E>` and fails, the start
//!   fails with its message.
//! - **Arguments** pass by value or borrowed. The child reads `&str`, slices of primitives (`&[u8]`, `&[f32]`) and `&Archived<T>` in place; it builds the
//!   values behind other `&T` and `&[T]` first.
//! - **Results** are owned values. A method's own `Result` is a value: the call returns `Result<Result<R, E>, CallError>`.
//! - **`#[bridge(skip)]`** leaves a method out. **`#[bridge(rename = "..")]`** renames it. Two bridged blocks of one type must not share a method name;
//!   the compiler reports a duplicate definition (E0592), and `rename` on one of them cures it.
//! - **Fields**: `#[bridge(get(name: Type), set(name: Type))]` on the block adds accessors.
//!
//! The macro refuses at compile time what cannot be bridged, and points at the place.
//!
//! # Traits
//!
//! `#[bridge] impl Trait for T` also implements `Trait` for `Bridge<T>`. Code that is generic over the trait takes either the local value or the bridge.
//! If the child is a [separate executable](super::children#separate-executables), the trait must be bridged there too; otherwise the start names the
//! trait that is missing.
