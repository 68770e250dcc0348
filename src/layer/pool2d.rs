//! Layers that summarise the windows of an image, channel by channel.

use rand::Rng;

use super::window2d::Axis;
use super::windows::check_image;
use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, Window2d, check_dimension};
use crate::check::option;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Columns, Execution, Scalar, Write, WriteColumns, add_to_pairs, vectorise};

/// Terms of a mean that are added in plain arithmetic. Sums of them are added in twice the precision.
const TERMS: usize = 384;

/// The windows of every channel of an image.
#[derive(Debug, Clone, PartialEq)]
struct Pool {
    image: [usize; 3],
    window: Window2d,
    y: Axis,
    x: Axis,
    /// Positions along y and x.
    count: [usize; 2],
}

impl Pool {
    fn new(image: [usize; 3], window: Window2d) -> Result<Self, Error> {
        check_image(image)?;
        let window = window.or_stride(window.kernel());
        let [y, x] = window.axes()?;
        let [_, height, width] = image;
        let count = [y.count(height)?, x.count(width)?];
        for (axis, count, side) in [(&y, count[0], height), (&x, count[1], width)] {
            let fits = (0..count).all(|position| !axis.inside(position, side).is_empty());
            let allowed = "so small that every window covers a value of the image";
            option("Window2d::padding", axis.padding as f64, fits, allowed)?;
        }
        Ok(Self {
            image,
            window,
            y,
            x,
            count,
        })
    }

    fn described(own: &Description) -> Result<Self, Error> {
        Self::new(
            super::conv2d::described_image(own, "input")?,
            Window2d::described(own)?,
        )
    }

    fn describe(&self, kind: &str) -> Description {
        let own = Description::new(kind).with("input", &self.image[..]);
        self.window.describe(own)
    }

    fn channels(&self) -> usize {
        self.image[0]
    }

    fn output_shape(&self) -> Shape {
        let [down, across] = self.count;
        [self.channels(), down, across].into()
    }

    fn input_dim(&self) -> usize {
        Shape::from(self.image).size()
    }

    fn output_dim(&self) -> usize {
        self.output_shape().size()
    }

    fn entries(&self) -> usize {
        self.y.kernel * self.x.kernel
    }

    fn cost(&self) -> usize {
        self.output_dim().saturating_mul(self.entries())
    }

    /// A bound on the number of windows that read the same value.
    fn most_readers(&self) -> usize {
        self.y.most_readers(self.count[0]) * self.x.most_readers(self.count[1])
    }

    /// (down, across) of every position, in the order of the output.
    fn positions(&self) -> impl Iterator<Item = (usize, usize)> {
        let [down, across] = self.count;
        (0..across).flat_map(move |q| (0..down).map(move |p| (p, q)))
    }

    /// Where the channels of each value of a window begin in the image: row by row.
    fn reads(&self, (down, across): (usize, usize)) -> impl Iterator<Item = usize> {
        let [channels, height, width] = self.image;
        let rows = self.y.reads(down, height);
        rows.flat_map(move |y| {
            let columns = self.x.reads(across, width);
            columns.map(move |x| channels * (y + height * x))
        })
    }

    /// The smallest number of values of a window that are not padding.
    fn fewest(&self) -> usize {
        let [_, height, width] = self.image;
        let fewest = |axis: &Axis, count, side| {
            let inside = (0..count).map(|position| axis.inside(position, side).len());
            inside.min().unwrap_or(1)
        };
        fewest(&self.y, self.count[0], height) * fewest(&self.x, self.count[1], width)
    }

    /// The number of values of a window that are not padding.
    fn inside(&self, (down, across): (usize, usize)) -> usize {
        let [_, height, width] = self.image;
        self.y.inside(down, height).len() * self.x.inside(across, width).len()
    }
}

/// The methods that both kinds of pooling share.
macro_rules! pooling {
    ($of:ident) => {
        fn input_shape(&self) -> Shape {
            self.$of.image.into()
        }

        fn output_shape(&self) -> Shape {
            self.$of.output_shape()
        }

        fn parameters(&self) -> Vec<ParameterGroup> {
            Vec::new()
        }

        fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

        fn cost(&self) -> Option<usize> {
            Some(self.$of.cost())
        }
    };
}

