//! The sum of a row's exponentials, on which every normalising operation stands.
//!
//! With `x_c = n_c ln 2 + r_c` (`n_c` an integer), `exp(x_c) = p_c 2^{n_c}` and
//!
//! ```text
//! sum_c exp(x_c) = 2^N * S        S = sum_c p_c 2^{n_c - N}
//! ```
//!
//! for any integer `N`, the row's *reference*. The maximum is not subtracted, so nothing is rounded away
//! however far the row spreads; the scaling by `2^{n_c - N}` is exact, so the choice of `N` does not show
//! in the result. `N` comes from the maximum of the row's first block; a row that rises more than `SLACK`
//! powers of two above it is summed a second time with `N` from its maximum.
//!
//! The sum is spread over `WIDTH` logical lanes, element `c` in lane `c mod WIDTH`, in `f64` (for `f32`) or
//! compensated (for `f64`), block by block; [`Element::reduce`] is the tree over the lanes. [`row_sum`] walks a row whose
//! elements are neighbours, [`tile_sum`] walks `WIDTH` rows side by side: the same operations on the same
//! operands in the same order, hence the same bits.
//!
//! In a *dominated* row, one where nearly all of the sum is one term, `others = S - e_max` has lost digits;
//! those rows are swept again without one occurrence of the maximum, which gives `others` to full precision.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::exact::{ldexp, mul_pairs, two_sum};
use crate::float::{Acc, Double, Element, Float, load64, store64};
use crate::halves::{self, Half};
use crate::kernels::temperature::{Temperature, begin_tempered, exp_tempered, heat};
use crate::lines::{Band, Dense, GROUP, MAX_GROUPS, Rows};
use crate::math::{Begun, exp_begin, exp_end, exp_scaled, log_ratio, magic};
use crate::simd::{Simd, Task, opaque, prefetch};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// The widest vector.
pub(crate) const MAX_WIDTH: usize = 16;

/// Sums `$term` over the classes `$c` of a tile, class `c` in lane `c mod WIDTH`: `$term` is `$acc` and one more
/// class. Gives the rows' accumulators.
///
/// With `by $many`, `$term` is `$acc` and the class and those of the lane that follow it, `$many` together.
macro_rules! sum_lanes {
    ($E:ty, $S:ty, $s:expr, $len:expr, |$c:ident, $acc:ident| $term:expr) => {
        sum_lanes!($E, $S, $s, $len, by 1, |$c, $acc| $term)
    };
    ($E:ty, $S:ty, $s:expr, $len:expr, by $many:expr, |$c:ident, $acc:ident| $term:expr) => {{
        let zero: $crate::float::Acc<$S> = [$crate::float::Double::splat($s, 0.0); 2];
        let mut lanes = [std::mem::MaybeUninit::uninit(); $crate::kernels::rowsum::MAX_WIDTH];
        for (l, lane) in lanes.iter_mut().enumerate().take(<$E>::WIDTH.min($len)) {
            let mut sum = zero;
            for $c in (l..$len).step_by(<$E>::WIDTH * $many) {
                let $acc = sum;
                sum = $term;
            }
            lane.write(sum);
        }
        // SAFETY: the first `min(len, WIDTH)` lanes are written.
        unsafe { $crate::kernels::rowsum::merge_lanes::<$E, $S>($s, &mut lanes, $len) }
    }};
}
pub(crate) use sum_lanes;

/// What a sweep over a row yields: `sum_c exp(x_c - shift) = (hi + lo) * 2^reference`.
#[derive(Clone, Copy)]
pub(crate) struct RowSum<T> {
    pub(crate) max: T,
    pub(crate) shift: T,
    pub(crate) reference: T,
    pub(crate) hi: f64,
    pub(crate) lo: f64,
}

/// A row of neighbouring elements. `out`, unless null, receives the stored exponentials
/// `exp(x_c - shift) 2^-reference`. For 16-bit numbers, `shift` is 0 and there is no `heat`.
struct Sweep<E: Element, X> {
    x: X,
    len: usize,
    shift: E::T,
    /// The reciprocal of the row's temperature, unless that is 1.
    heat: Option<[E::T; 2]>,
    out: *mut E::T,
    /// How many elements ahead to prefetch.
    ahead: isize,
}

/// Sums a row, its elements times `heat` if that is given. See [`RowSum`]; a row whose maximum is beyond `MAX_LIMIT` is
/// shifted by it. What is `ahead` elements further is prefetched.
///
/// # Safety
/// `x` is valid for reading `len` elements; `out` is null or valid for writing them and does not overlap `x`.
#[inline(always)]
pub(crate) unsafe fn row_sum<E: Element, S: Simd>(
    s: S,
    x: *const E::T,
    len: usize,
    heat: Option<[E::T; 2]>,
    out: *mut E::T,
    ahead: isize,
) -> RowSum<E::T> {
    let x = Elements { x, skip: None };
    sum_of::<E, S, _>(s, x, len, heat, out, ahead, || x)
}

/// [`row_sum`] of a row from anywhere, whose elements as they are `elements` gives.
#[inline(always)]
fn sum_of<E: Element, S: Simd, X: Source<E>>(
    s: S,
    x: X,
    len: usize,
    heat: Option<[E::T; 2]>,
    out: *mut E::T,
    ahead: isize,
    elements: impl FnOnce() -> Elements<E>,
) -> RowSum<E::T> {
    let sum = s.call(Sweep::<E, X> { x, len, shift: E::ZERO, heat, out, ahead });
    if sum.is_near(heat) {
        return sum;
    }
    let ahead = if X::HALVES { 0 } else { ahead };
    s.call(Sweep::<E, _> { x: elements(), len, shift: sum.max, heat, out, ahead })
}

impl<T: Float> RowSum<T> {
    /// Whether the row need not be shifted by its maximum.
    #[inline(always)]
    fn is_near(&self, heat: Option<[T; 2]>) -> bool {
        let (max, limit) = (T::Ops::to_f64(self.max), T::Ops::to_f64(T::Ops::MAX_LIMIT));
        let near = match heat {
            None => max.abs() <= limit,
            Some([high, _]) => (max * T::Ops::to_f64(high)).abs() <= limit * TEMPERED,
        };
        near || !max.is_finite()
    }
}

/// A tempered row is shifted from this share of the limit on: the low parts of its quotients come on top of what the
/// exponential's reduction leaves.
const TEMPERED: f64 = 0.125;

/// The sum of all terms but one occurrence of the maximum, on the scale of `sum`.
///
/// # Safety
/// `x` is valid for reading `len` elements.
#[inline(always)]
pub(crate) unsafe fn row_others<E: Element, S: Simd>(
    s: S,
    x: *const E::T,
    len: usize,
    sum: &RowSum<E::T>,
    heat: Option<[E::T; 2]>,
) -> (f64, f64) {
    // SAFETY: the caller's promise.
    let row = unsafe { std::slice::from_raw_parts(x, len) };
    let skip = row.iter().position(|&v| v == sum.max);
    let out = std::ptr::null_mut();
    let others =
        s.call(Sweep::<E, _> { x: Elements { x, skip }, len, shift: sum.shift, heat, out, ahead: 0 });
    let by = (E::to_f64(others.reference) - E::to_f64(sum.reference)) as i32;
    (ldexp(others.hi, by), ldexp(others.lo, by))
}

impl<E: Element, X: Source<E>> Task for Sweep<E, X> {
    type Out = RowSum<E::T>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> RowSum<E::T> {
        match self.heat {
            _ if X::HALVES => self.sweep::<S, PLAIN>(s),
            Some(_) => self.sweep::<S, TEMPER>(s),
            None if E::to_f64(self.shift) != 0.0 => self.sweep::<S, SHIFT>(s),
            None => self.sweep::<S, PLAIN>(s),
        }
    }
}

/// What happens to an element before its exponential: nothing; the row's shift is subtracted; that, and then it is divided by
/// the temperature.
const PLAIN: u8 = 0;
const SHIFT: u8 = 1;
const TEMPER: u8 = 2;

