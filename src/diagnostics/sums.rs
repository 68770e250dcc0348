//! Sums of the diagnostics over blocks of examples.

use std::ops::Range;

use nalgebra::DMatrix;

use super::product::{Part, Product};
use super::report::{
    CurvatureDiagnostics, DiagnosticReport, ErrorShareDiagnostics, GradientDiagnostics,
    LayerDiagnostics, TargetDiagnostics,
};
use super::spectrum::{Extremes, spectrum};
use super::{Classes, Diagnostics};
use crate::check::check_result;
use crate::data::metrics;
use crate::energy::{All, Batch, Evaluation, Layers, Problem, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, Sum, add_to_pairs, larger, norm};
use crate::target_solver::{Curvature, Kept, Relaxation, Relaxed, SurvivingError};

/// The sums over the blocks of examples seen so far.
pub(super) struct Sums<T> {
    /// All of them, and those whose weight is not 0.
    examples: usize,
    weighty: usize,
    energies: Vec<Sum<T>>,
    composed_loss: Sum<T>,
    right: usize,
    /// Classes of an example.
    positions: usize,
    /// ∂E/∂θ_t, and backprop's gradient, as pairs.
    gradients: Vec<Vec<T>>,
    backprop: Vec<Vec<T>>,
    hidden: Vec<Hidden>,
    /// Of the whole matrix.
    whole: Curvatures,
    relaxation: Relaxation<T>,
    /// `None` after a gradient that overflowed.
    relaxed: Option<Relaxed>,
    surviving: SurvivingError<T>,
    /// Of the output error and of backprop's errors; `None` after a product that overflowed.
    kept: Option<[Kept; 2]>,
}

/// The sums for one of z_1, …, z_{T−1}.
#[derive(Clone)]
struct Hidden {
    gap: Squares,
    gradient: Squares,
    /// NaN if it is undefined for any example.
    staleness: Squares,
    /// Of the block.
    block: Curvatures,
}

/// The extremes over the examples; NaN if they are unknown for any example.
#[derive(Debug, Clone, Copy)]
struct Curvatures {
    largest: f64,
    smallest: f64,
    condition: f64,
}

impl Curvatures {
    const NONE: Self = Self {
        largest: 0.0,
        smallest: f64::INFINITY,
        condition: 0.0,
    };

    fn add(&mut self, own: Extremes) {
        let smallest = -larger(-self.smallest, -own.smallest);
        let condition = match own.smallest > 0.0 {
            true => own.largest / own.smallest,
            false => f64::NAN,
        };
        *self = Self {
            largest: larger(self.largest, own.largest),
            smallest,
            condition: larger(self.condition, condition),
        };
    }
}

impl<T: Scalar> Sums<T> {
    pub(super) fn new(layers: Layers<'_, T>, positions: usize) -> Self {
        let depth = layers.depth();
        let zeros = |t| vec![T::zero(); 2 * layers.circuit().parameters(t).len()];
        let hidden = Hidden {
            gap: Squares::zero(),
            gradient: Squares::zero(),
            staleness: Squares::zero(),
            block: Curvatures::NONE,
        };
        Self {
            examples: 0,
            weighty: 0,
            energies: vec![Sum::zero(); depth],
            composed_loss: Sum::zero(),
            right: 0,
            positions,
            gradients: (0..depth).map(zeros).collect(),
            backprop: (0..depth).map(zeros).collect(),
            hidden: vec![hidden; depth - 1],
            whole: Curvatures::NONE,
            relaxation: Relaxation::default(),
            relaxed: Some(Relaxed::none()),
            surviving: SurvivingError::default(),
            kept: Some([Kept::none(); 2]),
        }
    }

