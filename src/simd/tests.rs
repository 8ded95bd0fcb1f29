//! Every operation of every level that this processor has, against the scalar operations of the standard
//! library, on random bit patterns and on the values where floating-point arithmetic goes wrong.
#![expect(unsafe_code, reason = "loads and stores take pointers")]

use super::{Lanes, Level, Simd, Task, VECTOR_BYTES, WORDS};
use crate::exact::add_pairs;
use crate::float::{Double, Element, Single};
use crate::kernels::rowsum::reference;
use crate::math::{exp_scaled, magic};
use std::fmt::Debug;

/// Runs a task at a level without touching the level of the process.
fn run_at<K: Task>(level: Level, task: K) -> K::Out {
    assert!(level.is_available());
    match level {
        Level::Portable => super::portable::Portable.call(task),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is available.
        Level::Avx2 => unsafe { super::avx2::Avx2::assume() }.call(task),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is available.
        Level::Avx512 => unsafe { super::avx512::Avx512::assume() }.call(task),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!(),
    }
}

/// `name: { statements }` becomes a test that runs the statements, with `s` the token, at every level.
macro_rules! at_every_level {
    ($($name:ident: |$s:ident| $body:block)+) => {$(
        #[test]
        fn $name() {
            struct Check;
            impl Task for Check {
                type Out = ();
                #[inline(always)]
                fn run<S: Simd>(self, $s: S) $body
            }
            for level in Level::available() {
                println!("{}", level.name());
                run_at(level, Check);
            }
        }
    )+};
}

at_every_level! {
    arithmetic_f32: |s| { arithmetic::<f32, S>(s) }
    arithmetic_f64: |s| { arithmetic::<f64, S>(s) }
    fma_f32: |s| { fma::<f32, S>(s) }
    fma_f64: |s| { fma::<f64, S>(s) }
    exact_product: |s| { products(s) }
    round_f32: |s| { round::<f32, S>(s) }
    round_f64: |s| { round::<f64, S>(s) }
    scale_by_f32: |s| { scale_by::<f32, S>(s, 1.5 * 8_388_608.0 + 127.0) }
    scale_by_f64: |s| { scale_by::<f64, S>(s, 1.5 * 4_503_599_627_370_496.0 + 1023.0) }
    scale_one_plus_by_f32: |s| { scale_one_plus_by::<f32, S>(s, 1.5 * 8_388_608.0 + 127.0) }
    scale_one_plus_by_f64: |s| { scale_one_plus_by::<f64, S>(s, 1.5 * 4_503_599_627_370_496.0 + 1023.0) }
    scale_f32: |s| { scale::<f32, S>(s) }
    scale_f64: |s| { scale::<f64, S>(s) }
    comparison_f32: |s| { comparison::<f32, S>(s) }
    comparison_f64: |s| { comparison::<f64, S>(s) }
    memory_f32: |s| { memory::<f32, S>(s) }
    memory_f64: |s| { memory::<f64, S>(s) }
    transpose_f32: |s| { transpose::<f32, S>(s) }
    transpose_f64: |s| { transpose::<f64, S>(s) }
    permute_f32: |s| { permute::<f32, S>(s) }
    permute_f64: |s| { permute::<f64, S>(s) }
    columns_f32: |s| { columns::<f32, S>(s) }
    columns_f64: |s| { columns::<f64, S>(s) }
    scaled_rows_f32: |s| { scaled_rows::<f32, S>(s) }
    scaled_rows_f64: |s| { scaled_rows::<f64, S>(s) }
    row_sums_f32: |s| { sums_of_rows(s) }
    row_sums_f64: |s| { compensated_sums_of_rows(s) }
    exponentials_and_their_sum_f32: |s| { exp_sum::<Single, S>(s) }
    exponentials_and_their_sum_f64: |s| { exp_sum::<Double, S>(s) }
    exponentials_f32: |s| { exponentials::<Single, S>(s) }
    exponentials_f64: |s| { exponentials::<Double, S>(s) }
    bare_exponentials_f32: |s| { bare_exp_sum::<Single, S>(s) }
    bare_exponentials_f64: |s| { bare_exp_sum::<Double, S>(s) }
    widen_first_lanes: |s| { widen_first(s) }
    widen_and_narrow: |s| { passage(s) }
    split_exponent: |s| { exponent(s) }
    binary16: |s| { halves::<S, 10>(s) }
    bfloat16: |s| { halves::<S, 7>(s) }
    mask_f32: |s| { masks::<f32, S>(s) }
    mask_f64: |s| { masks::<f64, S>(s) }
}

/// How many vectors an ordinary check takes.
const ROUNDS: usize = 20_000;

#[inline(always)]
fn arithmetic<T: Number, S: Lanes<T>>(s: S) {
    let mut random = Random(1);
    for _ in 0..ROUNDS {
        let (a, b) = pairs::<T>(&mut random);
        let (va, vb) = (vector(s, &a), vector(s, &b));
        expect(&numbers(s, s.add(va, vb)), &[&a, &b], |x| x[0] + x[1]);
        expect(&numbers(s, s.sub(va, vb)), &[&a, &b], |x| x[0] - x[1]);
        expect(&numbers(s, s.mul(va, vb)), &[&a, &b], |x| x[0] * x[1]);
        expect(&numbers(s, s.div(va, vb)), &[&a, &b], |x| x[0] / x[1]);
        expect(&numbers(s, s.max(va, vb)), &[&a, &b], |x| if x[0] > x[1] { x[0] } else { x[1] });
        expect(&numbers(s, s.splat(a[0])), &[&a], |_| a[0]);
    }
}

/// Millions of cases. The reference is the mathematics library's where the baseline has no instruction.
#[inline(always)]
fn fma<T: Number, S: Lanes<T>>(s: S) {
    let mut random = Random(2);
    for _ in 0..20 * ROUNDS {
        let [mut a, mut b, mut c] = [lanes::<T>(), lanes::<T>(), lanes::<T>()];
        // A vector is either wholly ordinary, or anything, so that a level that decides by vectors is seen
        // on both of its ways.
        let ordinary = random.below(2) == 0;
        for i in 0..a.len() {
            (a[i], b[i], c[i]) = triple(&mut random, ordinary);
        }
        let got = numbers(s, s.fma(vector(s, &a), vector(s, &b), vector(s, &c)));
        expect(&got, &[&a, &b, &c], |x| x[0].mul_add(x[1], x[2]));
    }
}

