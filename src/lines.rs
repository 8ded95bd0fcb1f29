//! How a kernel walks memory: contiguous rows, many short rows, strided columns.
//!
//! A kernel sees one of two things: up to [`GROUP`] rows of neighbouring elements ([`Rows`]), or a *band* of as many in
//! *tiles*, `WIDTH` rows side by side in scratch memory ([`Band`]). The walk brings every layout to one of them:
//!
//! | layout | walk |
//! |---|---|
//! | rows of neighbouring elements, longer than [`SHORT`] | in place, several rows at a time; a kernel may set another limit |
//! | shorter rows | 16 (`f32`) or 8 (`f64`) rows put side by side in a tile, and back: the shortest by permutations ([`interleave`]), others by transpositions in registers, whole or of 4 by 4; a kernel that can takes these as they lie ([`Dense`]) |
//! | any other strides, class axis up to [`TALL`] bytes | 64 neighbouring rows copied into tiles, and back |
//! | longer than that | neighbouring rows transposed into a buffer, and back; one at a time where they do not lie side by side |
//!
//! Both forms of a kernel give a row the same bits, so the choice is one of speed alone.
#![expect(unsafe_code, reason = "rows of arbitrary strided arrays are reached through pointers")]

use crate::float::{Acc, Double, Element};
use crate::halves::{Halves, Widen};
use crate::interleave;
use crate::kernels::map;
use crate::kernels::rowsum::{Group, MAX_WIDTH, first_bits};
use crate::shape::{Shape, View};
use crate::simd::{Simd, Task, VECTOR_BYTES, WORDS, dispatch, prefetch};
use crate::sums::{Sum, Sums};
use std::cell::Cell;
use std::ops::Range;

/// Contiguous rows up to this length are walked as tiles, unless the kernel says otherwise.
pub(crate) const SHORT: usize = 40;
/// Strided rows are walked as tiles up to this many bytes (the size of a block: tiles have one).
const TALL: usize = 4096;
/// Bytes of the buffers for rows that are gathered together.
const GATHERED_BYTES: usize = 256 * 1024;
/// Rows that are finished together: so many that the latency of a logarithm is not waited for.
pub(crate) const GROUP: usize = 64;
/// Tiles of a group, of the type with the narrower vector.
pub(crate) const MAX_GROUPS: usize = GROUP / 8;
/// How far ahead rows are prefetched: the processor's own prefetching ends with each page.
pub(crate) const AHEAD_BYTES: usize = 16 * 1024;
/// Columns up to this length are prefetched a band ahead, and their results not at all: there are few lines to wait for.
const FEW_CLASSES: usize = 32;
/// Longer ones are prefetched so many classes ahead.
const AHEAD_CLASSES: usize = 8;
/// Longer rows compute their exponentials twice instead of storing them.
pub(crate) const STORED_BYTES: usize = 1 << 20;
/// Scratch memory that a thread keeps between calls.
const KEPT_BYTES: usize = 256 * 1024;

/// The first of evenly spaced pointers, and the step between them in elements.
pub(crate) type Spaced<P> = (P, isize);

/// Up to [`GROUP`] rows, each of `len` neighbouring elements per operand.
pub(crate) struct Rows<E: Element> {
    x: [Spaced<*const E::T>; 2],
    /// Where the results go: the operand's own memory when in place, otherwise apart from all operands.
    out: Spaced<*mut E::T>,
    /// Memory for the exponentials of each row, or null when the rows are too long. It may be that of the results.
    stored: Spaced<*mut E::T>,
    pub(crate) n: usize,
    pub(crate) len: usize,
    /// The first row's number in the batch; the others follow.
    pub(crate) first: usize,
    /// Results are written past the caches.
    pub(crate) stream: bool,
    /// How many elements behind a row's those lie that are best fetched while it is worked on.
    pub(crate) ahead: isize,
    /// The rows of the first operand where they are 16-bit numbers, which `ahead` counts then. `x` is room for one row, apart
    /// from `stored`; it may be where the results go, if there is only one row. For kernels that
    /// [read](Kernel::reads_halves) them.
    pub(crate) halves: Option<Halves>,
    /// The largest element of each row of the first operand, if that is known; NaN is passed over. For rows of
    /// [`LONG`](crate::kernels::rowsum::LONG) elements or more.
    pub(crate) maxima: Option<*const E::T>,
}

impl<E: Element> Rows<E> {
    /// The first element of row `i` of an operand, which is not of 16-bit numbers.
    #[inline(always)]
    pub(crate) fn x(&self, operand: usize, i: usize) -> *const E::T {
        self.x[operand].0.wrapping_offset(self.x[operand].1 * i as isize)
    }

    /// The first number of row `i` of the first operand, of 16-bit numbers.
    #[inline(always)]
    pub(crate) fn half(&self, i: usize, halves: &Halves) -> *const u16 {
        halves.rows.row(self.first + i, 1).cast_const()
    }

    /// Row `i` of the first operand; if it is of 16-bit numbers, a copy that lasts until the next one is asked for, or results
    /// are written.
    #[inline(always)]
    pub(crate) fn row<S: Simd>(&self, s: S, i: usize) -> *const E::T {
        if E::HALVES
            && let Some(halves) = &self.halves
        {
            let (from, to) = (self.half(i, halves), self.x(0, i).cast_mut());
            // (The kernel's caller promises both rows.)
            s.call(Widen::<E> { format: halves.format, from, to, n: self.len });
        }
        self.x(0, i)
    }

