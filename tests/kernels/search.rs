//! A search for rows that a result is as wrong for as it can be, and the rows that it has found.
//!
//! `tests/worst.txt` holds the worst rows so far; the ordinary run holds them to the promise and searches for a
//! moment. `cargo test --release --test kernels search -- --ignored --nocapture` searches for a minute (or for
//! `LOGITKIT_SEARCH_SECONDS`), prints the worst of every operation, and puts them into the file.

use crate::common::{Dd, Levels, ONE, Random, Real, Reference, ZERO, error};
use logitkit::{Level, Reduction, Shape};
use std::fmt::Write;
use std::str::FromStr;
use std::time::{Duration, Instant};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/worst.txt");
/// Rows that the file keeps of each operation and type.
const KEPT: usize = 3;
const MAX_LEN: usize = 24;

/// A row with all that goes with it.
#[derive(Clone, Debug, PartialEq)]
struct Case<T> {
    x: Vec<T>,
    /// The incoming gradient, or the other operand of a squared error.
    g: Vec<T>,
    /// Probabilities.
    t: Vec<T>,
    label: usize,
    /// How many copies of the row a mean is taken over.
    rows: usize,
}

/// The largest error of a result, in units in the last place.
type Measure<T> = fn(&Case<T>) -> f64;

fn largest(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, f64::max)
}

fn softmax<T: Real>(case: &Case<T>) -> f64 {
    let (x, mut y) = (&case.x, vec![T::default(); case.x.len()]);
    logitkit::softmax(x, Shape::rows(1, x.len()), &mut y).unwrap();
    let reference = Reference::new(x);
    largest((0..x.len()).map(|c| {
        let p = reference.softmax(c, x[c].wide());
        error(y[c], p, p.0)
    }))
}

fn log_softmax<T: Real>(case: &Case<T>) -> f64 {
    let (x, mut y) = (&case.x, vec![T::default(); case.x.len()]);
    logitkit::log_softmax(x, Shape::rows(1, x.len()), &mut y).unwrap();
    let reference = Reference::new(x);
    largest((0..x.len()).map(|c| {
        let want = reference.log_softmax(x[c].wide());
        error(y[c], want, want.0)
    }))
}

fn logsumexp<T: Real>(case: &Case<T>) -> f64 {
    let mut lse = [T::default()];
    logitkit::logsumexp(&case.x, Shape::rows(1, case.x.len()), &mut lse).unwrap();
    let reference = Reference::new(&case.x);
    let want = reference.logsumexp();
    error(lse[0], want, want.0.abs().max(reference.max.abs()).max(1.0))
}

fn cross_entropy<T: Real>(case: &Case<T>) -> f64 {
    let (x, label) = (&case.x, [case.label as u32]);
    let shape = Shape::rows(1, x.len());
    let loss = logitkit::cross_entropy(x, &label, shape, None, Reduction::Sum).unwrap();
    let want = -Reference::new(x).log_softmax(x[case.label].wide());
    error(loss, want, want.0)
}

/// Of the label's entry, or of the others.
fn gradient<T: Real, const LABEL: bool>(case: &Case<T>) -> f64 {
    let shape = Shape::rows(case.rows, case.x.len());
    let (x, labels) = (case.x.repeat(case.rows), vec![case.label as u32; case.rows]);
    let mut grad = vec![T::default(); x.len()];
    logitkit::cross_entropy_value_and_grad(&x, &labels, shape, None, Reduction::Mean, &mut grad).unwrap();
    let (reference, scale) = (Reference::new(&case.x), ONE / Dd::from(case.rows as f64));
    let entries = (0..shape.len).filter(|&c| (c == case.label) == LABEL);
    largest(entries.map(|c| {
        let want = reference.residual(c, case.x[c].wide(), case.label) * scale;
        error(grad[c], want, want.0)
    }))
}

fn total<T: Real>(x: &[T]) -> Dd {
    x.iter().fold(ZERO, |sum, x| sum + Dd::from(x.wide()))
}

fn soft_cross_entropy<T: Real>(case: &Case<T>) -> f64 {
    let (x, t) = (&case.x, &case.t);
    let shape = Shape::rows(1, x.len());
    let loss = logitkit::soft_cross_entropy(x, t, shape, Reduction::Sum).unwrap();
    let reference = Reference::new(x);
    let terms = x.iter().zip(t).map(|(x, t)| match t.wide() {
        0.0 => ZERO,
        t => Dd::from(t) * Dd::difference(reference.max, x.wide()),
    });
    let want = terms.fold(ZERO, |sum, term| sum + term) + total(t) * reference.log;
    error(loss, want, want.0)
}

