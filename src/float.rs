//! The element types, `f32` and `f64`, with the constants of the numerical method for each.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::exact::add_pairs;
use crate::simd::{Lanes, Simd};
use std::fmt::{Debug, Display};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// An element type: `f32` or `f64`.
pub trait Float:
    sealed::Sealed + Copy + PartialOrd + Default + Debug + Display + Send + Sync + 'static
{
    #[doc(hidden)]
    type Ops: Element<T = Self>;
}

impl Float for f32 {
    type Ops = Single;
}
impl Float for f64 {
    type Ops = Double;
}

/// The vectors and constants of `f32`.
#[derive(Clone, Copy)]
pub struct Single;

/// The vectors and constants of `f64`.
#[derive(Clone, Copy)]
pub struct Double;

/// A pair of `f64` vectors that sums vectors of elements: for `f32` the 16 lanes; for `f64` the high and
/// the low part of the 8 lanes.
pub(crate) type Acc<S> = [V64<S>; 2];

/// 8 lanes of `f64`.
pub(crate) type V64<S> = <S as Lanes<f64>>::V;

/// What the kernels need of an element type. Implemented on a marker and not on the type itself, so that
/// it stays out of the public trait.
#[allow(missing_docs, clippy::missing_safety_doc, reason = "each method is the one of `Lanes` with its name")]
pub trait Element: Copy + Send + Sync + 'static {
    type T: Float<Ops = Self>;
    /// Lanes of a vector; also the number of logical lanes over which a row's sum is spread.
    const WIDTH: usize;
    /// Elements between two looks at the row's exponent reference.
    const BLOCK: usize;
    const NEG_INF: Self::T;
    /// The positive quiet NaN.
    const NAN: Self::T;
    /// The largest finite number.
    const MAX: Self::T;
    const ZERO: Self::T;
    const ONE: Self::T;
    /// `MAGIC + k` has the biased exponent of `2^k` in its low bits (see [`Lanes::scale_by`]).
    const MAGIC: Self::T;
    /// `MAGIC + CUT`.
    const MAGIC_CUT: Self::T;
    const LOG2E: Self::T;
    const LN2_HI: Self::T;
    const LN2_LO: Self::T;
    /// Coefficients of the exponential's polynomial from the highest degree down to degree 2.
    const EXP: &'static [Self::T];
    /// Whether sums have a low part.
    const COMPENSATED: bool;
    /// Whether the exponential's linear term is free of the reduction's rounding.
    const EXACT_LINEAR: bool;
    /// Terms are stored times `2^OFFSET`, so that results down to the smallest subnormal come from normal ones.
    const OFFSET: Self::T;
    /// How far, in powers of two, a row may rise above its first block before it is summed again.
    const SLACK: Self::T;
    /// The smallest stored power of two; what is below counts as zero.
    const CUT: Self::T;
    /// A row whose maximum exceeds this in magnitude is shifted by its maximum first.
    const MAX_LIMIT: Self::T;
    /// `2^-OFFSET`.
    const OFFSET_POWER: f64;
    /// Factors from this magnitude on are divided by `2^OFFSET` without loss.
    const OFFSET_FROM: f64;
    /// Magnitudes that a factor of stored exponentials may have without loss.
    const FACTOR_RANGE: (f64, f64);
    /// Bound of the half-power in [`crate::math::exp_wide`].
    const WIDE: Self::T;
    /// How far below the largest logit the smallest may lie for nothing to be cut off.
    const REACH: Self::T;
    /// Vectors of numbers of one sign that may be added as they are before a sum takes them: each doubling is one more
    /// rounding error, of which all can have one direction.
    const TOGETHER: usize;
    /// `others < threshold * sum` makes a row dominated: its other terms are then summed by themselves.
    fn dominated(len: usize) -> f64;

    type V<S: Simd>: Copy;
    type M<S: Simd>: Copy;

    /// Whether 16-bit numbers are computed as these elements.
    const HALVES: bool;

    fn to_f64(x: Self::T) -> f64;
    fn from_f64(x: f64) -> Self::T;
    fn splat<S: Simd>(s: S, x: Self::T) -> Self::V<S>;
    /// `WIDTH` 16-bit numbers, bfloat16 if `BF16`, else binary16; for elements with `HALVES`.
    unsafe fn load_halves<S: Simd, const BF16: bool>(s: S, p: *const u16) -> Self::V<S>;
    unsafe fn load<S: Simd>(s: S, p: *const Self::T) -> Self::V<S>;
    unsafe fn load_first<S: Simd>(s: S, p: *const Self::T, n: usize, fill: Self::T) -> Self::V<S>;
    unsafe fn store<S: Simd>(s: S, v: Self::V<S>, p: *mut Self::T);
    unsafe fn store_first<S: Simd>(s: S, v: Self::V<S>, p: *mut Self::T, n: usize);
    unsafe fn stream<S: Simd>(s: S, v: Self::V<S>, p: *mut Self::T);
    fn add<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn sub<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn mul<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn div<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn fma<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    fn max<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn min<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn round<S: Simd>(s: S, a: Self::V<S>) -> Self::V<S>;
    fn scale<S: Simd>(s: S, p: Self::V<S>, k: Self::V<S>) -> Self::V<S>;
    fn scale_by<S: Simd>(s: S, p: Self::V<S>, t: Self::V<S>, cut: Self::V<S>) -> Self::V<S>;
    fn scale_one_plus_by<S: Simd>(s: S, w: Self::V<S>, t: Self::V<S>, cut: Self::V<S>) -> Self::V<S>;
    fn lt<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::M<S>;
    fn select<S: Simd>(s: S, m: Self::M<S>, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    fn replace_nan<S: Simd>(s: S, v: Self::V<S>, other: Self::V<S>) -> Self::V<S>;
    unsafe fn load_mask<S: Simd>(s: S, p: *const u8) -> Self::M<S>;
    fn bits<S: Simd>(s: S, m: Self::M<S>) -> u32;
    fn transpose<S: Simd>(s: S, rows: &mut [Self::V<S>]);
    unsafe fn permute2<S: Simd>(s: S, a: Self::V<S>, words: *const u32, b: Self::V<S>) -> Self::V<S>;
    fn permuted<S: Simd>() -> usize;
    unsafe fn rows_to_columns<S: Simd>(
        s: S,
        rows: *const Self::T,
        step: isize,
        len: usize,
        readable: usize,
        tile: *mut Self::T,
    ) -> bool;
    unsafe fn columns_to_rows<S: Simd>(
        s: S,
        tile: *const Self::T,
        rows: *mut Self::T,
        step: isize,
        len: usize,
        follow: bool,
    ) -> bool;
    unsafe fn exponentials<S: Simd, const KEPT: bool>(
        s: S,
        x: *const Self::T,
        n: usize,
        magic: Self::V<S>,
        out: *mut Self::T,
    ) -> bool;
    unsafe fn bare_exp_sum<S: Simd>(
        s: S,
        x: *const Self::T,
        n: usize,
        magic: Self::T,
        ahead: isize,
    ) -> Option<Self::V<S>>;
    unsafe fn scale_rows<S: Simd>(
        s: S,
        e: *const Self::T,
        len: usize,
        factor: [Self::V<S>; 2],
        row: *const u32,
        out: *mut Self::T,
    );

    /// Bit `i` is set where lane `i` is NaN.
    #[inline(always)]
    fn nan_bits<S: Simd>(s: S, v: Self::V<S>) -> u32 {
        let below = Self::bits(s, Self::lt(s, v, Self::splat(s, Self::ONE)));
        let above = Self::bits(s, Self::lt(s, Self::splat(s, Self::ZERO), v));
        !(below | above) & ((1 << Self::WIDTH) - 1)
    }

    /// The same vector with every NaN replaced by the canonical one.
    #[inline(always)]
    fn canonical<S: Simd>(s: S, v: Self::V<S>) -> Self::V<S> {
        Self::replace_nan(s, v, Self::splat(s, Self::NAN))
    }

    /// `acc + t (max - x)`, with nothing added where `t` is zero; `max` is finite.
    fn accumulate_weighted<S: Simd>(
        s: S,
        acc: Acc<S>,
        t: Self::V<S>,
        max: Self::V<S>,
        x: Self::V<S>,
    ) -> Acc<S>;
    /// `acc + t (max - x)` and `acc + t` of the vectors at `t` and `x`, where 0 times infinity is NaN.
    unsafe fn accumulate_weighted_from<S: Simd>(
        s: S,
        accs: [Acc<S>; 2],
        t: *const Self::T,
        max: Self::V<S>,
        x: *const Self::T,
    ) -> [Acc<S>; 2];
    /// `acc + (factor (a - b))^2`; `f32`, which has no need of a factor, takes 1.
    fn accumulate_square<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>, factor: f64) -> Acc<S>;
    /// `2 (a - b) factor`, rounded once for `f32`.
    fn square_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, factor: f64) -> Self::V<S>;
    /// [`Element::accumulate_square`] of the vectors at `p` and `q`, with a factor of 1.
    unsafe fn accumulate_square_from<S: Simd>(
        s: S,
        acc: Acc<S>,
        p: *const Self::T,
        q: *const Self::T,
    ) -> Acc<S>;
    /// The same, and [`Element::square_gradient`].
    unsafe fn square_and_gradient_from<S: Simd>(
        s: S,
        acc: Acc<S>,
        p: *const Self::T,
        q: *const Self::T,
        factor: f64,
    ) -> (Acc<S>, Self::V<S>);
    /// `2 (a - b) w`, rounded once for `f32`.
    #[cfg(feature = "python")]
    fn weighted_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, w: Self::V<S>) -> Self::V<S>;
    /// `(a - b)^2`, rounded once for `f32`.
    fn squared_difference<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `acc + v`.
    fn accumulate<S: Simd>(s: S, acc: Acc<S>, v: Self::V<S>) -> Acc<S>;
    /// [`Simd::exp_sum`] or [`Simd::exp_sum_compensated`].
    unsafe fn exp_sum<S: Simd>(
        s: S,
        x: *const Self::T,
        n: usize,
        magic: Self::T,
        out: *mut Self::T,
        ahead: isize,
    ) -> Option<Acc<S>>;
    /// The vector at `p` as an accumulator.
    unsafe fn widened_from<S: Simd>(s: S, p: *const Self::T) -> Acc<S>;
    /// `acc + v` for the vector at `p`.
    unsafe fn accumulate_from<S: Simd>(s: S, acc: Acc<S>, p: *const Self::T) -> Acc<S>;
    /// `acc + a * b`; the product of two `f32` is exact.
    fn accumulate_product<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>) -> Acc<S>;
    /// [`Element::accumulate_product`] of the vectors at `p` and `q`.
    unsafe fn accumulate_product_from<S: Simd>(
        s: S,
        acc: Acc<S>,
        p: *const Self::T,
        q: *const Self::T,
    ) -> Acc<S>;
    /// The sum of two accumulators, lane by lane.
    fn merge<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S>;
    /// The sum over the logical lanes as `(high, low)`: lane `l` and lane `l + WIDTH/2`, then halves of
    /// that, down to one: the same tree as [`crate::kernels::rowsum`] builds with [`Element::merge`] when lanes are rows.
    fn reduce<S: Simd>(s: S, acc: Acc<S>) -> (f64, f64);
    /// [`Element::reduce`] for `WIDTH` rows of `len >= 1` elements that follow one another: an accumulator whose
    /// lanes are rows. Up to `WIDTH - 1` elements behind the last row are read too, but not used.
    unsafe fn reduce_rows<S: Simd>(s: S, p: *const Self::T, len: usize) -> Acc<S>;
    /// [`Element::reduce`] for `WIDTH` accumulators: one whose lanes are theirs.
    fn reduce_all<S: Simd>(s: S, accs: &[Acc<S>]) -> Acc<S>;
    /// The lanes of a vector as wide numbers.
    fn wide<S: Simd>(s: S, v: Self::V<S>) -> Acc<S>;
    /// Sums rounded to the element type; the low part of an overflowed one is no number.
    fn value<S: Simd>(s: S, sums: Acc<S>) -> Self::V<S>;
    /// Wide numbers rounded to the element type; `f64` drops the low part.
    fn narrow<S: Simd>(s: S, wide: Acc<S>) -> Self::V<S>;
    /// Wide numbers as `(high, low)`.
    fn split<S: Simd>(s: S, wide: Acc<S>) -> (Self::V<S>, Self::V<S>);
    /// `1 / sum` to about 45 bits (`f32`), or 100.
    fn inverse<S: Simd>(s: S, sums: Acc<S>) -> Acc<S>;
    /// The product of wide numbers.
    fn product<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S>;
    /// `sum - term`, exact but for the last rounding.
    fn without<S: Simd>(s: S, sums: Acc<S>, term: Self::V<S>) -> Acc<S>;
    /// Bit `i` is set where `a < factor b`; low parts are passed over.
    fn below<S: Simd>(s: S, a: Acc<S>, b: Acc<S>, factor: f64) -> u32;
    /// Reads `WIDTH` wide numbers, high and low parts apart (`f32` has none), from element `j` on.
    fn load_wide<S: Simd>(s: S, high: &[f64], low: &[f64], j: usize) -> Acc<S>;
    /// The reverse of [`Element::load_wide`].
    fn store_wide<S: Simd>(s: S, wide: Acc<S>, high: &mut [f64], low: &mut [f64], j: usize);
}

