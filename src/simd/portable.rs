//! The level without an instruction set: arrays and plain loops, which the compiler vectorises with the
//! target's baseline.
//!
//! The fused multiply-add is the instruction where the baseline has one. Elsewhere it is made from exact
//! sums and products: the error of a rounded operation is itself a number, and *rounding to odd* (an inexact
//! result takes the neighbour with the odd last bit) before the last operation keeps what a second rounding
//! would lose (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#![expect(unsafe_code, reason = "loads and stores take pointers")]

use super::{Lanes, Simd, Task, WORDS, map_each};
use crate::exact::{two_product, two_sum};

/// The token of the level that every processor has.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Whether `mul_add` is one instruction.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// `[f(a[i], ..)]` for all lanes.
macro_rules! each {
    (|$($a:ident),+| $e:expr) => {{
        let mut out = first!($($a),+);
        for i in 0..out.len() {
            $(let $a = $a[i];)+
            out[i] = $e;
        }
        out
    }};
}

macro_rules! first {
    ($a:ident $(, $rest:ident)*) => {
        $a
    };
}

/// Everything that does not depend on the format of the lanes.
macro_rules! lanes {
    ($T:ty, $width:literal, $mantissa:literal, $fma:path, $round:path, $power:path) => {
        impl Lanes<$T> for Portable {
            type V = [$T; $width];
            type M = [bool; $width];

            #[inline(always)]
            fn splat(self, x: $T) -> Self::V {
                [x; $width]
            }
            #[inline(always)]
            unsafe fn load(self, p: *const $T) -> Self::V {
                // SAFETY: the caller's promise.
                unsafe { p.cast::<Self::V>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn load_first(self, p: *const $T, n: usize, fill: $T) -> Self::V {
                debug_assert!(n <= $width);
                let mut v = [fill; $width];
                // SAFETY: the caller's promise for the source; `n` is at most the length of `v`.
                unsafe { p.copy_to_nonoverlapping(v.as_mut_ptr(), n) };
                v
            }
            #[inline(always)]
            unsafe fn store(self, v: Self::V, p: *mut $T) {
                // SAFETY: the caller's promise.
                unsafe { p.cast::<Self::V>().write_unaligned(v) }
            }
            #[inline(always)]
            unsafe fn store_first(self, v: Self::V, p: *mut $T, n: usize) {
                debug_assert!(n <= $width);
                // SAFETY: the caller's promise for the target; `n` is at most the length of `v`.
                unsafe { p.copy_from_nonoverlapping(v.as_ptr(), n) }
            }
            #[inline(always)]
            unsafe fn stream(self, v: Self::V, p: *mut $T) {
                // SAFETY: the caller's promise.
                unsafe { self.store(v, p) }
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| a + b)
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| a - b)
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| a * b)
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| a / b)
            }
            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                if FUSED { each!(|a, b, c| a.mul_add(b, c)) } else { $fma(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b| if a < b { a } else { b })
            }
            #[inline(always)]
            fn round(self, a: Self::V) -> Self::V {
                each!(|a| $round(a))
            }
            #[inline(always)]
            fn scale(self, p: Self::V, k: Self::V) -> Self::V {
                each!(|p, k| p * $power(k))
            }
            #[inline(always)]
            fn scale_by(self, p: Self::V, t: Self::V, cut: Self::V) -> Self::V {
                each!(|p, t, cut| if t < cut { 0.0 } else { p * <$T>::from_bits(t.to_bits() << $mantissa) })
            }
            #[inline(always)]
            fn scale_one_plus_by(self, w: Self::V, t: Self::V, cut: Self::V) -> Self::V {
                Lanes::<$T>::scale_by(self, each!(|w| 1.0 + w), t, cut)
            }
            #[inline(always)]
            fn lt(self, a: Self::V, b: Self::V) -> Self::M {
                let mut m = [false; $width];
                for i in 0..$width {
                    m[i] = a[i] < b[i];
                }
                m
            }
            #[inline(always)]
            fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
                each!(|a, b, m| if m { a } else { b })
            }
            #[inline(always)]
            fn replace_nan(self, v: Self::V, other: Self::V) -> Self::V {
                each!(|v, other| if v.is_nan() { other } else { v })
            }
            #[inline(always)]
            unsafe fn load_mask(self, p: *const u8) -> Self::M {
                // SAFETY: the caller's promise.
                let bytes: [u8; $width] = unsafe { p.cast::<[u8; $width]>().read() };
                map_each(bytes, |byte| byte != 0)
            }
            #[inline(always)]
            fn bits(self, m: Self::M) -> u32 {
                let mut bits = 0;
                for i in 0..$width {
                    bits |= u32::from(m[i]) << i;
                }
                bits
            }
            #[inline(always)]
            unsafe fn permute(self, v: Self::V, words: *const u32) -> Self::V {
                // SAFETY: the caller's promise.
                unsafe { Lanes::<$T>::permute2(self, v, words, v) }
            }
            #[inline(always)]
            unsafe fn permute2(self, a: Self::V, words: *const u32, b: Self::V) -> Self::V {
                // SAFETY: both have the size of two vectors, and any bits are numbers.
                let from: [u32; 2 * WORDS] = unsafe { std::mem::transmute([a, b]) };
                // SAFETY: the caller's promise.
                let words: [u32; WORDS] = unsafe { words.cast::<[u32; WORDS]>().read() };
                let to = map_each(words, |word| from[word as usize % (2 * WORDS)]);
                // SAFETY: as above, one vector.
                unsafe { std::mem::transmute(to) }
            }
            const PERMUTED: usize = 3;
            #[inline(always)]
            fn transpose(self, rows: &mut [Self::V]) {
                assert!(rows.len() == $width, "{} rows", $width);
                for i in 0..$width {
                    for j in 0..i {
                        let upper = rows[j][i];
                        rows[j][i] = rows[i][j];
                        rows[i][j] = upper;
                    }
                }
            }
        }
    };
}

