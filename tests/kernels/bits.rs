//! The same input gives the same bits: at every level, for every number of threads, alone or in a batch, along
//! any axis, in place or not, wherever it lies in memory.

use crate::common::{Levels, Random, Real, at, bits, from_rows};
use logitkit::{Level, Reduction, Shape, set_thread_override};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const IGNORED: i64 = -100;

/// The operands of all operations, row by row.
struct Operands<T> {
    x: Vec<Vec<T>>,
    g: Vec<Vec<T>>,
    weights: Vec<Vec<T>>,
    row_g: Vec<T>,
    labels: Vec<i64>,
}

impl<T: Real> Operands<T> {
    /// Rows of all kinds, NaN and infinities among them; some labels are ignored.
    fn new(seed: u64, rows: usize, len: usize) -> Self {
        let mut random = Random(seed);
        let mut x = random.rows::<T>(rows, len);
        let labels =
            (0..rows).map(|row| if row % 9 == 8 { IGNORED } else { random.label(&x[row]) }).collect();
        let weights = x.iter().map(|x| random.weights(x)).collect();
        for (row, x) in x.iter_mut().enumerate() {
            let place = random.below(len);
            match row % 23 {
                5 => x[place] = T::NAN,
                11 => x[place] = T::INFINITY,
                17 => x.fill(T::of(f64::NEG_INFINITY)),
                19 => x[place] = T::of(f64::NEG_INFINITY),
                _ => {}
            }
        }
        let g = (0..rows).map(|_| random.normals(len, 1.0)).collect();
        let row_g = random.normals(rows, 1.0);
        Operands { x, g, weights, row_g, labels }
    }

    /// One row by itself.
    fn row(&self, row: usize) -> Self {
        Operands {
            x: vec![self.x[row].clone()],
            g: vec![self.g[row].clone()],
            weights: vec![self.weights[row].clone()],
            row_g: vec![self.row_g[row]],
            labels: vec![self.labels[row]],
        }
    }

    fn run(&self, shape: Shape) -> Results {
        self.run_at(shape, 0)
    }