/// The operands of that.
#[derive(Clone, Copy)]
struct Before<E: Element, S: Simd> {
    shift: E::V<S>,
    heat: [E::V<S>; 2],
}

impl<E: Element, S: Simd> Before<E, S> {
    #[inline(always)]
    fn new(s: S, shift: E::T, heat: Option<[E::T; 2]>) -> Self {
        let [high, low] = heat.unwrap_or([E::ONE, E::ZERO]);
        Before { shift: E::splat(s, shift), heat: [E::splat(s, high), E::splat(s, low)] }
    }

    /// A rounded quotient, for references.
    #[inline(always)]
    fn quotient<const HOW: u8>(&self, s: S, x: E::V<S>) -> E::V<S> {
        let x = E::sub(s, x, self.shift);
        if HOW == TEMPER { E::mul(s, x, self.heat[0]) } else { x }
    }

    #[inline(always)]
    fn exp<const HOW: u8>(&self, s: S, x: E::V<S>, magic: E::V<S>) -> E::V<S> {
        exp_end::<E, S>(s, self.begin::<HOW>(s, x, magic))
    }

    #[inline(always)]
    fn begin<const HOW: u8>(&self, s: S, x: E::V<S>, magic: E::V<S>) -> Begun<E, S> {
        match HOW {
            PLAIN => exp_begin::<E, S>(s, x, None, magic),
            SHIFT => exp_begin::<E, S>(s, E::sub(s, x, self.shift), None, magic),
            _ => begin_tempered::<E, S>(s, E::sub(s, x, self.shift), self.heat, magic),
        }
    }
}

/// One block of a row, aligned for any element.
#[repr(align(64))]
pub(crate) struct Block(#[expect(dead_code, reason = "memory that is used through pointers")] [u8; 4096]);

impl<E: Element, X: Source<E>> Sweep<E, X> {
    #[inline(always)]
    fn sweep<S: Simd, const HOW: u8>(&self, s: S) -> RowSum<E::T> {
        let (mut copy, mut unkept) = (MaybeUninit::<Block>::uninit(), MaybeUninit::<Block>::uninit());
        let blocks = self.len.div_ceil(E::BLOCK);
        let low = E::splat(s, E::NEG_INF);
        let (x, n) = self.block(0, &mut copy);
        // SAFETY: `block` gives `n` readable elements.
        let mut max = unsafe { x.max(s, n, low) };
        let before = Before::<E, S>::new(s, self.shift, self.heat);
        let mut top = E::splat(s, reduce_max::<E, S>(s, max));
        let mut whole = blocks == 1;
        let (reference, acc) = 'again: loop {
            let reference = reference::<E, S>(s, before.quotient::<HOW>(s, top));
            let limit =
                E::add(s, reference, E::splat(s, E::from_f64(E::to_f64(E::OFFSET) + E::to_f64(E::SLACK))));
            let magic = magic::<E, S>(s, reference);
            let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
            for b in 0..blocks {
                let (x, n) = self.block(b, &mut copy);
                if b > 0 && !whole {
                    // SAFETY: as above.
                    max = unsafe { x.max(s, n, max) };
                    let quotient = before.quotient::<HOW>(s, max);
                    let exponent = E::round(s, E::mul(s, quotient, E::splat(s, E::LOG2E)));
                    if E::bits(s, E::lt(s, limit, exponent)) != 0 {
                        for later in b + 1..blocks {
                            let (x, n) = self.block(later, &mut copy);
                            // SAFETY: as above.
                            max = unsafe { x.max(s, n, max) };
                        }
                        top = E::splat(s, reduce_max::<E, S>(s, max));
                        whole = true;
                        continue 'again;
                    }
                }
                let kept = self.out.wrapping_add(b * E::BLOCK);
                let out = if self.out.is_null() { unkept.as_mut_ptr().cast() } else { kept };
                // SAFETY: as above; `out` has room for the whole row, `unkept` for a block.
                let block = unsafe { block_sum::<E, S, X, HOW>(s, x, n, before, magic, out, self.ahead) };
                acc = if b == 0 { block } else { E::merge(s, acc, block) };
            }
            break (reference, acc);
        };
        let (hi, lo) = E::reduce(s, acc);
        RowSum {
            max: reduce_max::<E, S>(s, max),
            shift: self.shift,
            reference: first::<E, S>(s, reference),
            hi,
            lo,
        }
    }

    /// Block `b` of the row, and its length.
    #[inline(always)]
    fn block(&self, b: usize, copy: &mut MaybeUninit<Block>) -> (X, usize) {
        let start = b * E::BLOCK;
        let n = (self.len - start).min(E::BLOCK);
        (self.x.block(start, n, copy), n)
    }
}

/// A vector whose largest lane is that of `max` and `n` elements; NaN is passed over.
#[inline(always)]
unsafe fn block_max<E: Element, S: Simd>(s: S, x: *const E::T, n: usize, max: E::V<S>) -> E::V<S> {
    let low = E::splat(s, E::NEG_INF);
    let mut m = [max, low, low, low];
    let mut i = 0;
    while i + 4 * E::WIDTH <= n {
        for (j, m) in m.iter_mut().enumerate() {
            // SAFETY: `i + 4 * WIDTH <= n`.
            *m = E::max(s, unsafe { E::load(s, x.add(i + j * E::WIDTH)) }, *m);
        }
        i += 4 * E::WIDTH;
    }
    while i < n {
        // SAFETY: the row has `n` elements. The last vector may take some of the one before it again.
        let v = unsafe {
            if n >= E::WIDTH {
                E::load(s, x.add(i.min(n - E::WIDTH)))
            } else {
                E::load_first(s, x, n, E::NEG_INF)
            }
        };
        m[0] = E::max(s, v, m[0]);
        i += E::WIDTH;
    }
    E::max(s, E::max(s, m[0], m[1]), E::max(s, m[2], m[3]))
}

/// The elements of a row, wherever they come from.
trait Source<E: Element>: Copy {
    /// Whether they are 16-bit numbers.
    const HALVES: bool;
    /// Row `i` of the first operand.
    fn of(rows: &Rows<E>, i: usize) -> Self;
    /// The `n` elements from `start` on, a block at most.
    fn block(self, start: usize, n: usize, copy: &mut MaybeUninit<Block>) -> Self;
    /// The lane-wise maximum of `max` and the first `n` elements of a block, or a vector with the same largest lane. NaN is
    /// passed over, or makes -inf of the maximum.
    ///
    /// # Safety
    /// The row has `n` elements.
    unsafe fn max<S: Simd>(self, s: S, n: usize, max: E::V<S>) -> E::V<S>;
    /// The vector that begins with element `i`.
    ///
    /// # Safety
    /// The row has `i + WIDTH` elements.
    unsafe fn load<S: Simd>(self, s: S, i: usize) -> E::V<S>;
    /// The `n < WIDTH` elements from `i` on; the other lanes are -inf.
    ///
    /// # Safety
    /// The row has `i + n` elements.
    unsafe fn load_first<S: Simd>(self, s: S, i: usize, n: usize) -> E::V<S>;
    /// Asks for what lies `ahead` of element `i`.
    fn prefetch(self, i: usize, ahead: isize);
    /// Where the elements of a block lie, if they are what [`Source::load`] gives.
    fn plain(self) -> Option<*const E::T>;
}

/// Elements as they are, but `skip`, which is -inf in the [block](Source::block) that has it.
#[derive(Clone, Copy)]
struct Elements<E: Element> {
    x: *const E::T,
    skip: Option<usize>,
}

