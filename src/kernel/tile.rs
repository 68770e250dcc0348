//! A tile of a product: a few vectors of rows by a few columns, whose sums stay in registers.
//!
//! Every entry is the sum of its terms in their order, whatever tile it is in: the bits of a column
//! do not depend on the columns beside it, nor on the width of the vectors.

use super::vectors::Vectors;

/// The left factor's rows of a tile.
#[derive(Clone, Copy)]
pub(super) enum Left<'a, T> {
    /// Whole vectors of the rows of one term after another.
    Copied(&'a [T]),
    /// Whole vectors of rows, read in place.
    InPlace(Strided<'a, T>),
}

/// Columns of the widest tile.
pub(super) const MOST_COLUMNS: usize = 8;

/// The right factor's columns of a tile.
#[derive(Clone, Copy)]
pub(super) enum Right<'a, T> {
    /// The columns of one term after another.
    Copied(&'a [T]),
    /// Term l of column j is `numbers[starts[j] + l]`.
    ByColumns {
        numbers: &'a [T],
        starts: [usize; MOST_COLUMNS],
    },
    /// The columns of a term, read in place.
    ByTerms(Strided<'a, T>),
}

/// `step` numbers per term, of which those from `first` on are used.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub(super) numbers: &'a [T],
    pub(super) step: usize,
    pub(super) first: usize,
}

/// What all tiles of one panel of rows share.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a, K: Vectors> {
    pub(super) vectors: K,
    pub(super) left: Left<'a, K::Number>,
    pub(super) rows: usize,
    pub(super) terms: usize,
    /// Distance between the columns of the result.
    pub(super) stride: usize,
    /// Whether the sums are added to what is there.
    pub(super) add: bool,
    /// Whether the result is probably not in a cache.
    pub(super) far: bool,
}

/// The rows of each term, as V vectors.
trait Rows<'a, X: 'a, const V: usize> {
    fn each(self) -> impl Iterator<Item = &'a [X; V]>;
}

/// The factors of each term, one per column.
trait Factors<T> {
    /// Where the factors of one term are.
    type Term: Copy;

    fn each(&self) -> impl Iterator<Item = Self::Term>;

    fn factor(&self, term: Self::Term, j: usize) -> T;
}

/// One array per term.
struct Arrays<'a, X, const N: usize>(&'a [[X; N]]);

impl<'a, X, const V: usize> Rows<'a, X, V> for Arrays<'a, X, V> {
    #[inline(always)]
    fn each(self) -> impl Iterator<Item = &'a [X; V]> {
        self.0.iter()
    }
}

impl<'a, T: Copy, const W: usize> Factors<T> for Arrays<'a, T, W> {
    type Term = &'a [T; W];

    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = Self::Term> {
        self.0.iter()
    }

    #[inline(always)]
    fn factor(&self, term: Self::Term, j: usize) -> T {
        term[j]
    }
}

/// The vectors of rows that stay in place.
struct InPlace<'a, K: Vectors>(Strided<'a, K::Number>);

impl<'a, K: Vectors, const V: usize> Rows<'a, K::Vector, V> for InPlace<'a, K> {
    #[inline(always)]
    fn each(self) -> impl Iterator<Item = &'a [K::Vector; V]> {
        let Strided {
            numbers,
            step,
            first,
        } = self.0;
        numbers.chunks_exact(step).map(move |rows| {
            let rows = K::view(&rows[first..][..V * K::LANES]);
            rows.first_chunk().expect("whole vectors")
        })
    }
}

/// The factors of a term as they stand in memory, one after another.
struct ByTerms<'a, T, const W: usize>(Strided<'a, T>);

impl<'a, T: Copy, const W: usize> Factors<T> for ByTerms<'a, T, W> {
    type Term = &'a [T; W];

    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = Self::Term> {
        let Strided {
            numbers,
            step,
            first,
        } = self.0;
        numbers.chunks_exact(step).map(move |factors| {
            let factors = &factors[first..][..W];
            factors.first_chunk().expect("a factor per column")
        })
    }

    #[inline(always)]
    fn factor(&self, term: Self::Term, j: usize) -> T {
        term[j]
    }
}

/// One slice per column.
struct ByColumns<'a, T, const W: usize>([&'a [T]; W]);

impl<T: Copy, const W: usize> Factors<T> for ByColumns<'_, T, W> {
    type Term = usize;

    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = usize> {
        0..self.0[0].len()
    }

    #[inline(always)]
    fn factor(&self, l: usize, j: usize) -> T {
        self.0[j][l]
    }
}

