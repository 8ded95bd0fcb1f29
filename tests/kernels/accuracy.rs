//! Every value within the promised error of a reference in about 100 bits, for every length and layout.

use crate::common::{Dd, ONE, Random, Real, Reference, ZERO, at, error, from_rows, row_of};
use logitkit::{Reduction, Shape};
use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};

const IGNORED: i64 = -100;

/// The largest error per operation, and every one beyond its bound.
#[derive(Default)]
struct Errors {
    worst: BTreeMap<&'static str, (f64, String)>,
    failures: Vec<String>,
}

impl Errors {
    fn check<T: Real>(
        &mut self,
        name: &'static str,
        bound: f64,
        got: T,
        want: Dd,
        unit: f64,
        place: Arguments<'_>,
    ) {
        let error = error(got, want, unit);
        let text = || format!("{name} of {place}: {got:?}, not {:e}: {error:.2} ulp", want.0);
        if error > bound {
            self.failures.push(text());
        }
        if self.worst.get(name).is_none_or(|worst| error > worst.0) {
            self.worst.insert(name, (error, text()));
        }
    }

    fn finish(self, title: &str) {
        let mut table = format!("{title}\n");
        for (name, (error, text)) in &self.worst {
            writeln!(table, "  {name:20} {error:6.3}  {text}").unwrap();
        }
        println!("{table}");
        let (count, few) = (self.failures.len(), self.failures.iter().take(20));
        let few = few.map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(count == 0, "{title}: {count} errors beyond the bound\n{few}");
    }
}