fn soft_gradient<T: Real>(case: &Case<T>) -> f64 {
    let shape = Shape::rows(case.rows, case.x.len());
    let (x, t) = (case.x.repeat(case.rows), case.t.repeat(case.rows));
    let mut grad = vec![T::default(); x.len()];
    logitkit::soft_cross_entropy_value_and_grad(&x, &t, shape, Reduction::Mean, &mut grad).unwrap();
    let (reference, scale) = (Reference::new(&case.x), ONE / Dd::from(case.rows as f64));
    let weight = total(&case.t);
    largest((0..shape.len).map(|c| {
        let p = weight * reference.softmax(c, x[c].wide()) * scale;
        let t = Dd::from(t[c].wide()) * scale;
        error(grad[c], p - t, p.0.max(t.0))
    }))
}

fn softmax_backward<T: Real>(case: &Case<T>) -> f64 {
    let shape = Shape::rows(1, case.x.len());
    let (mut y, mut out) = (vec![T::default(); shape.len], vec![T::default(); shape.len]);
    logitkit::softmax(&case.x, shape, &mut y).unwrap();
    logitkit::softmax_backward(&case.g, &y, shape, &mut out).unwrap();
    let pairs = || case.g.iter().zip(&y).map(|(g, y)| (g.wide(), y.wide()));
    let dot = pairs().fold(ZERO, |sum, (g, y)| sum + Dd::from(g) * Dd::from(y));
    let abs_dot: f64 = pairs().map(|(g, y)| (g * y).abs()).sum();
    largest(
        pairs()
            .zip(&out)
            .map(|((g, y), &out)| error(out, Dd::from(y) * (Dd::from(g) - dot), y * (g.abs() + abs_dot))),
    )
}

fn log_softmax_backward<T: Real>(case: &Case<T>) -> f64 {
    let shape = Shape::rows(1, case.x.len());
    let (mut y, mut out) = (vec![T::default(); shape.len], vec![T::default(); shape.len]);
    logitkit::log_softmax(&case.x, shape, &mut y).unwrap();
    logitkit::log_softmax_backward(&case.g, &y, shape, &mut out).unwrap();
    let sum = total(&case.g);
    largest((0..shape.len).map(|c| {
        let (g, y) = (case.g[c].wide(), y[c].wide());
        let part = if y.is_finite() { Dd::from(y).exp() * sum } else { ZERO };
        error(out[c], Dd::from(g) - part, g.abs().max(part.0.abs()))
    }))
}

fn logsumexp_backward<T: Real>(case: &Case<T>) -> f64 {
    let shape = Shape::rows(1, case.x.len());
    let (mut lse, mut out) = ([T::default()], vec![T::default(); shape.len]);
    logitkit::logsumexp(&case.x, shape, &mut lse).unwrap();
    logitkit::logsumexp_backward(&case.g[..1], &case.x, &lse, shape, &mut out).unwrap();
    largest((0..shape.len).map(|c| {
        let (x, lse) = (case.x[c].wide(), lse[0].wide());
        let want = if x.is_finite() { Dd::difference(x, lse).exp_times(case.g[0].wide()) } else { ZERO };
        error(out[c], want, want.0)
    }))
}

fn mse_loss<T: Real>(case: &Case<T>) -> f64 {
    // The reference has no squares of larger numbers.
    if case.x.iter().any(|x| x.wide().abs() > 1e150) {
        return 0.0;
    }
    let loss = logitkit::mse_loss(&case.x, &case.g, Reduction::Mean).unwrap();
    let squares = case.x.iter().zip(&case.g).map(|(p, t)| Dd::difference(p.wide(), t.wide())).map(|d| d * d);
    let want = squares.fold(ZERO, |sum, square| sum + square) / Dd::from(case.x.len() as f64);
    error(loss, want, want.0)
}

fn mse_gradient<T: Real>(case: &Case<T>) -> f64 {
    // The reference splits no larger numbers.
    if case.x.iter().any(|x| x.wide().abs() > 1e290) {
        return 0.0;
    }
    let mut grad = vec![T::default(); case.x.len()];
    logitkit::mse_loss_value_and_grad(&case.x, &case.g, Reduction::Mean, &mut grad).unwrap();
    let factor = Dd::from(2.0) / Dd::from(case.x.len() as f64);
    largest(case.x.iter().zip(&case.g).zip(&grad).map(|((p, t), &grad)| {
        let want = factor * Dd::difference(p.wide(), t.wide());
        error(grad, want, want.0)
    }))
}

