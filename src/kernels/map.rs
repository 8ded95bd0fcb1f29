//! Elementwise maps along a row, and the factors that they multiply by.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::exact::mul_pairs;
use crate::float::{Acc, Double, Element};
use crate::kernels::rowsum::MAX_WIDTH;
use crate::kernels::temperature::exp_tempered;
use crate::lines::AHEAD_BYTES;
use crate::math::{exp_scaled, magic};
use crate::simd::{Simd, Task, VECTOR_BYTES, prefetch};

/// A function of the index along a row.
pub(crate) trait Map<E: Element> {
    /// Whether the last, partial vector of a row is computed with elements of the one before it, and before all others:
    /// for few operations, which leave the loop its registers meanwhile.
    const OVERLAPS: bool = false;
    /// The values at `i..i + n`, `n <= WIDTH`. Asked for in any order, and for some places twice: a value depends on the
    /// operands at its place alone.
    ///
    /// # Safety
    /// The map's operands are valid for reading at `i..i + n`.
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S>;
}

/// The elements as they are.
pub(crate) struct Identity<E: Element>(pub(crate) *const E::T);

impl<E: Element> Map<E> for Identity<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { load::<E, S>(s, self.0.add(i), n) }
    }
}

/// Loads `n <= WIDTH` elements.
///
/// # Safety
/// `p` is valid for reading `n` elements.
#[inline(always)]
pub(crate) unsafe fn load<E: Element, S: Simd>(s: S, p: *const E::T, n: usize) -> E::V<S> {
    // SAFETY: the caller's promise.
    unsafe { if n == E::WIDTH { E::load(s, p) } else { E::load_first(s, p, n, E::ZERO) } }
}

/// Writes `out[i] = map(i)` for `i < len`, past the caches when `stream`.
///
/// # Safety
/// `out` is valid for writing `len` elements and the map's operands for reading as many. An operand may be
/// the very memory of `out`, but not overlap it otherwise.
#[inline(always)]
pub(crate) unsafe fn write_row<E: Element, S: Simd, M: Map<E>>(
    s: S,
    map: &M,
    out: *mut E::T,
    len: usize,
    stream: bool,
) {
    // SAFETY: the caller's promise.
    unsafe { write_row_but::<E, S, M>(s, map, out, len, stream, None) }
}

/// [`write_row`], with a value of its own at one place. (To write it there afterwards would bring the line
/// back from memory.)
///
/// # Safety
/// As [`write_row`]; the place is less than `len`.
#[inline(always)]
pub(crate) unsafe fn write_row_but<E: Element, S: Simd, M: Map<E>>(
    s: S,
    map: &M,
    out: *mut E::T,
    len: usize,
    stream: bool,
    own: Option<(usize, E::T)>,
) {
    let mut i = 0;
    if stream {
        let head = (out.addr().wrapping_neg() % VECTOR_BYTES / size_of::<E::T>()).min(len);
        if head > 0 {
            // SAFETY: `head <= len`, and less than a vector.
            unsafe { E::store_first(s, map.at(s, 0, head), out, head) };
        }
        i = head;
        let end = i + (len - i) / E::WIDTH * E::WIDTH;
        // The vector that holds the place of its own.
        let special = match own {
            Some((place, _)) if place >= i && place < end => i + (place - i) / E::WIDTH * E::WIDTH,
            _ => end,
        };
        while i < special {
            // SAFETY: in range; `out + i` is aligned.
            unsafe { E::stream(s, map.at(s, i, E::WIDTH), out.add(i)) };
            i += E::WIDTH;
        }
        if let Some((place, value)) = own
            && special < end
        {
            let mut lanes = [E::ZERO; MAX_WIDTH];
            // SAFETY: in range; `lanes` holds a vector.
            unsafe { E::store(s, map.at(s, i, E::WIDTH), lanes.as_mut_ptr()) };
            lanes[place - i] = value;
            // SAFETY: as above; `out + i` is aligned.
            unsafe { E::stream(s, E::load(s, lanes.as_ptr()), out.add(i)) };
            i += E::WIDTH;
        }
        while i < end {
            // SAFETY: in range; `out + i` is aligned.
            unsafe { E::stream(s, map.at(s, i, E::WIDTH), out.add(i)) };
            i += E::WIDTH;
        }
    } else {
        // The last vector has some elements of the one before it again. An operand may be the memory that is written, so
        // that it is computed first.
        let overlap = M::OVERLAPS && len > E::WIDTH && !len.is_multiple_of(E::WIDTH);
        // SAFETY: in range.
        let last = if overlap { Some(unsafe { map.at(s, len - E::WIDTH, E::WIDTH) }) } else { None };
        while i + E::WIDTH <= len {
            prefetch(out.wrapping_add(i).wrapping_byte_add(AHEAD_BYTES));
            // SAFETY: in range.
            unsafe { E::store(s, map.at(s, i, E::WIDTH), out.add(i)) };
            i += E::WIDTH;
        }
        if let Some(last) = last {
            // SAFETY: in range.
            unsafe { E::store(s, last, out.add(len - E::WIDTH)) };
            i = len;
        }
    }
    let streamed = i;
    if i < len {
        // SAFETY: `len - i` elements remain.
        unsafe { E::store_first(s, map.at(s, i, len - i), out.add(i), len - i) };
    }
    if let Some((place, value)) = own {
        let head = (out.addr().wrapping_neg() % VECTOR_BYTES / size_of::<E::T>()).min(len);
        if !stream || place < head || place >= streamed {
            // SAFETY: the place is in the row.
            unsafe { out.add(place).write(value) };
        }
    }
}

