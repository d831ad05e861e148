//! Random values, which are accepted, and random words written over them, which are read or refused.

use super::*;

fn event() -> impl Strategy<Value = SampleEvent> {
    let amount = || prop_oneof![any::<u64>(), Just(0), Just(100_000), (0u64..8).prop_map(|n| 0u64.wrapping_sub(8 * n))];
    prop_oneof![
        (amount(), prop::collection::vec(any::<u64>(), 0..3))
            .prop_map(|(amount, items)| SampleEvent::Sale { amount, items }),
        (amount(), prop::option::of(".{0,12}"), prop::collection::vec(".{0,12}", 0..3))
            .prop_map(|(amount, why, items)| SampleEvent::Return { amount, why, items }),
        Just(SampleEvent::Nothing),
    ]
}

fn order() -> impl Strategy<Value = SampleOrder> {
    let number = || prop_oneof![any::<u64>(), Just(0), (0u64..20).prop_map(|n| 0u64.wrapping_sub(8 * n))];
    (number(), number(), prop::collection::vec(any::<u8>(), 0..2)).prop_map(|(id, count, items)| SampleOrder {
        id,
        count,
        items,
    })
}

/// Small ones, such as may be a pointer to where the object begins, and such as are too many.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(0u64.wrapping_sub(16)),
        Just(0u64.wrapping_sub(32)),
        0u64..10,
        Just(100_000),
        any::<u64>()
    ]
}

fn flagged() -> impl Strategy<Value = Flagged> {
    let delta = prop_oneof![Just(0), Just(-16), Just(-32), -60i64..10, any::<i64>()];
    let tags = prop::collection::vec(".{0,12}", 0..2);
    (any::<bool>(), number(), delta, number(), tags).prop_map(|(ok, code, delta, price, tags)| Flagged {
        ok,
        code,
        delta,
        price: price.cast_signed(),
        tags,
    })
}

fn kind() -> impl Strategy<Value = SampleKind> {
    prop_oneof![Just(SampleKind::A), Just(SampleKind::B)]
}

fn priced() -> impl Strategy<Value = Priced> {
    (kind(), number(), number(), number(), prop::collection::vec(any::<u8>(), 0..2))
        .prop_map(|(kind, n, delta, price, tags)| Priced { kind, n, delta: delta.cast_signed(), price, tags })
}

fn tagged() -> impl Strategy<Value = Tagged> {
    (kind(), number(), prop::collection::vec(any::<u8>(), 0..2)).prop_map(|(kind, id, tags)| Tagged { kind, id, tags })
}

proptest! {
    #[test]
    fn whatever_is_honest_is_accepted(
        events in prop::collection::vec(event(), 0..20),
        orders in prop::collection::vec(prop::collection::vec(order(), 0..8), 0..8),
        numbers in prop::collection::vec((0u64..4).prop_map(|n| 0u64.wrapping_sub(8 * n)), 0..50),
        units in 0usize..ZERO_SIZED,
    ) {
        accept((events, orders, numbers, vec![(); units]));
    }

    #[test]
    fn whatever_begins_with_a_variant_is_accepted(
        flagged in prop::collection::vec(flagged(), 0..4),
        priced in prop::collection::vec(prop::collection::vec(priced(), 0..3), 0..4),
        tagged in prop::collection::vec(tagged().prop_map(Box::new), 0..4),
        result in prop_oneof![flagged().prop_map(Ok), any::<u8>().prop_map(Err)],
        option in prop::option::of((number(), number(), prop::collection::vec(tagged(), 0..2))),
    ) {
        for one in &flagged {
            accept(one.clone());
        }
        for one in priced.iter().flatten() {
            accept(one.clone());
        }
        for one in &tagged {
            accept((None::<u64>, (**one).clone()));
        }
        accept(result.clone());
        accept(option.clone());
        accept((flagged, priced, tagged, result, option));
    }

    #[test]
    fn fault_04_whatever_is_written_over_an_archive_is_read_or_refused(
        orders in prop::collection::vec(order(), 1..6),
        words in prop::collection::vec((1usize..16, prop_oneof![any::<u64>(), (0u64..128).prop_map(|n| 0u64.wrapping_sub(n))]), 1..8),
    ) {
        let value = (orders, vec![weightless(); 2], vec![(), ()]);
        let len = encode_to_vec(&value, 1 << 20).unwrap().len();
        let words: Vec<_> = words.into_iter().map(|(at, word)| (at.min(len / WORD), word)).collect();
        if let Ok((_, weightless, units)) = read::<(Vec<SampleOrder>, Vec<Weightless>, Vec<()>)>(&forged(&value, &words)) {
            prop_assert!(weightless.len() + units.len() <= ZERO_SIZED + len);
        }
    }
}
