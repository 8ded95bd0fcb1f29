//! Special values, ignored rows, empty arrays, classification errors: case by case, in every layout.

use crate::common::{ONE, Random, Real, at, bits, error, from_rows, row_of};
use logitkit::{Reduction, Shape};

const NONE: Option<i64> = None;
const IGNORED: i64 = -100;

fn infinity<T: Real>() -> T {
    T::INFINITY
}

fn minus_infinity<T: Real>() -> T {
    T::of(f64::NEG_INFINITY)
}

/// Calls `check(rows, shape, row)` with the row `x` as row `row` of batches of ordinary rows in every layout.
fn in_every_layout<T: Real>(x: &[T], check: impl Fn(&[T], Shape, usize)) {
    let mut random = Random(1);
    let len = x.len();
    let shape = |outer, inner| Shape { outer, len, inner };
    for shape in
        [shape(1, 1), shape(5, 1), shape(40, 1), shape(1, 5), shape(1, 80), shape(3, 70), shape(2, 3)]
    {
        if shape.size() > 250_000 {
            continue;
        }
        let row = shape.batch() * 2 / 3;
        let mut rows: Vec<Vec<T>> = (0..shape.batch()).map(|_| random.normals(len, 1.0)).collect();
        rows[row] = x.to_vec();
        check(&from_rows(&rows, shape), shape, row);
    }
}

fn softmax<T: Real>(x: &[T], shape: Shape, row: usize) -> Vec<T> {
    let mut y = vec![T::default(); x.len()];
    logitkit::softmax(x, shape, &mut y).unwrap();
    row_of(&y, shape, row)
}

fn log_softmax<T: Real>(x: &[T], shape: Shape, row: usize) -> Vec<T> {
    let mut y = vec![T::default(); x.len()];
    logitkit::log_softmax(x, shape, &mut y).unwrap();
    row_of(&y, shape, row)
}

fn logsumexp<T: Real>(x: &[T], shape: Shape, row: usize) -> T {
    let mut lse = vec![T::default(); shape.batch()];
    logitkit::logsumexp(x, shape, &mut lse).unwrap();
    lse[row]
}

/// Loss and gradient of one row of a batch whose other rows have label 0.
fn cross_entropy<T: Real>(x: &[T], shape: Shape, row: usize, label: i64) -> (T, Vec<T>) {
    let mut labels = vec![0; shape.batch()];
    labels[row] = label;
    let ignore = Some(IGNORED);
    let (mut losses, mut grad) = (vec![T::NAN; shape.batch()], vec![T::NAN; x.len()]);
    logitkit::cross_entropy_rows(x, &labels, shape, ignore, &mut losses).unwrap();
    let total =
        logitkit::cross_entropy_value_and_grad(x, &labels, shape, ignore, Reduction::Sum, &mut grad).unwrap();
    // One special row makes the total what it is itself; the gradients of the others stay numbers.
    if !losses[row].wide().is_finite() {
        assert_eq!(total.bits(), losses[row].bits());
    }
    for other in (0..shape.batch()).filter(|&other| other != row) {
        assert!(losses[other].wide().is_finite(), "loss of row {other} beside row {row} of {shape:?}");
        let grad = row_of(&grad, shape, other);
        assert!(grad.iter().all(|g| g.wide().is_finite()), "gradient of row {other} of {shape:?}");
    }
    (losses[row], row_of(&grad, shape, row))
}

#[track_caller]
fn assert_all<T: Real>(a: &[T], value: T, what: &str) {
    assert!(a.iter().all(|x| x.bits() == value.bits()), "{what}: {a:?}");
}

/// Lengths of every walk, each with the places that matter.
const LENGTHS: [usize; 9] = [2, 3, 10, 16, 17, 64, 65, 1000, 2600];

fn for_each_place(check: impl Fn(usize, usize)) {
    for len in LENGTHS {
        for place in [0, len / 2, len - 1] {
            check(len, place);
        }
    }
}