impl<E: Element> Source<E> for Elements<E> {
    const HALVES: bool = false;
    #[inline(always)]
    fn of(rows: &Rows<E>, i: usize) -> Self {
        Elements { x: rows.x(0, i), skip: None }
    }
    /// In place, or a copy in which the skipped element is -inf.
    #[inline(always)]
    fn block(self, start: usize, n: usize, copy: &mut MaybeUninit<Block>) -> Self {
        let x = self.x.wrapping_add(start);
        match self.skip {
            Some(skip) if skip >= start && skip < start + n => {
                let p = copy.as_mut_ptr().cast::<E::T>();
                // SAFETY: a block has at most 4096 bytes and `copy` is aligned; `skip - start < n`.
                unsafe { std::ptr::copy_nonoverlapping(x, p, n) };
                // SAFETY: as above.
                unsafe { p.add(skip - start).write(E::NEG_INF) };
                Elements { x: p.cast_const(), skip: None }
            }
            _ => Elements { x, skip: None },
        }
    }
    #[inline(always)]
    unsafe fn max<S: Simd>(self, s: S, n: usize, max: E::V<S>) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { block_max::<E, S>(s, self.x, n, max) }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, i: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { E::load(s, self.x.add(i)) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { E::load_first(s, self.x.add(i), n, E::NEG_INF) }
    }
    #[inline(always)]
    fn prefetch(self, i: usize, ahead: isize) {
        prefetch(self.x.wrapping_add(i).wrapping_offset(ahead));
    }
    #[inline(always)]
    fn plain(self) -> Option<*const E::T> {
        Some(self.x)
    }
}

/// 16-bit numbers.
#[derive(Clone, Copy)]
struct Numbers<const BF16: bool>(*const u16);

impl<const BF16: bool> Numbers<BF16> {
    const FORMAT: Half = if BF16 { Half::Bf16 } else { Half::F16 };
}

impl<E: Element, const BF16: bool> Source<E> for Numbers<BF16> {
    const HALVES: bool = true;
    #[inline(always)]
    fn of(rows: &Rows<E>, i: usize) -> Self {
        let halves = rows.halves.as_ref().expect("rows of 16-bit numbers");
        Numbers(rows.half(i, halves))
    }
    #[inline(always)]
    fn block(self, start: usize, _n: usize, _copy: &mut MaybeUninit<Block>) -> Self {
        Numbers(self.0.wrapping_add(start))
    }
    #[inline(always)]
    unsafe fn max<S: Simd>(self, s: S, n: usize, max: E::V<S>) -> E::V<S> {
        // SAFETY: the caller's promise.
        let largest = Self::FORMAT.largest(unsafe { std::slice::from_raw_parts(self.0, n) });
        // SAFETY: the array holds a vector.
        let largest = unsafe { E::load_halves::<S, BF16>(s, [largest; halves::MOST].as_ptr()) };
        E::max(s, largest, max)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, i: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { E::load_halves::<S, BF16>(s, self.0.add(i)) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(self, s: S, i: usize, n: usize) -> E::V<S> {
        // SAFETY: the caller's promise.
        unsafe { Self::FORMAT.load_first::<E, S>(s, self.0.add(i), n) }
    }
    #[inline(always)]
    fn prefetch(self, i: usize, ahead: isize) {
        prefetch(self.0.wrapping_add(i).wrapping_offset(ahead));
    }
    #[inline(always)]
    fn plain(self) -> Option<*const E::T> {
        None
    }
}

/// Vectors between the exponential of an element and its sum: both go on side by side.
const LAG: usize = 4;

/// Writes the stored exponentials of the `n` elements of a block and sums them. The sum reads them again: widening
/// while loading is cheaper than from registers.
///
/// # Safety
/// The row has `n` elements, and `out` is valid for writing them.
#[inline(always)]
unsafe fn block_sum<E: Element, S: Simd, X: Source<E>, const HOW: u8>(
    s: S,
    x: X,
    n: usize,
    before: Before<E, S>,
    magic: E::V<S>,
    out: *mut E::T,
    ahead: isize,
) -> Acc<S> {
    if HOW == PLAIN && S::SUMS_APART {
        let magic = first::<E, S>(s, magic);
        // (The caller promises the row and the room for its exponentials.)
        let lanes = s.call(SumApart::<E, X> { x, n, magic, out, ahead });
        [load64(s, &lanes, 0), load64(s, &lanes, 8)]
    } else if overlaps::<E, S>(n) {
        let next = std::ptr::null();
        // SAFETY: the caller's promise.
        unsafe { overlapped_pairs::<E, S, X, HOW, false>(s, x, n, before, magic, out, ahead, next).0 }
    } else {
        // SAFETY: the caller's promise.
        unsafe { unbroken::<E, S, X, HOW>(s, x, n, before, magic, out, ahead) }
    }
}

/// Vectors from which on a row is long enough for [`overlapped_pairs`]: two exponentials are under way.
const OVERLAPPED: usize = 2;

/// Whether `n` elements are best summed by [`overlapped_pairs`].
#[inline(always)]
fn overlaps<E: Element, S: Simd>(n: usize) -> bool {
    S::OVERLAPS && n >= OVERLAPPED * E::WIDTH
}

/// [`block_sum`], each exponential as a whole.
///
/// # Safety
/// As [`block_sum`].
#[inline(always)]
unsafe fn unbroken<E: Element, S: Simd, X: Source<E>, const HOW: u8>(
    s: S,
    x: X,
    n: usize,
    before: Before<E, S>,
    magic: E::V<S>,
    out: *mut E::T,
    ahead: isize,
) -> Acc<S> {
    let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
    let whole = n / E::WIDTH * E::WIDTH;
    let lag = whole.min(LAG * E::WIDTH);
    macro_rules! exponential {
        ($i:expr) => {
            x.prefetch($i, ahead);
            // SAFETY: `i + WIDTH <= n`.
            unsafe { E::store(s, before.exp::<HOW>(s, x.load(s, $i), magic), out.add($i)) };
        };
    }
    macro_rules! add {
        ($i:expr) => {
            // SAFETY: as above.
            acc = unsafe { E::accumulate_from(s, acc, out.add($i).cast_const()) };
        };
    }
    let mut i = 0;
    while i < lag {
        exponential!(i);
        i += E::WIDTH;
    }
    while i < whole {
        exponential!(i);
        add!(i - lag);
        i += E::WIDTH;
    }
    let mut i = whole - lag;
    while i < whole {
        add!(i);
        i += E::WIDTH;
    }
    // SAFETY: the caller's promise; what is before `whole` is done.
    unsafe { add_rest::<E, S, X, HOW>(s, acc, x, (whole, n), before, magic, out) }
}

/// [`block_sum`] of the elements from `whole` to `n`, less than a vector, on top of `acc`.
///
/// # Safety
/// As [`block_sum`].
#[inline(always)]
unsafe fn add_rest<E: Element, S: Simd, X: Source<E>, const HOW: u8>(
    s: S,
    acc: Acc<S>,
    x: X,
    (whole, n): (usize, usize),
    before: Before<E, S>,
    magic: E::V<S>,
    out: *mut E::T,
) -> Acc<S> {
    if whole == n {
        return acc;
    }
    // SAFETY: `n - whole < WIDTH` elements remain.
    let v = unsafe { x.load_first(s, whole, n - whole) };
    let e = before.exp::<HOW>(s, v, magic);
    // SAFETY: as above.
    unsafe { E::store_first(s, e, out.add(whole), n - whole) };
    E::accumulate(s, acc, e)
}

/// [`block_sum`] as a function of its own, which has all registers for itself. Gives the lanes of the accumulator. Whoever
/// makes one promises what [`block_sum`] asks for.
struct SumApart<E: Element, X> {
    x: X,
    n: usize,
    magic: E::T,
    out: *mut E::T,
    ahead: isize,
}

impl<E: Element, X: Source<E>> Task for SumApart<E, X> {
    type Out = [f64; 16];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; 16] {
        let SumApart { x, n, magic, out, ahead } = self;
        let own = match x.plain() {
            // SAFETY: the row and the room for its exponentials have `n` elements.
            Some(x) => unsafe { E::exp_sum(s, x, n, magic, out, ahead) },
            None => None,
        };
        let acc = match own {
            Some(acc) => acc,
            // SAFETY: as above.
            None => unsafe { overlapped::<E, S, X>(s, x, n, E::splat(s, magic), out, ahead) },
        };
        let mut lanes = [0.0; 16];
        store64(s, acc[0], &mut lanes, 0);
        store64(s, acc[1], &mut lanes, 8);
        lanes
    }
}

/// [`block_sum`] with each exponential begun before the one before it is ended: of 16-bit numbers, where the level has a
/// loop of its own for others.
///
/// # Safety
/// As [`block_sum`].
#[inline(always)]
unsafe fn overlapped<E: Element, S: Simd, X: Source<E>>(
    s: S,
    x: X,
    n: usize,
    magic: E::V<S>,
    out: *mut E::T,
    ahead: isize,
) -> Acc<S> {
    let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
    let whole = n / E::WIDTH * E::WIDTH;
    let lag = whole.min(LAG * E::WIDTH);
    macro_rules! begin {
        ($i:expr) => {{
            x.prefetch($i, ahead);
            // SAFETY: `i + WIDTH <= n`.
            exp_begin::<E, S>(s, unsafe { x.load(s, $i) }, None, magic)
        }};
    }
    macro_rules! end {
        ($begun:expr, $i:expr) => {
            // SAFETY: as above.
            unsafe { E::store(s, exp_end::<E, S>(s, $begun), out.add($i)) };
        };
    }
    macro_rules! add {
        ($i:expr) => {
            // SAFETY: as above.
            acc = unsafe { E::accumulate_from(s, acc, out.add($i).cast_const()) };
        };
    }
    if whole > 0 {
        let mut begun = begin!(0);
        let mut i = E::WIDTH;
        while i < lag {
            let next = begin!(i);
            end!(begun, i - E::WIDTH);
            begun = next;
            i += E::WIDTH;
        }
        while i < whole {
            let next = begin!(i);
            end!(begun, i - E::WIDTH);
            begun = next;
            add!(i - lag);
            i += E::WIDTH;
        }
        end!(begun, i - E::WIDTH);
    }
    let mut i = whole - lag;
    while i < whole {
        add!(i);
        i += E::WIDTH;
    }
    let before = Before::<E, S>::new(s, E::ZERO, None);
    // SAFETY: the caller's promise; what is before `whole` is done.
    unsafe { add_rest::<E, S, X, PLAIN>(s, acc, x, (whole, n), before, magic, out) }
}

/// [`block_sum`] with two exponentials under way at any time, or three at the last, partial vector, of at least [`OVERLAPPED`]
/// vectors. With `NEXT` also the maximum of the `n` elements at `next`, as [`block_max`] has it: they are read while the
/// processor computes.
///
/// # Safety
/// As [`block_sum`]; `n` is at least [`OVERLAPPED`] vectors; with `NEXT`, `next` is valid for reading `n` elements.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of `block_sum`, and one")]
unsafe fn overlapped_pairs<E: Element, S: Simd, X: Source<E>, const HOW: u8, const NEXT: bool>(
    s: S,
    x: X,
    n: usize,
    before: Before<E, S>,
    magic: E::V<S>,
    out: *mut E::T,
    ahead: isize,
    next: *const E::T,
) -> (Acc<S>, E::V<S>) {
    let mut acc: Acc<S> = [Double::splat(s, 0.0); 2];
    let mut max = E::splat(s, E::NEG_INF);
    let whole = n / E::WIDTH * E::WIDTH;
    macro_rules! begin {
        ($i:expr) => {{
            x.prefetch($i, ahead);
            if NEXT {
                // SAFETY: `i + WIDTH <= n`.
                max = E::max(s, unsafe { E::load(s, next.add($i)) }, max);
            }
            // SAFETY: as above.
            before.begin::<HOW>(s, unsafe { x.load(s, $i) }, magic)
        }};
    }
    macro_rules! end {
        ($begun:expr, $i:expr) => {
            // SAFETY: as above.
            unsafe { E::store(s, exp_end::<E, S>(s, $begun), out.add($i)) };
        };
    }
    macro_rules! add {
        ($i:expr) => {
            // SAFETY: as above.
            acc = unsafe { E::accumulate_from(s, acc, out.add($i).cast_const()) };
        };
    }
    let lag = LAG * E::WIDTH;
    let mut begun = [begin!(0), begin!(E::WIDTH)];
    let mut i = 2 * E::WIDTH;
    macro_rules! pair {
        () => {
            let first = begin!(i);
            end!(begun[0], i - 2 * E::WIDTH);
            let second = begin!(i + E::WIDTH);
            end!(begun[1], i - E::WIDTH);
            begun = [first, second];
            i += 2 * E::WIDTH;
        };
    }
    while i < lag + 2 * E::WIDTH && i + 2 * E::WIDTH <= whole {
        pair!();
    }
    while i + 2 * E::WIDTH <= whole {
        pair!();
        add!(i - lag - 4 * E::WIDTH);
        add!(i - lag - 3 * E::WIDTH);
    }
    let mut added = i.saturating_sub(lag + 2 * E::WIDTH);
    if i < whole {
        let last = begin!(i);
        end!(begun[0], i - 2 * E::WIDTH);
        begun = [begun[1], last];
        i += E::WIDTH;
    }
    // What is left, less than a vector; if nothing is, `rest` is not used. (No closure: it would be a function without the
    // instruction set.)
    let mut rest = begun[1];
    if whole < n {
        if NEXT {
            // (Some elements of the vector before it again.)
            // SAFETY: there are at least as many as a vector has.
            max = E::max(s, unsafe { E::load(s, next.add(n - E::WIDTH)) }, max);
        }
        // SAFETY: `n - whole < WIDTH` elements are left.
        rest = before.begin::<HOW>(s, unsafe { x.load_first(s, whole, n - whole) }, magic);
    }
    end!(begun[0], i - 2 * E::WIDTH);
    end!(begun[1], i - E::WIDTH);
    while added < whole {
        add!(added);
        added += E::WIDTH;
    }
    if whole < n {
        let e = exp_end::<E, S>(s, rest);
        // SAFETY: as above.
        unsafe { E::store_first(s, e, out.add(whole), n - whole) };
        acc = E::accumulate(s, acc, e);
    }
    (acc, max)
}

/// Writes [`exp_scaled`] of `n` elements, whole vectors, to `out`, which may be `x`. With `KEPT` none is so small that its
/// exponential is cut off.
///
/// # Safety
/// `x` is valid for reading and `out` for writing `n` elements.
#[inline(always)]
unsafe fn exponentials<E: Element, S: Simd, const KEPT: bool>(
    s: S,
    x: *const E::T,
    n: usize,
    magic: E::V<S>,
    out: *mut E::T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if !E::exponentials::<S, KEPT>(s, x, n, magic, out) {
            for i in (0..n).step_by(E::WIDTH) {
                E::store(s, exp_scaled::<E, S>(s, E::load(s, x.add(i)), magic), out.add(i));
            }
        }
    }
}

