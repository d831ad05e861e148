//! Generic types: type and const parameters, bounded and unsized ones, and blocks for one instance of a type.
use callgate::bridge;
use callgate::rkyv::{Archive, Archived, Deserialize, Serialize};
use std::marker::PhantomData;

struct Stack<T, const N: usize> {
    items: Vec<T>,
}

#[bridge(get(items: Vec<T>))]
impl<T: Clone + Default + Archive, const N: usize> Stack<T, N>
where
    T: Send,
{
    pub fn new(items: &[T]) -> Self {
        Stack { items: items.to_vec() }
    }
    pub fn full(item: T) -> Result<Stack<T, N>, String> {
        Ok(Self { items: vec![item; N] })
    }
    pub fn push(&mut self, item: T) -> usize {
        self.items.push(item);
        self.items.len()
    }
    pub fn push_all(&mut self, items: [T; N]) {
        self.items.extend(items);
    }
    pub fn same(&self, item: &T, archived: &Archived<T>) -> Option<T> {
        let _ = archived;
        Some(item.clone())
    }
}

trait Holder<T> {
    fn pull(&mut self) -> Option<T>;
    fn count(&self) -> usize;
}

#[bridge]
impl<T: Clone + Default + Archive + Send, const N: usize> Holder<T> for Stack<T, N> {
    fn pull(&mut self) -> Option<T> {
        self.items.pop()
    }
    fn count(&self) -> usize {
        self.items.len()
    }
}

fn drained<T>(holder: &mut impl Holder<T>) -> usize {
    while holder.pull().is_some() {}
    holder.count()
}

#[derive(Archive, Serialize, Deserialize)]
struct Cell(u8);

struct Grid<const N: usize>;

#[bridge]
impl<const N: usize> Grid<N> {
    pub fn new() -> Self {
        Grid
    }
    pub fn row(&self, row: [Cell; N], bytes: [u8; N]) -> usize {
        row.iter().map(|cell| usize::from(cell.0)).sum::<usize>() + bytes.len()
    }
}

/// Named as a proxy's own parameter would be.
struct M<T: ?Sized>(PhantomData<T>);

#[bridge]
impl<T: ?Sized> M<T> {
    pub fn new() -> M<T> {
        M(PhantomData)
    }
    pub fn bits(&self, other: u8) -> u8 {
        other + 1
    }
}

struct Solver<T, U>(T, PhantomData<U>);

#[bridge]
impl<U> Solver<u32, Vec<U>> {
    pub fn new(number: u32) -> Self {
        Solver(number, PhantomData)
    }
    pub fn number(&self) -> u32 {
        self.0
    }
}

trait Solves {
    fn solve(&self) -> u32;
}

#[bridge]
impl Solves for Solver<u32, Vec<String>> {
    fn solve(&self) -> u32 {
        self.0 * 2
    }
}

#[test]
fn a_type_with_parameters_is_bridged() {
    let mut stack = Stack::<String, 2>::bridge(&["a".to_owned()]).start().unwrap();
    assert_eq!(stack.push("b".to_owned()).unwrap(), 2);
    stack.push_all(["c".to_owned(), "d".to_owned()]).unwrap();
    assert_eq!(stack.same(&"e".to_owned(), &"f".to_owned()).unwrap(), Some("e".to_owned()));
    assert_eq!(stack.items().unwrap().concat(), "abcd");
    assert_eq!(drained(&mut stack), 0);
    assert_eq!(Stack::<u8, 3>::bridge_full(7).start().unwrap().items().unwrap(), [7, 7, 7]);
    assert_eq!(Grid::<2>::bridge().start().unwrap().row([Cell(3), Cell(4)], [0; 2]).unwrap(), 9);
    assert_eq!(M::<str>::bridge().start().unwrap().bits(1).unwrap(), 2);
    let solver = Solver::<u32, Vec<String>>::bridge(4).start().unwrap();
    assert_eq!((solver.number().unwrap(), Solves::solve(&solver)), (4, 8));
}
