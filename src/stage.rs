//! Operands that most kernels do not take as they are: 16-bit numbers, and elements under a mask.
//!
//! The rows of a chunk go through scratch memory, a *block* of them at a time that stays in the first-level cache (long
//! rows and columns, and rows under a mask, in the second):
//! each operand is copied and converted (*staged*), [`crate::lines::Walk`] runs on the copies, and the results are
//! rounded into the caller's array. So few kernels know of formats, and plain operands pay nothing for them. Those that do
//! ([`crate::halves`]) are given longer rows of 16-bit numbers as they lie, and only have their results staged.
//!
//! A block has its elements in rows, or in *columns*: rows that lie side by side in memory stay so if they are short;
//! longer ones are transposed. Rows with any other strides are gathered.
//!
//! A mask is staged too: elements under it are -inf for the kernel, and the results there are a value of their own.
#![expect(unsafe_code, reason = "rows of arbitrary strided arrays are reached through pointers")]

use crate::float::{Element, Float, Single};
use crate::halves::{Half, Halves};
use crate::kernels::rowsum::{LONG, MAX_WIDTH, reduce_max};
use crate::lines::{
    AHEAD_BYTES, Buffer, GROUP, PerRow, Plan, STORED_BYTES, Staged, put_per_row, side_by_side,
};
use crate::shape::{Shape, View};
use crate::simd::{Simd, Task, VECTOR_BYTES, dispatch, prefetch};
use std::cell::Cell;
use std::ops::Range;

/// Bytes of all blocks of a call together, for short rows: half of a first-level cache, or more.
const BLOCK_BYTES: usize = 24 * 1024;
/// The same for rows of which fewer than [`GROUP`] fit there: more of them share what is done once a block, and a kernel
/// that knows their maxima reads them once.
const ROW_BYTES: usize = 64 * 1024;
/// Longer columns that are transposed together: those of one cache line.
const TOGETHER: usize = 32;
/// The most bytes of a block of long columns.
const TALL_BYTES: usize = 256 * 1024;
/// Rows from this many vectors on begin with a cache line of their block.
const LINED: usize = 4;
/// Under a mask kernels have more to do that several rows share: so many rows, or as many as are blocks of these bytes
/// together. (Where more fit into [`BLOCK_BYTES`], as many as fit there.)
const MASKED_ROWS: usize = 8;
const MASKED_BYTES: usize = 128 * 1024;
/// Shorter lines of a mask are copied, so that they follow one another as the block's do.
const SHORT_LINE: usize = 64;
/// Shorter lines do not go past the caches by themselves: both of their ends would be parts of what is written at once.
const STREAMED_LINE_BYTES: usize = 1024;
/// Rows beyond this many bytes have their results in place of the first operand.
const APART_BYTES: usize = 1 << 20;
/// Scratch memory that a thread keeps between calls: the blocks of rows of 128 Ki classes, as language models have them.
const KEPT_BYTES: usize = 2 << 20;
/// Bytes of a page of memory.
const PAGE: usize = 4096;

/// An array in one of the formats of `T`; strides count in its elements.
pub(crate) struct Operand<T: Float> {
    pub(crate) view: View<u8>,
    pub(crate) format: &'static Format<T>,
}

impl<T: Float> Clone for Operand<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Float> Copy for Operand<T> {}
// SAFETY: an address and strides; who reads or writes there vouches for it, as for a pointer.
unsafe impl<T: Float> Sync for Operand<T> {}

impl<T: Float> Operand<T> {
    /// `n` elements that follow one another.
    pub(crate) fn flat(ptr: *mut u8, format: &'static Format<T>) -> Self {
        Operand { view: View { ptr, outer: 0, len: 1, inner: 0, fresh: false }, format }
    }

    /// The array itself, where its elements are `T`.
    pub(crate) fn native(&self) -> Option<View<T>> {
        self.format.half.is_none().then(|| self.typed())
    }

    /// The array as if its elements were `I`.
    pub(crate) fn typed<I>(&self) -> View<I> {
        let View { ptr, outer, len, inner, fresh } = self.view;
        View { ptr: ptr.cast(), outer, len, inner, fresh }
    }

    /// The first element of a row, which need not exist.
    pub(crate) fn address(&self, row: usize, inner: usize) -> *const u8 {
        let elements = self.view.row(row, inner).addr().wrapping_sub(self.view.ptr.addr());
        self.view.ptr.wrapping_add(elements.wrapping_mul(self.format.size)).cast_const()
    }
}