#[inline(always)]
fn products<S: Simd>(s: S) {
    let mut random = Random(19);
    for _ in 0..ROUNDS {
        let [mut a, mut b, mut c] = [lanes::<f64>(), lanes::<f64>(), lanes::<f64>()];
        for i in 0..a.len() {
            (a[i], b[i]) = (f64::from(f32::any(&mut random)), f64::from(f32::any(&mut random)));
            // Anything, or what cancels but for a few bits.
            c[i] = if random.below(2) == 0 { f64::any(&mut random) } else { -(a[i] * b[i]).next_up() };
        }
        let [va, vb, vc] = [&a, &b, &c].map(|x| vector::<f64, S>(s, x));
        expect(&numbers(s, Lanes::<f64>::add_exact_product(s, va, vb, vc)), &[&a, &b, &c], |x| {
            x[0] * x[1] + x[2]
        });
    }
}

#[inline(always)]
fn round<T: Number, S: Lanes<T>>(s: S) {
    let mut random = Random(3);
    for _ in 0..ROUNDS {
        let mut a = lanes::<T>();
        for x in &mut a {
            // Half of them between 1/4 and the first power of two without fractions, ties among them.
            *x = if random.below(2) == 0 {
                T::any(&mut random)
            } else {
                let exponent = T::BIAS - 2 + random.below(u64::from(T::MANTISSA) + 4);
                T::with_exponent(&mut random, exponent)
            };
        }
        expect(&numbers(s, s.round(vector(s, &a))), &[&a], |x| x[0].round_ties_even());
    }
}

#[inline(always)]
fn scale_by<T: Number, S: Lanes<T>>(s: S, magic: T) {
    let mut random = Random(14);
    for _ in 0..ROUNDS {
        let (mut p, mut t, mut power, mut cut) = (lanes::<T>(), lanes::<T>(), lanes::<T>(), lanes::<T>());
        for i in 0..p.len() {
            p[i] = T::any(&mut random);
            let biased = 1 + random.below(2 * T::BIAS);
            power[i] = T::from_bits(biased << T::MANTISSA);
            t[i] = magic + T::integer(biased as i64 - T::BIAS as i64);
            cut[i] = magic + T::integer(random.below(2 * T::BIAS) as i64 - T::BIAS as i64);
        }
        let got = numbers(s, s.scale_by(vector(s, &p), vector(s, &t), vector(s, &cut)));
        expect(&got, &[&p, &power, &t, &cut], |x| if x[2] < x[3] { T::integer(0) } else { x[0] * x[1] });

        // A NaN stays one where `t` is NaN or +inf; anything is 0 where `t` is -inf.
        for i in 0..p.len() {
            p[i] = T::from_bits(T::NAN | random.below(1 << (T::MANTISSA - 1)));
            let infinity = T::with_exponent(&mut random, 2 * T::BIAS) * T::integer(1 << 40);
            t[i] = [p[i], infinity * infinity, T::integer(-1) * infinity * infinity][i % 3];
            if i % 3 == 2 {
                power[i] = T::integer(0);
            } else {
                power[i] = p[i];
            }
        }
        let got = numbers(s, s.scale_by(vector(s, &p), vector(s, &t), vector(s, &cut)));
        expect(&got, &[&power], |x| x[0]);
    }
}

#[inline(always)]
fn scale_one_plus_by<T: Number, S: Lanes<T>>(s: S, magic: T) {
    let mut random = Random(21);
    for _ in 0..ROUNDS {
        let (mut w, mut t, mut power, mut cut) = (lanes::<T>(), lanes::<T>(), lanes::<T>(), lanes::<T>());
        for i in 0..w.len() {
            // Between -0.5 and 1, down to far below the last bit of 1.
            let exponent = T::BIAS - 1 - random.below(u64::from(T::MANTISSA) + 4);
            w[i] = T::with_exponent(&mut random, exponent);
            if exponent == T::BIAS - 1 && w[i] < T::integer(0) {
                w[i] = -w[i];
            }
            let biased = 2 + random.below(2 * T::BIAS - 2);
            power[i] = T::from_bits(biased << T::MANTISSA);
            t[i] = magic + T::integer(biased as i64 - T::BIAS as i64);
            cut[i] = magic + T::integer(random.below(2 * T::BIAS) as i64 - T::BIAS as i64);
        }
        let got = numbers(s, s.scale_one_plus_by(vector(s, &w), vector(s, &t), vector(s, &cut)));
        expect(&got, &[&w, &power, &t, &cut], |x| {
            if x[2] < x[3] { T::integer(0) } else { (T::integer(1) + x[0]) * x[1] }
        });

        // A NaN `w` stays one where `t` is NaN or +inf; anything is 0 where `t` is -inf.
        for i in 0..w.len() {
            w[i] = T::from_bits(T::NAN | random.below(1 << (T::MANTISSA - 1)));
            let infinity = T::with_exponent(&mut random, 2 * T::BIAS) * T::integer(1 << 40);
            t[i] = [w[i], infinity * infinity, -infinity * infinity][i % 3];
        }
        let got = numbers(s, s.scale_one_plus_by(vector(s, &w), vector(s, &t), vector(s, &cut)));
        for (i, got) in got.into_iter().enumerate() {
            assert!(
                if i % 3 == 2 { got == T::integer(0) } else { got.partial_cmp(&got).is_none() },
                "{:?} by {:?}",
                w[i],
                t[i]
            );
        }
    }
}

#[inline(always)]
fn scale<T: Number, S: Lanes<T>>(s: S) {
    let mut random = Random(4);
    for _ in 0..ROUNDS {
        let (mut p, mut k, mut power) = (lanes::<T>(), lanes::<T>(), lanes::<T>());
        for i in 0..p.len() {
            p[i] = T::any(&mut random);
            let biased = 1 + random.below(2 * T::BIAS);
            power[i] = T::from_bits(biased << T::MANTISSA);
            k[i] = T::integer(biased as i64 - T::BIAS as i64);
        }
        let got = numbers(s, s.scale(vector(s, &p), vector(s, &k)));
        expect(&got, &[&p, &power, &k], |x| x[0] * x[1]);

        // A NaN stays one, whatever the power.
        for i in 0..p.len() {
            p[i] = T::from_bits(T::NAN | random.below(1 << (T::MANTISSA - 1)));
            k[i] = T::any(&mut random);
        }
        expect(&numbers(s, s.scale(vector(s, &p), vector(s, &k))), &[&p, &k], |x| x[0]);
        // Any other combination gives something.
        s.scale(vector(s, &k), vector(s, &p));
    }
}