    /// The elements `classes` of the rows of the first operand whose bits are set; 0 for the others.
    ///
    /// # Safety
    /// The classes of those rows are less than `len`.
    #[inline(always)]
    pub(crate) unsafe fn chosen<S: Simd>(&self, s: S, classes: &[usize; GROUP], set: u64) -> [E::T; GROUP] {
        let mut chosen = [E::ZERO; GROUP];
        if E::HALVES
            && let Some(halves) = &self.halves
        {
            let mut numbers = [0; GROUP];
            for i in 0..self.n {
                if set >> i & 1 == 1 {
                    // SAFETY: the caller's promise.
                    numbers[i] = unsafe { self.half(i, halves).add(classes[i]).read() };
                }
            }
            for i in (0..self.n).step_by(E::WIDTH) {
                let (from, to) = (numbers[i..].as_ptr(), chosen[i..].as_mut_ptr());
                // SAFETY: `GROUP` elements are whole vectors.
                unsafe { E::store(s, halves.format.load::<E, S>(s, from), to) };
            }
            return chosen;
        }
        for i in 0..self.n {
            if set >> i & 1 == 1 {
                // SAFETY: the caller's promise.
                chosen[i] = unsafe { self.x(0, i).add(classes[i]).read() };
            }
        }
        chosen
    }

    /// Where the results of row `i` go.
    #[inline(always)]
    pub(crate) fn out(&self, i: usize) -> *mut E::T {
        self.out.0.wrapping_offset(self.out.1 * i as isize)
    }

    /// Where the exponentials of row `i` go, or null.
    #[inline(always)]
    pub(crate) fn stored(&self, i: usize) -> *mut E::T {
        if self.stored.0.is_null() {
            self.stored.0
        } else {
            self.stored.0.wrapping_offset(self.stored.1 * i as isize)
        }
    }
}

/// Up to [`GROUP`] rows as tiles of `WIDTH` rows side by side: element `c` of lane `l` of a tile at `c * WIDTH + l`.
pub(crate) struct Band<E: Element> {
    /// The operands' first tiles; the first operand receives the results. In place of a second operand there is
    /// memory for one tile.
    x: [*mut E::T; 2],
    /// Elements from tile to tile.
    size: usize,
    pub(crate) len: usize,
    pub(crate) first: usize,
    /// Rows of the batch; the lanes of the last tile beyond them repeat one.
    pub(crate) n: usize,
}

impl<E: Element> Band<E> {
    /// The tile whose first lane is row `j`.
    #[inline(always)]
    pub(crate) fn tile(&self, operand: usize, j: usize) -> *mut E::T {
        self.x[operand].wrapping_add(j / E::WIDTH * self.size)
    }

    /// Memory for one tile, where there is one operand.
    #[inline(always)]
    pub(crate) fn spare(&self) -> *mut E::T {
        self.x[1]
    }

    /// Element `c < len` of row `i` of an operand.
    #[inline(always)]
    pub(crate) fn element(&self, operand: usize, i: usize, c: usize) -> *mut E::T {
        self.tile(operand, i).wrapping_add(c * E::WIDTH + i % E::WIDTH)
    }

    /// Element `c < len` of rows `j..j + WIDTH` of an operand.
    #[inline(always)]
    pub(crate) fn at<S: Simd>(&self, s: S, operand: usize, j: usize, c: usize) -> E::V<S> {
        debug_assert!(c < self.len && j < self.n);
        // SAFETY: a tile's operands hold `len` vectors.
        unsafe { E::load(s, self.tile(operand, j).add(c * E::WIDTH)) }
    }

    /// Puts the results `c < len` of rows `j..j + WIDTH`.
    #[inline(always)]
    pub(crate) fn put<S: Simd>(&self, s: S, j: usize, c: usize, v: E::V<S>) {
        debug_assert!(c < self.len && j < self.n);
        // SAFETY: as above.
        unsafe { E::store(s, v, self.tile(0, j).add(c * E::WIDTH)) };
    }
}

/// Short rows that follow one another: `groups` times `WIDTH` of them, so many vectors of elements as a row has in
/// each group.
pub(crate) struct Dense<E: Element> {
    pub(crate) x: *const E::T,
    /// Where the results go, as for [`Rows`].
    pub(crate) out: *mut E::T,
    pub(crate) len: usize,
    /// At most [`MAX_GROUPS`].
    pub(crate) groups: usize,
    /// Scratch memory for the rows and one vector more.
    pub(crate) e: *mut E::T,
    /// The words of each element's row, and so of its lane, for [`Element::scale_rows`].
    pub(crate) row: *const u32,
}

/// An operation on rows.
pub(crate) trait Kernel: Sync {
    type E: Element;
    /// Array operands, 1 or 2.
    const INPUTS: usize;
    /// Whether there is a result per element.
    const WRITES: bool;
    /// Contiguous rows up to this length are walked as tiles.
    const SHORT: usize = SHORT;

    /// Computes rows of neighbouring elements; the group's numbers are for the kernel to use.
    ///
    /// # Safety
    /// The pointers of `rows` are valid for what [`Rows`] says; `per_row` for writing `n` results, or null when nobody
    /// wants them and the operation has others.
    unsafe fn rows<S: Simd>(&self, s: S, rows: &Rows<Self::E>, group: &mut Group<Self::E>, per_row: *mut f64);

    /// Computes a band. Bit `i` of the result is set where row `i` must go through [`Kernel::rows`] instead.
    ///
    /// # Safety
    /// The operands of the band's tiles are valid for reading and writing `len * WIDTH` elements each; `per_row` as for
    /// [`Kernel::rows`].
    unsafe fn band<S: Simd>(
        &self,
        s: S,
        band: &Band<Self::E>,
        group: &mut Group<Self::E>,
        per_row: *mut f64,
    ) -> u64;

