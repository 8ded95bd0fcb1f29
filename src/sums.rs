//! Sums over chunks, combined in their order, and means: no digits lost and no overflow on the way.
#![expect(unsafe_code, reason = "threads share the cells of a sum")]

use crate::exact::{add_pairs, frexp, ldexp, mul_pairs, two_product, two_sum, value};
use std::cell::Cell;

/// How the losses of the rows become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum over the number of rows that are not ignored; NaN if there is none.
    Mean,
    /// Their sum.
    Sum,
}

/// `(high + low) * 2^exponent`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sum {
    high: f64,
    low: f64,
    exponent: i32,
}

impl Sum {
    pub(crate) fn new((high, low): (f64, f64), exponent: i32) -> Sum {
        Sum { high, low, exponent }
    }

    /// The sum of values whose plain sum is not finite, on a scale on which only infinite ones make it so.
    #[inline(never)]
    pub(crate) fn of_large(values: &[f64]) -> Sum {
        let sum = values.iter().fold((0.0, 0.0), |sum, &v| add_pairs(sum, (ldexp(v, -ROOM), 0.0)));
        Sum::new(sum, ROOM)
    }

    /// The product of a few numbers, without overflow or underflow on the way.
    pub(crate) fn product(factors: &[f64]) -> Sum {
        let split = |(product, exponent), &factor: &f64| {
            let (mantissa, power) = frexp(factor);
            (mul_pairs(product, (mantissa, 0.0)), exponent + power)
        };
        let (product, exponent) = factors.iter().fold(((1.0, 0.0), 0), split);
        Sum::new(product, exponent)
    }

    /// The quotient of two numbers, without overflow or underflow on the way; NaN where the divisor is 0.
    pub(crate) fn over(self, divisor: Sum) -> Sum {
        let normal = |sum: Sum| {
            let (high, low) = if sum.high.is_finite() { two_sum(sum.high, sum.low) } else { (sum.high, 0.0) };
            let (mantissa, power) = frexp(high);
            (mantissa, ldexp(low, -power), power + sum.exponent)
        };
        let ((a, a_low, a_power), (b, b_low, b_power)) = (normal(self), normal(divisor));
        if b == 0.0 {
            return Sum::new((f64::NAN, 0.0), 0);
        }
        let quotient = a / b;
        let (product, e) = two_product(quotient, b);
        let rest = ((a - product) - e + (a_low - quotient * b_low)) / b;
        Sum::new((quotient, if rest.is_finite() { rest } else { 0.0 }), a_power - b_power)
    }

    /// The number as `(high, low)`; zero or infinite beyond the range of `f64`.
    pub(crate) fn pair(self) -> (f64, f64) {
        let high = ldexp(value((self.high, self.low)), self.exponent);
        let rest = self.high - ldexp(high, -self.exponent) + self.low;
        let low = ldexp(rest, self.exponent);
        (high, if low.is_finite() { low } else { 0.0 })
    }

    /// The nearest `f64`; the positive NaN where it is none.
    pub(crate) fn rounded(self) -> f64 {
        self.reduced(Reduction::Sum, 1)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.high + self.low == 0.0
    }

    /// The same number with another exponent.
    fn at(self, exponent: i32) -> (f64, f64) {
        let by = self.exponent - exponent;
        if by == 0 { (self.high, self.low) } else { (ldexp(self.high, by), ldexp(self.low, by)) }
    }

    /// The sum, or the mean of `count`, within half a unit in the last place and a little, one unit where it is below
    /// the normal range; the positive NaN where it is none.
    pub(crate) fn reduced(self, reduction: Reduction, count: usize) -> f64 {
        self.reduced_by(reduction, (count as f64, 0.0))
    }

    /// The same with a `(high, low)` sum of weights in place of a count.
    pub(crate) fn reduced_by(self, reduction: Reduction, weights: (f64, f64)) -> f64 {
        let result = match reduction {
            Reduction::Sum => ldexp(value((self.high, self.low)), self.exponent),
            Reduction::Mean => self.mean(weights),
        };
        if result.is_nan() { f64::NAN } else { result }
    }

    fn mean(self, (count, count_low): (f64, f64)) -> f64 {
        let (high, low) = if self.high.is_finite() { two_sum(self.high, self.low) } else { (self.high, 0.0) };
        let sum = Sum { high, low, ..self };
        // The remainder of the division is exact away from the ends of the range.
        let exponent = match high.abs() {
            high if high > 1e270 => self.exponent + 300,
            high if high < 1e-250 => self.exponent - 300,
            _ => self.exponent,
        };
        let (high, low) = sum.at(exponent);
        let quotient = high / count;
        let (product, e) = two_product(quotient, count);
        let rest = ((((high - product) - e) + low) - quotient * count_low) / count;
        ldexp(if rest.is_finite() { quotient + rest } else { quotient }, exponent)
    }
}

/// Powers of two that are more than the number of terms of any sum.
const ROOM: i32 = 64;

/// One sum per chunk, written by whoever computes the chunk.
pub(crate) struct Sums(Box<[Cell<Sum>]>);