fn check_nan<T: Real>() {
    for_each_place(|len, place| {
        for others in [T::default(), infinity(), minus_infinity(), T::LOWEST] {
            let mut x = vec![others; len];
            x[place] = T::NAN;
            in_every_layout(&x, |x, shape, row| {
                assert_all(&softmax(x, shape, row), T::NAN, "softmax");
                assert_all(&log_softmax(x, shape, row), T::NAN, "log_softmax");
                // NaN wins over +inf.
                assert_all(&[logsumexp(x, shape, row)], T::NAN, "logsumexp");
                for label in [0, len - 1] {
                    let (loss, grad) = cross_entropy(x, shape, row, label as i64);
                    assert_all(&[loss], T::NAN, "loss");
                    assert_all(&grad, T::NAN, "gradient");
                }
            });
        }
    });
}

#[test]
fn rows_with_nan() {
    check_nan::<f32>();
    check_nan::<f64>();
}

fn check_infinity<T: Real>() {
    for_each_place(|len, place| {
        for others in [T::default(), minus_infinity(), T::of(-1e9)] {
            let mut x = vec![others; len];
            x[place] = infinity();
            in_every_layout(&x, |x, shape, row| {
                assert_all(&softmax(x, shape, row), T::NAN, "softmax");
                for (c, &y) in log_softmax(x, shape, row).iter().enumerate() {
                    let want = if c == place { T::NAN } else { minus_infinity() };
                    assert_all(&[y], want, "log_softmax");
                }
                assert_all(&[logsumexp(x, shape, row)], infinity(), "logsumexp");
                let (loss, grad) = cross_entropy(x, shape, row, ((place + 1) % len) as i64);
                assert_all(&[loss], infinity(), "loss with +inf off the label");
                assert_all(&grad, T::NAN, "gradient");
                let (loss, grad) = cross_entropy(x, shape, row, place as i64);
                assert_all(&[loss], T::NAN, "loss with +inf at the label");
                assert_all(&grad, T::NAN, "gradient");
            });
        }
    });
}

#[test]
fn rows_with_infinity() {
    check_infinity::<f32>();
    check_infinity::<f64>();
}

fn check_minus_infinity<T: Real>() {
    for len in [&[1], &LENGTHS[..]].concat() {
        in_every_layout(&vec![minus_infinity::<T>(); len], |x, shape, row| {
            assert_all(&softmax(x, shape, row), T::NAN, "softmax");
            assert_all(&log_softmax(x, shape, row), T::NAN, "log_softmax");
            assert_all(&[logsumexp(x, shape, row)], minus_infinity(), "logsumexp");
            let (loss, grad) = cross_entropy(x, shape, row, 0);
            assert_all(&[loss], T::NAN, "loss");
            assert_all(&grad, T::NAN, "gradient");
        });
    }
}

#[test]
fn rows_of_minus_infinity() {
    check_minus_infinity::<f32>();
    check_minus_infinity::<f64>();
}

/// All classes but one masked: its loss is exactly 0, and so is the probability of the masks.
fn check_masks<T: Real>() {
    for_each_place(|len, place| {
        for mask in [minus_infinity(), T::LOWEST, T::of(-1e30), T::of(-1e9)] {
            let mut x = vec![mask; len];
            x[place] = T::of(-3.5);
            in_every_layout(&x, |x, shape, row| {
                let y = softmax(x, shape, row);
                let (log_y, lse) = (log_softmax(x, shape, row), logsumexp(x, shape, row));
                assert_all(&[lse], T::of(-3.5), "logsumexp");
                for c in 0..len {
                    let log_p = if c == place { 0.0 } else { mask.wide() + 3.5 };
                    assert_eq!(log_y[c], T::of(log_p));
                    if c == place {
                        assert!(error(y[c], ONE, 1.0) <= T::BOUND, "softmax: {}", y[c]);
                    } else {
                        assert_all(&[y[c]], T::default(), "softmax of a mask");
                    }
                }
                let (loss, grad) = cross_entropy(x, shape, row, place as i64);
                assert_eq!(loss, T::default());
                assert!(grad.iter().all(|g| g.wide() == 0.0));
                // A mask at the label: the loss is its distance, the gradient is finite.
                let label = (place + 1) % len;
                let (loss, grad) = cross_entropy(x, shape, row, label as i64);
                assert_eq!(loss, T::of(-3.5 - mask.wide()));
                for (c, &g) in grad.iter().enumerate() {
                    let want = f64::from(u8::from(c == place)) - f64::from(u8::from(c == label));
                    let bound = if c == place { T::BOUND } else { 0.0 };
                    assert!(error(g, want.into(), 1.0) <= bound, "gradient: {g}, not {want}");
                }
            });
        }
    });
}

