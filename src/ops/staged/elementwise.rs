//! Losses of flat arrays of which some are staged, chunk by chunk.
#![expect(unsafe_code, reason = "operands are reached through pointers")]

use crate::float::Single;
use crate::kernels::mse::CHUNK;
use crate::kernels::total::Total;
use crate::ops::elementwise::{Cycle, ElementLoss, Incoming, Memory, Out, gradient_factor, sum_and_gradient};
use crate::ops::{STREAM_BYTES, Shared, flat};
use crate::simd::dispatch;
use crate::stage::{Operand, Scratch, stage_flat, unstage_flat};
use crate::sums::{Reduction, Sum, Sums};

/// How many operands there are at most: logits, targets and two kinds of weights.
const OPERANDS: usize = 4;

/// What the mean divides by.
pub(crate) enum Divisor {
    /// The number of elements.
    Count,
    /// The sum of the weights.
    Cycle(Cycle<f32>),
    /// The sum of weights that are staged.
    Staged(Operand<f32>),
}

/// A loss of `len` elements. Whoever makes one vouches for its operands.
pub(crate) struct StagedLoss<F> {
    pub(crate) len: usize,
    /// What is staged.
    pub(crate) operands: [Option<Operand<f32>>; OPERANDS],
    pub(crate) divisor: Divisor,
    /// The loss over all elements whose staged operands are at these pointers. It is asked for a chunk only, and has no
    /// more of them there.
    pub(crate) loss: F,
}

// SAFETY: operands are only read; the caller of an operation vouches for the memory.
unsafe impl<F> Sync for StagedLoss<F> {}

/// Elements of which the operands are staged.
struct Piece {
    start: usize,
    len: usize,
    /// The first operand, in place of which the gradient may be.
    block: *mut f32,
}

impl<L: ElementLoss<f32>, F: Fn([*const f32; OPERANDS]) -> L> StagedLoss<F> {
    /// Runs `work` over all chunks.
    ///
    /// # Safety
    /// The operands are valid for `len` elements.
    unsafe fn chunks(&self, work: &(dyn Fn(&L, &Piece, &mut Memory<f32>) + Sync)) {
        flat(self.len, &|start, n| {
            let mut memory = Memory::default();
            Scratch::with(|scratch| {
                let blocks: [*mut f32; OPERANDS] = scratch.blocks(CHUNK);
                for i in (start..start + n).step_by(CHUNK) {
                    let n = CHUNK.min(start + n - i);
                    for (operand, &block) in self.operands.iter().zip(&blocks) {
                        if let Some(operand) = operand {
                            // SAFETY: the operand has these elements, the block room for a chunk.
                            unsafe { stage_flat(operand, i, n, block) };
                        }
                    }
                    let loss = (self.loss)(blocks.map(|block| block.cast_const().wrapping_sub(i)));
                    work(&loss, &Piece { start: i, len: n, block: blocks[0] }, &mut memory);
                }
            });
        });
    }

    fn divisor(&self, reduction: Reduction) -> Sum {
        match (reduction, &self.divisor) {
            (Reduction::Sum, _) => Sum::new((1.0, 0.0), 0),
            (Reduction::Mean, Divisor::Count) => Sum::new((self.len as f64, 0.0), 0),
            (Reduction::Mean, Divisor::Cycle(weights)) => weights.sum(self.len),
            (Reduction::Mean, Divisor::Staged(weights)) => total(self.len, weights),
        }
    }
}

/// The sum of an operand.
fn total(len: usize, operand: &Operand<f32>) -> Sum {
    let sums = Sums::new(len.div_ceil(CHUNK));
    let all = &sums;
    flat(len, &|start, n| {
        Scratch::with(|scratch| {
            let [block]: [*mut f32; 1] = scratch.blocks(CHUNK);
            for i in (start..start + n).step_by(CHUNK) {
                let len = CHUNK.min(start + n - i);
                // SAFETY: the operand has these elements, the block room for a chunk.
                unsafe { stage_flat(operand, i, len, block) };
                let sum = dispatch(Total::<Single> { x: block.cast_const(), len });
                // SAFETY: the chunk belongs to this thread alone.
                unsafe { all.set(i / CHUNK, Sum::new(sum, 0)) };
            }
        });
    });
    sums.total()
}

/// [`reduced_loss`](crate::ops::elementwise::reduced_loss) of staged operands.
///
/// # Safety
/// The operands are valid; the gradient is apart from them, or it is exactly the first or second one.
pub(crate) unsafe fn reduced_loss<L, F>(
    of: &StagedLoss<F>,
    reduction: Reduction,
    grad: Option<(f64, Operand<f32>)>,
) -> f64
where
    L: ElementLoss<f32>,
    F: Fn([*const f32; OPERANDS]) -> L,
{
    let divisor = of.divisor(reduction);
    let sums = Sums::new(of.len.div_ceil(CHUNK));
    let all = &sums;
    let grad = grad.map(|(g, out)| (gradient_factor(g, divisor), streams(of, &out), out));
    let grad = &grad;
    let work = |loss: &L, &Piece { start, len, block }: &Piece, memory: &mut Memory<f32>| {
        let to = Out { to: block, len, stream: false };
        let sum = match grad {
            // SAFETY: the block of the first operand, which has room for a chunk, in this thread's scratch memory.
            Some((factor, ..)) => unsafe { sum_and_gradient(loss, start, memory, *factor, to) },
            None => loss.sum(start, len, memory),
        };
        // SAFETY: the chunk belongs to this thread alone.
        unsafe { all.set(start / CHUNK, sum) };
        let Some((_, stream, out)) = grad else { return };
        // SAFETY: the gradient has these elements.
        unsafe { unstage_flat(out, start, len, block, *stream) };
    };
    // SAFETY: the caller's promise.
    unsafe { of.chunks(&work) };
    sums.total().over(divisor).rounded()
}

/// [`elementwise_loss`](crate::ops::elementwise::elementwise_loss) of staged operands.
///
/// # Safety
/// As [`reduced_loss`]; the losses are apart from everything.
pub(crate) unsafe fn elementwise_loss<L, F>(
    of: &StagedLoss<F>,
    (losses, fresh): (*mut f32, bool),
    grad: Option<(Incoming<f32>, Operand<f32>)>,
) where
    L: ElementLoss<f32>,
    F: Fn([*const f32; OPERANDS]) -> L,
{
    let stream = !fresh && of.len * size_of::<f32>() >= STREAM_BYTES;
    let losses = &Shared(losses);
    let grad = &grad.map(|(incoming, out)| (incoming, streams(of, &out), out));
    let work = |loss: &L, &Piece { start, len, block }: &Piece, memory: &mut Memory<f32>| {
        loss.write(start, memory, Out { to: losses.at(start), len, stream });
        let Some((incoming, stream, out)) = grad else { return };
        loss.write_gradient(start, memory, *incoming, Out { to: block, len, stream: false });
        // SAFETY: the gradient has these elements.
        unsafe { unstage_flat(out, start, len, block, *stream) };
    };
    // SAFETY: the caller's promise.
    unsafe { of.chunks(&work) }
}

/// Whether a gradient goes past the caches.
fn streams<F>(of: &StagedLoss<F>, out: &Operand<f32>) -> bool {
    let apart = |operand: &Operand<f32>| operand.view.ptr != out.view.ptr;
    !out.view.fresh && of.len * out.format.size >= STREAM_BYTES && of.operands.iter().flatten().all(apart)
}
