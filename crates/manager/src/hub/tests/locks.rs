//! Locks and semaphores, as clients have them.

use super::*;

#[test]
fn locks_pass_from_one_to_the_next() {
    within(60, "locks_pass_from_one_to_the_next", || {
        let scene = Scene::new();
        let (first, second, third) = (scene.join(), scene.join(), scene.join());
        let (grant, abandoned) = first.granted(first.acquire("a", None, None));
        assert!(!abandoned);
        let waiting = second.acquire("a", None, None);
        // In vain, at once and after a while; and given up.
        for limit in [0, 50] {
            let asked = third.acquire("a", None, Some(limit));
            assert_eq!(third.hear(), FromHub::NotGranted { seq: asked });
        }
        let asked = third.acquire("a", None, None);
        third.say(&ToHub::Cancel { seq: asked });
        assert_eq!(third.hear(), FromHub::NotGranted { seq: asked });
        let asked = third.acquire("a", None, Some(3_600_000));
        first.say(&ToHub::Release { grant });
        assert!(!second.granted(waiting).1);
        // Who closes the connection with the lock in hand has abandoned it.
        drop(second);
        let (grant, abandoned) = third.granted(asked);
        assert!(abandoned);
        third.say(&ToHub::Release { grant });
        assert!(!first.granted(first.acquire("a", None, Some(0))).1);
        // What was not granted cannot be released.
        third.say(&ToHub::Release { grant: 12345 });
        assert!(third.is_out());
    });
}

#[test]
fn semaphores_let_so_many_in() {
    within(60, "semaphores_let_so_many_in", || {
        let scene = Scene::new();
        let (first, second) = (scene.join(), scene.join());
        let grants: Vec<_> = (0..3).map(|_| first.granted(first.acquire("s", Some(3), None)).0).collect();
        let asked = second.acquire("s", Some(3), Some(0));
        assert_eq!(second.hear(), FromHub::NotGranted { seq: asked });
        second.acquire("s", Some(2), None);
        assert!(second.refused().contains('3'));
        second.acquire("s", None, None);
        second.refused();
        second.acquire("s", Some(0), None);
        second.refused();
        let asked = second.acquire("s", Some(3), None);
        first.say(&ToHub::Release { grant: grants[1] });
        assert!(!second.granted(asked).1);
        drop(first);
        let told = [(); 2].map(|()| second.granted(second.acquire("s", Some(3), None)).1);
        assert_eq!(told, [true, true], "of both permits that were abandoned");
    });
}
