//! Where the elements are: any axis of any strided array as (outer, len, inner), without a transpose.

/// An array of `outer * len * inner` elements in C order whose middle axis, the class axis, is normalised.
///
/// A *row* is one line along the class axis; row `o * inner + i` starts at element `o * len * inner + i`.
///
/// ```
/// use logitkit::Shape;
/// assert_eq!(Shape::rows(32, 10), Shape { outer: 32, len: 10, inner: 1 });
/// assert_eq!(Shape::axis(&[8, 21, 64, 64], 1), Shape { outer: 8, len: 21, inner: 64 * 64 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Product of the dimensions before the class axis.
    pub outer: usize,
    /// The number of classes.
    pub len: usize,
    /// Product of the dimensions after the class axis.
    pub inner: usize,
}

impl Shape {
    /// `rows` rows of `len` neighbouring elements.
    #[must_use]
    pub fn rows(rows: usize, len: usize) -> Shape {
        Shape { outer: rows, len, inner: 1 }
    }

    /// The shape of a C-ordered array of dimensions `dims` seen along `axis`.
    ///
    /// # Panics
    /// When `axis` is not a dimension.
    #[must_use]
    pub fn axis(dims: &[usize], axis: usize) -> Shape {
        assert!(axis < dims.len(), "axis {axis} of {} dimensions", dims.len());
        Shape {
            outer: dims[..axis].iter().product(),
            len: dims[axis],
            inner: dims[axis + 1..].iter().product(),
        }
    }

    /// The number of rows.
    ///
    /// # Panics
    /// When it exceeds `usize`.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.outer.checked_mul(self.inner).expect("a shape that memory can hold")
    }

    /// The number of elements.
    ///
    /// # Panics
    /// When it, or the number of rows, exceeds `usize`.
    #[must_use]
    pub fn size(&self) -> usize {
        self.batch().checked_mul(self.len).expect("a shape that memory can hold")
    }
}

/// An operand: a pointer and the distances, in elements, between neighbours along each of the three axes.
pub(crate) struct View<T> {
    pub(crate) ptr: *mut T,
    pub(crate) outer: isize,
    pub(crate) len: isize,
    pub(crate) inner: isize,
    /// Memory that was never touched: its pages are in the caches when they are first written, so that
    /// stores past the caches would cost more.
    pub(crate) fresh: bool,
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for View<T> {}

impl<T> View<T> {
    /// The view of a C-ordered buffer.
    pub(crate) fn contiguous(ptr: *mut T, shape: Shape) -> View<T> {
        let (len, inner) = (shape.len as isize, shape.inner as isize);
        View { ptr, outer: len * inner, len: inner, inner: 1, fresh: false }
    }

    /// A view of one element per row (`len` is not used).
    pub(crate) fn per_row(ptr: *mut T, shape: Shape) -> View<T> {
        View { ptr, outer: shape.inner as isize, len: 0, inner: 1, fresh: false }
    }

    /// The first element of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize, inner: usize) -> *mut T {
        let (o, i) = if inner == 1 { (row, 0) } else { (row / inner, row % inner) };
        self.ptr.wrapping_offset(o as isize * self.outer + i as isize * self.inner)
    }
}
