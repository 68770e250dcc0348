//! Running a circuit backwards: inputs and outputs that are free, inferred with θ fixed.

mod clamped;
mod prior;

use std::sync::Arc;

use nalgebra::DMatrix;

use self::clamped::{Clamped, Held};
use self::prior::Prior;
use crate::check::{check_finite, check_length, check_weights};
use crate::circuit::Circuit;
use crate::decoupled::{DecoupledCircuit, Selection, TargetInit};
use crate::energy::Energy;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::loss::{Loss, SquaredError};
use crate::regularizer::Regularizer;
use crate::target_solver::{SolveReport, TargetSolver};

/// What is known about n examples: every entry of z_0 and z_T is clamped to its value, or free.
///
/// [`DecoupledCircuit::infer`] moves the free inputs together with z_1, …, z_{T−1} so that they lower
///
/// ```math
/// E(z) = ∑_i [ ½ κ ∑_{k free} (z_{0k}^i - m_k)^2 + ∑_{t=1}^{T-1} μ_t L_h(z_t^i, ẑ_t^i) + L(z_T^i, ẑ_T^i) ]
/// ```
///
/// plus the regularisers S_t of the targets, if there are any, with θ fixed; the regularisers of θ are left
/// out. A free entry of z_T adds only a constant to L. The first term is a Gaussian prior on the free
/// inputs, with precision κ and mean m: by default 1 and 0, which suits standardised inputs.
///
/// # Examples
/// An input from an output: the line ẑ = 2 z + 1, run backwards.
/// ```
/// use layerwise::inference::Evidence;
/// use layerwise::prelude::*;
/// use layerwise::target_solver::GaussNewton;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(1, 1, Activation::Identity)?)
///     .build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.set_parameters(0, &[2.0, 1.0])?;
/// let evidence = Evidence::new(DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, 7.0))?
///     .with_free_inputs(DMatrix::from_element(1, 1, true))?
///     .with_prior(1e-9, &[0.0])?;
/// let inferred = model.infer(&evidence, &GaussNewton::direct(20))?;
/// assert!((inferred.inputs[(0, 0)] - 3.0).abs() < 1e-6);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Evidence<T: Scalar> {
    inputs: DMatrix<T>,
    targets: DMatrix<T>,
    free_inputs: Option<DMatrix<bool>>,
    free_targets: Option<DMatrix<bool>>,
    precision: T,
    mean: Vec<T>,
}

/// The result of [`DecoupledCircuit::infer`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Inferred<T: Scalar> {
    /// z_0, d_0 × n: the clamped inputs, and the inferred values of the free ones.
    pub inputs: DMatrix<T>,
    /// z_1, …, z_{T−1}, each d_t × n.
    pub hidden: Vec<DMatrix<T>>,
    /// z_T, d_T × n: the clamped outputs, and for the free ones the prediction ẑ_T from z_{T−1}.
    pub outputs: DMatrix<T>,
    /// E before and after, as sums over the examples.
    pub energy: [T; 2],
    /// What the solver did.
    pub solved: SolveReport,
}

impl<T: Scalar> Evidence<T> {
    /// Evidence in which all entries of `inputs` (d_0 × n) and `targets` (d_T × n) are clamped.
    ///
    /// # Errors
    /// [`Error::ExampleCount`].
    pub fn new(inputs: DMatrix<T>, targets: DMatrix<T>) -> Result<Self, Error> {
        let (of_inputs, of_targets) = (inputs.ncols(), targets.ncols());
        if of_inputs != of_targets {
            return Err(Error::ExampleCount {
                inputs: of_inputs,
                targets: of_targets,
            });
        }
        Ok(Self {
            mean: vec![T::zero(); inputs.nrows()],
            inputs,
            targets,
            free_inputs: None,
            free_targets: None,
            precision: T::one(),
        })
    }

