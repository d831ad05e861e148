//! A type in another process cannot borrow from this one.
use callgate::bridge;

struct Parser<'a>(&'a str);

#[bridge]
impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        Parser(text)
    }
}

struct Reader<'a>(&'a str);

#[bridge]
impl Reader<'_> {
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

fn main() {
    let _ = Parser::new("a");
    let _ = Reader("a").length();
}
