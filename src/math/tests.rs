//! The largest errors of the functions, against a reference in double-double arithmetic.
//!
//! `cargo test --release --lib math -- --ignored --nocapture` takes every one of the 2^32 `f32` inputs, in some minutes.

#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use super::{
    exp_scaled, exp_wide, log_ratio, log_wide_begin, log_wide_end, log1p, log1p_unit_begin, log1p_unit_end,
    magic,
};
use crate::float::{Double, Element, Float, Single};
use crate::simd::{Simd, Task, dispatch};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

// --- double-double ---------------------------------------------------------------------------------------

/// The unevaluated sum of two numbers, about 104 bits.
type Dd = (f64, f64);

fn two_sum(a: f64, b: f64) -> Dd {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

fn add(a: Dd, b: Dd) -> Dd {
    let (s, e) = two_sum(a.0, b.0);
    two_sum(s, e + (a.1 + b.1))
}

fn mul(a: Dd, b: Dd) -> Dd {
    let p = a.0 * b.0;
    two_sum(p, a.0.mul_add(b.0, -p) + (a.0 * b.1 + a.1 * b.0))
}

/// ln 2 in three parts, 159 bits.
const LN2: [f64; 3] = [std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17, 5.707_708_438_416_212e-34];

/// `x - n ln 2`.
fn reduced(x: f64, n: f64) -> Dd {
    let first = n * LN2[0];
    let rest = mul((n, 0.0), (LN2[1], LN2[2]));
    let difference = two_sum(x, -first);
    add(add(difference, (-n.mul_add(LN2[0], -first), 0.0)), (-rest.0, -rest.1))
}

/// `1 / k!`
const INVERSE_FACTORIALS: [Dd; 19] = {
    let mut table = [(1.0, 0.0); 19];
    let (mut k, mut factorial) = (2, 1.0);
    while k < 19 {
        factorial *= k as f64; // exact up to 18!
        let high = 1.0 / factorial;
        // The remainder 1 - high * factorial is exact in halves of 26 bits, and in f64.
        let (hh, fh) = (upper(high), upper(factorial));
        let (hl, fl) = (high - hh, factorial - fh);
        let rest = (((1.0 - hh * fh) - hh * fl) - hl * fh) - hl * fl;
        table[k] = (high, rest / factorial);
        k += 1;
    }
    table
};

/// The upper 26 bits.
const fn upper(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & !0x7ff_ffff)
}

/// `exp(r)` for `|r| <= 0.4`, by its series; the smaller terms need no second number.
fn exp(r: Dd) -> Dd {
    let mut sum = INVERSE_FACTORIALS[18].0;
    for k in (10..18).rev() {
        sum = sum * r.0 + INVERSE_FACTORIALS[k].0;
    }
    let mut sum = (sum, 0.0);
    for k in (0..10).rev() {
        sum = add(INVERSE_FACTORIALS[k], mul(r, sum));
    }
    sum
}

/// `log(1 + t)`: one Newton step from the logarithm of the system's library, or the series.
fn log1p_reference(t: f64) -> Dd {
    if t < 1e-9 {
        let t = (t, 0.0);
        let square = mul(t, t);
        let cube = mul(square, t);
        return add(add(t, (-0.5 * square.0, -0.5 * square.1)), (cube.0 / 3.0 - cube.0 * t.0 / 4.0, 0.0));
    }
    let y = t.ln_1p();
    let n = (y * std::f64::consts::LOG2_E).round();
    let e = exp(reduced(-y, -n));
    let scale = 2f64.powi(-n as i32);
    let (one, low) = two_sum(1.0, t);
    let ratio = mul((one * scale, low * scale), e);
    let rest = add(ratio, (-1.0, 0.0));
    add((y, 0.0), (rest.0 - 0.5 * rest.0 * rest.0, rest.1))
}

// --- errors ----------------------------------------------------------------------------------------------

/// The largest error of a function in a unit, and where it is.
#[derive(Clone, Copy, Default, Debug)]
struct Worst {
    error: f64,
    at: f64,
}

