//! Members that flood the hub, or do not listen.

use super::*;

#[test]
fn a_flood_keeps_nobody_from_being_served() {
    within(120, "a_flood_keeps_nobody_from_being_served", || {
        let scene = Scene::new();
        let (flooder, reader, other) = (scene.join(), scene.join(), scene.join());
        let until = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            // One that never reads, and is dropped for it; one that reads it all.
            scope.spawn(|| {
                let message = ToHub::Resolve { seq: 1, name: "nobody's".into() }.encode().unwrap();
                while Instant::now() < until {
                    match socket::send(&flooder.joined.socket, &message, &[]) {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
                        _ => {}
                    }
                }
            });
            scope.spawn(move || {
                while Instant::now() < until {
                    (0..100).for_each(|_| reader.say(&ToHub::Resolve { seq: 1, name: "nobody's".into() }));
                    (0..100).for_each(|_| drop(reader.hear()));
                }
            });
            let mut served = 0;
            while Instant::now() < until {
                assert_eq!(other.resolve("nobody's"), Resolution::None);
                served += 1;
            }
            assert!(served > 50, "served {served} times in 2 s");
        });
        scene.serves();
    });
}

#[test]
fn who_takes_nothing_is_dropped_and_others_are_not() {
    within(120, "who_takes_nothing_is_dropped_and_others_are_not", || {
        let scene = Scene::new();
        let (deaf, other) = (scene.join(), scene.join());
        deaf.register(1, "of the deaf");
        let asked = other.acquire("a", None, None);
        other.granted(asked);
        // Each question has an answer, which it does not take; some fit into its socket, some wait at the hub.
        let message = ToHub::Acquire { seq: 1, name: "a".into(), permits_of_semaphore: None, deadline_ms: Some(0) };
        let bytes = message.encode().unwrap();
        assert!(eventually(60, "it is dropped", || {
            loop {
                match socket::send(&deaf.joined.socket, &bytes, &[]) {
                    Ok(()) => {}
                    Err(error) => return error.kind() == io::ErrorKind::BrokenPipe,
                }
            }
        }));
        assert_eq!(other.resolve("of the deaf"), Resolution::None);
        scene.serves();
    });
}
