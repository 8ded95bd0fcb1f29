//! `softmax(x)_c = exp(x_c) / sum_k exp(x_k)` and its gradient.
//!
//! ```text
//! y_c   = p_c 2^{n_c - N} * (1 / S)
//! dx_c  = y_c (g_c - sum_k g_k y_k)
//! ```
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::exact::value;
use crate::float::{Acc, Double, Element};
use crate::kernels::map::{self, Exponentials, Factor, Map, Stored};
use crate::kernels::rowsum::{Group, MAX_WIDTH, dense_sums, row_sum, sum_lanes, tile_sum};
use crate::lines::{Dense, Kernel, Rows, Tile};
use crate::simd::{Simd, Task};
use std::marker::PhantomData;

/// Softmax, one result per element.
pub(crate) struct Softmax<E>(pub(crate) PhantomData<E>);

impl<E: Element> Kernel for Softmax<E> {
    type E = E;
    const INPUTS: usize = 1;
    const WRITES: bool = true;
    const PER_ROW: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, _per_row: *mut f64) {
        let mut group = Group::<E>::new(rows.n);
        for i in 0..rows.n {
            let out =
                if rows.stored.is_null() { rows.stored } else { rows.stored.wrapping_add(i * rows.len) };
            // SAFETY: the caller's promise; `stored` has room for all rows.
            group.set(i, &unsafe { row_sum::<E, S>(s, rows.x[0][i], rows.len, out, rows.ahead) });
        }
        group.finish_inverse(s);
        for i in 0..rows.n {
            if group.row(i).is_special() {
                // SAFETY: the caller's promise.
                unsafe { map::fill::<E>(rows.out[i], rows.len, E::NAN) };
                continue;
            }
            // SAFETY: the caller's promise.
            unsafe {
                write_exponentials(s, rows, &group, i, Factor::new(group.inverse_pair(i), (1.0, 0.0)), None)
            };
        }
    }

    const DENSE: bool = true;

    #[inline(always)]
    unsafe fn dense<S: Simd>(&self, s: S, dense: &Dense<E>) -> bool {
        // SAFETY: the caller's promise.
        let Some(sums) = (unsafe { dense_sums::<E, S>(s, dense) }) else {
            return false;
        };
        let size = dense.len * E::WIDTH;
        for g in 0..dense.groups {
            let (high, low) = E::inverse(s, sums[g]);
            let (e, out) = (dense.e.wrapping_add(g * size), dense.out.wrapping_add(g * size));
            for i in (0..size).step_by(E::WIDTH) {
                // SAFETY: `i + WIDTH <= size`; `row` holds lanes.
                unsafe {
                    let row = dense.row.add(i);
                    let (high, low) = (E::permute(s, high, row), E::permute(s, low, row));
                    E::store(s, map::scale::<E, S>(s, E::load(s, e.add(i)), high, low), out.add(i));
                }
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<E>, _per_row: *mut f64) -> u32 {
        // SAFETY: the caller's promise.
        let (mut group, unusual) = unsafe { tile_sum::<E, S, true>(s, tile.x[0], tile.len) };
        group.finish_inverse(s);
        // SAFETY: the caller's promise.
        unsafe { scale_tile::<E, S>(s, tile, &group.inverse_pairs()) };
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
    let e =
        if rows.stored.is_null() { rows.stored } else { rows.stored.wrapping_add(i * rows.len) }.cast_const();
    // SAFETY: the caller's promise.
    unsafe {
        if !e.is_null() && factor.is_single() {
            let map = Stored::<E> { e, factor };
            map::write_row_but(s, &map, rows.out[i], rows.len, rows.stream, own);
        } else {
            let (shift, reference) = (group.shift[i], group.reference[i]);
            let map = Exponentials::<E> { x: rows.x[0][i], e, shift, reference, factor };
            map::write_row_but(s, &map, rows.out[i], rows.len, rows.stream, own);
        }
    }
}

/// Multiplies the exponentials in a tile by factors `(high, low)`, lane by lane.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline(always)]
pub(crate) unsafe fn scale_tile<E: Element, S: Simd>(
    s: S,
    tile: &Tile<E>,
    factors: &[(f64, f64); MAX_WIDTH],
) {
    let (mut high, mut low) = ([E::ZERO; MAX_WIDTH], [E::ZERO; MAX_WIDTH]);
    for i in 0..E::WIDTH {
        high[i] = E::from_f64(factors[i].0);
        low[i] = E::from_f64((factors[i].0 - E::to_f64(high[i])) + factors[i].1);
    }
    // SAFETY: the arrays hold a vector.
    let (high, low) = unsafe { (E::load(s, high.as_ptr()), E::load(s, low.as_ptr())) };
    for c in 0..tile.len {
        let p = tile.x[0].wrapping_add(c * E::WIDTH);
        // SAFETY: `c < len`.
        unsafe { E::store(s, map::scale::<E, S>(s, E::load(s, p), high, low), p) };
    }
}

/// `y (g - sum g y)`; the operands are `(g, y)`.
pub(crate) struct SoftmaxBackward<E>(pub(crate) PhantomData<E>);

/// `sum_c a_c b_c` over a row, as a sum over logical lanes.
struct Dot<E: Element> {
    a: *const E::T,
    b: *const E::T,
    len: usize,
}

impl<E: Element> Task for Dot<E> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for i in (0..self.len).step_by(E::WIDTH) {
            let n = (self.len - i).min(E::WIDTH);
            // SAFETY: `n` elements remain.
            let (a, b) =
                unsafe { (map::load::<E, S>(s, self.a.add(i), n), map::load::<E, S>(s, self.b.add(i), n)) };
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
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let (g, y) =
            unsafe { (map::load::<E, S>(s, self.g.add(i), n), map::load::<E, S>(s, self.y.add(i), n)) };
        backward::<E, S>(s, g, y, E::splat(s, self.dot))
    }
}

impl<E: Element> Kernel for SoftmaxBackward<E> {
    type E = E;
    const INPUTS: usize = 2;
    const WRITES: bool = true;
    const PER_ROW: bool = false;

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<E>, _per_row: *mut f64) {
        for i in 0..rows.n {
            let (g, y) = (rows.x[0][i], rows.x[1][i]);
            let dot = E::from_f64(s.call(Dot::<E> { a: g, b: y, len: rows.len }));
            // SAFETY: the caller's promise.
            unsafe { map::write_row(s, &BackwardMap::<E> { g, y, dot }, rows.out[i], rows.len, rows.stream) };
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: &Tile<E>, _per_row: *mut f64) -> u32 {
        let sums = sum_lanes!(E, S, s, tile.len, |c, acc| {
            E::accumulate_product(s, acc, tile.at::<S>(s, 0, c), tile.at::<S>(s, 1, c))
        });
        let dot = values::<E, S>(s, sums).map(E::from_f64);
        // SAFETY: the array holds a vector.
        let dot = unsafe { E::load(s, dot.as_ptr()) };
        for c in 0..tile.len {
            let dx = backward::<E, S>(s, tile.at::<S>(s, 0, c), tile.at::<S>(s, 1, c), dot);
            // SAFETY: as above.
            unsafe { E::store(s, dx, tile.x[0].add(c * E::WIDTH)) };
        }
        0
    }
}

/// The values of the sums of a tile's rows.
#[inline(always)]
pub(crate) fn values<E: Element, S: Simd>(s: S, sums: Acc<S>) -> [f64; MAX_WIDTH] {
    let (mut hi, mut lo) = ([0.0; MAX_WIDTH], [0.0; MAX_WIDTH]);
    E::store_sums(s, sums, &mut hi, &mut lo);
    for (hi, &lo) in hi.iter_mut().zip(&lo) {
        *hi = value((*hi, lo));
    }
    hi
}