/// The reference of rows with these maxima; a lower bound stands in for -inf and NaN.
#[inline(always)]
pub(crate) fn reference<E: Element, S: Simd>(s: S, max: E::V<S>) -> E::V<S> {
    let n = E::round(s, E::mul(s, max, E::splat(s, E::LOG2E)));
    let bottom = E::splat(s, E::from_f64(-2.0 * E::to_f64(E::MAX_LIMIT)));
    E::sub(s, E::max(s, n, bottom), E::splat(s, E::OFFSET))
}

/// The largest lane.
#[inline(always)]
pub(crate) fn reduce_max<E: Element, S: Simd>(s: S, v: E::V<S>) -> E::T {
    let mut lanes = [E::ZERO; MAX_WIDTH];
    // SAFETY: `lanes` holds a vector.
    unsafe { E::store(s, v, lanes.as_mut_ptr()) };
    let mut half = E::WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn first<E: Element, S: Simd>(s: S, v: E::V<S>) -> E::T {
    let mut lanes = [E::ZERO; MAX_WIDTH];
    // SAFETY: `lanes` holds a vector.
    unsafe { E::store(s, v, lanes.as_mut_ptr()) };
    lanes[0]
}

/// The rows of a group, one lane each, and what the operations need of each. Lanes beyond the rows, up to a whole
/// vector, hold numbers that nobody uses. Any bits are a group: it lies in memory that is used again and again.
#[repr(C)]
pub(crate) struct Group<E: Element> {
    n: usize,
    pub(crate) max: [E::T; GROUP],
    pub(crate) shift: [E::T; GROUP],
    pub(crate) reference: [E::T; GROUP],
    hi: [f64; GROUP],
    lo: [f64; GROUP],
    /// `sum - e_max`: the sum without one occurrence of the maximum.
    pub(crate) others: [f64; GROUP],
    /// What `others` lacks by rounding, for `f64`.
    pub(crate) others_low: [f64; GROUP],
    /// `1 / sum`, and for `f64` what it lacks by rounding.
    pub(crate) inverse: [f64; GROUP],
    pub(crate) inverse_low: [f64; GROUP],
    /// `log(sum) - log(e_max)`, so that logsumexp = max + log.
    pub(crate) log: [f64; GROUP],
    /// What `log` lacks by rounding, for `f64`.
    pub(crate) log_low: [f64; GROUP],
    /// Not zero where the temperature may be another than 1; only then the fields below mean anything.
    tempered: usize,
    /// The reciprocal of the temperature, in two parts.
    heat: [[E::T; GROUP]; 2],
    /// The same, unrounded.
    cooling: [[f64; GROUP]; 2],
    /// For a kernel's weights, as `(high, low)`.
    pub(crate) weights: [[f64; GROUP]; 2],
    _element: PhantomData<E>,
}

impl<E: Element> Group<E> {
    /// Begins with `n` rows.
    #[inline(always)]
    pub(crate) fn start(&mut self, n: usize) {
        self.n = n;
        let zero = RowSum { max: E::ZERO, shift: E::ZERO, reference: E::ZERO, hi: 1.0, lo: 0.0 };
        (n..self.lanes()).for_each(|i| self.set(i, &zero));
    }

    /// Takes the temperatures of `n` rows from `first` on.
    #[inline(always)]
    pub(crate) fn temper(&mut self, temperature: &Temperature, first: usize, n: usize) {
        self.tempered = usize::from(!temperature.is_one());
        if self.tempered != 0 {
            for i in 0..n.next_multiple_of(E::WIDTH).min(GROUP) {
                let inverse = if i < n { temperature.inverse(first + i) } else { (1.0, 0.0) };
                (self.cooling[0][i], self.cooling[1][i]) = inverse;
                [self.heat[0][i], self.heat[1][i]] = heat::<E>(inverse);
            }
        }
    }

    /// The reciprocal of the temperature of row `i`, unless that is 1.
    #[inline(always)]
    pub(crate) fn heat(&self, i: usize) -> Option<[E::T; 2]> {
        (self.tempered != 0).then(|| [self.heat[0][i], self.heat[1][i]])
    }

    /// A difference of two logits of row `i`, divided by the temperature.
    #[inline(always)]
    pub(crate) fn cooled(&self, i: usize, difference: f64) -> f64 {
        if self.tempered == 0 { difference } else { difference * self.cooling[0][i] }
    }

    /// The reciprocal of the temperature of row `i` as `(high, low)`.
    #[inline(always)]
    pub(crate) fn cooling(&self, i: usize) -> (f64, f64) {
        if self.tempered == 0 { (1.0, 0.0) } else { (self.cooling[0][i], self.cooling[1][i]) }
    }

    /// The exponentials of logits of the rows at `j..j + WIDTH`, on the scale of the stored ones.
    #[inline(always)]
    pub(crate) fn exponentials<S: Simd>(&self, s: S, x: E::V<S>, j: usize) -> E::V<S> {
        let x = E::sub(s, x, Self::load(s, &self.shift, j));
        let magic = magic::<E, S>(s, Self::load(s, &self.reference, j));
        if self.tempered == 0 {
            exp_scaled::<E, S>(s, x, magic)
        } else {
            exp_tempered::<E, S>(s, x, self.heats(s, j), magic)
        }
    }

    /// [`Group::heat`] of the rows at `j..j + WIDTH`; not numbers to be used where the temperature is 1.
    #[inline(always)]
    pub(crate) fn heats<S: Simd>(&self, s: S, j: usize) -> [E::V<S>; 2] {
        [Self::load(s, &self.heat[0], j), Self::load(s, &self.heat[1], j)]
    }

    /// The rows, rounded up to whole vectors.
    #[inline(always)]
    pub(crate) fn lanes(&self) -> usize {
        self.n.next_multiple_of(E::WIDTH).min(GROUP)
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, i: usize, sum: &RowSum<E::T>) {
        self.max[i] = sum.max;
        self.shift[i] = sum.shift;
        self.reference[i] = sum.reference;
        self.hi[i] = sum.hi;
        self.lo[i] = sum.lo;
    }

    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> RowSum<E::T> {
        RowSum {
            max: self.max[i],
            shift: self.shift[i],
            reference: self.reference[i],
            hi: self.hi[i],
            lo: self.lo[i],
        }
    }

    /// Lanes `j..j + WIDTH` of one of the arrays of elements.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(s: S, a: &[E::T; GROUP], j: usize) -> E::V<S> {
        let lanes: &[E::T] = &a[j..j + E::WIDTH];
        // SAFETY: a vector of elements.
        unsafe { E::load(s, lanes.as_ptr()) }
    }

    /// The reverse of [`Group::load`].
    #[inline(always)]
    pub(crate) fn store<S: Simd>(s: S, v: E::V<S>, a: &mut [E::T; GROUP], j: usize) {
        let lanes: &mut [E::T] = &mut a[j..j + E::WIDTH];
        // SAFETY: a vector of elements.
        unsafe { E::store(s, v, lanes.as_mut_ptr()) }
    }

    /// `1 / sum` for every row.
    #[inline(always)]
    pub(crate) fn finish_inverse<S: Simd>(&mut self, s: S) {
        for j in (0..self.lanes()).step_by(E::WIDTH) {
            let inverse = E::inverse(s, E::load_wide(s, &self.hi, &self.lo, j));
            E::store_wide(s, inverse, &mut self.inverse, &mut self.inverse_low, j);
        }
    }

    /// `1 / sum` of the rows at `j..j + WIDTH`.
    #[inline(always)]
    pub(crate) fn inverses<S: Simd>(&self, s: S, j: usize) -> Acc<S> {
        E::load_wide(s, &self.inverse, &self.inverse_low, j)
    }

    /// `1 / sum` of row `i` as `(high, low)`.
    #[inline(always)]
    pub(crate) fn inverse_pair(&self, i: usize) -> (f64, f64) {
        (self.inverse[i], if E::COMPENSATED { self.inverse_low[i] } else { 0.0 })
    }

    /// `others` and `log` from it; bit `i` of the result is set where row `i` is dominated: then neither is right.
    #[inline(always)]
    pub(crate) fn finish_log<S: Simd>(&mut self, s: S, len: usize) -> u64 {
        let threshold = if len > 1 { E::dominated(len) } else { f64::NEG_INFINITY };
        let mut dominated = 0;
        for j in (0..self.lanes()).step_by(E::WIDTH) {
            let peak = self.peak(s, j);
            let sum = E::load_wide(s, &self.hi, &self.lo, j);
            let others = E::without(s, sum, peak);
            dominated |= u64::from(E::below(s, others, sum, threshold)) << j;
            E::store_wide(s, others, &mut self.others, &mut self.others_low, j);
            let log = log_ratio::<E, S>(s, others, E::wide(s, peak));
            E::store_wide(s, log, &mut self.log, &mut self.log_low, j);
        }
        dominated
    }

    /// `others`, without `log`; bit `i` of the result is set where row `i` is dominated: then it is not right.
    #[inline(always)]
    pub(crate) fn finish_others<S: Simd>(&mut self, s: S, len: usize) -> u64 {
        let threshold = if len > 1 { E::dominated(len) } else { f64::NEG_INFINITY };
        let mut dominated = 0;
        for j in (0..self.lanes()).step_by(E::WIDTH) {
            let sum = E::load_wide(s, &self.hi, &self.lo, j);
            let others = E::without(s, sum, self.peak(s, j));
            dominated |= u64::from(E::below(s, others, sum, threshold)) << j;
            E::store_wide(s, others, &mut self.others, &mut self.others_low, j);
        }
        dominated
    }

    /// The stored exponentials of the maxima of rows `j..j + WIDTH`.
    #[inline(always)]
    pub(crate) fn peak<S: Simd>(&self, s: S, j: usize) -> E::V<S> {
        self.exponentials(s, Self::load(s, &self.max, j), j)
    }

    /// Replaces what [`Group::finish_log`] found for the others of dominated rows; [`Group::log_again`] must follow.
    #[inline(always)]
    pub(crate) fn set_others(&mut self, i: usize, (high, low): (f64, f64)) {
        let others = high + low;
        (self.others[i], self.others_low[i]) = (others, low - (others - high));
    }

    /// `log` of the rows whose bits are set, from `others`.
    #[inline(always)]
    pub(crate) fn log_again<S: Simd>(&mut self, s: S, rows: u64) {
        for j in (0..self.lanes()).step_by(E::WIDTH) {
            if rows >> j & first_bits(E::WIDTH) == 0 {
                continue;
            }
            let others = E::load_wide(s, &self.others, &self.others_low, j);
            let log = log_ratio::<E, S>(s, others, E::wide(s, self.peak(s, j)));
            E::store_wide(s, log, &mut self.log, &mut self.log_low, j);
        }
    }

    /// What `log` of row `i` lacks by rounding.
    #[inline(always)]
    pub(crate) fn log_low(&self, i: usize) -> f64 {
        if E::COMPENSATED { self.log_low[i] } else { 0.0 }
    }

    /// Writes logsumexp of all rows, right where they are not special.
    ///
    /// # Safety
    /// `per_row` is valid for writing a result for each.
    #[inline(always)]
    pub(crate) unsafe fn put_logsumexp(&self, per_row: *mut f64) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.tempered == 0 {
                put_each(self.n, per_row, |i| self.plain_logsumexp(i));
            } else {
                put_each(self.n, per_row, |i| self.logsumexp(i));
            }
        }
    }

    #[inline(always)]
    fn plain_logsumexp(&self, i: usize) -> f64 {
        let (sum, e) = two_sum(E::to_f64(self.max[i]), self.log[i]);
        sum + (e + self.log_low(i))
    }

    /// logsumexp of row `i`, not special: the maximum and the logarithm, whose sum may cancel.
    #[inline(always)]
    pub(crate) fn logsumexp(&self, i: usize) -> f64 {
        if self.tempered == 0 {
            return self.plain_logsumexp(i);
        }
        let max = E::to_f64(self.max[i]);
        let (max, low) = mul_pairs((max, 0.0), self.cooling(i));
        let (sum, e) = two_sum(max, self.log[i]);
        if sum.is_finite() { sum + (e + (low + self.log_low(i))) } else { sum }
    }

    /// Bit `i` is set where row `i` is special.
    #[inline(always)]
    pub(crate) fn special<S: Simd>(&self, s: S) -> u64 {
        let mut usual = 0;
        for j in (0..self.lanes()).step_by(E::WIDTH) {
            usual |= u64::from(self.finite(s, j)) << j;
        }
        !usual & first_bits(self.n)
    }

    /// Bit `i` is set where the maximum and the sum of row `j + i` are finite, `i < WIDTH`.
    #[inline(always)]
    fn finite<S: Simd>(&self, s: S, j: usize) -> u32 {
        let max = Self::load(s, &self.max, j);
        let mut finite = E::bits(s, E::lt(s, E::splat(s, E::NEG_INF), max))
            & E::bits(s, E::lt(s, max, E::splat(s, E::from_f64(f64::INFINITY))));
        for i in (0..E::WIDTH).step_by(8) {
            // False for NaN.
            let sum = Double::lt(s, load64(s, &self.hi, j + i), Double::splat(s, f64::INFINITY));
            finite &= !(0xff << i) | Double::bits(s, sum) << i;
        }
        finite
    }
}