/// Checks every operation on these rows in this layout.
fn check_rows<T: Real>(errors: &mut Errors, random: &mut Random, rows: &[Vec<T>], shape: Shape) {
    let x = from_rows(rows, shape);
    let labels: Vec<i64> = rows
        .iter()
        .enumerate()
        .map(|(row, x)| if row % 7 == 6 { IGNORED } else { random.label(x) })
        .collect();
    let weights: Vec<Vec<T>> = rows.iter().map(|x| random.weights(x)).collect();
    let reduction = if shape.len.is_multiple_of(2) { Reduction::Mean } else { Reduction::Sum };
    let grad_scale = [1.0, 1e-12, 1e12][shape.len % 3];
    let g = random.normals::<T>(shape.size(), grad_scale);
    let row_g = random.normals::<T>(shape.batch(), grad_scale);
    let t = from_rows(&weights, shape);

    let empty = || vec![T::default(); shape.size()];
    let per_row = || vec![T::default(); shape.batch()];
    let (mut y, mut log_y, mut lse, mut losses) = (empty(), empty(), per_row(), per_row());
    let (mut dx, mut soft_dx) = (empty(), empty());
    logitkit::softmax(&x, shape, &mut y).unwrap();
    logitkit::log_softmax(&x, shape, &mut log_y).unwrap();
    logitkit::logsumexp(&x, shape, &mut lse).unwrap();
    logitkit::cross_entropy_rows(&x, &labels, shape, Some(IGNORED), &mut losses).unwrap();
    let loss = logitkit::cross_entropy_value_and_grad(&x, &labels, shape, Some(IGNORED), reduction, &mut dx)
        .unwrap();
    let soft_loss =
        logitkit::soft_cross_entropy_value_and_grad(&x, &t, shape, reduction, &mut soft_dx).unwrap();
    let (mut from_y, mut from_log_y, mut from_lse) = (empty(), empty(), empty());
    logitkit::softmax_backward(&g, &y, shape, &mut from_y).unwrap();
    logitkit::log_softmax_backward(&g, &log_y, shape, &mut from_log_y).unwrap();
    logitkit::logsumexp_backward(&row_g, &x, &lse, shape, &mut from_lse).unwrap();

    let counted = labels.iter().filter(|&&label| label != IGNORED).count();
    let (scale, soft_scale) = match reduction {
        Reduction::Mean => (ONE / Dd::from(counted as f64), ONE / Dd::from(shape.batch() as f64)),
        Reduction::Sum => (ONE, ONE),
    };
    let (mut total, mut soft_total) = (ZERO, ZERO);
    for (row, x) in rows.iter().enumerate() {
        let wide: Vec<f64> = x.iter().map(|x| x.wide()).collect();
        let reference = Reference::new(x);
        let place = format_args!("row {row} of {shape:?}");
        let want = reference.logsumexp();
        let unit = want.0.abs().max(reference.max.abs()).max(1.0);
        errors.check("logsumexp", T::LSE_BOUND, lse[row], want, unit, place);

        let label = usize::try_from(labels[row]).ok();
        let mut want = ZERO;
        if let Some(label) = label {
            want = -reference.log_softmax(wide[label]);
            total = total + want;
        }
        errors.check("cross_entropy_rows", T::BOUND, losses[row], want, want.0, place);

        // The sums that the gradients need, from the very operands that the operations were given.
        let (mut weight, mut soft) = (ZERO, ZERO);
        let (mut dot, mut abs_dot, mut g_sum) = (ZERO, 0.0, ZERO);
        for (c, &x) in wide.iter().enumerate() {
            let i = at(shape, row, c);
            let (g, y, t) = (g[i].wide(), y[i].wide(), t[i].wide());
            dot = dot + Dd::from(g) * Dd::from(y);
            abs_dot += (g * y).abs();
            g_sum = g_sum + Dd::from(g);
            weight = weight + Dd::from(t);
            if t != 0.0 {
                soft = soft + Dd::from(t) * Dd::difference(reference.max, x);
            }
        }
        soft_total = soft_total + soft + weight * reference.log;

        for (c, &x) in wide.iter().enumerate() {
            let i = at(shape, row, c);
            let place = format_args!("class {c} of {place}");
            let p = reference.softmax(c, x);
            errors.check("softmax", T::BOUND, y[i], p, p.0, place);
            let want = reference.log_softmax(x);
            errors.check("log_softmax", T::BOUND, log_y[i], want, want.0, place);

            let want = label.map_or(ZERO, |label| reference.residual(c, x, label)) * scale;
            let name = if label == Some(c) { "gradient at label" } else { "gradient elsewhere" };
            errors.check(name, T::BOUND, dx[i], want, want.0, place);

            let (p, t) = (weight * p * soft_scale, Dd::from(t[i].wide()) * soft_scale);
            errors.check("soft gradient", T::BOUND, soft_dx[i], p - t, p.0.max(t.0), place);

            let (g, y) = (g[i].wide(), y[i].wide());
            let want = Dd::from(y) * (Dd::from(g) - dot);
            let unit = y * (g.abs() + abs_dot);
            errors.check("softmax_backward", T::BOUND, from_y[i], want, unit, place);

            let part =
                if log_y[i].wide().is_finite() { Dd::from(log_y[i].wide()).exp() * g_sum } else { ZERO };
            let unit = g.abs().max(part.0.abs());
            errors.check("log_softmax_backward", T::BOUND, from_log_y[i], Dd::from(g) - part, unit, place);

            let want = match x.is_finite() {
                true => Dd::difference(x, lse[row].wide()).exp_times(row_g[row].wide()),
                false => ZERO,
            };
            errors.check("logsumexp_backward", T::BOUND, from_lse[i], want, want.0, place);
        }
    }
    let place = format_args!("{shape:?}");
    errors.check("cross_entropy", T::BOUND, loss, total * scale, (total * scale).0, place);
    let want = soft_total * soft_scale;
    errors.check("soft_cross_entropy", T::BOUND, soft_loss, want, want.0, place);
}

fn check_short<T: Real>(title: &str) {
    let (mut errors, mut random) = (Errors::default(), Random(1));
    for len in 1..=70 {
        for (outer, inner) in [(29, 1), (3, 5), (1, 37), (2, 64)] {
            let shape = Shape { outer, len, inner };
            let rows = random.rows::<T>(shape.batch(), len);
            check_rows(&mut errors, &mut random, &rows, shape);
        }
    }
    errors.finish(title);
}

#[test]
fn short_rows_f32() {
    check_short::<f32>("short rows, f32");
}

#[test]
fn short_rows_f64() {
    check_short::<f64>("short rows, f64");
}