#[inline(always)]
fn comparison<T: Number, S: Lanes<T>>(s: S) {
    let mut random = Random(5);
    for _ in 0..ROUNDS {
        let (a, b) = pairs::<T>(&mut random);
        let (c, d) = pairs::<T>(&mut random);
        let (low, high) = (s.min(vector(s, &a), vector(s, &b)), s.max(vector(s, &a), vector(s, &b)));
        expect(&numbers(s, low), &[&a, &b], |x| if x[0] < x[1] { x[0] } else { x[1] });
        expect(&numbers(s, high), &[&a, &b], |x| if x[0] > x[1] { x[0] } else { x[1] });
        let less = s.lt(vector(s, &a), vector(s, &b));
        let want = (0..a.len()).fold(0, |bits, i| bits | u32::from(a[i] < b[i]) << i);
        assert_eq!(s.bits(less), want, "{a:?} < {b:?}");
        let got = numbers(s, s.select(less, vector(s, &c), vector(s, &d)));
        expect(&got, &[&a, &b, &c, &d], |x| if x[0] < x[1] { x[2] } else { x[3] });
        let got = numbers(s, s.replace_nan(vector(s, &a), vector(s, &b)));
        expect(&got, &[&a, &b], |x| if x[0].partial_cmp(&x[0]).is_none() { x[1] } else { x[0] });
    }
}

#[inline(always)]
fn memory<T: Number, S: Lanes<T>>(s: S) {
    let width = lanes::<T>().len();
    let mut random = Random(6);
    let source: Vec<T> = (0..3 * width).map(|_| T::with_exponent(&mut random, T::BIAS)).collect();
    let (fill, guard) = (T::integer(-1), T::integer(-2));
    for at in 0..=width {
        let part = &source[at..at + width];
        // SAFETY: `part` has the width of a vector.
        let v = unsafe { s.load(part.as_ptr()) };
        expect(&numbers(s, v), &[part], |x| x[0]);

        let mut target = vec![guard; 3 * width];
        // SAFETY: `target` goes on for more than a vector.
        unsafe { s.store(v, target[at..].as_mut_ptr()) };
        let want: Vec<T> = (0..3 * width)
            .map(|i| if (at..at + width).contains(&i) { part[i - at] } else { guard })
            .collect();
        expect(&target, &[&want], |x| x[0]);

        for n in 0..=width {
            // SAFETY: `part` has at least `n` elements.
            let v = unsafe { s.load_first(part.as_ptr(), n, fill) };
            let want: Vec<T> = (0..width).map(|i| if i < n { part[i] } else { fill }).collect();
            expect(&numbers(s, v), &[&want], |x| x[0]);

            let mut target = vec![guard; 3 * width];
            // SAFETY: `target` goes on for at least `n` elements.
            unsafe { s.store_first(vector(s, part), target[at..].as_mut_ptr(), n) };
            let want: Vec<T> = (0..3 * width)
                .map(|i| if (at..at + n).contains(&i) { part[i - at] } else { guard })
                .collect();
            expect(&target, &[&want], |x| x[0]);
        }
    }
    let mut target = vec![guard; 4 * width];
    let first = target.as_ptr().align_offset(VECTOR_BYTES);
    // SAFETY: aligned by `first`, which is less than a vector; another vector fits behind it.
    unsafe { s.stream(vector(s, &source), target[first..].as_mut_ptr()) };
    expect(&target[first..first + width], &[&source], |x| x[0]);
    expect(&target[..first], &[&vec![guard; first]], |x| x[0]);
    let rest = 3 * width - first;
    expect(&target[first + width..], &[&vec![guard; rest]], |x| x[0]);
}

#[inline(always)]
fn transpose<T: Number, S: Lanes<T>>(s: S) {
    let width = lanes::<T>().len();
    let matrix: Vec<T> = (0..width * width).map(|i| T::integer(i as i64)).collect();
    let mut rows: Vec<S::V> = matrix.chunks(width).map(|row| vector(s, row)).collect();
    s.transpose(&mut rows);
    for (j, &row) in rows.iter().enumerate() {
        let column: Vec<T> = (0..width).map(|i| matrix[i * width + j]).collect();
        expect(&numbers(s, row), &[&column], |x| x[0]);
    }
}

#[inline(always)]
fn permute<T: Number, S: Lanes<T>>(s: S) {
    let width = lanes::<T>().len();
    let words_of_lane = WORDS / width;
    let mut random = Random(9);
    for _ in 0..ROUNDS {
        let [a, b]: [Vec<T>; 2] = [0, 1].map(|_| (0..width).map(|_| T::any(&mut random)).collect());
        let both = [a.clone(), b.clone()].concat();
        for (from, second) in [(width, false), (2 * width, true)] {
            // Whole lanes, so that the result is numbers.
            let index: Vec<usize> = (0..width).map(|_| random.below(from as u64) as usize).collect();
            let words: Vec<u32> = (0..WORDS)
                .map(|i| (index[i / words_of_lane] * words_of_lane + i % words_of_lane) as u32)
                .collect();
            let want: Vec<T> = index.iter().map(|&i| both[i]).collect();
            let (a, b) = (vector(s, &a), vector(s, &b));
            // SAFETY: as many numbers as words, all of them below that, or twice that.
            let got = unsafe {
                if second { s.permute2(a, words.as_ptr(), b) } else { s.permute(a, words.as_ptr()) }
            };
            expect(&numbers(s, got), &[&want], |x| x[0]);
        }
    }
}

/// Whether the level has functions of its own for rows.
fn has_row_functions<S>() -> bool {
    std::any::type_name::<S>().ends_with("Avx2")
}