/// Writes the results of `n` rows of a group, 8 at a time.
///
/// # Safety
/// `per_row` is valid for writing `n <= GROUP` results.
#[inline(always)]
pub(crate) unsafe fn put_each(n: usize, per_row: *mut f64, result: impl Fn(usize) -> f64) {
    for j in (0..n).step_by(8) {
        // (In memory of their own, so that the compiler makes vectors of them.)
        let mut some = [0.0; 8];
        for (i, some) in some.iter_mut().enumerate() {
            *some = result(j + i);
        }
        if n - j >= 8 {
            // SAFETY: the caller's promise.
            unsafe { per_row.add(j).cast::<[f64; 8]>().write(some) };
        } else {
            for (i, &some) in some.iter().enumerate().take(n - j) {
                // SAFETY: as above.
                unsafe { per_row.add(j + i).write(some) };
            }
        }
    }
}

/// The first `n <= 64` bits.
#[inline(always)]
pub(crate) fn first_bits(n: usize) -> u64 {
    if n < 64 { (1 << n) - 1 } else { u64::MAX }
}

/// Bit `i` is set where a maximum, divided by its temperature, is so large, finite or not, that the row must be shifted.
#[inline(always)]
fn far_from_zero<E: Element, S: Simd>(s: S, quotient: E::V<S>, tempered: bool) -> u32 {
    let share = if tempered { TEMPERED } else { 1.0 };
    let limit = E::splat(s, E::from_f64(E::to_f64(E::MAX_LIMIT) * share));
    let below = E::lt(s, quotient, E::sub(s, E::splat(s, E::ZERO), limit));
    E::bits(s, E::lt(s, limit, quotient)) | E::bits(s, below)
}

