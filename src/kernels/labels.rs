//! Class labels of any integer type: checked once, before anything is written.
#![expect(unsafe_code, reason = "labels are read through strided views")]

use crate::error::Error;
use crate::shape::View;

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
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl Sync for Labels {}

impl Labels {
    /// The label of a row as it is stored.
    #[inline(always)]
    fn raw(&self, row: usize) -> i128 {
        macro_rules! read {
            ($t:ty) => {{
                let view = View { ptr: self.view.ptr.cast::<$t>(), outer: self.view.outer, len: 0, inner: self.view.inner };
                // SAFETY: the view has a label for every row.
                i128::from(unsafe { view.row(row, self.inner).read() })
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
    }

    /// The class of a row, or `None` when it is ignored. The labels have been checked.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> Option<usize> {
        let label = self.raw(row);
        if self.ignore.is_some_and(|ignore| i128::from(ignore) == label) { None } else { Some(label as usize) }
    }

    /// The number of rows that are not ignored.
    ///
    /// # Errors
    /// The first label that is neither a class number nor ignored.
    pub(crate) fn check(&self, rows: usize, classes: usize) -> Result<usize, Error> {
        let mut counted = 0;
        for row in 0..rows {
            let label = self.raw(row);
            if self.ignore.is_some_and(|ignore| i128::from(ignore) == label) {
                continue;
            }
            if label < 0 || label >= classes as i128 {
                return Err(Error::Label { row, label, classes });
            }
            counted += 1;
        }
        Ok(counted)
    }
}