/// The maximum of every window, channel by channel (PyTorch's `MaxPool2d`).
///
/// ẑ\[c, p, q] = max_{i,j} z\[c, s_y p + d_y i − π_y, s_x q + d_x j − π_x]
///
/// over the values of the [`Window2d`] that lie within the image: padding is never the maximum. The
/// stride is the window's size unless it is set. Among equal values the first one gets the derivative,
/// in reading order: row by row, each from left to right. A window that contains NaN gives NaN.
///
/// Input and output have the shape `[channels, height, width]`, with the first index fastest. There are
/// no parameters. ‖∂f/∂z‖² is at most the largest number of windows that share a value.
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::MaxPool2d;
///
/// let pool = MaxPool2d::new([6, 28, 28], 2)?;
/// assert_eq!(Layer::<f32>::output_shape(&pool).extents(), [6, 14, 14]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPool2d {
    pool: Pool,
}

impl MaxPool2d {
    /// The maxima of the windows of an image `[channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a window that
    /// is larger than the padded image, that can lie outside the image, or whose stride or dilation is 0.
    pub fn new(input: [usize; 3], window: impl Into<Window2d>) -> Result<Self, Error> {
        let pool = Pool::new(input, window.into())?;
        Ok(Self { pool })
    }

    /// The layer that [`Layer::description`] describes.
    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        let pool = Pool::described(own)?;
        Ok(Self { pool })
    }

    /// Calls `work` with every example, its part of the result, and memory for one value per channel.
    fn for_each_example<T: Scalar>(
        &self,
        execution: Execution,
        n: usize,
        data: (WriteColumns<'_, T>, Columns<'_, T>),
        work: impl Fn(usize, Write<'_, T>, &mut [T]) + Sync,
    ) {
        let cost = self.pool.cost();
        execution.for_each_block(n, cost, data, |range, (mut write, open)| {
            for (i, example) in range.enumerate() {
                let own = i * write.size..(i + 1) * write.size;
                work(
                    example,
                    write.write.part(own),
                    &mut open.values[..self.pool.channels()],
                );
            }
        });
    }
}

impl<T: Scalar> Layer<T> for MaxPool2d {
    pooling!(pool);

    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(0, self.pool.channels().saturating_mul(batch))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let pool = &self.pool;
        let (channels, dim, size) = (pool.channels(), pool.input_dim(), pool.output_dim());
        let data = Columns::new(output, size);
        let n = input.len() / dim;
        let work = |range: std::ops::Range<usize>, output: Columns<'_, T>| {
            let examples = input[range.start * dim..range.end * dim].chunks_exact(dim);
            for (z, output) in examples.zip(output.values.chunks_exact_mut(size)) {
                for (at, out) in pool.positions().zip(output.chunks_exact_mut(channels)) {
                    let mut reads = pool.reads(at).map(|from| &z[from..from + channels]);
                    if let Some(first) = reads.next() {
                        out.copy_from_slice(first);
                    }
                    reads.for_each(|z| larger_of(out, z));
                }
            }
        };
        context.execution.for_each_block(n, pool.cost(), data, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if d_input.is_skip() {
            return;
        }
        let pool = &self.pool;
        let (channels, dim, size) = (pool.channels(), pool.input_dim(), pool.output_dim());
        let n = at.input.len() / dim;
        let data = (
            WriteColumns::new(d_input, dim),
            Columns::new(&mut work[..channels * n], channels),
        );
        self.for_each_example(at.context.execution, n, data, |example, d_input, left| {
            let Some(sums) = d_input.accumulate() else {
                return;
            };
            let z = &at.input[example * dim..][..dim];
            for (i, position) in pool.positions().enumerate() {
                let own = example * size + i * channels..example * size + (i + 1) * channels;
                left.copy_from_slice(&cotangent[own.clone()]);
                for from in pool.reads(position) {
                    let here = from..from + channels;
                    give(
                        &mut sums[here.clone()],
                        left,
                        &z[here],
                        &at.output[own.clone()],
                    );
                }
            }
        });
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let Some(v) = v_input else {
            return tangent.fill(T::zero());
        };
        let pool = &self.pool;
        let (channels, dim, size) = (pool.channels(), pool.input_dim(), pool.output_dim());
        let n = at.input.len() / dim;
        let data = (
            WriteColumns::new(Write::Set(tangent), size),
            Columns::new(&mut work[..channels * n], channels),
        );
        self.for_each_example(at.context.execution, n, data, |example, tangent, open| {
            let Some(tangent) = tangent.accumulate() else {
                return;
            };
            let own = example * dim..(example + 1) * dim;
            let (z, v) = (&at.input[own.clone()], &v[own]);
            let output = &at.output[example * size..][..size];
            let outputs = output.chunks_exact(channels);
            let positions = tangent.chunks_exact_mut(channels).zip(outputs);
            for (position, (tangent, output)) in pool.positions().zip(positions) {
                open.fill(T::one());
                for from in pool.reads(position) {
                    let here = from..from + channels;
                    take(tangent, open, &v[here.clone()], (&z[here], output));
                }
            }
        });
    }

    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(T::of(self.pool.most_readers() as f64))
    }

    fn description(&self) -> Option<Description> {
        Some(self.pool.describe("MaxPool2d"))
    }
}