/// Rows put side by side and back, where the level has a way of its own: nothing but them is written.
#[inline(always)]
fn columns<T: Number, S: Lanes<T>>(s: S) {
    let (width, own) = (lanes::<T>().len(), has_row_functions::<S>());
    let words = WORDS / width;
    let guard = T::integer(-1);
    for (step, len) in (1..40).flat_map(|step| (1..=step).map(move |len| (step, len))) {
        for readable in len..len + 4 {
            // The last row ends where the slice does.
            let size = (width - 1) * step + readable;
            let rows: Vec<T> = (0..size).map(|i| T::integer(i as i64)).collect();
            let size = len.next_multiple_of(width) * width;
            let mut tile = vec![guard; size + width];
            // SAFETY: as many elements as are named; a tile has whole vectors.
            let done =
                unsafe { s.rows_to_columns(rows.as_ptr(), step as isize, len, readable, tile.as_mut_ptr()) };
            assert_eq!(done, own && words == 1 && len.next_multiple_of(4) <= readable);
            for i in (0..width * len).filter(|_| done) {
                assert_eq!(tile[i], rows[i % width * step + i / width], "step {step}, {len} elements");
            }
            assert!(tile[size..].iter().all(|&x| x == guard), "step {step}, {len} elements");
        }
        let tile: Vec<T> = (0..len.next_multiple_of(width) * width).map(|i| T::integer(i as i64)).collect();
        for follow in [false, step == len] {
            let mut rows = vec![guard; width * step + 4];
            // SAFETY: the rows have `step` elements each.
            let done =
                unsafe { s.columns_to_rows(tile.as_ptr(), rows.as_mut_ptr(), step as isize, len, follow) };
            let spills = follow && (words == 2 || len > 1);
            assert_eq!(done, own && (len % (4 / words) == 0 || spills), "step {step}, {len} elements");
            for (i, &x) in rows.iter().enumerate().filter(|_| done) {
                let (row, c) = (i / step, i % step);
                let want = if row < width && c < len { tile[c * width + row] } else { guard };
                assert_eq!(x, want, "step {step}, {len} elements, {follow}");
            }
        }
    }
}

#[inline(always)]
fn scaled_rows<T: Number, S: Lanes<T>>(s: S) {
    let width = lanes::<T>().len();
    let mut random = Random(17);
    for len in 1..=64 {
        let mut some =
            |n: usize| -> Vec<T> { (0..n).map(|_| T::with_exponent(&mut random, T::BIAS)).collect() };
        let (e, high, low) = (some(len * width), some(width), some(width));
        let words = WORDS / width;
        let row: Vec<u32> = (0..len * WORDS).map(|i| (i / words / len * words + i % words) as u32).collect();
        let mut out = e.clone();
        let factors = [vector(s, &high), vector(s, &low)];
        // SAFETY: `len` vectors of elements, and of the words of their rows.
        unsafe { s.scale_rows(e.as_ptr(), len, factors, row.as_ptr(), out.as_mut_ptr()) };
        let of_row = |of: &[T]| -> Vec<T> { (0..e.len()).map(|i| of[i / len]).collect() };
        let product: Vec<T> = e.iter().zip(of_row(&low)).map(|(&e, low)| e * low).collect();
        expect(&out, &[&e, &of_row(&high), &product], |x| x[0].mul_add(x[1], x[2]));
    }
}

/// The sums of rows over 16 lanes, and over those in a tree, where the level has a way of its own.
#[inline(always)]
fn sums_of_rows<S: Simd>(s: S) {
    let mut random = Random(18);
    for len in 1..=64 {
        // So far apart that many sums are rounded.
        let x: Vec<f32> = (0..16 * len + 16)
            .map(|_| {
                let exponent = f32::BIAS - 40 + random.below(80);
                f32::with_exponent(&mut random, exponent).abs()
            })
            .collect();
        // SAFETY: a vector more than the rows.
        let sums = unsafe { s.sum_rows(x.as_ptr(), len) };
        assert_eq!(sums.is_some(), has_row_functions::<S>());
        let Some([low, high]) = sums else { continue };
        let got = [numbers::<f64, S>(s, low), numbers::<f64, S>(s, high)].concat();
        let want: Vec<f64> = (0..16)
            .map(|row| {
                let mut lanes = [0.0; 16];
                for c in 0..len {
                    lanes[c % 16] += f64::from(x[row * len + c]);
                }
                for half in [8, 4, 2, 1] {
                    for i in 0..half {
                        lanes[i] += lanes[i + half];
                    }
                }
                lanes[0]
            })
            .collect();
        expect(&got, &[&want], |x| x[0]);
    }
}

/// The same of `f64`: 8 lanes of pairs.
#[inline(always)]
fn compensated_sums_of_rows<S: Simd>(s: S) {
    let mut random = Random(20);
    for len in 1..=64 {
        let x: Vec<f64> = (0..8 * len + 8)
            .map(|_| {
                let exponent = f64::BIAS - 60 + random.below(120);
                f64::with_exponent(&mut random, exponent).abs()
            })
            .collect();
        // SAFETY: a vector more than the rows.
        let sums = unsafe { s.sum_rows_compensated(x.as_ptr(), len) };
        assert_eq!(sums.is_some(), has_row_functions::<S>());
        let Some([high, low]) = sums else { continue };
        let sums = |row: usize| {
            let mut lanes = [(0.0, 0.0); 8];
            for c in 0..len {
                lanes[c % 8] = add_pairs(lanes[c % 8], (x[row * len + c], 0.0));
            }
            for half in [4, 2, 1] {
                for i in 0..half {
                    lanes[i] = add_pairs(lanes[i], lanes[i + half]);
                }
            }
            lanes[0]
        };
        let want: Vec<(f64, f64)> = (0..8).map(sums).collect();
        expect(&numbers::<f64, S>(s, high), &[&want.iter().map(|x| x.0).collect::<Vec<_>>()], |x| x[0]);
        expect(&numbers::<f64, S>(s, low), &[&want.iter().map(|x| x.1).collect::<Vec<_>>()], |x| x[0]);
    }
}