/// [`two_sum`](crate::exact::two_sum) on vectors.
#[inline(always)]
pub(crate) fn two_sum_v<S: Simd>(s: S, a: V64<S>, b: V64<S>) -> (V64<S>, V64<S>) {
    let sum = Double::add(s, a, b);
    let t = Double::sub(s, sum, a);
    let e = Double::add(s, Double::sub(s, a, Double::sub(s, sum, t)), Double::sub(s, b, t));
    (sum, e)
}

/// [`mul_pairs`](crate::exact::mul_pairs) on vectors. The low part is no number where the product overflows.
#[inline(always)]
pub(crate) fn mul_pairs_v<S: Simd>(s: S, a: [V64<S>; 2], b: [V64<S>; 2]) -> [V64<S>; 2] {
    let p = Double::mul(s, a[0], b[0]);
    let e = Double::fma(s, a[0], b[0], Double::sub(s, Double::splat(s, 0.0), p));
    [p, Double::fma(s, a[0], b[1], Double::fma(s, a[1], b[0], e))]
}

/// `1 / v` for `f64` numbers in the range of `f32`, to about 45 bits: a division in `f32` and a step of Newton's method.
#[inline(always)]
pub(crate) fn reciprocal<S: Simd>(s: S, v: Acc<S>) -> Acc<S> {
    let mut q = s.widen(Lanes::<f32>::div(s, s.splat(1.0f32), s.narrow(v)));
    for i in 0..2 {
        let minus = Double::sub(s, Double::splat(s, 0.0), v[i]);
        q[i] = Double::fma(s, q[i], Double::fma(s, minus, q[i], Double::splat(s, 1.0)), q[i]);
    }
    q
}