    pub(super) fn add(
        &mut self,
        options: &Diagnostics<'_>,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
    ) {
        let batch = problem.batch();
        let evaluation = problem.evaluate(All, workspace);
        for (t, sum) in self.energies.iter_mut().enumerate() {
            sum.add(evaluation.local(t).energy());
            add_to_pairs(&mut self.gradients[t], evaluation.parameter_gradient(t));
        }
        for (t, sums) in (1..).zip(&mut self.hidden) {
            let prediction = evaluation.local(t - 1).prediction();
            batch.add_gap(t, prediction, &mut sums.gap);
        }
        let directions = Directions::new(problem, evaluation);
        self.add_targets(problem, &directions, workspace);
        if let Some(iterations) = options.iterations {
            let seed = options.seed;
            let estimate = |part| spectrum(part, iterations, seed, problem);
            for (sums, blocks) in self.hidden.iter_mut().zip(estimate(Part::Blocks)) {
                blocks.into_iter().for_each(|own| sums.block.add(own));
            }
            let whole = estimate(Part::Whole);
            whole
                .into_iter()
                .flatten()
                .for_each(|own| self.whole.add(own));
        }
        if let Some(steps) = options.error_steps {
            let surviving = &mut self.surviving;
            let ran = surviving.run(steps, problem, workspace).is_ok();
            self.kept = self.kept.take().filter(|_| ran);
            if let Some([output, hidden]) = &mut self.kept {
                output.add_all(surviving.output(1.0));
                hidden.add_all(surviving.hidden(1.0));
            }
        }
        if options.leaves_out_backprop {
            problem.forward_pass(workspace);
        } else {
            let looked = self.relaxation.look(problem, workspace);
            let composed = problem.backprop(workspace);
            for (t, sum) in self.backprop.iter_mut().enumerate() {
                add_to_pairs(sum, composed.parameter_gradient(t));
            }
            let own = looked.and_then(|()| self.relaxation.compare(problem, workspace));
            self.relaxed = self.relaxed.take().zip(own.ok()).map(|(mut all, own)| {
                all.add_all(own);
                all
            });
        }
        self.composed_loss.add(problem.output_loss(workspace));
        let last = problem.layers().depth() - 1;
        let outputs = &workspace.locals[last].prediction;
        self.right += self.rightly_classified(options, batch, outputs);
        self.examples += batch.len();
        self.weighty += batch.weighty();
    }

    /// Adds the gradients and the staleness of the targets, with the predictions in the workspace.
    fn add_targets(
        &mut self,
        problem: Problem<'_, T>,
        directions: &Directions<T>,
        workspace: &mut Workspace<T>,
    ) {
        let dims = problem.layers().dims();
        let mut product = Product::new();
        product.multiply(Part::Blocks, problem, &directions.units, workspace);
        for (t, sums) in (1..).zip(&mut self.hidden) {
            let products = product.results[t - 1].chunks_exact(dims[t]);
            for (&gradient, product) in directions.norms[t - 1].iter().zip(products) {
                sums.gradient.add(gradient);
                if gradient > 0.0 {
                    sums.staleness.add(gradient / norm(product));
                }
            }
        }
    }

    /// The number of positions in a batch whose largest output is in the row of their class; an example
    /// has one, unless the loss is over several.
    fn rightly_classified(
        &self,
        options: &Diagnostics<'_>,
        batch: Batch<'_, T>,
        outputs: &[T],
    ) -> usize {
        let positions = self.positions;
        let labels = |values: &[T]| {
            let columns = batch.len() * positions;
            let values = DMatrix::from_column_slice(values.len() / columns, columns, values);
            metrics::labels(&values)
        };
        let agree = |own: &[usize]| metrics::agreeing(own, &labels(outputs));
        match options.classes {
            Classes::Unknown => 0,
            Classes::Given(all) => {
                let own = self.examples..self.examples + batch.len();
                agree(&all[own.start * positions..own.end * positions])
            }
            Classes::OfTargets => agree(&labels(batch.z(self.energies.len()))),
        }
    }

    /// Checks that energies, losses and gradients are finite; their norms and totals, which may
    /// overflow where these do not, are checked in the report.
    pub(super) fn check(&self) -> Result<(), Error> {
        for (t, &energy) in self.energies.iter().enumerate() {
            check_result(Quantity::Energy, t, &[energy.value()])?;
        }
        let last = self.energies.len() - 1;
        let composed = self.composed_loss.value();
        check_result(Quantity::ComposedLoss, last, &[composed])?;
        for (t, (own, backprop)) in self.gradients.iter().zip(&self.backprop).enumerate() {
            for pairs in [own, backprop] {
                check_result(Quantity::ParameterGradient, t, rounded(pairs))?;
            }
        }
        Ok(())
    }