impl Worst {
    fn see(&mut self, error: f64, at: f64) {
        assert!(!error.is_nan(), "no number at {at:e}");
        if error > self.error {
            *self = Worst { error, at };
        }
    }

    fn merge(&mut self, other: Worst) {
        if other.error > self.error {
            *self = other;
        }
    }

    fn check(&self, name: &str, bound: f64) {
        println!("{name}: {:.4} at {:e}, bound {bound}", self.error, self.at);
        assert!(self.error <= bound, "{name}: {self:?} is more than {bound}");
    }
}

/// The vectors of `x`, whose length is a multiple of the width, through the function.
struct Through<'a, E: Element> {
    x: &'a [E::T],
    out: &'a mut [E::T],
    wide: bool,
}

impl<E: Element> Task for Through<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.x.len() == self.out.len() && self.x.len().is_multiple_of(E::WIDTH));
        for i in (0..self.x.len()).step_by(E::WIDTH) {
            // SAFETY: the slices' length is a multiple of the width.
            let x = unsafe { E::load(s, self.x.as_ptr().add(i)) };
            let zero = E::splat(s, E::ZERO);
            let y = if self.wide {
                exp_wide::<E, S>(s, x, zero, zero)
            } else {
                // The reference that leaves nothing but the mantissa.
                let n = E::round(s, E::mul(s, x, E::splat(s, E::LOG2E)));
                exp_scaled::<E, S>(s, x, magic::<E, S>(s, n))
            };
            // SAFETY: as above.
            unsafe { E::store(s, y, self.out.as_mut_ptr().add(i)) };
        }
    }
}

/// The relative errors of `exp(x) 2^-n` in units of `2^-digits`; all `x` are within the range of the reduction.
fn exp_errors<T: Float>(worst: &mut Worst, x: &[T], digits: i32) {
    let mut y = vec![T::default(); x.len()];
    dispatch(Through::<T::Ops> { x, out: &mut y, wide: false });
    for (&x, &y) in x.iter().zip(&y) {
        let (x, y) = (T::Ops::to_f64(x), T::Ops::to_f64(y));
        let mut n = (x * std::f64::consts::LOG2_E).round();
        // Halfway between two powers of two the kernel may take the other one: its result says which.
        let rest = reduced(x, n);
        if y > 1.2 && rest.0 < 0.0 {
            n -= 1.0;
        } else if y < 0.8 && rest.0 > 0.0 {
            n += 1.0;
        }
        let rest = reduced(x, n);
        // The system's exponential has far more digits than an `f32`.
        let want = if digits == 24 { (rest.0.exp(), 0.0) } else { exp(rest) };
        let error = (((y - want.0) - want.1) / want.0).abs();
        worst.see(error * 2f64.powi(digits), x);
    }
}

/// Neighbours of `x`, a few on each side.
fn around<T: Float>(x: f64, step: f64) -> impl Iterator<Item = T> {
    (-8..8).map(move |k| T::Ops::from_f64(x + f64::from(k) * step * x.abs().max(1e-30)))
}

fn whole<T: Float>(mut x: Vec<T>, limit: f64) -> Vec<T> {
    x.retain(|&x| T::Ops::to_f64(x).abs() <= limit);
    x.resize(x.len().next_multiple_of(16), T::default());
    x
}

#[test]
fn exp_f32_sample() {
    let limit = f64::from(Single::MAX_LIMIT);
    let mut worst = Worst::default();
    // An odd step meets every exponent and every last bit.
    let x = (0..u32::MAX).step_by(4099).map(f32::from_bits).filter(|x| x.is_finite()).collect();
    exp_errors(&mut worst, &whole::<f32>(x, limit), 24);
    let halves = (-189_000..189_000).map(|k| f64::from(k) * 0.5 * std::f64::consts::LN_2);
    let x = halves.flat_map(|x| around(x, 6e-8)).collect();
    exp_errors(&mut worst, &whole::<f32>(x, limit), 24);
    worst.check("exp, f32, in 2^-24", 1.25);
}