/// [`write_row`] as a piece of work.
pub(crate) struct Write<E: Element, M> {
    pub(crate) map: M,
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    pub(crate) stream: bool,
}

impl<E: Element, M: Map<E>> Task for Write<E, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the operands hold `len` elements.
        unsafe { write_row(s, &self.map, self.out, self.len, self.stream) };
        if self.stream {
            s.fence();
        }
    }
}

/// Bit `i` is set where lane `i` is neither 0 nor NaN.
#[inline(always)]
pub(crate) fn nonzero_bits<E: Element, S: Simd>(s: S, v: E::V<S>) -> u32 {
    let zero = E::splat(s, E::ZERO);
    E::bits(s, E::lt(s, zero, v)) | E::bits(s, E::lt(s, v, zero))
}

/// `y`, but 0 where the weight is 0, and NaN where that is.
#[inline(always)]
pub(crate) fn zero_where<E: Element, S: Simd>(s: S, weight: E::V<S>, y: E::V<S>) -> E::V<S> {
    let zero = E::splat(s, E::ZERO);
    let other = E::select(s, E::lt(s, weight, zero), y, E::sub(s, weight, weight));
    E::select(s, E::lt(s, zero, weight), y, other)
}

/// A factor as a wide number: the one given as `(high, low)`, unless there is an array of them.
///
/// # Safety
/// `factors` is null or valid for reading at `i..i + n`.
#[inline(always)]
pub(crate) unsafe fn wide_factor<E: Element, S: Simd>(
    s: S,
    factor: (f64, f64),
    factors: *const E::T,
    i: usize,
    n: usize,
) -> Acc<S> {
    if !factors.is_null() {
        // SAFETY: the caller's promise.
        return E::wide(s, unsafe { load::<E, S>(s, factors.add(i), n) });
    }
    let high = Double::splat(s, factor.0);
    if E::COMPENSATED { [high, Double::splat(s, factor.1)] } else { [high; 2] }
}

/// Fills a row with one value.
///
/// # Safety
/// `out` is valid for writing `len` elements.
#[inline(always)]
pub(crate) unsafe fn fill<E: Element>(out: *mut E::T, len: usize, value: E::T) {
    for i in 0..len {
        // SAFETY: `i < len`.
        unsafe { out.add(i).write(value) };
    }
}

/// Stored exponentials times a factor.
pub(crate) struct Stored<E: Element> {
    pub(crate) e: *const E::T,
    pub(crate) factor: Factor<E>,
}

impl<E: Element> Map<E> for Stored<E> {
    const OVERLAPS: bool = true;
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let e = unsafe { load::<E, S>(s, self.e.add(i), n) };
        scale::<E, S>(s, e, E::splat(s, self.factor.high), E::splat(s, self.factor.low))
    }
}

/// `e (high + low)`: the factor's own rounding would be a third of the error.
#[inline(always)]
pub(crate) fn scale<E: Element, S: Simd>(s: S, e: E::V<S>, high: E::V<S>, low: E::V<S>) -> E::V<S> {
    E::fma(s, e, high, E::mul(s, e, low))
}

/// Exponentials, stored or computed again, times a factor that may be anything.
pub(crate) struct Exponentials<E: Element> {
    /// The logits, where they are needed.
    pub(crate) x: *const E::T,
    /// Their stored exponentials, or null.
    pub(crate) e: *const E::T,
    pub(crate) shift: E::T,
    pub(crate) reference: E::T,
    /// The reciprocal of the temperature, unless that is 1.
    pub(crate) heat: Option<[E::T; 2]>,
    pub(crate) factor: Factor<E>,
}