/// How the elements of an array are stored that the kernels see as `T`.
pub(crate) struct Format<T: Float> {
    /// Bytes of an element.
    pub(crate) size: usize,
    /// What its elements are, unless `T` itself; operands of that need no copy.
    half: Option<Half>,
    stage: fn(&Piece<'_, T>),
    unstage: fn(&Piece<'_, T>, bool),
}

impl<T: Float> Format<T> {
    /// As `T` itself.
    pub(crate) const NATIVE: &'static Format<T> = &Format::of::<Native>(None);

    const fn of<F: Storage<T::Ops>>(half: Option<Half>) -> Format<T> {
        Format { size: size_of::<F::Item>(), half, stage: stage::<T, F>, unstage: unstage::<T, F> }
    }
}

impl Format<f32> {
    /// binary16: 5 bits of exponent.
    pub(crate) const F16: &'static Format<f32> = &Format::of::<F16>(Some(Half::F16));
    /// bfloat16: the upper half of an `f32`.
    pub(crate) const BF16: &'static Format<f32> = &Format::of::<Bf16>(Some(Half::Bf16));
}

/// The vectors of a format.
trait Storage<E: Element>: Copy + Send + Sync + 'static {
    type Item: Copy + Default;
    /// # Safety
    /// `p` is valid for reading `WIDTH` items.
    unsafe fn load<S: Simd>(s: S, p: *const Self::Item) -> E::V<S>;
    /// # Safety
    /// `p` is valid for writing `WIDTH` items.
    unsafe fn store<S: Simd>(s: S, v: E::V<S>, p: *mut Self::Item);
    /// # Safety
    /// As `store`; `p` is aligned to `WIDTH` items.
    unsafe fn stream<S: Simd>(s: S, v: E::V<S>, p: *mut Self::Item);
}

#[derive(Clone, Copy)]
struct Native;
#[derive(Clone, Copy)]
struct F16;
#[derive(Clone, Copy)]
struct Bf16;

impl<E: Element> Storage<E> for Native {
    type Item = E::T;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const E::T) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { E::load(s, p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, v: E::V<S>, p: *mut E::T) {
        // SAFETY: the caller's promise.
        unsafe { E::store(s, v, p) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd>(s: S, v: E::V<S>, p: *mut E::T) {
        // SAFETY: the caller's promise.
        unsafe { E::stream(s, v, p) }
    }
}

macro_rules! halves {
    ($($storage:ident: $load:ident, $to:ident;)+) => {$(
        impl Storage<Single> for $storage {
            type Item = u16;
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const u16) -> <Single as Element>::V<S> {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, v: <Single as Element>::V<S>, p: *mut u16) {
                // SAFETY: the caller's promise.
                unsafe { s.store_halves(s.$to(v), p) }
            }
            #[inline(always)]
            unsafe fn stream<S: Simd>(s: S, v: <Single as Element>::V<S>, p: *mut u16) {
                // SAFETY: the caller's promise.
                unsafe { s.stream_halves(s.$to(v), p) }
            }
        }
    )+};
}
halves! { F16: load_f16, narrow_f16; Bf16: load_bf16, narrow_bf16; }

/// Rows `row..row + n` of an operand, and the block that they are copied to or from.
struct Piece<'a, T: Float> {
    operand: &'a Operand<T>,
    shape: Shape,
    row: usize,
    n: usize,
    block: *mut T,
    /// Element `c` of row `i` of the block is at `c * step + i`; otherwise at `i * step + c`.
    columns: bool,
    step: usize,
    /// The mask of each line of the block, and the step from one to the next; for lines of neighbours only.
    mask: Option<(*const u8, isize)>,
    /// What elements under the mask are for the kernel.
    hidden: T,
    /// How many bytes ahead to prefetch.
    ahead: usize,
    /// Where the largest element of each row goes; for rows of neighbours, of a vector or more.
    maxima: Option<*mut T>,
}

impl<'a, T: Float> Piece<'a, T> {
    fn new(operand: &'a Operand<T>, shape: Shape, frame: &Frame, block: *mut T) -> Self {
        let &Frame { row, n, columns, step, .. } = frame;
        // In columns, the next block goes on where this one ends.
        let ahead = if columns { n * operand.format.size } else { AHEAD_BYTES };
        Piece {
            operand,
            shape,
            row,
            n,
            block,
            columns,
            step,
            mask: None,
            hidden: T::Ops::NEG_INF,
            ahead,
            maxima: None,
        }
    }