/// A row of `n` logits: ordinary ones; -inf but for a few; far below what is kept, a few of them special. `kind` says which.
fn logits<E: Element>(random: &mut Random, n: usize, kind: u64) -> Vec<E::T> {
    // What is kept reaches eight times as far.
    let far = if E::COMPENSATED { 8.0 } else { 1.0 };
    let special = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -f64::NAN, -1e30, 0.0];
    let mut number = || {
        let unit = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        match (kind, random.below(20)) {
            (0, _) => 20.0 * unit - 10.0,
            (1, 0) | (2, 1..) => far * (400.0 * unit - 395.0),
            (1, _) => f64::NEG_INFINITY,
            _ => special[random.below(6) as usize],
        }
    };
    (0..n).map(|_| E::from_f64(number())).collect()
}

/// `exp_sum` gives, to the bit, what one vector after the other does; of NaN, NaN.
#[inline(always)]
fn exp_sum<E: Element<T: Number>, S: Simd>(s: S) {
    let mut random = Random(31);
    for n in (0..130).chain([512, 1000, 1024]).cycle().take(4 * 133) {
        let kind = random.below(3);
        let mut x = logits::<E>(&mut random, n, kind);
        let reference = E::from_f64(random.below(100) as f64 - 90.0);
        let magic = E::MAGIC - reference;
        let mut expected = vec![E::ZERO; n];
        let mut sum = [Lanes::<f64>::splat(s, 0.0); 2];
        for i in (0..n).step_by(E::WIDTH) {
            let some = (n - i).min(E::WIDTH);
            // SAFETY: there are `n` elements.
            let e = unsafe {
                let v = E::load_first(s, x.as_ptr().add(i), some, E::NEG_INF);
                let e = exp_scaled::<E, S>(s, v, E::splat(s, magic));
                E::store_first(s, e, expected.as_mut_ptr().add(i), some);
                e
            };
            sum = E::accumulate(s, sum, e);
        }
        for in_place in [false, true] {
            let mut out = vec![E::ZERO; n];
            let target = if in_place { x.as_mut_ptr() } else { out.as_mut_ptr() };
            // SAFETY: `n` elements.
            let got = unsafe { E::exp_sum(s, x.as_ptr(), n, magic, target, 4096) };
            assert_eq!(got.is_some(), has_row_functions::<S>());
            let Some(got) = got else { break };
            let e = if in_place { &x } else { &out };
            expect(e, &[&expected], |x| x[0]);
            for half in 0..2 {
                expect(&numbers::<f64, S>(s, got[half]), &[&numbers(s, sum[half])], |x| x[0]);
            }
        }
    }
}

/// `exponentials` gives, to the bit, what `exp_scaled` does, with a reference for each lane; of NaN, NaN.
#[inline(always)]
fn exponentials<E: Element<T: Number>, S: Simd>(s: S) {
    let mut random = Random(33);
    for vectors in (0..12).cycle().take(300) {
        let (kind, n) = (random.below(3), vectors * E::WIDTH);
        let mut x = logits::<E>(&mut random, n, kind);
        let references: Vec<E::T> =
            (0..E::WIDTH).map(|_| E::from_f64(random.below(100) as f64 - 90.0)).collect();
        // SAFETY: the references are a vector.
        let mut magic = magic::<E, S>(s, unsafe { E::load(s, references.as_ptr()) });
        if kind == 0 {
            // As low as nothing is cut off, or ordinary; NaN stays NaN.
            if random.below(2) == 0 {
                let limit = E::to_f64(E::MAX_LIMIT) / 2.0;
                let top = [limit, -limit + E::to_f64(E::REACH), 0.0, 77.7][random.below(4) as usize];
                let floor = E::from_f64(top) - E::REACH;
                for x in &mut x {
                    let unit = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
                    let far = E::from_f64(top) - E::REACH * E::from_f64(unit * unit * unit);
                    *x = [floor, far][random.below(2) as usize];
                }
                let reference = reference::<E, S>(s, E::splat(s, E::from_f64(top)));
                magic = self::magic::<E, S>(s, reference);
            }
            (0..n).step_by(7).for_each(|i| x[i] = E::NAN);
        }
        let mut expected = vec![E::ZERO; n];
        for i in (0..n).step_by(E::WIDTH) {
            // SAFETY: there are `n` elements.
            unsafe {
                let e = exp_scaled::<E, S>(s, E::load(s, x.as_ptr().add(i)), magic);
                E::store(s, e, expected.as_mut_ptr().add(i));
            }
        }
        let check = |f: &mut dyn FnMut(*const E::T, *mut E::T) -> bool| {
            for in_place in [false, true] {
                let (mut x, mut out) = (x.clone(), vec![E::ZERO; n]);
                let target = if in_place { x.as_mut_ptr() } else { out.as_mut_ptr() };
                let own = f(x.as_ptr(), target);
                assert_eq!(own, has_row_functions::<S>());
                let e = if in_place { &x } else { &out };
                if own {
                    expect(e, &[&expected], |x| x[0]);
                }
            }
        };
        // SAFETY: `n` elements, whole vectors.
        check(&mut |x, out| unsafe { E::exponentials::<S, false>(s, x, n, magic, out) });
        if kind == 0 {
            // SAFETY: as above.
            check(&mut |x, out| unsafe { E::exponentials::<S, true>(s, x, n, magic, out) });
        }
    }
}

#[inline(always)]
fn bare_exp_sum<E: Element, S: Simd>(s: S) {
    let mut random = Random(32);
    for n in (0..400).step_by(2 * E::WIDTH) {
        let x: Vec<E::T> = (0..n).map(|_| E::from_f64(random.below(1000) as f64 / 200.0 - 4.0)).collect();
        // SAFETY: `n` elements, whole pairs of vectors.
        let sum = unsafe { E::bare_exp_sum(s, x.as_ptr(), n, E::MAGIC, 4096) };
        assert_eq!(sum.is_some(), has_row_functions::<S>());
        let Some(sum) = sum else { return };
        let mut lanes = [E::ZERO; 16];
        // SAFETY: the array holds a vector.
        unsafe { E::store(s, sum, lanes.as_mut_ptr()) };
        let got: f64 = lanes[..E::WIDTH].iter().map(|&v| E::to_f64(v)).sum();
        let expected: f64 = x.iter().map(|&v| E::to_f64(v).exp()).sum();
        let tolerance = if E::COMPENSATED { 1e-14 } else { 2e-6 };
        assert!((got - expected).abs() <= tolerance * expected, "{n}: {got}, not {expected}");
    }
}

