//! Diagnostics: energies, gaps, gradients and curvature of every layer, in one call.

pub(crate) mod product;
mod report;
pub(crate) mod spectrum;
mod sums;

pub use report::{
    CurvatureDiagnostics, DiagnosticReport, ErrorShareDiagnostics, GradientDiagnostics,
    LayerDiagnostics, TargetDiagnostics,
};

use crate::check::{at_least_one, check_length, option};
use crate::data::metrics;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::Curvature;
use crate::training::{check_no_target_regularizer, check_squared_hidden_losses};
use sums::Sums;

/// Options of [`DecoupledCircuit::diagnose`]: what it reports, and for which examples.
///
/// Energies, gaps, gradients and staleness cost one evaluation with all gradients, plus one JVP and
/// one VJP per layer. The composed loss costs a forward pass, and backprop's gradient a backward
/// pass; f̄ costs a pass of predictions and one of VJPs at the targets. m iterations of `curvature` cost 2m JVPs and 2m VJPs per layer. Examples are processed in
/// blocks, so memory does not grow with their number.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::diagnostics::Diagnostics;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 4, Activation::Tanh)?)
///     .layer(Dense::new(4, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 5, |i, j| (i + j) as f64 / 5.0);
/// let y = DMatrix::from_fn(1, 5, |_, j| j as f64 / 5.0);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// let report = model.diagnose(&Diagnostics::new().with_curvature(10))?;
/// assert_eq!(report.energy, report.composed_loss);
/// // At the forward pass the last layer's gradient is backprop's, and the others' are zero.
/// assert!(report.layers[0].parameters.cosine.is_none());
/// assert!((report.layers[2].parameters.cosine.unwrap() - 1.0).abs() < 1e-12);
/// // Only z_2 has a gradient from the output.
/// let staleness = |t: usize| report.layers[t].target.unwrap().staleness.unwrap();
/// assert!(staleness(0) == 0.0 && staleness(1) > 0.0);
/// println!("{report}");
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Diagnostics<'a> {
    selection: Selection<'a>,
    leaves_out_backprop: bool,
    iterations: Option<u64>,
    seed: u64,
    /// Lanczos steps for the share of the error.
    error_steps: Option<u64>,
    classes: Classes<'a>,
}

/// Where the examples' classes come from.
#[derive(Debug, Clone, Copy, Default)]
enum Classes<'a> {
    #[default]
    Unknown,
    Given(&'a [usize]),
    /// The class is the row of the target's largest entry, at each position.
    OfTargets,
}

impl<'a> Diagnostics<'a> {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which examples to diagnose; the default is all of them.
    pub fn with_selection(self, selection: Selection<'a>) -> Self {
        Self { selection, ..self }
    }

    /// Leaves out backprop's gradient, and thus every cosine and norm ratio.
    pub fn without_backprop(mut self) -> Self {
        self.leaves_out_backprop = true;
        self
    }

    /// Estimates λ_max, λ_min and λ_max/λ_min of the Gauss-Newton matrix of E in z, for the block of
    /// every z_t and for the whole matrix, with at most `iterations` Lanczos iterations (at least 1).
    /// Also reports the upper bounds on λ_max, if every layer and loss gives one. The Lanczos vectors of
    /// 32 examples are stored: `iterations` times as many numbers as their targets have.
    pub fn with_curvature(mut self, iterations: u64) -> Self {
        self.iterations = Some(iterations);
        self
    }

    /// Sets the seed of the start vectors of these iterations; the default is 0.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Reports the share of the output error that the equilibrium of a Z-step leaves, at the plain
    /// forward pass and the present μ ([`ErrorShareDiagnostics`]), by at most `steps` Lanczos steps (at
    /// least 1), each with one VJP and one JVP per layer; d_T steps are exact. Hidden losses must be
    /// squared errors, and targets without regularisers.
    #[doc(alias("mu", "penalty"))]
    pub fn with_error_share(mut self, steps: u64) -> Self {
        self.error_steps = Some(steps);
        self
    }

