//! The reply of a callback: its result, or the failure that it reports instead.

#![forbid(unsafe_code)]

use super::trusted::TrustedReply;
use super::untrusted::UntrustedReply;
use crate::copy_buffer::CopyBuffer;
use crate::decoder::{Decoder, TrustedPeer};
use crate::error::CallbackError;
use crate::layout::SlotLine;
use crate::segment::{Block, Span};
use rkyv::rancor::Failure;

/// The reply of a callback: its result, or the failure that it reports instead. Bridges have no such failures.
pub struct CallbackReply<R>(pub Result<R, CallbackError>);

impl<R: UntrustedReply> UntrustedReply for CallbackReply<R> {
    type Buffered = R::Buffered;

    #[inline(always)]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_slot(line, payload, decoder).map(|value| Self(Ok(value)))
    }

    #[inline(always)]
    fn from_block(block: Block, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_block(block, decoder).map(|value| Self(Ok(value)))
    }

    fn copy_buffer() -> CopyBuffer<R::Buffered> {
        R::copy_buffer()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<R::Buffered>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_copy_buffer(copy_buffer, decoder).map(|value| Self(Ok(value)))
    }

    fn from_failure(failure: CallbackError) -> Option<Self> {
        Some(Self(Err(failure)))
    }
}

impl<R: TrustedReply> TrustedReply for CallbackReply<R> {
    fn from_trusted_block(
        block: Block,
        loan_id: u64,
        decoder: Decoder<'_>,
        trust: TrustedPeer,
    ) -> Result<Self, Failure> {
        R::from_trusted_block(block, loan_id, decoder, trust).map(|value| Self(Ok(value)))
    }

    #[inline(always)]
    fn with_trust(self, trust: Option<TrustedPeer>) -> Self {
        Self(self.0.map(|value| value.with_trust(trust)))
    }
}
