//! What the sandbox of a `Searcher` leaves to it.

use super::searcher_of;

#[path = "../../../tests/support/mod.rs"]
mod support;

callgate::test_support!();

#[test]
fn a_searcher_can_read_its_file_and_no_other() {
    support::within(60, "a_searcher_can_read_its_file_and_no_other", || {
        let directory = support::TempDir::new();
        let [own, other] = ["own", "other"].map(|name| directory.file(name));
        for path in [&own, &other] {
            std::fs::write(path, "a line\n").expect("it can be written");
        }
        let searcher = searcher_of(&own).expect("a child");
        let matching =
            |path| searcher.matching(path, "line").expect("a stream").next().expect("an item").expect("no end");
        assert_eq!(matching(&own), Ok("a line".into()));
        assert_eq!(matching(&other), Err(format!("{other}: Permission denied (os error 13)")));
    });
}