    /// Reports the accuracy for these classes: one label per example, in the order of the
    /// selection. A label is the row of the right output. Under a loss over P positions
    /// ([`SumOverPositions`](crate::loss::SumOverPositions)) every position has a class: P consecutive
    /// labels for each example, as in [`predict_labels`](crate::DecoupledCircuit::predict_labels), and
    /// the accuracy is over all positions. Needs at least 2 outputs at a position.
    #[doc(alias = "accuracy")]
    pub fn with_labels(mut self, labels: &'a [usize]) -> Self {
        self.classes = Classes::Given(labels);
        self
    }

    /// Reports the accuracy, with classes taken from the targets: the class of an example is the
    /// row of the largest entry of its target z_T (the first, if several are equal), as for one-hot
    /// targets; under a loss over positions, that of every position. Needs at least 2 outputs at a
    /// position.
    pub fn accuracy(mut self) -> Self {
        self.classes = Classes::OfTargets;
        self
    }

    /// Checks the options for this many examples, with a class at each of `positions`.
    fn check<T: Scalar>(
        &self,
        layers: Layers<'_, T>,
        examples: usize,
        positions: usize,
    ) -> Result<(), Error> {
        let name = "Diagnostics::with_curvature's iterations";
        at_least_one(name, self.iterations.unwrap_or(1))?;
        if let Some(steps) = self.error_steps {
            at_least_one("Diagnostics::with_error_share's steps", steps)?;
            check_squared_hidden_losses("Diagnostics::with_error_share", layers)?;
            check_no_target_regularizer("target regulariser with an error share", layers)?;
        }
        if let Classes::Unknown = self.classes {
            return Ok(());
        }
        let classes = layers.dims()[layers.depth()] / positions;
        let name = "Diagnostics::accuracy's number of outputs";
        option(
            name,
            classes as f64,
            classes >= 2,
            "at least 2, one per class",
        )?;
        if let Classes::Given(labels) = self.classes {
            check_length("labels", labels, examples.saturating_mul(positions))?;
            metrics::check_classes(labels, classes)?;
        }
        Ok(())
    }
}

impl<T: Scalar> DecoupledCircuit<T> {
    /// Diagnoses every layer at the current θ and targets: energies, gaps, gradients compared with
    /// backprop's, staleness, curvature and accuracy, as requested by the [`Diagnostics`]. Lagrange
    /// multipliers are not included, since they belong to the scheme.
    ///
    /// # Errors
    /// The errors of the selection, [`Error::NoExamples`] if it is empty, [`Error::InvalidOption`],
    /// [`Error::Length`] unless there is one label per example (and position), [`Error::UnknownClass`],
    /// [`Error::NotSquaredError`] for a share of the error with other hidden losses, and
    /// [`Error::Overflow`] for an energy, a gradient or a norm that is not finite.
    pub fn diagnose(&self, options: &Diagnostics<'_>) -> Result<DiagnosticReport<T>, Error> {
        let layers = self.layers();
        let examples = self.examples.resolve(&options.selection)?.len();
        let positions = match options.classes {
            Classes::Unknown => 1,
            _ => self.positions()?,
        };
        options.check(layers, examples, positions)?;
        let mut sums = Sums::new(layers, positions);
        let selection = &options.selection;
        self.for_each_block_of(selection, "diagnostics", false, |problem, workspace| {
            sums.add(options, problem, workspace);
        })?;
        sums.check()?;
        // The bounds that solvers use, if every layer and loss gives one.
        let bounds = match options.iterations.map(|_| Curvature::new(layers)) {
            None | Some(Err(Error::NoCurvatureBound { .. })) => None,
            Some(bounds) => Some(bounds?),
        };
        let report = sums.report(options, bounds.as_ref());
        report.check()?;
        Ok(report)
    }
}
