//! Weights of the classes and of the rows of a cross-entropy.
#![expect(unsafe_code, reason = "weights are read through strided views")]

use crate::exact::{add_pairs, mul_pairs};
use crate::float::{Element, Float};
use crate::kernels::labels::Labels;
use crate::shape::View;

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

/// The sum of the weights of the rows that are not ignored, `class_weight[y] * sample_weight`, as `(high, low)`.
pub(crate) fn labelled_total<T: Float>(
    labels: &Labels,
    class: &ClassWeight<T>,
    sample: &SampleWeight,
    rows: impl Iterator<Item = usize>,
) -> (f64, f64) {
    let mut total = (0.0, 0.0);
    for row in rows {
        if let Some(y) = labels.get(row) {
            // SAFETY: a label that counts is a class.
            total = add_pairs(total, mul_pairs((unsafe { class.of(y) }, 0.0), (sample.of(row), 0.0)));
        }
    }
    total
}

/// The sum of the weights of all classes.
pub(crate) fn class_total<T: Float>(class: &ClassWeight<T>, classes: usize) -> (f64, f64) {
    if class.is_one() {
        return (classes as f64, 0.0);
    }
    // SAFETY: every number below `classes` is one.
    (0..classes).fold((0.0, 0.0), |sum, c| add_pairs(sum, (unsafe { class.of(c) }, 0.0)))
}

/// The sum of the weights of these rows.
pub(crate) fn total(sample: &SampleWeight, rows: impl Iterator<Item = usize>) -> (f64, f64) {
    rows.fold((0.0, 0.0), |sum, row| add_pairs(sum, (sample.of(row), 0.0)))
}
