//! The best level is worth having. Alone in its program, so that no other test takes the time.

use logitkit::{Level, Shape, set_level, softmax};
use std::time::{Duration, Instant};

/// The shortest of many runs at a level, so that what else the machine does matters little.
fn time(level: Level, x: &[f32], shape: Shape, out: &mut [f32]) -> Duration {
    let former = set_level(level);
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        softmax(x, shape, out).unwrap();
        best = best.min(start.elapsed());
    }
    set_level(former);
    best
}

#[test]
fn the_best_level_is_much_faster_than_the_portable_one() {
    let Some(best) = Level::available().pop().filter(|&best| best != Level::Portable) else {
        return;
    };
    let shape = Shape::rows(20, 1000);
    let x: Vec<f32> = (0..shape.size()).map(|i| (i * 37 % 1000) as f32 * 0.01).collect();
    let mut out = vec![0.0; x.len()];
    let ratios: Vec<f64> = (0..5)
        .map(|_| {
            let [portable, best] = [Level::Portable, best].map(|level| time(level, &x, shape, &mut out));
            portable.as_secs_f64() / best.as_secs_f64()
        })
        .take_while(|&ratio| ratio < 3.0)
        .collect();
    assert!(ratios.len() < 5, "{} is only {ratios:.1?} times as fast as portable", best.name());
}
