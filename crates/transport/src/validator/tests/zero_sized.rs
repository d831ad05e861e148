//! Elements of no size: as many as are claimed, and numbers that look like a claim.

use super::*;

#[test]
fn fault_07_as_many_as_have_no_size_are_refused() {
    refuse(Vec::<()>::new(), &[(1, MANY)]);
    refuse(Vec::<Weightless>::new(), &[(1, MANY)]);
    refuse(VecDeque::<()>::new(), &[(1, MANY)]);
    refuse(Vec::<()>::new().into_boxed_slice(), &[(1, MANY)]);
    refuse(Vec::<[u64; 0]>::new(), &[(1, MANY)]);
    refuse(Some(Vec::<Weightless>::new()), &[(1, MANY)]);
    refuse((7u64, Vec::<()>::new(), 9u64), &[(2, 2 * ZERO_SIZED as u64)]);
    refuse(Box::new(Vec::<()>::new()), &[(2, MANY)]);
    // With a number below the bound each, and together above it.
    refuse((Vec::<()>::new(), Vec::<()>::new()), &[(1, 40_000), (3, 40_000)]);
    let mut inner = vec![Vec::<()>::new(); 1000];
    refuse(inner.clone(), &[(2 + 1, 30_000), (2 + 3, 30_000), (2 + 5, 30_000)]);
    inner[500] = vec![(); ZERO_SIZED];
    accept(inner.clone());
    refuse(inner, &[(2 + 1, 20_000)]);
}

#[test]
fn collections_whose_bytes_bound_them_say_no_more_than_they_have() {
    for len in [1, 9, MANY] {
        for from_end in [1, 2] {
            assert!(
                read::<HashSet<()>>(&forged(&HashSet::<()>::new(), &[(from_end, len)])).is_err(),
                "{len} at {from_end}"
            );
        }
        assert!(read::<BTreeSet<()>>(&forged(&BTreeSet::from([()]), &[(1, len.saturating_add(1))])).is_err());
        assert!(read::<BTreeMap<(), ()>>(&forged(&BTreeMap::from([((), ())]), &[(1, len.saturating_add(1))])).is_err());
    }
    accept(HashSet::from([()]));
    accept(HashMap::from([((), ())]));
    accept(BTreeSet::from([()]));
    accept(BTreeMap::<(), ()>::new());
}