    /// Whether rows of [`LONG`](crate::kernels::rowsum::LONG) elements or more of the only operand may be
    /// [16-bit numbers](Rows::halves): then there is no temperature, and the kernel sums them by
    /// [`group_sums`](crate::kernels::rowsum::group_sums), and reads no element but by [`Rows::row`] and [`Rows::chosen`].
    #[cfg_attr(
        not(feature = "python"),
        expect(dead_code, reason = "Python's arrays alone may be of 16 bits")
    )]
    #[inline(always)]
    fn reads_halves(&self) -> bool {
        false
    }

    /// Whether [`Kernel::dense`] is worth a try: one operand, no result per row.
    #[inline(always)]
    fn is_dense(&self) -> bool {
        false
    }

    /// Computes rows as they lie in memory, or returns false without having written a result.
    ///
    /// # Safety
    /// The pointers of `dense` are valid for what [`Dense`] says.
    #[inline(always)]
    unsafe fn dense<S: Simd>(&self, _s: S, _dense: &Dense<Self::E>) -> bool {
        false
    }
}

/// What becomes of the results per row.
pub(crate) enum PerRow<'a, T> {
    /// There are none.
    Nothing,
    /// One element for each, rounded to the element type.
    Array(View<T>),
    /// One element for each, unrounded.
    Wide(View<f64>),
    /// Their compensated sum over each chunk of rows.
    Sums(&'a Sums),
}

/// The operands of a call and the way through them.
pub(crate) struct Plan<'a, E: Element> {
    pub(crate) shape: Shape,
    pub(crate) x: [View<E::T>; 2],
    pub(crate) out: View<E::T>,
    pub(crate) per_row: PerRow<'a, E::T>,
    pub(crate) stream: bool,
}

// SAFETY: the views' memory is touched by one thread per row only; the caller of an operation vouches for it.
unsafe impl<E: Element> Sync for Plan<'_, E> {}

/// The rows of one chunk: fixed by the shape alone, for the sums over chunks have the bits of the chunks.
pub(crate) fn chunk_rows(shape: Shape) -> usize {
    let rows = (32 * 1024 / shape.len.max(1)).next_power_of_two().min(4096);
    if shape.inner > 1 { rows.max(GROUP) } else { rows }
}

/// The walk over one chunk.
pub(crate) struct Walk<'a, K: Kernel> {
    pub(crate) kernel: &'a K,
    pub(crate) plan: &'a Plan<'a, K::E>,
    pub(crate) chunk: usize,
    pub(crate) rows: Range<usize>,
    /// What is known of rows that are staged.
    pub(crate) staged: Option<Staged<<K::E as Element>::T>>,
}

/// What the walk over a block knows of it (`src/stage.rs`).
#[derive(Clone, Copy)]
pub(crate) struct Staged<T> {
    /// [`Rows::ahead`].
    pub(crate) ahead: isize,
    /// [`Rows::maxima`], as an array of the whole batch.
    pub(crate) maxima: Option<*const T>,
    /// [`Rows::halves`].
    pub(crate) halves: Option<Halves>,
}

/// Memory in whole cache lines.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "memory that is used through pointers")] [u8; 64]);

impl Buffer {
    /// Room for `n` elements; what it holds is undefined but initialised.
    #[inline(always)]
    pub(crate) fn get<T>(&mut self, n: usize) -> *mut T {
        let lines = (n * size_of::<T>()).div_ceil(64);
        if self.0.len() < lines {
            self.grow(lines);
        }
        self.0.as_mut_ptr().cast()
    }

    #[inline(never)]
    fn grow(&mut self, lines: usize) {
        self.0.clear();
        self.0.resize(lines, Line([0; 64]));
    }

    /// Gives the memory back if it is more than this.
    pub(crate) fn keep(&mut self, bytes: usize) {
        if self.0.len() * 64 > bytes {
            *self = Buffer::default();
        }
    }
}

/// A thread's scratch memory.
#[derive(Default)]
struct Scratch {
    stored: Buffer,
    tiles: [Buffer; 2],
    dense: [Buffer; 2],
    gathered: [Buffer; 3],
    group: Buffer,
    per_row: Buffer,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    fn take() -> Box<Scratch> {
        SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    /// The group that kernels work with.
    #[inline(always)]
    fn group<'a, E: Element>(&mut self) -> &'a mut Group<E> {
        let memory = self.group.get::<Group<E>>(1).cast::<Group<E>>();
        // SAFETY: aligned memory of that size, whose bits are numbers whatever they are. Nothing else refers to it:
        // one walk has the scratch memory, and takes its group once.
        unsafe { &mut *memory }
    }

    fn give_back(mut self: Box<Self>) {
        for buffer in [&mut self.stored].into_iter().chain(&mut self.tiles).chain(&mut self.gathered) {
            buffer.keep(KEPT_BYTES);
        }
        // A thread that is being torn down keeps nothing.
        let _ = SCRATCH.try_with(|cell| cell.set(Some(self)));
    }
}

/// (A tuple belongs to the module of its first type: so each kernel's walks are compiled with the kernel, not all of them
/// with this file.)
impl<K: Kernel> Task for (&K, Walk<'_, K>) {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.1.run_at(s);
    }
}