// SAFETY: every chunk is computed by exactly one thread, which alone touches its cell.
unsafe impl Sync for Sums {}

impl Sums {
    pub(crate) fn new(chunks: usize) -> Self {
        Sums(vec![Cell::new(Sum::default()); chunks].into_boxed_slice())
    }

    /// # Safety
    /// No other thread touches this chunk at the same time.
    pub(crate) unsafe fn set(&self, chunk: usize, sum: Sum) {
        self.0[chunk].set(sum);
    }

    /// The sum over all chunks, in their order, with the largest exponent among them; with a larger one still where
    /// it would overflow.
    pub(crate) fn total(self) -> Sum {
        let parts = || self.0.iter().map(Cell::get).filter(|part| part.high != 0.0 || part.low != 0.0);
        let with = |exponent: i32| {
            Sum::new(parts().fold((0.0, 0.0), |sum, part| add_pairs(sum, part.at(exponent))), exponent)
        };
        let exponent = parts().map(|part| part.exponent).max().unwrap_or(0);
        let total = with(exponent);
        if total.high.is_finite() { total } else { with(exponent + ROOM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], count: usize) -> f64 {
        let sums = Sums::new(values.len());
        for (i, &v) in values.iter().enumerate() {
            // SAFETY: there is one thread.
            unsafe { sums.set(i, Sum::new((v, 0.0), 0)) };
        }
        sums.total().reduced(Reduction::Mean, count)
    }

    #[test]
    fn means() {
        for (values, count, want) in [
            (&[1.0, 2f64.powi(-60), 1.0][..], 2, 1.0),
            (&[1.0, 1.0, 2f64.powi(-51)], 2, 1.0 + 2f64.powi(-52)),
            (&[5e-324, 5e-324, 5e-324], 3, 5e-324),
            (&[1e-310, 2e-310, 3e-310], 3, 2e-310),
            (&[f64::MAX; 5], 5, f64::MAX),
            (&[f64::MAX, -f64::MAX, 6.0], 3, 2.0),
            (&[f64::MAX, f64::INFINITY], 2, f64::INFINITY),
            (&[0.0; 3], 3, 0.0),
            (&[1.0, 2f64.powi(-60), -1.0], 2, 2f64.powi(-61)),
        ] {
            assert_eq!(mean(values, count), want, "{values:?}");
        }
        assert_eq!(mean(&[1.0, f64::NAN], 2).to_bits(), f64::NAN.to_bits());
        assert_eq!(mean(&[], 0).to_bits(), f64::NAN.to_bits());
        // A third has no short form: the rounded quotient of the exact sum.
        assert_eq!(mean(&[1.0, 2f64.powi(-53)], 3), 1.0 / 3.0 + 2f64.powi(-54));
    }

    #[test]
    fn quotients() {
        let sum = |high: f64, low: f64, exponent: i32| Sum::new((high, low), exponent);
        assert_eq!(sum(1.0, 0.0, 0).over(sum(3.0, 0.0, 0)).rounded(), 1.0 / 3.0);
        assert_eq!(sum(f64::MAX, 0.0, ROOM).over(sum(f64::MAX / 2.0, 0.0, ROOM)).rounded(), 2.0);
        assert_eq!(sum(5e-324, 0.0, 0).over(sum(2e-323, 0.0, 0)).rounded(), 0.25);
        assert_eq!(sum(f64::MAX, 0.0, 0).over(sum(1.0, 0.0, ROOM)).rounded(), f64::MAX / 2f64.powi(ROOM));
        for (a, b) in [(0.0, 0.0), (1.0, 0.0), (1.0, -0.0), (f64::INFINITY, f64::INFINITY), (-f64::NAN, 1.0)]
        {
            assert_eq!(
                sum(a, 0.0, 0).over(sum(b, 0.0, 0)).rounded().to_bits(),
                f64::NAN.to_bits(),
                "{a} / {b}"
            );
        }
    }

    #[test]
    fn exponents_meet() {
        let sums = Sums::new(3);
        for (i, sum) in [Sum::new((3.0, 0.0), 1200), Sum::new((1.0, 0.0), 0), Sum::new((5.0, 0.0), -1200)]
            .into_iter()
            .enumerate()
        {
            // SAFETY: there is one thread.
            unsafe { sums.set(i, sum) };
        }
        let total = sums.total();
        assert_eq!((total.high, total.exponent), (3.0, 1200));
        assert_eq!(total.reduced(Reduction::Sum, 3), f64::INFINITY);
        let large = Sum::of_large(&[f64::MAX, f64::MAX, 1.0]);
        assert_eq!(large.reduced(Reduction::Mean, 2), f64::MAX);
        assert_eq!(large.reduced(Reduction::Sum, 2), f64::INFINITY);
        assert_eq!(Sum::of_large(&[f64::INFINITY, 1.0]).reduced(Reduction::Mean, 2), f64::INFINITY);
        assert_eq!(Sum::new((3.0, 0.0), -1100).reduced(Reduction::Sum, 1), 0.0);
        assert_eq!(Sum::new((3.0, 0.0), -1074).reduced(Reduction::Mean, 3), 5e-324);
    }
}
