//! Every operation on one thread, at every level of this processor: `cargo bench --bench kernels [-- FILTER]`.
//!
//! A name is `operation/type/layout/level`, so that `softmax/f32/rows_of_1000` compares the levels. The layouts
//! have about as many elements each, few enough for the second-level cache. Beside each level stands `level_limit`,
//! the bare loop that the operation contains on the same operands: one exponential per element and their sum, or
//! else the copy and the reads. A line after the two gives both in nanoseconds per element, and the share of the
//! operation's time that the bare loop takes: 1 is at the limit.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use logitkit::{Error, Float, Hessian, Level, Reduction, Shape, limits, set_level, set_thread_override};
use std::any::type_name;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Of each benchmark.
const SAMPLES: usize = 10;

const LAYOUTS: [(&str, Shape); 5] = [
    ("rows_of_10", Shape { outer: 10_000, len: 10, inner: 1 }),
    ("rows_of_100", Shape { outer: 1000, len: 100, inner: 1 }),
    ("rows_of_1000", Shape { outer: 100, len: 1000, inner: 1 }),
    ("rows_of_50257", Shape { outer: 2, len: 50_257, inner: 1 }),
    ("strided_21", Shape { outer: 1, len: 21, inner: 70 * 70 }),
];

/// The operands of every operation.
struct Operands<T> {
    x: Vec<T>,
    softmax: Vec<T>,
    log_softmax: Vec<T>,
    lse: Vec<T>,
    grad: Vec<T>,
    row_grad: Vec<T>,
    labels: Vec<i64>,
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
        let out = vec![T::default(); shape.size()];
        let (mut softmax, mut log_softmax, mut lse) = (out.clone(), out.clone(), out.clone());
        lse.truncate(shape.batch());
        logitkit::softmax(&x, shape, &mut softmax)?;
        logitkit::log_softmax(&x, shape, &mut log_softmax)?;
        logitkit::logsumexp(&x, shape, &mut lse)?;
        let (grad, row_grad) = (x.clone(), lse.clone());
        let labels = (0..shape.batch()).map(|row| (row * 31 % shape.len) as i64).collect();
        let (is_argmax, indices) = (vec![false; shape.batch()], vec![0; shape.size()]);
        let hess = out.clone();
        Ok(Operands { x, softmax, log_softmax, lse, grad, row_grad, labels, out, hess, is_argmax, indices })
    }
}

/// An operation with all its operands.
type Operation<T> = fn(&mut Operands<T>, Shape) -> Result<(), Error>;

/// What an operation cannot do without.
#[derive(Clone, Copy)]
enum Bare {
    ExpSum,
    Read,
    TwoReads,
    Copy,
    CopyAndRead,
}

impl Bare {
    fn run<T: Float>(self, a: &mut Operands<T>) -> f64 {
        match self {
            Bare::ExpSum => limits::exp_sum(&a.x),
            Bare::Read => limits::read(&a.x),
            Bare::TwoReads => limits::read(&a.x) + limits::read(&a.softmax),
            Bare::Copy => {
                limits::copy(&a.x, &mut a.out);
                0.0
            }
            Bare::CopyAndRead => {
                limits::copy(&a.x, &mut a.out);
                limits::read(&a.softmax)
            }
        }
    }
}

/// The result of an operation that has one of its own.
fn used<R>(result: Result<R, Error>) -> Result<(), Error> {
    result.map(|value| drop(black_box(value)))
}

