//! What a failed call says, and what to do about it.
//!
//! A method that returns `R` is called as `Result<R, CallError>`. Its own `Result` stays a value: `Result<Result<R, E>, CallError>`. Errors are sentences
//! that say who, what and where:
//!
//! > call `Decoder::decode` failed: child 4312 was killed by signal 6 (SIGABRT); the call had started
//!
//! | what happened | [`CallError`](crate::CallError) | afterwards |
//! |---|---|---|
//! | the method panicked | `Panicked`: message, place, and the backtrace that `RUST_BACKTRACE` asks for | the child goes on |
//! | the child exited or was killed | `Died`: exit code or signal, and whether the call had started | start another bridge, or let [`Builder::restart`](crate::Builder::restart) do so |
//! | the child died; its replacement is not ready, or restarts are exhausted | `Down` | if it says `restarting`, try again later |
//! | no answer, memory or free lane in time; `awaited` says which | `TimedOut` | if the call was sent, the child works on, and its late answer is dropped |
//! | values nested too deep, too many elements without size, or a call that would wait for itself | `TooDeep`, `TooMany`, `TooNested` | the bridge goes on |
//! | an argument or result exceeds `max_payload` | `TooLarge` | the bridge goes on |
//! | all memory of that direction, half of the bridge's `memory`, is in use | `Exhausted` | the bridge goes on |
//! | the bridge was stopped or killed before the answer | `Stopped` | start another bridge |
//! | the system has no memory for a payload, or a value cannot be encoded | `Refused`, with the reason | the bridge goes on |
//! | the child broke the protocol | `Corrupt` | the child has been killed |
//!
//! A bridge that does not start says why in a [`StartError`](crate::StartError), and leaves no process, descriptor or memory behind.