fn is_nan<T: Scalar>(x: T) -> bool {
    x.partial_cmp(&x).is_none()
}

/// top ← max(top, values), where NaN counts as the largest.
fn larger_of<T: Scalar>(top: &mut [T], values: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for (top, &value) in top.iter_mut().zip(values) {
                let above = value > *top || (is_nan(value) && !is_nan(*top));
                *top = if above { value } else { *top };
            }
        },
    );
}

/// Whether a value is the maximum of its window.
#[inline(always)]
fn is_top<T: Scalar>(value: T, top: T) -> bool {
    value == top || (is_nan(value) && is_nan(top))
}

/// Adds what is left of the cotangent to the sums whose value is the maximum; then nothing is left.
fn give<T: Scalar>(sums: &mut [T], left: &mut [T], values: &[T], top: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            let places = sums.iter_mut().zip(left);
            for ((sum, left), (&value, &top)) in places.zip(values.iter().zip(top)) {
                let here = is_top(value, top);
                *sum += if here { *left } else { T::zero() };
                *left = if here { T::zero() } else { *left };
            }
        },
    );
}

/// Takes the direction of the value that is the maximum, unless one has been taken: `open` is 1 until
/// then.
fn take<T: Scalar>(tangent: &mut [T], open: &mut [T], v: &[T], (values, top): (&[T], &[T])) {
    vectorise(
        #[inline(always)]
        move || {
            let places = tangent.iter_mut().zip(open).zip(v);
            for (((tangent, open), &v), (&value, &top)) in places.zip(values.iter().zip(top)) {
                let here = is_top(value, top) && !open.is_zero();
                *tangent = if here { v } else { *tangent };
                *open = if here { T::zero() } else { *open };
            }
        },
    );
}

/// The mean of every window, channel by channel (PyTorch's `AvgPool2d`).
///
/// ẑ\[c, p, q] = (1/m) Σ_{i,j} z\[c, s_y p + d_y i − π_y, s_x q + d_x j − π_x]
///
/// with the [`Window2d`]'s stride s (its size unless it is set), dilation d and padding π; z is 0
/// outside the image. m is the size of the window, so that padding counts as zeros (PyTorch's default,
/// `count_include_pad=True`); [`excluding_padding`](Self::excluding_padding) divides by the number of
/// values within the image.
///
/// Input and output have the shape `[channels, height, width]`, with the first index fastest. There are
/// no parameters. The bound on ‖∂f/∂z‖² is (windows that share a value) / (smallest m).
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::AveragePool2d;
///
/// let pool = AveragePool2d::new([16, 10, 10], 2)?;
/// assert_eq!(Layer::<f32>::output_shape(&pool).extents(), [16, 5, 5]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AveragePool2d {
    pool: Pool,
    includes_padding: bool,
}