/// Passes every `f32` of `0..end`, as bits, to a function, in pieces and on all processors.
fn every_f32<R: Send>(end: u64, work: impl Fn(&[f32]) -> R + Sync) -> Vec<R> {
    const PIECE: u64 = 1 << 20;
    let (next, results) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let start = next.fetch_add(PIECE, Relaxed);
                    if start >= end {
                        return;
                    }
                    let x: Vec<f32> =
                        (start..start + PIECE).map(|bits| f32::from_bits(bits as u32)).collect();
                    let result = work(&x);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

#[test]
#[ignore = "takes every f32"]
fn exp_f32_exhaustive() {
    let limit = f64::from(Single::MAX_LIMIT);
    let mut worst = Worst::default();
    for one in every_f32(1 << 32, |x| {
        let mut worst = Worst::default();
        exp_errors(&mut worst, &whole::<f32>(x.to_vec(), limit), 24);
        worst
    }) {
        worst.merge(one);
    }
    worst.check("exp, every f32, in 2^-24", 1.25);
}

/// Infinities and NaN included; where the result is below the normal range, in units of the smallest number.
#[test]
#[ignore = "takes every f32"]
fn exp_wide_f32_exhaustive() {
    let (mut normal, mut subnormal) = (Worst::default(), Worst::default());
    for (one, other) in every_f32(1 << 32, exp_wide_errors) {
        normal.merge(one);
        subnormal.merge(other);
    }
    normal.check("exp of any number, every f32, in 2^-24", 1.25);
    subnormal.check("the same below the normal range, in 2^-149", 1.0);
}

fn exp_wide_errors(x: &[f32]) -> (Worst, Worst) {
    let (mut normal, mut subnormal) = (Worst::default(), Worst::default());
    let mut y = vec![0.0; x.len()];
    dispatch(Through::<Single> { x, out: &mut y, wide: true });
    for (&x, &y) in x.iter().zip(&y) {
        let (want, got) = (f64::from(x).exp(), f64::from(y));
        if x.is_nan() || want >= 2f64.powi(128) {
            assert!(if x.is_nan() { y.is_nan() } else { y == f32::INFINITY }, "exp({x}) = {y}");
        } else if want >= 2f64.powi(-126) {
            normal.see((got / want - 1.0).abs() * 2f64.powi(24), x.into());
        } else {
            subnormal.see((got - want).abs() * 2f64.powi(149), x.into());
        }
    }
    (normal, subnormal)
}

/// A plain generator of bits.
fn bits(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let x = *state ^ (*state >> 29);
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (x >> 32)
}

fn uniform(state: &mut u64) -> f64 {
    (bits(state) >> 11) as f64 * 2f64.powi(-53)
}

#[test]
fn exp_f64_sample() {
    let mut worst = Worst::default();
    let mut state = 1;
    for reach in [1e-8, 1e-3, 0.35, 1.0, 10.0, 700.0, 1e5, Double::MAX_LIMIT] {
        let x = (0..40_000).map(|_| (2.0 * uniform(&mut state) - 1.0) * reach).collect();
        exp_errors(&mut worst, &whole::<f64>(x, Double::MAX_LIMIT), 53);
    }
    let halves = (-3000..3000).map(|k| f64::from(k) * 0.5 * std::f64::consts::LN_2);
    let x = halves.flat_map(|x| around(x, 1.2e-16)).collect();
    exp_errors(&mut worst, &whole::<f64>(x, Double::MAX_LIMIT), 53);
    worst.check("exp, f64, in 2^-53", 1.35);
}

/// Beyond the range that the scaled exponential takes: overflow, underflow, and nothing in between is lost.
#[test]
fn exp_wide_range() {
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN, 1e-45];
    let mut x: Vec<f32> = (-200_000..200_000).map(|k| k as f32 * 1e-3).chain(specials).collect();
    x.resize(x.len().next_multiple_of(16), 0.0);
    let (normal, subnormal) = exp_wide_errors(&x);
    normal.check("exp of any number, in 2^-24", 1.25);
    subnormal.check("the same below the normal range, in 2^-149", 1.0);
    let x = [f64::NEG_INFINITY, -1e300, -1e9, 1e9, 1e300, f64::INFINITY, f64::NAN, 0.0];
    let mut y = [0.0; 8];
    dispatch(Through::<Double> { x: &x, out: &mut y, wide: true });
    assert_eq!(y[..3], [0.0; 3]);
    assert_eq!(y[3..6], [f64::INFINITY; 3]);
    assert!(y[6].is_nan());
    assert_eq!(y[7].to_bits(), 1f64.to_bits());
}

