//! Weights of the classes and of the rows of a cross-entropy.
#![expect(unsafe_code, reason = "weights are read through strided views")]

use crate::exact::add_pairs;
use crate::float::{Acc, Double, Element, Float, load64};
use crate::kernels::labels::Labels;
use crate::kernels::rowsum::first_bits;
use crate::lines::GROUP;
use crate::parallel::{get_num_threads, run_chunks};
use crate::shape::View;
use crate::simd::{Simd, Task, dispatch, map_each};
use crate::sums::{Sum, Sums};
use std::ops::Range;

/// One weight per class, in the element type; or 1 for all.
#[derive(Clone, Copy)]
pub(crate) struct ClassWeight<T> {
    /// As many as there are classes, or null.
    weights: *const T,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T: Float> Sync for ClassWeight<T> {}

impl<T: Float> ClassWeight<T> {
    pub(crate) const ONE: Self = ClassWeight { weights: std::ptr::null() };

    /// # Safety
    /// Valid for reading a number for every class as long as this is used.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    pub(crate) unsafe fn new(weights: *const T) -> Self {
        ClassWeight { weights }
    }

    /// The weights side by side, or null.
    #[inline(always)]
    pub(crate) fn pointer(&self) -> *const T {
        self.weights
    }

    #[inline(always)]
    pub(crate) fn is_one(&self) -> bool {
        self.weights.is_null()
    }

    /// The weight of a class.
    ///
    /// # Safety
    /// `class` is one.
    #[inline(always)]
    pub(crate) unsafe fn of(&self, class: usize) -> f64 {
        if self.weights.is_null() {
            1.0
        } else {
            // SAFETY: the caller's promise, and that of `new`.
            T::Ops::to_f64(unsafe { self.weights.add(class).read() })
        }
    }
}

/// One weight per row, or 1 for all.
#[derive(Clone, Copy)]
pub(crate) enum SampleWeight {
    /// 1 everywhere.
    One,
    /// Nothing counts: the weights sum to zero and a mean is wanted.
    Nothing,
    /// One per row; with the batch's inner extent.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Rows(View<f64>, usize),
}

// SAFETY: as above.
unsafe impl Sync for SampleWeight {}

impl SampleWeight {
    #[inline(always)]
    pub(crate) fn is_one(&self) -> bool {
        matches!(self, SampleWeight::One)
    }

    /// The weight of a row.
    #[inline(always)]
    pub(crate) fn of(&self, row: usize) -> f64 {
        match self {
            SampleWeight::One => 1.0,
            SampleWeight::Nothing => 0.0,
            // SAFETY: the view has an element for every row.
            SampleWeight::Rows(view, inner) => unsafe { view.row(row, *inner).read() },
        }
    }
}

/// Which classes a row has.
#[derive(Clone, Copy)]
pub(crate) enum Classes {
    /// As many as it has elements.
    All,
    /// Those where a byte is not 0, and how many that are in each row; for an inner extent of 1.
    #[cfg_attr(not(feature = "python"), expect(dead_code, reason = "offered by the Python package"))]
    Masked { counts: View<f64>, mask: View<u8> },
}

// SAFETY: as above.
unsafe impl Sync for Classes {}

/// Rows that are summed together; it takes several times as long as waking a worker.
const CHUNK: usize = 8192;

/// The sum over rows of `class_weight[y] * sample_weight`, as `(high, low)`; without labels, of the sample weights. Rows that
/// are ignored, and those where `left` is false, do not count.
pub(crate) fn total<T: Float>(
    labels: Option<&Labels>,
    class: &ClassWeight<T>,
    sample: &SampleWeight,
    rows: usize,
    left: Option<&(dyn Fn(usize) -> bool + Sync)>,
) -> (f64, f64) {
    let sums = Sums::new(rows.div_ceil(CHUNK));
    run_chunks(rows.div_ceil(CHUNK), get_num_threads(), &|chunk| {
        let first = chunk * CHUNK;
        let rows = first..(first + CHUNK).min(rows);
        let sum = dispatch(Part { labels, class, sample, left, rows });
        // SAFETY: the chunk belongs to this thread alone.
        unsafe { sums.set(chunk, Sum::new(sum, 0)) };
    });
    sums.total().pair()
}

/// One chunk of a [`total`]: over 8 lanes, row `i` in lane `i mod 8`.
struct Part<'a, T> {
    labels: Option<&'a Labels>,
    class: &'a ClassWeight<T>,
    sample: &'a SampleWeight,
    left: Option<&'a (dyn Fn(usize) -> bool + Sync)>,
    rows: Range<usize>,
}

impl<T: Float> Task for Part<'_, T> {
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let Part { labels, class, sample, left, rows } = self;
        let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
        for first in rows.clone().step_by(GROUP) {
            let n = GROUP.min(rows.end - first);
            let (classes, mut counted) =
                labels.map_or(([0; GROUP], first_bits(n)), |labels| labels.classes(first, n));
            if let Some(left) = left {
                (0..n).filter(|i| !left(first + i)).for_each(|i| counted &= !(1 << i));
            }
            let mut weights = [[0.0; GROUP]; 2];
            for i in (0..n).filter(|i| counted >> i & 1 == 1) {
                // SAFETY: a label that counts is a class.
                let class = if labels.is_some() { unsafe { class.of(classes[i]) } } else { 1.0 };
                (weights[0][i], weights[1][i]) = (class, sample.of(first + i));
            }
            for j in (0..n).step_by(8) {
                let [of_class, of_sample] = map_each([0, 1], |k| load64(s, &weights[k], j));
                acc = Double::accumulate_product(s, acc, of_class, of_sample);
            }
        }
        Double::reduce(s, acc)
    }
}

/// The sum of the weights of all classes.
pub(crate) fn class_total<T: Float>(class: &ClassWeight<T>, classes: usize) -> (f64, f64) {
    if class.is_one() {
        return (classes as f64, 0.0);
    }
    // SAFETY: every number below `classes` is one.
    (0..classes).fold((0.0, 0.0), |sum, c| add_pairs(sum, (unsafe { class.of(c) }, 0.0)))
}
