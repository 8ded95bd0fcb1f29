//! Losses of values: weighted squared errors, binary cross-entropy and log loss, over slices.

use crate::common::{Dd, Levels, ONE, Random, Real, bits, error};
use logitkit::{
    Error, Level, Reduction, Shape, binary_cross_entropy_with_logits, log_loss, mse_loss_weighted,
    set_thread_override, soft_log_loss,
};

const LEN: usize = 10;

struct Operands<T> {
    x: Vec<T>,
    t: Vec<T>,
    weight: Vec<T>,
    probs: Vec<T>,
    labels: Vec<i16>,
}

impl<T: Real> Operands<T> {
    fn new(seed: u64, rows: usize) -> Self {
        let mut random = Random(seed);
        let n = rows * LEN;
        let mut x = random.normals::<T>(n, 30.0);
        for (i, value) in [T::NAN, T::INFINITY, T::of(f64::NEG_INFINITY), T::LOWEST].into_iter().enumerate() {
            x[i * 7 % n] = value;
        }
        let t = (0..n).map(|_| T::of(random.uniform(-0.5, 1.5).clamp(0.0, 1.0))).collect();
        let weight = (0..n).map(|_| T::of(random.uniform(-1.0, 2.0).max(0.0))).collect();
        let probs = (0..n).map(|_| T::of(random.uniform(-0.1, 1.0).max(0.0))).collect();
        let labels = (0..rows).map(|row| if row % 9 == 8 { -1 } else { random.below(LEN) as i16 }).collect();
        Operands { x, t, weight, probs, labels }
    }

    /// The bits of all losses and gradients.
    fn run(&self) -> Vec<Vec<u64>> {
        let Operands { x, t, weight, probs, labels } = self;
        let shape = Shape::rows(labels.len(), LEN);
        let mut results = Vec::new();
        let mut grad = vec![T::default(); x.len()];
        let mut keep = |loss: Result<T, Error>, grad: &[T]| {
            results.push(vec![loss.unwrap().bits()]);
            results.push(bits(grad));
        };
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let loss = mse_loss_weighted(x, t, weight, reduction, Some(&mut grad));
            keep(loss, &grad);
            let loss = binary_cross_entropy_with_logits(x, t, None, None, reduction, Some(&mut grad));
            keep(loss, &grad);
            let (row, all) = (Some(&weight[..LEN]), Some(&weight[..]));
            let loss = binary_cross_entropy_with_logits(x, t, row, all, reduction, Some(&mut grad));
            keep(loss, &grad);
            keep(log_loss(probs, labels, shape, Some(-1), reduction, Some(&mut grad)), &grad);
            keep(soft_log_loss(probs, t, LEN, reduction, Some(&mut grad)), &grad);
        }
        results
    }
}

fn check_bits<T: Real>() {
    let levels = Levels::lock();
    for rows in [1, 9, 500, 20_011] {
        let operands = Operands::<T>::new(rows as u64, rows);
        let want = operands.run();
        for level in Level::available() {
            levels.set(level);
            for threads in [1, 3] {
                let former = set_thread_override(Some(threads));
                assert!(operands.run() == want, "{rows} rows, {} and {threads} threads", level.name());
                set_thread_override(former);
            }
        }
    }
}

#[test]
fn same_bits_f32() {
    check_bits::<f32>();
}

#[test]
fn same_bits_f64() {
    check_bits::<f64>();
}

fn check_accuracy<T: Real>() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let (x, t) = (T::of(random.normal() * 40.0), T::of(random.below(2) as f64));
        let mut grad = [T::default()];
        let loss = binary_cross_entropy_with_logits(&[x], &[t], None, None, Reduction::Sum, Some(&mut grad))
            .unwrap();
        let (x, hit) = (x.wide(), (x.wide() < 0.0) == (t.wide() == 0.0));
        let e = Dd::from(-x.abs()).exp();
        let want = if hit { e.ln_1p() } else { e.ln_1p() + Dd::from(x.abs()) };
        assert!(error(loss, want, want.0) <= T::BOUND, "the loss of {x} and {t} is {loss}");
        let slope = if hit { e / (ONE + e) } else { ONE / (ONE + e) };
        let slope = if t.wide() == 0.0 { slope } else { -slope };
        assert!(error(grad[0], slope, slope.0) <= T::BOUND, "the gradient of {x} and {t} is {}", grad[0]);
    }
}

