//! A circuit with examples, each with its own auxiliary targets.

pub(crate) mod examples;
mod projection;
mod read_ahead;
pub(crate) mod streamed;
mod target_file;
mod target_init;

use std::ops::Range;

use nalgebra::{DMatrix, DMatrixView, Dyn};

pub use projection::Projection;
pub use target_init::TargetInit;

use self::streamed::{Loaded, Streamed};
use crate::check::{
    check_count, check_example_weights, check_examples, check_finite, check_length, check_result,
    check_room, option, room,
};
use crate::circuit::{BLOCK, Circuit};
use crate::data::Dataset;
use crate::data::metrics::labels;
use crate::energy::{
    All, Batch, BatchMut, Energy, Evaluation, Layers, LocalProblem, Problem, Terms, Value,
    Workspace,
};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, Sum};
use crate::layer::Layer;
use examples::{Chosen, Examples, Hidden, Working};
pub use examples::{Selection, TargetUse};

const ADDING: &str = "adding examples";

/// A [`Circuit`] with n examples: inputs z_0, output targets z_T, and the auxiliary targets
/// z_1, …, z_{T−1}, which belong to each example and are trained together with θ.
///
/// Every example gets an id when it is added, and keeps it when other examples are removed.
///
/// # Examples
/// ```
/// use layerwise::energy::Energy;
/// use layerwise::{Circuit, DecoupledCircuit};
/// use layerwise::decoupled::TargetInit;
/// use layerwise::layer::{Activation, Dense};
/// use nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 5, |i, j| (i + j) as f64);
/// let y = DMatrix::from_fn(1, 5, |_, j| j as f64);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// // At z = forward pass, E is the composed loss and every hidden term is zero.
/// assert_eq!(model.energy()?, model.composed_loss()?);
/// assert_eq!(model.energies()?[0], 0.0);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DecoupledCircuit<T: Scalar> {
    pub(crate) circuit: Circuit<T>,
    pub(crate) terms: Terms<T>,
    pub(crate) examples: Examples<T>,
}

/// E and all its gradients on a selection of examples: sums over examples, including μ.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gradients<T: Scalar> {
    /// E (or the composed loss, for backprop).
    pub energy: T,
    /// ∂E/∂θ_t, t = 0, …, T−1, flat.
    pub parameters: Vec<Vec<T>>,
    /// ∂E/∂z_t, t = 1, …, T−1, d_t × n; for backprop δ_t = ∂L/∂ẑ_t.
    pub targets: Vec<DMatrix<T>>,
}

impl<T: Scalar> Gradients<T> {
    /// Copies of what was evaluated on n examples.
    fn collect<'w>(
        layers: Layers<'_, T>,
        n: usize,
        energy: T,
        parameters: impl Fn(usize) -> &'w [T],
        targets: impl Fn(usize) -> &'w [T],
    ) -> Self {
        let (depth, dims) = (layers.depth(), layers.dims());
        let matrix = |t: usize| DMatrix::from_column_slice(dims[t], n, targets(t));
        Self {
            energy,
            parameters: (0..depth).map(|t| parameters(t).to_vec()).collect(),
            targets: (1..depth).map(matrix).collect(),
        }
    }

    /// The gradients, if all values are finite; `value` says what `energy` is.
    fn checked(self, value: Quantity) -> Result<Self, Error> {
        check_result(value, self.parameters.len() - 1, &[self.energy])?;
        for (t, gradient) in self.parameters.iter().enumerate() {
            check_result(Quantity::ParameterGradient, t, gradient)?;
        }
        for (t, gradient) in (1..).zip(&self.targets) {
            check_result(Quantity::TargetGradient, t, gradient.as_slice())?;
        }
        Ok(self)
    }

    /// Copies an evaluation on n examples.
    pub(crate) fn of(layers: Layers<'_, T>, n: usize, evaluation: Evaluation<'_, T, All>) -> Self {
        Self::collect(
            layers,
            n,
            evaluation.energy(),
            |t| evaluation.parameter_gradient(t),
            |t| evaluation.target_gradient(t),
        )
    }
}

/// Bytes used by a circuit and a workspace. Optimisers and solvers need more (Adam: twice the
/// memory of the parameters).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// z_1, …, z_{T−1}: n Σ_{t=1}^{T−1} d_t scalars; 0 if the examples are streamed or their targets
    /// [computed](TargetInit::Computed).
    pub targets: usize,
    /// z_0 and z_T; 0 if the examples are streamed.
    pub data: usize,
    /// θ.
    pub parameters: usize,
    /// A [`Workspace`] for the requested batch size: predictions, tapes and all gradients.
    pub workspace: usize,
}

impl MemoryEstimate {
    /// The total.
    pub fn total(&self) -> usize {
        let own = [self.targets, self.data, self.parameters, self.workspace];
        own.into_iter().fold(0, usize::saturating_add)
    }
}