/// The sums of 8 vectors, each over its own lanes, as lanes of one: the tree of [`Element::reduce`].
#[inline(always)]
fn sum8<S: Simd>(s: S, mut v: [V64<S>; 8]) -> V64<S> {
    Double::transpose(s, &mut v);
    for half in [4, 2, 1] {
        for i in 0..half {
            v[i] = Double::add(s, v[i], v[i + half]);
        }
    }
    v[0]
}

/// Reads 8 numbers from element `j` on.
#[inline(always)]
pub(crate) fn load64<S: Simd>(s: S, a: &[f64], j: usize) -> V64<S> {
    let lanes: &[f64] = &a[j..j + 8];
    // SAFETY: 8 elements.
    unsafe { Double::load(s, lanes.as_ptr()) }
}

/// Writes 8 numbers from element `j` on.
#[inline(always)]
pub(crate) fn store64<S: Simd>(s: S, v: V64<S>, a: &mut [f64], j: usize) {
    let lanes: &mut [f64] = &mut a[j..j + 8];
    // SAFETY: 8 elements.
    unsafe { Double::store(s, v, lanes.as_mut_ptr()) }
}

/// `v`, and `other` where `v` is zero or no number.
#[inline(always)]
pub(crate) fn or_v<S: Simd>(s: S, v: V64<S>, other: V64<S>) -> V64<S> {
    let zero = Double::splat(s, 0.0);
    let positive = Double::select(s, Double::lt(s, zero, v), v, other);
    Double::select(s, Double::lt(s, v, zero), v, positive)
}

/// `a - b` of widened `f32`.
#[inline(always)]
fn differences<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S> {
    [Double::sub(s, a[0], b[0]), Double::sub(s, a[1], b[1])]
}

/// `acc + d^2`, lane by lane.
#[inline(always)]
fn add_squares<S: Simd>(s: S, acc: Acc<S>, d: Acc<S>) -> Acc<S> {
    [Double::add(s, acc[0], Double::mul(s, d[0], d[0])), Double::add(s, acc[1], Double::mul(s, d[1], d[1]))]
}

/// `2 d factor` as `f32`, for differences `d` of `f32`.
#[inline(always)]
fn twice_times<S: Simd>(s: S, d: Acc<S>, factor: f64) -> <Single as Element>::V<S> {
    // Where twice the factor is beyond `f64`, its product with any `d` but zero is as far beyond `f32`.
    let twice = if factor.is_finite() { (2.0 * factor).clamp(-f64::MAX, f64::MAX) } else { factor };
    let twice = Double::splat(s, twice);
    s.narrow([Double::mul(s, d[0], twice), Double::mul(s, d[1], twice)])
}

/// `2 (a - b) w`, from halves where `2 (a - b)` overflows.
#[inline(always)]
fn double_gradient<S: Simd>(s: S, a: V64<S>, b: V64<S>, w: V64<S>) -> V64<S> {
    let (infinity, minus) = (Double::splat(s, f64::INFINITY), Double::splat(s, f64::NEG_INFINITY));
    let d = Double::sub(s, a, b);
    let twice = Double::add(s, d, d);
    let y = Double::mul(s, twice, w);
    let (below, above) = (Double::lt(s, twice, infinity), Double::lt(s, minus, twice));
    if Double::bits(s, below) & Double::bits(s, above) == 0xff {
        return y;
    }
    let half = Double::splat(s, 0.5);
    let z = Double::mul(s, Double::sub(s, Double::mul(s, a, half), Double::mul(s, b, half)), w);
    let z = Double::add(s, z, z);
    let z = Double::add(s, z, z);
    Double::select(s, below, Double::select(s, above, y, z), z)
}

