//! Each constructor gets a builder, however it spells the type that it returns.
use callgate::bridge;

struct Named(String);

#[bridge]
impl Named {
    pub fn new() -> Self {
        Named("new".to_owned())
    }
    pub fn with_name(name: &str) -> Named {
        Named(name.to_owned())
    }
    pub fn parse(text: &str) -> Result<Self, std::num::ParseIntError> {
        text.parse::<u8>().map(|number| Named(number.to_string()))
    }
    pub fn load() -> std::io::Result<Named> {
        Err(std::io::Error::other("nowhere to load from"))
    }
    pub fn boxed_error() -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Named("boxed".to_owned()))
    }
    #[bridge(rename = "open")]
    pub fn made(_number: u8) -> Self {
        Named("opened".to_owned())
    }
    #[bridge(skip)]
    pub fn borrowed(name: &'static str) -> Self {
        Named(name.to_owned())
    }
    fn private() -> Self {
        Named("private".to_owned())
    }
    pub fn name(&self) -> String {
        self.0.clone()
    }
}

#[test]
fn every_constructor_has_a_builder() {
    let name = |builder: callgate::Builder<Named>| builder.start().unwrap().name().unwrap();
    assert_eq!(name(Named::bridge()), "new");
    assert_eq!(name(Named::bridge_with_name("given")), "given");
    assert_eq!(name(Named::bridge_parse("7")), "7");
    assert!(Named::bridge_parse("seven").start().unwrap_err().to_string().contains("invalid digit"));
    assert!(Named::bridge_load().start().unwrap_err().to_string().contains("nowhere to load from"));
    assert_eq!(name(Named::bridge_boxed_error()), "boxed");
    assert_eq!(name(Named::open(1)), "opened");
    assert_eq!(Named::borrowed("here").0 + &Named::private().0, "hereprivate");
}