    fn typed<I>(&self) -> View<I> {
        self.operand.typed()
    }
}

/// Copies a piece into its block.
fn stage<T: Float, F: Storage<T::Ops>>(piece: &Piece<'_, T>) {
    dispatch(Stage::<'_, T, F> { piece, view: piece.typed::<F::Item>() });
}

/// Copies a block to where its piece belongs, past the caches if so desired.
fn unstage<T: Float, F: Storage<T::Ops>>(piece: &Piece<'_, T>, stream: bool) {
    dispatch(Unstage::<'_, T, F> { piece, view: piece.typed::<F::Item>(), stream });
}

struct Stage<'a, T: Float, F: Storage<T::Ops>> {
    piece: &'a Piece<'a, T>,
    view: View<F::Item>,
}

struct Unstage<'a, T: Float, F: Storage<T::Ops>> {
    piece: &'a Piece<'a, T>,
    view: View<F::Item>,
    stream: bool,
}

/// The first `n <= WIDTH` items; the others are zero bits.
#[inline(always)]
unsafe fn load_first<E: Element, F: Storage<E>, S: Simd>(s: S, p: *const F::Item, n: usize) -> E::V<S> {
    let mut items = [F::Item::default(); MAX_WIDTH];
    // SAFETY: the caller's promise; the array has room.
    unsafe { p.copy_to_nonoverlapping(items.as_mut_ptr(), n) };
    // SAFETY: the array holds a vector.
    unsafe { F::load(s, items.as_ptr()) }
}

/// Stores the first `n <= WIDTH` items.
#[inline(always)]
unsafe fn store_first<E: Element, F: Storage<E>, S: Simd>(s: S, v: E::V<S>, p: *mut F::Item, n: usize) {
    let mut items = [F::Item::default(); MAX_WIDTH];
    // SAFETY: the array holds a vector.
    unsafe { F::store(s, v, items.as_mut_ptr()) };
    // SAFETY: the caller's promise.
    unsafe { p.copy_from_nonoverlapping(items.as_ptr(), n) };
}

/// Asks for two vectors of items to be brought near.
#[inline(always)]
fn prefetch_pair<E: Element, I>(p: *const I) {
    prefetch(p);
    if 2 * E::WIDTH * size_of::<I>() > VECTOR_BYTES {
        prefetch(p.wrapping_byte_add(VECTOR_BYTES));
    }
}

/// Converts `n` neighbouring items; with `MASK`, those whose byte of the mask is 0 become `hidden`. With `MAX`, and from a
/// vector of items on, gives their lane-wise maximum; NaN is passed over.
///
/// # Safety
/// `from` is valid for reading and `to` for writing `n` elements; with `MASK`, `mask` for reading as many.
#[inline(always)]
unsafe fn widen_line<E: Element, F: Storage<E>, S: Simd, const MASK: bool, const MAX: bool>(
    s: S,
    from: *const F::Item,
    to: *mut E::T,
    n: usize,
    (mask, hidden): (*const u8, E::T),
    ahead: usize,
) -> E::V<S> {
    debug_assert!(!MAX || n >= E::WIDTH, "a vector of items");
    let low = E::splat(s, hidden);
    // Two chains: one would wait for itself.
    let mut max = [E::splat(s, E::NEG_INF); 2];
    macro_rules! convert {
        ($i:expr, $max:expr) => {
            let v = F::load(s, from.add($i));
            let v = if MASK { E::select(s, E::load_mask(s, mask.add($i)), v, low) } else { v };
            if MAX {
                $max = E::max(s, v, $max);
            }
            E::store(s, v, to.add($i));
        };
    }
    let mut i = 0;
    while i + 2 * E::WIDTH <= n {
        prefetch_pair::<E, _>(from.wrapping_add(i).wrapping_byte_add(ahead));
        if MASK {
            prefetch(mask.wrapping_add(i + AHEAD_BYTES));
        }
        // SAFETY: in range.
        unsafe {
            convert!(i, max[0]);
            convert!(i + E::WIDTH, max[1]);
        }
        i += 2 * E::WIDTH;
    }
    if i == n {
        return E::max(s, max[0], max[1]);
    }
    // SAFETY: in range; fewer than two vectors remain, the last of which may begin with what is there already.
    unsafe {
        if n < E::WIDTH {
            let mut v = load_first::<E, F, S>(s, from, n);
            if MASK {
                let mut bytes = [0; MAX_WIDTH];
                mask.copy_to_nonoverlapping(bytes.as_mut_ptr(), n);
                v = E::select(s, E::load_mask(s, bytes.as_ptr()), v, low);
            }
            E::store_first(s, v, to, n);
            return v;
        }
        for i in [i.min(n - E::WIDTH), n - E::WIDTH] {
            convert!(i, max[0]);
        }
    }
    E::max(s, max[0], max[1])
}

/// Rounds `n` neighbouring elements.
///
/// # Safety
/// As [`widen_line`].
#[inline(always)]
unsafe fn narrow_line<E: Element, F: Storage<E>, S: Simd>(
    s: S,
    from: *const E::T,
    to: *mut F::Item,
    n: usize,
    stream: bool,
    ahead: usize,
) {
    let size = size_of::<F::Item>();
    let mut i = 0;
    if stream {
        i = (to.addr().wrapping_neg() % (E::WIDTH * size) / size).min(n);
        if i > 0 {
            // SAFETY: `i` is at most `n`, and less than a vector.
            unsafe { store_first::<E, F, S>(s, E::load_first(s, from, i, E::ZERO), to, i) };
        }
        while i + E::WIDTH <= n {
            // SAFETY: in range; `to + i` is aligned.
            unsafe { F::stream(s, E::load(s, from.add(i)), to.add(i)) };
            i += E::WIDTH;
        }
        if i < n {
            // SAFETY: less than a vector remains. (What was streamed is not written again.)
            unsafe {
                let rest = E::load_first(s, from.add(i), n - i, E::ZERO);
                store_first::<E, F, S>(s, rest, to.add(i), n - i);
            }
        }
        return;
    }
    while i + 2 * E::WIDTH <= n {
        prefetch_pair::<E, _>(to.wrapping_add(i).wrapping_byte_add(ahead).cast_const());
        // SAFETY: in range.
        unsafe {
            F::store(s, E::load(s, from.add(i)), to.add(i));
            F::store(s, E::load(s, from.add(i + E::WIDTH)), to.add(i + E::WIDTH));
        }
        i += 2 * E::WIDTH;
    }
    if i == n {
        return;
    }
    // SAFETY: as in `widen_line`.
    unsafe {
        if n < E::WIDTH {
            return store_first::<E, F, S>(s, E::load_first(s, from, n, E::ZERO), to, n);
        }
        for i in [i.min(n - E::WIDTH), n - E::WIDTH] {
            F::store(s, E::load(s, from.add(i)), to.add(i));
        }
    }
}

impl<T: Float, F: Storage<T::Ops>> Task for Stage<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.piece.mask.is_some(), self.piece.maxima.is_some()) {
            (false, false) => self.copy::<S, false, false>(s),
            (false, true) => self.copy::<S, false, true>(s),
            (true, false) => self.copy::<S, true, false>(s),
            (true, true) => self.copy::<S, true, true>(s),
        }
    }
}

impl<T: Float, F: Storage<T::Ops>> Stage<'_, T, F> {
    #[inline(always)]
    fn copy<S: Simd, const MASK: bool, const MAX: bool>(self, s: S) {
        type E<T> = <T as Float>::Ops;
        let width = <E<T> as Element>::WIDTH;
        let Stage { piece, view } = self;
        let &Piece { shape, row, n, block, columns, step, mask, hidden, ahead, maxima, .. } = piece;
        let (len, inner) = (shape.len, shape.inner);
        let start = view.row(row, inner).cast_const();
        let (mask, mask_step) = mask.unwrap_or((std::ptr::null(), len as isize));
        let flat = inner == 1 && view.outer == len as isize && step == len && mask_step == len as isize;
        // SAFETY: the view has these rows, the block room for them.
        unsafe {
            if MAX || view.len == 1 && !columns && !flat {
                for i in 0..n {
                    let line = view.row(row + i, inner).cast_const();
                    let (mask, to) = (mask.wrapping_offset(i as isize * mask_step), block.add(i * step));
                    let max = widen_line::<E<T>, F, S, MASK, MAX>(s, line, to, len, (mask, hidden), ahead);
                    if let Some(maxima) = maxima {
                        maxima.add(i).write(reduce_max::<E<T>, S>(s, max));
                    }
                }
            } else if columns {
                for c in 0..len {
                    let line = start.wrapping_offset(c as isize * view.len);
                    let (mask, to) = (mask.wrapping_offset(c as isize * mask_step), block.add(c * step));
                    widen_line::<E<T>, F, S, MASK, false>(s, line, to, n, (mask, hidden), ahead);
                }
            } else if view.len == 1 {
                widen_line::<E<T>, F, S, MASK, false>(s, start, block, n * len, (mask, hidden), ahead);
            } else if side_by_side(&view, shape, row, n) {
                for c in (0..len).step_by(width) {
                    let left = (len - c).min(width);
                    for i in (0..n).step_by(width) {
                        let rows = (n - i).min(width);
                        let mut tile = [E::<T>::splat(s, E::<T>::ZERO); MAX_WIDTH];
                        for (j, v) in tile.iter_mut().enumerate().take(left) {
                            let p = start.wrapping_offset((c + j) as isize * view.len).wrapping_add(i);
                            // The next block's; each class may be in a page of its own.
                            prefetch(p.wrapping_add(n));
                            *v = if rows == width {
                                F::load(s, p)
                            } else {
                                load_first::<E<T>, F, S>(s, p, rows)
                            };
                        }
                        E::<T>::transpose(s, &mut tile[..width]);
                        for (lane, &v) in tile.iter().enumerate().take(rows) {
                            E::<T>::store_first(s, v, block.add((i + lane) * step + c), left);
                        }
                    }
                }
            } else {
                for i in 0..n {
                    let from = view.row(row + i, inner).cast_const();
                    for c in (0..len).step_by(width) {
                        let left = (len - c).min(width);
                        let mut items = [F::Item::default(); MAX_WIDTH];
                        for (j, item) in items.iter_mut().enumerate().take(left) {
                            *item = from.wrapping_offset((c + j) as isize * view.len).read();
                        }
                        let v = F::load(s, items.as_ptr());
                        E::<T>::store_first(s, v, block.add(i * step + c), left);
                    }
                }
            }
        }
    }
}

