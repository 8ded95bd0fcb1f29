//! exp and logarithms on vectors: method, interval and error bound of each.
//!
//! Every step is one IEEE operation per lane, so the bits are the same at every SIMD level.

use crate::float::{Acc, Double, Element, V64, reciprocal};
use crate::simd::Simd;

/// `exp(x - n ln 2 + low)` for an integer `n` that leaves at most 0.3525; `low` is far smaller than `x`.
///
/// `r` is rounded. `f32` (`EXACT_LINEAR`) keeps that out of the linear term, which takes the exact first
/// difference instead, `1 + (d + (-n ln2_lo + r^2 q(r)))`, where plain Horner's rule would add a quarter of a unit
/// to the error. `f64` has a wider bound to keep.
#[inline(always)]
fn exp_reduced<E: Element, S: Simd>(s: S, x: E::V<S>, n: E::V<S>, low: Option<E::V<S>>) -> E::V<S> {
    let d = E::fma(s, n, E::splat(s, neg::<E>(E::LN2_HI)), x);
    let (rest, r) = reduced::<E, S>(s, d, n, low);
    let mut p = E::splat(s, E::EXP[0]);
    for &c in &E::EXP[1..] {
        p = E::fma(s, p, r, E::splat(s, c));
    }
    low_degrees::<E, S>(s, p, d, rest, r)
}

/// `(-n ln2_lo + low, r)`, of which `f64` needs the second alone.
#[inline(always)]
fn reduced<E: Element, S: Simd>(s: S, d: E::V<S>, n: E::V<S>, low: Option<E::V<S>>) -> (E::V<S>, E::V<S>) {
    let ln2_lo = E::splat(s, neg::<E>(E::LN2_LO));
    if E::EXACT_LINEAR {
        let rest = E::mul(s, n, ln2_lo);
        let rest = if let Some(low) = low { E::add(s, rest, low) } else { rest };
        (rest, E::add(s, d, rest))
    } else {
        let r = E::fma(s, n, ln2_lo, d);
        let r = if let Some(low) = low { E::add(s, r, low) } else { r };
        (r, r)
    }
}

/// `1 + r + r^2 p`.
#[inline(always)]
fn low_degrees<E: Element, S: Simd>(s: S, p: E::V<S>, d: E::V<S>, rest: E::V<S>, r: E::V<S>) -> E::V<S> {
    let one = E::splat(s, E::ONE);
    if E::EXACT_LINEAR {
        E::add(s, one, above_one::<E, S>(s, p, d, rest, r))
    } else {
        E::fma(s, E::fma(s, p, r, one), r, one)
    }
}

/// `r + r^2 p`, the linear term exact.
#[inline(always)]
fn above_one<E: Element, S: Simd>(s: S, p: E::V<S>, d: E::V<S>, rest: E::V<S>, r: E::V<S>) -> E::V<S> {
    E::add(s, d, E::fma(s, E::mul(s, r, r), p, rest))
}

#[inline(always)]
fn neg<E: Element>(x: E::T) -> E::T {
    E::from_f64(-E::to_f64(x))
}

/// `exp(x) * 2^-reference`, zero where its power of two is below `CUT`; `magic` is `MAGIC - reference`.
///
/// Method (Cody and Waite): `n = round(x log2 e)` by adding a number so large that its last bit counts
/// integers, which leaves `n - reference` in the low bits, ready to become the exponent; `r = x - n ln 2`
/// with ln 2 in two parts, the first subtraction exact; `exp(r)` by a polynomial of degree 6 (`f32`) or 11
/// (`f64`) on `|r| <= 0.3525`, minimax in the relative error with the first two coefficients 1. Relative error
/// below `1.25 * 2^-24` (`f32`) or `1.35 * 2^-53` (`f64`) for `|x|` up to `MAX_LIMIT`.
///
/// `reference` is an integer per lane. The scaling is exact: moving the reference does not change the
/// mantissa. A NaN stays a NaN and +inf becomes one; -inf and anything far below the reference become zero.
#[inline(always)]
pub(crate) fn exp_scaled<E: Element, S: Simd>(s: S, x: E::V<S>, magic: E::V<S>) -> E::V<S> {
    exp_end::<E, S>(s, exp_begin::<E, S>(s, x, None, magic))
}

/// The first half of an exponential.
#[derive(Clone, Copy)]
pub(crate) struct Begun<E: Element, S: Simd> {
    t: E::V<S>,
    d: E::V<S>,
    rest: E::V<S>,
    r: E::V<S>,
    p: E::V<S>,
}