fn operations<T: Float>() -> [(&'static str, Bare, Operation<T>); 19] {
    const MEAN: Reduction = Reduction::Mean;
    [
        ("softmax", Bare::ExpSum, |a, shape| logitkit::softmax(&a.x, shape, &mut a.out)),
        ("log_softmax", Bare::ExpSum, |a, shape| logitkit::log_softmax(&a.x, shape, &mut a.out)),
        ("logsumexp", Bare::ExpSum, |a, shape| logitkit::logsumexp(&a.x, shape, &mut a.out[..shape.batch()])),
        ("softmax_backward", Bare::CopyAndRead, |a, shape| {
            logitkit::softmax_backward(&a.grad, &a.softmax, shape, &mut a.out)
        }),
        ("log_softmax_backward", Bare::ExpSum, |a, shape| {
            logitkit::log_softmax_backward(&a.grad, &a.log_softmax, shape, &mut a.out)
        }),
        ("logsumexp_backward", Bare::ExpSum, |a, shape| {
            logitkit::logsumexp_backward(&a.row_grad, &a.x, &a.lse, shape, &mut a.out)
        }),
        ("cross_entropy", Bare::ExpSum, |a, shape| {
            used(logitkit::cross_entropy(&a.x, &a.labels, shape, None, MEAN))
        }),
        ("cross_entropy_value_and_grad", Bare::ExpSum, |a, shape| {
            used(logitkit::cross_entropy_value_and_grad(&a.x, &a.labels, shape, None, MEAN, &mut a.out))
        }),
        ("soft_cross_entropy_value_and_grad", Bare::ExpSum, |a, shape| {
            used(logitkit::soft_cross_entropy_value_and_grad(&a.x, &a.softmax, shape, MEAN, &mut a.out))
        }),
        ("classification_error", Bare::Read, |a, shape| {
            used(logitkit::classification_error(&a.x, &a.labels, shape, None, MEAN))
        }),
        ("mse_loss", Bare::TwoReads, |a, _| used(logitkit::mse_loss(&a.x, &a.softmax, MEAN))),
        ("mse_loss_value_and_grad", Bare::CopyAndRead, |a, _| {
            used(logitkit::mse_loss_value_and_grad(&a.x, &a.softmax, MEAN, &mut a.out))
        }),
        ("log_loss_value_and_grad", Bare::Copy, |a, shape| {
            used(logitkit::log_loss(&a.softmax, &a.labels, shape, None, MEAN, Some(&mut a.out)))
        }),
        ("soft_log_loss_value_and_grad", Bare::ExpSum, |a, shape| {
            used(logitkit::soft_log_loss(&a.softmax, &a.softmax, shape.len, MEAN, Some(&mut a.out)))
        }),
        ("binary_cross_entropy_value_and_grad", Bare::ExpSum, |a, _| {
            let (x, t, grad) = (&a.x, &a.softmax, Some(&mut a.out[..]));
            used(logitkit::binary_cross_entropy_with_logits(x, t, None, None, MEAN, grad))
        }),
        ("mse_loss_weighted_value_and_grad", Bare::CopyAndRead, |a, _| {
            used(logitkit::mse_loss_weighted(&a.x, &a.softmax, &a.softmax, MEAN, Some(&mut a.out)))
        }),
        ("cross_entropy_grad_hess", Bare::ExpSum, |a, shape| {
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
        ("token_logprobs", Bare::ExpSum, |a, shape| {
            let rows = &mut a.out[..shape.batch()];
            logitkit::token_logprobs(&a.x, &a.labels, shape, None, rows, &mut a.is_argmax)
        }),
        ("top_k_logprobs", Bare::ExpSum, |a, shape| {
            let (k, rows) = (3.min(shape.len), shape.batch());
            let (values, indices) = (&mut a.out[..rows * k], &mut a.indices[..rows * k]);
            logitkit::top_k_logprobs(&a.x, k, shape, values, indices)
        }),
    ]
}

/// The median time of a call in seconds, if the filter lets the benchmark run.
fn timed(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    level: Level,
    mut call: impl FnMut(),
) -> Option<f64> {
    let mut seconds = Vec::new();
    group.bench_function(name, |bencher| {
        let former = set_level(level);
        bencher.iter_custom(|calls| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            let elapsed = start.elapsed();
            seconds.push(elapsed.as_secs_f64() / calls as f64);
            elapsed
        });
        set_level(former);
    });
    // The samples are the last ones: those before them warm up.
    let samples = seconds.len().saturating_sub(SAMPLES);
    let samples = &mut seconds[samples..];
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

fn levels<T: Float + From<f32>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (name, bare, operation): (&str, Bare, Operation<T>),
    shape: Shape,
) {
    let mut operands = Operands::<T>::new(shape).expect("the operands fit the shape");
    for level in Level::available() {
        let ours = timed(group, level.name().to_owned(), level, || {
            operation(black_box(&mut operands), shape).expect("the operands fit the shape");
        });
        let limit = timed(group, format!("{}_limit", level.name()), level, || {
            black_box(bare.run(black_box(&mut operands)));
        });
        if let (Some(ours), Some(limit)) = (ours, limit) {
            let [ours_ns, limit_ns] = [ours, limit].map(|seconds| 1e9 * seconds / shape.size() as f64);
            println!(
                "{name} at {}: {ours_ns:.3} ns/element, bare loop {limit_ns:.3}: fraction of the limit {:.2}",
                level.name(),
                limit / ours,
            );
        }
    }
}

fn of_type<T: Float + From<f32>>(criterion: &mut Criterion) {
    set_thread_override(Some(1));
    for operation in operations::<T>() {
        let name = operation.0;
        let layouts = match name {
            // The layout is nothing to a mean over all elements.
            _ if name.starts_with("mse") || name.starts_with("binary") => &LAYOUTS[2..3],
            // Rows of neighbours only.
            "soft_log_loss_value_and_grad" | "cross_entropy_grad_hess" => &LAYOUTS[..4],
            _ => &LAYOUTS[..],
        };
        for &(layout, shape) in layouts {
            let mut group = criterion.benchmark_group(format!("{name}/{}/{layout}", type_name::<T>()));
            group.throughput(Throughput::Elements(shape.size() as u64));
            levels(&mut group, operation, shape);
            group.finish();
        }
    }
}

fn configuration() -> Criterion {
    Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
}

criterion_group!(name = kernels; config = configuration(); targets = of_type::<f32>, of_type::<f64>);
criterion_main!(kernels);