impl<T: Float, F: Storage<T::Ops>> Task for Unstage<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        type E<T> = <T as Float>::Ops;
        let width = <E<T> as Element>::WIDTH;
        let Unstage { piece: &Piece { shape, row, n, block, columns, step, ahead, .. }, view, stream } = self;
        let (len, inner) = (shape.len, shape.inner);
        let start = view.row(row, inner);
        let block = block.cast_const();
        let past = |line: usize| stream && line * size_of::<F::Item>() >= STREAMED_LINE_BYTES;
        // SAFETY: the view has these rows and may be written, the block holds them.
        unsafe {
            if columns {
                for c in 0..len {
                    let line = start.wrapping_offset(c as isize * view.len);
                    narrow_line::<E<T>, F, S>(s, block.add(c * step), line, n, past(n), ahead);
                }
            } else if view.len == 1 && inner == 1 && view.outer == len as isize && step == len {
                narrow_line::<E<T>, F, S>(s, block, start, n * len, stream, ahead);
            } else if view.len == 1 {
                for i in 0..n {
                    let line = view.row(row + i, inner);
                    narrow_line::<E<T>, F, S>(s, block.add(i * step), line, len, past(len), ahead);
                }
            } else if side_by_side(&view, shape, row, n) {
                for c in (0..len).step_by(width) {
                    let left = (len - c).min(width);
                    for i in (0..n).step_by(width) {
                        let rows = (n - i).min(width);
                        let mut tile = [E::<T>::splat(s, E::<T>::ZERO); MAX_WIDTH];
                        for (lane, v) in tile.iter_mut().enumerate().take(rows) {
                            *v = E::<T>::load_first(s, block.add((i + lane) * step + c), left, E::<T>::ZERO);
                        }
                        E::<T>::transpose(s, &mut tile[..width]);
                        for (j, &v) in tile.iter().enumerate().take(left) {
                            let p = start.wrapping_offset((c + j) as isize * view.len).wrapping_add(i);
                            if rows == width {
                                F::store(s, v, p);
                            } else {
                                store_first::<E<T>, F, S>(s, v, p, rows);
                            }
                        }
                    }
                }
            } else {
                for i in 0..n {
                    let to = view.row(row + i, inner);
                    for c in (0..len).step_by(width) {
                        let left = (len - c).min(width);
                        let v = E::<T>::load_first(s, block.add(i * step + c), left, E::<T>::ZERO);
                        let mut items = [F::Item::default(); MAX_WIDTH];
                        F::store(s, v, items.as_mut_ptr());
                        for (j, &item) in items.iter().enumerate().take(left) {
                            to.wrapping_offset((c + j) as isize * view.len).write(item);
                        }
                    }
                }
            }
        }
        if stream {
            s.fence();
        }
    }
}

// --- masks ---------------------------------------------------------------------------------------------

/// Which elements count. Under the mask the first operand is -inf for the kernel, the second one 0.
#[derive(Clone, Copy)]
pub(crate) struct Mask<T> {
    /// A byte for each element, 0 where it does not count; strides may be 0.
    pub(crate) view: View<u8>,
    /// The results there.
    pub(crate) fill: T,
    /// Also in rows that are not NaN throughout the kernel makes something else of -inf.
    pub(crate) every: bool,
    /// The result of a row of which nothing counts, if not what the kernel makes of it.
    pub(crate) empty: Option<f64>,
    /// The kernel wants to know the classes that each row has.
    pub(crate) counted: bool,
}

// SAFETY: only read, and the caller of an operation vouches for the memory.
unsafe impl<T: Float> Sync for Mask<T> {}

impl<T> Mask<T> {
    pub(crate) fn new(view: View<u8>, fill: T) -> Self {
        Mask { view, fill, every: false, empty: None, counted: false }
    }

    /// Whether anything of a row counts.
    ///
    /// # Safety
    /// The mask is of this shape, and the row in it.
    pub(crate) unsafe fn leaves(&self, shape: Shape, row: usize) -> bool {
        let start = self.view.row(row, shape.inner).cast_const();
        // SAFETY: the caller's promise.
        (0..shape.len as isize).any(|c| unsafe { start.wrapping_offset(c * self.view.len).read() } != 0)
    }
}

/// The number of elements that count, for each row of a block.
struct Count<'a> {
    frame: &'a Frame,
    mask: &'a View<u8>,
    counts: *mut f64,
}

impl Task for Count<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let Count { frame: frame @ &Frame { n, columns, lines, count, .. }, mask, counts } = self;
        // SAFETY: there is room for the rows; the mask has these lines.
        unsafe {
            let counts = std::slice::from_raw_parts_mut(counts, n);
            counts.fill(0.0);
            for line in 0..lines {
                let bytes = frame.mask_start(mask).wrapping_offset(line as isize * frame.mask_step(mask));
                let bytes = std::slice::from_raw_parts(bytes, count);
                if columns {
                    for (total, byte) in counts.iter_mut().zip(bytes) {
                        *total += f64::from(u8::from(*byte != 0));
                    }
                } else {
                    // (Few enough at once that their number is a byte: a vector counts as many as it has bytes.)
                    let some = |bytes: &[u8]| bytes.iter().map(|byte| u8::from(*byte != 0)).sum::<u8>();
                    counts[line] = bytes.chunks(128).map(|bytes| f64::from(some(bytes))).sum();
                }
            }
        }
    }
}