#[inline(always)]
fn widen_first<S: Simd>(s: S) {
    let x: [f32; 16] = std::array::from_fn(|i| if i % 5 == 4 { f32::NAN } else { 1.5 + i as f32 });
    for n in 0..=16 {
        // SAFETY: 16 elements.
        let [low, high] = unsafe { s.widen_first_from(x.as_ptr(), n) };
        let got = [numbers::<f64, S>(s, low), numbers::<f64, S>(s, high)].concat();
        let want: Vec<f64> = x.iter().enumerate().map(|(i, &x)| if i < n { x.into() } else { 0.0 }).collect();
        expect(&got, &[&want], |x| x[0]);
    }
}

#[inline(always)]
fn passage<S: Simd>(s: S) {
    let mut random = Random(7);
    for _ in 0..ROUNDS {
        let narrow: Vec<f32> = (0..16).map(|_| f32::any(&mut random)).collect();
        let [low, high] = s.widen(vector::<f32, S>(s, &narrow));
        let got = [numbers::<f64, S>(s, low), numbers::<f64, S>(s, high)].concat();
        let exact: Vec<f64> = narrow.iter().map(|&x| f64::from(x)).collect();
        expect(&got, &[&exact], |x| x[0]);

        // Anything; halfway between two `f32`, or next to that; or in and below their subnormal range.
        let wide: Vec<f64> = (0..16)
            .map(|i| match random.below(4) {
                0 => f64::any(&mut random),
                1 => f64::with_exponent(&mut random, 1023 - 155 + i),
                _ => {
                    let (near, off) = (f64::from(f32::any(&mut random)), random.below(3));
                    f64::from_bits((near.to_bits() | 1 << 28).wrapping_add(off).wrapping_sub(1))
                }
            })
            .collect();
        let v = s.narrow([vector::<f64, S>(s, &wide[..8]), vector::<f64, S>(s, &wide[8..])]);
        let rounded: Vec<f32> = wide.iter().map(|&x| x as f32).collect();
        expect(&numbers::<f32, S>(s, v), &[&rounded], |x| x[0]);
    }
}

/// The number of a 16-bit format with so many stored bits of significand, by its definition.
fn half_value(bits: u16, mantissa: u32) -> f64 {
    let field = i32::from(bits & 0x7fff) >> mantissa;
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    let (last, bias) = ((1 << (15 - mantissa)) - 1, (1 << (14 - mantissa)) - 1);
    let magnitude = if field == last {
        if fraction == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if field == 0 {
        fraction * 2f64.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2f64.powi(field - bias)
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// All numbers of a 16-bit format, and `f32` numbers around each of them and around the middle to the next one.
#[inline(always)]
fn halves<S: Simd, const MANTISSA: u32>(s: S) {
    let to_half = |x: &[f32; 16]| {
        let v = vector::<f32, S>(s, x);
        let rounded = if MANTISSA == 10 { s.narrow_f16(v) } else { s.narrow_bf16(v) };
        let mut out = [0u16; 16];
        // SAFETY: the array holds 16 elements.
        unsafe { s.store_halves(rounded, out.as_mut_ptr()) };
        out
    };
    for first in (0..1u32 << 16).step_by(16) {
        let bits: [u16; 16] = std::array::from_fn(|i| (first + i as u32) as u16);
        let p = bits.as_ptr();
        // SAFETY: the array holds 16 elements.
        let loaded = unsafe { if MANTISSA == 10 { s.load_f16(p) } else { s.load_bf16(p) } };
        let got = numbers::<f32, S>(s, loaded);
        for (i, &x) in got.iter().enumerate() {
            let want = half_value(bits[i], MANTISSA) as f32;
            assert!(x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan(), "{:#x} is {x}", bits[i]);
        }
    }
    let infinity = ((1u16 << (15 - MANTISSA)) - 1) << MANTISSA;
    for sign in [0u16, 0x8000] {
        for below in 0..infinity {
            // The next number; beyond the largest one, what it would be.
            let low = half_value(below, MANTISSA);
            let high = if below + 1 == infinity {
                low + (low - half_value(below - 1, MANTISSA))
            } else {
                half_value(below + 1, MANTISSA)
            };
            let middle = 0.5 * (low + high);
            let exact = middle as f32;
            let even = below + (below & 1);
            let (less, more) = (exact.next_down(), exact.next_up());
            let mut cases = [(0f32, 0u16); 16];
            let some = [(low as f32, below), (less, below), (exact, even), (more, below + 1)];
            let seen = if f64::from(exact) == middle { &some[..] } else { &some[..1] };
            cases[..seen.len()].copy_from_slice(seen);
            let x = cases.map(|(x, _)| if sign == 0 { x } else { -x });
            let got = to_half(&x);
            for (i, &(_, want)) in cases.iter().enumerate() {
                assert_eq!(got[i], want | sign, "{} at place {i}", x[i]);
            }
        }
    }
    let (most, nan) = (f32::MAX, f32::from_bits(0x7fc0_0000));
    let mut x = [0f32; 16];
    x[..8].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, most, -most, nan, -0.0, 1e-45, -1e-45]);
    let want = [infinity, infinity | 0x8000, infinity, infinity | 0x8000, infinity | 1 << (MANTISSA - 1)];
    assert_eq!(to_half(&x)[..5], want);
    assert_eq!(to_half(&x)[5..8], [0x8000, 0, 0x8000]);
}

#[inline(always)]
fn masks<T: Number, S: Lanes<T>>(s: S) {
    let (yes, no) = (vec![T::integer(1); lanes::<T>().len()], vec![T::integer(0); lanes::<T>().len()]);
    let mut random = Random(15);
    for _ in 0..ROUNDS / 10 {
        let bytes: Vec<u8> = yes.iter().map(|_| [0, 1, 0x80, 0xff, 2][random.below(5) as usize]).collect();
        // SAFETY: there are as many bytes as lanes.
        let mask = unsafe { s.load_mask(bytes.as_ptr()) };
        let got = numbers(s, s.select(mask, vector(s, &yes), vector(s, &no)));
        let want: Vec<T> = bytes.iter().map(|&byte| T::integer(i64::from(byte != 0))).collect();
        expect(&got, &[&want], |x| x[0]);
    }
}

#[inline(always)]
fn exponent<S: Simd>(s: S) {
    let mut random = Random(8);
    for _ in 0..ROUNDS {
        let mut v = lanes::<f64>();
        for x in &mut v {
            let exponent = 1 + random.below(2046);
            *x = f64::with_exponent(&mut random, exponent).abs();
        }
        let (m, k) = s.split_exponent(vector::<f64, S>(s, &v));
        expect(&numbers::<f64, S>(s, k), &[&v], |x| (x[0].to_bits() >> 52) as f64 - 1023.0);
        expect(&numbers::<f64, S>(s, m), &[&v], |x| f64::from_bits(x[0].to_bits() << 12 >> 12 | 1023 << 52));
        // Other lanes give something.
        s.split_exponent(vector::<f64, S>(s, &[0.0, -0.0, -1.0, 5e-324, f64::NAN, f64::INFINITY, -5.0, 1.0]));
    }
}

/// Masked loads and stores at the very end of the readable memory.
#[cfg(unix)]
#[test]
fn masked_lanes_are_not_accessed() {
    struct Edge(*mut u8);
    impl Task for Edge {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            edge::<f32, S>(s, self.0);
            edge::<f64, S>(s, self.0);
            edge_of_rows::<Single, S>(s, self.0);
            edge_of_rows::<Double, S>(s, self.0);
        }
    }
    /// Also in place, and with results behind which nothing may be written.
    #[inline(always)]
    fn edge_of_rows<E: Element<T: Number>, S: Simd>(s: S, end: *mut u8) {
        for n in 0..=130 {
            let guard = E::T::integer(7);
            let mut out = vec![guard; n + 1];
            // SAFETY: as below.
            unsafe {
                let p = end.cast::<E::T>().sub(n);
                p.write_bytes(0, n);
                let _ = E::exp_sum(s, p, n, E::MAGIC, out.as_mut_ptr(), 0);
                assert!(out[n] == guard);
                let _ = E::exp_sum(s, p, n, E::MAGIC, p, 0);
                if n.is_multiple_of(E::WIDTH) {
                    let magic = E::splat(s, E::MAGIC);
                    let _ = E::exponentials::<S, false>(s, p, n, magic, out.as_mut_ptr());
                    assert!(out[n] == guard);
                    let _ = E::exponentials::<S, true>(s, p, n, magic, p);
                }
            }
        }
        for n in (0..256).step_by(2 * E::WIDTH) {
            // SAFETY: as below; whole pairs of vectors.
            unsafe {
                let p = end.cast::<E::T>().sub(n);
                p.write_bytes(0, n);
                let _ = E::bare_exp_sum(s, p, n, E::MAGIC, 0);
            }
        }
    }
    #[inline(always)]
    fn edge<T: Number, S: Lanes<T>>(s: S, end: *mut u8) {
        let numbers = lanes::<T>();
        for n in 0..=numbers.len() {
            // SAFETY: the page before `end` is the test's own; `n` elements fit in it.
            unsafe {
                let p = end.cast::<T>().sub(n);
                s.store_first(vector(s, &numbers), p, n);
                let v = s.load_first(p, n, T::integer(0));
                expect(&self::numbers(s, v), &[&numbers], |x| x[0]);
            }
        }
    }
    // SAFETY: a fresh mapping of two pages of which the second becomes inaccessible, freed at the end.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
        let start =
            libc::mmap(std::ptr::null_mut(), 2 * page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let end = start.cast::<u8>().add(page);
        assert_eq!(libc::mprotect(end.cast(), page, libc::PROT_NONE), 0);
        for level in Level::available() {
            run_at(level, Edge(end));
        }
        assert_eq!(libc::munmap(start, 2 * page), 0);
    }
}

