//! What the tests share: a reference in double-double arithmetic, test data, and the levels.
//!
//! The reference knows nothing of the crate: it subtracts the maximum exactly, sums in about 100 bits, and
//! takes exponential and logarithm from their series.

use logitkit::{Float, Level, Shape, set_level};
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};

// --- double-double ---------------------------------------------------------------------------------------

/// The unevaluated sum of two `f64`, about 104 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dd(pub(crate) f64, pub(crate) f64);

pub(crate) const ZERO: Dd = Dd(0.0, 0.0);
pub(crate) const ONE: Dd = Dd(1.0, 0.0);
const LN_2: Dd = Dd(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);

fn two_sum(a: f64, b: f64) -> Dd {
    let s = a + b;
    let t = s - a;
    Dd(s, (a - (s - t)) + (b - t))
}

/// The exact product (Veltkamp's split, Dekker's product), unless it overflows or underflows.
fn two_product(a: f64, b: f64) -> Dd {
    let split = |x: f64| {
        let t = x * 134_217_729.0;
        let high = t - (t - x);
        (high, x - high)
    };
    let (p, (a, al), (b, bl)) = (a * b, split(a), split(b));
    Dd(p, al * bl - (((p - a * b) - al * b) - a * bl))
}

impl From<f64> for Dd {
    fn from(x: f64) -> Dd {
        Dd(x, 0.0)
    }
}

impl Add for Dd {
    type Output = Dd;
    fn add(self, other: Dd) -> Dd {
        let (high, low) = (two_sum(self.0, other.0), two_sum(self.1, other.1));
        let sum = two_sum(high.0, high.1 + low.0);
        two_sum(sum.0, sum.1 + low.1)
    }
}

impl Neg for Dd {
    type Output = Dd;
    fn neg(self) -> Dd {
        Dd(-self.0, -self.1)
    }
}

impl Sub for Dd {
    type Output = Dd;
    fn sub(self, other: Dd) -> Dd {
        self + -other
    }
}

impl Mul for Dd {
    type Output = Dd;
    fn mul(self, other: Dd) -> Dd {
        let p = two_product(self.0, other.0);
        two_sum(p.0, p.1 + (self.0 * other.1 + self.1 * other.0))
    }
}

impl Div for Dd {
    type Output = Dd;
    fn div(self, other: Dd) -> Dd {
        let first = self.0 / other.0;
        let rest = self - Dd::from(first) * other;
        let second = rest.0 / other.0;
        let rest = rest - Dd::from(second) * other;
        two_sum(first, second) + Dd::from(rest.0 / other.0)
    }
}

impl Dd {
    /// `a - b`, exactly.
    pub(crate) fn difference(a: f64, b: f64) -> Dd {
        two_sum(a, -b)
    }

    pub(crate) fn abs(self) -> Dd {
        if self.0 < 0.0 { -self } else { self }
    }

    /// `exp(x)` for `x` up to 700; zero below -900, and for -inf.
    pub(crate) fn exp(self) -> Dd {
        self.exp_by(0)
    }

    /// `exp(x) * 2^power`, which does not lose the digits that a smaller one would.
    fn exp_by(self, power: i32) -> Dd {
        if self.0 < -900.0 {
            return ZERO;
        }
        // exp(x) = exp(r / 64)^64 * 2^k
        let k = (self.0 / LN_2.0).round();
        let r = (self - LN_2 * Dd::from(k)) * Dd::from(1.0 / 64.0);
        let mut sum = ONE;
        for n in (1..=12).rev() {
            sum = ONE + r * sum / Dd::from(f64::from(n));
        }
        for _ in 0..6 {
            sum = sum * sum;
        }
        sum.scaled(k as i32 + power)
    }

    /// `g exp(self)`, also where the exponential alone would lose digits.
    pub(crate) fn exp_times(self, g: f64) -> Dd {
        if self.0 < -3000.0 {
            return ZERO;
        }
        let root = (self * Dd::from(0.5)).exp();
        (root * Dd::from(g)) * root
    }