/// A mask of the batch of which the rows from `row` on exist, with the steps from row to row and from class to class.
fn of_rows(start: *mut u8, row: usize, (outer, len): (isize, isize)) -> View<u8> {
    View { ptr: start.wrapping_offset(-(row as isize * outer)), outer, len, inner: 0, fresh: false }
}

/// The mask of rows `row..row + n`, a byte of 0 where an element does not count: as it lies where the lines of the block
/// (rows, or with `columns` classes) are lines of neighbours there, otherwise a copy.
///
/// # Safety
/// The view has these rows. In columns there is one step between them.
unsafe fn stage_mask(
    view: &View<u8>,
    shape: Shape,
    row: usize,
    n: usize,
    columns: bool,
    memory: &mut Buffer,
) -> View<u8> {
    let (len, inner) = (shape.len, shape.inner);
    let start = view.row(row, inner);
    let evenly = n == 1 || inner == 1 || row % inner + n <= inner;
    let rows = if inner == 1 { view.outer } else { view.inner };
    let (lines, count, step) = if columns { (len, n, rows) } else { (n, len, view.len) };
    let spread = if columns { view.len } else { rows };
    if step == 1 && evenly && (count >= SHORT_LINE || spread == count as isize) {
        return of_rows(start, row, (rows, view.len));
    }
    let to: *mut u8 = memory.get(lines * count);
    for i in 0..lines {
        let line =
            if columns { start.wrapping_offset(i as isize * view.len) } else { view.row(row + i, inner) };
        // SAFETY: the caller's promise: a line has `count` elements, and so has its copy.
        unsafe {
            let to = to.add(i * count);
            match step {
                1 => to.copy_from_nonoverlapping(line, count),
                0 => to.write_bytes(line.read(), count),
                _ => (0..count).for_each(|j| to.add(j).write(line.wrapping_offset(j as isize * step).read())),
            }
        }
    }
    of_rows(to, row, if columns { (1, n as isize) } else { (len as isize, 1) })
}

/// Puts `fill` where the mask is 0: `lines` times `count` elements, with steps from line to line.
struct Fill<T> {
    data: *mut T,
    step: isize,
    mask: *const u8,
    mask_step: isize,
    lines: usize,
    count: usize,
    fill: T,
}

impl<T: Float> Task for Fill<T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { step, mask_step, fill, .. } = self;
        let flat = step == self.count as isize && step == mask_step;
        let (lines, count) = if flat { (1, self.lines * self.count) } else { (self.lines, self.count) };
        let width = <T::Ops as Element>::WIDTH;
        let value = T::Ops::splat(s, fill);
        for line in 0..lines as isize {
            let data = self.data.wrapping_offset(line * step);
            let mask = self.mask.wrapping_offset(line * mask_step);
            let mut i = 0;
            while i < count {
                if count < width {
                    // SAFETY: both lines have `count` elements.
                    unsafe {
                        let v = data.add(i).read();
                        data.add(i).write(if mask.add(i).read() == 0 { fill } else { v });
                    }
                    i += 1;
                    continue;
                }
                // The last vector may begin with what is done already.
                let at = i.min(count - width);
                prefetch(mask.wrapping_add(at + AHEAD_BYTES));
                // SAFETY: as above.
                unsafe {
                    let v = T::Ops::load(s, data.add(at));
                    let v = T::Ops::select(s, T::Ops::load_mask(s, mask.add(at)), v, value);
                    T::Ops::store(s, v, data.add(at));
                }
                i += width;
            }
        }
    }
}

// --- calls ---------------------------------------------------------------------------------------------

/// What becomes of the results per row.
pub(crate) enum Results<'a, T: Float> {
    As(PerRow<'a, T>),
    /// One element for each, in a format.
    Stored(Operand<T>),
}

/// An operation on staged operands.
pub(crate) struct Call<'a, T: Float> {
    pub(crate) shape: Shape,
    /// One or two.
    pub(crate) x: &'a [Operand<T>],
    /// Operands with one element for each row, two at most.
    pub(crate) rows: &'a [Operand<T>],
    pub(crate) out: Option<Operand<T>>,
    pub(crate) results: Results<'a, T>,
    pub(crate) mask: Option<Mask<T>>,
    /// The results per element are written past the caches.
    pub(crate) stream: bool,
    /// No block is in columns, and rows that need no copy are given to the kernel as they lie.
    pub(crate) only_rows: bool,
    /// The kernel sums the exponentials of a single operand's rows, for which it needs their maxima.
    pub(crate) sums: bool,
    /// [`Kernel::reads_halves`](crate::lines::Kernel::reads_halves).
    pub(crate) reads_halves: bool,
}

impl<'a, T: Float> Call<'a, T> {
    /// One without results, to be completed.
    pub(crate) fn new(shape: Shape, x: &'a [Operand<T>]) -> Self {
        let results = Results::As(PerRow::Nothing);
        Call {
            shape,
            x,
            rows: &[],
            out: None,
            results,
            mask: None,
            stream: false,
            only_rows: false,
            sums: true,
            reads_halves: false,
        }
    }
}

// SAFETY: the views' memory is touched by one thread per row only; the caller of an operation vouches for it.
unsafe impl<T: Float> Sync for Call<'_, T> {}

/// What a kernel may need of a block beside the plan.
pub(crate) struct Block<T> {
    /// The operands with one element for each row; for an inner extent of 1.
    pub(crate) rows: [View<T>; 2],
    /// How many elements of each row count, if that was to be found; for an inner extent of 1.
    pub(crate) counts: View<f64>,
    /// The mask, if there is one; for an inner extent of 1.
    pub(crate) mask: View<u8>,
    /// For the [`Walk`](crate::lines::Walk): while a kernel works on a block, it fetches what the next one is made of. (Not of
    /// operands of `T` that are given as they lie.)
    pub(crate) staged: Staged<T>,
}

/// Runs a kernel over the given rows of a plan.
pub(crate) type Run<'a, T> = dyn Fn(&Plan<'_, <T as Float>::Ops>, Range<usize>, &Block<T>) + Sync + 'a;

