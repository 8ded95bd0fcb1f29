//! Rows of 16-bit numbers as they lie, for kernels that read them without a copy.
#![expect(unsafe_code, reason = "rows are reached through pointers")]

use crate::float::Element;
use crate::shape::View;
use crate::simd::{Simd, Task};

/// 16-bit numbers of the widest vector.
pub(crate) const MOST: usize = 16;

/// What number 16 bits are.
#[derive(Clone, Copy)]
pub(crate) enum Half {
    /// binary16: 5 bits of exponent.
    F16,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
}

impl Half {
    /// The bits of -infinity.
    #[inline(always)]
    pub(crate) const fn minus_infinity(self) -> u16 {
        match self {
            Half::F16 => 0xfc00,
            Half::Bf16 => 0xff80,
        }
    }

    /// The bits of the largest of the numbers. NaN is passed over, or makes -infinity of it.
    ///
    /// As integers, positive numbers are ordered as they are, negative ones in reverse, and NaN lies beyond infinity.
    #[inline(always)]
    pub(crate) fn largest(self, numbers: &[u16]) -> u16 {
        let minus_infinity = self.minus_infinity();
        let signed = numbers.iter().map(|&number| number as i16);
        let mut largest = signed.clone().fold(i16::MIN, i16::max);
        if largest < 0 {
            largest = signed.fold(-1, i16::min);
        }
        let largest = largest as u16;
        if largest | 0x8000 <= minus_infinity { largest } else { minus_infinity }
    }

    /// The first `n <= WIDTH` numbers; the other lanes are -infinity.
    ///
    /// # Safety
    /// `p` is valid for reading `n` numbers.
    #[inline(always)]
    pub(crate) unsafe fn load_first<E: Element, S: Simd>(self, s: S, p: *const u16, n: usize) -> E::V<S> {
        let mut numbers = [self.minus_infinity(); MOST];
        // SAFETY: the caller's promise; the array holds a vector.
        unsafe {
            p.copy_to_nonoverlapping(numbers.as_mut_ptr(), n);
            self.load::<E, S>(s, numbers.as_ptr())
        }
    }

    /// A vector of numbers.
    ///
    /// # Safety
    /// `p` is valid for reading `WIDTH` of them.
    #[inline(always)]
    pub(crate) unsafe fn load<E: Element, S: Simd>(self, s: S, p: *const u16) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Half::F16 => E::load_halves::<S, false>(s, p),
                Half::Bf16 => E::load_halves::<S, true>(s, p),
            }
        }
    }
}

/// Rows of neighbouring numbers.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    /// As an array of the whole batch, with an inner extent of 1.
    pub(crate) rows: View<u16>,
    pub(crate) format: Half,
}

/// Converts `n` numbers. Whoever makes one promises that `from` can be read, and `to` written, as far.
pub(crate) struct Widen<E: Element> {
    pub(crate) format: Half,
    pub(crate) from: *const u16,
    pub(crate) to: *mut E::T,
    pub(crate) n: usize,
}

impl<E: Element> Task for Widen<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Widen { format, from, to, n } = self;
        let whole = n / E::WIDTH * E::WIDTH;
        for i in (0..whole).step_by(E::WIDTH) {
            // SAFETY: a vector remains of both.
            unsafe { E::store(s, format.load::<E, S>(s, from.add(i)), to.add(i)) };
        }
        if whole < n {
            // SAFETY: `n - whole < WIDTH` remain of both.
            unsafe {
                let rest = format.load_first::<E, S>(s, from.add(whole), n - whole);
                E::store_first(s, rest, to.add(whole), n - whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Half;

    /// The value of a number by its definition.
    fn value(half: Half, bits: u16) -> f64 {
        let (mantissa_bits, bias) = match half {
            Half::F16 => (10, 15),
            Half::Bf16 => (7, 127),
        };
        let exponent = i32::from(bits & 0x7fff) >> mantissa_bits;
        let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(1 - bias),
            _ if exponent == 2 * bias + 1 => {
                if mantissa == 0.0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
        };
        if bits >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn largest_is_the_maximum() {
        for half in [Half::F16, Half::Bf16] {
            assert_eq!(value(half, half.minus_infinity()), f64::NEG_INFINITY);
            // Each number first, and others after it: of any sign, or negative.
            for start in 0..=u16::MAX {
                for (n, sign) in [(1, 0), (2, 0), (37, 0), (70, 0x8000)] {
                    let bits = |i: u16| start.wrapping_add(i.wrapping_mul(40_503)) | sign;
                    let numbers: Vec<u16> = (0..n).map(bits).collect();
                    let values = || numbers.iter().map(|&bits| value(half, bits));
                    let max = values().filter(|v| !v.is_nan()).fold(f64::NEG_INFINITY, f64::max);
                    let largest = value(half, half.largest(&numbers));
                    let hidden = values().any(f64::is_nan) && largest == f64::NEG_INFINITY;
                    assert!(largest == max || hidden, "{numbers:04x?}: {largest} for {max}");
                }
            }
        }
    }
}