impl<K: Kernel> Walk<'_, K> {
    /// Walks at the level in use.
    pub(crate) fn run(self) {
        dispatch((self.kernel, self));
    }

    #[inline(always)]
    fn run_at<S: Simd>(self, s: S) {
        let mut scratch = Scratch::take();
        let first = self.rows.start;
        let wanted = !matches!(self.plan.per_row, PerRow::Nothing);
        let per_row: *mut f64 =
            if wanted { scratch.per_row.get(self.rows.len()) } else { std::ptr::null_mut() };
        let len = self.plan.shape.len;
        let used = &self.plan.x[..K::INPUTS];
        let contiguous = used.iter().all(|x| x.len == 1) && (!K::WRITES || self.plan.out.len == 1);
        // SAFETY: the plan's views are valid for the whole shape, `per_row` for the chunk's rows.
        unsafe {
            // Without classes there is nothing to put side by side.
            if len == 0 || contiguous && (len > K::SHORT || self.rows.len() == 1) {
                self.walk_rows(s, &mut scratch, per_row);
            } else if len * size_of::<<K::E as Element>::T>() <= TALL || contiguous {
                self.walk_tiles(s, &mut scratch, per_row);
            } else {
                self.walk_gathered(s, &mut scratch, per_row);
            }
        }
        if self.plan.stream {
            s.fence();
        }
        if wanted {
            // SAFETY: the walk wrote one result per row.
            let results = unsafe { std::slice::from_raw_parts(per_row, self.rows.len()) };
            let inner = self.plan.shape.inner;
            put_per_row::<K::E, S>(s, &self.plan.per_row, inner, self.chunk, results, first);
        }
        scratch.give_back();
    }

    /// `n` rows as the kernel sees them. Beyond the first they lie in one row of the batch's inner extent.
    #[inline(always)]
    fn start(&self, row: usize, n: usize) -> Rows<K::E> {
        let (plan, inner) = (self.plan, self.plan.shape.inner);
        let first = |view: &View<_>| (view.row(row, inner), if inner == 1 { view.outer } else { view.inner });
        let mut x = [(std::ptr::null(), 0); 2];
        for operand in 0..K::INPUTS {
            let (p, step) = first(&plan.x[operand]);
            x[operand] = (p.cast_const(), step);
        }
        Rows {
            x,
            out: if K::WRITES { first(&plan.out) } else { (std::ptr::null_mut(), 0) },
            stored: (std::ptr::null_mut(), 0),
            n,
            len: plan.shape.len,
            first: row,
            stream: plan.stream,
            ahead: self.staged.map_or_else(|| self.ahead(), |staged| staged.ahead),
            halves: self.staged.and_then(|staged| staged.halves),
            maxima: self.staged.and_then(|staged| staged.maxima).map(|maxima| maxima.wrapping_add(row)),
        }
    }

    /// [`AHEAD_BYTES`] in whole rows; nothing where the next row is not the next in memory.
    fn ahead(&self) -> isize {
        let ahead = AHEAD_BYTES / size_of::<<K::E as Element>::T>();
        let rows = ahead.div_ceil(self.plan.shape.len.max(1));
        match (rows, self.plan.shape.inner) {
            (1, _) => ahead as isize,
            (_, 1) => self.plan.x[0].outer.wrapping_mul(rows as isize),
            _ => 0,
        }
    }

    #[inline(always)]
    unsafe fn walk_rows<S: Simd>(&self, s: S, scratch: &mut Scratch, per_row: *mut f64) {
        type T<K> = <<K as Kernel>::E as Element>::T;
        let (size, len, inner) = (size_of::<T<K>>(), self.plan.shape.len, self.plan.shape.inner);
        let most = if K::WRITES { (S::GROUP_BYTES / (len * size).max(1)).clamp(1, GROUP) } else { GROUP };
        // A row's exponentials: where its results will be, or in scratch memory that begins with a cache line.
        let step = len.next_multiple_of(VECTOR_BYTES / size);
        let in_place = self.plan.x[..K::INPUTS].iter().any(|x| x.ptr == self.plan.out.ptr);
        let keeps = K::WRITES && len * size <= STORED_BYTES;
        let apart = keeps && (in_place || self.plan.stream);
        let scratch_rows: *mut T<K> =
            if apart { scratch.stored.get(most.min(self.rows.len()) * step) } else { std::ptr::null_mut() };
        let group = scratch.group::<K::E>();
        let mut row = self.rows.start;
        while row < self.rows.end {
            let n = most.min(self.rows.end - row);
            let n = if inner == 1 { n } else { n.min(inner - row % inner) };
            let mut rows = self.start(row, n);
            if apart {
                rows.stored = (scratch_rows, step as isize);
            } else if keeps {
                rows.stored = rows.out;
            }
            // SAFETY: the caller's promise; `per_row` has room for the chunk.
            let per_row = offset(per_row, row - self.rows.start);
            s.call((self.kernel, Kernelled { rows: &rows, group, per_row }));
            row += n;
        }
    }

    /// Copies a row of each operand into buffers, runs the kernel on it, and puts the result at `put`,
    /// `step` elements apart.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "what it needs of its two callers")]
    unsafe fn single<S: Simd>(
        &self,
        s: S,
        gathered: &mut [Buffer; 3],
        group: &mut Group<K::E>,
        row: usize,
        per_row: *mut f64,
        put: *mut <K::E as Element>::T,
        step: isize,
    ) {
        let (plan, len) = (self.plan, self.plan.shape.len);
        let mut rows = self.start(row, 1);
        (rows.stream, rows.ahead) = (false, 0);
        for operand in 0..K::INPUTS {
            let buffer = gathered[operand].get::<<K::E as Element>::T>(len);
            let (x, step) = (rows.x(operand, 0), plan.x[operand].len);
            for c in 0..len {
                // SAFETY: the row has `len` elements `step` apart; the buffer has room.
                unsafe { buffer.add(c).write(x.wrapping_offset(c as isize * step).read()) };
            }
            rows.x[operand].0 = buffer.cast_const();
        }
        if K::WRITES {
            rows.out.0 = gathered[2].get(len);
        }
        // SAFETY: the buffers hold whole rows; `per_row` is the caller's.
        s.call((self.kernel, Kernelled { rows: &rows, group, per_row }));
        if K::WRITES {
            for c in 0..len {
                // SAFETY: `put` has `len` elements `step` apart.
                unsafe { put.wrapping_offset(c as isize * step).write(rows.out(0).add(c).read()) };
            }
        }
    }

    #[inline(always)]
    unsafe fn walk_gathered<S: Simd>(&self, s: S, scratch: &mut Scratch, per_row: *mut f64) {
        let (plan, shape) = (self.plan, self.plan.shape);
        let (len, width) = (shape.len, K::E::WIDTH);
        let size = size_of::<<K::E as Element>::T>();
        let most = (GATHERED_BYTES / (len * size * K::INPUTS) + 1).min(GROUP);
        let most = if most > width { most / width * width } else { most };
        // Rows that are not a power of two apart: the lines of a column would go to one place of the cache.
        let step = len.next_multiple_of(width) + width;
        // Results take the place of the first operand; so the exponentials need one of their own.
        let at_once = if K::WRITES { (S::GROUP_BYTES / (len * size)).clamp(1, most) } else { most };
        let stored = if K::WRITES && len * size <= STORED_BYTES {
            (scratch.stored.get(at_once * step), step as isize)
        } else {
            (std::ptr::null_mut(), 0)
        };
        let group = scratch.group::<K::E>();
        let mut row = self.rows.start;
        while row < self.rows.end {
            let n = most.min(self.rows.end - row);
            let n = if shape.inner == 1 { n } else { n.min(shape.inner - row % shape.inner) };
            let beside = |view: &View<_>| side_by_side(view, shape, row, n);
            let beside = plan.x[..K::INPUTS].iter().all(beside) && (!K::WRITES || beside(&plan.out));
            let per_row = offset(per_row, row - self.rows.start);
            if n == 1 || !beside {
                let put = plan.out.row(row, shape.inner);
                // SAFETY: the caller's promise.
                unsafe { self.single(s, &mut scratch.gathered, group, row, per_row, put, plan.out.len) };
                row += 1;
                continue;
            }
            let mut buffers = [std::ptr::null_mut(); 2];
            for (operand, buffer) in buffers.iter_mut().enumerate().take(K::INPUTS) {
                *buffer = scratch.gathered[operand].get(step * n);
                let x = &plan.x[operand];
                let columns = Columns { first: x.row(row, shape.inner), step: x.len, n, len };
                // SAFETY: the rows lie side by side; the buffer has room for them.
                unsafe { columns.gather::<K::E, S>(s, *buffer, step) };
            }
            for i in (0..n).step_by(at_once) {
                let mut rows = self.start(row + i, at_once.min(n - i));
                (rows.stream, rows.ahead, rows.stored) = (false, 0, stored);
                for (x, buffer) in rows.x.iter_mut().zip(buffers) {
                    *x = (buffer.wrapping_add(i * step).cast_const(), step as isize);
                }
                rows.out = (buffers[0].wrapping_add(i * step), step as isize);
                // SAFETY: the buffers hold whole rows; `per_row` is the caller's.
                s.call((self.kernel, Kernelled { rows: &rows, group, per_row: offset(per_row, i) }));
            }
            if K::WRITES {
                let columns = Columns { first: plan.out.row(row, shape.inner), step: plan.out.len, n, len };
                // SAFETY: as above.
                unsafe { columns.scatter::<K::E, S>(s, buffers[0], step) };
            }
            row += n;
        }
    }

    #[inline(always)]
    unsafe fn walk_tiles<S: Simd>(&self, s: S, scratch: &mut Scratch, per_row: *mut f64) {
        let (plan, len) = (self.plan, self.plan.shape.len);
        let width = K::E::WIDTH;
        // Whole vectors of classes, for the transposition.
        let size = len.next_multiple_of(width) * width;
        let tiles: [*mut <K::E as Element>::T; 2] = [
            scratch.tiles[0].get(size * (GROUP / width)),
            scratch.tiles[1].get(if K::INPUTS == 2 { size * (GROUP / width) } else { size }),
        ];
        let dense = |view: &View<<K::E as Element>::T>| view.outer == len as isize && view.len == 1;
        let dense = (self.kernel.is_dense()
            && per_row.is_null()
            && !interleave::is_short::<K::E, S>(len)
            && self.rows.len() >= width
            && plan.shape.inner == 1
            && dense(&plan.x[0])
            && dense(&plan.out))
        .then(|| {
            let row = scratch.dense[1].get::<u32>(len * WORDS);
            let words = WORDS / width;
            for i in 0..width {
                for word in 0..len * words {
                    // SAFETY: the buffer has room.
                    unsafe { row.add(i * len * words + word).write((i * words + word % words) as u32) };
                }
            }
            (scratch.dense[0].get(len * GROUP + width), row.cast_const())
        });
        let group = scratch.group::<K::E>();
        let mut row = self.rows.start;
        while row < self.rows.end {
            let count = GROUP.min(self.rows.end - row);
            if let Some((e, lanes)) = dense
                && count >= width
            {
                let groups = count / width;
                let (x, out) = (plan.x[0].row(row, 1).cast_const(), plan.out.row(row, 1));
                // SAFETY: the views are dense, the buffers of the size that is asked for.
                if unsafe { self.kernel.dense(s, &Dense { x, out, len, groups, e, row: lanes }) } {
                    row += groups * width;
                    continue;
                }
            }
            for (operand, &tile) in tiles.iter().enumerate().take(K::INPUTS) {
                // SAFETY: the caller's promise; the tiles have room for a band.
                unsafe {
                    stage::<K::E, S>(s, &plan.x[operand], plan.shape, row, count, self.rows.end, tile, size)
                };
            }
            let band = Band { x: tiles, size, len, first: row, n: count };
            let per_row = offset(per_row, row - self.rows.start);
            // SAFETY: the tiles were filled; `per_row` has room for the chunk.
            let mut again = unsafe { self.kernel.band(s, &band, group, per_row) } & first_bits(count);
            while again != 0 {
                let i = again.trailing_zeros() as usize;
                again &= again - 1;
                let (put, per_row) = (band.element(0, i, 0), offset(per_row, i));
                // SAFETY: the operands still hold the row, for nothing of this band has been written.
                unsafe {
                    self.single(s, &mut scratch.gathered, group, row + i, per_row, put, width as isize);
                }
            }
            if K::WRITES {
                // SAFETY: the tiles hold the results.
                unsafe {
                    unstage::<K::E, S>(s, &plan.out, plan.shape, row, count, tiles[0], size, plan.stream)
                };
            }
            row += count;
        }
    }
}