/// A thread's scratch memory.
#[derive(Default)]
pub(crate) struct Scratch {
    blocks: Buffer,
    rows: [Buffer; 2],
    results: [Buffer; 2],
    mask: Buffer,
    counts: Buffer,
    maxima: Buffer,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// Lends the thread's memory to `work`.
    pub(crate) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let result = work(&mut scratch);
        scratch.blocks.keep(KEPT_BYTES);
        scratch.mask.keep(KEPT_BYTES);
        // A thread that is being torn down keeps nothing.
        let _ = SCRATCH.try_with(|cell| cell.set(Some(scratch)));
        result
    }

    /// Memory for `COUNT` blocks of `n` elements. No element lies a whole number of pages behind one of the same index,
    /// nor a little more: the processor would take a load for one of what was just stored.
    #[inline(always)]
    pub(crate) fn blocks<T, const COUNT: usize>(&mut self, n: usize) -> [*mut T; COUNT] {
        let bytes = (n * size_of::<T>()).next_multiple_of(PAGE) + PAGE / 2 - VECTOR_BYTES;
        let start: *mut u8 = self.blocks.get(bytes * COUNT);
        std::array::from_fn(|i| start.wrapping_add(i * bytes).cast())
    }
}

/// The rows `row..row + n` as a block: `lines` of `count` neighbours, `step` from line to line.
struct Frame {
    row: usize,
    n: usize,
    /// A line is a class; otherwise a row.
    columns: bool,
    step: usize,
    lines: usize,
    count: usize,
}

impl Frame {
    /// The block as an array of the whole batch, of which only these rows exist.
    fn view<T>(&self, first: *mut T, step: isize) -> View<T> {
        let (outer, len) = if self.columns { (1, step) } else { (step, 1) };
        let ptr = first.wrapping_offset(-(self.row as isize * outer));
        View { ptr, outer, len, inner: 0, fresh: false }
    }

    /// The step from line to line of a mask.
    fn mask_step(&self, mask: &View<u8>) -> isize {
        if self.columns { mask.len } else { mask.outer }
    }

    /// The first byte of a mask.
    fn mask_start(&self, mask: &View<u8>) -> *const u8 {
        mask.row(self.row, 1).cast_const()
    }

    /// Puts `fill` where the mask is 0.
    fn fill<T: Float>(&self, data: *mut T, step: isize, mask: &View<u8>, fill: T) {
        let (mask_step, lines, count) = (self.mask_step(mask), self.lines, self.count);
        dispatch(Fill { data, step, mask: self.mask_start(mask), mask_step, lines, count, fill });
    }
}

/// An array with one element for each row of the batch, of which those from `row` on exist.
fn per_row<T>(block: *mut T, row: usize) -> View<T> {
    View { ptr: block.wrapping_sub(row), outer: 1, len: 0, inner: 0, fresh: false }
}