/// `x`, but `max` where `t` is zero, so that `max - x` is zero there. A NaN `t` is left to the product.
#[inline(always)]
pub(crate) fn skip_zero<E: Element, S: Simd>(s: S, t: E::V<S>, max: E::V<S>, x: E::V<S>) -> E::V<S> {
    let zero = E::splat(s, E::ZERO);
    E::select(s, E::lt(s, zero, t), x, E::select(s, E::lt(s, t, zero), x, max))
}

macro_rules! forward {
    ($t:ty) => {
        type V<S: Simd> = <S as Lanes<$t>>::V;
        type M<S: Simd> = <S as Lanes<$t>>::M;

        #[inline(always)]
        fn splat<S: Simd>(s: S, x: $t) -> Self::V<S> {
            s.splat(x)
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const $t) -> Self::V<S> {
            // SAFETY: the caller's promise.
            unsafe { s.load(p) }
        }
        #[inline(always)]
        unsafe fn load_first<S: Simd>(s: S, p: *const $t, n: usize, fill: $t) -> Self::V<S> {
            // SAFETY: the caller's promise.
            unsafe { s.load_first(p, n, fill) }
        }
        #[inline(always)]
        unsafe fn store<S: Simd>(s: S, v: Self::V<S>, p: *mut $t) {
            // SAFETY: the caller's promise.
            unsafe { s.store(v, p) }
        }
        #[inline(always)]
        unsafe fn store_first<S: Simd>(s: S, v: Self::V<S>, p: *mut $t, n: usize) {
            // SAFETY: the caller's promise.
            unsafe { s.store_first(v, p, n) }
        }
        #[inline(always)]
        unsafe fn stream<S: Simd>(s: S, v: Self::V<S>, p: *mut $t) {
            // SAFETY: the caller's promise.
            unsafe { s.stream(v, p) }
        }
        #[inline(always)]
        fn add<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::add(s, a, b)
        }
        #[inline(always)]
        fn sub<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::sub(s, a, b)
        }
        #[inline(always)]
        fn mul<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::mul(s, a, b)
        }
        #[inline(always)]
        fn div<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::div(s, a, b)
        }
        #[inline(always)]
        fn fma<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::fma(s, a, b, c)
        }
        #[inline(always)]
        fn max<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::max(s, a, b)
        }
        #[inline(always)]
        fn min<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::min(s, a, b)
        }
        #[inline(always)]
        fn round<S: Simd>(s: S, a: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::round(s, a)
        }
        #[inline(always)]
        fn scale<S: Simd>(s: S, p: Self::V<S>, k: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::scale(s, p, k)
        }
        #[inline(always)]
        fn scale_by<S: Simd>(s: S, p: Self::V<S>, t: Self::V<S>, cut: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::scale_by(s, p, t, cut)
        }
        #[inline(always)]
        fn scale_one_plus_by<S: Simd>(s: S, w: Self::V<S>, t: Self::V<S>, cut: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::scale_one_plus_by(s, w, t, cut)
        }
        #[inline(always)]
        fn lt<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::M<S> {
            Lanes::<$t>::lt(s, a, b)
        }
        #[inline(always)]
        fn select<S: Simd>(s: S, m: Self::M<S>, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::select(s, m, a, b)
        }
        #[inline(always)]
        fn replace_nan<S: Simd>(s: S, v: Self::V<S>, other: Self::V<S>) -> Self::V<S> {
            Lanes::<$t>::replace_nan(s, v, other)
        }
        #[inline(always)]
        unsafe fn load_mask<S: Simd>(s: S, p: *const u8) -> Self::M<S> {
            // SAFETY: the caller's promise.
            unsafe { Lanes::<$t>::load_mask(s, p) }
        }
        #[inline(always)]
        fn bits<S: Simd>(s: S, m: Self::M<S>) -> u32 {
            Lanes::<$t>::bits(s, m)
        }
        #[inline(always)]
        fn transpose<S: Simd>(s: S, rows: &mut [Self::V<S>]) {
            Lanes::<$t>::transpose(s, rows);
        }
        #[inline(always)]
        unsafe fn permute2<S: Simd>(s: S, a: Self::V<S>, words: *const u32, b: Self::V<S>) -> Self::V<S> {
            // SAFETY: the caller's promise.
            unsafe { Lanes::<$t>::permute2(s, a, words, b) }
        }
        #[inline(always)]
        fn permuted<S: Simd>() -> usize {
            <S as Lanes<$t>>::PERMUTED
        }
        #[inline(always)]
        unsafe fn rows_to_columns<S: Simd>(
            s: S,
            rows: *const $t,
            step: isize,
            len: usize,
            readable: usize,
            tile: *mut $t,
        ) -> bool {
            // SAFETY: the caller's promise.
            unsafe { s.rows_to_columns(rows, step, len, readable, tile) }
        }
        #[inline(always)]
        unsafe fn columns_to_rows<S: Simd>(
            s: S,
            tile: *const $t,
            rows: *mut $t,
            step: isize,
            len: usize,
            follow: bool,
        ) -> bool {
            // SAFETY: the caller's promise.
            unsafe { s.columns_to_rows(tile, rows, step, len, follow) }
        }
        #[inline(always)]
        unsafe fn exponentials<S: Simd, const KEPT: bool>(
            s: S,
            x: *const $t,
            n: usize,
            magic: Self::V<S>,
            out: *mut $t,
        ) -> bool {
            // SAFETY: the caller's promise.
            unsafe { Lanes::<$t>::exponentials::<KEPT>(s, x, n, magic, out) }
        }
        #[inline(always)]
        unsafe fn bare_exp_sum<S: Simd>(
            s: S,
            x: *const $t,
            n: usize,
            magic: $t,
            ahead: isize,
        ) -> Option<Self::V<S>> {
            // SAFETY: the caller's promise.
            unsafe { Lanes::<$t>::bare_exp_sum(s, x, n, magic, ahead) }
        }
        #[inline(always)]
        unsafe fn scale_rows<S: Simd>(
            s: S,
            e: *const $t,
            len: usize,
            factor: [Self::V<S>; 2],
            row: *const u32,
            out: *mut $t,
        ) {
            // SAFETY: the caller's promise.
            unsafe { Lanes::<$t>::scale_rows(s, e, len, factor, row, out) }
        }
    };
}

