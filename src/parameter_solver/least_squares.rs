//! Closed-form W-steps of affine layers.

use std::ops::Range;

use super::normal_equations::{self, Equations, Shape};
use super::{ParameterReport, ParameterSolver};
use crate::check::{check_length, in_scalar, make_room, option, serde_checked, share};
use crate::energy::{LocalProblem, LocalWorkspace};
use crate::error::Error;
use crate::kernel::{Matrix, Scalar, Write, add_scaled, fill_columns};
use crate::layer::{Activation, Affine};
use crate::state::State;

const NAME: &str = "LeastSquares";

/// Closed-form least squares on the pre-activation, for a layer ẑ = a(W z + b)
/// ([`Layer::affine`](crate::layer::Layer::affine)) with squared error:
///
/// min over (W, b) of (1/N) Σᵢ wᵢ ½‖W zᵢ + b − pᵢ‖² + ½ λ‖W‖² + ½ ρ‖(W, b) − θ_old‖², N = Σᵢ wᵢ,
///
/// where pᵢ is the pre-activation that gives z_{t+1}ⁱ, or the value nearest to it in a's range
/// ([`Activation::preimage`](crate::layer::Activation::preimage)). b is not penalised by λ. An L2
/// regulariser R_t of the circuit adds λ₂/μ to λ (on b too if its group decays), and multipliers
/// λ_{t+1}ⁱ shift z_{t+1}ⁱ by λ_{t+1}ⁱ/μ. A layer that applies W at several positions
/// ([`Affine`]), such as a convolution, has a term ½‖W u + b − p‖² for each patch u of zᵢ. Groups of
/// channels are solved one after another.
///
/// For the identity and λ = ρ = 0 this minimises ℓ_t itself. For any other activation it minimises
/// a **surrogate**: errors are measured before the activation, whereas ℓ_t weights them by the
/// slope a′. So ℓ_t may rise, especially if many targets are near or beyond the ends of a's range,
/// or if a leaky ReLU's small slope makes p large. GELU and SiLU have no unique preimage, and are
/// refused. A smaller ℓ_t does not imply a smaller composed loss: see
/// [`WStep`](crate::training::WStep).
///
/// The cost is n d² + n d m + d³/6 + m d² multiplications for d inputs, m outputs and n examples
/// (for patches: d entries, m channels, n positions over all examples). Carreira-Perpiñán & Wang
/// 2014 and Taylor et al. 2016 solve their W-steps this way.
///
/// # Minibatches
/// The solution is that of the current batch alone, unless [`LeastSquares::with_forgetting_factor`] keeps
/// the sums of earlier batches. With γ = 1 all batches since the phase began count equally, each
/// with the targets it had when visited, so one pass over fixed targets ends at the solution for
/// all examples. γ < 1 is recursive least squares with forgetting.
///
/// A batch with fewer examples than inputs needs λ or ρ above 0. So do inputs that are constant or
/// are combinations of others, as in a layer that is wider than the number of directions in which
/// its data vary. This weight must not be lost in rounding: for d inputs of unit scale it must be
/// at least 4dε, which is 3e-5 for d = 64 in `f32` and 6e-14 in `f64`. [`Error::Singular`] says how
/// large a weight is enough. (For inputs that are constant, and so 0 once centred about their mean,
/// any λ above 0 will do.)
///
/// # Examples
/// ```
/// use layerwise::parameter_solver::LeastSquares;
/// use layerwise::prelude::*;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 2, Activation::Tanh)?)
///     .layer(Dense::new(2, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 20, |i, j| ((3 * i + j) % 7) as f64 / 7.0);
/// let y = DMatrix::from_fn(1, 20, |_, j| (j % 5) as f64 / 5.0);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::Projected { seed: 0 })?;
///
/// model.solve_parameters(1, &LeastSquares::ridge(0.0)?, &Selection::All)?;
/// // θ_1 is at its minimum.
/// let gradient = &model.gradients(&Selection::All)?.parameters[1];
/// assert!(gradient.iter().all(|g| g.abs() < 1e-10));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct LeastSquares {
    ridge: f64,
    proximal: f64,
    forgetting: f64,
    margin: f64,
}

serde_checked!(LeastSquares);

impl LeastSquares {
    /// Ridge regression with weight λ on W; λ = 0 is plain least squares. Defaults: ρ = 0, each
    /// batch on its own (γ = 0), margin 0.01.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative.
    pub fn ridge(weight: f64) -> Result<Self, Error> {
        Self {
            ridge: weight,
            proximal: 0.0,
            forgetting: 0.0,
            margin: 0.01,
        }
        .checked()
    }

