//! Vectors of a fixed logical width: one trait, one implementation per instruction set, one run-time level.
//!
//! A vector always has 64 bytes of lanes (16 `f32` or 8 `f64`), whatever the registers of
//! the processor hold: one AVX-512 register, two AVX2 registers, or an array. Every operation is defined
//! by IEEE 754 lane by lane, so all levels give the same bits:
//!
//! - `add`, `sub`, `mul`, `div`, `fma` round once, to nearest even;
//! - `max(a, b)` is `if a > b { a } else { b }`, and `min` likewise: a NaN in either operand gives `b`;
//! - the payload and the sign of a NaN are *not* defined; whoever stores a NaN stores the canonical one.
//!
//! A kernel is written once over `S: Simd` and compiled once per level: implement [`Task`] with an
//! `#[inline(always)]` body and run it by [`dispatch`]. Everything that such a body calls must be
//! `#[inline(always)]` too, or go through [`Simd::call`]; a plain function would be compiled without the
//! instruction set.
#![expect(
    unsafe_code,
    reason = "vector loads and stores take pointers; calls of functions with target features"
)]

use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

/// Bytes of a logical vector.
pub(crate) const VECTOR_BYTES: usize = 64;
/// Words of 32 bits of a logical vector.
pub(crate) const WORDS: usize = VECTOR_BYTES / 4;

/// The vector operations on lanes of type `T` that a level offers. `Self` is a token that exists only
/// when the processor has the instruction set.
pub trait Lanes<T: Copy>: Copy {
    /// A vector of 64 bytes.
    type V: Copy;
    /// One truth value per lane.
    type M: Copy;

