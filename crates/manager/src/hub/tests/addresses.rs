//! Where a hub can listen, and that there is one at a time.

use super::*;

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    within(60, "a_directory_that_others_can_write_to_is_refused", || {
        let directory = TempDir::new();
        let run = directory.path().join("run");
        fs::create_dir(&run).unwrap();
        let address = Address::from(&run.join("hub"));
        let squatted = |address: &Address| {
            let started = Hub::start(address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(address, &secret(), ClientRights::Full, in_time()).map(drop);
            for tried in [started, joined] {
                match tried {
                    Err(ManagerError::Squatted { path, .. }) => assert_eq!(path, address_directory(address)),
                    other => panic!("{address}: {other:?}"),
                }
            }
        };
        for mode in [0o777, 0o770, 0o702, 0o720, 0o1777] {
            fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
            squatted(&address);
        }
        for mode in [0o700, 0o755] {
            fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
            Hub::start(&address, &secret(), HubOptions::new()).expect("a directory of one's own").stop();
        }
        // A link of one's own leads where it leads.
        let link = directory.path().join("link");
        symlink(&run, &link).unwrap();
        Hub::start(&Address::from(&link.join("hub")), &secret(), HubOptions::new()).unwrap().stop();
        if chown(&run, Some(65534), None).is_ok() {
            squatted(&address);
            chown(&run, Some(0), None).unwrap();
            std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
            squatted(&Address::from(&link.join("hub")));
        }
        let file = Address::from(&directory.file("file/hub"));
        fs::write(directory.file("file"), "").unwrap();
        squatted(&file);
        assert_eq!(files(&run), Vec::<String>::new());
    });
}

fn address_directory(address: &Address) -> std::path::PathBuf {
    Path::new(&address.to_string()).parent().unwrap().into()
}

#[test]
fn what_is_no_socket_is_left_alone() {
    within(60, "what_is_no_socket_is_left_alone", || {
        let directory = TempDir::new();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(directory.file("file"), "precious").unwrap();
        fs::create_dir(directory.file("directory")).unwrap();
        symlink(directory.file("file"), directory.file("link")).unwrap();
        for name in ["file", "directory", "link"] {
            let address = Address::from(&directory.file(name));
            let started = Hub::start(&address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(&address, &secret(), ClientRights::Full, in_time()).map(drop);
            let elected = start_or_join(&address, &secret(), HubOptions::new(), in_time()).map(drop);
            for tried in [started, joined, elected] {
                assert!(matches!(tried, Err(ManagerError::NotASocket { .. })), "{name}: {tried:?}");
            }
        }
        assert_eq!(fs::read_to_string(directory.file("file")).unwrap(), "precious");
        let mut left = files(directory.path());
        left.sort();
        assert_eq!(left, ["directory", "file", "link"]);
    });
}

#[test]
fn malformed_addresses_are_refused_when_they_are_used() {
    within(60, "malformed_addresses_are_refused_when_they_are_used", || {
        let (long, path) = ("n".repeat(108), format!("/{}", "n".repeat(107)));
        for text in ["", "@", "a\0b", "@a\0b", &format!("@{long}"), &path] {
            let address = Address::from(text);
            let started = Hub::start(&address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(&address, &secret(), ClientRights::Full, in_time()).map(drop);
            for tried in [started, joined] {
                assert!(matches!(tried, Err(ManagerError::Address { .. })), "{text:?}: {tried:?}");
            }
        }
        let directory = TempDir::new();
        let deep = Address::from(&directory.file("not/there/hub"));
        assert!(matches!(Hub::start(&deep, &secret(), HubOptions::new()), Err(ManagerError::System { .. })));
    });
}

#[test]
fn an_address_has_one_hub_at_a_time() {
    within(60, "an_address_has_one_hub_at_a_time", || {
        let directory = TempDir::new();
        for address in [Address::from(&directory.file("run/hub")), own_address()] {
            for round in 0..50 {
                let hub = Hub::start(&address, &secret(), HubOptions::new())
                    .unwrap_or_else(|error| panic!("round {round}: {error}"));
                let second = Hub::start(&address, &secret(), HubOptions::new());
                let pid = std::process::id();
                assert!(matches!(second, Err(ManagerError::InUse { pid: Some(found), .. }) if found == pid));
                let client = Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
                assert!(hub.is_running());
                hub.stop();
                assert_eq!(client.hear(), FromHub::Closing);
                assert!(client.is_out());
            }
        }
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

#[test]
fn another_programs_socket_is_not_taken_away() {
    within(60, "another_programs_socket_is_not_taken_away", || {
        let directory = TempDir::new();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let address = Address::from(&directory.file("stream"));
        let stream = std::os::unix::net::UnixListener::bind(directory.file("stream")).unwrap();
        let started = Hub::start(&address, &secret(), HubOptions::new());
        assert!(matches!(started, Err(ManagerError::InUse { .. })));
        assert!(std::os::unix::net::UnixStream::connect(directory.file("stream")).is_ok());
        assert!(matches!(
            auth::join(&address, &secret(), ClientRights::Full, in_time()),
            Err(ManagerError::System { .. })
        ));
        drop(stream);
        // Nobody listens any more: it makes way.
        Hub::start(&address, &secret(), HubOptions::new()).unwrap().stop();
        assert_eq!(files(directory.path()), Vec::<String>::new());
    });
}

#[test]
fn of_many_at_once_one_becomes_the_hub() {
    within(120, "of_many_at_once_one_becomes_the_hub", || {
        let directory = TempDir::new();
        for address in [Address::from(&directory.file("run/hub")), own_address()] {
            for _ in 0..5 {
                let elected: Vec<_> = std::thread::scope(|scope| {
                    let one = || {
                        start_or_join(&address, &secret(), HubOptions::new(), in_time()).expect("a hub, or a way to it")
                    };
                    let threads: Vec<_> = (0..12).map(|_| scope.spawn(one)).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                assert_eq!(elected.iter().filter(|(hub, _)| hub.is_some()).count(), 1);
                // All have joined the same.
                let (hubs, clients): (Vec<_>, Vec<_>) = elected.into_iter().unzip();
                let clients: Vec<_> = clients.into_iter().map(Talk::new).collect();
                clients[0].register(1, "a");
                let found = |client: &Talk| client.register_as(1, "a", None, false);
                assert!(clients[1..].iter().all(|client| matches!(found(client), FromHub::Taken { .. })));
                drop(hubs);
                assert!(clients.iter().all(|client| client.hear() == FromHub::Closing));
            }
        }
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

#[test]
fn only_an_address_without_a_hub_has_this_process_start_one() {
    let address = || "@a".to_owned();
    assert!(is_vacant(&ManagerError::NobodyListens { address: address() }));
    assert!(is_vacant(&ManagerError::Closed { address: address() }));
    let errors = [
        ManagerError::WrongKey { address: address(), pid: Some(7) },
        ManagerError::TooMany { address: address() },
        ManagerError::TimedOut { address: address(), waited: Duration::ZERO, what: "a hub" },
        ManagerError::NotAHub { address: address(), pid: None, why: "it is none".into() },
    ];
    for error in errors {
        assert!(!is_vacant(&error), "{error}");
    }
}