    /// `x * 2^k`; rounds once where the result is subnormal.
    fn scaled(self, k: i32) -> Dd {
        let half = k / 2;
        let scale = |x: f64| x * power_of_two(half) * power_of_two(k - half);
        Dd(scale(self.0), scale(self.1))
    }

    /// `log(1 + x)` for `x >= 0`.
    pub(crate) fn ln_1p(self) -> Dd {
        if self.0 < 1e-5 {
            // x - x^2/2 + x^3/3 - ...
            let mut sum = ZERO;
            for n in (1..=7).rev() {
                sum = ONE / Dd::from(f64::from(n)) - self * sum;
            }
            return self * sum;
        }
        // One step of Halley's method triples the digits.
        let (guess, u) = (Dd::from(self.0.ln_1p()), ONE + self);
        let e = guess.exp();
        guess + Dd::from(2.0) * (u - e) / (u + e)
    }
}

/// `2^k` down to the smallest subnormal.
fn power_of_two(k: i32) -> f64 {
    if k >= -1022 {
        f64::from_bits(((k + 1023) as u64) << 52)
    } else {
        f64::from_bits(1 << (k + 1074).max(0))
    }
}

// --- the element types -----------------------------------------------------------------------------------

/// `f32` and `f64`, with what the library promises for them.
pub(crate) trait Real: Float {
    /// The largest error, in units in the last place.
    const BOUND: f64;
    /// The one of `logsumexp`.
    const LSE_BOUND: f64;
    /// Bits of the significand.
    const DIGITS: i32;
    /// The exponent of the smallest subnormal.
    const SMALLEST: i32;
    /// The lowest finite number.
    const LOWEST: Self;
    /// A magnitude at which `exp` cannot be reduced in the element type.
    const HUGE: f64;
    /// The positive quiet NaN without payload.
    const NAN: Self;
    const INFINITY: Self;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn bits(self) -> u64;
}