    pub(super) fn report(
        mut self,
        options: &Diagnostics<'_>,
        bounds: Option<&Curvature<T>>,
    ) -> DiagnosticReport<T> {
        let n = self.examples as f64;
        for pairs in self.gradients.iter_mut().chain(&mut self.backprop) {
            pairs.truncate(rounded(pairs).len());
        }
        let backprop = (!options.leaves_out_backprop).then_some(&self.backprop[..]);
        let finite = |value: f64| Some(T::of(value)).filter(|value| value.is_finite());
        let curvature = |own: Curvatures, bound: Option<T>| {
            options.iterations.map(|_| CurvatureDiagnostics {
                estimate: finite(own.largest),
                smallest: finite(own.smallest),
                condition: finite(own.condition),
                bound,
            })
        };
        let weighty = self.weighty.max(1) as f64;
        let root_mean = |squares: Squares| T::of(squares.root_mean(weighty));
        let over_layers = |of: fn(&Hidden) -> Squares| {
            let mut all = Squares::zero();
            self.hidden.iter().for_each(|own| all.add_all(of(own)));
            root_mean(all)
        };
        let target = |t: usize, own: &Hidden| TargetDiagnostics {
            gap: root_mean(own.gap),
            gradient: root_mean(own.gradient),
            staleness: Some(root_mean(own.staleness)).filter(|own| own.is_finite()),
            curvature: curvature(own.block, bounds.map(|bounds| bounds.blocks[t])),
        };
        let layers = self.energies.iter().enumerate().map(|(t, &energy)| {
            let one = t..t + 1;
            let backprop = backprop.map(|all| &all[one.clone()]);
            LayerDiagnostics {
                energy: energy.value(),
                parameters: compare(&self.gradients[one], backprop),
                target: self.hidden.get(t).map(|own| target(t, own)),
            }
        });
        let whole = bounds.map(Curvature::whole);
        DiagnosticReport {
            examples: self.examples,
            layers: layers.collect(),
            energy: self
                .energies
                .iter()
                .fold(T::zero(), |sum, own| sum + own.value()),
            composed_loss: self.composed_loss.value(),
            accuracy: match options.classes {
                Classes::Unknown => None,
                _ => Some(self.right as f64 / (n * self.positions as f64)),
            },
            gap: over_layers(|own| own.gap),
            parameters: compare(&self.gradients, backprop),
            quarters: quarters(self.gradients.len())
                .map(|own| compare(&self.gradients[own.clone()], backprop.map(|all| &all[own])))
                .collect(),
            relaxation: (!options.leaves_out_backprop)
                .then_some(self.relaxed)
                .flatten()
                .and_then(Relaxed::share),
            target_gradient: over_layers(|own| own.gradient),
            // A circuit of one layer has no auxiliary targets.
            curvature: curvature(self.whole, whole).filter(|_| !self.hidden.is_empty()),
            error_share: options.error_steps.and(self.kept).map(|kept| {
                let [output, hidden] = kept.map(|own| T::of(own.share()));
                ErrorShareDiagnostics { output, hidden }
            }),
        }
    }
}

/// At most four runs of consecutive layers, equal up to one layer.
fn quarters(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = depth.min(4);
    (0..parts).map(move |q| q * depth / parts..(q + 1) * depth / parts)
}

/// The numbers that pairs round to.
fn rounded<T>(pairs: &[T]) -> &[T] {
    &pairs[..pairs.len() / 2]
}

/// The gradients of all targets, as unit vectors and norms, by hidden layer.
struct Directions<T> {
    /// gⁱ/‖gⁱ‖ with gⁱ = ∂E/∂z_tⁱ.
    units: Vec<Vec<T>>,
    /// ‖gⁱ‖ divided by the example's weight.
    norms: Vec<Vec<f64>>,
}

impl<T: Scalar> Directions<T> {
    fn new(problem: Problem<'_, T>, evaluation: Evaluation<'_, T, All>) -> Self {
        let (layers, batch) = (problem.layers(), problem.batch());
        let (mut units, mut norms) = (Vec::new(), Vec::new());
        for (t, &dim) in (1..layers.depth()).zip(&layers.dims()[1..]) {
            let mut unit = evaluation.target_gradient(t).to_vec();
            let normalise = |(i, own): (usize, &mut [T])| {
                let norm = norm(&*own);
                if norm > 0.0 {
                    let unit = |g: T| T::of(g.as_f64() / norm);
                    own.iter_mut().for_each(|g| *g = unit(*g));
                }
                match batch.weights().map_or(1.0, |weights| weights[i].as_f64()) {
                    // The gradient contains the weight.
                    0.0 => 0.0,
                    weight => norm / weight,
                }
            };
            let columns = unit.chunks_exact_mut(dim).enumerate();
            norms.push(columns.map(normalise).collect());
            units.push(unit);
        }
        Self { units, norms }
    }
}

/// Compares a gradient with backprop's; both are given layer by layer.
fn compare<T: Scalar>(own: &[Vec<T>], backprop: Option<&[Vec<T>]>) -> GradientDiagnostics<T> {
    let all = |gradients: &[Vec<T>]| norm(gradients.iter().flatten());
    let length = all(own);
    let beside = backprop.map(|backprop| {
        let other = all(backprop);
        let pairs = own.iter().flatten().zip(backprop.iter().flatten());
        // The product of unit vectors can neither overflow nor vanish.
        let products = pairs.map(|(a, b)| (a.as_f64() / length) * (b.as_f64() / other));
        let cosine = Sum::of(products).clamp(-1.0, 1.0);
        (cosine, length / other)
    });
    let finite = |value: f64| Some(T::of(value)).filter(|value| value.is_finite());
    GradientDiagnostics {
        norm: T::of(length),
        cosine: beside.and_then(|(cosine, _)| finite(cosine)),
        norm_ratio: beside.and_then(|(_, ratio)| finite(ratio)),
    }
}