    /// The results of all operations in this layout, with buffers that start `offset` elements later.
    fn run_at(&self, shape: Shape, offset: usize) -> Results {
        let array = |rows: &[Vec<T>]| {
            let mut a = vec![T::NAN; offset];
            a.extend(from_rows(rows, shape));
            a
        };
        let (x, g, t) = (array(&self.x), array(&self.g), array(&self.weights));
        let (x, g, t) = (&x[offset..], &g[offset..], &t[offset..]);
        let labels = &self.labels;
        let mut results = Results { shape, elements: Vec::new(), rows: Vec::new(), totals: Vec::new() };
        let mut buffer = vec![T::NAN; offset + shape.size()];
        let out = &mut buffer[offset..];

        logitkit::softmax(x, shape, out).unwrap();
        let y = out.to_vec();
        results.elements.push(("softmax", bits(out)));
        logitkit::log_softmax(x, shape, out).unwrap();
        let log_y = out.to_vec();
        results.elements.push(("log_softmax", bits(out)));
        logitkit::softmax_backward(g, &y, shape, out).unwrap();
        results.elements.push(("softmax_backward", bits(out)));
        logitkit::log_softmax_backward(g, &log_y, shape, out).unwrap();
        results.elements.push(("log_softmax_backward", bits(out)));
        let mut lse = vec![T::NAN; shape.batch()];
        logitkit::logsumexp(x, shape, &mut lse).unwrap();
        results.rows.push(("logsumexp", bits(&lse)));
        logitkit::logsumexp_backward(&self.row_g, x, &lse, shape, out).unwrap();
        results.elements.push(("logsumexp_backward", bits(out)));

        let ignore = Some(IGNORED);
        logitkit::cross_entropy_rows(x, labels, shape, ignore, &mut lse).unwrap();
        results.rows.push(("cross_entropy_rows", bits(&lse)));
        let mut is_argmax = vec![false; shape.batch()];
        logitkit::token_logprobs(x, labels, shape, ignore, &mut lse, &mut is_argmax).unwrap();
        results.rows.push(("token_logprobs", bits(&lse)));
        results.rows.push(("is_argmax", is_argmax.into_iter().map(u64::from).collect()));
        for k in [1, 5, 20, shape.len] {
            let top = Shape { len: k.min(shape.len), ..shape };
            let (mut values, mut indices) = (vec![T::NAN; top.size()], vec![-1; top.size()]);
            logitkit::top_k_logprobs(x, top.len, shape, &mut values, &mut indices).unwrap();
            for place in 0..top.len {
                let of_rows = |row| at(top, row, place);
                let value = |row| values[of_rows(row)].bits();
                results.rows.push(("top_k_logprobs", (0..shape.batch()).map(value).collect()));
                let class = |row| indices[of_rows(row)] as u64;
                results.rows.push(("indices", (0..shape.batch()).map(class).collect()));
            }
        }
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let loss =
                logitkit::cross_entropy_value_and_grad(x, labels, shape, ignore, reduction, out).unwrap();
            let alone = logitkit::cross_entropy(x, labels, shape, ignore, reduction).unwrap();
            assert_eq!(loss.bits(), alone.bits(), "cross_entropy with and without gradient, {shape:?}");
            results.totals.push(("cross_entropy", loss.bits()));
            if reduction == Reduction::Sum {
                results.elements.push(("cross-entropy gradient", bits(out)));
            }
            let loss = logitkit::soft_cross_entropy_value_and_grad(x, t, shape, reduction, out).unwrap();
            let alone = logitkit::soft_cross_entropy(x, t, shape, reduction).unwrap();
            assert_eq!(loss.bits(), alone.bits(), "soft_cross_entropy with and without gradient, {shape:?}");
            results.totals.push(("soft_cross_entropy", loss.bits()));
            if reduction == Reduction::Sum {
                results.elements.push(("soft cross-entropy gradient", bits(out)));
            }
            let wrong = logitkit::classification_error(x, labels, shape, ignore, reduction).unwrap();
            results.totals.push(("classification_error", wrong.to_bits()));
        }
        results
    }

    /// The mean squared error of the flat operands.
    fn mse(&self) -> (u64, Vec<u64>) {
        let (pred, target) = (self.x.concat(), self.g.concat());
        let mut grad = vec![T::NAN; pred.len()];
        let loss =
            logitkit::mse_loss_value_and_grad(&pred, &target, Reduction::Mean, &mut grad).unwrap().bits();
        assert_eq!(loss, logitkit::mse_loss(&pred, &target, Reduction::Mean).unwrap().bits());
        (loss, bits(&grad))
    }
}

