//! The windows of an image, as patches.

use std::ops::Range;

use super::window2d::Axis;
use super::{Shape, Unfold, Window2d, check_dimension};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Matrix, Scalar, vectorise};

/// The largest number of values of an image.
const MOST: usize = isize::MAX as usize / 16;

/// The windows of an image `[channels, height, width]` that a [`Conv2d`](super::Conv2d) reads, or,
/// if it has groups, the windows of a single group.
///
/// The entries of a patch are in the order of the image: channels fastest, then down the window, then
/// across it. So are the positions: down the image, then across it.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// Channels, height and width of the image.
    image: [usize; 3],
    /// The channels that are read.
    channels: Range<usize>,
    window: Window2d,
    y: Axis,
    x: Axis,
    /// Positions along y and x.
    count: [usize; 2],
    /// Rows of a window that are contiguous in the image; see [`Piece`].
    rows: usize,
}

/// Entries that are contiguous both in the patches and in the image, in some patches of a
/// [`Strip`].
struct Piece {
    /// Where they begin in the first patch, and how many there are.
    at: usize,
    len: usize,
    /// Where they begin in the image, and how far apart they are from patch to patch; `None` for
    /// padding.
    source: Option<(usize, usize)>,
    /// The patches.
    count: usize,
}

/// A column of the padded image, and positions down it.
#[derive(Clone)]
struct Strip {
    column: usize,
    down: Range<usize>,
    /// Where the entries begin in the first patch, and how far apart the patches are.
    at: usize,
    step: usize,
}

impl Windows {
    /// The windows of an image.
    pub(super) fn new(image: [usize; 3], window: Window2d) -> Result<Self, Error> {
        check_image(image)?;
        let [_, height, width] = image;
        let [y, x] = window.axes()?;
        let count = [y.count(height)?, x.count(width)?];
        Self::with_counts(image, window, count)
    }

    /// The windows at this many positions, in whatever part of the padded image they are.
    pub(super) fn with_counts(
        image: [usize; 3],
        window: Window2d,
        count: [usize; 2],
    ) -> Result<Self, Error> {
        check_image(image)?;
        let [y, x] = window.axes()?;
        let patch = Shape::from([image[0], y.kernel, x.kernel]);
        if patch.size() > MOST {
            return Err(Error::TooLarge {
                what: "a window of an image",
                rows: image[0].saturating_mul(y.kernel),
                columns: x.kernel,
            });
        }
        Ok(Self {
            image,
            channels: 0..image[0],
            window,
            rows: if y.dilation == 1 { y.kernel } else { 1 },
            y,
            x,
            count,
        })
    }

    /// The windows of the first of this many groups of channels.
    pub(super) fn first_of(&self, groups: usize) -> Self {
        let all = self.image[0];
        let size = all / groups;
        let contiguous = size == all && self.y.dilation == 1;
        Self {
            channels: 0..size,
            rows: if contiguous { self.y.kernel } else { 1 },
            ..self.clone()
        }
    }

    /// Channels, height and width of the image.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// The options of the window.
    pub fn window(&self) -> Window2d {
        self.window
    }

    /// A bound on the number of windows that read the same value.
    pub(super) fn most_readers(&self) -> usize {
        self.y.most_readers(self.count[0]) * self.x.most_readers(self.count[1])
    }

    /// Values of a column of the image with its padding; 0 without padding, where no copy is needed.
    fn padded(&self) -> usize {
        match self.y.padding {
            0 => 0,
            padding => self.image[0].saturating_mul(self.image[1] + 2 * padding),
        }
    }

    /// Whether the patches are the image itself.
    pub(super) fn is_whole(&self) -> bool {
        let plain = |axis: &Axis| (axis.kernel, axis.stride, axis.padding) == (1, 1, 0);
        plain(&self.y) && plain(&self.x) && self.channels.len() == self.image[0]
    }

    /// Calls `each` with the pieces of these entries of the patches at these positions.
    #[inline(always)]
    fn pieces(&self, entries: &Range<usize>, positions: Range<usize>, mut each: impl FnMut(Piece)) {
        let (size, parts) = (self.channels.len() * self.rows, self.y.kernel / self.rows);
        let mut start = positions.start;
        while start < positions.end {
            let (first, across) = (start % self.count[0], start / self.count[0]);
            let down = first..self.count[0].min(first + positions.end - start);
            let at = (start - positions.start) * entries.len();
            for piece in entries.start / size..entries.end.div_ceil(size) {
                let own = entries.start.max(piece * size)..entries.end.min((piece + 1) * size);
                let strip = Strip {
                    column: across * self.x.stride + piece / parts * self.x.dilation,
                    down: down.clone(),
                    at: at + own.start - entries.start,
                    step: entries.len(),
                };
                let own = own.start - piece * size..own.end - piece * size;
                self.piece(piece % parts, own, strip, &mut each);
            }
            start += down.len();
        }
    }

