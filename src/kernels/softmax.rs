//! `softmax(x)_c = exp(x_c) / sum_k exp(x_k)` and its gradient.
//!
//! ```text
//! y_c   = p_c 2^{n_c - N} * (1 / S)
//! dx_c  = y_c (g_c - sum_k g_k y_k)
//! ```
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::value;
use crate::float::{Acc, Double, Element};
use crate::kernels::logsumexp::{group_logs, put_logsumexp};
use crate::kernels::map::{self, Exponentials, Factor, Map, Stored};
use crate::kernels::rowsum::{Group, band_sums, dense_sums, group_sums, sum_lanes};
use crate::kernels::temperature::Temperature;
use crate::lines::{Band, Dense, Kernel, MAX_GROUPS, Rows};
use crate::simd::{Simd, Task, prefetch};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Softmax, one result per element; the result per row is logsumexp.
pub(crate) struct Softmax<E> {
    pub(crate) temperature: Temperature,
    pub(crate) element: PhantomData<E>,
}

impl<E: Element> Kernel for Softmax<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = true;

    #[inline(always)]
    fn reads_halves(&self) -> bool {
        self.temperature.is_one()
    }

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, group: &mut Group<E>, per_row: *mut f64) {
        let special = if per_row.is_null() {
            // SAFETY: the caller's promise.
            unsafe { group_sums(s, rows, group, &self.temperature, u64::MAX, true) };
            group.special(s)
        } else {
            // SAFETY: as above.
            unsafe {
                let special = group_logs(s, rows, group, &self.temperature, u64::MAX, true);
                put_logsumexp(s, rows, group, special, per_row);
                special
            }
        };
        group.finish_inverse(s);
        for i in 0..rows.n {
            // SAFETY: the caller's promise.
            unsafe {
                if special >> i & 1 == 1 {
                    map::fill::<E>(rows.out(i), rows.len, E::NAN);
                } else {
                    let factor = Factor::new(group.inverse_pair(i), (1.0, 0.0));
                    write_exponentials(s, rows, group, i, factor, None);
                }
            }
        }
    }

    #[inline(always)]
    fn is_dense(&self) -> bool {
        self.temperature.is_one()
    }

    #[inline(always)]
    unsafe fn dense<S: Simd>(&self, s: S, dense: &Dense<E>) -> bool {
        let mut sums = [MaybeUninit::uninit(); MAX_GROUPS];
        // SAFETY: the caller's promise.
        if !unsafe { dense_sums::<E, S>(s, dense, &mut sums) } {
            return false;
        }
        let size = dense.len * E::WIDTH;
        for g in 0..dense.groups {
            // SAFETY: `dense_sums` has written a sum for each group.
            let (high, low) = E::split(s, E::inverse(s, unsafe { sums[g].assume_init() }));
            // SAFETY: the caller's promise: a group has `len` vectors.
            unsafe {
                let (e, out) = (dense.e.add(g * size), dense.out.add(g * size));
                E::scale_rows(s, e, dense.len, [high, low], dense.row, out);
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, group: &mut Group<E>, per_row: *mut f64) -> u64 {
        // SAFETY: the caller's promise.
        let mut unusual = unsafe { band_sums::<E, S, true>(s, band, group, &self.temperature) };
        if !per_row.is_null() {
            unusual |= group.finish_log(s, band.len);
            // SAFETY: the caller's promise.
            unsafe { group.put_logsumexp(per_row) };
        }
        group.finish_inverse(s);
        for j in (0..band.n).step_by(E::WIDTH) {
            scale_tile(s, band, j, group.inverses(s, j));
        }
        unusual
    }
}

/// Writes row `i` of a group as its exponentials times the factor, with a value of its own at one place.
///
/// # Safety
/// As [`Kernel::rows`].
#[inline(always)]
pub(crate) unsafe fn write_exponentials<E: Element, S: Simd>(
    s: S,
    rows: &Rows<E>,
    group: &Group<E>,
    i: usize,
    factor: Factor<E>,
    own: Option<(usize, E::T)>,
) {
    let e = rows.stored(i).cast_const();
    // SAFETY: the caller's promise.
    unsafe {
        if !e.is_null() && factor.is_single() {
            let map = Stored::<E> { e, factor };
            map::write_row_but(s, &map, rows.out(i), rows.len, rows.stream, own);
        } else {
            let (shift, reference, heat) = (group.shift[i], group.reference[i], group.heat(i));
            let x = if e.is_null() { rows.row(s, i) } else { std::ptr::null() };
            let map = Exponentials::<E> { x, e, shift, reference, heat, factor };
            map::write_row_but(s, &map, rows.out(i), rows.len, rows.stream, own);
        }
    }
}

/// Multiplies the exponentials of rows `j..j + WIDTH` by factors, lane by lane.
#[inline(always)]
pub(crate) fn scale_tile<E: Element, S: Simd>(s: S, band: &Band<E>, j: usize, factors: Acc<S>) {
    let (high, low) = E::split(s, factors);
    for c in 0..band.len {
        band.put(s, j, c, map::scale::<E, S>(s, band.at(s, 0, j, c), high, low));
    }
}

/// `y (g - sum g y)`, divided by the temperature; the operands are `(g, y)`.
pub(crate) struct SoftmaxBackward<E> {
    pub(crate) temperature: Temperature,
    pub(crate) element: PhantomData<E>,
}

/// `sum_c a_c b_c` over a row, as a sum over logical lanes.
struct Dot<E: Element> {
    a: *const E::T,
    b: *const E::T,
    len: usize,
    /// How many elements ahead to prefetch.
    ahead: isize,
}

impl<E: Element> Task for Dot<E> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Dot { a, b, len, ahead } = self;
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        let mut i = 0;
        while i + E::WIDTH <= len {
            prefetch(a.wrapping_add(i).wrapping_offset(ahead));
            prefetch(b.wrapping_add(i).wrapping_offset(ahead));
            // SAFETY: a vector remains.
            acc = unsafe { E::accumulate_product_from(s, acc, a.add(i), b.add(i)) };
            i += E::WIDTH;
        }
        if i < len {
            // SAFETY: `len - i` elements remain.
            let (a, b) =
                unsafe { (map::load::<E, S>(s, a.add(i), len - i), map::load::<E, S>(s, b.add(i), len - i)) };
            acc = E::accumulate_product(s, acc, a, b);
        }
        value(E::reduce(s, acc))
    }
}