macro_rules! real {
    ($t:ty, $bound:expr, $lse:expr, $smallest:expr, $huge:expr, $nan:expr) => {
        impl Real for $t {
            const BOUND: f64 = $bound;
            const LSE_BOUND: f64 = $lse;
            const DIGITS: i32 = <$t>::MANTISSA_DIGITS as i32;
            const SMALLEST: i32 = $smallest;
            const LOWEST: $t = <$t>::MIN;
            const HUGE: f64 = $huge;
            const NAN: $t = <$t>::from_bits($nan);
            const INFINITY: $t = <$t>::INFINITY;
            fn of(x: f64) -> $t {
                x as $t
            }
            fn wide(self) -> f64 {
                self.into()
            }
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
    };
}
real!(f32, 3.0, 1.5, -149, 1e6, 0x7fc0_0000);
real!(f64, 4.0, 2.0, -1074, 1e11, 0x7ff8_0000_0000_0000);

/// The distance between neighbouring numbers of the type `T` at `x`.
pub(crate) fn ulp<T: Real>(x: f64) -> f64 {
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(-1023);
    power_of_two((exponent - (T::DIGITS - 1)).max(T::SMALLEST))
}

/// The error of `got` in units in the last place of `unit`; none where both are beyond the largest number.
pub(crate) fn error<T: Real>(got: T, want: Dd, unit: f64) -> f64 {
    let got = got.wide();
    if got.is_infinite() && got == T::of(want.0).wide() {
        return 0.0;
    }
    let error = (Dd::from(got) - want).abs().0 / ulp::<T>(unit);
    if error.is_nan() { f64::INFINITY } else { error }
}

pub(crate) fn bits<T: Real>(x: &[T]) -> Vec<u64> {
    x.iter().map(|x| x.bits()).collect()
}

// --- rows and layouts ------------------------------------------------------------------------------------

/// The index of element `c` of a row.
pub(crate) fn at(shape: Shape, row: usize, c: usize) -> usize {
    (row / shape.inner * shape.len + c) * shape.inner + row % shape.inner
}

/// Row `row` of an array.
pub(crate) fn row_of<T: Copy>(a: &[T], shape: Shape, row: usize) -> Vec<T> {
    (0..shape.len).map(|c| a[at(shape, row, c)]).collect()
}

/// The array of a shape that has these rows.
pub(crate) fn from_rows<T: Copy + Default>(rows: &[Vec<T>], shape: Shape) -> Vec<T> {
    assert_eq!(rows.len(), shape.batch());
    let mut a = vec![T::default(); shape.size()];
    for (row, values) in rows.iter().enumerate() {
        for (c, &value) in values.iter().enumerate() {
            a[at(shape, row, c)] = value;
        }
    }
    a
}

/// The quantities of a row on which all operations stand, with `e = exp(x - max)`.
pub(crate) struct Reference {
    pub(crate) max: f64,
    pub(crate) e: Vec<Dd>,
    pub(crate) sum: Dd,
    /// The sum without one occurrence of the maximum.
    pub(crate) others: Dd,
    /// `logsumexp - max`
    pub(crate) log: Dd,
}

impl Reference {
    /// Of a row that holds a finite maximum.
    pub(crate) fn new<T: Real>(x: &[T]) -> Reference {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.wide()));
        assert!(max.is_finite());
        let first = x.iter().position(|x| x.wide() == max).unwrap();
        let difference = |x: &T| Reference::difference(x.wide(), max);
        let e: Vec<Dd> = x.iter().map(|x| difference(x).exp()).collect();
        let mut others = e.iter().enumerate().filter(|&(c, _)| c != first).fold(ZERO, |s, (_, &e)| s + e);
        if others.0 < 1e-250 {
            // Terms below the normal range: their sum loses digits only once.
            let terms =
                x.iter().enumerate().filter(|&(c, _)| c != first).map(|(_, x)| difference(x).exp_by(300));
            others = terms.fold(ZERO, |sum, e| sum + e).scaled(-300);
        }
        Reference { max, e, sum: ONE + others, others, log: others.ln_1p() }
    }

    /// `x - max`; exact where it is finite.
    fn difference(x: f64, max: f64) -> Dd {
        let d = x - max;
        if d.is_finite() { Dd::difference(x, max) } else { Dd(d, 0.0) }
    }

    pub(crate) fn logsumexp(&self) -> Dd {
        Dd::from(self.max) + self.log
    }

    pub(crate) fn log_softmax(&self, x: f64) -> Dd {
        let d = Reference::difference(x, self.max);
        if d.0.is_finite() { d - self.log } else { d }
    }

    /// The softmax of element `c`, which is `x`.
    pub(crate) fn softmax(&self, c: usize, x: f64) -> Dd {
        // A quotient of numbers that small would lose digits.
        if self.e[c].0 < 1e-280 { self.log_softmax(x).exp() } else { self.e[c] / self.sum }
    }

    /// `softmax - [c = label]` for element `c`, which is `x`.
    pub(crate) fn residual(&self, c: usize, x: f64, label: usize) -> Dd {
        match c == label {
            false => self.softmax(c, x),
            true if x == self.max => -self.others / self.sum,
            true => self.softmax(c, x) - ONE,
        }
    }
}