/// The sums of the `counted` rows of a group of at most `BLOCK` elements each; their exponentials go to where `rows`
/// says. Bit `i` of the result is set where row `i` must be shifted: its sum is wrong.
struct ShortRows<'a, E: Element, X> {
    rows: &'a Rows<E>,
    group: &'a mut Group<E>,
    counted: u64,
    store: bool,
    source: PhantomData<X>,
}

/// Up to so many rows at a time their maxima and sums are reduced one by one, and beyond by a transposition.
pub(crate) const FEW: usize = 4;
/// Elements of a row from which on so few are taken at a time: what their maximum has read is then still in the
/// first-level cache.
pub(crate) const LONG: usize = 256;
/// So many of such rows at a time where the maxima of the next rows are found meanwhile: those of the first have to be found
/// before.
const CHAINED: usize = 2;

impl<E: Element, X: Source<E>> Task for ShortRows<'_, E, X> {
    type Out = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        // (Kernels with a temperature do not read 16-bit numbers.)
        if X::HALVES || self.group.tempered == 0 {
            self.sums::<S, PLAIN>(s)
        } else {
            self.sums::<S, TEMPER>(s)
        }
    }
}

impl<E: Element, X: Source<E>> ShortRows<'_, E, X> {
    #[inline(always)]
    fn sums<S: Simd, const HOW: u8>(self, s: S) -> u64 {
        let ShortRows { rows, group, counted, store, .. } = self;
        let mut unkept = MaybeUninit::<Block>::uninit();
        let zero = Double::splat(s, 0.0);
        let mut far = 0;
        let chained = overlaps::<E, S>(rows.len) && !X::HALVES && rows.maxima.is_none();
        let step = if rows.len < LONG {
            E::WIDTH
        } else if chained {
            CHAINED
        } else {
            FEW
        };
        debug_assert!(rows.len >= LONG || !X::HALVES && rows.maxima.is_none(), "few rows at a time");
        // The maxima of the next rows, as far as they are known already.
        let (mut next, mut known) = ([E::splat(s, E::ZERO); MAX_WIDTH], 0u64);
        for j in (0..rows.n).step_by(step) {
            let n = (rows.n - j).min(step);
            let mut max = [E::splat(s, E::ZERO); MAX_WIDTH];
            if rows.maxima.is_none() {
                for (i, max) in max.iter_mut().enumerate().take(n) {
                    if known >> (j + i) & 1 == 1 {
                        *max = next[i];
                    } else if counted >> (j + i) & 1 == 1 {
                        let low = E::splat(s, E::NEG_INF);
                        // SAFETY: a row has `len` elements.
                        *max = unsafe { X::of(rows, j + i).max(s, rows.len, low) };
                    }
                }
            }
            let mut lanes = [E::ZERO; MAX_WIDTH];
            let max = if n <= FEW {
                for i in 0..n {
                    lanes[i] = match rows.maxima {
                        // SAFETY: there is one for each row.
                        Some(maxima) => unsafe { maxima.add(j + i).read() },
                        None => reduce_max::<E, S>(s, max[i]),
                    };
                }
                // SAFETY: the array holds a vector.
                unsafe { E::load(s, lanes.as_ptr()) }
            } else {
                E::transpose(s, &mut max[..E::WIDTH]);
                let mut half = E::WIDTH / 2;
                while half > 0 {
                    for i in 0..half {
                        max[i] = E::max(s, max[i], max[i + half]);
                    }
                    half /= 2;
                }
                max[0]
            };
            let quotient = if HOW == TEMPER {
                let mut heats = [E::ZERO; MAX_WIDTH];
                heats[..n].copy_from_slice(&group.heat[0][j..j + n]);
                // SAFETY: the array holds a vector.
                E::mul(s, max, unsafe { E::load(s, heats.as_ptr()) })
            } else {
                max
            };
            far |= (u64::from(far_from_zero::<E, S>(s, quotient, HOW == TEMPER)) & first_bits(n)) << j;
            let reference = reference::<E, S>(s, quotient);
            if n <= FEW {
                let mut references = [E::ZERO; MAX_WIDTH];
                // SAFETY: the array holds a vector.
                unsafe { E::store(s, reference, references.as_mut_ptr()) };
                for i in 0..n {
                    (group.max[j + i], group.shift[j + i]) = (lanes[i], E::ZERO);
                    group.reference[j + i] = references[i];
                }
            } else {
                Group::<E>::store(s, max, &mut group.max, j);
                Group::<E>::store(s, E::splat(s, E::ZERO), &mut group.shift, j);
                Group::<E>::store(s, reference, &mut group.reference, j);
            }
            // SAFETY: the array holds a vector.
            unsafe { E::store(s, magic::<E, S>(s, reference), lanes.as_mut_ptr()) };
            let mut sums = [[zero; 2]; MAX_WIDTH];
            for (i, sum) in sums.iter_mut().enumerate().take(n) {
                if counted >> (j + i) & 1 == 1 {
                    let (x, kept) = (X::of(rows, j + i), rows.stored(j + i));
                    let out = if store && !kept.is_null() { kept } else { unkept.as_mut_ptr().cast() };
                    let magic = E::splat(s, lanes[i]);
                    let heat = if HOW == TEMPER { group.heat(j + i) } else { None };
                    let before = Before::new(s, E::ZERO, heat);
                    let later = j + i + step;
                    if chained && later < rows.n && counted >> later & 1 == 1 {
                        let (ahead, then) = (rows.ahead, rows.x(0, later));
                        // SAFETY: as below; every row has `len` elements, enough to overlap.
                        (*sum, next[i]) = unsafe {
                            overlapped_pairs::<E, S, X, HOW, true>(
                                s, x, rows.len, before, magic, out, ahead, then,
                            )
                        };
                        known |= 1 << later;
                        continue;
                    }
                    // SAFETY: as above; `unkept` has room for a block, a row's memory for a row.
                    *sum =
                        unsafe { block_sum::<E, S, X, HOW>(s, x, rows.len, before, magic, out, rows.ahead) };
                }
            }
            if n <= FEW {
                for i in 0..n {
                    (group.hi[j + i], group.lo[j + i]) = E::reduce(s, sums[i]);
                }
            } else {
                let sums = E::reduce_all(s, &sums[..E::WIDTH]);
                E::store_wide(s, sums, &mut group.hi, &mut group.lo, j);
            }
        }
        far & first_bits(rows.n)
    }
}

