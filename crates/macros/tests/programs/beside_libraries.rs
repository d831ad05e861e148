//! Before `main`, a library has started a thread and a runtime that waits for descriptors.
#![allow(unsafe_code)]

extern "C" fn start_as_a_library() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    std::mem::forget(runtime.expect("a runtime"));
}

#[used]
#[unsafe(link_section = ".init_array.00100")]
static START: extern "C" fn() = start_as_a_library;

struct Guest;

#[callgate::bridge]
impl Guest {
    pub fn new() -> Self {
        Guest
    }

    pub fn double(&self, number: u32) -> u32 {
        2 * number
    }
}

#[callgate::main]
fn main() {
    fault_33_threads_of_libraries_are_left_alone()
}

fn fault_33_threads_of_libraries_are_left_alone() {
    let guest = Guest::bridge().start().expect("a start");
    assert_eq!(guest.double(4), Ok(8));
    guest.stop().expect("a stop");
}