impl<T: Scalar> DecoupledCircuit<T> {
    /// Combines a circuit with the energy that it is trained on, without examples yet.
    ///
    /// The parameters of a loss (a learned precision) follow those of its layer in θ_t. They are
    /// initialised, or kept if the circuit already has them from an energy with the same losses.
    ///
    /// # Errors
    /// [`Error::FixedTargetLoss`], [`Error::Length`] for a list that does not have one entry per
    /// layer it applies to, [`Error::InvalidOption`] unless every μ_t is above 0 and finite,
    /// [`Error::TooLarge`], and the error of a loss that rejects its dimension.
    pub fn new(mut circuit: Circuit<T>, energy: Energy<T>) -> Result<Self, Error> {
        let terms = energy.terms(&mut circuit)?;
        let examples = Examples::new(circuit.dims());
        Ok(Self {
            circuit,
            terms,
            examples,
        })
    }

    /// A placeholder, later replaced by a model.
    pub(crate) fn hollow() -> Self {
        Self {
            circuit: Circuit::hollow(),
            terms: Terms::hollow(),
            examples: Examples::new(&[0]),
        }
    }

    /// The circuit: layers and parameters.
    pub fn circuit(&self) -> &Circuit<T> {
        &self.circuit
    }

    /// The terms of E: losses, penalties, regularisers.
    pub fn terms(&self) -> &Terms<T> {
        &self.terms
    }