/// Begins [`exp_scaled`], for [`exp_end`] to complete, of `x` or of `x + low`, `low` far smaller than `x` and at most 0.001.
/// A loop that begins one exponential between the halves of another has two short chains of dependent operations where it
/// would have a long one.
#[inline(always)]
pub(crate) fn exp_begin<E: Element, S: Simd>(
    s: S,
    x: E::V<S>,
    low: Option<E::V<S>>,
    magic: E::V<S>,
) -> Begun<E, S> {
    let t = E::fma(s, x, E::splat(s, E::LOG2E), magic);
    let n = E::sub(s, t, magic);
    let d = E::fma(s, n, E::splat(s, neg::<E>(E::LN2_HI)), x);
    let (rest, r) = reduced::<E, S>(s, d, n, low);
    let mut p = E::splat(s, E::EXP[0]);
    for &c in &E::EXP[1..E::EXP.len() / 2 + 1] {
        p = E::fma(s, p, r, E::splat(s, c));
    }
    Begun { t, d, rest, r, p }
}

/// The other half of [`exp_begin`].
#[inline(always)]
pub(crate) fn exp_end<E: Element, S: Simd>(s: S, begun: Begun<E, S>) -> E::V<S> {
    let Begun { t, d, rest, r, mut p } = begun;
    for &c in &E::EXP[E::EXP.len() / 2 + 1..] {
        p = E::fma(s, p, r, E::splat(s, c));
    }
    let cut = E::splat(s, E::MAGIC_CUT);
    if E::EXACT_LINEAR {
        E::scale_one_plus_by(s, above_one::<E, S>(s, p, d, rest, r), t, cut)
    } else {
        E::scale_by(s, low_degrees::<E, S>(s, p, d, rest, r), t, cut)
    }
}

/// `(p, n)` with `exp(x) = p * 2^n`, `n` integral and `p` near 1, for `|x|` up to `MAX_LIMIT`; the error is that of
/// [`exp_scaled`]. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp_split<E: Element, S: Simd>(s: S, x: E::V<S>) -> (E::V<S>, E::V<S>) {
    let n = E::round(s, E::mul(s, x, E::splat(s, E::LOG2E)));
    (exp_reduced::<E, S>(s, x, n, None), n)
}

/// `MAGIC - reference`, exactly: see [`exp_scaled`].
#[inline(always)]
pub(crate) fn magic<E: Element, S: Simd>(s: S, reference: E::V<S>) -> E::V<S> {
    E::sub(s, E::splat(s, E::MAGIC), reference)
}

/// `exp(d + low) * 2^offset` for any `d`, in two exact scalings; `low` is far smaller than `d` or zero.
///
/// Overflows to infinity and underflows to zero far outside the range in which the product with a factor
/// `2^-offset` could be seen.
#[inline(always)]
pub(crate) fn exp_wide<E: Element, S: Simd>(s: S, d: E::V<S>, low: E::V<S>, offset: E::V<S>) -> E::V<S> {
    let (p, n) = exp_parts::<E, S>(s, d, low);
    scale_wide::<E, S>(s, p, E::add(s, n, offset))
}

/// `(p, n)` with `exp(d + low) = p 2^n` for any `d`, `n` integral or infinite: where `|n|` exceeds `WIDE`, `p` may be
/// anything. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp_parts<E: Element, S: Simd>(s: S, d: E::V<S>, low: E::V<S>) -> (E::V<S>, E::V<S>) {
    let n = E::round(s, E::mul(s, d, E::splat(s, E::LOG2E)));
    (exp_reduced::<E, S>(s, d, n, Some(low)), n)
}

/// `p 2^k` for positive `p` and any integral `k`: in two scalings, of which the first is exact, and beyond `WIDE` infinity
/// or zero. A NaN `p` stays NaN.
#[inline(always)]
pub(crate) fn scale_wide<E: Element, S: Simd>(s: S, p: E::V<S>, k: E::V<S>) -> E::V<S> {
    let wide = E::splat(s, E::WIDE);
    let tiny = E::lt(s, k, E::splat(s, neg::<E>(E::WIDE)));
    // `max(k, -wide)` and `min(k, wide)` by comparison; a NaN `k` belongs to a NaN `p`, which survives. Of a huge `d`
    // nothing is left in `p`.
    let huge = E::lt(s, wide, k);
    let (k, p) = (E::select(s, huge, wide, k), E::select(s, huge, E::splat(s, E::ONE), p));
    let half = E::round(s, E::mul(s, k, E::splat(s, E::from_f64(0.5))));
    let e = E::scale(s, E::scale(s, p, half), E::sub(s, k, half));
    E::select(s, tiny, E::splat(s, E::ZERO), e)
}