struct Log<'a> {
    t: &'a [f64],
    out: &'a mut [Dd],
}

impl Task for Log<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (t, out) in self.t.chunks_exact(8).zip(self.out.chunks_exact_mut(8)) {
            let (mut high, mut low) = ([0.0; 8], [0.0; 8]);
            // SAFETY: 8 elements each.
            unsafe {
                let (h, l) = log1p(s, Double::load(s, t.as_ptr()), Double::splat(s, 0.0));
                Double::store(s, h, high.as_mut_ptr());
                Double::store(s, l, low.as_mut_ptr());
            }
            for i in 0..8 {
                out[i] = (high[i], low[i]);
            }
        }
    }
}

/// Largest errors of the pair, in `2^-55` of the larger of 1 and the result, and of the value, in ulp.
fn log1p_errors(t: &[f64]) -> (Worst, Worst) {
    let mut y = vec![(0.0, 0.0); t.len()];
    dispatch(Log { t, out: &mut y });
    let (mut pair, mut value) = (Worst::default(), Worst::default());
    for (&t, &y) in t.iter().zip(&y) {
        let want = log1p_reference(t);
        let difference = ((y.0 - want.0) - want.1 + y.1).abs();
        pair.see(difference / want.0.max(1.0) * 2f64.powi(55), t);
        let ulp = f64::from_bits(want.0.to_bits() + 1) - want.0;
        value.see(((y.0 - want.0) - want.1).abs() / ulp, t);
    }
    (pair, value)
}

#[test]
fn log1p_sample() {
    let (mut state, mut other) = (2, 3);
    // Every exponent; the neighbourhoods of 1, of sqrt 2 and of powers of two.
    let mut t: Vec<f64> = (0..400_000)
        .map(|i| f64::from_bits((bits(&mut state) >> 12) | (1 + i % 2045) << 52))
        .chain((0..100_000).map(|_| uniform(&mut other)))
        .chain((0..60).flat_map(|k| around(2f64.powi(k) * std::f64::consts::SQRT_2 - 1.0, 1.2e-16)))
        .chain((0..60).flat_map(|k| around(2f64.powi(k) - 1.0, 1.2e-16)))
        .map(f64::abs)
        .collect();
    t.resize(t.len().next_multiple_of(8), 0.5);
    let (pair, value) = log1p_errors(&t);
    pair.check("log1p, the pair, in 2^-55 of max(1, it)", 1.0);
    value.check("log1p, the value, in ulp", 0.8);
}

/// [`log_ratio`] of `f32` rows: the logarithms of `1 + t` for `others = t peak`.
struct LogRatio<'a> {
    t: &'a [f64],
    peak: f32,
    out: &'a mut [f64],
}

impl Task for LogRatio<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let peak = Double::splat(s, self.peak.into());
        for (t, out) in self.t.chunks_exact(16).zip(self.out.chunks_exact_mut(16)) {
            // SAFETY: 16 elements each.
            unsafe {
                let t = [Double::load(s, t.as_ptr()), Double::load(s, t.as_ptr().add(8))];
                let others = [Double::mul(s, t[0], peak), Double::mul(s, t[1], peak)];
                let log = log_ratio::<Single, S>(s, others, [peak; 2]);
                Double::store(s, log[0], out.as_mut_ptr());
                Double::store(s, log[1], out.as_mut_ptr().add(8));
            }
        }
    }
}

/// The largest relative error, in `2^-33`.
fn log_ratio_error(t: &[f64], peak: f32) -> Worst {
    let mut y = vec![0.0; t.len()];
    dispatch(LogRatio { t, peak, out: &mut y });
    let mut worst = Worst::default();
    for (&t, &y) in t.iter().zip(&y) {
        let want = t.ln_1p();
        if t == 0.0 {
            assert_eq!(y.to_bits(), 0);
        } else {
            worst.see((y - want).abs() / want * 2f64.powi(33), t);
        }
    }
    worst
}