    /// Proximal least squares with weight ρ on the distance from θ_old, and λ = 0. The other
    /// defaults are those of [`LeastSquares::ridge`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless ρ is finite and not negative.
    pub fn proximal(weight: f64) -> Result<Self, Error> {
        Self::ridge(0.0)?.with_proximal(weight)
    }

    /// Sets ρ.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless ρ is finite and not negative.
    pub fn with_proximal(self, weight: f64) -> Result<Self, Error> {
        let proximal = weight;
        Self { proximal, ..self }.checked()
    }

    /// Keeps the sums of earlier batches, multiplied by γ = `factor` before each new batch is
    /// added. Every call adds its batch, even a second call in the same visit.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless γ is in 0..=1.
    pub fn with_forgetting_factor(self, factor: f64) -> Result<Self, Error> {
        let forgetting = factor;
        Self { forgetting, ..self }.checked()
    }

    /// Sets the distance that targets keep from the open ends of the activation's range
    /// ([`Activation::preimage`](crate::layer::Activation::preimage)).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is above 0 and below ½.
    pub fn with_margin(self, margin: f64) -> Result<Self, Error> {
        Self { margin, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        self.weights::<f64>()?;
        share("LeastSquares::forgetting", self.forgetting)?;
        Ok(self)
    }

    /// λ, ρ and the margin in the scalar type.
    fn weights<T: Scalar>(&self) -> Result<[T; 3], Error> {
        let margin = T::of(self.margin);
        // 1/margin enters the preimages.
        let inverse = (margin.recip() + margin.recip()).is_finite();
        let fits = margin > T::zero() && margin < T::of(0.5) && inverse;
        let allowed = "above 0 and below 0.5, also in the circuit's scalar";
        option("LeastSquares::margin", self.margin, fits, allowed)?;
        Ok([
            in_scalar("LeastSquares::ridge", self.ridge)?,
            in_scalar("LeastSquares::proximal", self.proximal)?,
            margin,
        ])
    }
}

/// What the solver needs from a problem.
struct Parts {
    affine: Affine,
    /// λ₂ of R_t on W and b.
    decays: [bool; 2],
}

impl Parts {
    fn of<T: Scalar>(problem: &LocalProblem<'_, T>) -> Result<Self, Error> {
        let refused = |reason: String| {
            Err(Error::ParameterSolver {
                solver: NAME,
                layer: problem.layer(),
                reason,
            })
        };
        if !problem.loss.is_squared_error() {
            return refused(format!("its loss {:?} is not SquaredError", problem.loss));
        }
        let Some(affine) = problem.layer.affine() else {
            let layer = match problem.layer.description() {
                Some(own) => format!("a layer of kind {}", own.kind()),
                None => format!("the layer {:?}", problem.layer),
            };
            return refused(format!("{layer} is not affine"));
        };
        let (d, m) = (affine.patch_len, affine.channels());
        let (one, zero) = (T::one(), T::zero());
        let margin = T::of(0.25);
        if affine.activation.preimage(one, zero, margin).is_none() {
            let activation = affine.activation;
            return refused(format!(
                "{activation:?} is not monotone, so a target has no unique pre-activation"
            ));
        }
        let fits = |range: &Range<usize>, length: usize| {
            range.start <= range.end && range.len() == length && range.end <= problem.own
        };
        let ranges = [affine.weights.clone(), affine.bias.clone().unwrap_or(0..0)];
        let [weights, bias] = &ranges;
        let apart = weights.end <= bias.start || bias.end <= weights.start;
        let (inputs, outputs) = (problem.layer.input_dim(), problem.layer.output_dim());
        let of_all = |length: usize| length.checked_mul(affine.positions);
        let whole = affine.groups == 1 && of_all(d) == Some(inputs);
        let sizes = of_all(m) == Some(outputs)
            && (affine.unfolds || whole)
            && affine.rows() > 0
            && affine.is_ordered();
        let fit =
            fits(weights, d.saturating_mul(m)) && (affine.bias.is_none() || fits(bias, m) && apart);
        if !(sizes && fit) {
            return refused(format!(
                "its `affine`, {affine:?}, is not a map from {inputs} to {outputs} with {} parameters",
                problem.own
            ));
        }
        let regularizer = problem.regularization.parameters;
        let decays = [weights, bias].map(|range| {
            let groups = problem.regularization.groups.iter();
            let mut own = groups
                .filter(|group| group.range.start < range.end && range.start < group.range.end)
                .map(|group| group.decays);
            let first = own.next().unwrap_or(false);
            own.all(|decays| decays == first).then_some(first)
        });
        let [Some(weights), Some(bias)] = decays else {
            return refused("its regulariser covers only part of W or of b".into());
        };
        if !regularizer.is_smooth() && (weights || bias) {
            return refused(format!("its regulariser {regularizer:?} is not quadratic"));
        }
        Ok(Self {
            affine,
            decays: [weights, bias],
        })
    }
}

/// Scratch memory of a call.
#[derive(Debug, Default)]
struct Memory<V> {
    equations: normal_equations::Memory<V>,
    /// (W, b), channels × (patch_len + 1), group by group.
    solution: V,
    /// The targets of one group, if there are several groups.
    targets: V,
    /// The design, if it is not the input itself.
    patches: V,
    /// The examples' weights, repeated for each position.
    weights: V,
    /// The sums, if none are kept between calls.
    sums: Vec<V>,
}

impl<T: Scalar> ParameterSolver<T> for LeastSquares {
    fn check(&self, problem: &LocalProblem<'_, T>) -> Result<(), Error> {
        self.weights::<T>()?;
        Parts::of(problem).map(|_| ())
    }

