//! A service in an executable of its own, which the example `parent` starts: `cargo build --release --example worker`
//!
//! Started by hand it says that it is to be started by a bridge, and exits with code 2.

mod tally;

fn main() {
    callgate::serve::<tally::Tally>()
}