    /// The entries `own` of the part-th piece of a column of the window, in a strip.
    #[inline(always)]
    fn piece(&self, part: usize, own: Range<usize>, strip: Strip, mut each: impl FnMut(Piece)) {
        let Strip {
            column,
            down,
            at,
            step,
        } = strip;
        let [all, height, width] = self.image;
        let (y, rows) = (&self.y, self.rows);
        let Some(column) = column.checked_sub(self.x.padding).filter(|&x| x < width) else {
            let (len, count) = (own.len(), down.len());
            return each(Piece {
                at,
                len,
                source: None,
                count,
            });
        };
        // Rows are counted from the first row of the padding.
        let row = |position: usize| position * y.stride + part * y.dilation;
        let base = self.channels.start + all * height * column;
        // Where entry 0 would be, less `all * padding`.
        let source = |position: usize| base + all * row(position);
        let padding = all * y.padding;
        let offset = part * y.dilation;
        let high = y.padding.saturating_sub(offset).div_ceil(y.stride);
        let low = (height + y.padding).checked_sub(offset + rows);
        let low = low.map_or(0, |room| room / y.stride + 1);
        let from = high.clamp(down.start, down.end);
        let inside = from..low.clamp(from, down.end);
        let place = |position: usize| at + (position - down.start) * step;
        // A window across the edge of the image.
        let mut edge = |position: usize| {
            let row = row(position);
            let first = y.padding.saturating_sub(row).min(rows);
            let last = (height + y.padding)
                .saturating_sub(row)
                .min(rows)
                .max(first);
            let unit = self.channels.len();
            let (first, last) = (
                (unit * first).clamp(own.start, own.end),
                (unit * last).clamp(own.start, own.end),
            );
            let at = place(position);
            for (range, there) in [
                (own.start..first, false),
                (first..last, true),
                (last..own.end, false),
            ] {
                if !range.is_empty() {
                    let from = there.then(|| (source(position) + range.start - padding, 0));
                    each(Piece {
                        at: at + range.start - own.start,
                        len: range.len(),
                        source: from,
                        count: 1,
                    });
                }
            }
        };
        (down.start..inside.start).for_each(&mut edge);
        (inside.end..down.end).for_each(&mut edge);
        if !inside.is_empty() {
            each(Piece {
                at: place(inside.start),
                len: own.len(),
                source: Some((source(inside.start) + own.start - padding, all * y.stride)),
                count: inside.len(),
            });
        }
    }
}

/// Checks that an image has values, and not too many.
pub(super) fn check_image(image: [usize; 3]) -> Result<(), Error> {
    let [channels, height, width] = image;
    check_dimension("the number of channels of an image", channels)?;
    check_dimension("the height of an image", height)?;
    check_dimension("the width of an image", width)?;
    match Shape::from(image).size() <= MOST {
        true => Ok(()),
        false => Err(Error::TooLarge {
            what: "an image",
            rows: channels.saturating_mul(height),
            columns: width,
        }),
    }
}

impl Unfold for Windows {
    fn input_shape(&self) -> Shape {
        self.image.into()
    }

    fn patch_len(&self) -> usize {
        self.channels.len() * self.y.kernel * self.x.kernel
    }

    fn patch_shape(&self) -> Shape {
        [self.channels.len(), self.y.kernel, self.x.kernel].into()
    }

    fn positions(&self) -> Shape {
        self.count.into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        let [all, height, width] = self.image;
        let own = self.channels.len();
        let (channel, entry) = (self.channels.start + entry % own, entry / own);
        let at = |axis: &Axis, position: usize, entry: usize, side: usize| {
            let place = position * axis.stride + entry * axis.dilation;
            place.checked_sub(axis.padding).filter(|&at| at < side)
        };
        let (down, across) = (position % self.count[0], position / self.count[0]);
        let row = at(&self.y, down, entry % self.y.kernel, height)?;
        let column = at(&self.x, across, entry / self.y.kernel, width)?;
        Some(channel + all * (row + height * column))
    }

    fn layer_description(&self) -> Option<Description> {
        let own = Description::new("Conv2d")
            .with("input", &self.image[..])
            .with("groups", self.image[0] / self.channels.len());
        Some(self.window.describe(own))
    }

    fn unfold<T: Scalar>(
        &self,
        input: &[T],
        entries: Range<usize>,
        positions: Range<usize>,
        patches: &mut [T],
    ) {
        let step = entries.len();
        vectorise(
            #[inline(always)]
            move || {
                self.pieces(
                    &entries,
                    positions,
                    #[inline(always)]
                    |piece| copy_piece(patches, step, input, &piece),
                );
            },
        );
    }

    fn group(&self, number: usize) -> Option<Self> {
        let size = self.channels.len();
        Some(Self {
            channels: number * size..(number + 1) * size,
            ..self.clone()
        })
    }

