//! Fields that callers may read and write.
use callgate::bridge;

struct Counter {
    total: u64,
    label: String,
    r#type: u8,
}

#[bridge(get(
    /// What was counted.
    total: u64,
    label: String,
    pub(crate) r#type: u8,
), set(total: u64, label: String, r#type: u8))]
impl Counter {
    pub fn new() -> Self {
        Counter { total: 1, label: "one".to_owned(), r#type: 1 }
    }
}

#[test]
fn callers_read_and_write_fields() {
    let counter = Counter::bridge().start().unwrap();
    counter.set_total(2).unwrap();
    counter.set_label("two".to_owned()).unwrap();
    counter.set_type(2).unwrap();
    assert_eq!(counter.total().unwrap(), 2);
    assert_eq!(counter.label().unwrap(), "two");
    assert_eq!(counter.r#type().unwrap(), 2);
}