/// Rows side by side: element `c` of row `i` at `first + c * step + i`.
struct Columns<T> {
    first: *mut T,
    step: isize,
    n: usize,
    len: usize,
}

impl<T> Columns<T> {
    /// Copies the rows to memory of their own, `step` elements apart.
    ///
    /// # Safety
    /// The rows are valid for reading, `rows` for writing `n * step` elements, of which a row has `len`, rounded up to
    /// whole vectors.
    #[inline(always)]
    unsafe fn gather<E: Element<T = T>, S: Simd>(&self, s: S, rows: *mut T, step: usize) {
        for c in (0..self.len).step_by(E::WIDTH) {
            for i in (0..self.n).step_by(E::WIDTH) {
                let n = E::WIDTH.min(self.n - i);
                let mut tile = [E::splat(s, E::ZERO); MAX_WIDTH];
                // (Over all vectors, here and below, so that they stay in registers.)
                for (j, v) in tile.iter_mut().enumerate().take(E::WIDTH) {
                    if c + j >= self.len {
                        continue;
                    }
                    let p = self.first.wrapping_offset((c + j) as isize * self.step).wrapping_add(i);
                    prefetch(class_ahead(self.first, self.step, c + j, self.len, self.n).wrapping_add(i));
                    // SAFETY: the caller's promise.
                    *v = unsafe {
                        if n == E::WIDTH { E::load(s, p) } else { E::load_first(s, p, n, E::ZERO) }
                    };
                }
                E::transpose(s, &mut tile[..E::WIDTH]);
                for (lane, &v) in tile.iter().enumerate().take(E::WIDTH) {
                    if lane < n {
                        // SAFETY: the caller's promise.
                        unsafe { E::store(s, v, rows.add((i + lane) * step + c)) };
                    }
                }
            }
        }
    }