#[test]
fn log_ratio_sample() {
    let mut state = 5;
    // What is left of a sum may be anything down to nothing.
    let mut t: Vec<f64> = (0..200_000)
        .map(|i| f64::from_bits((bits(&mut state) >> 12) | (1023 - 300 + i % 340) << 52))
        .chain((0..40).flat_map(|k| around(2f64.powi(k) * std::f64::consts::SQRT_2 - 1.0, 1.2e-16)))
        .chain((0..40).flat_map(|k| around(2f64.powi(k) - 1.0, 1.2e-16)))
        .map(f64::abs)
        .collect();
    t.resize(t.len().next_multiple_of(16), 0.5);
    let mut worst = Worst::default();
    // From the smallest stored exponential to the largest.
    for power in [-125, -76, 0, 49, 50, 80] {
        for mantissa in [1.0, 1.1, 1.41, 1.999_999_9] {
            worst.merge(log_ratio_error(&t, mantissa * 2f32.powi(power)));
        }
    }
    worst.check("log(1 + others / peak) of f32 rows, in 2^-33", 1.0);
}

#[test]
#[ignore = "takes every f32"]
fn log_ratio_f32_exhaustive() {
    let mut worst = Worst::default();
    for one in every_f32(0x7f80_0000, |x| {
        let t: Vec<f64> = x.iter().map(|&x| if x.is_finite() { f64::from(x) } else { 0.5 }).collect();
        log_ratio_error(&t, 1.25)
    }) {
        worst.merge(one);
    }
    worst.check("log(1 + others / peak) for every f32 from 0, in 2^-33", 1.0);
}

// --- logarithms of single numbers ------------------------------------------------------------------------

/// `log(x)` for positive finite `x`: one Newton step from the logarithm of the system's library.
fn log_reference(x: f64) -> Dd {
    if (x - 1.0).abs() < 0.3 {
        // y - 1 + x exp(-y) cancels least where the logarithm is small.
        let y = x.ln();
        let ratio = mul((x, 0.0), exp((-y, 0.0)));
        let rest = add(ratio, (-1.0, 0.0));
        return add((y, 0.0), (rest.0 - 0.5 * rest.0 * rest.0, rest.1));
    }
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 2f64.powi(64), 64.0) } else { (x, 0.0) };
    let y = x.ln();
    let n = (y * std::f64::consts::LOG2_E).round();
    let e = exp(reduced(-y, -n));
    // In two steps: 2^-n itself may be subnormal.
    let (half, rest) = ((n / 2.0).trunc() as i32, n as i32 - (n / 2.0).trunc() as i32);
    let ratio = mul((x * 2f64.powi(-half) * 2f64.powi(-rest), 0.0), e);
    let rest = add(ratio, (-1.0, 0.0));
    let log = add((y, 0.0), (rest.0 - 0.5 * rest.0 * rest.0, rest.1));
    let low = mul((shift, 0.0), (LN2[1], LN2[2]));
    let first = shift * LN2[0];
    add(add(log, (-first, -shift.mul_add(LN2[0], -first))), (-low.0, -low.1))
}

struct Logs<'a> {
    x: &'a [f64],
    out: &'a mut [Dd],
}

impl Task for Logs<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(8).zip(self.out.chunks_exact_mut(8)) {
            let (mut high, mut low) = ([0.0; 8], [0.0; 8]);
            // SAFETY: 8 elements each.
            unsafe {
                let x = [Double::load(s, x.as_ptr()), Double::splat(s, 0.0)];
                let log = log_wide_end::<Double, S>(s, x, log_wide_begin::<Double, S>(s, x));
                Double::store(s, log[0], high.as_mut_ptr());
                Double::store(s, log[1], low.as_mut_ptr());
            }
            for i in 0..8 {
                out[i] = (high[i], low[i]);
            }
        }
    }
}