/// What lies within [`Element::REACH`] of the largest logit is not cut off: half a power of two each for the rounding of
/// the reference and of the term, and a hundredth for that of products.
const _: () = {
    assert!(Single::REACH * Single::LOG2E + 1.01 - Single::OFFSET <= -Single::CUT);
    assert!(Double::REACH * Double::LOG2E + 1.01 - Double::OFFSET <= -Double::CUT);
};

impl Element for Single {
    type T = f32;
    const WIDTH: usize = 16;
    const BLOCK: usize = 1024;
    const NEG_INF: f32 = f32::NEG_INFINITY;
    const NAN: f32 = f32::from_bits(0x7fc0_0000);
    const MAX: f32 = f32::MAX;
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const MAGIC: f32 = 12_582_912.0 + 127.0;
    const MAGIC_CUT: f32 = Self::MAGIC + Self::CUT;
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = std::f32::consts::LN_2;
    const LN2_LO: f32 = -1.904_654_3e-9;
    const EXP: &'static [f32] =
        &[1.382_316e-3, 8.369_775_5e-3, 4.166_826_6e-2, 1.666_651_2e-1, 4.999_999_4e-1];
    const COMPENSATED: bool = false;
    const HALVES: bool = true;
    const EXACT_LINEAR: bool = true;
    const OFFSET: f32 = 50.0;
    const OFFSET_POWER: f64 = 1.0 / (1u64 << 50) as f64;
    const OFFSET_FROM: f64 = 1e-20;
    const SLACK: f32 = 30.0;
    const CUT: f32 = -125.0;
    const MAX_LIMIT: f32 = 65_536.0;
    const FACTOR_RANGE: (f64, f64) = (7.888_609_052_210_118e-31, 1.267_650_600_228_229_4e30);
    const WIDE: f32 = 250.0;
    const REACH: f32 = 120.0;
    const TOGETHER: usize = 2;

    /// A lane's sum in `f64` is rounded at most once for every element of a block and once for every block,
    /// and a few times more in the tree; above this threshold that is less than `2^-27` of the others' sum.
    #[inline(always)]
    fn dominated(len: usize) -> f64 {
        (len.min(Self::BLOCK) / Self::WIDTH + len / Self::BLOCK + 6) as f64 * 1.490_116_119_384_765_6e-8
    }

    #[inline(always)]
    fn to_f64(x: f32) -> f64 {
        f64::from(x)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }

    forward!(f32);

    #[inline(always)]
    unsafe fn load_halves<S: Simd, const BF16: bool>(s: S, p: *const u16) -> Self::V<S> {
        // SAFETY: the caller's promise.
        unsafe { if BF16 { s.load_bf16(p) } else { s.load_f16(p) } }
    }

