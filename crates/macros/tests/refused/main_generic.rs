//! Nobody would choose the type.
#[callgate::main]
unsafe fn main<T>()
where
    T: Default,
{
}