struct BackwardMap<E: Element> {
    g: *const E::T,
    y: *const E::T,
    dot: E::T,
}

#[inline(always)]
fn backward<E: Element, S: Simd>(s: S, g: E::V<S>, y: E::V<S>, dot: E::V<S>) -> E::V<S> {
    E::canonical(s, E::mul(s, y, E::sub(s, g, dot)))
}

impl<E: Element> Map<E> for BackwardMap<E> {
    const OVERLAPS: bool = true;
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (g, y) =
            unsafe { (map::load::<E, S>(s, self.g.add(i), n), map::load::<E, S>(s, self.y.add(i), n)) };
        backward::<E, S>(s, g, y, E::splat(s, self.dot))
    }
}

/// The same, times the reciprocal of a temperature.
struct TemperedMap<E: Element> {
    map: BackwardMap<E>,
    cooling: E::T,
}

impl<E: Element> Map<E> for TemperedMap<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        E::mul(s, unsafe { self.map.at(s, i, n) }, E::splat(s, self.cooling))
    }
}

impl<E: Element> Kernel for SoftmaxBackward<E> {
    type E = E;
    const INPUTS: usize = 2;
    const WRITES: bool = true;
    /// Two products and a sum for each element: longer rows lose more to being put side by side than to a partial vector.
    const SHORT: usize = 8;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, _group: &mut Group<E>, _per_row: *mut f64) {
        for i in 0..rows.n {
            let (g, y) = (rows.x(0, i), rows.x(1, i));
            let dot = E::from_f64(s.call(Dot::<E> { a: g, b: y, len: rows.len, ahead: rows.ahead }));
            let map = BackwardMap::<E> { g, y, dot };
            // SAFETY: the caller's promise.
            unsafe {
                if self.temperature.is_one() {
                    map::write_row(s, &map, rows.out(i), rows.len, rows.stream);
                } else {
                    let map = TemperedMap { map, cooling: self.temperature.cooling::<E>(rows.first + i) };
                    map::write_row(s, &map, rows.out(i), rows.len, rows.stream);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn band<S: Simd>(&self, s: S, band: &Band<E>, _group: &mut Group<E>, _per_row: *mut f64) -> u64 {
        for j in (0..band.n).step_by(E::WIDTH) {
            let sums = sum_lanes!(E, S, s, band.len, |c, acc| {
                E::accumulate_product(s, acc, band.at(s, 0, j, c), band.at(s, 1, j, c))
            });
            let dot = E::value(s, sums);
            for c in 0..band.len {
                let dx = backward::<E, S>(s, band.at(s, 0, j, c), band.at(s, 1, j, c), dot);
                band.put(s, j, c, dx);
            }
            self.temperature.cool_tile(s, band, j);
        }
        0
    }
}
