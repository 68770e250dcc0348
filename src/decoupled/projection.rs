//! Projected targets: every layer's target carries the input from the first step.

use nalgebra::DMatrix;

use crate::circuit::Circuit;
use crate::init::{Purpose, generator, orthonormal};
use crate::{Error, Scalar, Standardizer};

/// A chain of random orthogonal projections of the input, one a hidden layer:
///
/// s_0 = standardise(z_0),  s_t = standardise(Q_t s_{t−1}),  z_t = c_t + w_t s_t
///
/// with Q_t orthonormal (d_t × d_{t−1}), standardisation to mean 0 and variance 1 of every unit
/// over the examples it was fitted on, and (c_t, w_t) the layer's
/// [`target_range`](crate::Layer::target_range). Each layer then has a well-posed regression of
/// its own from the first step, at full gradient size whatever the depth.
///
/// [`TargetInit::Projected`](crate::TargetInit::Projected) fits one on the examples it is given.
/// To add more examples later, fit one, keep it, and pass what it gives as
/// [`TargetInit::Given`](crate::TargetInit::Given).
///
/// # Examples
/// ```
/// use layerwise::{Activation, Circuit, Dense, Projection};
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
    /// Standardisation of the input.
    first: Standardizer<T>,
    links: Vec<Link<T>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Link<T: Scalar> {
    q: DMatrix<T>,
    standardizer: Standardizer<T>,
    centre: T,
    spread: T,
}

impl<T: Scalar> Projection<T> {
    /// Draws Q_t from `seed` and fits the standardisations on `inputs` (d_0 × n).
    ///
    /// # Errors
    /// Those of [`Circuit::predict`] for the inputs, and [`Error::NoExamples`].
    pub fn fit(circuit: &Circuit<T>, inputs: &DMatrix<T>, seed: u64) -> Result<Self, Error> {
        circuit.check_inputs(inputs)?;
        if inputs.ncols() == 0 {
            return Err(Error::NoExamples {
                operation: "fitting projected targets",
            });
        }
        let dims = circuit.dims();
        let first = Standardizer::fit_finite(inputs);
        let mut current = inputs.clone();
        first.apply(&mut current);
        let mut links = Vec::new();
        for t in 1..circuit.depth() {
            let mut rng = generator(seed, Purpose::Projection, t as u64);
            let q = orthonormal(dims[t], dims[t - 1], &mut rng).map(T::of);
            current = product(&q, &current);
            let standardizer = Standardizer::fit_finite(&current);
            standardizer.apply(&mut current);
            let (centre, spread) = circuit.layer(t - 1).target_range();
            links.push(Link {
                q,
                standardizer,
                centre: T::of(centre),
                spread: T::of(spread),
            });
        }
        Ok(Self { first, links })
    }

    /// z_1, …, z_{T−1} for `inputs` (d_0 × n), each d_t × n.
    ///
    /// # Errors
    /// [`Error::Shape`] for inputs of another dimension than those it was fitted on.
    pub fn apply(&self, inputs: &DMatrix<T>) -> Result<Vec<DMatrix<T>>, Error> {
        let rows = self.first.mean().len();
        if inputs.nrows() != rows {
            return Err(Error::Shape {
                what: "inputs".into(),
                expected: (rows, inputs.ncols()),
                found: inputs.shape(),
            });
        }
        let mut current = inputs.clone();
        self.first.apply(&mut current);
        let mut targets = Vec::with_capacity(self.links.len());
        for link in &self.links {
            current = product(&link.q, &current);
            link.standardizer.apply(&mut current);
            targets.push(current.map(|s| link.centre + link.spread * s));
        }
        Ok(targets)
    }
}

/// A·B with this crate's products, whose columns do not depend on one another.
fn product<T: Scalar>(a: &DMatrix<T>, b: &DMatrix<T>) -> DMatrix<T> {
    let mut out = DMatrix::zeros(a.nrows(), b.ncols());
    T::matmul(
        crate::Write::Set(out.as_mut_slice()),
        crate::Matrix::new(a.as_slice(), a.nrows(), a.ncols()),
        crate::Matrix::new(b.as_slice(), b.nrows(), b.ncols()),
    );
    out
}