impl<T: Float> Call<'_, T> {
    /// How many rows fit into blocks of so many bytes together.
    fn fitting(&self, bytes: usize) -> usize {
        let count = self.x.len() + usize::from(self.out.is_some());
        bytes / (count * self.shape.len.max(1) * size_of::<T>())
    }

    /// How many rows a block has.
    fn block_rows(&self) -> usize {
        let rows = self.fitting(BLOCK_BYTES);
        if rows >= GROUP {
            rows / GROUP * GROUP
        } else if self.x.iter().chain(&self.out).any(|x| x.view.len != 1) {
            (TALL_BYTES / (self.shape.len * size_of::<T>())).clamp(1, TOGETHER)
        } else {
            let most = match (&self.mask, &self.out) {
                (Some(_), _) => self.fitting(MASKED_BYTES).min(MASKED_ROWS).max(rows),
                (None, None) if self.gives_halves() => GROUP,
                (None, _) => self.fitting(ROW_BYTES).min(GROUP),
            };
            most.max(1)
        }
    }

    /// How the block of rows `row..row + n` is laid out.
    fn frame(&self, row: usize, n: usize) -> Frame {
        let (shape, line) = (self.shape, VECTOR_BYTES / size_of::<T>());
        let len = shape.len;
        let beside = |x: &Operand<T>| side_by_side(&x.view, shape, row, n);
        let columns = !self.only_rows
            && self.fitting(BLOCK_BYTES) >= GROUP
            && n > 1
            && self.x.iter().all(beside)
            && self.out.as_ref().is_none_or(beside);
        let (lines, count) = if columns { (len, n) } else { (n, len) };
        let lined = !columns && len >= LINED * line;
        Frame { row, n, columns, step: if lined { len.next_multiple_of(line) } else { count }, lines, count }
    }

    /// An operand's lines of a block as they lie, if its elements are `T`.
    fn in_place(&self, operand: &Operand<T>, frame: &Frame) -> Option<(*mut T, isize)> {
        self.lines(&operand.native()?, frame)
    }

    /// The lines of a block in an array: the first, and the step between them. `None` where they do not lie as a block's.
    fn lines<I>(&self, view: &View<I>, frame: &Frame) -> Option<(*mut I, isize)> {
        let inner = self.shape.inner;
        let evenly = frame.n == 1 || inner == 1 || frame.row % inner + frame.n <= inner;
        let step = match (frame.columns, inner) {
            (true, _) => view.len,
            (false, 1) => view.outer,
            (false, _) => view.inner,
        };
        (evenly && (frame.columns || view.len == 1)).then(|| (view.row(frame.row, inner), step))
    }

    /// Whether the kernel is given rows of 16-bit numbers: where those of a block lie evenly, in one inner extent.
    fn gives_halves(&self) -> bool {
        let &[Operand { view, format }] = self.x else { return false };
        self.reads_halves
            && format.half.is_some()
            && view.len == 1
            && self.mask.is_none()
            && self.shape.len >= LONG
            && (self.shape.inner == 1 || self.shape.inner >= GROUP)
    }

    /// The rows of a block as the kernel is given them without a copy, if they are 16-bit numbers.
    fn halves(&self, frame: &Frame) -> Option<Halves> {
        let Operand { format, .. } = self.x[0];
        let format = format.half.filter(|_| self.gives_halves())?;
        debug_assert!(!frame.columns, "blocks in columns are of shorter rows");
        let (first, step) = self.lines(&self.x[0].typed::<u16>(), frame)?;
        Some(Halves { rows: frame.view(first, step), format })
    }

    /// Where the results of a block go if that needs no copy. Past the caches only rows go, and under a mask only long ones
    /// that need no fill as a rule: a line of each comes back to see whether the row is NaN.
    fn direct(&self, frame: &Frame) -> Option<(*mut T, isize)> {
        let short = self.shape.len * size_of::<T>() < STREAMED_LINE_BYTES;
        let comes_back = frame.columns || self.mask.is_some_and(|mask| mask.every || short);
        self.out.as_ref().filter(|_| !(self.stream && comes_back)).and_then(|out| self.in_place(out, frame))
    }

    /// Computes the rows of a chunk.
    ///
    /// # Safety
    /// The views are valid for the shape; no other thread touches the results of these rows.
    pub(crate) unsafe fn run(
        &self,
        chunk: usize,
        rows: Range<usize>,
        run: &Run<'_, T>,
        scratch: &mut Scratch,
    ) {
        let (shape, most) = (self.shape, self.block_rows());
        let inner = shape.inner;
        let keeps = !matches!(self.results, Results::As(PerRow::Nothing));
        let results: *mut f64 = if keeps { scratch.results[0].get(rows.len()) } else { std::ptr::null_mut() };
        let mut row = rows.start;
        while row < rows.end {
            let n = most.min(rows.end - row);
            // Blocks of several inner extents are gathered: small ones only.
            let n = if inner >= GROUP { n.min(inner - row % inner) } else { n };
            let wide = results.wrapping_add(row - rows.start);
            // SAFETY: the caller's promise; `wide` has room for the rows, or is not used.
            unsafe { self.block(&self.frame(row, n), keeps.then_some(wide), run, scratch) };
            if let Results::Stored(operand) = &self.results {
                let block: *mut T = scratch.results[1].get(n);
                dispatch(Put::<T> {
                    per_row: &PerRow::Array(per_row(block, row)),
                    inner: 1,
                    chunk,
                    // SAFETY: the kernel has written one result for each row.
                    results: unsafe { std::slice::from_raw_parts(wide, n) },
                    first: row,
                });
                self.piece_of_rows(operand, row, n, block, |piece| (operand.format.unstage)(piece, false));
            }
            row += n;
        }
        if let (true, Results::As(per_row)) = (keeps, &self.results) {
            // SAFETY: as above.
            let results = unsafe { std::slice::from_raw_parts(results, rows.len()) };
            dispatch(Put::<T> { per_row, inner, chunk, results, first: rows.start });
        }
    }

    /// Computes a block; its results per row, if there are any, go to `wide`.
    ///
    /// # Safety
    /// As [`Call::run`]; `wide` has room for the block's rows.
    unsafe fn block(&self, frame: &Frame, wide: Option<*mut f64>, run: &Run<'_, T>, scratch: &mut Scratch) {
        let &Frame { row, n, columns, step, lines, .. } = frame;
        let shape = self.shape;
        // SAFETY: the caller's promise; in columns, all rows lie in one inner extent.
        let stage_mask =
            |mask: &Mask<T>| unsafe { stage_mask(&mask.view, shape, row, n, columns, &mut scratch.mask) };
        let mask = self.mask.as_ref().map(stage_mask);
        let direct = self.direct(frame);
        let apart = self.out.is_some() && direct.is_none() && shape.len * size_of::<T>() <= APART_BYTES;
        let halves = self.halves(frame);
        let blocks: [*mut T; 3] = match self.x.len() + usize::from(apart) {
            1 => {
                // (16-bit numbers only need room for a row.)
                let one = halves.is_some() && self.out.is_none();
                let [x] = scratch.blocks(if one { step } else { lines * step });
                [x; 3]
            }
            2 => {
                let [x, last] = scratch.blocks(lines * step);
                [x, last, last]
            }
            _ => scratch.blocks(lines * step),
        };
        let mut views = [frame.view(blocks[0], step as isize), frame.view(blocks[1], step as isize)];
        // Operands as they lie: not where results are short rows, which may have the place in their page that the operands'
        // next rows have in theirs (see `Scratch::blocks`).
        let short = self.out.is_some() && shape.len < LINED * VECTOR_BYTES / size_of::<T>();
        let as_they_lie = self.only_rows && mask.is_none() && !short;
        let mut maxima = None;
        for (i, (operand, &block)) in self.x.iter().zip(&blocks).enumerate() {
            if as_they_lie && let Some((first, step)) = self.in_place(operand, frame) {
                views[i] = frame.view(first, step);
                continue;
            }
            if halves.is_some() {
                views[i] = frame.view(block, 0);
                continue;
            }
            let mut piece = Piece::new(operand, shape, frame, block);
            let (mask, lines) = (mask.as_ref(), columns || operand.view.len == 1);
            piece.hidden = if i == 0 { T::Ops::NEG_INF } else { T::Ops::ZERO };
            piece.mask = mask.filter(|_| lines).map(|mask| (frame.mask_start(mask), frame.mask_step(mask)));
            if !columns && self.x.len() == 1 {
                // The kernel has prefetched it.
                piece.ahead = 0;
                if self.sums && operand.view.len == 1 && (LONG..=T::Ops::BLOCK).contains(&shape.len) {
                    let largest: *mut T = scratch.maxima.get(n);
                    piece.maxima = Some(largest);
                    maxima = Some(largest.wrapping_sub(row).cast_const());
                }
            }
            (operand.format.stage)(&piece);
            if let Some(mask) = mask.filter(|_| !lines) {
                frame.fill(block, step as isize, mask, piece.hidden);
            }
        }
        let mut counts = std::ptr::null_mut();
        if let (Some(mask), Some(Mask { counted: true, .. })) = (&mask, &self.mask) {
            counts = scratch.counts.get(n);
            dispatch(Count { frame, mask, counts });
        }
        let mut per_rows = [per_row(std::ptr::null_mut(), 0); 2];
        for (i, operand) in self.rows.iter().enumerate() {
            let block = scratch.rows[i].get(n);
            self.piece_of_rows(operand, row, n, block, |piece| (operand.format.stage)(piece));
            per_rows[i] = per_row(block, row);
        }
        let (out, out_step) = match direct {
            Some(direct) => direct,
            None if apart => (blocks[self.x.len()], step as isize),
            None => (blocks[0], step as isize),
        };
        let plan = Plan {
            shape: Shape::rows(shape.batch(), shape.len),
            x: [views[0], views[self.x.len() - 1]],
            out: frame.view(out, out_step),
            per_row: wide.map_or(PerRow::Nothing, |wide| PerRow::Wide(per_row(wide, row))),
            stream: self.stream && direct.is_some(),
        };
        let ahead = match &halves {
            None => {
                let next = self.x[0].address(row + n, shape.inner).addr().wrapping_sub(blocks[0].addr());
                next as isize / size_of::<T>() as isize
            }
            Some(halves) => {
                let ahead = AHEAD_BYTES / size_of::<u16>();
                if ahead <= shape.len {
                    ahead as isize
                } else {
                    ahead.div_ceil(shape.len) as isize * halves.rows.outer
                }
            }
        };
        let counts = per_row(counts, row);
        let bytes = mask.unwrap_or(per_row(std::ptr::null_mut(), 0));
        let staged = Staged { ahead, maxima, halves };
        run(&plan, row..row + n, &Block { rows: per_rows, counts, mask: bytes, staged });
        // Rows whose result is finite have no NaN.
        // SAFETY: the kernel has written a result for each row.
        let is_finite = |wide: *mut f64, i: usize| unsafe { wide.add(i).read().is_finite() };
        let unsure = mask.is_some() && wide.is_none_or(|wide| !(0..n).all(|i| is_finite(wide, i)));
        if let (Some(Mask { empty: Some(empty), .. }), Some(wide)) = (&self.mask, wide) {
            for i in 0..n {
                // SAFETY: the kernel has written a result for each row; the mask is of the call's shape.
                unsafe {
                    let left = || self.mask.is_some_and(|mask| mask.leaves(shape, row + i));
                    if !wide.add(i).read().is_finite() && !left() {
                        wide.add(i).write(*empty);
                    }
                }
            }
        }
        let Some(operand) = &self.out else { return };
        if let (Some(mask), Some(Mask { fill, every, .. })) = (&mask, &self.mask) {
            let step = if columns { 1 } else { out_step };
            // SAFETY: the first result of each row.
            let is_nan = |i: usize| unsafe { T::Ops::to_f64(out.offset(i as isize * step).read()).is_nan() };
            if *every || unsure && (0..n).any(is_nan) {
                frame.fill(out, out_step, mask, *fill);
            }
        }
        if direct.is_none() {
            let piece = Piece::new(operand, shape, frame, out);
            (operand.format.unstage)(&piece, self.stream);
        }
    }

    /// Calls `copy` with the piece of an operand that has one element for each row.
    fn piece_of_rows(
        &self,
        operand: &Operand<T>,
        row: usize,
        n: usize,
        block: *mut T,
        copy: impl Fn(&Piece<'_, T>),
    ) {
        let shape = Shape { len: 1, ..self.shape };
        let columns = side_by_side(&operand.view, shape, row, n);
        let (step, lines, count) = if columns { (n, 1, n) } else { (1, n, 1) };
        let operand = &Operand { view: View { len: 1, ..operand.view }, format: operand.format };
        copy(&Piece::new(operand, shape, &Frame { row, n, columns, step, lines, count }, block));
    }
}

