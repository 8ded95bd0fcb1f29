//! The sum of weights over a flat array.
#![expect(unsafe_code, reason = "vector loads take pointers")]

use crate::float::{Acc, Double, Element};
use crate::kernels::map;
use crate::lines::AHEAD_BYTES;
use crate::simd::{Simd, Task, prefetch};

/// The sum over a chunk, as `(high, low)`.
pub(crate) struct Total<E: Element> {
    pub(crate) x: *const E::T,
    pub(crate) len: usize,
}

impl<E: Element> Task for Total<E> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            prefetch(self.x.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES));
            // SAFETY: `n` elements remain.
            acc = E::accumulate(s, acc, unsafe { map::load::<E, S>(s, self.x.add(i), n) });
        }
        E::reduce(s, acc)
    }
}
