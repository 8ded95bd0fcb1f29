//! Probabilities of 16 bits, converted where they are read.
#![expect(unsafe_code, reason = "operands are reached through pointers")]

use crate::float::{Element, Float};
use crate::ops::log_loss::{Classes, Store};
use crate::shape::Shape;
use crate::stage::{Operand, Scratch, stage_flat, unstage_flat};

/// The elements of the rows that have a class: which row it is, and where the element is.
fn places<T: Float>(
    operand: Operand<T>,
    shape: Shape,
    first: usize,
    classes: &Classes,
) -> impl Iterator<Item = (usize, *mut u8)> {
    let size = operand.format.size;
    classes.iter().enumerate().filter_map(move |(i, class)| {
        let step = class? as isize * operand.view.len * size as isize;
        Some((i, operand.address(first + i, shape.inner).wrapping_offset(step).cast_mut()))
    })
}

impl<T: Float> Store<T> for Operand<T> {
    fn steps(&self) -> (isize, isize) {
        (self.view.outer, self.view.len)
    }

    unsafe fn gather(&self, shape: Shape, first: usize, classes: &Classes, to: &mut Vec<T>) {
        // (An element is no larger than a `T`.)
        let mut memory = vec![T::default(); classes.rows()];
        let (elements, size) = (memory.as_mut_ptr().cast::<u8>(), self.format.size);
        for (i, place) in places(*self, shape, first, classes) {
            // SAFETY: the caller's promise; the memory has room for an element of each row.
            unsafe { place.copy_to_nonoverlapping(elements.add(i * size), size) };
        }
        to.clear();
        to.resize(classes.rows(), T::Ops::ONE);
        let gathered = Operand::flat(elements, self.format);
        // SAFETY: as many elements, and room for them.
        unsafe { stage_flat(&gathered, 0, classes.rows(), to.as_mut_ptr()) };
        for (x, class) in to.iter_mut().zip(classes.iter()) {
            if class.is_none() {
                *x = T::Ops::ONE;
            }
        }
    }

    unsafe fn scatter(&self, shape: Shape, first: usize, classes: &Classes, from: &mut [T]) {
        let mut memory = vec![T::default(); classes.rows()];
        let (elements, size) = (memory.as_mut_ptr().cast::<u8>(), self.format.size);
        let rounded = Operand::flat(elements, self.format);
        // SAFETY: as many elements, and room for them.
        unsafe { unstage_flat(&rounded, 0, classes.rows(), from.as_mut_ptr(), false) };
        for (i, place) in places(*self, shape, first, classes) {
            // SAFETY: the caller's promise; the memory holds an element of each row.
            unsafe { place.copy_from_nonoverlapping(elements.add(i * size), size) };
        }
    }

    unsafe fn clear(&self, start: usize, n: usize) {
        let size = self.format.size;
        // SAFETY: the caller's promise; zero bytes are zeros.
        unsafe { self.view.ptr.add(start * size).write_bytes(0, n * size) };
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
                stage_flat(&x, start, n, a);
                stage_flat(&t, start, n, b);
                work(a, b, if grad.is_some() { a } else { std::ptr::null_mut() });
                if let Some(grad) = grad {
                    unstage_flat(&grad, start, n, a, false);
                }
            }
        });
    }
}