#[test]
fn binary_cross_entropy_is_accurate() {
    check_accuracy::<f32>();
    check_accuracy::<f64>();
}

#[test]
fn weights_repeat() {
    let operands = Operands::<f32>::new(1, 2000);
    let row = &operands.weight[..LEN];
    let whole = row.repeat(2000);
    let run = |weight: &[f32]| {
        let mut grad = vec![0.0; whole.len()];
        let (x, t) = (&operands.x, &operands.t);
        let loss = mse_loss_weighted(x, t, weight, Reduction::Mean, Some(&mut grad)).unwrap();
        (loss.to_bits(), bits(&grad))
    };
    assert!(run(row) == run(&whole));
}

#[test]
fn buffers_of_the_wrong_length() {
    let wrong = |name, got, wanted| Err(Error::Length { name, got, wanted });
    let (a, b, reduction) = ([0.5f32; 6], [0.5; 5], Reduction::Mean);
    let mut grad = [7.0; 5];
    assert_eq!(mse_loss_weighted(&a, &b, &a, reduction, None), wrong("target", 5, 6));
    assert_eq!(mse_loss_weighted(&a, &a, &b, reduction, None), wrong("weight", 5, 6));
    assert_eq!(mse_loss_weighted(&a, &a, &[], reduction, None), wrong("weight", 0, 6));
    assert_eq!(mse_loss_weighted(&a, &a, &a, reduction, Some(&mut grad)), wrong("grad", 5, 6));
    let binary = binary_cross_entropy_with_logits::<f32>;
    assert_eq!(binary(&a, &b, None, None, reduction, None), wrong("targets", 5, 6));
    assert_eq!(binary(&a, &a, Some(&b), None, reduction, None), wrong("pos_weight", 5, 6));
    assert_eq!(binary(&a, &a, None, Some(&b), reduction, None), wrong("weight", 5, 6));
    let shape = Shape::rows(2, 3);
    assert_eq!(log_loss(&b, &[0u8, 1], shape, None, reduction, None), wrong("probs", 5, 6));
    assert_eq!(log_loss(&a, &[0u8], shape, None, reduction, None), wrong("classes", 1, 2));
    assert_eq!(log_loss(&a, &[0u8, 1], shape, None, reduction, Some(&mut grad)), wrong("grad", 5, 6));
    let label = Err(Error::Label { row: 1, label: 3, classes: 3 });
    let mut grad = [7.0; 6];
    assert_eq!(log_loss(&a, &[0u8, 3], shape, None, reduction, Some(&mut grad)), label);
    assert_eq!(grad, [7.0; 6]);
    assert_eq!(soft_log_loss(&a, &a, 4, reduction, None), wrong("probs", 6, 4));
    assert_eq!(soft_log_loss(&a, &b, 3, reduction, None), wrong("probabilities", 5, 6));
}

#[test]
fn empty_slices() {
    let none: [f64; 0] = [];
    assert!(mse_loss_weighted(&none, &none, &[1.0], Reduction::Mean, None).unwrap().is_nan());
    assert_eq!(mse_loss_weighted(&none, &none, &[1.0], Reduction::Sum, None), Ok(0.0));
    assert!(soft_log_loss(&none, &none, 0, Reduction::Mean, None).unwrap().is_nan());
    let shape = Shape::rows(0, 3);
    assert_eq!(log_loss::<f64, i8>(&none, &[], shape, None, Reduction::Sum, None), Ok(0.0));
}