/// ln 2 in two parts, of which the first has 32 bits.
pub(crate) const LN2_HI: f64 = 0.693_147_180_369_123_8;
pub(crate) const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
/// Minimax coefficients of `(log((1+s)/(1-s)) - 2s) / s` in `s^2` on `[0, 0.1716]` (the values published with fdlibm's log).
const LOG: [f64; 7] = [
    0.147_981_986_051_165_86,
    0.153_138_376_992_093_73,
    0.181_835_721_616_180_5,
    0.222_221_984_321_497_84,
    0.285_714_287_436_623_9,
    0.399_999_999_994_094_2,
    0.666_666_666_666_673_5,
];

/// `log(1 + t + low)` for `t >= 0` (NaN stays NaN), `low` far smaller, as `(high, low)`, the rounded value and what
/// it lacks; the error of the pair is below `2^-55`, and that of the value below 0.8 ulp, down to subnormal `t`.
///
/// Method: `u = 1 + t` with its rounding error `e`; `u = 2^k m` with `m` in `[sqrt(1/2), sqrt(2))`;
/// `log(1 + t) = k ln 2 + log(m) + e/u`, where `log(m)` comes from `s = (m-1)/(m+1)` and the odd series in `s`.
#[inline(always)]
pub(crate) fn log1p<S: Simd>(s: S, t: V64<S>, low: V64<S>) -> (V64<S>, V64<S>) {
    let c = |x: f64| Double::splat(s, x);
    let one = c(1.0);
    let (u, e) = crate::float::two_sum_v(s, one, t);
    log_of(s, u, Double::div(s, Double::add(s, e, low), u))
}

/// `(m, k)` with `u = 2^k m` and `m` from `sqrt(1/2)` to `sqrt(2)`, for positive normal `u`; any numbers for others.
#[inline(always)]
fn split<S: Simd>(s: S, u: V64<S>) -> (V64<S>, V64<S>) {
    let c = |x: f64| Double::splat(s, x);
    let (m, k) = s.split_exponent(u);
    let big = Double::lt(s, c(std::f64::consts::SQRT_2), m);
    let m = Double::select(s, big, Double::mul(s, m, c(0.5)), m);
    (m, Double::select(s, big, Double::add(s, k, c(1.0)), k))
}

/// `log(u) + correction` for positive normal `u` and a far smaller correction, as `(high, low)`.
#[inline(always)]
fn log_of<S: Simd>(s: S, u: V64<S>, correction: V64<S>) -> (V64<S>, V64<S>) {
    log_end(s, log_begin(s, u), correction)
}

/// The first half of [`log_of`]: `k`, `f = m - 1`, and `f / (2 + f)`.
#[inline(always)]
fn log_begin<S: Simd>(s: S, u: V64<S>) -> [V64<S>; 3] {
    let (m, k) = split(s, u);
    let f = Double::sub(s, m, Double::splat(s, 1.0));
    [k, f, Double::div(s, f, Double::add(s, Double::splat(s, 2.0), f))]
}

/// The other half of [`log_begin`].
#[inline(always)]
fn log_end<S: Simd>(s: S, [k, f, q]: [V64<S>; 3], correction: V64<S>) -> (V64<S>, V64<S>) {
    let c = |x: f64| Double::splat(s, x);
    let half_square = Double::mul(s, Double::mul(s, f, f), c(0.5));
    let z = Double::mul(s, q, q);
    let mut poly = c(LOG[0]);
    for &coefficient in &LOG[1..] {
        poly = Double::fma(s, poly, z, c(coefficient));
    }
    let poly = Double::mul(s, poly, z);
    let tail = Double::fma(s, k, c(LN2_LO), correction);
    let inner = Double::fma(s, q, Double::add(s, half_square, poly), tail);
    // k LN2_HI is exact: LN2_HI has 32 bits.
    let (sum, e) = crate::float::two_sum_v(s, Double::mul(s, k, c(LN2_HI)), f);
    let rest = Double::add(s, e, Double::sub(s, inner, half_square));
    let high = Double::add(s, sum, rest);
    (high, Double::add(s, Double::sub(s, sum, high), rest))
}

/// `log(x)` for any `x`, as [`log_of_any`].
#[cfg(feature = "python")]
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: V64<S>) -> (V64<S>, V64<S>) {
    log_of_any(s, x, log_begin(s, normal(s, x)))
}

/// `x`, scaled by `2^64` where it is below the normal range.
#[inline(always)]
fn normal<S: Simd>(s: S, x: V64<S>) -> V64<S> {
    let small = Double::lt(s, x, Double::splat(s, f64::MIN_POSITIVE));
    Double::select(s, small, Double::mul(s, x, Double::splat(s, TWO_64)), x)
}

