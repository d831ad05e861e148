//! Renamed methods: callers use the new names, and the local names stay.
use callgate::bridge;

struct Service;

#[bridge]
impl Service {
    pub fn new() -> Self {
        Service
    }
    #[bridge(rename = "halt")]
    pub fn stop(&self) -> u8 {
        1
    }
    #[callgate::bridge(rename = "r#type")]
    pub fn kind(&self, r#fn: u8) -> u8 {
        r#fn
    }
    #[bridge(skip)]
    pub fn kill<T>(&self, value: T) -> T {
        value
    }
    #[cfg(unix)]
    pub fn system(&self) -> u8 {
        1
    }
    #[cfg(not(unix))]
    pub fn system(&self, number: NoSuchType) -> u8 {
        number
    }
}

#[test]
fn callers_use_the_new_names() {
    let service = Service::bridge().start().unwrap();
    assert_eq!(service.halt().unwrap(), Service.stop());
    assert_eq!(service.r#type(2).unwrap(), Service.kind(2));
    assert_eq!(service.system().unwrap(), Service.kill(1));
    assert!(service.stop().unwrap().success());
}