    /// Frees the entries of z_0 where `free` is true. The solver starts from their given values.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn with_free_inputs(mut self, free: DMatrix<bool>) -> Result<Self, Error> {
        check_mask("the mask of free inputs", &free, self.inputs.shape())?;
        self.free_inputs = Some(free);
        Ok(self)
    }

    /// Frees the entries of z_T where `free` is true. Their given values have no effect, but the
    /// loss must accept them as targets.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn with_free_targets(mut self, free: DMatrix<bool>) -> Result<Self, Error> {
        check_mask("the mask of free targets", &free, self.targets.shape())?;
        self.free_targets = Some(free);
        Ok(self)
    }

    /// Sets the precision κ and the mean m of the prior on the free inputs.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless κ is above 0 and finite, [`Error::Length`] unless there is one
    /// mean per input, [`Error::NonFiniteData`].
    pub fn with_prior(mut self, precision: T, mean: &[T]) -> Result<Self, Error> {
        check_weights("the precision κ of the prior", &[precision])?;
        check_length("the mean of the prior", mean, self.inputs.nrows())?;
        check_finite(Quantity::Input, 0, mean.len().max(1), mean)?;
        (self.precision, self.mean) = (precision, mean.to_vec());
        Ok(self)
    }

    /// `z` (d_0 × n) where inputs are free. Where they are clamped, the value is not used: it is the mean
    /// of the prior, which adds nothing to E and from which no gradient moves it.
    fn free_or_mean(&self, z: &DMatrix<T>) -> DMatrix<T> {
        let free = self.free_inputs.as_ref();
        DMatrix::from_fn(z.nrows(), z.ncols(), |k, i| match free {
            Some(free) if free[(k, i)] => z[(k, i)],
            _ => self.mean[k],
        })
    }
}

fn check_mask(what: &str, free: &DMatrix<bool>, expected: (usize, usize)) -> Result<(), Error> {
    match free.shape() == expected {
        true => Ok(()),
        false => Err(Error::Shape {
            what: what.into(),
            expected,
            found: free.shape(),
        }),
    }
}