    #[inline(always)]
    fn accumulate<S: Simd>(s: S, acc: Acc<S>, v: Self::V<S>) -> Acc<S> {
        let [a, b] = s.widen(v);
        [Double::add(s, acc[0], a), Double::add(s, acc[1], b)]
    }
    #[inline(always)]
    unsafe fn exp_sum<S: Simd>(
        s: S,
        x: *const f32,
        n: usize,
        magic: f32,
        out: *mut f32,
        ahead: isize,
    ) -> Option<Acc<S>> {
        // SAFETY: the caller's promise.
        unsafe { s.exp_sum(x, n, magic, out, ahead) }
    }
    #[inline(always)]
    unsafe fn widened_from<S: Simd>(s: S, p: *const f32) -> Acc<S> {
        // SAFETY: the caller's promise.
        unsafe { s.widen_from(p) }
    }
    #[inline(always)]
    unsafe fn accumulate_from<S: Simd>(s: S, acc: Acc<S>, p: *const f32) -> Acc<S> {
        // SAFETY: the caller's promise.
        let [a, b] = unsafe { s.widen_from(p) };
        [Double::add(s, acc[0], a), Double::add(s, acc[1], b)]
    }
    #[inline(always)]
    fn accumulate_product<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>) -> Acc<S> {
        let (a, b) = (s.widen(a), s.widen(b));
        [
            Lanes::<f64>::add_exact_product(s, a[0], b[0], acc[0]),
            Lanes::<f64>::add_exact_product(s, a[1], b[1], acc[1]),
        ]
    }
    #[inline(always)]
    unsafe fn accumulate_product_from<S: Simd>(s: S, acc: Acc<S>, p: *const f32, q: *const f32) -> Acc<S> {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (s.widen_from(p), s.widen_from(q)) };
        [
            Lanes::<f64>::add_exact_product(s, a[0], b[0], acc[0]),
            Lanes::<f64>::add_exact_product(s, a[1], b[1], acc[1]),
        ]
    }
    #[inline(always)]
    fn accumulate_weighted<S: Simd>(
        s: S,
        acc: Acc<S>,
        t: Self::V<S>,
        max: Self::V<S>,
        x: Self::V<S>,
    ) -> Acc<S> {
        let x = skip_zero::<Self, S>(s, t, max, x);
        let (t, max, x) = (s.widen(t), s.widen(max), s.widen(x));
        let term = |i: usize| Double::mul(s, t[i], Double::sub(s, max[i], x[i]));
        [Double::add(s, acc[0], term(0)), Double::add(s, acc[1], term(1))]
    }
    #[inline(always)]
    unsafe fn accumulate_weighted_from<S: Simd>(
        s: S,
        [weighted, total]: [Acc<S>; 2],
        t: *const f32,
        max: Self::V<S>,
        x: *const f32,
    ) -> [Acc<S>; 2] {
        // SAFETY: the caller's promise.
        let (t, x) = unsafe { (s.widen_from(t), s.widen_from(x)) };
        let d = differences(s, s.widen(max), x);
        let terms = [Double::mul(s, t[0], d[0]), Double::mul(s, t[1], d[1])];
        [Self::merge(s, weighted, terms), Self::merge(s, total, t)]
    }
    #[inline(always)]
    fn accumulate_square<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>, _factor: f64) -> Acc<S> {
        add_squares(s, acc, differences(s, s.widen(a), s.widen(b)))
    }
    #[inline(always)]
    fn square_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, factor: f64) -> Self::V<S> {
        twice_times(s, differences(s, s.widen(a), s.widen(b)), factor)
    }
    #[inline(always)]
    unsafe fn accumulate_square_from<S: Simd>(s: S, acc: Acc<S>, p: *const f32, q: *const f32) -> Acc<S> {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (s.widen_from(p), s.widen_from(q)) };
        add_squares(s, acc, differences(s, a, b))
    }
    #[inline(always)]
    unsafe fn square_and_gradient_from<S: Simd>(
        s: S,
        acc: Acc<S>,
        p: *const f32,
        q: *const f32,
        factor: f64,
    ) -> (Acc<S>, Self::V<S>) {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (s.widen_from(p), s.widen_from(q)) };
        let d = differences(s, a, b);
        (add_squares(s, acc, d), twice_times(s, d, factor))
    }
    #[cfg(feature = "python")]
    #[inline(always)]
    fn weighted_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, w: Self::V<S>) -> Self::V<S> {
        let (a, b, w) = (s.widen(a), s.widen(b), s.widen(w));
        let term = [Double::sub(s, a[0], b[0]), Double::sub(s, a[1], b[1])];
        let twice = [Double::add(s, term[0], term[0]), Double::add(s, term[1], term[1])];
        s.narrow([Double::mul(s, twice[0], w[0]), Double::mul(s, twice[1], w[1])])
    }
    #[inline(always)]
    fn squared_difference<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
        let (a, b) = (s.widen(a), s.widen(b));
        let d = [Double::sub(s, a[0], b[0]), Double::sub(s, a[1], b[1])];
        s.narrow([Double::mul(s, d[0], d[0]), Double::mul(s, d[1], d[1])])
    }
    #[inline(always)]
    fn merge<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S> {
        [Double::add(s, a[0], b[0]), Double::add(s, a[1], b[1])]
    }
    #[inline(always)]
    fn reduce<S: Simd>(s: S, acc: Acc<S>) -> (f64, f64) {
        let mut l = [0.0f64; 8];
        // SAFETY: `l` has 8 elements.
        unsafe { Double::store(s, Double::add(s, acc[0], acc[1]), l.as_mut_ptr()) };
        (((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])), 0.0)
    }
    #[inline(always)]
    unsafe fn reduce_rows<S: Simd>(s: S, p: *const f32, len: usize) -> Acc<S> {
        // SAFETY: the caller's promise.
        if let Some(sums) = unsafe { s.sum_rows(p, len) } {
            return sums;
        }
        let mut sums: Acc<S> = [Double::splat(s, 0.0); 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            let mut lanes = [Double::splat(s, 0.0); 8];
            for (i, lane) in lanes.iter_mut().enumerate() {
                let row = p.wrapping_add((8 * half + i) * len);
                // SAFETY: the caller's promise.
                let mut acc = unsafe { s.widen_first_from(row, len.min(16)) };
                for c in (16..len).step_by(16) {
                    // SAFETY: as above; a vector that starts within a row.
                    let [a, b] = unsafe { s.widen_first_from(row.add(c), (len - c).min(16)) };
                    acc = [Double::add(s, acc[0], a), Double::add(s, acc[1], b)];
                }
                *lane = Double::add(s, acc[0], acc[1]);
            }
            *sum = sum8(s, lanes);
        }
        sums
    }
    #[inline(always)]
    fn reduce_all<S: Simd>(s: S, accs: &[Acc<S>]) -> Acc<S> {
        let mut sums: Acc<S> = [Double::splat(s, 0.0); 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            let mut lanes = [Double::splat(s, 0.0); 8];
            for (lane, acc) in lanes.iter_mut().zip(&accs[8 * half..8 * half + 8]) {
                *lane = Double::add(s, acc[0], acc[1]);
            }
            *sum = sum8(s, lanes);
        }
        sums
    }
    #[inline(always)]
    fn wide<S: Simd>(s: S, v: Self::V<S>) -> Acc<S> {
        s.widen(v)
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, sums: Acc<S>) -> Self::V<S> {
        s.narrow(sums)
    }
    #[inline(always)]
    fn narrow<S: Simd>(s: S, wide: Acc<S>) -> Self::V<S> {
        s.narrow(wide)
    }
    #[inline(always)]
    fn split<S: Simd>(s: S, wide: Acc<S>) -> (Self::V<S>, Self::V<S>) {
        let high = s.narrow(wide);
        let rounded = s.widen(high);
        (high, s.narrow([Double::sub(s, wide[0], rounded[0]), Double::sub(s, wide[1], rounded[1])]))
    }
    #[inline(always)]
    fn inverse<S: Simd>(s: S, sums: Acc<S>) -> Acc<S> {
        reciprocal(s, sums)
    }
    #[inline(always)]
    fn product<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S> {
        [Double::mul(s, a[0], b[0]), Double::mul(s, a[1], b[1])]
    }
    #[inline(always)]
    fn without<S: Simd>(s: S, sums: Acc<S>, term: Self::V<S>) -> Acc<S> {
        let term = s.widen(term);
        [Double::sub(s, sums[0], term[0]), Double::sub(s, sums[1], term[1])]
    }
    #[inline(always)]
    fn below<S: Simd>(s: S, a: Acc<S>, b: Acc<S>, factor: f64) -> u32 {
        let factor = Double::splat(s, factor);
        let low = Double::bits(s, Double::lt(s, a[0], Double::mul(s, b[0], factor)));
        low | Double::bits(s, Double::lt(s, a[1], Double::mul(s, b[1], factor))) << 8
    }
    #[inline(always)]
    fn load_wide<S: Simd>(s: S, high: &[f64], _low: &[f64], j: usize) -> Acc<S> {
        [load64(s, high, j), load64(s, high, j + 8)]
    }
    #[inline(always)]
    fn store_wide<S: Simd>(s: S, wide: Acc<S>, high: &mut [f64], _low: &mut [f64], j: usize) {
        store64(s, wide[0], high, j);
        store64(s, wide[1], high, j + 8);
    }
}