/// The bits of all results.
#[derive(Clone, PartialEq, Debug)]
struct Results {
    shape: Shape,
    elements: Vec<(&'static str, Vec<u64>)>,
    rows: Vec<(&'static str, Vec<u64>)>,
    totals: Vec<(&'static str, u64)>,
}

impl Results {
    /// All results, the totals too, have the bits of `other`, which may be stored along another axis.
    fn assert_same(&self, other: &Results, what: &str) {
        self.assert_rows_same(other, what);
        assert_eq!(self.totals, other.totals, "{what}: totals of {:?} and {:?}", self.shape, other.shape);
    }

    /// The results per element and per row have the bits of `other`'s.
    fn assert_rows_same(&self, other: &Results, what: &str) {
        for row in 0..self.shape.batch() {
            self.assert_row_same(row, other, row, what);
        }
    }

    fn assert_row_same(&self, row: usize, other: &Results, other_row: usize, what: &str) {
        let (a, b) = (self.shape, other.shape);
        for ((name, mine), (_, others)) in self.rows.iter().zip(&other.rows) {
            assert_eq!(mine[row], others[other_row], "{what}: {name} of row {row} of {a:?} and {b:?}");
        }
        for ((name, mine), (_, others)) in self.elements.iter().zip(&other.elements) {
            for c in 0..a.len {
                let (mine, others) = (mine[at(a, row, c)], others[at(b, other_row, c)]);
                let place = || format!("{what}: {name} of class {c} of row {row} of {a:?} and {b:?}");
                assert_eq!(mine, others, "{}", place());
            }
        }
    }
}

/// Lengths around the widths of vectors, tiles and blocks.
const LENGTHS: [usize; 20] =
    [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 33, 63, 64, 65, 100, 511, 1000, 1025, 2500];

fn check_levels<T: Real>() {
    let levels = Levels::lock();
    for (i, len) in LENGTHS.into_iter().enumerate() {
        let rows = if len > 500 { 15 } else { 45 };
        let operands = Operands::<T>::new(i as u64, rows, len);
        for shape in [Shape::rows(rows, len), Shape { outer: rows / 15, len, inner: 15 }] {
            levels.set(Level::Portable);
            let (portable, portable_mse) = (operands.run(shape), operands.mse());
            for level in Level::available() {
                levels.set(level);
                assert_eq!(logitkit::level(), level);
                operands.run(shape).assert_same(&portable, level.name());
                assert_eq!(operands.mse(), portable_mse, "mse at {}", level.name());
            }
        }
    }
}

#[test]
fn same_bits_at_every_level_f32() {
    check_levels::<f32>();
}

#[test]
fn same_bits_at_every_level_f64() {
    check_levels::<f64>();
}

/// Other threads may change the level while an operation runs.
#[test]
fn same_bits_while_the_level_changes() {
    let levels = Levels::lock();
    let operands = Operands::<f32>::new(1, 90, 120);
    let shape = Shape { outer: 30, len: 120, inner: 3 };
    let want = operands.run(shape);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for level in Level::available().into_iter().cycle() {
                levels.set(level);
                std::thread::yield_now();
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        let result = std::panic::catch_unwind(|| {
            for _ in 0..20 {
                operands.run(shape).assert_same(&want, "changing levels");
            }
        });
        done.store(true, Relaxed);
        result.unwrap();
    });
}

/// Runs on so many threads.
fn on_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
    let former = set_thread_override(Some(threads));
    assert_eq!(logitkit::get_num_threads(), threads);
    let result = work();
    set_thread_override(former);
    result
}

fn check_threads<T: Real>() {
    for (i, (outer, len, inner)) in [
        (30_000, 4, 1),
        (12_000, 10, 1),
        (130, 1000, 1),
        (3, 50_257, 1),
        (1, 130_000, 1),
        (3, 10, 4000),
        (40, 100, 31),
        (2, 3000, 20),
        (1, 70_000, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let shape = Shape { outer, len, inner };
        assert!(shape.size() > 100_000, "{shape:?} would stay on one thread");
        let operands = Operands::<T>::new(i as u64, shape.batch(), len);
        let one = on_threads(1, || (operands.run(shape), operands.mse()));
        for threads in [2, 3, 8] {
            let (results, mse) = on_threads(threads, || (operands.run(shape), operands.mse()));
            let what = format!("{threads} threads");
            results.assert_same(&one.0, &what);
            assert_eq!(mse, one.1, "mse of {shape:?} on {what}");
        }
    }
}

#[test]
fn same_bits_for_every_number_of_threads_f32() {
    check_threads::<f32>();
}

#[test]
fn same_bits_for_every_number_of_threads_f64() {
    check_threads::<f64>();
}

/// Callers on several threads, of which one has the pool.
#[test]
fn same_bits_for_many_callers() {
    let operands = Operands::<f32>::new(1, 120, 1000);
    let shape = Shape::rows(120, 1000);
    let want = on_threads(1, || operands.run(shape));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| on_threads(3, || operands.run(shape).assert_same(&want, "many callers")));
        }
    });
}