    /// With forgetting, [`State::values`] are Σ w z zᵀ and Σ w z pᵀ over examples and positions
    /// (about the means if there is a bias), the means of z and p, and Σ w. Each number is the sum
    /// of two stored parts (all high parts of an array, then all low parts). The last array holds the
    /// units of the weights w and of every row of z and p in these sums, powers of two. Each group of
    /// channels has its own arrays. Without forgetting, the state is empty. A problem of different
    /// dimensions resets the sums, and so does a batch that makes them, or the solution, non-finite.
    /// If the equations are singular, the sums still keep the batch, since more batches may help.
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error> {
        let [ridge, proximal, margin] = self.weights()?;
        let parts = Parts::of(problem)?;
        check_length("parameters", parameters, problem.parameters.len())?;
        let affine = &parts.affine;
        let (d, rows) = (affine.patch_len, affine.rows());
        let shape = Shape::new(d, rows, affine.bias.is_some())?;
        let (numbers, memory) = state.split::<Memory<Vec<T>>>();
        let present = &mut memory.solution;
        present.clear();
        for group in 0..affine.groups {
            present.extend(parts.places(group).map(|place| parameters[place]));
        }
        problem.fit(workspace);
        let design = parts.design(problem, &mut memory.patches)?;
        let example_weights = parts.weights(problem, &mut memory.weights)?;
        let all = Parts::targets(problem, &mut workspace.d_target);
        let keeps = self.forgetting > 0.0;
        let (sums, kept) = match keeps {
            true => (numbers.values, affine.groups),
            false => (&mut memory.sums, 1),
        };
        shape.prepare(kept, sums)?;
        let regularizer = problem.regularization.parameters.curvature::<T>() / problem.weight;
        let [weights, of_bias] = parts
            .decays
            .map(|own| if own { regularizer } else { T::zero() });
        // The equations average over columns, of which each example may have several.
        let positions = T::of(affine.positions as f64);
        let ridges = [(ridge + weights) / positions, of_bias / positions];
        let (proximal, layer) = (proximal / positions, problem.layer());
        let mut solved = Ok(());
        let size = present.len() / affine.groups;
        let of_design = design.len() / affine.groups;
        for (group, own) in present.chunks_exact_mut(size).enumerate() {
            let design = &design[group * of_design..(group + 1) * of_design];
            let targets = parts.of_group(group, all, &mut memory.targets)?;
            let p = &mut workspace.cotangent;
            let targets = parts.pre_activations(design, own, targets, margin, p);
            let start = if keeps { group * Shape::ARRAYS } else { 0 };
            let sums = &mut sums[start..start + Shape::ARRAYS];
            let mut equations = Equations::new(shape, sums, &mut memory.equations);
            equations.forget(T::of(self.forgetting));
            equations.add(design, targets, example_weights)?;
            let mut result = equations.solve(ridges, proximal, own, layer, || {
                format!("the normal equations of layer {layer}")
            });
            match &mut result {
                Err(Error::Singular { ridge, .. }) => *ridge *= affine.positions as f64,
                // A non-finite sum would never become finite again.
                Err(Error::NonFinite { .. }) => equations.forget(T::zero()),
                _ => {}
            }
            // If one group fails, the sums of the others still get the batch.
            solved = solved.and(result);
        }
        solved?;
        for (group, own) in present.chunks_exact(size).enumerate() {
            for (place, &solved) in parts.places(group).zip(own) {
                parameters[place] = solved;
            }
        }
        Ok(ParameterReport::new(1, 1))
    }
}

impl Parts {
    /// The matrix that W multiplies, patch_len × (positions · n): z_t itself, or its patches,
    /// group by group.
    fn design<'a, T: Scalar>(
        &self,
        problem: &LocalProblem<'a, T>,
        patches: &'a mut Vec<T>,
    ) -> Result<&'a [T], Error> {
        let affine = &self.affine;
        if !affine.unfolds {
            return Ok(problem.input);
        }
        let columns = affine.positions.saturating_mul(problem.examples());
        let columns = columns.saturating_mul(affine.groups);
        make_room(patches, "patches", affine.patch_len, columns)?;
        patches.resize(affine.patch_len * columns, T::zero());
        problem.layer.unfold(problem.input, patches);
        Ok(patches)
    }

    /// w of every column of the design; empty if all are 1.
    fn weights<'a, T: Scalar>(
        &self,
        problem: &LocalProblem<'a, T>,
        repeated: &'a mut Vec<T>,
    ) -> Result<&'a [T], Error> {
        let (own, positions) = (problem.example_weights, self.affine.positions);
        if positions == 1 {
            return Ok(own);
        }
        make_room(repeated, "the weights of patches", positions, own.len())?;
        repeated.clear();
        repeated.extend(own.iter().flat_map(|&w| std::iter::repeat_n(w, positions)));
        Ok(repeated)
    }

    /// The indices, among the parameters, of a group's rows of W, column by column, and then of its b.
    fn places(&self, group: usize) -> impl Iterator<Item = usize> {
        let rows = self.affine.rows();
        let bias = self.affine.bias.clone().map(|bias| {
            let start = bias.start + group * rows;
            start..start + rows
        });
        self.affine.places(group).chain(bias.into_iter().flatten())
    }

    /// The targets of all groups, shifted by the multipliers; in `shifted` unless they are those of the problem.
    fn targets<'a, T: Scalar>(problem: &LocalProblem<'a, T>, shifted: &'a mut [T]) -> &'a [T] {
        if problem.multipliers.is_empty() {
            return problem.target;
        }
        shifted.copy_from_slice(problem.target);
        add_scaled(shifted, problem.weight.recip(), problem.multipliers);
        shifted
    }

    /// The rows of `targets` that belong to a group, in `gathered` unless it is the only group.
    fn of_group<'a, T: Scalar>(
        &self,
        group: usize,
        targets: &'a [T],
        gathered: &'a mut Vec<T>,
    ) -> Result<&'a [T], Error> {
        if self.affine.groups == 1 {
            return Ok(targets);
        }
        let rows = self.affine.rows();
        let columns = targets.chunks_exact(self.affine.channels());
        make_room(gathered, "the targets of a group", rows, columns.len())?;
        gathered.clear();
        gathered.extend(columns.flat_map(|column| &column[group * rows..(group + 1) * rows]));
        Ok(gathered)
    }

    /// A group's pre-activations p for every column of its design, rows × (positions · n), in `p` unless they
    /// are the targets themselves. `present` holds the group's current W and b.
    fn pre_activations<'a, T: Scalar>(
        &self,
        design: &[T],
        present: &[T],
        targets: &'a [T],
        margin: T,
        p: &'a mut [T],
    ) -> &'a [T] {
        let activation = self.affine.activation;
        if activation == Activation::Identity {
            return targets;
        }
        // The current pre-activations may decide between several preimages.
        let (d, rows) = (self.affine.patch_len, self.affine.rows());
        let p = &mut p[..targets.len()];
        let (weights, bias) = present.split_at(d * rows);
        let mut product = Write::Set(&mut *p);
        if !bias.is_empty() {
            fill_columns(p, bias);
            product = Write::Add(&mut *p);
        }
        let design = Matrix::new(design, d, design.len() / d);
        T::matmul(product, Matrix::new(weights, rows, d), design);
        for (p, &z) in p.iter_mut().zip(targets) {
            *p = activation
                .preimage(z, *p, margin)
                .expect("the activation was checked");
        }
        p
    }
}
