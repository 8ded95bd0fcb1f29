//! Trains a softmax classifier on a few points in the plane: `cargo run --example train`.
//!
//! Three clouds of points, one class each; a point's logits are `x W^T + b`. Every step takes the loss and its
//! gradient with respect to the logits from one call, and hands the gradient on to weights and biases.

use logitkit::{Error, Reduction, Shape, classification_error, cross_entropy_value_and_grad};

const CLASSES: usize = 3;
const POINTS: usize = 150;
const RATE: f64 = 0.5;

/// A linear classifier: per class, the weights of both coordinates and a bias.
type Model = [[f64; 3]; CLASSES];

/// Points around three centres, and the number of each one's centre.
fn points() -> (Vec<[f64; 2]>, Vec<u8>) {
    let centres = [[0.0, 1.2], [-1.0, -0.6], [1.0, -0.6]];
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    let labels: Vec<u8> = (0..POINTS).map(|i| (i % CLASSES) as u8).collect();
    let around = |&label: &u8| {
        let [x, y] = centres[usize::from(label)];
        // The sum of two: rare far from the centre.
        [x + 1.4 * (noise() + noise()), y + 1.4 * (noise() + noise())]
    };
    (labels.iter().map(around).collect(), labels)
}

/// The logits of all points, point by point.
fn logits(model: &Model, points: &[[f64; 2]], out: &mut [f64]) {
    for (point, out) in points.iter().zip(out.chunks_exact_mut(CLASSES)) {
        for (class, out) in model.iter().zip(out) {
            *out = class[0] * point[0] + class[1] * point[1] + class[2];
        }
    }
}

/// A step against the gradient, of which `grad` is the part with respect to the logits.
fn descend(model: &mut Model, points: &[[f64; 2]], grad: &[f64]) {
    for (point, grad) in points.iter().zip(grad.chunks_exact(CLASSES)) {
        for (class, grad) in model.iter_mut().zip(grad) {
            class[0] -= RATE * grad * point[0];
            class[1] -= RATE * grad * point[1];
            class[2] -= RATE * grad;
        }
    }
}

fn main() -> Result<(), Error> {
    let (points, labels) = points();
    let shape = Shape::rows(POINTS, CLASSES);
    let mut model = Model::default();
    let (mut scores, mut grad) = (vec![0.0; shape.size()], vec![0.0; shape.size()]);
    println!("step  cross-entropy  misclassified");
    for step in 0..=100 {
        logits(&model, &points, &mut scores);
        let loss = cross_entropy_value_and_grad(&scores, &labels, shape, None, Reduction::Mean, &mut grad)?;
        if step % 10 == 0 {
            let wrong = classification_error(&scores, &labels, shape, None, Reduction::Mean)?;
            println!("{step:4}  {loss:13.6}  {:12.1}%", 100.0 * wrong);
        }
        descend(&mut model, &points, &grad);
    }
    Ok(())
}
