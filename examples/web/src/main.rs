//! Decodes what is sent to it, in a child process: `cargo run -p web -- 127.0.0.1:8080`, then
//! `printf '\x03a\x02b' | curl --data-binary @- 127.0.0.1:8080/expand` answers `aaabb`.
//!
//! A body that crashes the decoder costs that request a 502, and those behind it at most a 503; the next child decodes the next body. Ctrl-C and SIGTERM
//! stop the program once the requests in flight are answered.

#![forbid(unsafe_code)]

use std::{env, error::Error, process, sync::Arc, time::Duration};

use axum::body::Bytes;
use axum::{Router, extract::State, http::StatusCode, routing::post};
use callgate::{AsyncBridge, CallError, Restart, bridge, error::Started};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Decodes run lengths. Stands for native code that dies of some inputs.
struct Decoder;

#[bridge]
impl Decoder {
    pub fn new() -> Self {
        Decoder
    }

    /// Expands pairs of a count and a byte. A count of 0 is the input that it dies of.
    pub fn expand(&self, packed: &[u8]) -> Result<Vec<u8>, String> {
        let (pairs, rest) = packed.as_chunks();
        if !rest.is_empty() {
            return Err("the last count has no byte".into());
        }
        let mut expanded = Vec::new();
        for &[count, byte] in pairs {
            if count == 0 {
                process::abort()
            }
            expanded.resize(expanded.len() + usize::from(count), byte);
        }
        Ok(expanded)
    }
}

type Failure = (StatusCode, String);

async fn expand(State(decoder): State<Arc<AsyncBridge<Decoder>>>, body: Bytes) -> Result<Vec<u8>, Failure> {
    let expanded = decoder.expand(&body).await.map_err(|error| (status_of(&error), error.to_string()))?;
    expanded.map_err(|reason| (StatusCode::BAD_REQUEST, reason))
}

/// 503 invites the client to try again: the decoder has not begun with the body. A 502 or 504 may be the body's own fault.
fn status_of(error: &CallError) -> StatusCode {
    match error {
        CallError::Died { started: Started::No, .. } | CallError::Down { .. } | CallError::Busy { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        CallError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[callgate::main]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let decoder = Decoder::bridge().timeout(Duration::from_secs(5)).restart(Restart::on_failure());
    let decoder = Arc::new(decoder.start_async().await?);
    let routes = Router::new().route("/expand", post(expand)).with_state(decoder.clone());
    let listener = TcpListener::bind(env::args().nth(1).as_deref().unwrap_or("127.0.0.1:0")).await?;
    println!("listening on {}", listener.local_addr()?);
    let told_to_stop = async move {
        tokio::select! {
            _ = interrupt.recv() => println!("interrupted"),
            _ = terminate.recv() => println!("terminated"),
        }
    };
    axum::serve(listener, routes).with_graceful_shutdown(told_to_stop).await?;
    println!("the decoder {}", decoder.stop().await?);
    Ok(())
}