impl AveragePool2d {
    /// The means of the windows of an image `[channels, height, width]`, padding included.
    ///
    /// # Errors
    /// Those of [`MaxPool2d::new`].
    pub fn new(input: [usize; 3], window: impl Into<Window2d>) -> Result<Self, Error> {
        let pool = Pool::new(input, window.into())?;
        Ok(Self {
            pool,
            includes_padding: true,
        })
    }

    /// Divides by the number of values within the image.
    pub fn excluding_padding(self) -> Self {
        Self {
            includes_padding: false,
            ..self
        }
    }

    /// The layer that [`Layer::description`] describes.
    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Ok(Self {
            pool: Pool::described(own)?,
            includes_padding: own.flag("includes padding")?,
        })
    }

    /// 1/m at a position.
    fn share<T: Scalar>(&self, position: (usize, usize)) -> T {
        let count = match self.includes_padding {
            true => self.pool.entries(),
            false => self.pool.inside(position),
        };
        T::of(1.0 / count as f64)
    }

    /// Work values of one example.
    fn work(&self) -> usize {
        pairs(self.pool.entries(), self.pool.channels())
    }

    fn means<T: Scalar>(
        &self,
        execution: Execution,
        input: &[T],
        output: &mut [T],
        work: &mut [T],
    ) {
        let (pool, own) = (&self.pool, self.work());
        let (channels, dim, size) = (pool.channels(), pool.input_dim(), pool.output_dim());
        let n = input.len() / dim;
        let data = (
            Columns::new(output, size),
            Columns::new(&mut work[..own * n], own),
        );
        execution.for_each_block(n, pool.cost(), data, |range, (output, work)| {
            let (examples, work) = (range.start * dim..range.end * dim, &mut work.values[..own]);
            let examples = input[examples].chunks_exact(dim);
            for (z, output) in examples.zip(output.values.chunks_exact_mut(size)) {
                for (position, out) in pool.positions().zip(output.chunks_exact_mut(channels)) {
                    mean(out, self.share(position), z, pool.reads(position), work);
                }
            }
        });
    }
}

impl<T: Scalar> Layer<T> for AveragePool2d {
    pooling!(pool);

    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(0, self.work().saturating_mul(batch))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        self.means(context.execution, input, output, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        if d_input.is_skip() {
            return;
        }
        let pool = &self.pool;
        let (channels, dim, size) = (pool.channels(), pool.input_dim(), pool.output_dim());
        let data = WriteColumns::new(d_input, dim);
        let work = |range: std::ops::Range<usize>, d_input: WriteColumns<'_, T>| {
            let Some(sums) = d_input.write.accumulate() else {
                return;
            };
            let examples = cotangent[range.start * size..range.end * size].chunks_exact(size);
            for (g, sums) in examples.zip(sums.chunks_exact_mut(dim)) {
                for (position, g) in pool.positions().zip(g.chunks_exact(channels)) {
                    let share = self.share(position);
                    for to in pool.reads(position) {
                        add_share(&mut sums[to..to + channels], share, g);
                    }
                }
            }
        };
        let n = at.input.len() / dim;
        at.context
            .execution
            .for_each_block(n, pool.cost(), data, work);
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        match v_input {
            Some(v) => self.means(at.context.execution, v, tangent, work),
            None => tangent.fill(T::zero()),
        }
    }

    /// The largest row sum times the largest column sum: at most 1, and the number of windows that
    /// share a value times 1/m.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        let fewest = match self.includes_padding {
            true => self.pool.entries(),
            false => self.pool.fewest(),
        };
        let readers = self.pool.most_readers();
        let terms = self.pool.entries().min(TERMS).max(readers);
        Some(T::of(readers as f64 / fewest as f64) * room::<T>(terms))
    }

    fn description(&self) -> Option<Description> {
        let own = self.pool.describe("AveragePool2d");
        Some(own.with("includes padding", self.includes_padding))
    }
}