impl Element for Double {
    type T = f64;
    const WIDTH: usize = 8;
    const BLOCK: usize = 512;
    const NEG_INF: f64 = f64::NEG_INFINITY;
    const NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0000);
    const MAX: f64 = f64::MAX;
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const MAGIC: f64 = 6_755_399_441_055_744.0 + 1023.0;
    const MAGIC_CUT: f64 = Self::MAGIC + Self::CUT;
    const LOG2E: f64 = std::f64::consts::LOG2_E;
    const LN2_HI: f64 = std::f64::consts::LN_2;
    const LN2_LO: f64 = 2.319_046_813_846_299_6e-17;
    const EXP: &'static [f64] = &[
        2.542_383_354_289_105_3e-8,
        2.765_733_751_645_491_3e-7,
        2.755_631_470_668_056e-6,
        2.480_141_547_583_469e-5,
        1.984_127_083_523_270_1e-4,
        1.388_888_901_993_355_2e-3,
        8.333_333_332_937_268e-3,
        4.166_666_666_623_640_4e-2,
        1.666_666_666_666_716_8e-1,
        5.000_000_000_000_046e-1,
    ];
    const COMPENSATED: bool = true;
    const HALVES: bool = false;
    const EXACT_LINEAR: bool = false;
    const OFFSET: f64 = 160.0;
    const OFFSET_POWER: f64 = 6.842_277_657_836_021e-49;
    const OFFSET_FROM: f64 = 1e-250;
    const SLACK: f64 = 300.0;
    const CUT: f64 = -1021.0;
    const MAX_LIMIT: f64 = 1_073_741_824.0;
    const FACTOR_RANGE: (f64, f64) = (1e-270, 1e270);
    const WIDE: f64 = 2000.0;
    const REACH: f64 = 800.0;
    const TOGETHER: usize = 4;

    /// The compensated sum keeps far more than 53 bits of the others above this.
    #[inline(always)]
    fn dominated(_len: usize) -> f64 {
        9.536_743_164_062_5e-7
    }

    #[inline(always)]
    fn to_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }

    forward!(f64);

    #[inline(always)]
    unsafe fn load_halves<S: Simd, const BF16: bool>(_s: S, _p: *const u16) -> Self::V<S> {
        unreachable!("16-bit numbers are computed as f32")
    }

    #[inline(always)]
    fn accumulate<S: Simd>(s: S, acc: Acc<S>, v: Self::V<S>) -> Acc<S> {
        let (hi, e) = two_sum_v(s, acc[0], v);
        [hi, Double::add(s, acc[1], e)]
    }
    #[inline(always)]
    unsafe fn widened_from<S: Simd>(s: S, p: *const f64) -> Acc<S> {
        // SAFETY: the caller's promise.
        [unsafe { Double::load(s, p) }, Double::splat(s, 0.0)]
    }
    #[inline(always)]
    unsafe fn exp_sum<S: Simd>(
        s: S,
        x: *const f64,
        n: usize,
        magic: f64,
        out: *mut f64,
        ahead: isize,
    ) -> Option<Acc<S>> {
        // SAFETY: the caller's promise.
        unsafe { s.exp_sum_compensated(x, n, magic, out, ahead) }
    }
    #[inline(always)]
    unsafe fn accumulate_from<S: Simd>(s: S, acc: Acc<S>, p: *const f64) -> Acc<S> {
        // SAFETY: the caller's promise.
        Self::accumulate(s, acc, unsafe { Double::load(s, p) })
    }
    #[inline(always)]
    fn accumulate_product<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>) -> Acc<S> {
        // The product's own rounding error goes to the low part as well.
        let p = Double::mul(s, a, b);
        let low = Double::fma(s, a, b, Double::sub(s, Double::splat(s, 0.0), p));
        let (hi, e) = two_sum_v(s, acc[0], p);
        [hi, Double::add(s, acc[1], Double::add(s, e, low))]
    }
    #[inline(always)]
    unsafe fn accumulate_product_from<S: Simd>(s: S, acc: Acc<S>, p: *const f64, q: *const f64) -> Acc<S> {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (Self::load(s, p), Self::load(s, q)) };
        Self::accumulate_product(s, acc, a, b)
    }
    #[inline(always)]
    fn accumulate_weighted<S: Simd>(
        s: S,
        acc: Acc<S>,
        t: Self::V<S>,
        max: Self::V<S>,
        x: Self::V<S>,
    ) -> Acc<S> {
        let x = skip_zero::<Self, S>(s, t, max, x);
        Self::accumulate_product(s, acc, t, Double::sub(s, max, x))
    }
    #[inline(always)]
    unsafe fn accumulate_weighted_from<S: Simd>(
        s: S,
        [weighted, total]: [Acc<S>; 2],
        t: *const f64,
        max: Self::V<S>,
        x: *const f64,
    ) -> [Acc<S>; 2] {
        // SAFETY: the caller's promise.
        let (t, x) = unsafe { (Self::load(s, t), Self::load(s, x)) };
        let d = Double::sub(s, max, x);
        [Self::accumulate_product(s, weighted, t, d), Self::accumulate(s, total, t)]
    }
    #[inline(always)]
    fn accumulate_square<S: Simd>(s: S, acc: Acc<S>, a: Self::V<S>, b: Self::V<S>, factor: f64) -> Acc<S> {
        let d = Double::mul(s, Double::sub(s, a, b), Double::splat(s, factor));
        Self::accumulate_product(s, acc, d, d)
    }
    #[inline(always)]
    fn square_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, factor: f64) -> Self::V<S> {
        double_gradient(s, a, b, Double::splat(s, factor))
    }
    #[inline(always)]
    unsafe fn accumulate_square_from<S: Simd>(s: S, acc: Acc<S>, p: *const f64, q: *const f64) -> Acc<S> {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (Self::load(s, p), Self::load(s, q)) };
        Self::accumulate_square(s, acc, a, b, 1.0)
    }
    #[inline(always)]
    unsafe fn square_and_gradient_from<S: Simd>(
        s: S,
        acc: Acc<S>,
        p: *const f64,
        q: *const f64,
        factor: f64,
    ) -> (Acc<S>, Self::V<S>) {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (Self::load(s, p), Self::load(s, q)) };
        (Self::accumulate_square(s, acc, a, b, 1.0), Self::square_gradient(s, a, b, factor))
    }
    #[cfg(feature = "python")]
    #[inline(always)]
    fn weighted_gradient<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, w: Self::V<S>) -> Self::V<S> {
        double_gradient(s, a, b, w)
    }
    #[inline(always)]
    fn squared_difference<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S> {
        let d = Double::sub(s, a, b);
        Double::mul(s, d, d)
    }
    #[inline(always)]
    fn merge<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S> {
        let (hi, e) = two_sum_v(s, a[0], b[0]);
        [hi, Double::add(s, Double::add(s, a[1], b[1]), e)]
    }
    #[inline(always)]
    fn reduce<S: Simd>(s: S, acc: Acc<S>) -> (f64, f64) {
        let (mut hi, mut lo) = ([0.0f64; 8], [0.0f64; 8]);
        // SAFETY: both have 8 elements.
        unsafe { Double::store(s, acc[0], hi.as_mut_ptr()) };
        // SAFETY: as above.
        unsafe { Double::store(s, acc[1], lo.as_mut_ptr()) };
        let pair = |i: usize, j: usize| add_pairs((hi[i], lo[i]), (hi[j], lo[j]));
        add_pairs(add_pairs(pair(0, 4), pair(2, 6)), add_pairs(pair(1, 5), pair(3, 7)))
    }
    #[inline(always)]
    unsafe fn reduce_rows<S: Simd>(s: S, p: *const f64, len: usize) -> Acc<S> {
        // SAFETY: the caller's promise.
        if let Some(sums) = unsafe { s.sum_rows_compensated(p, len) } {
            return sums;
        }
        let zero = Double::splat(s, 0.0);
        let mut accs: [Acc<S>; 8] = [[zero; 2]; 8];
        for (i, acc) in accs.iter_mut().enumerate() {
            let row = p.wrapping_add(i * len);
            // SAFETY: the caller's promise.
            *acc = [unsafe { Double::load_first(s, row, len.min(8), 0.0) }, zero];
            for c in (8..len).step_by(8) {
                // SAFETY: the caller's promise.
                *acc = Double::accumulate(s, *acc, unsafe {
                    Double::load_first(s, row.add(c), (len - c).min(8), 0.0)
                });
            }
        }
        Self::reduce_all(s, &accs)
    }
    #[inline(always)]
    fn reduce_all<S: Simd>(s: S, accs: &[Acc<S>]) -> Acc<S> {
        let zero = Double::splat(s, 0.0);
        let (mut hi, mut lo) = ([zero; 8], [zero; 8]);
        for (i, &acc) in accs[..8].iter().enumerate() {
            [hi[i], lo[i]] = acc;
        }
        Double::transpose(s, &mut hi);
        Double::transpose(s, &mut lo);
        for half in [4, 2, 1] {
            for i in 0..half {
                [hi[i], lo[i]] = Double::merge(s, [hi[i], lo[i]], [hi[i + half], lo[i + half]]);
            }
        }
        [hi[0], lo[0]]
    }
    #[inline(always)]
    fn wide<S: Simd>(s: S, v: Self::V<S>) -> Acc<S> {
        [v, Double::splat(s, 0.0)]
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, [hi, lo]: Acc<S>) -> Self::V<S> {
        let below = Double::lt(s, hi, Double::splat(s, f64::INFINITY));
        let above = Double::lt(s, Double::splat(s, f64::NEG_INFINITY), hi);
        Double::select(s, below, Double::select(s, above, Double::add(s, hi, lo), hi), hi)
    }
    #[inline(always)]
    fn narrow<S: Simd>(_s: S, wide: Acc<S>) -> Self::V<S> {
        wide[0]
    }
    #[inline(always)]
    fn split<S: Simd>(_s: S, wide: Acc<S>) -> (Self::V<S>, Self::V<S>) {
        (wide[0], wide[1])
    }
    /// One Newton step takes in the low part, and leaves one.
    #[inline(always)]
    fn inverse<S: Simd>(s: S, [hi, lo]: Acc<S>) -> Acc<S> {
        let one = Double::splat(s, 1.0);
        let q = Double::div(s, one, hi);
        let rest = Double::fma(s, Double::sub(s, Double::splat(s, 0.0), hi), q, one);
        let rest = Double::sub(s, rest, Double::mul(s, lo, q));
        let inverse = Double::fma(s, q, rest, q);
        [inverse, Double::fma(s, q, rest, Double::sub(s, q, inverse))]
    }
    #[inline(always)]
    fn product<S: Simd>(s: S, a: Acc<S>, b: Acc<S>) -> Acc<S> {
        mul_pairs_v(s, a, b)
    }
    #[inline(always)]
    fn without<S: Simd>(s: S, [hi, lo]: Acc<S>, term: Self::V<S>) -> Acc<S> {
        let (rest, e) = two_sum_v(s, hi, Double::sub(s, Double::splat(s, 0.0), term));
        let low = Double::add(s, e, lo);
        let others = Double::add(s, rest, low);
        [others, Double::sub(s, low, Double::sub(s, others, rest))]
    }
    #[inline(always)]
    fn below<S: Simd>(s: S, a: Acc<S>, b: Acc<S>, factor: f64) -> u32 {
        Double::bits(s, Double::lt(s, a[0], Double::mul(s, b[0], Double::splat(s, factor))))
    }
    #[inline(always)]
    fn load_wide<S: Simd>(s: S, high: &[f64], low: &[f64], j: usize) -> Acc<S> {
        [load64(s, high, j), load64(s, low, j)]
    }
    #[inline(always)]
    fn store_wide<S: Simd>(s: S, wide: Acc<S>, high: &mut [f64], low: &mut [f64], j: usize) {
        store64(s, wide[0], high, j);
        store64(s, wide[1], low, j);
    }
}