/// `log(x)` for any `x`, from what [`log_begin`] made of [`normal`], as `(high, low)`: -inf for 0, NaN for negative numbers;
/// errors as those of [`log1p`]. The power of two by which subnormal numbers are scaled is taken off here.
#[inline(always)]
fn log_of_any<S: Simd>(s: S, x: V64<S>, begun: [V64<S>; 3]) -> (V64<S>, V64<S>) {
    let c = |x: f64| Double::splat(s, x);
    let (zero, infinity) = (c(0.0), c(f64::INFINITY));
    let small = Double::lt(s, x, c(f64::MIN_POSITIVE));
    let (high, low) = log_end(s, begun, zero);
    if Double::bits(s, small) == 0 && Double::bits(s, Double::lt(s, x, infinity)) == 0xff {
        return (high, low);
    }
    let (scaled, e) = crate::float::two_sum_v(s, high, Double::select(s, small, c(-LN_TWO_64.0), zero));
    let low = Double::add(s, low, Double::add(s, e, Double::select(s, small, c(-LN_TWO_64.1), zero)));
    let low = Double::select(s, Double::lt(s, x, infinity), low, zero);
    (log_or_limit(s, x, scaled), Double::select(s, Double::lt(s, zero, x), low, zero))
}

/// `log` for positive finite `x`. +inf and NaN are their own logarithms; +-0 have -inf, negative numbers NaN.
#[inline(always)]
fn log_or_limit<S: Simd>(s: S, x: V64<S>, log: V64<S>) -> V64<S> {
    let c = |x: f64| Double::splat(s, x);
    let finite = Double::lt(s, x, c(f64::INFINITY));
    let limit = Double::select(s, Double::lt(s, x, c(0.0)), c(f64::NAN), c(f64::NEG_INFINITY));
    let positive = Double::lt(s, c(0.0), x);
    Double::select(s, finite, Double::select(s, positive, log, limit), x)
}

/// What [`log_wide_begin`] hands over: `[k, q]` of two vectors (`f32`), or `[[k, f], [q, 0]]` (`f64`).
pub(crate) type LogBegun<S> = [Acc<S>; 2];

/// Begins the logarithm of any wide numbers, for [`log_wide_end`] to complete: of `f32` numbers to `2^-33` by the method of
/// [`log_ratio`], of `f64` numbers as [`log_of_any`].
#[inline(always)]
pub(crate) fn log_wide_begin<E: Element, S: Simd>(s: S, x: Acc<S>) -> LogBegun<S> {
    if E::COMPENSATED {
        let [k, f, q] = log_begin(s, normal(s, x[0]));
        return [[k, f], [q, Double::splat(s, 0.0)]];
    }
    // (`f32` numbers are normal as `f64`, or such that the other half replaces what comes of them.)
    let ((m0, k0), (m1, k1)) = (split(s, x[0]), split(s, x[1]));
    let one = Double::splat(s, 1.0);
    [[k0, k1], quotients(s, [Double::sub(s, m0, one), Double::sub(s, m1, one)])]
}

/// The other half of [`log_wide_begin`], of the same numbers.
#[inline(always)]
pub(crate) fn log_wide_end<E: Element, S: Simd>(s: S, x: Acc<S>, begun: LogBegun<S>) -> Acc<S> {
    if E::COMPENSATED {
        let [[k, f], [q, _]] = begun;
        let (high, low) = log_of_any(s, x[0], [k, f, q]);
        return [high, low];
    }
    let [k, q] = begun;
    let log = log_near_one(s, k, q);
    let mut ordinary = 0xff;
    for x in x {
        ordinary &= Double::bits(s, Double::lt(s, Double::splat(s, 0.0), x));
        ordinary &= Double::bits(s, Double::lt(s, x, Double::splat(s, f64::INFINITY)));
    }
    if ordinary == 0xff {
        return log;
    }
    [log_or_limit(s, x[0], log[0]), log_or_limit(s, x[1], log[1])]
}

/// `2^64`.
pub(crate) const TWO_64: f64 = 18_446_744_073_709_551_616.0;
/// `64 ln 2` as `(high, low)`.
const LN_TWO_64: (f64, f64) = (64.0 * std::f64::consts::LN_2, 64.0 * 2.319_046_813_846_299_6e-17);