#[test]
fn fence_and_call_return() {
    struct Outer;
    struct Inner(u32);
    impl Task for Outer {
        type Out = u32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u32 {
            s.fence();
            s.call(Inner(20)) + s.call(Inner(1))
        }
    }
    impl Task for Inner {
        type Out = u32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u32 {
            let ones: <S as Lanes<f32>>::V = s.splat(1.0f32);
            let zeros: <S as Lanes<f32>>::V = s.splat(0.0f32);
            self.0 + Lanes::<f32>::bits(s, Lanes::<f32>::lt(s, zeros, ones)).count_ones()
        }
    }
    for level in Level::available() {
        assert_eq!(run_at(level, Outer), 53, "{}", level.name());
    }
}

#[test]
fn levels_are_ordered_and_the_first_is_always_there() {
    let available = Level::available();
    assert_eq!(available[0], Level::Portable);
    assert!(available.is_sorted());
    assert!(available.iter().all(|level| level.is_available()));
}

/// A sequence of random bits (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

/// What the checks need of `f32` and `f64`.
trait Number:
    Copy
    + Debug
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
{
    /// Stored bits of the significand.
    const MANTISSA: u32;
    /// The exponent field of 1.
    const BIAS: u64;
    /// The sign bit.
    const SIGN: u64 = (2 * Self::BIAS + 2) << Self::MANTISSA;
    /// The bits of a quiet NaN.
    const NAN: u64 = (4 * Self::BIAS + 3) << (Self::MANTISSA - 1);
    fn from_bits(bits: u64) -> Self;
    fn to_bits(self) -> u64;
    fn integer(x: i64) -> Self;
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn round_ties_even(self) -> Self;

    /// A random sign and significand, which is often short or full of ones; a finite value.
    fn with_exponent(random: &mut Random, field: u64) -> Self {
        let ones = (1 << Self::MANTISSA) - 1;
        let mantissa = match random.below(8) {
            0 => 0,
            1 => ones,
            2 => 1 << random.below(Self::MANTISSA.into()),
            3 => ones << random.below(Self::MANTISSA.into()),
            4 => random.bits() << random.below(Self::MANTISSA.into()),
            _ => random.bits(),
        };
        let sign = random.below(2) * Self::SIGN;
        Self::from_bits(sign | field.min(2 * Self::BIAS) << Self::MANTISSA | mantissa & ones)
    }

    /// Any value: infinities, NaN, zeros and subnormals often.
    fn any(random: &mut Random) -> Self {
        match random.below(8) {
            0 => {
                let largest = (2 * Self::BIAS + 1) << Self::MANTISSA;
                let one = Self::BIAS << Self::MANTISSA;
                let list = [0, 1, largest, largest - 1, Self::NAN, largest + 1, one, one + 1, one - 1];
                Self::from_bits(list[random.below(9) as usize] | (random.below(2) * Self::SIGN))
            }
            1 => Self::integer(random.below(41) as i64 - 20) / Self::integer(2),
            2 => {
                let field = random.below(4);
                Self::with_exponent(random, field)
            }
            3 => {
                let field = 2 * Self::BIAS - random.below(4);
                Self::with_exponent(random, field)
            }
            4 | 5 => Self::ordinary(random, 40),
            _ => Self::from_bits(random.bits()),
        }
    }

    /// A value between `2^-reach` and `2^reach`.
    fn ordinary(random: &mut Random, reach: u64) -> Self {
        let field = Self::BIAS - reach + random.below(2 * reach);
        Self::with_exponent(random, field)
    }
}