    /// The reverse of [`Columns::gather`].
    ///
    /// # Safety
    /// The same, with reading and writing exchanged.
    #[inline(always)]
    unsafe fn scatter<E: Element<T = T>, S: Simd>(&self, s: S, rows: *const T, step: usize) {
        for c in (0..self.len).step_by(E::WIDTH) {
            for i in (0..self.n).step_by(E::WIDTH) {
                let n = E::WIDTH.min(self.n - i);
                let mut tile = [E::splat(s, E::ZERO); MAX_WIDTH];
                for (lane, v) in tile.iter_mut().enumerate().take(E::WIDTH) {
                    if lane < n {
                        // SAFETY: the caller's promise.
                        *v = unsafe { E::load(s, rows.add((i + lane) * step + c)) };
                    }
                }
                E::transpose(s, &mut tile[..E::WIDTH]);
                for (j, &v) in tile.iter().enumerate().take(E::WIDTH) {
                    if c + j >= self.len {
                        continue;
                    }
                    let p = self.first.wrapping_offset((c + j) as isize * self.step).wrapping_add(i);
                    prefetch(class_ahead(self.first, self.step, c + j, self.len, self.n).wrapping_add(i));
                    // SAFETY: the caller's promise.
                    unsafe { if n == E::WIDTH { E::store(s, v, p) } else { E::store_first(s, v, p, n) } };
                }
            }
        }
    }
}

/// [`Kernel::rows`] as a function of its own: there are several ways to it, and it is compiled once. Whoever makes one
/// keeps that promise.
struct Kernelled<'a, E: Element> {
    rows: &'a Rows<E>,
    group: &'a mut Group<E>,
    per_row: *mut f64,
}

impl<K: Kernel> Task for (&K, Kernelled<'_, K::E>) {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the promise of whoever made it.
        unsafe { self.0.rows(s, self.1.rows, self.1.group, self.1.per_row) }
    }
}

/// Result `i` of the rows' results, unless nobody wants them.
#[inline(always)]
fn offset(per_row: *mut f64, i: usize) -> *mut f64 {
    if per_row.is_null() { per_row } else { per_row.wrapping_add(i) }
}