fn check_long<T: Real>(title: &str) {
    let (mut errors, mut random) = (Errors::default(), Random(2));
    for (outer, len, inner) in [(12, 1000, 1), (1, 1000, 12), (12, 3000, 1), (2, 3000, 6), (1, 70_000, 2)] {
        let shape = Shape { outer, len, inner };
        let rows = random.rows::<T>(shape.batch(), len);
        check_rows(&mut errors, &mut random, &rows, shape);
    }
    for kind in [1, 3, 8] {
        let rows = [random.row::<T>(kind, 70_000)];
        check_rows(&mut errors, &mut random, &rows, Shape::rows(1, 70_000));
    }
    errors.finish(title);
}

#[test]
fn long_rows_f32() {
    check_long::<f32>("long rows, f32");
}

#[test]
fn long_rows_f64() {
    check_long::<f64>("long rows, f64");
}

/// Rows whose exponentials are too many to be kept.
#[test]
fn very_long_rows() {
    let (mut errors, mut random) = (Errors::default(), Random(3));
    let rows = [random.row::<f32>(1, 270_001)];
    check_rows(&mut errors, &mut random, &rows, Shape::rows(1, 270_001));
    let rows = [random.row::<f64>(1, 140_001)];
    check_rows(&mut errors, &mut random, &rows, Shape::rows(1, 140_001));
    errors.finish("very long rows");
}

fn check_dominated<T: Real>(title: &str) {
    let (mut errors, mut random) = (Errors::default(), Random(4));
    for margin in 5..=700 {
        let len = [2, 3, 10, 64, 100][margin % 5];
        let mut rows = Vec::new();
        // The maximum first, last and between; the others equal, close together and spread.
        for place in [0, len / 2, len - 1] {
            for spread in [0.0, 0.1, 10.0] {
                let offset = random.uniform(-50.0, 50.0);
                let mut x: Vec<T> = (0..len).map(|_| T::of(offset - random.uniform(0.0, spread))).collect();
                x[place] = T::of(offset + margin as f64);
                rows.push(x);
            }
        }
        let shape = if margin % 2 == 0 { Shape::rows(9, len) } else { Shape { outer: 1, len, inner: 9 } };
        check_rows(&mut errors, &mut random, &rows, shape);
    }
    // Around the margin from which on the others are summed by themselves: about 15 and 21 in `f32`, 14 in `f64`.
    for step in 0..600 {
        let margin = 8.0 + step as f64 * 0.03;
        let len = [3, 17, 80, 1000][step % 4];
        let mut x = vec![T::default(); len];
        x[step % len] = T::of(margin);
        check_rows(&mut errors, &mut random, &[x], Shape::rows(1, len));
    }
    errors.finish(title);
}

#[test]
fn dominated_rows_f32() {
    check_dominated::<f32>("dominated rows, f32");
}

#[test]
fn dominated_rows_f64() {
    check_dominated::<f64>("dominated rows, f64");
}

/// Checks the gradient of a mean over `rows` copies of a row, with a class number or with probabilities.
fn check_gradient<T: Real>(errors: &mut Errors, x: &[T], label: usize, weights: Option<&[T]>, rows: usize) {
    let shape = Shape::rows(rows, x.len());
    let (logits, mut grad) = (x.repeat(rows), vec![T::default(); shape.size()]);
    match weights {
        Some(t) => {
            let t = t.repeat(rows);
            logitkit::soft_cross_entropy_value_and_grad(&logits, &t, shape, Reduction::Mean, &mut grad)
        }
        None => {
            let labels = vec![label as u32; rows];
            logitkit::cross_entropy_value_and_grad(&logits, &labels, shape, None, Reduction::Mean, &mut grad)
        }
    }
    .unwrap();
    let (reference, scale) = (Reference::new(x), ONE / Dd::from(rows as f64));
    let total = weights.map(|t| t.iter().fold(ZERO, |sum, t| sum + Dd::from(t.wide())));
    for (c, x) in x.iter().enumerate() {
        let place = format_args!("class {c} of {rows} times {logits:?}", logits = &logits[..shape.len]);
        match weights.zip(total) {
            Some((t, total)) => {
                let (p, t) = (total * reference.softmax(c, x.wide()) * scale, Dd::from(t[c].wide()) * scale);
                errors.check("soft gradient", T::BOUND, grad[c], p - t, p.0.max(t.0), place);
            }
            None => {
                let want = reference.residual(c, x.wide(), label) * scale;
                errors.check("gradient", T::BOUND, grad[c], want, want.0, place);
            }
        }
    }
}