/// [`put_per_row`] as a task.
struct Put<'a, T: Float> {
    per_row: &'a PerRow<'a, T>,
    inner: usize,
    chunk: usize,
    results: &'a [f64],
    first: usize,
}

impl<T: Float> Task for Put<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        put_per_row::<T::Ops, S>(s, self.per_row, self.inner, self.chunk, self.results, self.first);
    }
}

/// Copies rows of an operand into scratch memory: a view of the whole batch, of which only these rows exist. Those that
/// lie side by side stay so.
///
/// # Safety
/// The operand has these rows.
pub(crate) unsafe fn stage_rows<T: Float>(
    operand: &Operand<T>,
    shape: Shape,
    rows: Range<usize>,
    scratch: &mut Scratch,
) -> View<T> {
    let (row, n, len) = (rows.start, rows.len(), shape.len);
    let columns = n > 1 && side_by_side(&operand.view, shape, row, n);
    let (lines, count) = if columns { (len, n) } else { (n, len) };
    let frame = Frame { row, n, columns, step: count, lines, count };
    let [block] = scratch.blocks(n * len);
    (operand.format.stage)(&Piece::new(operand, shape, &frame, block));
    frame.view(block, count as isize)
}

/// Copies `n` elements that follow one another into `block`.
///
/// # Safety
/// The operand has them, and `block` has room.
pub(crate) unsafe fn stage_flat<T: Float>(operand: &Operand<T>, start: usize, n: usize, block: *mut T) {
    flat(operand, start, n, block, |piece| (operand.format.stage)(piece));
}

/// The reverse of [`stage_flat`].
///
/// # Safety
/// As [`stage_flat`]; the elements may be written.
pub(crate) unsafe fn unstage_flat<T: Float>(
    operand: &Operand<T>,
    start: usize,
    n: usize,
    block: *mut T,
    stream: bool,
) {
    flat(operand, start, n, block, |piece| (operand.format.unstage)(piece, stream));
}

/// Calls `copy` with the piece of `n` elements that follow one another.
fn flat<T: Float>(operand: &Operand<T>, start: usize, n: usize, block: *mut T, copy: impl Fn(&Piece<'_, T>)) {
    let operand = &Operand::flat(operand.view.ptr.wrapping_add(start * operand.format.size), operand.format);
    let frame = Frame { row: 0, n: 1, columns: false, step: n, lines: 1, count: n };
    copy(&Piece::new(operand, Shape::rows(1, n), &frame, block));
}

const _: () = assert!(TOGETHER * 2 == VECTOR_BYTES);
// Where rows of 16-bit numbers share one row's room with the results, a block is one row, and stores no exponentials.
const _: () = assert!(ROW_BYTES < APART_BYTES && TALL_BYTES < APART_BYTES && STORED_BYTES <= APART_BYTES);