/// Minimax coefficients (Remez's exchange) of `(log((1+s)/(1-s)) - 2s) / s^3` in `s^2` on `[0, 1/9]`: `2^-38`
/// of the logarithm.
const LOG1P_UNIT: [f64; 6] = [
    0.217_818_433_712_718_42,
    0.171_513_081_264_566_27,
    0.223_010_786_687_736_1,
    0.285_684_194_219_417_6,
    0.400_000_524_365_476_73,
    0.666_666_663_635_565_3,
];

/// Begins `log(1 + t)` for wide numbers `0 <= t <= 1`, for [`log1p_unit_end`] to complete: to `2^-37` (`f32`), or as
/// [`log1p`]. NaN stays NaN.
///
/// `f32`: the odd series in `s = t / (2 + t)`, at most 1/3, without splitting off a power of two.
#[inline(always)]
pub(crate) fn log1p_unit_begin<E: Element, S: Simd>(s: S, t: Acc<S>) -> Acc<S> {
    if E::COMPENSATED { t } else { quotients(s, t) }
}

/// The other half of [`log1p_unit_begin`].
#[inline(always)]
pub(crate) fn log1p_unit_end<E: Element, S: Simd>(s: S, begun: Acc<S>) -> Acc<S> {
    if E::COMPENSATED {
        let (log, low) = log1p(s, begun[0], begun[1]);
        return [log, low];
    }
    let c = |x: f64| Double::splat(s, x);
    let mut log = [c(0.0); 2];
    for i in 0..2 {
        let q = begun[i];
        let z = Double::mul(s, q, q);
        let mut poly = c(LOG1P_UNIT[0]);
        for &coefficient in &LOG1P_UNIT[1..] {
            poly = Double::fma(s, poly, z, c(coefficient));
        }
        log[i] = Double::mul(s, q, Double::fma(s, poly, z, c(2.0)));
    }
    log
}

/// `log(1 + others / peak)` for wide numbers `0 <= others`, `0 < peak`: to `2^-33` (`f32`), or as [`log1p`].
///
/// `f32` needs no more than the same series with fewer terms, two reciprocals from `f32` divisions, and no rounding
/// error of `1 + t`: where `k` is 0 the series takes `t` itself, elsewhere the error is `2^-53` of at least 0.34.
#[inline(always)]
pub(crate) fn log_ratio<E: Element, S: Simd>(s: S, others: Acc<S>, peak: Acc<S>) -> Acc<S> {
    let c = |x: f64| Double::splat(s, x);
    if E::COMPENSATED {
        let ratio = Double::div(s, others[0], peak[0]);
        let rest = Double::fma(s, Double::sub(s, c(0.0), ratio), peak[0], others[0]);
        let low = Double::div(s, Double::add(s, rest, others[1]), peak[0]);
        let (log, low) = log1p(s, ratio, low);
        return [log, low];
    }
    let inverse = reciprocal(s, peak);
    let mut f = [c(0.0); 2];
    let mut power = [c(0.0); 2];
    for i in 0..2 {
        let t = Double::mul(s, others[i], inverse[i]);
        let u = Double::add(s, t, c(1.0));
        let (m, k) = split(s, u);
        power[i] = k;
        let scaled = Double::lt(s, c(0.0), power[i]);
        f[i] = Double::select(s, scaled, Double::sub(s, m, c(1.0)), t);
    }
    log_near_one(s, power, quotients(s, f))
}

/// `f / (2 + f)`
#[inline(always)]
fn quotients<S: Simd>(s: S, f: Acc<S>) -> Acc<S> {
    let two = Double::splat(s, 2.0);
    let inverse = reciprocal(s, [Double::add(s, f[0], two), Double::add(s, f[1], two)]);
    [Double::mul(s, f[0], inverse[0]), Double::mul(s, f[1], inverse[1])]
}

/// `k ln 2 + log(1 + f)` for `1 + f` from `sqrt(1/2)` to `sqrt(2)`, to `2^-33`, by the odd series in `q = f / (2 + f)`.
#[inline(always)]
fn log_near_one<S: Simd>(s: S, k: Acc<S>, q: Acc<S>) -> Acc<S> {
    let c = |x: f64| Double::splat(s, x);
    let mut log = [c(0.0); 2];
    for i in 0..2 {
        let q = q[i];
        let z = Double::mul(s, q, q);
        let mut poly = c(LOG[2]);
        for &coefficient in &LOG[3..] {
            poly = Double::fma(s, poly, z, c(coefficient));
        }
        let series = Double::mul(s, q, Double::fma(s, poly, z, c(2.0)));
        log[i] = Double::fma(s, k[i], c(std::f64::consts::LN_2), series);
    }
    log
}

#[cfg(test)]
mod tests;