/// Rows that a search has found: every rounding of the gradient of a mean goes the same way.
#[test]
fn hard_rows() {
    let mut errors = Errors::default();
    let x = [
        1.6240414,
        -0.6412076,
        0.39742765,
        5.0840263,
        -2.1195104,
        -0.44260207,
        0.8840336,
        -1.3331571,
        -0.9959978,
        0.6076222,
        -0.857863,
        0.10669484,
        1.1919409f32,
    ];
    let t = [
        0.022386678,
        0.11243508,
        0.11383952,
        0.017351143,
        0.0,
        0.07527175,
        0.14946336,
        0.15277494,
        0.14029798,
        0.030747313,
        0.11978401,
        0.014672499,
        0.0077059898f32,
    ];
    check_gradient(&mut errors, &x, 0, Some(&t), 14);
    let x = [-0.6479170099871655, 1.5197508396681187, 345.14673434731225, 1.0147492018769608];
    let t = [0.09651521600713597, 0.0, 0.07621801742610629, 0.3730730715386624];
    check_gradient(&mut errors, &x, 0, Some(&t), 43);
    let x = [
        -5.118319510531988,
        -25.276864340351437,
        7.8282511885334705,
        16.05425409971843,
        -0.9756425605686281,
        3.349625038127111,
        9.993049409121522,
        -0.028889263439211277,
    ];
    let t = [
        0.08892819643398167,
        0.0,
        0.0,
        0.10999712965473527,
        0.05706818800585533,
        0.0,
        0.043538283913261394,
        0.0,
    ];
    check_gradient(&mut errors, &x, 0, Some(&t), 42);
    let x = [
        -10.737529746820709,
        -27.312393052312252,
        8.603887867002467,
        -8.839418482221738,
        14.066189368046036,
        -22.22796659883081,
        3.1020655921934948,
        -0.9877574352551188,
        30.604279268536025,
    ];
    check_gradient(&mut errors, &x, 8, None, 36);
    // Every divisor up to 300, at the label and elsewhere.
    for rows in 1..=300 {
        check_gradient(&mut errors, &[0.5f64, -1.25, 3.0], 2, None, rows);
        check_gradient(&mut errors, &[0.5f64, -1.25, 3.0], 0, None, rows);
        check_gradient(&mut errors, &[0.5f64, -1.25, 3.0], 0, Some(&[0.25, 0.0, 0.3]), rows);
        check_gradient(&mut errors, &[0.5f32, -1.25, 3.0], 2, None, rows);
        check_gradient(&mut errors, &[0.5f32, -1.25, 3.0], 0, Some(&[0.25, 0.0, 0.3]), rows);
    }
    // The others' sum must keep what it loses when the maximum is taken from the sum.
    let x = [
        8.70125428801859e-6,
        -4.283567245801364e-5,
        0.00012379136051356005,
        0.00010423099098119016,
        3.526602937579484e-5,
        8.153935272620646e-5,
    ];
    let mut lse = [0.0];
    logitkit::logsumexp(&x, Shape::rows(1, 6), &mut lse).unwrap();
    let (want, place) = (Reference::new(&x).logsumexp(), format_args!("nearly equal ones"));
    errors.check("logsumexp", f64::LSE_BOUND, lse[0], want, want.0, place);
    errors.finish("hard rows");
}

/// The result is where the maximum and the logarithm cancel: the unit is still the larger of them.
#[test]
fn logsumexp_near_zero() {
    fn check<T: Real>(errors: &mut Errors) {
        for len in 2..200 {
            let x = vec![T::of(-f64::from(len).ln()); len as usize];
            let mut lse = [T::default()];
            logitkit::logsumexp(&x, Shape::rows(1, x.len()), &mut lse).unwrap();
            let want = Reference::new(&x).logsumexp();
            errors.check(
                "logsumexp",
                T::LSE_BOUND,
                lse[0],
                want,
                x[0].wide(),
                format_args!("{len} equal ones"),
            );
        }
    }
    let mut errors = Errors::default();
    check::<f32>(&mut errors);
    check::<f64>(&mut errors);
    errors.finish("logsumexp near 0");
}