/// A tile of this many columns, with its sums named one by one: sums in an array that a loop
/// indexes would go through memory.
macro_rules! width {
    ($name:ident, $inlined:ident, $sums:ident, $width:literal; $($sum:ident $j:literal),*) => {
        impl<'a, K: Vectors> Tile<'a, K> {
            #[inline(always)]
            fn $sums<const V: usize>(
                &self,
                left: impl Rows<'a, K::Vector, V>,
                right: impl Factors<K::Number>,
                out: &mut [K::Number],
            ) {
                let vectors = self.vectors;
                let zero = vectors.splat(num_traits::zero());
                $(let mut $sum = [zero; V];)*
                for (rows, term) in left.each().zip(right.each()) {
                    $({
                        let factor = vectors.splat(right.factor(term, $j));
                        for (sum, &x) in $sum.iter_mut().zip(rows) {
                            *sum = vectors.multiply_add(x, factor, *sum);
                        }
                    })*
                }
                $(self.put(&$sum, &mut out[$j * self.stride..][..self.rows]);)*
            }

            fn $name<const V: usize>(&self, right: Right<'a, K::Number>, out: &mut [K::Number]) {
                self.vectors.apart(
                    #[inline(always)]
                    || self.$inlined::<V>(right, out),
                );
            }

            #[inline(always)]
            fn $inlined<const V: usize>(&self, right: Right<'a, K::Number>, out: &mut [K::Number]) {
                let terms = self.terms;
                // Macros, since closures might not be inlined: the lengths would be forgotten.
                macro_rules! columns {
                    ($numbers:ident, $starts:ident) => {
                        ByColumns::<_, $width>([$(&$numbers[$starts[$j]..][..terms]),*])
                    };
                }
                macro_rules! arrays {
                    ($numbers:expr, $count:expr) => {
                        Arrays(&$numbers.as_chunks::<{ $count }>().0[..terms])
                    };
                }
                match (self.left, right) {
                    (Left::Copied(left), Right::Copied(right)) => {
                        self.$sums::<V>(arrays!(K::view(left), V), arrays!(right, $width), out);
                    }
                    (Left::Copied(left), Right::ByColumns { numbers, starts }) => {
                        self.$sums::<V>(arrays!(K::view(left), V), columns!(numbers, starts), out);
                    }
                    (Left::Copied(left), Right::ByTerms(right)) => {
                        self.$sums::<V>(arrays!(K::view(left), V), ByTerms::<_, $width>(right), out);
                    }
                    (Left::InPlace(left), Right::ByColumns { numbers, starts }) => {
                        self.$sums::<V>(InPlace::<K>(left), columns!(numbers, starts), out);
                    }
                    (Left::InPlace(_), _) => {
                        unreachable!("the left factor stays in place only beside columns");
                    }
                }
            }
        }
    };
}

width!(write_8, inlined_8, sums_8, 8; s0 0, s1 1, s2 2, s3 3, s4 4, s5 5, s6 6, s7 7);
width!(write_6, inlined_6, sums_6, 6; s0 0, s1 1, s2 2, s3 3, s4 4, s5 5);
width!(write_4, inlined_4, sums_4, 4; s0 0, s1 1, s2 2, s3 3);
width!(write_1, inlined_1, sums_1, 1; s0 0);

/// A function that writes a tile.
type Write<'a, K> =
    fn(&Tile<'a, K>, Right<'a, <K as Vectors>::Number>, &mut [<K as Vectors>::Number]);

/// The number of columns of the next tile, if `left` are left and a tile has at most `most`. Tiles of six
/// columns have three or four vectors of rows: panels differ by at most one ([`Vectors::columns`]).
#[inline(always)]
pub(super) fn width(left: usize, most: usize) -> usize {
    match left {
        _ if left >= most => most,
        4.. => 4,
        _ => 1,
    }
}

impl<'a, K: Vectors> Tile<'a, K> {
    /// Writes the tile of `width` columns at the start of `out`.
    #[inline(always)]
    pub(super) fn write(&self, right: Right<'a, K::Number>, width: usize, out: &mut [K::Number]) {
        if self.far {
            for column in out.chunks(self.stride).take(width) {
                for line in column[..self.rows].chunks(K::LANES) {
                    self.vectors.fetch(line);
                }
            }
        }
        // Called by pointer: all of them inlined into one function would take minutes to compile. Tiles
        // for which a processor has too few registers are ruled out at compile time, so that no code is
        // generated for them.
        let four = K::MOST_VECTORS == 4;
        let write: Write<'a, K> = match (width, self.rows.div_ceil(K::LANES)) {
            (8, 1) if four => Self::write_8::<1>,
            (8, 2) if four => Self::write_8::<2>,
            (8, _) if four => Self::write_8::<3>,
            (6, 3) if four => Self::write_6::<3>,
            (6, _) if four => Self::write_6::<4>,
            (4, 1) => Self::write_4::<1>,
            (4, 2) => Self::write_4::<2>,
            (4, 3) => Self::write_4::<3>,
            (4, _) if four => Self::write_4::<4>,
            (_, 1) => Self::write_1::<1>,
            (_, 2) => Self::write_1::<2>,
            (_, 3) => Self::write_1::<3>,
            _ if four => Self::write_1::<4>,
            _ => unreachable!("a tile has at most {} vectors of rows", K::MOST_VECTORS),
        };
        write(self, right, out);
    }

    /// Writes the sums of one column. In a column of whole vectors every sum has a place of its own, so
    /// none goes through memory on the way.
    #[inline(always)]
    fn put<const V: usize>(&self, sums: &[K::Vector; V], column: &mut [K::Number]) {
        let vectors = self.vectors;
        let (whole, rest) = K::view_mut(column);
        if let Some(whole) = whole.first_chunk_mut::<V>() {
            for (out, &sum) in whole.iter_mut().zip(sums) {
                *out = match self.add {
                    true => vectors.add(*out, sum),
                    false => sum,
                };
            }
        } else {
            for (out, &sum) in whole.iter_mut().zip(&sums[..V - 1]) {
                *out = match self.add {
                    true => vectors.add(*out, sum),
                    false => sum,
                };
            }
            let sum = match self.add {
                true => vectors.add(vectors.load(rest), sums[V - 1]),
                false => sums[V - 1],
            };
            vectors.store(rest, sum);
        }
    }
}
