//! Every operation once on a small fixed corpus, for a tool that counts instructions: see `tests/instructions`.
//!
//! Prints the name of each case in the order in which [`measured`] is entered. One thread, at the level that
//! the first argument names. Without arguments, as `cargo bench` runs it, does nothing.

use logitkit::{Error, Float, Level, Reduction, Shape, set_level, set_thread_override};
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
        Ok(Operands { t: y.clone(), out: x.clone(), x, y, log_y, lse, labels })
    }
}

type Operation<T> = fn(&mut Operands<T>, Shape) -> Result<(), Error>;

fn operations<T: Float>() -> [(&'static str, Operation<T>); 11] {
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