// --- data ------------------------------------------------------------------------------------------------

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `[0, n)`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// From `[low, high)`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.bits() >> 11) as f64 * power_of_two(-53))
    }

    /// Nearly normal, with the same bits on every system.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform(-0.5, 0.5)).sum()
    }

    pub(crate) fn normals<T: Real>(&mut self, n: usize, scale: f64) -> Vec<T> {
        (0..n).map(|_| T::of(self.normal() * scale)).collect()
    }

    /// Kinds of rows.
    pub(crate) const KINDS: usize = 18;

    /// A row with a finite maximum. Neighbouring `kind`s are very different, so that a batch mixes them.
    pub(crate) fn row<T: Real>(&mut self, kind: usize, len: usize) -> Vec<T> {
        let mut x = self.normals::<T>(len, 1.0);
        let place = self.below(len);
        match kind % Self::KINDS {
            0 => {}
            1 => x = self.normals(len, 20.0),
            // One class dominates, by a little up to by more than the exponential's range.
            2 => x[place] = T::of(self.uniform(5.0, 25.0)),
            3 => x[place] = T::of(self.uniform(25.0, 700.0)),
            4 => x.iter_mut().for_each(|x| *x = T::of(self.uniform(-100.0, 100.0))),
            // Masks.
            5 => {
                let mask = [T::of(-1e9), T::LOWEST, T::of(f64::NEG_INFINITY)];
                x.iter_mut().for_each(|x| {
                    if self.below(3) > 0 {
                        *x = mask[self.below(3)];
                    }
                });
                x[place] = T::of(self.normal());
            }
            // Ties.
            6 => x.iter_mut().for_each(|x| *x = T::of(self.below(3) as f64)),
            7 => x = vec![T::of(self.uniform(-40.0, 40.0)); len],
            // Rising and falling by more than the first block lets expect.
            8 => x.iter_mut().enumerate().for_each(|(c, x)| {
                *x = T::of(500.0 * c as f64 / len as f64 + self.normal());
            }),
            9 => x.iter_mut().enumerate().for_each(|(c, x)| {
                *x = T::of(-500.0 * c as f64 / len as f64 + self.normal());
            }),
            // Where `exp` cannot be reduced any more.
            10 => {
                let offset = if self.below(2) == 0 { T::HUGE } else { -T::HUGE };
                x.iter_mut().for_each(|x| *x = T::of(offset + x.wide() * 3.0));
            }
            11 => x.iter_mut().for_each(|x| *x = T::of(x.wide() * 1e-4)),
            // Any spread, and any distance from zero.
            12 => {
                let spread = 10f64.powf(self.uniform(-1.0, 3.0));
                x.iter_mut().for_each(|x| *x = T::of(x.wide() * spread));
            }
            13 => {
                let offset = 10f64.powf(self.uniform(0.0, 30.0)) * [1.0, -1.0][self.below(2)];
                x.iter_mut().for_each(|x| *x = T::of(x.wide() * 10.0 + offset));
            }
            // One against as much of all others together.
            14 => x[place] = T::of((len as f64).ln() + self.uniform(-2.0, 6.0)),
            // Numbers below the normal range.
            15 => x.iter_mut().for_each(|x| *x = T::of((x.wide() * 1e3).round() * ulp::<T>(0.0))),
            // Maximum and logarithm cancel.
            16 => x.iter_mut().for_each(|x| *x = T::of(x.wide() * 1e-3 - (len as f64).ln())),
            // Results down to below the smallest number.
            _ => {
                let reach = if T::DIGITS == 24 { 110.0 } else { 760.0 };
                x.iter_mut().for_each(|x| *x = T::of(self.uniform(-reach, 0.0)));
            }
        }
        x
    }

    /// `n` rows of all kinds.
    pub(crate) fn rows<T: Real>(&mut self, n: usize, len: usize) -> Vec<Vec<T>> {
        (0..n).map(|kind| self.row(kind, len)).collect()
    }

    /// A label at which the loss is an ordinary number: often the maximum, never a mask.
    pub(crate) fn label<T: Real>(&mut self, x: &[T]) -> i64 {
        let label = self.below(x.len());
        if self.below(3) > 0 && x[label].wide() > -1e8 - T::HUGE {
            return label as i64;
        }
        let max = x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.wide()));
        x.iter().position(|x| x.wide() == max).unwrap() as i64
    }

    /// Weights of classes, some zero, and zero where the row is masked.
    pub(crate) fn weights<T: Real>(&mut self, x: &[T]) -> Vec<T> {
        let total = x.len() as f64;
        let weight = |x: &T, random: &mut Random| {
            let weight = random.uniform(0.0, 2.0 / total);
            T::of(if x.wide() < -1e8 - T::HUGE || random.below(4) == 0 { 0.0 } else { weight })
        };
        x.iter().map(|x| weight(x, self)).collect()
    }
}

// --- levels ----------------------------------------------------------------------------------------------

/// Alone among the tests of a process in setting the level; puts back the former one.
pub(crate) struct Levels {
    former: Level,
    _alone: MutexGuard<'static, ()>,
}

impl Levels {
    pub(crate) fn lock() -> Levels {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Levels { former: logitkit::level(), _alone: alone }
    }

    pub(crate) fn set(&self, level: Level) {
        set_level(level);
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        set_level(self.former);
    }
}
