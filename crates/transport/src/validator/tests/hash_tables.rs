//! Hash tables without end, and what looks like one.

use super::*;

/// Whether hash tables of `capacity`, without entries or with so many, are refused, wherever they lie.
fn refuses_tables_of(capacity: u64, len: u64) {
    #[track_caller]
    fn refuse<R: Transfer>(value: R, words: &[(usize, u64)]) {
        let mut bytes = encode_to_vec(&value, 1 << 20).expect("an archive");
        let end = bytes.len();
        for (from_end, word) in words {
            bytes[end - from_end * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
        }
        // With bytes in front to point to.
        let mut longer = AlignedVec::<ALIGN>::new();
        longer.extend_from_slice(&[0xff; 64]);
        longer.extend_from_slice(&bytes);
        assert!(read::<R>(&longer).is_err(), "{} accepted: {words:?}", std::any::type_name::<R>());
    }
    // To the 16 bytes before the root, its 24 before that, and so on.
    for to in [-16i64, -24, -32, -40, -48] {
        let table = |from_end| [(from_end, capacity), (from_end + 1, len), (from_end + 2, to.cast_unsigned())];
        refuse(HashSet::<()>::new(), &table(1));
        refuse(HashMap::<(), ()>::new(), &table(1));
        refuse(Box::new(HashSet::<()>::new()), &table(2));
        refuse(vec![HashSet::<()>::new()], &table(3));
        refuse(Some(HashMap::<(), ()>::new()), &table(1));
        refuse(Ok::<_, u8>(HashSet::<()>::new()), &table(1));
        refuse((7u64, HashSet::<()>::new(), 9u64), &table(2));
        refuse((HashSet::<()>::new(), String::new()), &table(3));
        refuse((HashSet::<()>::new(), HashMap::<(), ()>::new()), &[&table(1)[..], &table(4)].concat());
        // In either of two buckets.
        refuse(HashMap::from([(1u8, HashSet::<()>::new())]), &[&table(8)[..], &table(12)].concat());
    }
}

/// The capacity from which on rkyv's rounding wraps, and others that no frame has room for. What is wrong shows in release: it hangs or crashes.
#[test]
fn fault_23_tables_without_end_are_refused() {
    within_two_minutes(|| {
        for less in 0..18 {
            refuses_tables_of(u64::MAX - less, 0);
            refuses_tables_of(u64::MAX - less, 15);
        }
        for capacity in [1 << 63, (1 << 63) - 1, 1 << 62, 1 << 32, (1 << 32) - 15, 1 << 20] {
            refuses_tables_of(capacity, 0);
            refuses_tables_of(capacity, 1);
        }
    });
}

/// A table hides behind what looks like one too, at the same address or another, and behind a claim of elements of no size.
#[test]
fn fault_23_numbers_do_not_hide_a_table_without_end() {
    within_two_minutes(|| {
        type Both = (Vec<u8>, i64, HashSet<()>);
        let both: Both = (vec![7; 15], -1, HashSet::new());
        accept(both.clone());
        for to in [-16i64, -40, -48, -56] {
            for capacity in [MANY, MANY - 1, MANY - 14] {
                let bytes = forged(&both, &[(1, capacity), (2, 15), (3, to.cast_unsigned())]);
                assert!(read::<Both>(&bytes).is_err());
                let bytes = forged(&both, &[(1, capacity), (2, 15), (3, to.cast_unsigned()), (5, 0)]);
                assert!(read::<Both>(&bytes).is_err());
            }
        }
        // Of a list of nothing, where a table of the same words would be.
        refuse((vec![7u8; 15], -1i64, Vec::<()>::new()), &[(1, MANY)]);
    });
}

#[test]
fn fault_23_what_looks_like_a_table_without_end_is_accepted() {
    accept((vec![7u8; 15], -1i64));
    accept((vec![7u8; 15], -1i64, u64::MAX));
    accept((vec![7u8; 15], -15i64, -14i64));
    accept((vec![7u8; 15], String::new()));
    accept((String::from("fifteen letters").into_boxed_str(), -1i64, u64::MAX));
    accept((String::from("fifteen letters"), -1i64, u64::MAX));
    accept((vec![[7u8; 3]; 5], MANY));
    accept((Box::new([7u8; 15]), 15u64, -1i64));
    accept(vec![(vec![7u8; 15], String::new(), -1i64, u64::MAX); 20_000]);
    // Pointers of -8 behind what looks like a pointer; and fewer numbers from -15 to -2 than there are rounds.
    let behind = |n: u64| (vec![-40i64], Box::new(Box::new(n)), vec![vec![1u8]], Box::new(vec![3u8]));
    accept((vec![(vec![7u8; 15], -1i64); 100], (0..100).map(behind).collect::<Vec<_>>()));
    accept((1..15).map(|n| (vec![7u8; 15], -n)).collect::<Vec<(Vec<u8>, i64)>>());
    // With elements of no size beside.
    accept((SampleOrder { id: 0, count: 100_000, items: vec![] }, vec![7u8; 15], -1i64));
    accept((vec![7u8; 15], -1i64, SampleOrder { id: 0, count: 100_000, items: vec![] }));
    accept((HashSet::from([()]), HashMap::from([((), ())]), vec![7u8; 15], -1i64));
    accept((HashSet::from([-40i64, -48, -56]), vec![7u8; 15], -1i64));
}

/// Every word of what an honest value would fill looks like a table without end, and several are pointed to: each is looked at on a copy.
#[test]
fn fault_46_a_deadline_ends_the_search_for_tables_without_end() {
    type Filled = (Vec<u8>, [i64; 96]);
    let filler = if cfg!(debug_assertions) { 32 << 20 } else { 256 << 20 };
    let mut bytes = encode_to_vec(&(vec![0_u8; filler], [0_i64; 96]), filler + 4096).unwrap();
    let root = bytes.len() - size_of::<<Filled as Archive>::Archived>();
    let word = |value: i64| value.to_le_bytes();
    bytes[..filler].chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&word(-15)));
    // A list of fifteen bytes, and places in the same object that say where a table's would be.
    let target = filler as i64 - 64;
    bytes[root..root + 8].copy_from_slice(&word(target - root as i64));
    bytes[root + 8..root + 16].copy_from_slice(&word(15));
    for at in (root + 16..bytes.len() - 24).step_by(24) {
        for (place, value) in [(at, target - at as i64), (at + 8, 0), (at + 16, -15)] {
            bytes[place..place + 8].copy_from_slice(&word(value));
        }
    }
    for millis in [0, 1, 10] {
        let start = std::time::Instant::now();
        let until = Deadline::after(Some(std::time::Duration::from_millis(millis)));
        let read = access_until::<<Filled as Archive>::Archived>(&bytes, until);
        println!(
            "{:?} after a deadline of {millis} ms in {} MiB: {}",
            start.elapsed(),
            bytes.len() >> 20,
            read.is_ok()
        );
        assert!(
            read.is_ok()
                || matches!(last_refusal(), DecodeRefusal::Late | DecodeRefusal::Elements | DecodeRefusal::Invalid)
        );
    }
}
