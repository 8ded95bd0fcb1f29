//! Class labels of any integer type: checked once, before anything is written.
#![expect(unsafe_code, reason = "labels are read through strided views")]

use crate::error::Error;
use crate::lines::GROUP;
use crate::shape::View;
use crate::simd::{Simd, Task, dispatch};

/// An integer type that labels may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelType {
    /// `i8`
    I8,
    /// `i16`
    I16,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `u8`
    U8,
    /// `u16`
    U16,
    /// `u32`
    U32,
    /// `u64`
    U64,
}

/// One label per row.
#[derive(Clone, Copy)]
pub(crate) struct Labels {
    /// Strides count in elements of `kind`.
    pub(crate) view: View<u8>,
    pub(crate) kind: LabelType,
    /// The batch's inner extent, by which rows are found.
    pub(crate) inner: usize,
    pub(crate) ignore: Option<i64>,
    /// The number of classes. A label is compared with it wherever it is read, also after the check: another
    /// thread may have changed it since.
    pub(crate) classes: usize,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl Sync for Labels {}

impl Labels {
    /// The labels of a type as a view.
    fn typed<L>(&self) -> View<L> {
        View {
            ptr: self.view.ptr.cast(),
            outer: self.view.outer,
            len: 0,
            inner: self.view.inner,
            fresh: false,
        }
    }

    /// The label of a row; an unsigned one beyond `i64` comes out negative.
    #[inline(always)]
    fn wrapped(&self, row: usize) -> i64 {
        macro_rules! read {
            ($t:ty) => {
                // SAFETY: the view has a label for every row.
                (unsafe { self.typed::<$t>().row(row, self.inner).read() }) as i64
            };
        }
        match self.kind {
            LabelType::I8 => read!(i8),
            LabelType::I16 => read!(i16),
            LabelType::I32 => read!(i32),
            LabelType::I64 => read!(i64),
            LabelType::U8 => read!(u8),
            LabelType::U16 => read!(u16),
            LabelType::U32 => read!(u32),
            LabelType::U64 => read!(u64),
        }
    }

    /// The ignored label as [`Labels::wrapped`] would give it, if any label can equal it.
    #[inline(always)]
    fn wrapped_ignore(&self) -> Option<i64> {
        self.ignore.filter(|&ignore| ignore >= 0 || self.kind != LabelType::U64)
    }

    /// Whether a label is a class number and not ignored.
    #[inline(always)]
    fn counts(&self, label: i64, ignore: Option<i64>) -> bool {
        // -1 is no class, and so stands for nothing to ignore.
        (ignore.unwrap_or(-1) != label) & ((label as u64) < self.classes as u64)
    }

    /// The class of a row, or `None` when it is ignored.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> Option<usize> {
        let label = self.wrapped(row);
        self.counts(label, self.wrapped_ignore()).then_some(label as usize)
    }

    /// The classes of `n <= GROUP` rows from `first` on, 0 for an ignored one, and the mask of the others.
    #[inline(always)]
    pub(crate) fn classes(&self, first: usize, n: usize) -> ([usize; GROUP], u64) {
        let mut classes = [0; GROUP];
        let mut counted = 0;
        let ignore = self.wrapped_ignore();
        macro_rules! read {
            ($t:ty) => {{
                let view = self.typed::<$t>();
                if self.inner == 1 && view.outer == 1 && n == GROUP {
                    let labels = view.row(first, 1).cast::<[$t; GROUP]>();
                    // (A copy: what is checked is what is used, whatever another thread writes.)
                    // SAFETY: the view has a label for every row, side by side.
                    let labels: [$t; GROUP] = unsafe { labels.read() };
                    let mut all = true;
                    for label in labels {
                        all &= self.counts(label as i64, ignore);
                    }
                    if all {
                        for (class, label) in classes.iter_mut().zip(labels) {
                            *class = label as usize;
                        }
                        return (classes, u64::MAX);
                    }
                }
                for i in 0..n {
                    // SAFETY: the view has a label for every row.
                    let label = (unsafe { view.row(first + i, self.inner).read() }) as i64;
                    let counts = self.counts(label, ignore);
                    classes[i] = if counts { label as usize } else { 0 };
                    counted |= u64::from(counts) << i;
                }
            }};
        }
        match self.kind {
            LabelType::I8 => read!(i8),
            LabelType::I16 => read!(i16),
            LabelType::I32 => read!(i32),
            LabelType::I64 => read!(i64),
            LabelType::U8 => read!(u8),
            LabelType::U16 => read!(u16),
            LabelType::U32 => read!(u32),
            LabelType::U64 => read!(u64),
        }
        (classes, counted)
    }

    /// The number of rows that are not ignored.
    ///
    /// # Errors
    /// The first label that is neither a class number nor ignored.
    pub(crate) fn check(&self, rows: usize) -> Result<usize, Error> {
        let classes = self.classes;
        let counted = dispatch(Count { labels: self, rows });
        counted.ok_or_else(|| {
            let wrong = |&(_, label): &(usize, i64)| {
                self.wrapped_ignore() != Some(label) && label as u64 >= classes as u64
            };
            // (0 and 0 if another thread has repaired the label meanwhile.)
            let (row, wrapped) =
                (0..rows).map(|row| (row, self.wrapped(row))).find(wrong).unwrap_or_default();
            let label =
                if self.kind == LabelType::U64 { i128::from(wrapped as u64) } else { i128::from(wrapped) };
            Error::Label { row, label, classes }
        })
    }
}

/// The number of rows that are not ignored, or `None` when a label is wrong.
struct Count<'a> {
    labels: &'a Labels,
    rows: usize,
}

impl Task for Count<'_> {
    type Out = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> Option<usize> {
        let Count { labels, rows } = self;
        let ignore = labels.wrapped_ignore();
        // With nothing to ignore, a number that is wrong anyway.
        let (ignoring, ignore) = (ignore.is_some(), ignore.unwrap_or(-1));
        let (mut ignored, mut wrong) = (0, false);
        macro_rules! visit {
            ($label:expr) => {
                let label = $label as i64;
                let skip = ignoring & (label == ignore);
                ignored += usize::from(skip);
                wrong |= (label as u64 >= labels.classes as u64) & !skip;
            };
        }
        macro_rules! count {
            ($t:ty) => {{
                let view = labels.typed::<$t>();
                if labels.inner == 1 && view.outer == 1 && rows > 0 {
                    // SAFETY: the view has a label for every row, side by side.
                    for &label in unsafe { std::slice::from_raw_parts(view.ptr, rows) } {
                        visit!(label);
                    }
                } else {
                    for row in 0..rows {
                        // SAFETY: the view has a label for every row.
                        visit!(unsafe { view.row(row, labels.inner).read() });
                    }
                }
            }};
        }
        match labels.kind {
            LabelType::I8 => count!(i8),
            LabelType::I16 => count!(i16),
            LabelType::I32 => count!(i32),
            LabelType::I64 => count!(i64),
            LabelType::U8 => count!(u8),
            LabelType::U16 => count!(u16),
            LabelType::U32 => count!(u32),
            LabelType::U64 => count!(u64),
        }
        (!wrong).then_some(rows - ignored)
    }
}