/// Name, measure and bound of every result.
fn results<T: Real>() -> [(&'static str, Measure<T>, f64); 13] {
    [
        ("softmax", softmax, T::BOUND),
        ("log_softmax", log_softmax, T::BOUND),
        ("logsumexp", logsumexp, T::LSE_BOUND),
        ("cross_entropy", cross_entropy, T::BOUND),
        ("gradient_label", gradient::<T, true>, T::BOUND),
        ("gradient_others", gradient::<T, false>, T::BOUND),
        ("soft_cross_entropy", soft_cross_entropy, T::BOUND),
        ("soft_gradient", soft_gradient, T::BOUND),
        ("softmax_backward", softmax_backward, T::BOUND),
        ("log_softmax_backward", log_softmax_backward, T::BOUND),
        ("logsumexp_backward", logsumexp_backward, T::BOUND),
        ("mse_loss", mse_loss, T::BOUND),
        ("mse_gradient", mse_gradient, T::BOUND),
    ]
}

impl<T: Real> Case<T> {
    /// A row of any kind.
    fn new(random: &mut Random) -> Case<T> {
        let longest = MAX_LEN / (1 + random.below(4));
        let len = 1 + random.below(longest);
        let kind = random.below(Random::KINDS);
        let x = random.row::<T>(kind, len);
        let scale = [1.0, 1.0, 1e-12, 1e12][random.below(4)];
        let (g, t) = (random.normals(len, scale), random.weights(&x));
        let label = random.label(&x) as usize;
        Case { x, g, t, label, rows: 1 + random.below(50) }
    }

    /// Whether references can be computed: moderate numbers apart from logits and masks, and a label that is not masked.
    fn is_sound(&self) -> bool {
        let moderate = |x: &[T]| x.iter().all(|x| x.wide().abs() < 1e30);
        let ordinary = |x: T| x.wide() > T::LOWEST.wide() / 4.0;
        let max = self.x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.wide()));
        max.is_finite()
            && max < -T::LOWEST.wide() / 4.0
            && !self.x.iter().any(|x| x.wide().is_nan())
            && moderate(&self.g)
            && moderate(&self.t)
            && ordinary(self.x[self.label])
            && self.x.iter().zip(&self.t).all(|(&x, t)| t.wide() == 0.0 || ordinary(x))
    }

    /// A neighbour.
    fn changed(&self, random: &mut Random) -> Case<T> {
        let mut case = self.clone();
        let (i, j) = (random.below(self.x.len()), random.below(self.x.len()));
        let nudge = |v: &mut T, random: &mut Random| {
            let x = v.wide();
            *v = match random.below(6) {
                // A few units in the last place, then more and more.
                0 | 1 => T::of(x + x * (random.below(9) as f64 - 4.0) * 2f64.powi(-T::DIGITS)),
                2 => T::of(x * (1.0 + random.normal() * 1e-4)),
                3 => T::of(x + random.normal() * 1e-2),
                4 => T::of(x + random.normal()),
                _ => T::of(x * random.uniform(0.5, 2.0)),
            };
        };
        match random.below(16) {
            0..=4 => nudge(&mut case.x[i], random),
            5 => case.x[i] = case.x[j],
            6 => case.x.swap(i, j),
            7 => {
                let by = random.normal() * [1e-3, 1.0, 50.0][random.below(3)];
                case.x.iter_mut().for_each(|x| *x = T::of(x.wide() + by));
            }
            8 => {
                let by = random.uniform(0.9, 1.1);
                case.x.iter_mut().for_each(|x| *x = T::of(x.wide() * by));
            }
            9 if self.x.len() < MAX_LEN => {
                case.x.push(self.x[i]);
                case.g.push(self.g[j]);
                case.t.push(self.t[i]);
            }
            10 if self.x.len() > 1 => {
                case.x.remove(i);
                case.g.remove(i);
                case.t.remove(i);
                case.label = case.label.min(case.x.len() - 1);
            }
            11 => case.rows = 1 + random.below(60),
            12 => case.label = i,
            13 => nudge(&mut case.t[i], random),
            _ => nudge(&mut case.g[i], random),
        }
        case.t.iter_mut().for_each(|t| *t = T::of(t.wide().abs()));
        case
    }
}

/// Climbs from many rows until the budget is spent; the worst rows come first, each with its error.
fn climb<T: Real>(
    measure: Measure<T>,
    random: &mut Random,
    mut budget: impl FnMut() -> bool,
) -> Vec<(f64, Case<T>)> {
    let mut worst: Vec<(f64, Case<T>)> = Vec::new();
    while budget() {
        // The best of some starts, for as long as it gets worse now and then.
        let starts = (0..20).map(|_| Case::new(random)).filter(Case::is_sound).map(|c| (measure(&c), c));
        let Some((mut error, mut case)) = starts.max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        let mut patience = 600;
        while patience > 0 && budget() {
            let mut next = case.changed(random);
            if random.below(4) == 0 {
                next = next.changed(random);
            }
            patience -= 1;
            if next.is_sound() {
                let found = measure(&next);
                if found > error {
                    patience = 600;
                }
                if found >= error {
                    (error, case) = (found, next);
                }
            }
        }
        worst.push((error, case));
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        worst.truncate(KEPT);
    }
    worst
}