/// Puts the results of rows `first..` of a chunk where they belong.
/// A chunk's sum is over 8 logical lanes, result `i` in lane `i mod 8`.
#[inline(always)]
pub(crate) fn put_per_row<E: Element, S: Simd>(
    s: S,
    per_row: &PerRow<'_, E::T>,
    inner: usize,
    chunk: usize,
    results: &[f64],
    first: usize,
) {
    match per_row {
        PerRow::Nothing => {}
        PerRow::Array(view) => {
            let mut done = 0;
            if inner == 1 && view.outer == 1 {
                let out = view.row(first, 1);
                while done + E::WIDTH <= results.len() {
                    let wide = E::load_wide(s, results, results, done);
                    let value = E::canonical(s, E::narrow(s, wide));
                    // SAFETY: the view has an element for each row of the batch, side by side.
                    unsafe { E::store(s, value, out.add(done)) };
                    done += E::WIDTH;
                }
            }
            for (i, &value) in results.iter().enumerate().skip(done) {
                let value = if value.is_nan() { E::NAN } else { E::from_f64(value) };
                // SAFETY: the view has an element for each row of the batch.
                unsafe { view.row(first + i, inner).write(value) };
            }
        }
        PerRow::Wide(view) => {
            for (i, &value) in results.iter().enumerate() {
                // SAFETY: as above.
                unsafe { view.row(first + i, inner).write(value) };
            }
        }
        PerRow::Sums(sums) => {
            let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
            for some in results.chunks(8) {
                // SAFETY: as many elements as the chunk of the slice has.
                acc = Double::accumulate(s, acc, unsafe {
                    map::load::<Double, S>(s, some.as_ptr(), some.len())
                });
            }
            let sum = Double::reduce(s, acc);
            let sum = if sum.0.is_finite() { Sum::new(sum, 0) } else { Sum::of_large(results) };
            // SAFETY: this walk alone computes the chunk.
            unsafe { sums.set(chunk, sum) };
        }
    }
}

/// The first of rows `row..row + n` of neighbouring elements and the step between them, if there is one.
#[inline(always)]
fn spaced<T>(view: &View<T>, shape: Shape, row: usize, n: usize) -> Option<Spaced<*mut T>> {
    if view.len != 1 {
        None
    } else if shape.inner == 1 {
        Some((view.row(row, 1), view.outer))
    } else {
        (row % shape.inner + n <= shape.inner).then(|| (view.row(row, shape.inner), view.inner))
    }
}

/// Whether rows `row..row + n` lie side by side, `inner` stride 1.
#[inline(always)]
pub(crate) fn side_by_side<T>(view: &View<T>, shape: Shape, row: usize, n: usize) -> bool {
    if shape.inner == 1 { view.outer == 1 } else { view.inner == 1 && row % shape.inner + n <= shape.inner }
}

/// What is prefetched where class `c` of some rows side by side is reached: each class may be in a page of its own, where
/// nobody foresees it. It is a class soon to come, of these rows or of the `count` rows after them; of short rows the
/// same class of the next ones.
#[inline(always)]
fn class_ahead<T>(first: *const T, step: isize, c: usize, len: usize, count: usize) -> *const T {
    let c = c + if len > FEW_CLASSES { AHEAD_CLASSES } else { len };
    let (class, row) = if c < len { (c, 0) } else { (c - len, count) };
    first.wrapping_offset(class as isize * step).wrapping_add(row)
}

/// Puts the first `left` elements of `n` rows, `step` elements apart, side by side; lanes beyond repeat the last row.
///
/// # Safety
/// The rows are valid for reading `left` elements, or whole vectors if `WHOLE`; `tile` for writing `left` vectors.
#[inline(always)]
unsafe fn to_columns<E: Element, S: Simd, const WHOLE: bool>(
    s: S,
    rows: *const E::T,
    step: isize,
    n: usize,
    left: usize,
    tile: *mut E::T,
) {
    // (Unknown to the compiler, which would find the rows' places before it is known whether they are needed.)
    let n = std::hint::black_box(n);
    let mut block = [E::splat(s, E::ZERO); MAX_WIDTH];
    for (lane, v) in block.iter_mut().enumerate().take(E::WIDTH) {
        let row = rows.wrapping_offset(step * lane.min(n - 1) as isize);
        // SAFETY: the caller's promise.
        *v = unsafe { if WHOLE { E::load(s, row) } else { E::load_first(s, row, left, E::ZERO) } };
    }
    E::transpose(s, &mut block[..E::WIDTH]);
    // (Over all vectors, so that they stay in registers.)
    for (j, &v) in block.iter().enumerate().take(E::WIDTH) {
        if j < left {
            // SAFETY: the caller's promise.
            unsafe { E::store(s, v, tile.add(j * E::WIDTH)) };
        }
    }
}