/// The largest errors of the logarithm of positive numbers: of the rounded value, in ulp, and of the pair, in
/// `2^-55` of the larger of 1 and the result.
fn log_errors(x: &[f64]) -> (Worst, Worst) {
    let mut y = vec![(0.0, 0.0); x.len()];
    dispatch(Logs { x, out: &mut y });
    let (mut value, mut pair) = (Worst::default(), Worst::default());
    for (&x, &y) in x.iter().zip(&y) {
        let want = log_reference(x);
        let ulp = f64::from_bits(want.0.abs().to_bits() + 1) - want.0.abs();
        value.see(((y.0 - want.0) - want.1).abs() / ulp, x);
        let difference = ((y.0 - want.0) - want.1 + y.1).abs();
        pair.see(difference / want.0.abs().max(1.0) * 2f64.powi(55), x);
    }
    (value, pair)
}

#[test]
fn log_sample() {
    let (mut state, mut other) = (7, 8);
    // Every exponent, subnormal numbers, and the neighbourhoods of 1, of sqrt 2 and of powers of two.
    let mut x: Vec<f64> = (0..400_000)
        .map(|i| f64::from_bits((bits(&mut state) >> 12) | (i % 2047) << 52))
        .chain((0..100_000).map(|_| uniform(&mut other).max(1e-300)))
        .chain((-1000..1000).flat_map(|k| around(2f64.powi(k) * std::f64::consts::SQRT_2, 1.2e-16)))
        .chain((-1000..1000).flat_map(|k| around(2f64.powi(k), 1.2e-16)))
        .chain((1..50).flat_map(|k| around(1.0, 2f64.powi(-k))))
        .filter(|&x| x > 0.0)
        .collect();
    x.resize(x.len().next_multiple_of(8), 0.5);
    let (value, pair) = log_errors(&x);
    value.check("log, the value, in ulp", 0.8);
    pair.check("log, the pair, in 2^-55 of max(1, it)", 1.0);
}

#[test]
fn log_of_special_numbers() {
    let x = [0.0, -0.0, f64::INFINITY, f64::NAN, -1.0, f64::NEG_INFINITY, 1.0, -5e-324];
    let mut y = [(9.0, 9.0); 8];
    dispatch(Logs { x: &x, out: &mut y });
    assert_eq!(y[..3], [(f64::NEG_INFINITY, 0.0), (f64::NEG_INFINITY, 0.0), (f64::INFINITY, 0.0)]);
    assert_eq!(y[6], (0.0, 0.0));
    for i in [3, 4, 5, 7] {
        assert!(y[i].0.is_nan(), "log({}) = {:?}", x[i], y[i]);
    }
}

/// The logarithms of wide `f32` numbers; or those of 1 plus any wide numbers, by [`log1p_unit_begin`] and its other half.
struct WideLogs<'a> {
    x: &'a [f64],
    unit: bool,
    out: &'a mut [f64],
}

impl Task for WideLogs<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(16).zip(self.out.chunks_exact_mut(16)) {
            // SAFETY: 16 elements each.
            unsafe {
                let x = [Double::load(s, x.as_ptr()), Double::load(s, x.as_ptr().add(8))];
                let log = if self.unit {
                    log1p_unit_end::<Single, S>(s, log1p_unit_begin::<Single, S>(s, x))
                } else {
                    log_wide_end::<Single, S>(s, x, log_wide_begin::<Single, S>(s, x))
                };
                Double::store(s, log[0], out.as_mut_ptr());
                Double::store(s, log[1], out.as_mut_ptr().add(8));
            }
        }
    }
}

/// The largest relative error of the logarithms of `f32` numbers, in `2^-33`.
fn wide_log_error(x: &[f64]) -> Worst {
    let mut y = vec![9.0; x.len()];
    dispatch(WideLogs { x, unit: false, out: &mut y });
    let mut worst = Worst::default();
    for (&x, &y) in x.iter().zip(&y) {
        if x == 1.0 {
            assert_eq!(y.to_bits(), 0);
        } else {
            // The system's logarithm has far more digits.
            let want = x.ln();
            worst.see(((y - want) / want).abs() * 2f64.powi(33), x);
        }
    }
    worst
}