/// [`group_sums`], of the `counted` rows alone.
///
/// # Safety
/// As [`group_sums`].
#[inline(always)]
unsafe fn counted_sums<E: Element, S: Simd, X: Source<E>>(
    s: S,
    rows: &Rows<E>,
    group: &mut Group<E>,
    counted: u64,
    store: bool,
) {
    let mut one_by_one = counted;
    if rows.len <= E::BLOCK && rows.len > 0 {
        let source = PhantomData::<X>;
        one_by_one &= s.call(ShortRows { rows, group: &mut *group, counted, store, source });
    }
    group.start(rows.n);
    while one_by_one != 0 {
        let i = one_by_one.trailing_zeros() as usize;
        one_by_one &= one_by_one - 1;
        let out = if store { rows.stored(i) } else { std::ptr::null_mut() };
        let elements = || Elements { x: rows.row(s, i), skip: None };
        let sum = sum_of(s, X::of(rows, i), rows.len, group.heat(i), out, rows.ahead, elements);
        group.set(i, &sum);
    }
}

/// The sums of the `counted` rows, and their exponentials where `rows` says, if `store`.
///
/// # Safety
/// The pointers of `rows` are valid for what [`Rows`] says.
#[inline(always)]
pub(crate) unsafe fn group_sums<E: Element, S: Simd>(
    s: S,
    rows: &Rows<E>,
    group: &mut Group<E>,
    temperature: &Temperature,
    counted: u64,
    store: bool,
) {
    group.temper(temperature, rows.first, rows.n);
    debug_assert!(rows.halves.is_none() || group.tempered == 0, "16-bit numbers are not divided");
    let counted = counted & first_bits(rows.n);
    // SAFETY: the caller's promise.
    unsafe {
        match rows.halves.as_ref().filter(|_| E::HALVES).map(|halves| halves.format) {
            None => counted_sums::<E, S, Elements<E>>(s, rows, group, counted, store),
            Some(Half::F16) => counted_sums::<E, S, Numbers<false>>(s, rows, group, counted, store),
            Some(Half::Bf16) => counted_sums::<E, S, Numbers<true>>(s, rows, group, counted, store),
        }
    }
    let mut skipped = !counted & first_bits(rows.n);
    while skipped != 0 {
        let i = skipped.trailing_zeros() as usize;
        skipped &= skipped - 1;
        group.set(i, &RowSum { max: E::ZERO, shift: E::ZERO, reference: E::ZERO, hi: 1.0, lo: 0.0 });
    }
}

