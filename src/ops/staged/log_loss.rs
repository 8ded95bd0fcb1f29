//! Probabilities of 16 bits, converted where they are read.
#![expect(unsafe_code, reason = "operands are reached through pointers")]

use crate::float::{Element, Float};
use crate::ops::log_loss::Store;
use crate::shape::Shape;
use crate::stage::{Operand, Scratch, stage_flat, unstage_flat};

/// An operand that threads may share; each touches its own part.
pub(crate) struct Stored<T: Float>(pub(crate) Operand<T>);

impl<T: Float> Clone for Stored<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Float> Copy for Stored<T> {}
// SAFETY: every user touches its own rows.
unsafe impl<T: Float> Sync for Stored<T> {}

impl<T: Float> Stored<T> {
    /// The bytes of each row's element, one behind the other in `lines`, and where they are in the array.
    fn places<'a>(
        &self,
        shape: Shape,
        first: usize,
        classes: &'a [Option<usize>],
        lines: &'a mut [u8],
    ) -> impl Iterator<Item = (&'a mut [u8], *mut u8)> {
        let (operand, size) = (self.0, self.0.format.size);
        lines.chunks_exact_mut(size).zip(classes).enumerate().filter_map(move |(i, (line, class))| {
            let step = (*class)? as isize * operand.view.len * size as isize;
            Some((line, operand.address(first + i, shape.inner).wrapping_offset(step).cast_mut()))
        })
    }
}

impl<T: Float> Store<T> for Stored<T> {
    fn steps(&self) -> (isize, isize) {
        (self.0.view.outer, self.0.view.len)
    }

    unsafe fn gather(&self, shape: Shape, first: usize, classes: &[Option<usize>], to: &mut Vec<T>) {
        let mut lines = vec![0; classes.len() * self.0.format.size];
        for (line, place) in self.places(shape, first, classes, &mut lines) {
            // SAFETY: the caller's promise; a line holds an element.
            unsafe { place.copy_to_nonoverlapping(line.as_mut_ptr(), line.len()) };
        }
        to.clear();
        to.resize(classes.len(), T::Ops::ONE);
        let gathered = Operand::flat(lines.as_mut_ptr(), self.0.format);
        // SAFETY: as many elements, and room for them.
        unsafe { stage_flat(&gathered, 0, classes.len(), to.as_mut_ptr()) };
        for (x, class) in to.iter_mut().zip(classes) {
            if class.is_none() {
                *x = T::Ops::ONE;
            }
        }
    }

    unsafe fn scatter(&self, shape: Shape, first: usize, classes: &[Option<usize>], from: &mut [T]) {
        let mut lines = vec![0; classes.len() * self.0.format.size];
        let rounded = Operand::flat(lines.as_mut_ptr(), self.0.format);
        // SAFETY: as many elements, and room for them.
        unsafe { unstage_flat(&rounded, 0, classes.len(), from.as_mut_ptr(), false) };
        for (line, place) in self.places(shape, first, classes, &mut lines) {
            // SAFETY: the caller's promise; a line holds an element.
            unsafe { place.copy_from_nonoverlapping(line.as_ptr(), line.len()) };
        }
    }

    unsafe fn clear(&self, start: usize, n: usize) {
        let size = self.0.format.size;
        // SAFETY: the caller's promise; zero bytes are zeros.
        unsafe { self.0.view.ptr.add(start * size).write_bytes(0, n * size) };
    }

    unsafe fn with_elements(
        [x, t]: [Self; 2],
        grad: Option<Self>,
        start: usize,
        n: usize,
        work: &mut dyn FnMut(*const T, *const T, *mut T),
    ) {
        Scratch::with(|scratch| {
            let [a, b]: [*mut T; 2] = scratch.blocks(n);
            // SAFETY: the caller's promise; the blocks have room. The gradient takes the place of the copy of `x`.
            unsafe {
                stage_flat(&x.0, start, n, a);
                stage_flat(&t.0, start, n, b);
                work(a, b, if grad.is_some() { a } else { std::ptr::null_mut() });
                if let Some(grad) = grad {
                    unstage_flat(&grad.0, start, n, a, false);
                }
            }
        });
    }
}
