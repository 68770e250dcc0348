//! Projected targets, which carry the input to every layer from the first step.

use nalgebra::DMatrix;

use crate::check::{check_result, check_room, check_rows, option};
use crate::circuit::Circuit;
use crate::data::Standardizer;
use crate::error::{Error, Quantity};
use crate::init::{Purpose, generator, orthonormal};
use crate::kernel::{Matrix, Scalar, Write, root_mean_square};

/// A chain of random orthogonal projections of the input, one per hidden layer:
///
/// s_0 = (z_0 − mean) / r_0,  s_t = Q_t s_{t−1} / r_t,  z_t = c_t + κ w_t s_t
///
/// where Q_t is orthonormal (d_t × d_{t−1}), r_t is the single number that makes the mean square of
/// all units 1 over the examples used for fitting, (c_t, w_t) is the layer's
/// [`target_range`](crate::layer::Layer::target_range), and κ = 1 unless
/// [`Projection::with_spread`] changes it. An input that is constant in those examples has no
/// effect. From the first step, each layer then has a well-posed regression problem with full-size
/// gradients, at any depth.
///
/// Between layers of equal width, the chain rotates without stretching, so errors pass from layer
/// to layer unamplified. Standardising each unit separately would amplify them
/// (`docs/evidence.md`). Standardise inputs with different scales first
/// ([`Standardizer`](crate::data::Standardizer)).
///
/// [`TargetInit::Projected`](crate::decoupled::TargetInit::Projected) fits a projection to the
/// examples that it is given. To add more examples later, fit one projection, keep it, and pass its
/// targets as [`TargetInit::Given`](crate::decoupled::TargetInit::Given).
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::decoupled::Projection;
/// use layerwise::layer::{Activation, Dense};
/// use nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(4, 3, Activation::Sigmoid)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let inputs = DMatrix::from_fn(4, 50, |i, j| ((i * 7 + j * 3) % 11) as f64);
/// let projection = Projection::fit(&circuit, &inputs, 0)?;
/// let targets = projection.apply(&inputs)?;
/// assert_eq!(targets[0].shape(), (3, 50));
/// assert!((targets[0].mean() - 0.5).abs() < 1e-12);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Projection<T: Scalar> {
    centring: Standardizer<T>,
    /// 1/r_0.
    scale: T,
    links: Vec<Link<T>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Link<T: Scalar> {
    /// Q_t / r_t.
    map: DMatrix<T>,
    centre: T,
    spread: T,
}

impl<T: Scalar> Projection<T> {
    /// Draws Q_t from `seed`, and fits the mean and r_t to `inputs` (d_0 × n).
    ///
    /// # Errors
    /// The errors of [`Circuit::predict`] for the inputs, [`Error::NoExamples`], and
    /// [`Error::TooLarge`] for a Q_t that does not fit in memory.
    pub fn fit(circuit: &Circuit<T>, inputs: &DMatrix<T>, seed: u64) -> Result<Self, Error> {
        circuit.check_inputs(inputs)?;
        if inputs.ncols() == 0 {
            return Err(Error::NoExamples {
                operation: "fitting projected targets",
            });
        }
        let dims = circuit.dims();
        let centring = Standardizer::centring(inputs);
        let mut current = inputs.clone();
        centring.apply(&mut current);
        let scale = inverse_size(&current);
        current.scale_mut(scale);
        let mut links = Vec::new();
        for t in 1..circuit.depth() {
            check_room::<f64>("a projection", dims[t], dims[t - 1])?;
            let mut rng = generator(seed, Purpose::Projection, t as u64);
            let mut map = orthonormal(dims[t], dims[t - 1], &mut rng).map(T::of);
            let scale = inverse_size(&product(&map, &current));
            map.scale_mut(scale);
            current = product(&map, &current);
            let (centre, spread) = circuit.layer(t - 1).target_range();
            links.push(Link {
                map,
                centre: T::of(centre),
                spread: T::of(spread),
            });
        }
        Ok(Self {
            centring,
            scale,
            links,
        })
    }

    /// Multiplies κ, the spread of the targets around the centres of their ranges, by `factor`.
    /// With a smaller spread the layers are closer to linear functions, which can fit such targets
    /// exactly. This helps deep circuits, where errors add up.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `factor` is above 0 and finite, also in the circuit's scalar
    /// type.
    pub fn with_spread(mut self, factor: f64) -> Result<Self, Error> {
        let own = T::of(factor);
        let fits = own > T::zero() && own.is_finite();
        let allowed = "above 0 and finite, also in the circuit's scalar type";
        option("Projection::with_spread's factor", factor, fits, allowed)?;
        for link in &mut self.links {
            link.spread *= own;
        }
        Ok(self)
    }

    /// z_1, …, z_{T−1} for `inputs` (d_0 × n), each d_t × n.
    ///
    /// # Errors
    /// [`Error::Shape`] for inputs of a different dimension from those used for fitting;
    /// [`Error::Overflow`] for inputs so large that their centred values overflow.
    pub fn apply(&self, inputs: &DMatrix<T>) -> Result<Vec<DMatrix<T>>, Error> {
        let rows = self.centring.mean().len();
        check_rows("inputs", inputs, rows, inputs.ncols())?;
        let mut current = inputs.clone();
        self.centring.apply(&mut current);
        current.scale_mut(self.scale);
        let mut targets = Vec::with_capacity(self.links.len());
        for (t, link) in (1..).zip(&self.links) {
            current = product(&link.map, &current);
            let target = current.map(|s| link.centre + link.spread * s);
            check_result(Quantity::Target, t, target.as_slice())?;
            targets.push(target);
        }
        Ok(targets)
    }
}

/// 1/(root mean square of all values); 0 if that is not finite in T, as when all values are zero.
fn inverse_size<T: Scalar>(values: &DMatrix<T>) -> T {
    let inverse = T::of(1.0 / root_mean_square(values.iter().map(|v| v.as_f64())));
    match inverse.is_finite() {
        true => inverse,
        false => T::zero(),
    }
}

/// A·B with this crate's products, whose columns do not depend on one another.
fn product<T: Scalar>(a: &DMatrix<T>, b: &DMatrix<T>) -> DMatrix<T> {
    let mut out = DMatrix::zeros(a.nrows(), b.ncols());
    T::matmul(
        Write::Set(out.as_mut_slice()),
        Matrix::new(a.as_slice(), a.nrows(), a.ncols()),
        Matrix::new(b.as_slice(), b.nrows(), b.ncols()),
    );
    out
}