fn check_batches<T: Real>() {
    for (i, len) in LENGTHS.into_iter().enumerate() {
        let rows = if len > 500 { 24 } else { 70 };
        let operands = Operands::<T>::new(i as u64, rows, len);
        let batch = operands.run(Shape::rows(rows, len));
        for row in 0..rows {
            let alone = operands.row(row).run(Shape::rows(1, len));
            batch.assert_row_same(row, &alone, 0, "in a batch and alone");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_f32() {
    check_batches::<f32>();
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_f64() {
    check_batches::<f64>();
}

/// Short rows that lie side by side are computed together, so how far apart they are must not show: neighbours far
/// above hide nothing of a row, down to its subnormal results.
fn check_neighbours<T: Real>() {
    let levels = Levels::lock();
    let mut random = Random(11);
    for len in 1..=64 {
        let rows = 64 + random.below(20);
        let shape = Shape::rows(rows, len);
        for (spread, apart) in [(0.1, 0.0), (3.0, 30.0), (30.0, 43.0), (150.0, 100.0), (1.0, 600.0)] {
            // Near the limits of what is taken together, and without a shift: 2^15 and 2^16, 2^29 and 2^30.
            for height in [0.0, 32_788.0, 65_556.0, -65_520.0, 536_870_930.0, 1_073_741_844.0, -1e10] {
                let x: Vec<T> = (0..rows)
                    .flat_map(|_| {
                        let height = height - random.uniform(0.0, 1.0) * apart;
                        random.normals::<f64>(len, spread).into_iter().map(move |x| T::of(height + x))
                    })
                    .collect();
                let mut want = vec![T::default(); x.len()];
                levels.set(Level::Portable);
                for (x, want) in x.chunks(len).zip(want.chunks_mut(len)) {
                    logitkit::softmax(x, Shape::rows(1, len), want).unwrap();
                }
                for level in Level::available() {
                    levels.set(level);
                    let mut together = vec![T::default(); x.len()];
                    logitkit::softmax(&x, shape, &mut together).unwrap();
                    assert_eq!(
                        bits(&together),
                        bits(&want),
                        "{level:?}, {shape:?}, {spread}, {apart}, {height}"
                    );
                    let mut own = x.clone();
                    logitkit::softmax_in_place(&mut own, shape).unwrap();
                    assert_eq!(bits(&own), bits(&want), "in place, {level:?}, {shape:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_beside_every_neighbour_f32() {
    check_neighbours::<f32>();
}

#[test]
fn a_row_has_the_same_bits_beside_every_neighbour_f64() {
    check_neighbours::<f64>();
}

fn check_axes<T: Real>() {
    for (i, len) in LENGTHS.into_iter().chain([5000]).enumerate() {
        let rows = if len > 500 { 24 } else { 144 };
        let operands = Operands::<T>::new(i as u64, rows, len);
        let batch = operands.run(Shape::rows(rows, len));
        for inner in [2, 3, 8, 24, 72, rows].into_iter().filter(|inner| rows % inner == 0) {
            let shape = Shape { outer: rows / inner, len, inner };
            operands.run(shape).assert_rows_same(&batch, "along another axis");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_along_every_axis_f32() {
    check_axes::<f32>();
}

#[test]
fn a_row_has_the_same_bits_along_every_axis_f64() {
    check_axes::<f64>();
}

fn check_places<T: Real>() {
    for (i, len) in LENGTHS.into_iter().enumerate() {
        let rows = if len > 500 { 5 } else { 40 };
        let operands = Operands::<T>::new(i as u64, rows, len);
        for shape in [Shape::rows(rows, len), Shape { outer: 1, len, inner: rows }] {
            let results = operands.run(shape);
            for offset in [1, 2, 3, 5, 8, 13] {
                operands.run_at(shape, offset).assert_same(&results, &format!("{offset} elements later"));
            }
        }
    }
}

#[test]
fn same_bits_wherever_the_operands_lie_f32() {
    check_places::<f32>();
}

#[test]
fn same_bits_wherever_the_operands_lie_f64() {
    check_places::<f64>();
}

fn check_in_place<T: Real>(x: &[T], shape: Shape) {
    let mut out = vec![T::NAN; x.len()];
    logitkit::softmax(x, shape, &mut out).unwrap();
    let mut own = x.to_vec();
    logitkit::softmax_in_place(&mut own, shape).unwrap();
    assert!(bits(&own) == bits(&out), "softmax of {shape:?} in place");
    logitkit::log_softmax(x, shape, &mut out).unwrap();
    own.copy_from_slice(x);
    logitkit::log_softmax_in_place(&mut own, shape).unwrap();
    assert!(bits(&own) == bits(&out), "log_softmax of {shape:?} in place");
}

fn check_all_in_place<T: Real>() {
    for len in (1..=70).chain([1000, 3000, 70_000]) {
        let rows = if len > 3000 { 2 } else { 36 };
        let operands = Operands::<T>::new(len as u64, rows, len);
        for inner in [1, 2, 9, rows].into_iter().filter(|inner| rows % inner == 0) {
            let shape = Shape { outer: rows / inner, len, inner };
            check_in_place(&from_rows(&operands.x, shape), shape);
        }
    }
}

#[test]
fn same_bits_in_place_f32() {
    check_all_in_place::<f32>();
}

#[test]
fn same_bits_in_place_f64() {
    check_all_in_place::<f64>();
}

/// Outputs so large that they are written past the caches, which in-place results are not; rows begin at
/// every place of a cache line.
#[test]
fn same_bits_past_the_caches() {
    let mut random = Random(7);
    let some = random.normals::<f32>(100_003, 3.0);
    let shape = Shape::rows(8400, 1001);
    let x: Vec<f32> = some.iter().copied().cycle().take(shape.size()).collect();
    check_in_place(&x, shape);
    let some = random.normals::<f64>(100_003, 3.0);
    let shape = Shape::rows(60, 70_001);
    let x: Vec<f64> = some.iter().copied().cycle().take(shape.size()).collect();
    check_in_place(&x, shape);
}

/// Every NaN that is stored is the positive quiet one without payload.
#[test]
fn every_nan_is_the_same() {
    fn check<T: Real>(nan: T) {
        assert_ne!(nan.bits(), T::NAN.bits(), "the input is another NaN");
        for len in [1, 2, 5, 16, 40, 64, 65, 300, 3000] {
            let mut operands = Operands::<T>::new(3, 12, len);
            for (row, x) in operands.x.iter_mut().enumerate() {
                x[row % len] = nan;
            }
            operands.g.iter_mut().for_each(|g| g[len / 2] = nan);
            operands.weights.iter_mut().for_each(|t| t[len - 1] = nan);
            operands.row_g.fill(nan);
            for shape in [Shape::rows(12, len), Shape { outer: 1, len, inner: 12 }] {
                let results = operands.run(shape);
                let is_nan = |bits: u64| {
                    if size_of::<T>() == 4 {
                        f32::from_bits(bits as u32).is_nan()
                    } else {
                        f64::from_bits(bits).is_nan()
                    }
                };
                let mut count = 0;
                for (name, bits) in results.elements.iter().chain(&results.rows) {
                    for &bits in bits {
                        assert!(!is_nan(bits) || bits == T::NAN.bits(), "{name} of {shape:?}: {bits:x}");
                        count += usize::from(is_nan(bits));
                    }
                }
                assert!(count > 12 * len, "{shape:?}: only {count} NaN");
                for &(name, bits) in &results.totals {
                    let wanted = if name == "classification_error" { bits } else { T::NAN.bits() };
                    assert_eq!(bits, wanted, "{name} of {shape:?}");
                }
                let (loss, grad) = operands.mse();
                assert_eq!(loss, T::NAN.bits());
                assert!(grad.iter().all(|&bits| !is_nan(bits) || bits == T::NAN.bits()));
            }
        }
    }
    check(f32::from_bits(0xffc1_2345));
    check(f64::from_bits(0xfff8_0000_0001_2345));
}