macro_rules! number {
    ($T:ty, $bits:ty, $mantissa:literal, $bias:literal) => {
        impl Number for $T {
            const MANTISSA: u32 = $mantissa;
            const BIAS: u64 = $bias;
            fn from_bits(bits: u64) -> Self {
                <$T>::from_bits(bits as $bits)
            }
            fn to_bits(self) -> u64 {
                <$T>::to_bits(self).into()
            }
            fn integer(x: i64) -> Self {
                x as $T
            }
            fn mul_add(self, b: Self, c: Self) -> Self {
                <$T>::mul_add(self, b, c)
            }
            fn round_ties_even(self) -> Self {
                <$T>::round_ties_even(self)
            }
        }
    };
}

number!(f32, u32, 23, 127);
number!(f64, u64, 52, 1023);

/// As many numbers as a vector has lanes.
fn lanes<T: Number>() -> Vec<T> {
    vec![T::integer(0); VECTOR_BYTES / size_of::<T>()]
}

/// Two vectors' lanes: anything, and the second often equal, opposite or next to the first.
fn pairs<T: Number>(random: &mut Random) -> (Vec<T>, Vec<T>) {
    let (mut a, mut b) = (lanes::<T>(), lanes::<T>());
    for i in 0..a.len() {
        a[i] = T::any(random);
        b[i] = match random.below(8) {
            0 => a[i],
            1 => -a[i],
            2 => T::from_bits(a[i].to_bits() ^ 1),
            _ => T::any(random),
        };
    }
    (a, b)
}

/// The operands of a multiply-add: anything, or, with exponents near 0, only what cannot over- or underflow;
/// often with cancellation.
fn triple<T: Number>(random: &mut Random, ordinary: bool) -> (T, T, T) {
    let (a, b) = match random.below(4) {
        _ if ordinary => (T::ordinary(random, 30), T::ordinary(random, 30)),
        0 => (T::any(random), T::any(random)),
        // A product near the smallest or the largest numbers.
        1 => {
            let first = 1 + random.below(T::BIAS);
            let sum = T::BIAS + 10 - random.below(2 * u64::from(T::MANTISSA) + 40).min(T::BIAS);
            (T::with_exponent(random, first), T::with_exponent(random, sum.saturating_sub(first)))
        }
        2 => {
            let first = T::BIAS + random.below(T::BIAS);
            let sum = 3 * T::BIAS + 2 - random.below(5);
            (T::with_exponent(random, first), T::with_exponent(random, sum - first))
        }
        _ => (T::ordinary(random, T::BIAS / 2), T::ordinary(random, T::BIAS / 2)),
    };
    let product = a * b;
    // The power of two half of the last place of `x`, if there is one.
    let half = |x: T| {
        let field = (x.to_bits() & !T::SIGN) >> T::MANTISSA;
        T::from_bits(field.saturating_sub(u64::from(T::MANTISSA) + 1).max(1) << T::MANTISSA)
    };
    // The middle between two numbers, or close to it: the product's low part decides, or the last bits of a factor.
    match random.below(8) {
        0 => return (a, b, half(product)),
        1 => return (a, b, -half(product)),
        2 => {
            let c = T::ordinary(random, 60);
            let one = (T::BIAS << T::MANTISSA) + random.below(3) - 1;
            return (half(c), T::from_bits(one), c);
        }
        _ => {}
    }
    let c = match random.below(4) {
        0 if ordinary => T::ordinary(random, 60),
        0 => T::any(random),
        1 => -product,
        2 => T::from_bits((-product).to_bits() ^ random.below(4)),
        _ => {
            let field = (product.to_bits() & !T::SIGN) >> T::MANTISSA;
            let reach = 60.min(random.below(2 * u64::from(T::MANTISSA) + 10));
            let up = random.below(2) == 0;
            T::with_exponent(random, if up { field + reach } else { field.saturating_sub(reach) })
        }
    };
    (a, b, c)
}

/// The lanes as a vector.
#[inline(always)]
fn vector<T: Number, S: Lanes<T>>(s: S, x: &[T]) -> S::V {
    assert!(x.len() >= VECTOR_BYTES / size_of::<T>());
    // SAFETY: `x` has the lanes of a vector.
    unsafe { s.load(x.as_ptr()) }
}

/// The vector's lanes.
#[inline(always)]
fn numbers<T: Number, S: Lanes<T>>(s: S, v: S::V) -> Vec<T> {
    let mut x = lanes::<T>();
    // SAFETY: `x` has the lanes of a vector.
    unsafe { s.store(v, x.as_mut_ptr()) };
    x
}

/// Asserts that lane by lane `got` has the bits of `f` of the arguments, or is NaN where that is NaN.
#[track_caller]
fn expect<T: Number>(got: &[T], arguments: &[&[T]], f: impl Fn(&[T]) -> T) {
    for (i, &got) in got.iter().enumerate() {
        let mut x = [T::integer(0); 4];
        for (x, argument) in x.iter_mut().zip(arguments) {
            *x = argument[i];
        }
        let x = &x[..arguments.len()];
        let want = f(x);
        let nan = |x: T| x.partial_cmp(&x).is_none();
        let same = got.to_bits() == want.to_bits() || nan(got) && nan(want);
        assert!(same, "lane {i} of {x:?}: got {got:?}, want {want:?}");
    }
}
