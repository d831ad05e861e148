//! A service in its own executable, which the example `parent` starts: `cargo build --release --example worker`
//!
//! If you start it by hand, it says that a bridge must start it, and exits with code 2.

mod tally;

fn main() {
    callgate::serve::<tally::Tally>()
}