impl<E: Element> Exponentials<E> {
    /// The exponentials at `i..i + n`.
    ///
    /// # Safety
    /// As [`Map::at`].
    #[inline(always)]
    pub(crate) unsafe fn exponentials<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        if self.e.is_null() {
            // SAFETY: the caller's promise.
            let x = unsafe { load::<E, S>(s, self.x.add(i), n) };
            let magic = magic::<E, S>(s, E::splat(s, self.reference));
            let x = E::sub(s, x, E::splat(s, self.shift));
            match self.heat {
                None => exp_scaled::<E, S>(s, x, magic),
                Some([high, low]) => exp_tempered::<E, S>(s, x, [E::splat(s, high), E::splat(s, low)], magic),
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { load::<E, S>(s, self.e.add(i), n) }
        }
    }
}

impl<E: Element> Map<E> for Exponentials<E> {
    #[inline(always)]
    unsafe fn at<S: Simd>(&self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        let e = unsafe { self.exponentials(s, i, n) };
        let y = scale::<E, S>(s, e, E::splat(s, self.factor.high), E::splat(s, self.factor.low));
        E::canonical(s, E::mul(s, y, E::splat(s, self.factor.second)))
    }
}

/// The product of two numbers as `(high, low)`; the low part where the element type needs it.
#[inline(always)]
pub(crate) fn product_of<E: Element>(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    if E::COMPENSATED { mul_pairs(a, b) } else { (a.0 * b.0, 0.0) }
}

/// Bit `i` is set where a factor of stored exponentials must not be applied as one number: [`Factor::is_single`].
#[inline(always)]
pub(crate) fn out_of_range<E: Element, S: Simd>(s: S, factor: Acc<S>) -> u32 {
    let (low, high) = E::FACTOR_RANGE;
    let mut inside = 0;
    for i in 0..E::WIDTH / 8 {
        let magnitude = Double::max(s, factor[i], Double::sub(s, Double::splat(s, 0.0), factor[i]));
        let above = Double::bits(s, Double::lt(s, Double::splat(s, low), magnitude));
        let below = Double::bits(s, Double::lt(s, magnitude, Double::splat(s, high)));
        inside |= (above & below) << (8 * i);
    }
    !inside & ((1 << E::WIDTH) - 1)
}

/// A factor of stored exponentials: `(high + low) * second`. The second one is almost always 1.
#[derive(Clone, Copy)]
pub(crate) struct Factor<E: Element> {
    pub(crate) high: E::T,
    pub(crate) low: E::T,
    pub(crate) second: E::T,
}

impl<E: Element> Factor<E> {
    /// `inverse * scale`; one factor where the element type holds it to full precision. `inverse` is a
    /// reciprocal sum, far from the ends of the range.
    #[inline(always)]
    pub(crate) fn new(inverse: (f64, f64), scale: (f64, f64)) -> Self {
        let product = inverse.0 * scale.0;
        let (low, high) = E::FACTOR_RANGE;
        if product.abs() > low && product.abs() < high {
            Factor::split(product_of::<E>(inverse, scale), E::ONE)
        } else {
            // A finite factor beyond the element type stays finite: zero times it is zero.
            let largest = E::to_f64(E::MAX);
            let scale = if scale.0.is_finite() { scale.0.clamp(-largest, largest) } else { scale.0 };
            Factor::split(inverse, E::from_f64(scale))
        }
    }

    #[inline(always)]
    fn split(factor: (f64, f64), second: E::T) -> Self {
        let high = E::from_f64(factor.0);
        Factor { high, low: E::from_f64((factor.0 - E::to_f64(high)) + factor.1), second }
    }

    #[inline(always)]
    pub(crate) fn is_single(&self) -> bool {
        self.second == E::ONE
    }
}

/// The factor of every row's gradient: the incoming gradient times the reduction's weight.
#[derive(Clone, Copy)]
pub(crate) enum Scale<T> {
    /// One for all rows, as `(high, low)`.
    All((f64, f64)),
    /// One per row.
    Rows(crate::shape::View<T>, usize),
}

impl<T: crate::float::Float> Scale<T> {
    /// The factor of a row.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> (f64, f64) {
        match self {
            Scale::All(scale) => *scale,
            // SAFETY: the view has an element for every row.
            Scale::Rows(view, inner) => (T::Ops::to_f64(unsafe { view.row(row, *inner).read() }), 0.0),
        }
    }
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T: crate::float::Float> Sync for Scale<T> {}
