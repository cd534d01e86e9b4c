//! The heap, as a world leaves it.

/// How to count what a thread allocates and frees. The program brings it: a library that replaced the
/// allocator would do so in every program that links it.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Calls it, and says how many bytes it allocated and did not free on this thread.
    pub measure: fn(&mut dyn FnMut()) -> i64,
    /// Calls it within `measure`, without counting.
    pub apart: fn(&mut dyn FnMut()),
}

impl Heap {
    /// What `make` makes, and how many bytes it left on the heap beside that.
    pub fn run<T: Clone + Default>(self, mut make: impl FnMut() -> T) -> (T, i64) {
        let mut made = T::default();
        let bytes = (self.measure)(&mut || {
            let counted = make();
            (self.apart)(&mut || made = counted.clone());
        });
        (made, bytes)
    }
}