    /// Blocks of whole columns of positions. Neighbours across the image then share all but `stride`
    /// columns of their window.
    fn shared_block(&self, most: usize) -> Option<(usize, usize)> {
        let [down, across] = self.count;
        if self.x.dilation > 1 || self.x.stride >= self.x.kernel || down * across < LEAST_SHARED {
            return None;
        }
        let column = self.channels.len() * self.y.kernel * down;
        let columns = (most / column).saturating_sub(self.x.kernel) / self.x.stride + 1;
        let parts = across.div_ceil(columns);
        let columns = across.div_ceil(parts);
        let width = (columns - 1) * self.x.stride + self.x.kernel;
        let values = column.saturating_mul(width).saturating_add(self.padded());
        Some((columns * down, values))
    }

    /// For every position down the image, the rows that its windows read, across the whole block.
    fn unfold_shared<'a, T: Scalar>(
        &self,
        input: &[T],
        positions: Range<usize>,
        shared: &'a mut [T],
    ) -> Matrix<'a, T> {
        let ([all, height, width], [down, _]) = (self.image, self.count);
        let (first, columns) = (positions.start / down, positions.len() / down);
        let across = (columns - 1) * self.x.stride + self.x.kernel;
        let column = self.channels.len() * self.y.kernel;
        let step = across * column;
        let (shared, padded) = shared.split_at_mut(down * step);
        let padded = &mut padded[..self.padded()];
        padded.fill(T::zero());
        let to = &mut *shared;
        vectorise(
            #[inline(always)]
            move || {
                for x in 0..across {
                    let place = (first * self.x.stride + x).checked_sub(self.x.padding);
                    let Some(from) = place.filter(|&x| x < width) else {
                        let rows = to.chunks_exact_mut(step);
                        rows.for_each(|row| row[x * column..][..column].fill(T::zero()));
                        continue;
                    };
                    let mut from = &input[all * height * from..][..all * height];
                    if self.y.padding > 0 {
                        padded[all * self.y.padding..][..from.len()].copy_from_slice(from);
                        from = &*padded;
                    }
                    let len = self.channels.len() * self.rows;
                    for part in 0..column / len {
                        let from = &from[self.channels.start + all * part * self.y.dilation..];
                        let runs = Runs {
                            len,
                            count: down,
                            from: all * self.y.stride,
                            to: step,
                        };
                        runs.copy(from, &mut to[x * column + part * len..]);
                    }
                }
            },
        );
        let shape = (column * self.x.kernel, positions.len());
        let leap = column * self.x.stride;
        Matrix::overlapping(shared, shape, step, (down, leap))
    }

    fn fold<T: Scalar>(&self, patches: &[T], positions: Range<usize>, sums: &mut [T]) {
        let step = self.patch_len();
        vectorise(
            #[inline(always)]
            move || {
                self.pieces(
                    &(0..step),
                    positions,
                    #[inline(always)]
                    |piece| {
                        let Some((to, by)) = piece.source else { return };
                        let patches = patches[piece.at..].chunks(step).take(piece.count);
                        for (i, patch) in patches.enumerate() {
                            let sums = &mut sums[to + i * by..][..piece.len];
                            for (sum, &value) in sums.iter_mut().zip(patch) {
                                *sum += value;
                            }
                        }
                    },
                );
            },
        );
    }
}

/// With fewer positions, a block of several examples is faster.
const LEAST_SHARED: usize = 64;

/// Copies a piece to patches that are `step` apart.
#[inline(always)]
fn copy_piece<T: Scalar>(to: &mut [T], step: usize, input: &[T], piece: &Piece) {
    let to = &mut to[piece.at..];
    let Some((from, by)) = piece.source else {
        let patches = to.chunks_mut(step).take(piece.count);
        return patches.for_each(|to| to[..piece.len].fill(T::zero()));
    };
    let runs = Runs {
        len: piece.len,
        count: piece.count,
        from: by,
        to: step,
    };
    runs.copy(&input[from..], to);
}

/// How many values, how many times, and how far apart they are at the source and at the destination.
struct Runs {
    len: usize,
    count: usize,
    from: usize,
    to: usize,
}

impl Runs {
    /// A few values are copied as two arrays that may overlap, which saves a function call.
    #[inline(always)]
    fn copy<T: Copy>(&self, from: &[T], to: &mut [T]) {
        match self.len {
            1 => self.copy_in_two::<_, 1>(from, to),
            2..=4 => self.copy_in_two::<_, 2>(from, to),
            5..=8 => self.copy_in_two::<_, 4>(from, to),
            9..=16 => self.copy_in_two::<_, 8>(from, to),
            17..=32 => self.copy_in_two::<_, 16>(from, to),
            _ => {
                for i in 0..self.count {
                    let from = &from[i * self.from..][..self.len];
                    to[i * self.to..][..self.len].copy_from_slice(from);
                }
            }
        }
    }

    /// Copies N to 2 N values at a time.
    #[inline(always)]
    fn copy_in_two<T: Copy, const N: usize>(&self, from: &[T], to: &mut [T]) {
        let len = self.len.max(N);
        for i in 0..self.count {
            let from = &from[i * self.from..][..len];
            let to = &mut to[i * self.to..][..len];
            if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
                *to = *from;
            }
            if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
                *to = *from;
            }
        }
    }
}
