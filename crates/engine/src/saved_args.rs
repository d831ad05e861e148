//! A constructor's arguments, serialised when the builder is made and sent when it starts.

#![forbid(unsafe_code)]

use callgate_transport::commit::ALIGN;
use callgate_transport::encode::{Encoder, encode_to_vec};
use callgate_transport::request::Request;
use rkyv::rancor::Failure;
use rkyv::ser::Writer;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Place, Serialize};

/// The archive of a request, which serialises as itself.
#[derive(Clone, Debug)]
pub struct SavedArgs(AlignedVec<ALIGN>);

impl SavedArgs {
    /// Serialises `args`, at most `max` bytes.
    pub fn new<A: Request>(args: &A, max: usize) -> Result<Self, Failure> {
        encode_to_vec(args, max).map(Self)
    }
}

/// Written as they are with nothing after them, so that their root stays last.
impl Archive for &SavedArgs {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: Place<()>) {}
}

impl Serialize<Encoder<'_>> for &SavedArgs {
    fn serialize(&self, encoder: &mut Encoder<'_>) -> Result<(), Failure> {
        Writer::<Failure>::write(encoder, &self.0)
    }
}