    fn splat(self, x: T) -> Self::V;
    /// # Safety
    /// `p` is valid for reading a vector; no alignment is needed.
    unsafe fn load(self, p: *const T) -> Self::V;
    /// Loads the first `n` lanes; the others are `fill`.
    /// # Safety
    /// `p` is valid for reading `n` elements.
    unsafe fn load_first(self, p: *const T, n: usize, fill: T) -> Self::V;
    /// # Safety
    /// `p` is valid for writing a vector; no alignment is needed.
    unsafe fn store(self, v: Self::V, p: *mut T);
    /// Stores the first `n` lanes.
    /// # Safety
    /// `p` is valid for writing `n` elements.
    unsafe fn store_first(self, v: Self::V, p: *mut T, n: usize);
    /// Stores past the caches, where the level can; [`Simd::fence`] must follow before another thread reads.
    /// # Safety
    /// `p` is valid for writing a vector and aligned to `VECTOR_BYTES`.
    unsafe fn stream(self, v: Self::V, p: *mut T);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c` where the product is exact: rounded once or twice, it is the same.
    #[inline(always)]
    fn add_exact_product(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    /// `if a > b { a } else { b }`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `p * 2^k` for integral `k` with `2^k` normal; a NaN `p` stays NaN whatever `k` is.
    fn scale(self, p: Self::V, k: Self::V) -> Self::V;
    /// `if t < cut { 0 } else { p * 2^k }` for `t = MAGIC + k`, `k` integral with `2^k` normal: the low bits of
    /// `t` are the exponent's. A NaN `p` with a NaN or +inf `t` stays NaN.
    fn scale_by(self, p: Self::V, t: Self::V, cut: Self::V) -> Self::V;
    /// `scale_by(1 + w, t, cut)` with one rounding, that of the sum, for a `w` with which no result is subnormal. A NaN `w`
    /// with a NaN or +inf `t` stays NaN.
    fn scale_one_plus_by(self, w: Self::V, t: Self::V, cut: Self::V) -> Self::V;
    /// `a < b`; false when either is NaN.
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    /// `if m { a } else { b }`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// `if v is NaN { other } else { v }`.
    fn replace_nan(self, v: Self::V, other: Self::V) -> Self::V;
    /// Lane `i` is whether byte `i` is not zero.
    /// # Safety
    /// `p` is valid for reading as many bytes as there are lanes.
    unsafe fn load_mask(self, p: *const u8) -> Self::M;
    /// Bit `i` is lane `i` of the mask.
    fn bits(self, m: Self::M) -> u32;
    /// Transposes as many vectors as a vector has lanes, in place.
    fn transpose(self, rows: &mut [Self::V]);
    /// Word `i` of the result, of [`WORDS`] words of 32 bits, is word `words[i]` of `v`.
    /// # Safety
    /// `words` is valid for reading `WORDS` numbers below `WORDS`.
    unsafe fn permute(self, v: Self::V, words: *const u32) -> Self::V;
    /// Word `i` of the result is word `words[i]` of `a` followed by `b`.
    /// # Safety
    /// `words` is valid for reading `WORDS` numbers below `2 * WORDS`.
    unsafe fn permute2(self, a: Self::V, words: *const u32, b: Self::V) -> Self::V;
    /// Rows of up to so many elements are faster put side by side by permutations than by a transposition.
    const PERMUTED: usize;
    /// Puts rows of `len` elements, `step` apart and as many as a vector has lanes, side by side, one vector for each element.
    /// False, and nothing done, where the level has no better way than [`Lanes::transpose`].
    /// # Safety
    /// The rows are valid for reading `readable >= len` elements; `tile` for writing `len` vectors, rounded up to as many
    /// as a vector has lanes.
    #[inline(always)]
    unsafe fn rows_to_columns(
        self,
        _rows: *const T,
        _step: isize,
        _len: usize,
        _readable: usize,
        _tile: *mut T,
    ) -> bool {
        false
    }
    /// The reverse of [`Lanes::rows_to_columns`]. Rows that `follow` one another are written in whole registers, which end in the
    /// next row.
    /// # Safety
    /// `tile` is valid for reading what [`Lanes::rows_to_columns`] may write, the rows for writing `len` elements; `follow` only
    /// where `step` is `len`.
    #[inline(always)]
    unsafe fn columns_to_rows(
        self,
        _tile: *const T,
        _rows: *mut T,
        _step: isize,
        _len: usize,
        _follow: bool,
    ) -> bool {
        false
    }
    /// The elements of rows that follow one another, `len` vectors of as many rows as a vector has lanes, times their row's
    /// factor in two parts, `e * low + e * high` with one rounding for the sum. `row` has the words of each element's
    /// row, as for [`Lanes::permute`].
    /// # Safety
    /// `e` and `row` are valid for reading and `out` for writing `len` vectors; the words are below [`WORDS`].
    #[inline(always)]
    unsafe fn scale_rows(
        self,
        e: *const T,
        len: usize,
        [high, low]: [Self::V; 2],
        row: *const u32,
        out: *mut T,
    ) {
        let lanes = VECTOR_BYTES / size_of::<T>();
        for i in 0..len {
            // SAFETY: the caller's promise.
            unsafe {
                let row = row.add(i * WORDS);
                let (high, low) = (self.permute(high, row), self.permute(low, row));
                let v = self.load(e.add(i * lanes));
                self.store(self.fma(v, high, self.mul(v, low)), out.add(i * lanes));
            }
        }
    }
    /// Writes [`exp_scaled`](crate::math::exp_scaled) of `n` elements, whole vectors, to `out`, which may be `x`. With `KEPT` no
    /// element is so small that its exponential is cut off, nor infinite; NaN stays NaN. False, and nothing done,
    /// where the level has no way of its own.
    /// # Safety
    /// `x` is valid for reading and `out` for writing `n` elements.
    #[inline(always)]
    unsafe fn exponentials<const KEPT: bool>(
        self,
        _x: *const T,
        _n: usize,
        _magic: Self::V,
        _out: *mut T,
    ) -> bool {
        false
    }
    /// The sum of the exponentials of `n` elements of moderate size, as a yardstick, where the level has a way of its own.
    /// Asks for the cache line `ahead` of each vector.
    /// # Safety
    /// `x` is valid for reading `n` elements, whole pairs of vectors.
    #[inline(always)]
    unsafe fn bare_exp_sum(self, _x: *const T, _n: usize, _magic: T, _ahead: isize) -> Option<Self::V> {
        None
    }
}

/// A level: vectors of `f32` and `f64`, and the passage between them.
pub trait Simd: Lanes<f32> + Lanes<f64> {
    /// Whether sums of exponentials gain from a function of their own, and there from [`Simd::exp_sum`],
    /// [`Simd::exp_sum_compensated`] or, for 16-bit numbers, [`crate::math::exp_begin`]: where registers are few and the
    /// processor waits for results.
    const SUMS_APART: bool;
    /// Whether two exponentials of a sum are best under way at any time, and the maximum of a later row looked for meanwhile:
    /// where registers are many.
    const OVERLAPS: bool;
    /// Results of a group of rows that stay in the caches nearest to the processor, beside their operands.
    const GROUP_BYTES: usize;
    /// The 16 lanes as two `f64` vectors, exactly.
    fn widen(self, v: <Self as Lanes<f32>>::V) -> [<Self as Lanes<f64>>::V; 2];
    /// [`Simd::widen`] of the 16 lanes at `p`.
    /// # Safety
    /// `p` is valid for reading a vector.
    unsafe fn widen_from(self, p: *const f32) -> [<Self as Lanes<f64>>::V; 2];
    /// [`Simd::widen_from`], but zero from lane `n` on.
    /// # Safety
    /// `p` is valid for reading a vector, all of it.
    unsafe fn widen_first_from(self, p: *const f32, n: usize) -> [<Self as Lanes<f64>>::V; 2];
    /// The sums of 16 rows of `len` numbers that follow one another, as [`crate::float::Element::reduce_rows`] has them,
    /// where the level has a way of its own.
    /// # Safety
    /// `len` is at least 1; `p` is valid for reading `16 * len` elements and 3 more.
    #[inline(always)]
    unsafe fn sum_rows(self, _p: *const f32, _len: usize) -> Option<[<Self as Lanes<f64>>::V; 2]> {
        None
    }
    /// The same of 8 rows of `f64`, with their low parts.
    /// # Safety
    /// `len` is at least 1; `p` is valid for reading `8 * len` elements and 3 more.
    #[inline(always)]
    unsafe fn sum_rows_compensated(
        self,
        _p: *const f64,
        _len: usize,
    ) -> Option<[<Self as Lanes<f64>>::V; 2]> {
        None
    }
    /// Writes [`exp_scaled`](crate::math::exp_scaled) of `n` elements to `out`, and gives their sum as
    /// [`accumulate`](crate::float::Element::accumulate) has it, vector by vector, where the level has a way of its own.
    /// Asks for the cache line `ahead` of each vector. `x` and `out` may be the same.
    /// # Safety
    /// `x` is valid for reading and `out` for writing `n` elements.
    #[inline(always)]
    unsafe fn exp_sum(
        self,
        _x: *const f32,
        _n: usize,
        _magic: f32,
        _out: *mut f32,
        _ahead: isize,
    ) -> Option<[<Self as Lanes<f64>>::V; 2]> {
        None
    }
    /// The same of `f64`, with what the sum lacks.
    /// # Safety
    /// As for [`Simd::exp_sum`].
    #[inline(always)]
    unsafe fn exp_sum_compensated(
        self,
        _x: *const f64,
        _n: usize,
        _magic: f64,
        _out: *mut f64,
        _ahead: isize,
    ) -> Option<[<Self as Lanes<f64>>::V; 2]> {
        None
    }
    /// Two `f64` vectors rounded to one `f32` vector.
    fn narrow(self, v: [<Self as Lanes<f64>>::V; 2]) -> <Self as Lanes<f32>>::V;
    /// 16 numbers of 16 bits.
    type Halves: Copy;
    /// # Safety
    /// `p` is valid for writing 16 elements; no alignment is needed.
    unsafe fn store_halves(self, v: Self::Halves, p: *mut u16);
    /// As [`Lanes::stream`].
    /// # Safety
    /// `p` is valid for writing 16 elements and aligned to their 32 bytes.
    unsafe fn stream_halves(self, v: Self::Halves, p: *mut u16);
    /// 16 numbers of binary16 (5 bits of exponent), exactly.
    /// # Safety
    /// `p` is valid for reading 16 elements; no alignment is needed.
    unsafe fn load_f16(self, p: *const u16) -> <Self as Lanes<f32>>::V;
    /// Rounded to binary16, to nearest even. A NaN must be the canonical one, and so is the result, `0x7e00`.
    fn narrow_f16(self, v: <Self as Lanes<f32>>::V) -> Self::Halves;
    /// 16 numbers of bfloat16 (the upper half of an `f32`), exactly.
    /// # Safety
    /// As [`Simd::load_f16`].
    unsafe fn load_bf16(self, p: *const u16) -> <Self as Lanes<f32>>::V;
    /// Rounded to bfloat16, to nearest even, by integer arithmetic: the processors' own instruction takes subnormal
    /// numbers for zero. A NaN must be the canonical one, and so is the result, `0x7fc0`.
    fn narrow_bf16(self, v: <Self as Lanes<f32>>::V) -> Self::Halves;
    /// `(m, k)` with `v = m * 2^k` and `1 <= m < 2`, for lanes that are positive and normal; other lanes
    /// give anything.
    fn split_exponent(self, v: <Self as Lanes<f64>>::V)
    -> (<Self as Lanes<f64>>::V, <Self as Lanes<f64>>::V);
    /// Orders streamed stores before what follows.
    fn fence(self);
    /// Runs the task as a function of its own, compiled for this level.
    fn call<K: Task>(self, task: K) -> K::Out;
}

/// Asks for the cache line at `p` to be brought to the second-level cache. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, part of the target's baseline, that accesses nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The same pointer, of which the compiler knows nothing: neither what it points to nor that it is the same.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "there is no instruction; other targets have no block")]
pub(crate) fn opaque<T>(p: *const T) -> *const T {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut p = p;
        // SAFETY: no instruction.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) p, options(nomem, nostack, preserves_flags)) };
        p
    }
    // (`black_box` passes it through memory, for which a processor waits.)
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::hint::black_box(p)
}

/// A piece of work that is compiled for each level.
pub trait Task {
    /// What the task returns.
    type Out;
    /// The body; `#[inline(always)]` in every implementation.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No instruction beyond the target's baseline; fused multiply-add in software where it is missing.
    Portable = 1,
    /// AVX2, FMA and F16C (x86-64 from 2013 on).
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL (x86-64 servers from 2017 on, Zen 4 and later).
    Avx512 = 3,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// The name used by `LOGITKIT_SIMD`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// Whether this processor has the level.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The levels of this processor, lowest first.
    #[must_use]
    pub fn available() -> Vec<Level> {
        Level::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    fn best() -> Level {
        Level::ALL.into_iter().rev().find(|level| level.is_available()).unwrap_or(Level::Portable)
    }
}

/// The level in use; 0 before the first question.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that the kernels run at: the best one of the processor unless [`set_level`] lowered it.
#[must_use]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Portable,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let best = Level::best();
            LEVEL.store(best as u8, Ordering::Relaxed);
            best
        }
    }
}

/// Makes all kernels of the process run at `level` and returns the former one. The results have the same
/// bits at every level; this is for tests and measurements.
///
/// # Panics
/// When the processor lacks the level.
pub fn set_level(new: Level) -> Level {
    assert!(new.is_available(), "this processor lacks the level {}", new.name());
    let former = level();
    LEVEL.store(new as u8, Ordering::Relaxed);
    former
}

/// `[f(a[0]), f(a[1]), ..]`: as `map` of an array, which is a call of a function where the compiler sees fit.
#[inline(always)]
pub(crate) fn map_each<A: Copy, B: Copy, const N: usize>(a: [A; N], f: impl Fn(A) -> B) -> [B; N] {
    let mut all = [f(a[0]); N];
    for i in 1..N {
        all[i] = f(a[i]);
    }
    all
}

/// Runs a task at the level in use.
#[inline]
pub(crate) fn dispatch<K: Task>(task: K) -> K::Out {
    match level() {
        Level::Portable => portable::Portable.call(task),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `LEVEL` only ever holds a level that `is_available` has confirmed.
        Level::Avx2 => unsafe { avx2::Avx2::assume() }.call(task),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512::Avx512::assume() }.call(task),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only available levels are stored"),
    }
}
