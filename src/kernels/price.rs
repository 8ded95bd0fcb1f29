//! What the numerical contract costs in cache, as ratios: `cargo test --release --lib price -- --ignored --nocapture`.
//!
//! The loop over which a row's exponentials are computed and summed, on one thread, beside the same loop without one
//! of the properties that the contract asks for, or with one that it does not ask for.

#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::exact::ldexp;
use crate::float::{Acc, Double, Element, Single};
use crate::kernels::rowsum::row_sum;
use crate::math::{exp_scaled, magic};
use crate::simd::{Level, Simd, Task, dispatch, set_level};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Elements of a row, and rows: an array for the second-level cache.
const LEN: usize = 1024;
const ROWS: usize = 32;
const REPEATS: usize = 4;

/// Sums in vectors of the element type, in any order.
const BARE: u8 = 0;
/// Sums in `f64`, compensated for `f64`, in any order.
const WIDE: u8 = 1;
/// The same in fixed lanes.
const LANES: u8 = 2;
/// With the rounding error of every exponential, computed and summed as well.
const LOW_PART: u8 = 3;
/// The crate's row sum.
const ROW_SUM: u8 = 4;

struct Loop<'a, E: Element, const WAY: u8> {
    x: &'a [E::T],
    kept: &'a mut [E::T],
}

/// `exp(x)` and what it lacks by its last rounding, both scaled: the last steps of `math::exp_reduced` for `f32`, with
/// the exact difference of the last addition.
#[inline(always)]
fn exp_pair<E: Element, S: Simd>(s: S, x: E::V<S>, magic: E::V<S>) -> [E::V<S>; 2] {
    let splat = |v| E::splat(s, v);
    let t = E::fma(s, x, splat(E::LOG2E), magic);
    let n = E::sub(s, magic, t);
    let d = E::fma(s, n, splat(E::LN2_HI), x);
    let rest = E::mul(s, n, splat(E::LN2_LO));
    let r = E::add(s, d, rest);
    let mut p = splat(E::EXP[0]);
    for &c in &E::EXP[1..] {
        p = E::fma(s, p, r, splat(c));
    }
    let part = E::add(s, d, E::fma(s, E::mul(s, r, r), p, rest));
    let e = E::add(s, splat(E::ONE), part);
    let low = E::sub(s, part, E::sub(s, e, splat(E::ONE)));
    [e, low].map(|v| E::scale_by(s, v, t, splat(E::MAGIC_CUT)))
}

impl<E: Element, const WAY: u8> Loop<'_, E, WAY> {
    /// The sum of one row of `LEN` elements at `x`; the exponentials go to `kept`.
    #[inline(always)]
    unsafe fn row<S: Simd>(s: S, x: *const E::T, kept: *mut E::T) -> f64 {
        if WAY == ROW_SUM {
            // SAFETY: the caller's promise.
            let sum = unsafe { row_sum::<E, S>(s, x, LEN, None, kept, 0) };
            return ldexp(sum.hi + sum.lo, E::to_f64(sum.reference) as i32);
        }
        let (zero, step) = (E::splat(s, E::ZERO), 4 * E::WIDTH);
        let magic = magic::<E, S>(s, zero);
        let mut lanes = [zero; 4];
        for i in (0..LEN).step_by(step) {
            for (j, lane) in lanes.iter_mut().enumerate() {
                let i = i + j * E::WIDTH;
                // SAFETY: `LEN` is a multiple of the step.
                let x = unsafe { E::load(s, x.add(i)) };
                let e = if WAY == LOW_PART {
                    let [e, low] = exp_pair::<E, S>(s, x, magic);
                    *lane = E::add(s, *lane, low);
                    e
                } else {
                    exp_scaled::<E, S>(s, x, magic)
                };
                if WAY == BARE {
                    *lane = E::add(s, *lane, e);
                } else {
                    // SAFETY: as above.
                    unsafe { E::store(s, e, kept.add(i)) };
                }
            }
        }
        let lane = E::add(s, E::add(s, lanes[0], lanes[1]), E::add(s, lanes[2], lanes[3]));
        let mut sums: [Acc<S>; 4] = [[Double::splat(s, 0.0); 2]; 4];
        if WAY != BARE {
            for i in (0..LEN).step_by(step) {
                for j in 0..4 {
                    let k = if WAY == WIDE { j } else { 0 };
                    // SAFETY: as above.
                    sums[k] =
                        unsafe { E::accumulate_from(s, sums[k], kept.add(i + j * E::WIDTH).cast_const()) };
                }
            }
        }
        let mut sum = sums[0];
        if WAY == WIDE {
            sum = E::merge(s, E::merge(s, sum, sums[1]), E::merge(s, sums[2], sums[3]));
        }
        if WAY == BARE || WAY == LOW_PART {
            sum = E::accumulate(s, sum, lane);
        }
        let (high, low) = E::reduce(s, sum);
        high + low
    }
}

impl<E: Element, const WAY: u8> Task for Loop<'_, E, WAY> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (x, kept) = (self.x.as_ptr(), self.kept.as_mut_ptr());
        let row = |row: usize| (x.wrapping_add(row * LEN), kept.wrapping_add(row * LEN));
        let mut total = 0.0;
        for i in 0..ROWS {
            let (x, kept) = row(i);
            // SAFETY: both arrays have `ROWS` rows.
            total += unsafe { Self::row(s, x, kept) };
        }
        total
    }
}

/// The shortest time of some runs of every way, interleaved, and their sums.
fn times<E: Element>(level: Level) -> [(Duration, f64); 5] {
    let former = set_level(level);
    let x: Vec<E::T> =
        (0..ROWS * LEN).map(|i| E::from_f64((i * 7919 % 1009) as f64 / 1009.0 * 16.0 - 8.0)).collect();
    let mut kept = x.clone();
    let mut least = [(Duration::MAX, 0.0); 5];
    let (x, kept) = (&x[..], &mut kept[..]);
    for _ in 0..400 {
        macro_rules! run {
            ($way:expr) => {
                let start = Instant::now();
                let mut sum = 0.0;
                for _ in 0..REPEATS {
                    sum = dispatch(Loop::<E, $way> { x: black_box(x), kept: black_box(&mut *kept) });
                }
                let least = &mut least[usize::from($way)];
                *least = (least.0.min(start.elapsed()), sum);
            };
        }
        run!(BARE);
        run!(WIDE);
        run!(LANES);
        run!(LOW_PART);
        run!(ROW_SUM);
    }
    set_level(former);
    least
}

fn report<E: Element>(kind: &str) {
    println!("{kind}: ns/element of the row sum; ratios");
    println!("  level     row sum | wide/bare  fixed/free lanes  with/without low part  row sum/bare");
    let mut fastest = f64::INFINITY;
    for level in Level::available().into_iter().rev() {
        let times = times::<E>(level);
        let [bare, wide, lanes, low, row] = times.map(|(time, _)| time.as_secs_f64());
        let each = row / (REPEATS * ROWS * LEN) as f64 * 1e9;
        fastest = fastest.min(each);
        println!(
            "  {:9} {each:7.3} | {:9.2} {:17.2} {:22.2} {:13.2}    {:.2} times the best level",
            level.name(),
            wide / bare,
            lanes / wide,
            low / lanes,
            row / bare,
            each / fastest,
        );
        // Every way has summed the same.
        for (_, sum) in times {
            assert!((sum / times[4].1 - 1.0).abs() < 1e-5, "{sum}, not {}", times[4].1);
        }
    }
}

#[test]
#[ignore = "measures time"]
fn price() {
    report::<Single>("f32");
    report::<Double>("f64");
}