/// sums ← sums + share · values.
fn add_share<T: Scalar>(sums: &mut [T], share: T, values: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += share * value;
            }
        },
    );
}

/// Work values for the [`mean`] of this many terms.
fn pairs(terms: usize, channels: usize) -> usize {
    match terms > TERMS {
        true => channels.saturating_mul(2),
        false => 0,
    }
}

/// out ← share · Σ of the channels that begin at `reads`. `work` holds two values for each channel, or
/// none for few terms.
fn mean<T: Scalar>(
    out: &mut [T],
    share: T,
    z: &[T],
    reads: impl Iterator<Item = usize>,
    work: &mut [T],
) {
    out.fill(T::zero());
    work.fill(T::zero());
    for (k, from) in reads.enumerate() {
        if k > 0 && k.is_multiple_of(TERMS) {
            add_to_pairs(work, out);
            out.fill(T::zero());
        }
        add_share(out, share, &z[from..from + out.len()]);
    }
    if !work.is_empty() {
        add_to_pairs(work, out);
        out.copy_from_slice(&work[..out.len()]);
    }
}

/// The margin of a bound for rounding errors in sums of this many terms.
fn room<T: Scalar>(terms: usize) -> T {
    T::one() + T::of(8.0 * terms as f64) * T::default_epsilon()
}

/// The mean of every channel over all positions: ẑ_c = (1/P) Σ_p z\[c, p], from `[channels, …]` with P
/// positions to `[channels]`.
///
/// There are no parameters. ‖∂f/∂z‖² is 1/P.
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::GlobalAveragePool;
///
/// let pool = GlobalAveragePool::new([64, 7, 7])?;
/// assert_eq!(Layer::<f32>::output_shape(&pool).extents(), [64]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalAveragePool {
    input: Shape,
}

impl GlobalAveragePool {
    /// The means of the channels, the first axis of `input`.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`] for an extent of 0.
    pub fn new(input: impl Into<Shape>) -> Result<Self, Error> {
        let input = input.into();
        check_dimension("the input of a pooling layer", input.size())?;
        Ok(Self { input })
    }

    /// The layer that [`Layer::description`] describes.
    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(super::reshape::described_shape(own, "input")?)
    }

    fn channels(&self) -> usize {
        self.input.extents().first().copied().unwrap_or(1)
    }

    fn share<T: Scalar>(&self) -> T {
        T::of(self.channels() as f64 / self.input.size() as f64)
    }

    fn positions(&self) -> usize {
        self.input.size() / self.channels()
    }

    fn work(&self) -> usize {
        pairs(self.positions(), self.channels())
    }

    fn means<T: Scalar>(&self, input: &[T], output: &mut [T], work: &mut [T]) {
        let (channels, size) = (self.channels(), self.input.size());
        let work = &mut work[..self.work()];
        let examples = input.chunks_exact(size);
        for (z, output) in examples.zip(output.chunks_exact_mut(channels)) {
            let reads = (0..size).step_by(channels);
            mean(output, self.share(), z, reads, work);
        }
    }
}

impl<T: Scalar> Layer<T> for GlobalAveragePool {
    fn input_shape(&self) -> Shape {
        self.input
    }

    fn output_shape(&self) -> Shape {
        self.channels().into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::new(0, self.work())
    }

    fn cost(&self) -> Option<usize> {
        Some(self.input.size())
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        self.means(input, output, work);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        let Some(sums) = d_input.accumulate() else {
            return;
        };
        let channels = self.channels();
        let examples = sums.chunks_exact_mut(self.input.size());
        for (sums, g) in examples.zip(cotangent.chunks_exact(channels)) {
            for sums in sums.chunks_exact_mut(channels) {
                add_share(sums, self.share(), g);
            }
        }
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        match v_input {
            Some(v) => self.means(v, tangent, work),
            None => tangent.fill(T::zero()),
        }
    }

    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(self.share::<T>() * room(self.positions().min(TERMS)))
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("GlobalAveragePool").with("input", self.input.extents()))
    }
}