/// With the maximum at 0 the result is the logarithm alone, and keeps its own digits.
#[test]
fn logsumexp_above_zero() {
    fn check<T: Real>(errors: &mut Errors) {
        for tail in 1..700 {
            let x = [T::of(-f64::from(tail)), T::default(), T::of(-f64::from(tail) - 0.5)];
            let mut lse = [T::default()];
            logitkit::logsumexp(&x, Shape::rows(1, 3), &mut lse).unwrap();
            let want = Reference::new(&x).logsumexp();
            errors.check("logsumexp", T::LSE_BOUND, lse[0], want, want.0, format_args!("{x:?}"));
        }
    }
    let mut errors = Errors::default();
    check::<f32>(&mut errors);
    check::<f64>(&mut errors);
    errors.finish("logsumexp above 0");
}

fn check_mse<T: Real>(
    errors: &mut Errors,
    pred: &[T],
    target: &[T],
    reduction: Reduction,
    place: Arguments<'_>,
) {
    let count = Dd::from(pred.len() as f64);
    let mut grad = vec![T::default(); pred.len()];
    let loss = logitkit::mse_loss_value_and_grad(pred, target, reduction, &mut grad).unwrap();
    let mut sum = ZERO;
    for (i, (p, t)) in pred.iter().zip(target).enumerate() {
        let d = Dd::difference(p.wide(), t.wide());
        sum = sum + d * d;
        let want = Dd::from(2.0) * d / if reduction == Reduction::Mean { count } else { ONE };
        errors.check("mse gradient", T::BOUND, grad[i], want, want.0, format_args!("element {i} of {place}"));
    }
    let want = if reduction == Reduction::Mean { sum / count } else { sum };
    errors.check("mse_loss", T::BOUND, loss, want, want.0, place);
}

#[test]
fn mse() {
    fn check<T: Real>(errors: &mut Errors, random: &mut Random) {
        for len in (1..=70).chain([4095, 4096, 4097, 70_000]) {
            for (scale, offset) in [(1.0, 0.0), (1e-12, 0.0), (1e3, 1e6), (1e12, 0.0)] {
                let mut data =
                    || -> Vec<T> { (0..len).map(|_| T::of(random.normal() * scale + offset)).collect() };
                let (pred, target) = (data(), data());
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    check_mse(errors, &pred, &target, reduction, format_args!("{len} elements at {scale}"));
                }
            }
        }
    }
    let (mut errors, mut random) = (Errors::default(), Random(5));
    check::<f32>(&mut errors, &mut random);
    check::<f64>(&mut errors, &mut random);
    errors.finish("mse");
}