impl<T: Scalar> DecoupledCircuit<T> {
    /// Infers the free entries of `evidence` by one call of `solver`, with θ fixed: inputs from outputs,
    /// missing entries from the known ones. The model and its examples do not change.
    ///
    /// The free inputs are treated as one more layer of auxiliary targets below z_1, so that every
    /// target solver moves them; a checked solver never raises E. z_1, …, z_{T−1} start from the forward
    /// pass of the given inputs. Layers are evaluated as in a prediction (dropout is off).
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::Shape`], [`Error::NonFiniteData`], the errors by which layer 0 and the loss reject their
    /// data, [`Error::InputNotDifferentiable`] for free inputs to a layer without an input derivative,
    /// [`Error::Combination`] for partly free targets unless the output loss is a sum
    /// over units ([`Loss::is_sum_over_units`]), and those of the solver.
    ///
    /// # Examples
    /// See [`Evidence`].
    #[doc(alias("inpaint", "clamp", "invert"))]
    pub fn infer(
        &self,
        evidence: &Evidence<T>,
        solver: &dyn TargetSolver<T>,
    ) -> Result<Inferred<T>, Error> {
        self.check_evidence(evidence)?;
        let targets = self.targets_of(evidence);
        let mut extended = self.extended(evidence, &targets)?;
        let n = evidence.inputs.ncols();
        let mut hidden = vec![evidence.free_or_mean(&evidence.inputs)];
        let depth = self.circuit().depth();
        let dims = self.circuit().dims();
        let mut passed = |t: usize, z: &[T]| {
            if t < depth {
                hidden.push(DMatrix::from_column_slice(dims[t], n, z));
            }
        };
        let (layers, inputs) = (self.circuit(), evidence.inputs.as_slice());
        layers.check_forward(n)?;
        layers.forward(inputs, n, depth, &mut passed);
        let unused = DMatrix::zeros(1, n);
        extended.add_examples(&unused, &targets, &TargetInit::Given(hidden))?;
        let before = extended.energy()?;
        let solved = extended.solve_targets(solver, &Selection::All)?;
        // Noise moves clamped entries too.
        let still = evidence.free_or_mean(&extended.z_of(1, &Selection::All)?);
        extended.set_targets(1, &Selection::All, &still)?;
        self.inferred(evidence, &extended, before, solved)
    }

    fn check_evidence(&self, evidence: &Evidence<T>) -> Result<(), Error> {
        let circuit = self.circuit();
        circuit.check_inputs(&evidence.inputs)?;
        let n = evidence.inputs.ncols();
        self.terms().check_outputs(circuit, n, &evidence.targets)?;
        let any = |free: &Option<DMatrix<bool>>| {
            let free = free.as_ref();
            free.is_some_and(|free| free.iter().any(|&free| free))
        };
        if any(&evidence.free_inputs) && !circuit.layer(0).input_differentiable() {
            return Err(Error::InputNotDifferentiable { layer: 0 });
        }
        let parts = evidence
            .free_targets
            .iter()
            .flat_map(|free| free.column_iter());
        let mut mixed = parts.filter(|free| free.iter().any(|&own| own != free[0]));
        if mixed.next().is_some() && !self.terms().loss(circuit.depth() - 1).is_sum_over_units() {
            return Err(Error::Combination {
                what: "targets that are only partly free",
                reason: "the output loss is not a sum over units: free all of an example's targets, or none",
            });
        }
        Ok(())
    }

    /// The targets, with 0 in place of the free ones. An example keeps its own values if the loss does not
    /// accept these zeros (softmax cross entropy needs a distribution). The prediction of a free target is
    /// set to the same value, so it only adds a constant to E. But this constant must not be large beside
    /// the rest, as it would be for a count of 800 read as a log-rate.
    fn targets_of(&self, evidence: &Evidence<T>) -> DMatrix<T> {
        let mut targets = evidence.targets.clone();
        let free = evidence.free_targets.iter();
        for (i, free) in free.flat_map(|free| free.column_iter().enumerate()) {
            let mut own =
                DMatrix::from_column_slice(targets.nrows(), 1, targets.column(i).as_slice());
            for (target, _) in own.iter_mut().zip(&free).filter(|(_, free)| **free) {
                *target = T::zero();
            }
            if self.terms().check_outputs(self.circuit(), 1, &own).is_ok() {
                targets.set_column(i, &own.column(0));
            }
        }
        targets
    }

    /// The circuit with the free inputs as the targets of one more layer at its start, which predicts
    /// the mean of their prior.
    fn extended(&self, evidence: &Evidence<T>, targets: &DMatrix<T>) -> Result<Self, Error> {
        let (circuit, terms) = (self.circuit(), self.terms());
        let depth = circuit.depth();
        let held = |values: &DMatrix<T>, free: &Option<DMatrix<bool>>| {
            let free = free.as_ref();
            let free = free.map(|free| free.as_slice().to_vec());
            Held::new(values, free.unwrap_or_else(|| vec![false; values.len()]))
        };
        let mut builder = Circuit::builder()
            .seed(circuit.seed())
            .layer(Prior::new(evidence.mean.clone()));
        for (t, layer) in circuit.shared_layers().enumerate() {
            let mut own = Clamped::new(t, Arc::clone(layer));
            if t == 0 {
                own = own.with_inputs(held(&evidence.inputs, &evidence.free_inputs));
            }
            if let (true, Some(_)) = (t == depth - 1, &evidence.free_targets) {
                own = own.with_outputs(held(targets, &evidence.free_targets));
            }
            builder = builder.layer(own);
        }
        let loss = |t: usize| -> Box<dyn Loss<T>> { Box::new(terms.shared_loss(t)) };
        let prior: Box<dyn Loss<T>> = Box::new(SquaredError);
        let losses = [prior].into_iter().chain((0..depth - 1).map(loss));
        let penalties = [evidence.precision].into_iter();
        let regularizers = [Regularizer::NONE].into_iter();
        let energy = Energy::new(terms.shared_loss(depth - 1))
            .with_hidden_losses(losses.collect())
            .with_penalties(penalties.chain(terms.penalties().iter().copied()).collect())
            .with_target_regularizers(
                regularizers
                    .chain(terms.target_regularizers().iter().copied())
                    .collect(),
            );
        let own = builder.build_with(|t, _| match t {
            0 => Ok(Vec::new()),
            _ => Ok(circuit.layer_parameters(t - 1).to_vec()),
        })?;
        let mut extended = Self::new(own, energy)?;
        for t in 0..depth {
            extended.set_parameters(t + 1, circuit.parameters(t))?;
        }
        Ok(extended)
    }

    fn inferred(
        &self,
        evidence: &Evidence<T>,
        extended: &Self,
        before: T,
        solved: SolveReport,
    ) -> Result<Inferred<T>, Error> {
        let depth = self.circuit().depth();
        let z = |t: usize| extended.z_of(t, &Selection::All);
        let moved = z(1)?;
        let free = evidence.free_inputs.as_ref();
        let inputs = DMatrix::from_fn(moved.nrows(), moved.ncols(), |k, i| match free {
            Some(free) if free[(k, i)] => moved[(k, i)],
            _ => evidence.inputs[(k, i)],
        });
        let hidden: Result<Vec<_>, Error> = (2..=depth).map(z).collect();
        let hidden = hidden?;
        let mut outputs = evidence.targets.clone();
        if let Some(free) = &evidence.free_targets {
            let last = hidden.last().unwrap_or(&inputs);
            let predicted = self.circuit().output_of(depth - 1, last)?;
            for (output, (&free, &own)) in outputs.iter_mut().zip(free.iter().zip(&predicted)) {
                if free {
                    *output = own;
                }
            }
        }
        Ok(Inferred {
            inputs,
            hidden,
            outputs,
            energy: [before, extended.energy()?],
            solved,
        })
    }
}
