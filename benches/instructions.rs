//! Every operation once on a small fixed corpus, for a tool that counts instructions: see `tests/instructions`.
//!
//! Prints the name of each case in the order in which [`measured`] is entered. One thread, at the level that
//! the first argument names. Without arguments, as `cargo bench` runs it, does nothing.

use logitkit::{Error, Float, Hessian, Level, Reduction, Shape, set_level, set_thread_override};
use std::any::type_name;
use std::hint::black_box;

/// Rows that take the dense walk, tiles, single rows, and a strided axis.
const SHAPES: [(&str, Shape); 5] = [
    ("400x3", Shape { outer: 400, len: 3, inner: 1 }),
    ("400x10", Shape { outer: 400, len: 10, inner: 1 }),
    ("40x100", Shape { outer: 40, len: 100, inner: 1 }),
    ("4x1000", Shape { outer: 4, len: 1000, inner: 1 }),
    ("21x190", Shape { outer: 1, len: 21, inner: 190 }),
];

struct Operands<T> {
    x: Vec<T>,
    y: Vec<T>,
    log_y: Vec<T>,
    lse: Vec<T>,
    t: Vec<T>,
    labels: Vec<u32>,
    out: Vec<T>,
    hess: Vec<T>,
    is_argmax: Vec<bool>,
    indices: Vec<i64>,
}

impl<T: Float + From<f32>> Operands<T> {
    fn new(shape: Shape) -> Result<Self, Error> {
        // A row's logits are spread over [-8, 8), in no order.
        let value = |i: usize| T::from((i * 7919 % 1009) as f32 / 1009.0 * 16.0 - 8.0);
        let x: Vec<T> = (0..shape.size()).map(value).collect();
        let (mut y, mut log_y, mut lse) = (x.clone(), x.clone(), x[..shape.batch()].to_vec());
        logitkit::softmax(&x, shape, &mut y)?;
        logitkit::log_softmax(&x, shape, &mut log_y)?;
        logitkit::logsumexp(&x, shape, &mut lse)?;
        let labels = (0..shape.batch()).map(|row| (row * 31 % shape.len) as u32).collect();
        let (is_argmax, indices) = (vec![false; shape.batch()], vec![0; shape.size()]);
        let (t, out, hess) = (y.clone(), x.clone(), x.clone());
        Ok(Operands { t, out, x, y, log_y, lse, labels, hess, is_argmax, indices })
    }
}

type Operation<T> = fn(&mut Operands<T>, Shape) -> Result<(), Error>;

fn operations<T: Float>() -> [(&'static str, Operation<T>); 18] {
    const MEAN: Reduction = Reduction::Mean;
    [
        ("softmax", |a, shape| logitkit::softmax(&a.x, shape, &mut a.out)),
        ("log_softmax", |a, shape| logitkit::log_softmax(&a.x, shape, &mut a.out)),
        ("logsumexp", |a, shape| logitkit::logsumexp(&a.x, shape, &mut a.out[..shape.batch()])),
        ("softmax_backward", |a, shape| logitkit::softmax_backward(&a.x, &a.y, shape, &mut a.out)),
        ("log_softmax_backward", |a, shape| {
            logitkit::log_softmax_backward(&a.x, &a.log_y, shape, &mut a.out)
        }),
        ("logsumexp_backward", |a, shape| {
            logitkit::logsumexp_backward(&a.lse, &a.x, &a.lse, shape, &mut a.out)
        }),
        ("cross_entropy", |a, shape| logitkit::cross_entropy(&a.x, &a.labels, shape, None, MEAN).map(used)),
        ("cross_entropy_value_and_grad", |a, shape| {
            logitkit::cross_entropy_value_and_grad(&a.x, &a.labels, shape, None, MEAN, &mut a.out).map(used)
        }),
        ("soft_cross_entropy_value_and_grad", |a, shape| {
            logitkit::soft_cross_entropy_value_and_grad(&a.x, &a.t, shape, MEAN, &mut a.out).map(used)
        }),
        ("classification_error", |a, shape| {
            logitkit::classification_error(&a.x, &a.labels, shape, None, MEAN).map(used)
        }),
        ("mse_loss_value_and_grad", |a, _| {
            logitkit::mse_loss_value_and_grad(&a.x, &a.t, MEAN, &mut a.out).map(used)
        }),
        ("log_loss_value_and_grad", |a, shape| {
            logitkit::log_loss(&a.t, &a.labels, shape, None, MEAN, Some(&mut a.out)).map(used)
        }),
        ("soft_log_loss_value_and_grad", |a, shape| {
            logitkit::soft_log_loss(&a.t, &a.t, shape.len, MEAN, Some(&mut a.out)).map(used)
        }),
        ("binary_cross_entropy_value_and_grad", |a, _| {
            let (x, t, grad) = (&a.x, &a.t, Some(&mut a.out[..]));
            logitkit::binary_cross_entropy_with_logits(x, t, None, None, MEAN, grad).map(used)
        }),
        ("mse_loss_weighted_value_and_grad", |a, _| {
            logitkit::mse_loss_weighted(&a.x, &a.t, &a.t, MEAN, Some(&mut a.out)).map(used)
        }),
        ("cross_entropy_grad_hess", |a, shape| {
            let (grad, hess) = (&mut a.out, &mut a.hess);
            logitkit::cross_entropy_grad_hess(
                &a.x,
                &a.labels,
                shape,
                None,
                Hessian::Exact,
                1.0,
                0.0,
                grad,
                hess,
            )
        }),
        ("token_logprobs", |a, shape| {
            let rows = &mut a.out[..shape.batch()];
            logitkit::token_logprobs(&a.x, &a.labels, shape, None, rows, &mut a.is_argmax)
        }),
        ("top_k_logprobs", |a, shape| {
            let (k, rows) = (3.min(shape.len), shape.batch());
            let (values, indices) = (&mut a.out[..rows * k], &mut a.indices[..rows * k]);
            logitkit::top_k_logprobs(&a.x, k, shape, values, indices)
        }),
    ]
}

fn used<R>(value: R) {
    black_box(value);
}

/// What is counted.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

fn of_type<T: Float + From<f32>>() {
    for (name, operation) in operations::<T>() {
        for (layout, shape) in SHAPES {
            if shape.inner > 1 && ["soft_log_loss_value_and_grad", "cross_entropy_grad_hess"].contains(&name)
            {
                // Rows of neighbours only.
                continue;
            }
            let mut operands = Operands::<T>::new(shape).expect("the operands fit the shape");
            let mut run = || operation(black_box(&mut operands), shape).expect("the operands fit the shape");
            // Once for what is set up by the first call.
            run();
            println!("{name}/{}/{layout}", type_name::<T>());
            measured(&mut run);
        }
    }
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if let Some(level) = Level::available().into_iter().find(|level| level.name() == wanted) {
        set_level(level);
        set_thread_override(Some(1));
        of_type::<f32>();
        of_type::<f64>();
    }
}