lanes!(f32, 16, 23, fma_f32, round_f32, power_f32);
lanes!(f64, 8, 52, fma_f64, round_f64, power_f64);

impl Simd for Portable {
    const SUMS_APART: bool = false;
    const OVERLAPS: bool = false;
    const GROUP_BYTES: usize = 16 * 1024;
    #[inline(always)]
    fn widen(self, v: [f32; 16]) -> [[f64; 8]; 2] {
        let mut out = [[0.0; 8]; 2];
        for i in 0..8 {
            out[0][i] = f64::from(v[i]);
            out[1][i] = f64::from(v[8 + i]);
        }
        out
    }
    #[inline(always)]
    unsafe fn widen_from(self, p: *const f32) -> [[f64; 8]; 2] {
        // SAFETY: the caller's promise.
        self.widen(unsafe { self.load(p) })
    }
    #[inline(always)]
    unsafe fn widen_first_from(self, p: *const f32, n: usize) -> [[f64; 8]; 2] {
        // SAFETY: the caller's promise.
        self.widen(unsafe { self.load_first(p, n, 0.0) })
    }
    #[inline(always)]
    fn narrow(self, v: [[f64; 8]; 2]) -> [f32; 16] {
        let mut out = [0.0; 16];
        for i in 0..8 {
            out[i] = v[0][i] as f32;
            out[8 + i] = v[1][i] as f32;
        }
        out
    }
    type Halves = [u16; 16];
    #[inline(always)]
    unsafe fn store_halves(self, v: [u16; 16], p: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; 16]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn stream_halves(self, v: [u16; 16], p: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe { self.store_halves(v, p) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> [f32; 16] {
        // SAFETY: the caller's promise.
        map_each(unsafe { p.cast::<[u16; 16]>().read_unaligned() }, f16_to_f32)
    }
    #[inline(always)]
    fn narrow_f16(self, v: [f32; 16]) -> [u16; 16] {
        map_each(v, f32_to_f16)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> [f32; 16] {
        // SAFETY: the caller's promise.
        let v = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        map_each(v, |v| f32::from_bits(u32::from(v) << 16))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: [f32; 16]) -> [u16; 16] {
        map_each(v, |v| {
            let bits = v.to_bits();
            (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
        })
    }
    #[inline(always)]
    fn split_exponent(self, v: [f64; 8]) -> ([f64; 8], [f64; 8]) {
        let m = each!(|v| f64::from_bits(v.to_bits() & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000));
        // 2^52 + the biased exponent, as the bits of a double.
        let k = each!(|v| f64::from_bits(v.to_bits() >> 52 | 0x4330_0000_0000_0000) - (TWO_52 + 1023.0));
        (m, k)
    }
    #[inline(always)]
    fn fence(self) {}
    #[inline(always)]
    fn call<K: Task>(self, task: K) -> K::Out {
        task.enter(self)
    }
}

/// [`Task::run`] at this level. A method of the task, not a function of this file, because the compiler divides its work by
/// the modules of the types that methods belong to.
trait Entry: Task {
    fn enter(self, s: Portable) -> Self::Out;
}

impl<K: Task> Entry for K {
    #[inline(never)]
    fn enter(self, s: Portable) -> K::Out {
        self.run(s)
    }
}

/// The number of binary16 with these bits. Its exponent and significand stand where those of an `f32` do, but for the
/// bias; a subnormal one is made from a normal number and the first of its exponent.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    let bias = (127 - 15) << 23;
    let normal = rest + bias;
    let subnormal = f32::from_bits(normal + (1 << 23)) - f32::from_bits(bias + (1 << 23));
    let magnitude = if rest < 1 << 23 {
        subnormal.to_bits()
    } else if rest >= 31 << 23 {
        normal + bias
    } else {
        normal
    };
    f32::from_bits(sign | magnitude)
}

/// Rounded to binary16, to nearest even. Below the normal range, adding a number whose last bit is worth `2^-24` rounds;
/// above, half of what is cut off is added, less the smallest part where the last bit that stays is even.
#[inline(always)]
fn f32_to_f16(x: f32) -> u16 {
    let (sign, rest) = ((x.to_bits() >> 16 & 0x8000) as u16, x.to_bits() & 0x7fff_ffff);
    let subnormal = (f32::from_bits(rest) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = rest.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + (rest >> 13 & 1)) >> 13;
    let magnitude = if rest < (127 - 14) << 23 { subnormal } else { normal.min(0x7c00) };
    if rest > 0x7f80_0000 { 0x7e00 } else { sign | magnitude as u16 }
}

const TWO_23: f32 = (1u32 << 23) as f32;
const TWO_52: f64 = (1u64 << 52) as f64;

/// The nearest integer: adding 2^23 leaves no bit for a fraction; larger values, infinities and NaN are kept.
#[inline(always)]
fn round_f32(x: f32) -> f32 {
    let r = ((x.abs() + TWO_23) - TWO_23).copysign(x);
    if x.abs() < TWO_23 { r } else { x }
}

/// As [`round_f32`].
#[inline(always)]
fn round_f64(x: f64) -> f64 {
    let r = ((x.abs() + TWO_52) - TWO_52).copysign(x);
    if x.abs() < TWO_52 { r } else { x }
}

/// `2^k` for integral `k` in `-126..=127`: the sum's low bits are the biased exponent. Some number or NaN for
/// any other `k`.
#[inline(always)]
fn power_f32(k: f32) -> f32 {
    f32::from_bits((k + (1.5 * TWO_23 + 127.0)).to_bits() << 23)
}

/// `2^k` for integral `k` in `-1022..=1023`; as [`power_f32`].
#[inline(always)]
fn power_f64(k: f64) -> f64 {
    f64::from_bits((k + (1.5 * TWO_52 + 1023.0)).to_bits() << 52)
}

/// `s + e` rounded to odd, for the results of [`two_sum`]: an inexact sum with an even last bit moves to the
/// neighbour on the side of `e`. A NaN `e` counts as 0.
#[inline(always)]
fn round_to_odd(s: f64, e: f64) -> f64 {
    let outward = f64::from_bits(e.to_bits() ^ (s.to_bits() & 1 << 63));
    let step = u64::from(outward > 0.0).wrapping_sub(u64::from(outward < 0.0));
    let bits = s.to_bits();
    let even = (bits & 1).wrapping_sub(1);
    f64::from_bits(bits.wrapping_add(step & even))
}

/// `a * b + c`: the product of two `f32` is an exact `f64`, and rounding the sum of `f64` to `f32` is right unless the
/// first rounding has led to the middle between two `f32`, or the result is below the normal range. For these the sum
/// is rounded to odd before: 53 bits are at least two more than the result's.
#[inline(never)]
fn fma_f32(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
    #[cold]
    #[inline(never)]
    fn careful(a: &[f32; 16], b: &[f32; 16], c: &[f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| {
            let (s, e) = two_sum(f64::from(a[i]) * f64::from(b[i]), f64::from(c[i]));
            round_to_odd(s, e) as f32
        })
    }
    let mut doubt = 0;
    let sum = each!(|a, b, c| {
        let s = f64::from(a) * f64::from(b) + f64::from(c);
        // The bits that the second rounding takes away, as an integer that is 0 in the middle.
        let middle = (s.to_bits() as u32 & 0x1fff_ffff) ^ 0x1000_0000;
        doubt |= u32::from(middle == 0) | u32::from((s.abs() < f64::from(f32::MIN_POSITIVE)) & (s != 0.0));
        s as f32
    });
    if doubt == 0 { sum } else { careful(&a, &b, &c) }
}

/// `a * b + c` by [`fma_f64_quick`]; where that is in doubt, by [`fma_f64_fast`], or by [`fma_f64_exact`] where that is
/// not [`fast`].
#[inline(never)]
fn fma_f64(a: [f64; 8], b: [f64; 8], c: [f64; 8]) -> [f64; 8] {
    #[cold]
    #[inline(never)]
    fn careful(a: &[f64; 8], b: &[f64; 8], c: &[f64; 8]) -> [f64; 8] {
        let mut out = [0.0; 8];
        for i in 0..8 {
            out[i] = if fast(a[i], b[i], c[i]) {
                fma_f64_fast(a[i], b[i], c[i])
            } else {
                fma_f64_exact(a[i], b[i], c[i])
            };
        }
        out
    }
    let mut all = true;
    let sum = each!(|a, b, c| {
        let (sum, sure) = fma_f64_quick(a, b, c);
        all &= fast(a, b, c) & sure;
        sum
    });
    if all { sum } else { careful(&a, &b, &c) }
}

const TWO_500: f64 = f64::from_bits((1023 + 500) << 52);
const TWO_M500: f64 = f64::from_bits((1023 - 500) << 52);

/// Whether all steps of [`fma_f64_fast`] stay clear of overflow and underflow.
#[inline(always)]
fn fast(a: f64, b: f64, c: f64) -> bool {
    let product = (a * b).abs() >= TWO_M500;
    let zero = (a == 0.0) | (b == 0.0);
    (a.abs() <= TWO_500) & (b.abs() <= TWO_500) & (c.abs() <= TWO_500) & (product | zero)
}

/// `a * b + c` if [`fast`], and whether it is surely rounded right. Of the exact result `s + e + lo` the two small
/// terms are added with a rounding, and it is the same result unless that led to the middle between two numbers: the
/// middle's distance from `s` is a number, which rounding does not cross. (Either `e` is zero and `e + lo` exact, or `s`
/// is at least half as large as each of its terms, and the numbers around it have no more digits than that distance.)
#[inline(always)]
fn fma_f64_quick(a: f64, b: f64, c: f64) -> (f64, bool) {
    let (hi, lo) = two_product(a, b);
    let (s, e) = two_sum(hi, c);
    let small = e + lo;
    let sum = s + small;
    // In the middle, twice the rest is the distance to the next number, and the sum with it is exact.
    let rest = small - (sum - s);
    let twice = rest + rest;
    let sure = (rest == 0.0) | ((sum + twice) - sum != twice);
    // The sign of an exact zero is that of the unfused sum.
    (if sum == 0.0 { hi + c } else { sum }, sure)
}

/// `a * b + c` if [`fast`]: the exact result is a sum of three terms, of which the two small ones are added with
/// rounding to odd.
#[inline(always)]
fn fma_f64_fast(a: f64, b: f64, c: f64) -> f64 {
    let (hi, lo) = two_product(a, b);
    let (t, t_low) = two_sum(c, lo);
    let (s, s_low) = two_sum(hi, t);
    let (low, lost) = two_sum(t_low, s_low);
    let sum = s + round_to_odd(low, lost);
    // The sign of an exact zero is that of the unfused sum.
    if sum == 0.0 { hi + c } else { sum }
}

/// `a * b + c` for all operands, in integers.
fn fma_f64_exact(a: f64, b: f64, c: f64) -> f64 {
    /// `x * 2^-k`, any bit lost kept as the last bit.
    fn shift_right(x: u128, k: u32) -> u128 {
        if k == 0 {
            x
        } else if k < 128 {
            x >> k | u128::from(x << (128 - k) != 0)
        } else {
            u128::from(x != 0)
        }
    }
    /// `(m, e)` with `|x| = m * 2^e`.
    fn split(x: f64) -> (u128, i32) {
        let bits = x.to_bits();
        let (exponent, m) = ((bits >> 52 & 0x7ff) as i32, bits & 0x000f_ffff_ffff_ffff);
        if exponent == 0 { (u128::from(m), -1074) } else { (u128::from(m | 1 << 52), exponent - 1075) }
    }
    /// The same value with the first bit in place 126.
    fn normal((m, e): (u128, i32)) -> (u128, i32) {
        let k = m.leading_zeros() - 1;
        (m << k, e - k as i32)
    }
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a * b + c;
    }
    if !c.is_finite() {
        return c + c;
    }
    if c == 0.0 {
        return a * b;
    }
    let ((ma, ea), (mb, eb)) = (split(a), split(b));
    let product = (normal((ma * mb, ea + eb)), a.is_sign_negative() != b.is_sign_negative());
    let addend = (normal(split(c)), c.is_sign_negative());
    // By exponent, then mantissa: the larger magnitude first.
    let order = |&((m, e), _): &((u128, i32), bool)| (e, m);
    let (large, small) =
        if order(&product) >= order(&addend) { (product, addend) } else { (addend, product) };
    let (((x, e), negative), ((y, ey), y_negative)) = (large, small);
    let y = shift_right(y, (e - ey) as u32);
    let sum = if negative == y_negative { x + y } else { x - y };
    if sum == 0 {
        return 0.0;
    }
    // The result is `m * 2^unit`: 53 bits, fewer where it is subnormal.
    let unit = (e + 128 - sum.leading_zeros() as i32 - 53).max(-1074);
    let m = if unit <= e {
        sum << (e - unit)
    } else {
        // Two bits more than the result's say all about the rest.
        let m = shift_right(sum, ((unit - e) as u32).saturating_sub(2));
        let (m, rest) = if unit - e == 1 { (m >> 1, (m & 1) << 1) } else { (m >> 2, m & 3) };
        m + u128::from(rest > 2 || (rest == 2 && m & 1 == 1))
    };
    let magnitude =
        if unit > 971 { f64::INFINITY } else { f64::from_bits((((unit + 1074) as u64) << 52) + m as u64) };
    if negative { -magnitude } else { magnitude }
}