// --- the file --------------------------------------------------------------------------------------------

fn words<T: Real>(x: &[T]) -> String {
    x.iter().map(|x| format!("{x:?}")).collect::<Vec<_>>().join(",")
}

fn numbers<T: Real + FromStr>(text: &str) -> Vec<T> {
    text.split(',').map(|word| word.parse().ok().expect("a number")).collect()
}

/// `result type error label rows x g t`, the last three separated by commas.
fn line<T: Real>(name: &str, error: f64, case: &Case<T>) -> String {
    let Case { x, g, t, label, rows } = case;
    let (kind, x, g, t) = (std::any::type_name::<T>(), words(x), words(g), words(t));
    format!("{name} {kind} {error:.3} {label} {rows} {x} {g} {t}\n")
}

fn parsed<T: Real + FromStr>(line: &str) -> Option<(&str, Case<T>)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[name, kind, _, label, rows, x, g, t] = &words[..] else { panic!("not a case: {line}") };
    (kind == std::any::type_name::<T>()).then(|| {
        let case = Case {
            x: numbers(x),
            g: numbers(g),
            t: numbers(t),
            label: label.parse().unwrap(),
            rows: rows.parse().unwrap(),
        };
        (name, case)
    })
}

/// The rows of the file for one result, with today's errors.
fn known<T: Real + FromStr>(file: &str, name: &str, measure: Measure<T>) -> Vec<(f64, Case<T>)> {
    let cases = file.lines().filter_map(parsed::<T>).filter(|case| case.0 == name);
    cases.map(|(_, case)| (measure(&case), case)).collect()
}

fn check_known<T: Real + FromStr>() {
    let file = std::fs::read_to_string(FILE).unwrap();
    for (name, measure, bound) in results::<T>() {
        let cases = known::<T>(&file, name, measure);
        assert!(!cases.is_empty(), "no row of {name}");
        for (error, case) in cases {
            assert!(error <= bound, "{name}: {error:.3} ulp, bound {bound}: {case:?}");
        }
    }
}

#[test]
fn worst_rows() {
    let levels = Levels::lock();
    for level in Level::available() {
        levels.set(level);
        check_known::<f32>();
        check_known::<f64>();
    }
}

fn check_moment<T: Real>(seed: u64) {
    for (name, measure, bound) in results::<T>() {
        let (mut random, mut left) = (Random(seed), 3000);
        let worst = climb(measure, &mut random, || {
            left -= 1;
            left >= 0
        });
        let (error, case) = &worst[0];
        assert!(*error > 0.0 && *error <= bound, "{name}: {error:.3} ulp, bound {bound}: {case:?}");
    }
}

#[test]
fn search_for_a_moment() {
    let levels = Levels::lock();
    for (seed, level) in Level::available().into_iter().enumerate() {
        levels.set(level);
        check_moment::<f32>(seed as u64);
        check_moment::<f64>(seed as u64);
    }
}

fn search<T: Real + FromStr>(file: &str, seconds: f64, seed: u64) -> (String, Vec<String>) {
    let (mut lines, mut failures) = (String::new(), Vec::new());
    for (name, measure, bound) in results::<T>() {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut worst = climb(measure, &mut Random(seed), || Instant::now() < end);
        worst.extend(known(file, name, measure));
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        worst.dedup();
        worst.truncate(KEPT);
        println!("{name:22} {} {:6.3} of {bound}", std::any::type_name::<T>(), worst[0].0);
        for (error, case) in &worst {
            lines.write_str(&line(name, *error, case)).unwrap();
            if *error > bound {
                failures.push(format!("{name}: {error:.3} ulp, bound {bound}: {case:?}"));
            }
        }
    }
    (lines, failures)
}

#[test]
#[ignore = "searches for as long as it is told"]
fn search_for_long() {
    let seconds = std::env::var("LOGITKIT_SEARCH_SECONDS").map_or(60.0, |text| text.parse().unwrap());
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let file = std::fs::read_to_string(FILE).unwrap_or_default();
    let share = seconds / results::<f32>().len() as f64;
    // One thread for each type.
    let (single, double) = std::thread::scope(|scope| {
        let double = scope.spawn(|| search::<f64>(&file, share, seed));
        (search::<f32>(&file, share, seed), double.join().unwrap())
    });
    std::fs::write(FILE, single.0 + &double.0).unwrap();
    let failures = [single.1, double.1].concat();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