    /// The circuit with the terms of E, layer by layer.
    pub fn layers(&self) -> Layers<'_, T> {
        Layers::new(&self.circuit, &self.terms)
    }

    /// [`Circuit::set_parameters`], with its errors.
    pub fn set_parameters(&mut self, t: usize, parameters: &[T]) -> Result<(), Error> {
        self.circuit.set_parameters(t, parameters)
    }

    /// [`Terms::set_penalties`], with its errors.
    pub fn set_penalties(&mut self, penalties: &[T]) -> Result<(), Error> {
        self.terms.set_penalties(penalties)
    }

    /// Returns the circuit, without the energy and the examples.
    pub fn into_circuit(self) -> Circuit<T> {
        self.circuit
    }

    /// [`Circuit::predict`], with its errors. It needs no auxiliary targets, so it works for any
    /// inputs.
    ///
    /// Predictions are what the output loss compares with targets: logits under a cross entropy. For
    /// probabilities see [`predict_proba`](Self::predict_proba), for classes
    /// [`predict_labels`](Self::predict_labels).
    pub fn predict(&self, inputs: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.circuit.predict(inputs)
    }

    /// [`predict`](Self::predict) for one example, given and returned as a slice.
    ///
    /// # Errors
    /// [`Error::Length`], and those of [`predict`](Self::predict).
    pub fn predict_one(&self, input: &[T]) -> Result<Vec<T>, Error> {
        check_length("the input of one example", input, self.circuit.dims()[0])?;
        let output = self.predict(&DMatrix::from_column_slice(input.len(), 1, input))?;
        Ok(output.data.into())
    }

    /// The means that the predictions stand for, by [`Loss::mean`](crate::Loss::mean) of the output loss, d_T × n:
    /// softmax or sigmoid probabilities under a cross entropy, rates under
    /// [`Poisson`](crate::loss::Poisson), and the predictions themselves under other losses.
    ///
    /// # Errors
    /// Those of [`predict`](Self::predict).
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// let circuit = Circuit::<f64>::builder()
    ///     .layer(Dense::new(2, 3, Activation::Identity)?)
    ///     .build()?;
    /// let model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
    /// let x = DMatrix::from_row_slice(2, 2, &[1.0, -1.0, 0.5, 2.0]);
    /// let p = model.predict_proba(&x)?;
    /// assert!((p.column(0).sum() - 1.0).abs() < 1e-15);
    /// let [a, b] = model.predict_labels(&x)?[..] else { unreachable!() };
    /// assert_eq!((p[(a, 0)], p[(b, 1)]), (p.column(0).max(), p.column(1).max()));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias = "softmax")]
    #[doc(alias = "sigmoid")]
    pub fn predict_proba(&self, inputs: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        let mut output = self.predict(inputs)?;
        let last = self.circuit.depth() - 1;
        let loss = self.layers().loss(last);
        loss.mean(output.nrows(), output.as_mut_slice());
        check_result(Quantity::Prediction, last, output.as_slice())?;
        Ok(output)
    }

    /// The class of every column of `inputs`: the row of the largest prediction
    /// ([`metrics::labels`](crate::data::metrics::labels)), or, for circuits with one output, 1 if
    /// its mean ([`predict_proba`](Self::predict_proba)) is at least ½ and 0 otherwise. Under a loss
    /// over P positions ([`SumOverPositions`](crate::loss::SumOverPositions)) every position has a
    /// class: P consecutive ones for each example.
    ///
    /// # Errors
    /// Those of [`predict`](Self::predict), or [`Error::InvalidOption`] for an output loss whose
    /// [`positions`](crate::Loss::positions) do not divide d_T.
    #[doc(alias = "argmax")]
    #[doc(alias = "classify")]
    pub fn predict_labels(&self, inputs: &DMatrix<T>) -> Result<Vec<usize>, Error> {
        let (dim, positions) = (self.circuit.dims()[self.circuit.depth()], self.positions()?);
        if dim > positions {
            // Not of the means, which rounding can make equal.
            let by_position = self.predict(inputs)?;
            let columns = positions * by_position.ncols();
            return Ok(labels(
                &by_position.reshape_generic(Dyn(dim / positions), Dyn(columns)),
            ));
        }
        let mean = self.predict_proba(inputs)?;
        Ok(mean.iter().map(|&p| usize::from(p >= T::of(0.5))).collect())
    }

    /// The output loss's number of positions, which divides d_T.
    pub(crate) fn positions(&self) -> Result<usize, Error> {
        let depth = self.circuit.depth();
        let dim = self.circuit.dims()[depth];
        let positions = self.layers().loss(depth - 1).positions();
        let divides = positions > 0 && dim.is_multiple_of(positions);
        let allowed = format!("a divisor of the {dim} outputs");
        option("Loss::positions", positions as f64, divides, allowed)?;
        Ok(positions)
    }

    /// Adds examples, one per column of `inputs` (d_0 × n) and `targets` (d_T × n), with auxiliary
    /// targets chosen by `init`; returns their ids.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ExampleCount`], [`Error::NonFiniteData`], the errors of layer 0's
    /// and the losses' checks of their data, or [`Error::InvalidOption`] for an option of `init`;
    /// [`Error::NotInMemory`] for streamed examples, [`Error::TooLarge`], and [`Error::Combination`] for
    /// [computed](TargetInit::Computed) targets beside stored ones. On an error nothing is added.
    pub fn add_examples(
        &mut self,
        inputs: &DMatrix<T>,
        targets: &DMatrix<T>,
        init: &TargetInit<T>,
    ) -> Result<Range<u64>, Error> {
        self.examples.in_memory(ADDING)?;
        let hidden = self.hidden_targets(inputs, targets, init)?;
        Ok(self.append(inputs.clone(), hidden, targets.clone(), init))
    }

    /// Adds all examples of a data set, in the order of its rows, as
    /// [`add_examples`](Self::add_examples) does, with the same bits; returns their ids. To add
    /// only some of them, use a [`Subset`](crate::data::Subset).
    ///
    /// # Errors
    /// Those of [`add_examples`](Self::add_examples) and of [`Dataset::read`], and [`Error::Length`] if
    /// [`Dataset::len`] changes meanwhile. On an error nothing is added.
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::{InMemory, Subset};
    /// use layerwise::prelude::*;
    ///
    /// # let circuit = Circuit::<f64>::builder().layer(Dense::new(2, 1, Activation::Identity)?).build()?;
    /// # let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    /// let x = DMatrix::from_fn(2, 10, |i, j| (i + j) as f64);
    /// let y = DMatrix::from_fn(1, 10, |_, j| j as f64);
    /// let data = InMemory::new(&x, &y)?;
    /// let split = Split::shuffled(10, 2, 0)?;
    /// model.add_dataset(&Subset::new(&data, split.train)?, &TargetInit::ForwardPass)?;
    /// assert_eq!(model.examples().len(), 8);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn add_dataset(
        &mut self,
        data: &dyn Dataset<T>,
        init: &TargetInit<T>,
    ) -> Result<Range<u64>, Error> {
        self.examples.in_memory(ADDING)?;
        let n = data.len();
        // Before anything is read.
        self.check_dataset(data)?;
        self.check_targets_room(n, init)?;
        let rows: Vec<usize> = (0..n).collect();
        let (inputs, targets) = data.matrices(&rows)?;
        check_unchanged(data, n)?;
        let hidden = self.hidden_targets(&inputs, &targets, init)?;
        Ok(self.append(inputs, hidden, targets, init))
    }

    /// Checks the dimensions of a data set.
    pub(crate) fn check_dataset(&self, data: &dyn Dataset<T>) -> Result<(), Error> {
        let (dims, n) = (self.circuit.dims(), data.len());
        let last = dims[dims.len() - 1];
        let ends = [
            ("inputs of a data set", dims[0], data.inputs()),
            ("targets of a data set", last, data.targets()),
        ];
        for (what, dim, found) in ends {
            if found != dim {
                return Err(Error::Shape {
                    what: what.into(),
                    expected: (dim, n),
                    found: (found, n),
                });
            }
        }
        Ok(())
    }

    fn check_targets_room(&self, n: usize, init: &TargetInit<T>) -> Result<(), Error> {
        let all = match init.hidden() {
            Hidden::Stored => self.circuit.dims().iter(),
            Hidden::Computed => [].iter(),
        };
        let all = all.fold(0_usize, |sum, &dim| sum.saturating_add(dim));
        check_room::<T>("the targets of all layers", all, n)
    }

    /// z_1, …, z_{T−1} of new examples, which are checked.
    fn hidden_targets(
        &self,
        inputs: &DMatrix<T>,
        targets: &DMatrix<T>,
        init: &TargetInit<T>,
    ) -> Result<Vec<Vec<T>>, Error> {
        self.circuit.check_inputs(inputs)?;
        let n = inputs.ncols();
        self.terms.check_outputs(&self.circuit, n, targets)?;
        self.examples.check_alike(init.hidden())?;
        self.check_targets_room(n, init)?;
        init.targets(self.layers(), inputs)
    }

    fn append(
        &mut self,
        inputs: DMatrix<T>,
        hidden: Vec<Vec<T>>,
        targets: DMatrix<T>,
        init: &TargetInit<T>,
    ) -> Range<u64> {
        let mut z: Vec<Vec<T>> = vec![inputs.data.into()];
        z.extend(hidden);
        z.push(targets.data.into());
        self.examples.append(z, init.hidden())
    }

    /// Removes examples by id and frees their memory; the ids of the others do not change.
    ///
    /// # Errors
    /// [`Error::UnknownExample`] or [`Error::RepeatedExample`], [`Error::NotInMemory`]. On an error nothing
    /// is removed.
    pub fn remove_examples(&mut self, examples: &[u64]) -> Result<(), Error> {
        self.examples.in_memory("removing examples")?;
        let mut gone = vec![false; self.examples.len()];
        for &example in examples {
            let column = self.examples.column(example)?;
            if std::mem::replace(&mut gone[column], true) {
                return Err(Error::RepeatedExample { example });
            }
        }
        self.examples.remove(&gone);
        Ok(())
    }

    /// Sets the weights of the selected examples, in the order of the selection. Every weight is
    /// initially 1.
    ///
    /// E = Σᵢ wᵢ Eᵢ, and likewise for the composed loss: a weight of 2 counts an example twice.
    /// Steps of θ still divide by the number of examples, not by the sum of the weights. Steps of z
    /// divide an example's gradient by its weight, so that its targets move as if it had weight 1.
    ///
    /// An example of weight 0 is left out, as if it had been removed: training does not visit or
    /// count it, and a phase gives the same bits as without it. Its targets, residuals and
    /// multipliers stay as they were, in every scheme and solver.
    /// [`EpochRecord`](crate::training::EpochRecord) counts only the others.
    ///
    /// # Errors
    /// The errors of the selection, [`Error::Length`], and [`Error::InvalidOption`] unless every
    /// weight is finite and not negative, and its inverse is finite if it is not 0. On an error
    /// nothing is changed.
    pub fn set_example_weights(
        &mut self,
        selection: &Selection<'_>,
        weights: &[T],
    ) -> Result<(), Error> {
        let chosen = self.examples.resolve(selection)?.into_places();
        check_length("example weights", weights, chosen.len())?;
        check_example_weights(weights)?;
        for (place, &weight) in chosen.into_iter().zip(weights) {
            self.examples.weights_mut()[place] = weight;
        }
        Ok(())
    }

    /// The weights of the examples, one per column; `None` until some are set.
    pub fn example_weights(&self) -> Option<&[T]> {
        (!self.examples.weights.is_empty()).then_some(&self.examples.weights)
    }

    /// The ids of the examples, in increasing order: one per column.
    pub fn examples(&self) -> &[u64] {
        &self.examples.ids
    }

    /// z_t of all examples, d_t × n: inputs for t = 0, output targets for t = T, otherwise
    /// auxiliary targets. [`DecoupledCircuit::z_of`] copies those of some examples.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] if t > T, [`Error::NotInMemory`]; [`Error::TargetsNotStored`] for
    /// [computed](TargetInit::Computed) targets.
    pub fn z(&self, t: usize) -> Result<DMatrixView<'_, T>, Error> {
        let Some(&dim) = self.circuit.dims().get(t) else {
            return Err(Error::unknown_layer(t, 0..self.circuit.depth() + 1));
        };
        let z = self.examples.in_memory("a view of z")?;
        if (1..self.circuit.depth()).contains(&t) {
            self.examples.check_stored("a view of z")?;
        }
        Ok(DMatrixView::from_slice(&z[t], dim, self.examples.len()))
    }

    /// A copy of z_t of the selected examples, d_t × n, whether or not they are in memory.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] if t > T; those of the selection, [`Error::TooLarge`], [`Error::Overflow`]
    /// for [computed](TargetInit::Computed) targets that are not finite, and for streamed examples those of
    /// [`Dataset::read`] and [`Error::File`].
    pub fn z_of(&self, t: usize, selection: &Selection<'_>) -> Result<DMatrix<T>, Error> {
        let Some(&dim) = self.circuit.dims().get(t) else {
            return Err(Error::unknown_layer(t, 0..self.circuit.depth() + 1));
        };
        let chosen = self.examples.resolve(selection)?;
        let n = chosen.len();
        let mut values = room("a copy of z", dim, n)?;
        let (mut working, mut workspace) = self.memory_for_blocks();
        for start in (0..n).step_by(BLOCK) {
            let block = chosen.part(start..n.min(start + BLOCK));
            let batch = self.view(&block, false, &mut working, &mut workspace)?;
            values.extend_from_slice(batch.z(t));
        }
        // A computed one may overflow.
        check_result(Quantity::Target, t, &values)?;
        Ok(DMatrix::from_vec(dim, n, values))
    }

    /// Replaces the auxiliary targets z_t, t in 1..T, of the selected examples (d_t × n, one column
    /// per example in the order of the selection).
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::Shape`], [`Error::NonFiniteData`], the errors of L_h's
    /// check of its targets, those of the selection, and [`Error::TargetsNotStored`]. On an error nothing is
    /// changed.
    pub fn set_targets(
        &mut self,
        t: usize,
        selection: &Selection<'_>,
        targets: &DMatrix<T>,
    ) -> Result<(), Error> {
        let hidden = 1..self.circuit.depth();
        if !hidden.contains(&t) {
            return Err(Error::unknown_layer(t, hidden));
        }
        self.examples.check_stored("setting targets")?;
        let chosen = self.examples.resolve(selection)?.into_places();
        let dim = self.circuit.dims()[t];
        check_shape(t, targets, (dim, chosen.len()))?;
        check_finite(Quantity::Target, t, dim, targets.as_slice())?;
        let loss = self.terms.loss(t - 1);
        loss.check_target(dim, targets.as_slice())?;
        self.examples.put(t, &chosen, targets.as_slice())
    }

    /// Reinitialises the auxiliary targets of all examples.
    ///
    /// # Errors
    /// The errors of `init`, as in [`DecoupledCircuit::add_examples`]; [`Error::TooLarge`];
    /// [`Error::Combination`] where streamed targets would change from stored to
    /// [computed](TargetInit::Computed) or back. On an error nothing is changed.
    pub fn initialize_targets(&mut self, init: &TargetInit<T>) -> Result<(), Error> {
        if let Some(streamed) = &self.examples.streamed {
            self.examples.check_alike(init.hidden())?;
            let mut new = streamed.renewed()?;
            self.fill(&mut new, init)?;
            self.examples.streamed = Some(new);
            return Ok(());
        }
        let inputs = self.z(0)?.into_owned();
        self.check_targets_room(inputs.ncols(), init)?;
        let targets = init.targets(self.layers(), &inputs)?;
        for (own, new) in self.examples.z[1..].iter_mut().zip(targets) {
            *own = new;
        }
        self.examples.hidden = init.hidden();
        Ok(())
    }

    /// Writes the targets of all examples of a data set, block by block; their inputs and output
    /// targets are checked.
    pub(crate) fn fill(
        &self,
        streamed: &mut Streamed<T>,
        init: &TargetInit<T>,
    ) -> Result<(), Error> {
        let (source, dims) = (streamed.source().clone(), self.circuit.dims());
        self.check_batch(source.len().min(BLOCK))?;
        let (mut loaded, mut records) = (Loaded::new(), Vec::new());
        let mut blocks = init.blocks(&self.circuit, source.len())?;
        let mut block = |rows: &[usize], loaded: &mut Loaded<T>| -> Result<Vec<Vec<T>>, Error> {
            let [inputs, outputs] = [0, dims.len() - 1].map(|t| {
                let values = std::mem::take(&mut loaded.z[t]);
                DMatrix::from_vec(dims[t], rows.len(), values)
            });
            self.circuit.check_inputs(&inputs)?;
            self.terms
                .check_outputs(&self.circuit, rows.len(), &outputs)?;
            blocks.next(self.layers(), &inputs)
        };
        for start in (0..source.len()).step_by(BLOCK) {
            let rows: Vec<usize> = (start..source.len().min(start + BLOCK)).collect();
            source.read(dims, &rows, false, &mut loaded)?;
            let targets = block(&rows, &mut loaded).map_err(|error| error.after(start))?;
            if init.hidden() == Hidden::Computed {
                continue;
            }
            let targets = targets.iter().map(Vec::as_slice);
            streamed.put_all(dims, &rows, targets, &mut records)?;
        }
        Ok(())
    }

    /// A view of z_0, …, z_T for a range of columns; nothing is copied.
    ///
    /// # Errors
    /// [`Error::UnknownColumns`], [`Error::NotInMemory`], [`Error::TargetsNotStored`].
    pub fn batch(&self, run: Range<usize>) -> Result<Batch<'_, T>, Error> {
        self.examples.in_memory("a view of a batch")?;
        self.examples.check_stored("a view of a batch")?;
        self.examples.resolve(&Selection::Columns(run.clone()))?;
        Ok(self.examples.run(run, 0, false))
    }

    /// The local problem of layer t on a range of columns. It borrows only θ_t, z_t and z_{t+1}.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::UnknownColumns`], [`Error::NotInMemory`],
    /// [`Error::TargetsNotStored`].
    pub fn local_problem(&self, t: usize, run: Range<usize>) -> Result<LocalProblem<'_, T>, Error> {
        self.check_layer(t)?;
        Ok(self.problem(run)?.local(t))
    }

    /// E on a range of columns; nothing is copied.
    ///
    /// # Errors
    /// [`Error::UnknownColumns`], [`Error::NotInMemory`], [`Error::TargetsNotStored`].
    pub fn problem(&self, run: Range<usize>) -> Result<Problem<'_, T>, Error> {
        Ok(self.layers().on(self.batch(run)?))
    }

    pub(crate) fn check_layer(&self, t: usize) -> Result<(), Error> {
        let layers = 0..self.circuit.depth();
        match layers.contains(&t) {
            true => Ok(()),
            false => Err(Error::unknown_layer(t, layers)),
        }
    }

    /// E of all examples, as a sum over them.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::Overflow`].
    pub fn energy(&self) -> Result<T, Error> {
        let energies = self.energies()?.into_iter();
        let energy = energies.fold(T::zero(), |sum, energy| sum + energy);
        check_result(Quantity::Energy, self.circuit.depth() - 1, &[energy])?;
        Ok(energy)
    }

    /// ℓ_0, …, ℓ_{T−1} of all examples, as sums over them. Added in order, they give E.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::Overflow`].
    pub fn energies(&self) -> Result<Vec<T>, Error> {
        let mut energies = vec![Sum::zero(); self.circuit.depth()];
        self.for_each_evaluated("the energy", false, |_, workspace| {
            for (sum, local) in energies.iter_mut().zip(&workspace.locals) {
                sum.add(local.energy);
            }
        })?;
        let energies: Vec<T> = energies.into_iter().map(Sum::value).collect();
        for (t, &energy) in energies.iter().enumerate() {
            check_result(Quantity::Energy, t, &[energy])?;
        }
        Ok(energies)
    }

    /// The gap of each hidden layer t = 1, …, T−1: (Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² / n)^½, the root
    /// mean square over examples of the distance between target and prediction. As in E, examples of
    /// weight 0 are left out; the others count equally, whatever their weights.
    ///
    /// It is computed in `f64`, so that no square over- or underflows, and carries no derivative of a
    /// dual number.
    ///
    /// # Errors
    /// [`Error::NoExamples`], also if every weight is 0; [`Error::Overflow`] for a gap that does not fit
    /// the scalar.
    pub fn gap(&self) -> Result<Vec<T>, Error> {
        let n = self.examples.visited().len();
        check_examples(n, "the constraint gap")?;
        let mut squares = vec![Squares::zero(); self.circuit.depth() - 1];
        self.for_each_evaluated("the constraint gap", false, |problem, workspace| {
            for (t, sum) in (1..).zip(&mut squares) {
                let prediction = &workspace.locals[t - 1].prediction;
                problem.batch.add_gap(t, prediction, sum);
            }
        })?;
        let n = n as f64;
        let gaps = (1..).zip(squares).map(|(t, sum)| {
            let gap = T::of(sum.root_mean(n));
            check_result(Quantity::Prediction, t, &[gap])?;
            Ok(gap)
        });
        gaps.collect()
    }

    /// Visits the selected examples in order, in blocks, so that memory does not grow with their
    /// number.
    pub(crate) fn for_each_block_of(
        &self,
        selection: &Selection<'_>,
        operation: &'static str,
        training: bool,
        visit: impl FnMut(Problem<'_, T>, &mut Workspace<T>),
    ) -> Result<(), Error> {
        self.for_each_block(&self.chosen(selection, operation)?, training, visit)
    }

    /// Visits these examples in order, in blocks.
    pub(crate) fn for_each_block(
        &self,
        chosen: &Chosen<'_>,
        training: bool,
        mut visit: impl FnMut(Problem<'_, T>, &mut Workspace<T>),
    ) -> Result<(), Error> {
        let n = chosen.len();
        self.check_batch(n.min(BLOCK))?;
        let (mut working, mut workspace) = self.memory_for_blocks();
        for start in (0..n).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(n);
            let chosen = chosen.part(block);
            let batch = self.view(&chosen, training, &mut working, &mut workspace)?;
            visit(self.layers().on(batch), &mut workspace);
        }
        Ok(())
    }

    /// `DecoupledCircuit::for_each_block_of` all examples, with every ℓ_t evaluated.
    pub(crate) fn for_each_evaluated(
        &self,
        operation: &'static str,
        training: bool,
        mut visit: impl FnMut(Problem<'_, T>, &Workspace<T>),
    ) -> Result<(), Error> {
        self.for_each_block_of(
            &Selection::All,
            operation,
            training,
            |problem, workspace| {
                problem.evaluate(Value, workspace);
                visit(problem, workspace);
            },
        )
    }

    /// The composed loss of other examples, one per column of `inputs` and `targets`: a sum over
    /// them, each with weight 1, without regularisers.
    ///
    /// # Errors
    /// The errors of [`Circuit::predict`], [`Error::ExampleCount`], the errors of the loss's check
    /// of its targets, and [`Error::Overflow`].
    pub fn composed_loss_of(&self, inputs: &DMatrix<T>, targets: &DMatrix<T>) -> Result<T, Error> {
        let loss = self.layers().composed_loss(inputs, targets)?;
        check_result(Quantity::ComposedLoss, self.circuit.depth() - 1, &[loss])?;
        Ok(loss)
    }

    /// E on the selected examples with all its gradients, in newly allocated memory
    /// ([`Problem::evaluate`] reuses memory).
    ///
    /// # Errors
    /// The errors of the selection, [`Error::NoExamples`] if it is empty, or [`Error::Overflow`].
    pub fn gradients(&self, selection: &Selection<'_>) -> Result<Gradients<T>, Error> {
        let chosen = self.chosen(selection, "gradients")?;
        let gradients = self.with_problem_of(&self.weighty(&chosen), |problem| {
            let mut workspace = Workspace::new();
            let evaluation = problem.evaluate(All, &mut workspace);
            Gradients::of(problem.layers, problem.batch.len(), evaluation)
        })?;
        let gradients = gradients.checked(Quantity::Energy)?;
        Ok(self.with_columns_left_out(&chosen, gradients))
    }

    /// Backprop's composed loss and gradients on the selected examples, in newly allocated memory.
    /// The auxiliary targets are not used.
    ///
    /// # Errors
    /// The errors of the selection, [`Error::NoExamples`] if it is empty, or [`Error::Overflow`].
    pub fn backprop(&self, selection: &Selection<'_>) -> Result<Gradients<T>, Error> {
        let chosen = self.chosen(selection, "backprop")?;
        let gradients = self.with_problem_of(&self.weighty(&chosen), |problem| {
            let mut workspace = Workspace::new();
            let composed = problem.backprop(&mut workspace);
            Gradients::collect(
                problem.layers,
                problem.batch.len(),
                composed.loss(),
                |t| composed.parameter_gradient(t),
                |t| composed.error(t),
            )
        })?;
        let gradients = gradients.checked(Quantity::ComposedLoss)?;
        Ok(self.with_columns_left_out(&chosen, gradients))
    }

    /// The composed loss Σᵢ wᵢ L of the plain forward pass: a sum over all examples, without
    /// regularisers.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::Overflow`].
    pub fn composed_loss(&self) -> Result<T, Error> {
        let (all, mut loss) = (&Selection::All, Sum::zero());
        self.for_each_block_of(all, "the composed loss", false, |problem, workspace| {
            loss.add(problem.composed_loss(workspace));
        })?;
        let loss = loss.value();
        check_result(Quantity::ComposedLoss, self.circuit.depth() - 1, &[loss])?;
        Ok(loss)
    }

    /// Lets `change` write the targets of the examples whose weight is not 0, block by block. On an
    /// error none is changed.
    pub(crate) fn change_blocks(
        &mut self,
        mut change: impl FnMut(Layers<'_, T>, &mut BatchMut<'_, T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (visited, left_out) = self.examples.by_weight();
        let mut changed = self.examples.targets_alone();
        let mut working = Working::new(self.circuit.depth());
        if let (Some(streamed), true) = (&self.examples.streamed, left_out.is_empty()) {
            // All of it is written. Otherwise the first write copies the file.
            changed.streamed = Some(streamed.renewed()?);
        }
        for columns in visited.chunks(BLOCK) {
            let chosen = match left_out.is_empty() {
                true => Chosen::Run(columns[0]..columns[0] + columns.len()),
                false => Chosen::Scattered(columns.into()),
            };
            let mut batch = working.lend(&self.examples, &chosen, 0, TargetUse::Kept)?;
            change(self.layers(), &mut batch)?;
            working.commit(&mut changed, &chosen)?;
        }
        self.examples.take_targets(changed);
        Ok(())
    }

    /// The bytes in use, and the bytes needed to train with batches of `batch` examples.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a batch that cannot fit in memory.
    pub fn memory(&self, batch: usize) -> Result<MemoryEstimate, Error> {
        let (scalar, n) = (size_of::<T>(), self.examples.len());
        let held = usize::from(self.examples.streamed.is_none());
        let stored = held * usize::from(self.examples.hidden == Hidden::Stored);
        let dims = self.circuit.dims();
        let total = |sum: usize, own: usize| sum.saturating_add(own);
        let all = dims.iter().copied().fold(0, total);
        // A generous limit that leaves room for the factors in the layers' scratch memory.
        let most = isize::MAX as usize >> 16;
        if all.checked_mul(batch).is_none_or(|size| size > most) {
            return Err(Error::TooLarge {
                what: "a batch",
                rows: all,
                columns: batch,
            });
        }
        let ends = dims[0] + dims[dims.len() - 1];
        let of_layer = |(t, layer): (usize, &dyn Layer<T>)| {
            let scratch = layer.scratch(batch);
            let work = scratch
                .work
                .max(self.terms.loss(t).scratch(dims[t + 1], batch));
            let arrays = 3 * dims[t + 1] + dims[t] + 3;
            let parameters = self.circuit.parameters(t).len();
            [batch * arrays, scratch.tape, work, parameters]
                .into_iter()
                .fold(0, total)
        };
        let workspace = self
            .circuit
            .layers()
            .enumerate()
            .map(of_layer)
            .fold(0, total);
        Ok(MemoryEstimate {
            targets: scalar * n * (all - ends) * stored,
            data: scalar * n * ends * held,
            parameters: scalar * self.circuit.parameter_count(),
            workspace: scalar.saturating_mul(workspace),
        })
    }

    /// Rejects batches of `batch` examples if an evaluation of them does not fit in memory.
    pub(crate) fn check_batch(&self, batch: usize) -> Result<(), Error> {
        let values = self.memory(batch)?.workspace / size_of::<T>();
        check_room::<T>("a batch", values.div_ceil(batch.max(1)), batch)
    }

    fn memory_for_blocks(&self) -> (Working<T>, Workspace<T>) {
        (Working::new(self.circuit.depth()), Workspace::new())
    }

    /// The chosen examples with their targets.
    fn view<'a>(
        &'a self,
        chosen: &Chosen<'_>,
        training: bool,
        working: &'a mut Working<T>,
        workspace: &mut Workspace<T>,
    ) -> Result<Batch<'a, T>, Error> {
        working.view_targets(self.layers(), &self.examples, chosen, training, workspace)
    }

    /// Calls a function with E on the selected examples, which are copied unless they are adjacent.
    pub(crate) fn with_problem<R>(
        &self,
        selection: &Selection<'_>,
        operation: &'static str,
        work: impl FnOnce(Problem<'_, T>) -> R,
    ) -> Result<R, Error> {
        self.with_problem_of(&self.chosen(selection, operation)?, work)
    }

    /// Calls a function with E on these examples, which are copied unless they are adjacent.
    pub(crate) fn with_problem_of<R>(
        &self,
        chosen: &Chosen<'_>,
        work: impl FnOnce(Problem<'_, T>) -> R,
    ) -> Result<R, Error> {
        self.check_batch(chosen.len())?;
        let (mut working, mut workspace) = self.memory_for_blocks();
        let batch = self.view(chosen, false, &mut working, &mut workspace)?;
        Ok(work(self.layers().on(batch)))
    }

    /// Those of the chosen examples whose weight is not 0, or all of them if every weight is 0. The
    /// others may overflow, and 0 times infinity would be NaN.
    pub(crate) fn weighty(&self, chosen: &Chosen<'_>) -> Chosen<'static> {
        let columns = chosen.clone().into_places();
        let kept: Vec<usize> = columns
            .iter()
            .copied()
            .filter(|&column| !self.examples.is_left_out(column))
            .collect();
        match chosen {
            Chosen::Run(run) if kept.len() == run.len() || kept.is_empty() => {
                Chosen::Run(run.clone())
            }
            _ if kept.is_empty() => Chosen::Scattered(columns.into()),
            _ => Chosen::Scattered(kept.into()),
        }
    }

    /// Gradients of the chosen examples from those of [`weighty`](Self::weighty) examples: 0 for the
    /// others.
    fn with_columns_left_out(
        &self,
        chosen: &Chosen<'_>,
        mut gradients: Gradients<T>,
    ) -> Gradients<T> {
        let n = chosen.len();
        for own in &mut gradients.targets {
            if own.ncols() < n {
                let mut kept = own.column_iter();
                let mut all = DMatrix::zeros(own.nrows(), n);
                for (mut to, column) in all.column_iter_mut().zip(chosen.clone().into_places()) {
                    if !self.examples.is_left_out(column)
                        && let Some(from) = kept.next()
                    {
                        to.copy_from(&from);
                    }
                }
                *own = all;
            }
        }
        gradients
    }

    /// The columns of a selection, which must not be empty.
    pub(crate) fn chosen(
        &self,
        selection: &Selection<'_>,
        operation: &'static str,
    ) -> Result<Chosen<'static>, Error> {
        let chosen = self.examples.resolve(selection)?;
        match chosen.len() {
            0 => Err(Error::NoExamples { operation }),
            _ => Ok(chosen),
        }
    }
}

/// Checks that a data set of n examples has as many after they have been read.
fn check_unchanged<T: Scalar>(data: &dyn Dataset<T>, n: usize) -> Result<(), Error> {
    let found = data.len();
    let what = "a data set that changed while it was read";
    check_count(what, found == n, n, found)
}

/// Checks the shape of new auxiliary targets z_t.
fn check_shape<T: Scalar>(
    t: usize,
    targets: &DMatrix<T>,
    expected: (usize, usize),
) -> Result<(), Error> {
    match targets.shape() {
        found if found == expected => Ok(()),
        found => Err(Error::Shape {
            what: format!("auxiliary targets z_{t}"),
            expected,
            found,
        }),
    }
}