#[test]
fn as_many_as_are_always_let_through_are() {
    accept(vec![(); ZERO_SIZED]);
    accept(vec![weightless(); 1000]);
    accept((vec![(); ZERO_SIZED / 2], vec![(); ZERO_SIZED / 2]));
    accept(Some(vec![(); 3].into_boxed_slice()));
    // As many as the frame has bytes.
    accept((vec![(); 200_000], vec![1u8; 200_000]));
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
struct Mixed {
    empty: Vec<u64>,
    boxed: Box<u64>,
    hash: u64,
    texts: Vec<String>,
    marks: Vec<()>,
    table: HashMap<u64, Vec<u8>>,
}

/// Numbers that look like a collection of very many.
#[test]
fn numbers_beside_empty_collections_are_numbers() {
    accept(SampleOrder { id: 0, count: 100_000, items: vec![] });
    accept(vec![SampleOrder { id: 0, count: 100_000, items: vec![] }; 1000]);
    accept(SampleEvent::Sale { amount: 100_000, items: vec![] });
    accept(vec![vec![SampleEvent::Sale { amount: MANY, items: vec![] }; 3]; 100]);
    accept(SampleEvent::Return { amount: MANY, why: None, items: vec![] });
    let mixed = |hash| Mixed {
        empty: vec![],
        boxed: Box::new(7),
        hash,
        texts: vec![String::new(), "a text that is too long to stay in place".into()],
        marks: vec![(); 5],
        table: HashMap::new(),
    };
    accept(mixed(MANY));
    accept((0..1000).map(|n| mixed(MANY - n)).collect::<Vec<_>>());
}

/// What chooses a variant, or is a bool, looks like a pair without elements at the address where an empty collection is.
#[test]
fn what_chooses_a_variant_is_not_marked_for_long() {
    accept(Ok::<_, u8>((-8i64, -1i64, Vec::<u8>::new())));
    accept((false, -8i64, -1i64, Vec::<u8>::new()));
    accept((None::<u64>, -16i64, -1i64, Vec::<u8>::new()));
    let flagged = Flagged { ok: false, code: 0, delta: -16, price: -1, tags: vec![] };
    accept(flagged.clone());
    accept(vec![flagged.clone(); 3]);
    let priced = Priced { kind: SampleKind::A, n: 0, delta: -16, price: 100_000, tags: vec![] };
    accept(priced.clone());
    accept(vec![priced.clone(); 3]);
    let tagged = Tagged { kind: SampleKind::A, id: 100_000, tags: vec![] };
    accept(tagged.clone());
    accept(vec![Box::new(tagged.clone()); 100]);
    // Object after object, more than are asked about one by one.
    accept(vec![Box::new(flagged.clone()); 100]);
    accept((vec![vec![priced; 2]; 100], vec![vec![flagged; 2]; 100], vec![vec![tagged; 2]; 100]));
}

/// `objects` vectors of `pairs` vectors each, all of which point to where the object begins that they are in.
fn crowded(objects: usize, pairs: usize, count: impl Fn(usize, usize) -> u64) -> AlignedVec<ALIGN> {
    let (outer, root) = (objects * pairs * PAIR, (objects * pairs + objects) * PAIR);
    let mut bytes = AlignedVec::new();
    bytes.resize(root + PAIR, 0);
    let mut put = |at: usize, to: usize, count: u64| {
        bytes[at..at + WORD].copy_from_slice(&(to as i64 - at as i64).to_le_bytes());
        bytes[at + WORD..at + PAIR].copy_from_slice(&count.to_le_bytes());
    };
    for object in 0..objects {
        let start = object * pairs * PAIR;
        (0..pairs).for_each(|number| put(start + number * PAIR, start, count(object, number)));
        put(outer + object * PAIR, start, pairs as u64);
    }
    put(root, outer, objects as u64);
    bytes
}

#[test]
fn fault_07_many_at_one_address_are_walked_once() {
    within_two_minutes(|| {
        let bytes = crowded(1, 1 << 19, |_, number| if number % 2 == 0 { 9 } else { 0 });
        assert!(read::<Vec<Vec<Vec<()>>>>(&bytes).is_ok());
        accept(vec![vec![(); 10]; 1 << 19]);
    });
}

#[test]
fn fault_07_what_is_asked_about_has_a_bound() {
    within_two_minutes(|| {
        let bytes = crowded(16, 1 << 15, |object, number| match (object, number) {
            (15, 0) => MANY,
            (_, 0) => 9,
            _ => 0,
        });
        assert!(read::<Vec<Vec<Vec<()>>>>(&bytes).is_err());
        assert_eq!(last_refusal(), DecodeRefusal::Elements);
        let mut found = Suspects::new();
        assert_eq!(
            suspects(&bytes, 0..bytes.len(), 0, &mut found, Deadline::NEVER),
            None,
            "16 x 2^15 are more than are marked"
        );
        assert_eq!(found.len(), MAX_MARKS + 1);
    });
}

#[test]
fn what_was_wrong_with_a_frame_is_not_said_of_the_next() {
    assert!(read::<Vec<()>>(&forged(&Vec::<()>::new(), &[(1, MANY)])).is_err());
    assert!(read::<Vec<u8>>(&forged(&Vec::<u8>::new(), &[(1, MANY)])).is_err());
    assert_ne!(last_refusal(), DecodeRefusal::Elements, "its elements have a size");
    assert!(read::<Vec<()>>(&forged(&Vec::<()>::new(), &[(1, MANY)])).is_err());
    assert!(read::<Option<u8>>(&[9, 9]).is_err());
    assert_ne!(last_refusal(), DecodeRefusal::Elements);
}

/// True claims beside numbers that look like an empty collection at the same address, and over what chooses the variant.
#[test]
fn fault_07_numbers_do_not_hide_a_collection() {
    #[derive(Clone, PartialEq, Archive, Serialize, Deserialize)]
    struct Beside {
        id: u64,
        count: u64,
        items: Vec<Weightless>,
    }
    let beside = Beside { id: 0, count: 0, items: vec![] };
    // `id` and `count` read as an empty collection at the address of `items`.
    refuse(beside, &[(1, MANY)]);

    #[derive(Clone, PartialEq, Archive, Serialize, Deserialize)]
    enum Hidden {
        A { items: Vec<Weightless>, _rest: [u64; 2] },
        B { _rest: [u64; 2], items: Vec<Weightless> },
    }
    // The tag, with its padding, and the first number: a pair without elements, at the address of the collection.
    refuse(Hidden::B { _rest: [0, 0], items: vec![] }, &[(1, MANY)]);
    refuse(Hidden::A { items: vec![], _rest: [0, 0] }, &[(3, MANY)]);
    let bytes = forged(&Hidden::B { _rest: [0, 0], items: vec![] }, &[(1, MANY), (2, (-24i64) as u64)]);
    assert!(read::<Hidden>(&bytes).is_err());
}

#[test]
fn lengths_are_not_taken_for_pointers() {
    let order = SampleOrder { id: 0, count: 0, items: vec![] };
    accept((
        vec![SampleEvent::Sale { amount: 100_000, items: vec![] }],
        vec![vec![], vec![order; 4]],
        vec![0, MANY - 3],
        vec![(); 0],
    ));
}