/// Squares leave the range of the element type, of `f64`, and of the sum, where the mean does not.
#[test]
fn mse_at_the_ends_of_the_range() {
    let mean = |pred: &[f64]| logitkit::mse_loss(pred, &vec![0.0; pred.len()], Reduction::Mean).unwrap();
    assert_eq!(logitkit::mse_loss(&[2e19f32, 0.0, 0.0, 0.0], &[0.0; 4], Reduction::Mean), Ok(1e38));
    // Powers of two are exact: 2^1024 / 2, 2^1026 / 8, 2^-1080 and its sums.
    assert_eq!(mean(&[2f64.powi(512), 0.0]), 2f64.powi(1023));
    assert_eq!(mean(&[2f64.powi(513), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 2f64.powi(1023));
    assert_eq!(mean(&[2f64.powi(512)]), f64::INFINITY);
    assert_eq!(mean(&[2f64.powi(-537)]), f64::from_bits(1));
    assert_eq!(mean(&[2f64.powi(-530), 2f64.powi(-530)]), 2f64.powi(-1060));
    assert_eq!(mean(&[2f64.powi(-600)]), 0.0);
    let mut grad = [1.0];
    let loss = logitkit::mse_loss_value_and_grad(&[f64::MAX], &[0.0], Reduction::Mean, &mut grad);
    assert_eq!((loss, grad), (Ok(f64::INFINITY), [f64::INFINITY]));
}

/// Means over many rows and elements keep the promise: the sums are compensated or wide.
#[test]
fn means_over_many() {
    let (mut errors, mut random) = (Errors::default(), Random(6));
    let shape = Shape::rows(150_000, 2);
    let x = random.normals::<f32>(shape.size(), 3.0);
    let labels: Vec<u8> = (0..shape.batch()).map(|_| random.below(2) as u8).collect();
    let total = labels.iter().enumerate().fold(ZERO, |total, (row, &label)| {
        let x = row_of(&x, shape, row);
        total - Reference::new(&x).log_softmax(x[usize::from(label)].wide())
    });
    let mean = total / Dd::from(shape.batch() as f64);
    let got = logitkit::cross_entropy(&x, &labels, shape, None, Reduction::Mean).unwrap();
    errors.check("cross_entropy", f32::BOUND, got, mean, mean.0, format_args!("150 000 rows, f32"));
    let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let got = logitkit::cross_entropy(&x, &labels, shape, None, Reduction::Mean).unwrap();
    errors.check("cross_entropy", f64::BOUND, got, mean, mean.0, format_args!("150 000 rows, f64"));
    let (pred, target) = (random.normals::<f64>(300_000, 1.0), vec![0.1; 300_000]);
    check_mse(&mut errors, &pred, &target, Reduction::Mean, format_args!("300 000 elements"));
    errors.finish("means over many");
}

/// Means that are finite while the sums, or differences, of what they are taken over are not.
#[test]
fn means_near_the_largest_number() {
    const HUGE: f64 = 1.5e308;
    // Two halves of the number of rows, in chunks of their own and in one.
    for rows in [2, 10, 9000] {
        let shape = Shape::rows(rows, 2);
        let x: Vec<f64> = [-HUGE / 2.0, HUGE / 2.0].repeat(rows);
        let (labels, mut grad) = (vec![0u8; rows], vec![1.0; shape.size()]);
        let mean = logitkit::cross_entropy(&x, &labels, shape, None, Reduction::Mean);
        assert_eq!(mean, Ok(HUGE), "{rows} rows");
        let sum = logitkit::cross_entropy(&x, &labels, shape, None, Reduction::Sum);
        assert_eq!(sum, Ok(f64::INFINITY), "{rows} rows");
        let with_grad =
            logitkit::cross_entropy_value_and_grad(&x, &labels, shape, None, Reduction::Mean, &mut grad);
        assert_eq!(with_grad, mean);
        // The maximum minus the other one overflows, a part of it does not.
        let (x, t) = ([-HUGE, HUGE].repeat(rows), [0.125, 0.5].repeat(rows));
        let mean = logitkit::soft_cross_entropy(&x, &t, shape, Reduction::Mean);
        assert_eq!(mean, Ok(HUGE / 4.0), "{rows} rows");
        // Sums of squares overflow, each of a chunk of 4096 and only all of them.
        for scale in [1.0, 1.0 / 4096.0] {
            let root = (HUGE * scale).sqrt();
            let pred = vec![root; 3 * rows];
            let mean = logitkit::mse_loss(&pred, &vec![0.0; pred.len()], Reduction::Mean).unwrap();
            let error = (mean - root * root).abs() / (root * root);
            assert!(error <= f64::EPSILON, "{mean:e}, {rows} rows");
        }
    }
    // 2 (p - t) / 8, where p - t overflows and, in the same chunk, elements that do not.
    let pred = [HUGE, -HUGE, 3.0, 5e-324, HUGE, 1.0, 0.0, -2.0];
    let target = [-HUGE, HUGE, 1.0, 0.0, HUGE, 1.0, 0.0, 2.0];
    let mut grad = [0.0; 8];
    let loss = logitkit::mse_loss_value_and_grad(&pred, &target, Reduction::Mean, &mut grad);
    assert_eq!(loss, Ok(f64::INFINITY));
    assert_eq!(grad, [HUGE / 2.0, -HUGE / 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, -1.0]);
    // Of either sign.
    for t in [0.5, -0.5] {
        let loss =
            logitkit::soft_cross_entropy(&[1e308, -1e308], &[0.0, t], Shape::rows(1, 2), Reduction::Sum);
        assert_eq!(loss, Ok(1e308 * (2.0 * t)));
    }
}

/// What is left where losses of both signs cancel, each in a chunk of its own.
#[test]
fn losses_that_cancel() {
    let shape = Shape::rows(3, 40_000);
    let x = vec![0.0f64; shape.size()];
    let mut t = x.clone();
    (t[0], t[shape.len], t[2 * shape.len]) = (1.0, -1.0, 2f64.powi(-60));
    let loss = logitkit::soft_cross_entropy(&x, &t, shape, Reduction::Sum).unwrap();
    assert_eq!(loss, 40_000f64.ln() * 2f64.powi(-60));
}

/// An element's gradient is the same beside a huge number, an infinity, and NaN.
#[test]
fn squared_error_gradients_are_alone() {
    for neighbour in [1.0, 1e200, 1.5e308, f64::INFINITY, f64::NAN] {
        let pred = [neighbour, 5e-324, 1.0, -1.5e308, 1e-310, 3.0, 0.25, 5e-324, 7.0];
        let target = [0.0, 0.0, 1.0, 1.5e308, 5e-324, -4.0, 0.5, -5e-324, 7.5];
        let mut grad = [0.0; 9];
        logitkit::mse_loss_value_and_grad(&pred, &target, Reduction::Sum, &mut grad).unwrap();
        let tiny = 2.0 * (1e-310 - 5e-324);
        assert_eq!(
            grad[1..],
            [1e-323, 0.0, f64::NEG_INFINITY, tiny, 14.0, -0.5, 2e-323, -1.0],
            "{neighbour}"
        );
    }
}

/// The reference itself, against constants and identities, to many digits more than `f64` has.
#[test]
fn the_reference_is_right() {
    let close = |got: Dd, want: Dd| {
        let error = ((got - want) / want).abs().0;
        assert!(error < 1e-24, "{got:?}, not {want:?}: {error:e}");
    };
    let e = Dd(std::f64::consts::E, 1.445_646_891_729_250_2e-16);
    let ln_2 = Dd(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
    close(ONE.exp(), e);
    close(Dd::from(-1.0).exp() * e, ONE);
    close(ONE.ln_1p(), ln_2);
    close((e - ONE).ln_1p(), ONE);
    close(Dd::from(3.0).ln_1p(), ln_2 + ln_2);
    // log(1 + x) = x - x^2/2 + x^3/3 - ... below, and log(a b) = log a + log b across the two methods.
    let x = Dd::from(1e-9);
    close(x.ln_1p(), x - x * x / Dd::from(2.0) + x * x * x / Dd::from(3.0) - x * x * x * x / Dd::from(4.0));
    let (a, b) = (Dd::from(9e-6), Dd::from(1e-5));
    close((a + b + a * b).ln_1p(), a.ln_1p() + b.ln_1p());
    for x in [-600.0, -40.5, -0.3, 1e-7, 12.25, 300.0] {
        let half = Dd::from(x / 2.0).exp();
        close(Dd::from(x).exp(), half * half);
    }
}

/// The figures of a text book.
#[test]
fn known_values() {
    let mut y = [0.0f64; 3];
    logitkit::softmax(&[1.0, 2.0, 3.0], Shape::rows(1, 3), &mut y).unwrap();
    assert_eq!(y.map(|y| format!("{y:.8}")), ["0.09003057", "0.24472847", "0.66524096"]);
    for (p, loss) in [
        ([0.1, 0.15, 0.05, 0.6, 0.1], "0.510826"),
        ([0.15, 0.2, 0.4, 0.1, 0.15], "2.302585"),
        ([0.05, 0.15, 0.4, 0.3, 0.1], "1.203973"),
    ] {
        let logits = p.map(f64::ln);
        let got = logitkit::cross_entropy(&logits, &[3u8], Shape::rows(1, 5), None, Reduction::Sum).unwrap();
        assert_eq!(format!("{got:.6}"), loss);
    }
}
