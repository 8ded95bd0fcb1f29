//! Rows of a few elements that follow one another, and the same rows side by side: permutations with fixed tables.
//!
//! A block is `WIDTH` rows of `len` elements: `len` vectors either way. Each vector of the result is gathered from all
//! `len` vectors of the source by a chain of `len - 1` permutations, which for short rows are far fewer than the
//! shuffles that transpose `WIDTH` by `WIDTH` elements.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

use crate::float::Element;
use crate::simd::{Simd, WORDS};

/// The longest rows of any table.
const MOST: usize = 8;

/// One vector of word numbers for each permutation of each length up to [`MOST`].
type Table = [[u32; WORDS]; place(MOST + 1)];

/// Where the permutations of rows of `len` elements begin.
const fn place(len: usize) -> usize {
    let (mut sum, mut l) = (0, 1);
    while l < len {
        sum += l * (l - 1);
        l += 1;
    }
    sum
}

/// The table for vectors of `width` elements; `side_by_side` tells what is gathered.
const fn table(width: usize, side_by_side: bool) -> Table {
    let mut table = [[0; WORDS]; place(MOST + 1)];
    let words = WORDS / width;
    let mut len = 2;
    while len <= MOST {
        let mut at = 0;
        while at < len * (len - 1) * WORDS {
            let (vector, rest) = (at / ((len - 1) * WORDS), at % ((len - 1) * WORDS));
            let (source, word) = (rest / WORDS + 1, rest % WORDS);
            let lane = word / words;
            // The vector and the lane that hold the element.
            let (from, from_lane) = if side_by_side {
                let element = lane * len + vector;
                (element / width, element % width)
            } else {
                let element = vector * width + lane;
                (element % len, element / len)
            };
            let number = from_lane * words + word % words;
            // The first permutation takes from vectors 0 and 1, each later one from one more vector and what it has.
            let number = if from == source {
                WORDS + number
            } else if source == 1 {
                number
            } else {
                word
            };
            table[place(len) + vector * (len - 1) + source - 1][word] = number as u32;
            at += 1;
        }
        len += 1;
    }
    table
}

static TO_TILE: [Table; 2] = [table(8, true), table(16, true)];
static FROM_TILE: [Table; 2] = [table(8, false), table(16, false)];

/// Whether blocks of rows of this length are best taken by permutations at this level.
#[inline(always)]
pub(crate) fn is_short<E: Element, S: Simd>(len: usize) -> bool {
    (1..=E::permuted::<S>().min(MOST)).contains(&len)
}

/// Puts the rows of a block side by side: element `c` of row `l` to `out + c * WIDTH + l`.
///
/// # Safety
/// `len` is short, `rows` is valid for reading `len` vectors and `out` for writing them, apart from each other.
#[inline(always)]
pub(crate) unsafe fn to_tile<E: Element, S: Simd>(s: S, rows: *const E::T, len: usize, out: *mut E::T) {
    // SAFETY: the caller's promise.
    unsafe { gather::<E, S>(s, &TO_TILE[E::WIDTH / 16], rows, len, out) }
}

/// The reverse of [`to_tile`].
///
/// # Safety
/// As [`to_tile`].
#[inline(always)]
pub(crate) unsafe fn from_tile<E: Element, S: Simd>(s: S, tile: *const E::T, len: usize, out: *mut E::T) {
    // SAFETY: the caller's promise.
    unsafe { gather::<E, S>(s, &FROM_TILE[E::WIDTH / 16], tile, len, out) }
}

#[inline(always)]
unsafe fn gather<E: Element, S: Simd>(s: S, table: &Table, from: *const E::T, len: usize, out: *mut E::T) {
    let mut words = &table[place_of(len)..];
    for vector in 0..len {
        // SAFETY: there are `len` vectors.
        let mut v = unsafe { E::load(s, from) };
        for source in 1..len {
            // SAFETY: as above; the table's numbers are below twice the words of a vector.
            v = unsafe {
                E::permute2(s, v, words[source - 1].as_ptr(), E::load(s, from.add(source * E::WIDTH)))
            };
        }
        words = &words[len - 1..];
        // SAFETY: as above.
        unsafe { E::store(s, v, out.add(vector * E::WIDTH)) };
    }
}

/// [`place`] at run time.
#[inline(always)]
fn place_of(len: usize) -> usize {
    const PLACES: [usize; MOST + 1] = [0, 0, 0, place(3), place(4), place(5), place(6), place(7), place(8)];
    PLACES[len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{Double, Float, Single};
    use crate::simd::{Level, Task, dispatch, set_level};
    use std::marker::PhantomData;

    struct Round<E>(PhantomData<E>);

    impl<E: Element<T: Float>> Task for Round<E> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for len in 1..=MOST {
                let rows: Vec<E::T> = (0..len * E::WIDTH).map(|i| E::from_f64(i as f64)).collect();
                let (mut tile, mut back) = (vec![E::ZERO; rows.len()], vec![E::ZERO; rows.len()]);
                // SAFETY: all three have `len` vectors.
                unsafe {
                    to_tile::<E, S>(s, rows.as_ptr(), len, tile.as_mut_ptr());
                    from_tile::<E, S>(s, tile.as_ptr(), len, back.as_mut_ptr());
                }
                for (i, &x) in tile.iter().enumerate() {
                    assert_eq!(x, rows[i % E::WIDTH * len + i / E::WIDTH], "row of {len}");
                }
                assert_eq!(back, rows, "row of {len}");
            }
        }
    }

    #[test]
    fn there_and_back() {
        for level in Level::available() {
            let former = set_level(level);
            dispatch(Round::<Single>(PhantomData));
            dispatch(Round::<Double>(PhantomData));
            set_level(former);
        }
    }
}
