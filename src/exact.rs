//! Sums and products with what they lack by rounding, on single numbers.

/// `(s, e)` with `s + e = a + b` exactly and `s` the rounded sum (Knuth's TwoSum), if nothing overflows.
#[inline(always)]
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `(p, e)` with `p + e = a b` exactly and `p` the rounded product (Dekker's TwoProduct). Far from underflow, and from
/// overflow, near which `e` is no number.
#[inline(always)]
pub(crate) fn two_product(a: f64, b: f64) -> (f64, f64) {
    let split = |v: f64| {
        let c = v * 134_217_729.0; // 2^27 + 1: halves of 26 bits, whose products are exact.
        let high = c - (c - v);
        (high, v - high)
    };
    let p = a * b;
    let ((ah, al), (bh, bl)) = (split(a), split(b));
    (p, ((ah * bh - p) + ah * bl + al * bh) + al * bl)
}

/// The value of a `(high, low)` sum; the low part of an overflowed one is no number.
#[inline(always)]
pub(crate) fn value(sum: (f64, f64)) -> f64 {
    if sum.0.is_finite() { sum.0 + sum.1 } else { sum.0 }
}

/// The sum of two `(high, low)` sums, as [`Element::merge`](crate::float::Element::merge) does it for `f64`.
#[inline(always)]
pub(crate) fn add_pairs(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (hi, e) = two_sum(a.0, b.0);
    (hi, (a.1 + b.1) + e)
}

/// The product of two `(high, low)` sums, to about twice the precision. Far from overflow.
#[inline(always)]
pub(crate) fn mul_pairs(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (p, e) = two_product(a.0, b.0);
    let e = e + (a.0 * b.1 + a.1 * b.0);
    (p, if e.is_finite() { e } else { 0.0 })
}

/// `a / b` with what it lacks by rounding; near the ends of the range without.
#[inline]
pub(crate) fn divide_pair(a: f64, b: f64) -> (f64, f64) {
    divide_by_pair(a, (b, 0.0))
}

/// The same for a `(high, low)` divisor.
#[inline]
pub(crate) fn divide_by_pair(a: f64, b: (f64, f64)) -> (f64, f64) {
    let q = a / b.0;
    let (p, e) = two_product(q, b.0);
    let low = (((a - p) - e) - q * b.1) / b.0;
    (q, if low.is_finite() { low } else { 0.0 })
}

/// `(m, k)` with `x = m 2^k` and `1 <= |m| < 2`; `(x, 0)` for zero, infinities and NaN.
#[inline]
pub(crate) fn frexp(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    // Subnormal numbers become normal ones first.
    let (x, shift) = if x.abs() < f64::MIN_POSITIVE { (x * 2f64.powi(64), 64) } else { (x, 0) };
    let bits = x.to_bits();
    let mantissa = f64::from_bits(bits & !(0x7ff << 52) | 1023 << 52);
    (mantissa, (bits >> 52 & 0x7ff) as i32 - 1023 - shift)
}

/// `x * 2^k`, in two steps where `|k|` is more than 1000, of which the first may round as well if `x` is small; `k`
/// counts up to 2000.
#[inline]
pub(crate) fn ldexp(x: f64, k: i32) -> f64 {
    let power = |k: i32| f64::from_bits(((k + 1023) as u64) << 52);
    let first = k.clamp(-1000, 1000);
    let rest = (k - first).clamp(-1000, 1000);
    if rest == 0 { x * power(first) } else { x * power(first) * power(rest) }
}