/// The sums of `WIDTH` rows of at most `BLOCK` elements stored side by side, element `c` of all rows at
/// `x + c * WIDTH`, into the lanes of a group from `j` on. Their exponentials go to `e`, which may be `x`. Bit `i` of
/// the result is set where row `i` must be computed by [`row_sum`] instead.
///
/// # Safety
/// `x` is valid for reading and `e` for writing `len * WIDTH` elements, `len >= 1`.
#[inline(always)]
pub(crate) unsafe fn tile_sum<E: Element, S: Simd>(
    s: S,
    x: *const E::T,
    e: *mut E::T,
    len: usize,
    group: &mut Group<E>,
    j: usize,
) -> u64 {
    debug_assert!((1..=E::BLOCK).contains(&len), "a tile has one block");
    // SAFETY: the caller's promise.
    let max = unsafe { tile_max::<E, S>(s, x, len) };
    let tempered = group.tempered != 0;
    let quotient = if tempered { E::mul(s, max, group.heats(s, j)[0]) } else { max };
    let reference = reference::<E, S>(s, quotient);
    let magic = magic::<E, S>(s, reference);
    if tempered {
        let heat = group.heats(s, j);
        for i in (0..len * E::WIDTH).step_by(E::WIDTH) {
            // SAFETY: `i + WIDTH <= len * WIDTH`.
            unsafe { E::store(s, exp_tempered::<E, S>(s, E::load(s, x.add(i)), heat, magic), e.add(i)) };
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { exponentials::<E, S, false>(s, x, len * E::WIDTH, magic, e) };
    }
    // SAFETY: the caller's promise.
    let sum = unsafe { if len <= NEAR { tree::<E, S>(s, e, len) } else { lane_sum::<E, S>(s, e, len) } };
    Group::<E>::store(s, max, &mut group.max, j);
    Group::<E>::store(s, E::splat(s, E::ZERO), &mut group.shift, j);
    Group::<E>::store(s, reference, &mut group.reference, j);
    E::store_wide(s, sum, &mut group.hi, &mut group.lo, j);
    u64::from(
        far_from_zero::<E, S>(s, quotient, tempered) | !group.finite(s, j) & first_bits(E::WIDTH) as u32,
    ) << j
}

/// [`tile_sum`] for all tiles of a band; the exponentials replace the logits if `STORE`.
///
/// # Safety
/// As [`tile_sum`], for each of them; a band that is not to be replaced has one operand.
#[inline(always)]
pub(crate) unsafe fn band_sums<E: Element, S: Simd, const STORE: bool>(
    s: S,
    band: &Band<E>,
    group: &mut Group<E>,
    temperature: &Temperature,
) -> u64 {
    let mut unusual = 0;
    group.temper(temperature, band.first, band.n);
    group.start(band.n);
    for j in (0..band.n).step_by(E::WIDTH) {
        let x = band.tile(0, j);
        let e = if STORE { x } else { band.spare() };
        // SAFETY: the caller's promise.
        unusual |= unsafe { tile_sum::<E, S>(s, x, e, band.len, group, j) };
    }
    unusual
}

/// The sums of [`Dense`] rows, one for each group, all with one reference, and their exponentials in `e`. True where they
/// are right; false when a row is special or shifted, or when a term would be cut off: then, and only then, the common
/// reference could show.
///
/// # Safety
/// The pointers of `dense` are valid for what it says.
#[inline(always)]
pub(crate) unsafe fn dense_sums<E: Element, S: Simd>(
    s: S,
    dense: &Dense<E>,
    sums: &mut [MaybeUninit<Acc<S>>; MAX_GROUPS],
) -> bool {
    let elements = dense.groups * dense.len * E::WIDTH;
    // Two chains: one would wait for itself.
    const CHAINS: usize = 2;
    let (mut max, mut min) = ([E::splat(s, E::NEG_INF); CHAINS], [E::splat(s, E::MAX); CHAINS]);
    let mut i = 0;
    macro_rules! vector {
        ($j:expr) => {
            // SAFETY: `i + WIDTH <= elements`.
            let x = unsafe { E::load(s, dense.x.add(i)) };
            (max[$j], min[$j]) = (E::max(s, x, max[$j]), E::min(s, x, min[$j]));
            i += E::WIDTH;
        };
    }
    while i + CHAINS * E::WIDTH <= elements {
        vector!(0);
        vector!(1);
    }
    while i < elements {
        vector!(0);
    }
    for i in 1..CHAINS {
        (max[0], min[0]) = (E::max(s, max[0], max[i]), E::min(s, min[0], min[i]));
    }
    let top = E::splat(s, reduce_max::<E, S>(s, max[0]));
    // Within half of the limit the maximum of every row is within the limit itself. NaN has been passed over.
    let half = E::splat(s, E::from_f64(E::to_f64(E::MAX_LIMIT) / 2.0));
    let floor = E::max(s, E::sub(s, E::splat(s, E::ZERO), half), E::sub(s, top, E::splat(s, E::REACH)));
    let outside = E::bits(s, E::lt(s, half, top)) | E::bits(s, E::lt(s, min[0], floor));
    if outside != 0 {
        return false;
    }
    let magic = magic::<E, S>(s, reference::<E, S>(s, top));
    // SAFETY: the caller's promise. No term is cut off.
    unsafe { exponentials::<E, S, true>(s, dense.x, elements, magic, dense.e) };
    let zero = Double::splat(s, 0.0);
    let mut numbers = 0xff;
    for (g, place) in sums.iter_mut().enumerate().take(dense.groups) {
        // SAFETY: the caller's promise.
        let sum = unsafe { E::reduce_rows(s, dense.e.add(g * dense.len * E::WIDTH), dense.len) };
        // False for NaN.
        numbers &= Double::bits(s, Double::lt(s, zero, sum[0]));
        if !E::COMPENSATED {
            numbers &= Double::bits(s, Double::lt(s, zero, sum[1]));
        }
        place.write(sum);
    }
    numbers == 0xff
}

/// The maximum of each row of a tile; NaN is passed over.
///
/// # Safety
/// As [`tile_sum`].
#[inline(always)]
pub(crate) unsafe fn tile_max<E: Element, S: Simd>(s: S, x: *const E::T, len: usize) -> E::V<S> {
    // Two chains: one would wait for itself.
    let mut max = [E::splat(s, E::NEG_INF); 2];
    for c in 0..len {
        // SAFETY: `c < len`.
        max[c & 1] = E::max(s, unsafe { E::load(s, x.add(c * E::WIDTH)) }, max[c & 1]);
    }
    E::max(s, max[0], max[1])
}

/// The rows' sums over the exponentials of a tile of more than `WIDTH` classes.
///
/// # Safety
/// As [`tile_sum`].
#[inline(always)]
unsafe fn lane_sum<E: Element, S: Simd>(s: S, x: *const E::T, len: usize) -> Acc<S> {
    let mut lanes = [MaybeUninit::<Acc<S>>::uninit(); MAX_WIDTH];
    for c in 0..len {
        let lane = &mut lanes[c % E::WIDTH];
        // SAFETY: `c < len`; the first round writes every lane.
        unsafe {
            let p = x.add(c * E::WIDTH);
            let sum = if c < E::WIDTH {
                E::widened_from(s, p)
            } else {
                E::accumulate_from(s, lane.assume_init(), p)
            };
            lane.write(sum);
        }
    }
    // SAFETY: the first `min(len, WIDTH)` lanes are written.
    unsafe { merge_lanes::<E, S>(s, &mut lanes, len) }
}

/// Up to so many classes the sums of all lanes are found in registers. (Beyond, a lane's classes are so far apart that
/// they would push one another out of the first-level cache.)
const NEAR: usize = 64;

/// [`lane_sum`] lane by lane, and the tree of [`merge_lanes`] from its leaves up, in registers.
///
/// # Safety
/// As [`tile_sum`].
#[inline(always)]
unsafe fn tree<E: Element, S: Simd>(s: S, x: *const E::T, len: usize) -> Acc<S> {
    // (Unknown to the compiler, which would keep a pointer for each lane and move all of them from tile to tile.)
    let x = opaque(x);
    macro_rules! node {
        ($l:expr) => {{
            // SAFETY: only lanes below `len` are reached.
            let mut sum = unsafe { E::widened_from(s, x.add($l * E::WIDTH)) };
            let mut c = $l + E::WIDTH;
            while c < len {
                // SAFETY: `c < len`.
                sum = unsafe { E::accumulate_from(s, sum, x.add(c * E::WIDTH)) };
                c += E::WIDTH;
            }
            sum
        }};
        ($l:expr, $half:literal $(, $more:literal)*) => {
            if $l + $half < len.min(E::WIDTH) {
                let low = node!($l $(, $more)*);
                let high = node!($l + $half $(, $more)*);
                E::merge(s, low, high)
            } else {
                node!($l $(, $more)*)
            }
        };
    }
    if E::WIDTH == 16 { node!(0, 1, 2, 4, 8) } else { node!(0, 1, 2, 4) }
}

/// The tree of [`Element::reduce`] when the logical lanes are vectors over rows. Lanes without an element
/// are zero and are left out: adding zero changes nothing.
///
/// # Safety
/// The first `min(len, WIDTH)` lanes are initialised, `len >= 1`.
#[inline(always)]
pub(crate) unsafe fn merge_lanes<E: Element, S: Simd>(
    s: S,
    lanes: &mut [MaybeUninit<Acc<S>>; MAX_WIDTH],
    len: usize,
) -> Acc<S> {
    let mut used = len.min(E::WIDTH);
    let mut half = E::WIDTH / 2;
    while half > 0 {
        for l in half..used {
            // SAFETY: `l < used`, and merging writes no lane beyond.
            let sum = unsafe { E::merge(s, lanes[l - half].assume_init(), lanes[l].assume_init()) };
            lanes[l - half].write(sum);
        }
        used = used.min(half);
        half /= 2;
    }
    // SAFETY: `len >= 1`.
    unsafe { lanes[0].assume_init() }
}
