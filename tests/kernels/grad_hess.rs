//! Gradient and Hessian for boosting: levels, threads, the number of rows; what is refused.

use crate::common::{Levels, Random, Real};
use logitkit::{Error, Hessian, Level, Shape, cross_entropy_grad_hess, set_thread_override};

const FORMS: [Hessian; 4] = [Hessian::Exact, Hessian::Upper, Hessian::LightGbm, Hessian::Residual];
const UNTOUCHED: f64 = 7.0;

/// The bits of gradient and Hessian.
fn run<T: Real>(x: &[T], labels: &[u16], len: usize, weights: &[f64], form: Hessian) -> [Vec<u64>; 2] {
    let shape = Shape::rows(labels.len(), len);
    let (mut grad, mut hess) = (vec![T::of(UNTOUCHED); x.len()], vec![T::of(UNTOUCHED); x.len()]);
    cross_entropy_grad_hess(x, labels, shape, Some(weights), form, 0.7, 1e-16, &mut grad, &mut hess).unwrap();
    [grad, hess].map(|results| results.iter().map(|v| v.bits()).collect())
}

fn check_bits<T: Real>() {
    let levels = Levels::lock();
    let mut random = Random(11);
    for (rows, len) in [(70, 1), (150, 3), (130, 10), (37, 33), (20, 100), (9, 600), (3, 1100), (13_000, 10)]
    {
        let mut x: Vec<T> = (0..rows * len).map(|_| T::of(random.uniform(-20.0, 20.0))).collect();
        x[rows / 2 * len] = T::of(f64::NAN);
        x[rows / 3 * len] = T::of(90.0);
        let labels: Vec<u16> = (0..rows).map(|_| random.below(len) as u16).collect();
        let weights: Vec<f64> = (0..rows).map(|_| random.uniform(-0.5, 2.0).max(0.0)).collect();
        for form in FORMS {
            levels.set(Level::Portable);
            let former = set_thread_override(Some(1));
            let want = run(&x, &labels, len, &weights, form);
            for level in Level::available() {
                levels.set(level);
                for threads in [1, 3] {
                    set_thread_override(Some(threads));
                    let got = run(&x, &labels, len, &weights, form);
                    assert!(got == want, "{rows} rows of {len}, {form:?}, {}, {threads}", level.name());
                }
            }
            set_thread_override(former);
            for first in [1, rows / 2, rows - 1] {
                let got = run(&x[first * len..], &labels[first..], len, &weights[first..], form);
                for (got, want) in got.iter().zip(&want) {
                    assert!(got[..] == want[first * len..], "{rows} rows of {len} from {first}, {form:?}");
                }
            }
        }
    }
}

#[test]
fn grad_hess_has_the_same_bits_at_every_level() {
    check_bits::<f32>();
    check_bits::<f64>();
}

#[test]
fn grad_hess_refuses_wrong_lengths_and_labels() {
    let (x, shape) = ([0.5f64; 7], Shape::rows(2, 3));
    let call = |[x_len, labels_len, weights_len, grad_len, hess_len]: [usize; 5], labels: [i8; 3]| {
        let (mut grad, mut hess) = ([UNTOUCHED; 7], [UNTOUCHED; 7]);
        let result = cross_entropy_grad_hess(
            &x[..x_len],
            &labels[..labels_len],
            shape,
            Some(&x[..weights_len]),
            Hessian::Exact,
            1.0,
            0.0,
            &mut grad[..grad_len],
            &mut hess[..hess_len],
        );
        assert_eq!(result.is_err(), grad == [UNTOUCHED; 7] && hess == [UNTOUCHED; 7]);
        result
    };
    let right = [6, 2, 2, 6, 6];
    assert_eq!(call(right, [0, 2, 9]), Ok(()));
    for (i, name) in ["scores", "classes", "weights", "grad", "hess"].into_iter().enumerate() {
        for got in [right[i] - 1, right[i] + 1] {
            let mut lengths = right;
            lengths[i] = got;
            assert_eq!(call(lengths, [0; 3]), Err(Error::Length { name, got, wanted: right[i] }));
        }
    }
    for label in [3, -1] {
        let error = Error::Label { row: 1, label: i128::from(label), classes: 3 };
        assert_eq!(call(right, [0, label, 0]), Err(error));
    }
}

#[test]
#[should_panic(expected = "the class axis is the last one")]
fn grad_hess_along_another_axis() {
    let (mut grad, mut hess) = ([0.0f32; 4], [0.0; 4]);
    let shape = Shape { outer: 1, len: 2, inner: 2 };
    let _ = cross_entropy_grad_hess(
        &[0.0; 4],
        &[0u8; 2],
        shape,
        None,
        Hessian::Exact,
        1.0,
        0.0,
        &mut grad,
        &mut hess,
    );
}