#[test]
fn wide_log_sample() {
    let mut state = 9;
    let mut x: Vec<f32> = (0..400_000)
        .map(|i| f32::from_bits((bits(&mut state) >> 41) as u32 | (i % 255) << 23))
        .chain((-125..125).flat_map(|k| around(2f64.powi(k) * std::f64::consts::SQRT_2, 6e-8)))
        .chain((-125..125).flat_map(|k| around(2f64.powi(k), 6e-8)))
        .chain((1..24).flat_map(|k| around(1.0, 2f64.powi(-k))))
        .filter(|&x| x > 0.0)
        .collect();
    x.resize(x.len().next_multiple_of(16), 0.5);
    let x: Vec<f64> = x.into_iter().map(f64::from).collect();
    wide_log_error(&x).check("log of f32 numbers, in 2^-33", 1.0);
}

#[test]
fn wide_log_of_special_numbers() {
    let mut x = [0.25; 32];
    let special = [0.0, -0.0, f64::INFINITY, f64::NAN, -1.0, f64::NEG_INFINITY, 1.0, -1e-45];
    x[3..11].copy_from_slice(&special);
    let mut y = [9.0; 32];
    dispatch(WideLogs { x: &x, unit: false, out: &mut y });
    assert_eq!(y[3..6], [f64::NEG_INFINITY, f64::NEG_INFINITY, f64::INFINITY]);
    assert_eq!(y[9].to_bits(), 0);
    for i in [6, 7, 8, 10] {
        assert!(y[i].is_nan(), "log({}) = {}", x[i], y[i]);
    }
    // Among special numbers, or not, the same bits.
    for i in (0..32).filter(|i| !(3..11).contains(i)) {
        assert_eq!(y[i].to_bits(), y[31].to_bits());
    }
}

#[test]
#[ignore = "takes every f32"]
fn wide_log_f32_exhaustive() {
    let mut worst = Worst::default();
    for one in every_f32(0x7f80_0000, |x| {
        let positive = |&x: &f32| if x > 0.0 && x.is_finite() { f64::from(x) } else { 0.5 };
        wide_log_error(&x.iter().map(positive).collect::<Vec<f64>>())
    }) {
        worst.merge(one);
    }
    worst.check("log of every f32, in 2^-33", 1.0);
}

/// The largest relative error of the logarithms of `1 + t`, in `2^-37`.
fn log1p_unit_error(t: &[f64]) -> Worst {
    let mut y = vec![0.0; t.len()];
    dispatch(WideLogs { x: t, unit: true, out: &mut y });
    let mut worst = Worst::default();
    for (&t, &y) in t.iter().zip(&y) {
        if t == 0.0 {
            assert_eq!(y.to_bits(), 0);
        } else {
            worst.see((y - t.ln_1p()).abs() / t.ln_1p() * 2f64.powi(37), t);
        }
    }
    worst
}

#[test]
fn log1p_unit_sample() {
    let (mut state, mut other) = (11, 12);
    let mut t: Vec<f64> = (0..200_000)
        .map(|i| f64::from_bits((bits(&mut state) >> 12) | (1023 - 995 + i % 995) << 52))
        .chain((0..200_000).map(|_| uniform(&mut other)))
        .chain([0.0, 1.0])
        .collect();
    t.resize(t.len().next_multiple_of(16), 0.5);
    log1p_unit_error(&t).check("log(1 + t) of f32 elements, t up to 1, in 2^-37", 1.0);
}

#[test]
#[ignore = "takes every f32"]
fn log1p_unit_f32_exhaustive() {
    let mut worst = Worst::default();
    for one in every_f32(0x3f80_0000, |x| {
        log1p_unit_error(&x.iter().map(|&x| if x <= 1.0 { f64::from(x) } else { 1.0 }).collect::<Vec<_>>())
    }) {
        worst.merge(one);
    }
    worst.check("log(1 + t) for every f32 up to 1, in 2^-37", 1.0);
}