/// Fills the tiles of a band with rows `row..row + count`; lanes beyond repeat the last row.
///
/// # Safety
/// The rows exist up to `end`; `tile` has room for `count / WIDTH`, rounded up, tiles of `size` elements.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "where the rows are, and where the tiles")]
pub(crate) unsafe fn stage<E: Element, S: Simd>(
    s: S,
    view: &View<E::T>,
    shape: Shape,
    row: usize,
    count: usize,
    end: usize,
    tile: *mut E::T,
    size: usize,
) {
    let (width, len) = (E::WIDTH, shape.len);
    if let Some((start, step)) = spaced(view, shape, row, count) {
        let start = start.cast_const();
        for first in (0..count).step_by(width) {
            let n = width.min(count - first);
            let tile = tile.wrapping_add(first / width * size);
            let dense = shape.inner == 1 && view.outer == len as isize;
            if dense && n == width && interleave::is_short::<E, S>(len) {
                // SAFETY: `width` rows that follow one another; the tile has room for them.
                unsafe { interleave::to_tile::<E, S>(s, view.row(row + first, 1), len, tile) };
                continue;
            }
            // Rows that follow one another are read in whole registers, which end in the rows after: so many elements
            // are there from the beginning of this tile's last row.
            let readable = if dense && n == width { (end - row - first - (width - 1)) * len } else { len };
            let rows = start.wrapping_offset(step * first as isize);
            // SAFETY: that they are; a tile has whole vectors of classes.
            if n == width && unsafe { E::rows_to_columns(s, rows, step, len, readable, tile) } {
                continue;
            }
            let ends = len < width && readable >= width;
            for c in (0..len).step_by(width) {
                let left = (len - c).min(width);
                let rows = rows.wrapping_add(c);
                // SAFETY: `left` elements of the rows remain, or whole vectors of the batch; `c + left <= len`.
                unsafe {
                    let tile = tile.add(c * width);
                    if left == width || ends {
                        to_columns::<E, S, true>(s, rows, step, n, left, tile);
                    } else {
                        to_columns::<E, S, false>(s, rows, step, n, left, tile);
                    }
                }
            }
        }
    } else if count.is_multiple_of(width) && side_by_side(view, shape, row, count) {
        let from = view.row(row, shape.inner);
        for c in 0..len {
            let line = from.wrapping_offset(c as isize * view.len);
            let ahead = class_ahead(from, view.len, c, len, count);
            for first in (0..count).step_by(width) {
                prefetch(ahead.wrapping_add(first));
                // SAFETY: the rows lie side by side.
                let v = unsafe { E::load(s, line.add(first)) };
                // SAFETY: there is a tile for every `width` rows.
                unsafe { E::store(s, v, tile.add(first / width * size + c * width)) };
            }
        }
    } else {
        for first in (0..count).step_by(width) {
            for lane in 0..width {
                let from = view.row(row + (first + lane).min(count - 1), shape.inner);
                for c in 0..len {
                    // SAFETY: element `c` of an existing row; lane and class lie in the tile.
                    unsafe {
                        let value = from.wrapping_offset(c as isize * view.len).read();
                        tile.add(first / width * size + c * width + lane).write(value);
                    }
                }
            }
        }
    }
}

/// Writes rows `row..row + count` from the tiles.
///
/// # Safety
/// As [`stage`]; the rows may be written.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "where the rows are, and where the tiles")]
pub(crate) unsafe fn unstage<E: Element, S: Simd>(
    s: S,
    view: &View<E::T>,
    shape: Shape,
    row: usize,
    count: usize,
    tile: *const E::T,
    size: usize,
    stream: bool,
) {
    let (width, len) = (E::WIDTH, shape.len);
    if let Some((start, step)) = spaced(view, shape, row, count) {
        let dense = shape.inner == 1 && view.outer == len as isize;
        for first in (0..count).step_by(width) {
            let n = width.min(count - first);
            let tile = tile.wrapping_add(first / width * size);
            if dense && n == width && interleave::is_short::<E, S>(len) {
                // SAFETY: as in `stage`.
                unsafe { interleave::from_tile::<E, S>(s, tile, len, view.row(row + first, 1)) };
                continue;
            }
            let rows = start.wrapping_offset(step * first as isize);
            // SAFETY: the rows and the tile have `len` elements, and the tile whole vectors of classes.
            if n == width && unsafe { E::columns_to_rows(s, tile, rows, step, len, dense) } {
                continue;
            }
            // (As in `to_columns`.)
            let n = std::hint::black_box(n);
            for c in (0..len).step_by(width) {
                let left = (len - c).min(width);
                let mut block = [E::splat(s, E::ZERO); MAX_WIDTH];
                for (j, v) in block.iter_mut().enumerate().take(width) {
                    if j < left {
                        // SAFETY: `c + j < len`.
                        *v = unsafe { E::load(s, tile.add((c + j) * width)) };
                    }
                }
                E::transpose(s, &mut block[..width]);
                // A vector may end in rows of this tile that are written after it.
                let after = if dense && len < width { n } else { 0 };
                for (lane, &v) in block.iter().enumerate().take(width) {
                    let p = start.wrapping_offset(step * (first + lane.min(n - 1)) as isize).wrapping_add(c);
                    // SAFETY: `left` elements of the row remain, or a vector of the rows up to `after`.
                    unsafe {
                        if left == width || after.saturating_sub(lane) * len >= width {
                            if lane < n {
                                E::store(s, v, p);
                            }
                        } else if lane < n {
                            E::store_first(s, v, p, left);
                        }
                    }
                }
            }
        }
    } else if count.is_multiple_of(width) && side_by_side(view, shape, row, count) {
        let to = view.row(row, shape.inner);
        for c in 0..len {
            let line = to.wrapping_offset(c as isize * view.len);
            let aligned = stream && line.addr().is_multiple_of(VECTOR_BYTES);
            let ahead = class_ahead(to, view.len, c, len, count);
            for first in (0..count).step_by(width) {
                if !aligned && len > FEW_CLASSES {
                    prefetch(ahead.wrapping_add(first));
                }
                // SAFETY: there is a tile for every `width` rows.
                let v = unsafe { E::load(s, tile.add(first / width * size + c * width)) };
                // SAFETY: the rows lie side by side.
                unsafe {
                    if aligned { E::stream(s, v, line.add(first)) } else { E::store(s, v, line.add(first)) }
                };
            }
        }
    } else {
        for lane in 0..count {
            let to = view.row(row + lane, shape.inner);
            for c in 0..len {
                // SAFETY: element `c` of an existing row; lane and class lie in the tile.
                unsafe {
                    let value = tile.add(lane / width * size + c * width + lane % width).read();
                    to.wrapping_offset(c as isize * view.len).write(value);
                }
            }
        }
    }
}