#[test]
fn masks() {
    check_masks::<f32>();
    check_masks::<f64>();
}

/// The largest magnitudes: a difference that overflows is no NaN.
#[test]
fn rows_from_end_to_end_of_the_range() {
    fn check<T: Real>() {
        for len in LENGTHS {
            let mut x = vec![T::LOWEST; len];
            x[len / 2] = T::of(-T::LOWEST.wide());
            in_every_layout(&x, |x, shape, row| {
                let want: Vec<f64> = (0..len).map(|c| f64::from(u8::from(c == len / 2))).collect();
                let y = softmax(x, shape, row);
                assert!(y.iter().zip(&want).all(|(y, &want)| y.wide() == want), "{shape:?}: {y:?}");
                let log_y = log_softmax(x, shape, row);
                let log = |p: f64| if p == 1.0 { T::default() } else { minus_infinity() };
                assert!(log_y.iter().zip(&want).all(|(&y, &p)| y == log(p)), "{shape:?}: {log_y:?}");
                assert_eq!(logsumexp(x, shape, row).wide(), -T::LOWEST.wide());
            });
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn a_single_class() {
    fn check<T: Real>() {
        for value in [0.0, -1e5, 700.0, 1e30, -1e30, 1e-40] {
            let value = T::of(value);
            in_every_layout(&[value], |x, shape, row| {
                let y = softmax(x, shape, row)[0];
                assert!(error(y, ONE, 1.0) <= T::BOUND, "softmax: {y}");
                assert_eq!(log_softmax(x, shape, row), [T::default()]);
                assert_eq!(logsumexp(x, shape, row), value);
                assert_eq!(cross_entropy(x, shape, row, 0), (T::default(), vec![T::default()]));
            });
        }
    }
    check::<f32>();
    check::<f64>();
}

/// An ignored row adds nothing and has gradient 0, whatever it holds.
fn check_ignored<T: Real>() {
    for len in LENGTHS {
        for fill in [T::NAN, infinity(), minus_infinity(), T::LOWEST, T::of(5.0), T::of(-T::LOWEST.wide())] {
            in_every_layout(&vec![fill; len], |x, shape, row| {
                let (loss, grad) = cross_entropy(x, shape, row, IGNORED);
                assert_all(&[loss], T::default(), "loss");
                assert_all(&grad, T::default(), "gradient");

                // The mean is over the other rows.
                let mut labels = vec![0; shape.batch()];
                labels[row] = IGNORED;
                let mean = |x: &[T], reduction| {
                    logitkit::cross_entropy(x, &labels, shape, Some(IGNORED), reduction).unwrap()
                };
                let counted = (shape.batch() - 1) as f64;
                let want = mean(x, Reduction::Sum).wide() / counted;
                let got = mean(x, Reduction::Mean).wide();
                assert!(
                    got == want || (got - want).abs() < 1e-6 * want || counted == 0.0,
                    "{got}, not {want}"
                );
                let wrong =
                    logitkit::classification_error(x, &labels, shape, Some(IGNORED), Reduction::Sum).unwrap();
                assert!(wrong <= counted);
            });
        }
    }
}

#[test]
fn ignored_rows() {
    check_ignored::<f32>();
    check_ignored::<f64>();
}

#[test]
fn every_row_ignored() {
    for shape in
        [Shape::rows(3, 2), Shape::rows(20, 5), Shape::rows(1, 300), Shape { outer: 2, len: 3, inner: 40 }]
    {
        let x = vec![f32::NAN; shape.size()];
        let labels = vec![-1i8; shape.batch()];
        for (reduction, want) in [(Reduction::Mean, f32::NAN), (Reduction::Sum, 0.0)] {
            let mut grad = vec![1.0; x.len()];
            let loss =
                logitkit::cross_entropy_value_and_grad(&x, &labels, shape, Some(-1), reduction, &mut grad);
            assert_eq!(loss.unwrap().to_bits(), want.to_bits());
            assert_all(&grad, 0.0, "gradient");
            let wrong = logitkit::classification_error(&x, &labels, shape, Some(-1), reduction).unwrap();
            assert_eq!(wrong.to_bits(), f64::from(want).to_bits());
        }
    }
}

#[test]
fn empty_batches() {
    for shape in [Shape::rows(0, 3), Shape::rows(0, 0), Shape { outer: 2, len: 3, inner: 0 }] {
        let labels: [i64; 0] = [];
        for (reduction, want) in [(Reduction::Mean, f64::NAN), (Reduction::Sum, 0.0)] {
            let loss = logitkit::cross_entropy(&[], &labels, shape, NONE, reduction).unwrap();
            assert_all(&[loss], want, "cross_entropy");
            let loss = logitkit::cross_entropy_value_and_grad(&[], &labels, shape, NONE, reduction, &mut [])
                .unwrap();
            assert_all(&[loss], want, "cross_entropy_value_and_grad");
            let loss = logitkit::soft_cross_entropy(&[], &[], shape, reduction).unwrap();
            assert_all(&[loss], want, "soft_cross_entropy");
            let wrong =
                logitkit::classification_error::<f32, _>(&[], &labels, shape, NONE, reduction).unwrap();
            assert_all(&[wrong], want, "classification_error");
            let loss = logitkit::mse_loss(&[], &[], reduction).unwrap();
            assert_all(&[loss], want, "mse_loss");
        }
        logitkit::softmax::<f32>(&[], shape, &mut []).unwrap();
        logitkit::log_softmax_in_place::<f64>(&mut [], shape).unwrap();
        logitkit::logsumexp::<f32>(&[], shape, &mut []).unwrap();
        logitkit::logsumexp_backward::<f32>(&[], &[], &[], shape, &mut []).unwrap();
        logitkit::cross_entropy_rows::<f32, _>(&[], &labels, shape, NONE, &mut []).unwrap();
    }
}

/// Rows without a class: the sum of nothing.
#[test]
fn no_classes() {
    fn check<T: Real>(shape: Shape) {
        let rows = shape.batch();
        let mut lse = vec![T::NAN; rows];
        logitkit::logsumexp(&[], shape, &mut lse).unwrap();
        assert_all(&lse, minus_infinity(), "logsumexp");
        let (none, per_row): (&[T], _) = (&[], vec![T::default(); rows]);
        logitkit::softmax(none, shape, &mut []).unwrap();
        logitkit::softmax_in_place::<T>(&mut [], shape).unwrap();
        logitkit::log_softmax(none, shape, &mut []).unwrap();
        logitkit::softmax_backward(none, none, shape, &mut []).unwrap();
        logitkit::log_softmax_backward(none, none, shape, &mut []).unwrap();
        logitkit::logsumexp_backward(&per_row, none, &lse, shape, &mut []).unwrap();
        let loss = logitkit::soft_cross_entropy_value_and_grad(none, none, shape, Reduction::Sum, &mut []);
        logitkit::soft_cross_entropy(none, none, shape, Reduction::Sum).unwrap();
        assert!(loss.is_ok());

        // Every label is wrong, unless it is ignored.
        let labels = vec![0u8; rows];
        let error = Err(logitkit::Error::Label { row: 0, label: 0, classes: 0 });
        assert_eq!(logitkit::cross_entropy(none, &labels, shape, NONE, Reduction::Sum), error);
        let (mut losses, ignore) = (vec![T::NAN; rows], Some(0));
        logitkit::cross_entropy_rows(none, &labels, shape, ignore, &mut losses).unwrap();
        assert_all(&losses, T::default(), "losses");
        let loss =
            logitkit::cross_entropy_value_and_grad(none, &labels, shape, ignore, Reduction::Sum, &mut []);
        assert_eq!(loss, Ok(T::default()));
        let wrong = logitkit::classification_error(none, &labels, shape, ignore, Reduction::Sum);
        assert_eq!(wrong, Ok(0.0));
    }
    for shape in
        [Shape::rows(1, 0), Shape::rows(5, 0), Shape::rows(100, 0), Shape { outer: 2, len: 0, inner: 70 }]
    {
        // A thread of its own has touched no scratch memory yet.
        std::thread::spawn(move || (check::<f32>(shape), check::<f64>(shape))).join().unwrap();
    }
}

/// A class of weight 0 adds nothing, whatever its logit; +inf and -inf count where they have weight.
#[test]
fn soft_labels_and_special_values() {
    fn check<T: Real>(len: usize) {
        let (zero, half) = (T::default(), T::of(0.5));
        let mut t = vec![zero; len];
        (t[0], t[len - 1]) = (half, half);
        let loss = |x: &[T], t: &[T]| {
            let mut grad = vec![T::NAN; len];
            let shape = Shape::rows(1, len);
            let loss = logitkit::soft_cross_entropy_value_and_grad(x, t, shape, Reduction::Sum, &mut grad);
            (loss.unwrap(), grad)
        };
        let mut x = vec![zero; len];
        for mask in [minus_infinity(), T::LOWEST] {
            x[1..len - 1].fill(mask);
            let (value, grad) = loss(&x, &t);
            assert!((value.wide() - 2f64.ln()).abs() < 1e-6, "{value}");
            assert!(grad.iter().all(|g| g.wide() == 0.0), "{grad:?}");
        }
        x[0] = minus_infinity();
        let (value, grad) = loss(&x, &t);
        assert_eq!(value, infinity());
        assert!(grad.iter().all(|g| g.wide().abs() <= 0.5), "{grad:?}");
        x[0] = zero;
        x[1] = infinity();
        assert_all(&[loss(&x, &t).0], infinity(), "+inf where there is no weight");
        assert_all(&loss(&x, &t).1, T::NAN, "gradient");
        x[0] = infinity();
        assert_all(&[loss(&x, &t).0], T::NAN, "+inf where there is weight");
        x[1] = T::NAN;
        assert_all(&[loss(&x, &t).0], T::NAN, "NaN");
        assert_all(&loss(&x, &t).1, T::NAN, "gradient");
    }
    for len in [3, 20, 64, 65, 2000] {
        check::<f32>(len);
        check::<f64>(len);
    }
}

/// One-hot probabilities are the same as class numbers.
#[test]
fn one_hot_labels() {
    let mut random = Random(8);
    for shape in [Shape::rows(40, 10), Shape::rows(7, 200), Shape { outer: 2, len: 9, inner: 33 }] {
        let x = random.normals::<f64>(shape.size(), 2.0);
        let labels: Vec<u32> = (0..shape.batch()).map(|_| random.below(shape.len) as u32).collect();
        let mut t = vec![0.0; x.len()];
        for (row, &label) in labels.iter().enumerate() {
            t[at(shape, row, label as usize)] = 1.0;
        }
        let (mut hard, mut soft) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let hard_loss =
            logitkit::cross_entropy_value_and_grad(&x, &labels, shape, NONE, Reduction::Mean, &mut hard);
        let soft_loss =
            logitkit::soft_cross_entropy_value_and_grad(&x, &t, shape, Reduction::Mean, &mut soft);
        assert!((hard_loss.unwrap() - soft_loss.unwrap()).abs() < 1e-14);
        assert!(hard.iter().zip(&soft).all(|(a, b)| (a - b).abs() < 1e-16), "{shape:?}");
    }
}

/// The gradients of `softmax`, `log_softmax` and `logsumexp` agree with each other and with the loss.
#[test]
fn gradients_agree() {
    let mut random = Random(9);
    let (len, eps) = (12, 1e-5);
    let shape = Shape::rows(1, len);
    let x = random.normals::<f64>(len, 1.5);
    let g = random.normals::<f64>(len, 1.0);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut moved = x.clone();
    for c in 0..len {
        let mut at = |d: f64| {
            moved[c] = x[c] + d;
            let (y, log_y) = (softmax(&moved, shape, 0), log_softmax(&moved, shape, 0));
            let loss = logitkit::cross_entropy(&moved, &[5i8], shape, NONE, Reduction::Sum).unwrap();
            let soft = logitkit::soft_cross_entropy(&moved, &g, shape, Reduction::Sum).unwrap();
            [dot(&g, &y), dot(&g, &log_y), logsumexp(&moved, shape, 0), loss, soft]
        };
        let (up, down) = (at(eps), at(-eps));
        moved[c] = x[c];
        let (y, log_y) = (softmax(&x, shape, 0), log_softmax(&x, shape, 0));
        let lse = [logsumexp(&x, shape, 0)];
        let mut d = [[0.0; 12]; 5];
        logitkit::softmax_backward(&g, &y, shape, &mut d[0]).unwrap();
        logitkit::log_softmax_backward(&g, &log_y, shape, &mut d[1]).unwrap();
        logitkit::logsumexp_backward(&[1.0], &x, &lse, shape, &mut d[2]).unwrap();
        logitkit::cross_entropy_value_and_grad(&x, &[5i8], shape, NONE, Reduction::Sum, &mut d[3]).unwrap();
        logitkit::soft_cross_entropy_value_and_grad(&x, &g, shape, Reduction::Sum, &mut d[4]).unwrap();
        for i in 0..5 {
            let slope = (up[i] - down[i]) / (2.0 * eps);
            assert!((d[i][c] - slope).abs() < 1e-9, "gradient {i} at {c}: {}, not {slope}", d[i][c]);
        }
    }
}

/// Against the rule itself: the first maximum, as `argmax` has it; a row with NaN is wrong.
#[test]
fn classification_errors() {
    fn check<T: Real>() {
        let mut random = Random(10);
        for len in (1..=70).chain([1000]) {
            for (outer, inner) in [(1, 1), (37, 1), (1, 37), (3, 80)] {
                let shape = Shape { outer, len, inner };
                // Few values, so that there are ties; now and then something special.
                let mut value = || match random.below(200) {
                    0 => T::NAN,
                    1 => infinity(),
                    2 => minus_infinity(),
                    _ => T::of(random.below(4) as f64),
                };
                let x: Vec<T> = (0..shape.size()).map(|_| value()).collect();
                let mut wrong = 0.0;
                let labels: Vec<i32> = (0..shape.batch())
                    .map(|row| {
                        let x = row_of(&x, shape, row);
                        let mut first = 0;
                        for c in 1..len {
                            first = if x[c] > x[first] { c } else { first };
                        }
                        let label = if random.below(2) == 0 { first } else { random.below(len) };
                        wrong += f64::from(u8::from(label != first || x.iter().any(|x| x.wide().is_nan())));
                        label as i32
                    })
                    .collect();
                let got = logitkit::classification_error(&x, &labels, shape, NONE, Reduction::Sum);
                assert_eq!(got, Ok(wrong), "{shape:?}");
                let got = logitkit::classification_error(&x, &labels, shape, NONE, Reduction::Mean);
                assert_eq!(got, Ok(wrong / shape.batch() as f64), "{shape:?}");
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn squared_errors_of_special_values() {
    fn check<T: Real>(values: [T; 2]) {
        let loss_of = |x: T| logitkit::mse_loss(&[x, values[0]], &[values[0]; 2], Reduction::Mean).unwrap();
        assert_all(&[loss_of(T::NAN)], T::NAN, "NaN");
        assert_all(&[loss_of(infinity())], infinity(), "+inf");
        assert_all(&[loss_of(minus_infinity())], infinity(), "-inf");
        let mut grad = [T::default(); 2];
        let pair = [infinity(), values[1]];
        let loss = logitkit::mse_loss_value_and_grad(&pair, &pair, Reduction::Sum, &mut grad).unwrap();
        assert_eq!(bits(&[loss, grad[0], grad[1]]), bits(&[T::NAN, T::NAN, T::default()]));
    }
    check([0.0f32, 2.0]);
    check([0.0f64, 2.0]);
}
