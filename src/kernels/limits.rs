//! The bare loops that the operations are measured against: read, copy, one exponential.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::float::Element;
use crate::kernels::map;
use crate::lines::AHEAD_BYTES;
use crate::math::{exp_begin, exp_end, exp_scaled};
use crate::simd::{Simd, Task, prefetch};

/// Adds up `len` elements in four vectors.
pub(crate) struct Read<E: Element> {
    pub(crate) x: *const E::T,
    pub(crate) len: usize,
}

/// Adds up the exponentials of `len` elements of moderate size, but for less than four vectors at the end.
pub(crate) struct ExpSum<E: Element> {
    pub(crate) x: *const E::T,
    pub(crate) len: usize,
}

/// Copies `len` elements.
pub(crate) struct Copy<E: Element> {
    pub(crate) x: *const E::T,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    pub(crate) stream: bool,
}

/// Sums `$term` of each vector `$v` of whole groups of four.
macro_rules! sum {
    ($E:ty, $s:expr, $self:expr, $v:ident => $term:expr) => {{
        let mut sums = [<$E>::splat($s, <$E>::ZERO); 4];
        let step = 4 * <$E>::WIDTH;
        for i in (0..$self.len / step * step).step_by(step) {
            for (j, sum) in sums.iter_mut().enumerate() {
                prefetch($self.x.wrapping_add(i + j * <$E>::WIDTH).wrapping_byte_add(AHEAD_BYTES));
                // SAFETY: a whole group of four remains.
                let $v = unsafe { <$E>::load($s, $self.x.add(i + j * <$E>::WIDTH)) };
                *sum = <$E>::add($s, *sum, $term);
            }
        }
        <$E>::add($s, <$E>::add($s, sums[0], sums[1]), <$E>::add($s, sums[2], sums[3]))
    }};
}

/// The sum of the lanes.
#[inline(always)]
fn lanes<E: Element, S: Simd>(s: S, sum: E::V<S>) -> f64 {
    let mut lanes = [E::ZERO; crate::kernels::rowsum::MAX_WIDTH];
    // SAFETY: the array holds a vector.
    unsafe { E::store(s, sum, lanes.as_mut_ptr()) };
    lanes[..E::WIDTH].iter().map(|&lane| E::to_f64(lane)).sum()
}

/// The sum of the exponentials of `n > 0` elements, whole pairs of vectors, with two under way at any time.
///
/// # Safety
/// `x` is valid for reading `n` elements.
#[inline(always)]
unsafe fn overlapped<E: Element, S: Simd>(s: S, x: *const E::T, n: usize, ahead: isize) -> E::V<S> {
    let mut sums = [E::splat(s, E::ZERO); 2];
    macro_rules! begin {
        ($i:expr) => {{
            prefetch(x.wrapping_add($i).wrapping_offset(ahead));
            // SAFETY: a vector remains.
            exp_begin::<E, S>(s, unsafe { E::load(s, x.add($i)) }, None, E::splat(s, E::MAGIC))
        }};
    }
    let mut begun = [begin!(0), begin!(E::WIDTH)];
    for i in (2 * E::WIDTH..n).step_by(2 * E::WIDTH) {
        let first = begin!(i);
        sums[0] = E::add(s, sums[0], exp_end::<E, S>(s, begun[0]));
        let second = begin!(i + E::WIDTH);
        sums[1] = E::add(s, sums[1], exp_end::<E, S>(s, begun[1]));
        begun = [first, second];
    }
    for i in 0..2 {
        sums[i] = E::add(s, sums[i], exp_end::<E, S>(s, begun[i]));
    }
    E::add(s, sums[0], sums[1])
}

impl<E: Element> Task for Read<E> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        lanes::<E, S>(s, sum!(E, s, self, v => v))
    }
}

impl<E: Element> Task for ExpSum<E> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let pairs = self.len / (2 * E::WIDTH) * (2 * E::WIDTH);
        let ahead = (AHEAD_BYTES / size_of::<E::T>()) as isize;
        // SAFETY: there are `len` elements; `pairs` of them are whole pairs of vectors.
        let sum = match unsafe { E::bare_exp_sum(s, self.x, pairs, E::MAGIC, ahead) } {
            Some(sum) => sum,
            // SAFETY: as above.
            None if S::OVERLAPS && pairs > 0 => unsafe { overlapped::<E, S>(s, self.x, pairs, ahead) },
            None => sum!(E, s, self, v => exp_scaled::<E, S>(s, v, E::splat(s, E::MAGIC))),
        };
        lanes::<E, S>(s, sum)
    }
}

impl<E: Element> Task for Copy<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: both hold `len` elements and do not overlap.
        unsafe { map::write_row(s, &map::Identity::<E>(self.x), self.out, self.len, self.stream) };
        if self.stream {
            s.fence();
        }
    }
}
