//! What async methods promise: a trait with async methods is implemented by the bridge, calls of one bridge interleave in the child, and one that nobody
//! wants any more is dropped there.

mod support;

use callgate::{AsyncBridge, CallError, bridge};
use std::sync::atomic::{AtomicU64, Ordering};
use support::within;

callgate::test_support!();

/// What generic code is written against.
trait Store {
    async fn get(&self, key: u64) -> Option<String>;
    async fn put(&mut self, key: u64, value: &str) -> Result<(), StoreError>;
    fn len(&self) -> impl Future<Output = usize> + Send;
    async fn kind() -> &'static str;
}

#[derive(Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
enum StoreError {
    Full,
    Lost(String),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        StoreError::Lost(error.to_string())
    }
}

struct Disk {
    entries: Vec<(u64, String)>,
    looks: AtomicU64,
}

#[bridge]
impl Disk {
    pub fn new() -> Self {
        Disk { entries: Vec::new(), looks: AtomicU64::new(0) }
    }

    pub async fn double(&self, n: u64) -> u64 {
        2 * n
    }

    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub fn exit(&self) {
        std::process::exit(3)
    }
}

#[bridge]
impl Store for Disk {
    async fn get(&self, key: u64) -> Option<String> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.entries.iter().find(|(at, _)| *at == key).map(|(_, value)| value.clone())
    }

    async fn put(&mut self, key: u64, value: &str) -> Result<(), StoreError> {
        if self.entries.len() == 2 {
            return Err(StoreError::Full);
        }
        self.entries.push((key, value.to_owned()));
        Ok(())
    }

    fn len(&self) -> impl Future<Output = usize> + Send {
        let len = self.entries.len();
        async move { len }
    }

    async fn kind() -> &'static str {
        "disk"
    }
}

/// Takes a store of this process or another's.
async fn exercise<S: Store>(mut store: S) -> Result<(), StoreError> {
    store.put(1, "one").await?;
    store.put(2, "two").await?;
    assert_eq!(store.put(3, "three").await, Err(StoreError::Full));
    assert_eq!(store.get(2).await.as_deref(), Some("two"));
    assert_eq!(store.get(3).await, None);
    assert_eq!((store.len().await, S::kind().await), (2, "disk"));
    Ok(())
}

#[test]
fn generic_code_takes_a_local_store_or_a_bridge() {
    within(30, "generic_code_takes_a_local_store_or_a_bridge", || {
        pollster::block_on(async {
            exercise(Disk::new()).await.unwrap();
            let bridge: AsyncBridge<Disk> = Disk::bridge().start_async().await.unwrap();
            exercise(bridge.clone()).await.unwrap();
            assert_eq!(bridge.looks().await.unwrap(), 2);
        });
    });
}
