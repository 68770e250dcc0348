//! Random circuits with random examples, drawn from a number.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::{Circuit, DecoupledCircuit, Scalar};

use super::faulty::{Fault, Faulty};

/// What a case's model is made of.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) dims: Vec<usize>,
    /// One a layer.
    pub(crate) activations: Vec<Activation>,
    pub(crate) examples: usize,
    pub(crate) classifies: bool,
    /// Whether μ_t and the examples' weights differ from 1.
    pub(crate) weighted: bool,
    /// A layer, and its fault.
    pub(crate) fault: (usize, Fault),
    pub(crate) seed: u64,
}

const SMOOTH: [Activation; 5] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Silu,
    Activation::Softplus,
];

impl Case {
    /// Depth 1 to 6, widths 1 to 6 (the output 2 to 4), 1 to 5 examples, any smooth activations.
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let depth = rng.random_range(1..=6);
        let mut dims: Vec<usize> = (0..depth).map(|_| rng.random_range(1..=6)).collect();
        dims.push(rng.random_range(2..=4));
        let hidden = (1..depth).map(|_| SMOOTH[rng.random_range(0..SMOOTH.len())]);
        Self {
            activations: hidden.chain([Activation::Identity]).collect(),
            dims,
            examples: rng.random_range(1..=5),
            classifies: seed % 2 == 1,
            weighted: true,
            fault: (0, Fault::None),
            seed,
        }
    }

    /// All hidden layers alike, the last linear, squared L.
    pub(crate) fn uniform(dims: &[usize], hidden: Activation, seed: u64) -> Self {
        let mut activations = vec![hidden; dims.len() - 2];
        activations.push(Activation::Identity);
        Self {
            dims: dims.to_vec(),
            activations,
            examples: 3,
            classifies: false,
            weighted: true,
            fault: (0, Fault::None),
            seed,
        }
    }

    pub(crate) fn unweighted(mut self) -> Self {
        self.weighted = false;
        self
    }

    pub(crate) fn with_fault(mut self, layer: usize, fault: Fault) -> Self {
        self.fault = (layer, fault);
        self
    }

    pub(crate) fn depth(&self) -> usize {
        self.activations.len()
    }

    pub(crate) fn dense(&self, t: usize) -> Dense {
        Dense::new(self.dims[t], self.dims[t + 1], self.activations[t]).unwrap()
    }

    fn circuit<T: Scalar>(&self) -> Circuit<T> {
        let mut builder = Circuit::builder().seed(self.seed);
        for t in 0..self.depth() {
            let fault = match &self.fault {
                (layer, fault) if *layer == t => fault.clone(),
                _ => Fault::None,
            };
            builder = match fault {
                Fault::None => builder.layer(self.dense(t)),
                fault => builder.layer(Faulty::new(self.dense(t), fault)),
            };
        }
        builder.build().unwrap()
    }

    /// The energy's description, to which a test may add.
    pub(crate) fn energy<T: Scalar>(&self) -> Energy<T> {
        match self.classifies {
            true => Energy::new(SoftmaxCrossEntropy),
            false => Energy::default(),
        }
    }

    pub(crate) fn model<T: Scalar>(&self, init: &TargetInit<T>) -> DecoupledCircuit<T> {
        self.model_on(self.energy(), init)
    }

    /// The case's circuit and examples, with another energy.
    pub(crate) fn model_on<T: Scalar>(
        &self,
        energy: Energy<T>,
        init: &TargetInit<T>,
    ) -> DecoupledCircuit<T> {
        let model = DecoupledCircuit::new(self.circuit(), energy);
        self.with_examples(model.unwrap(), init)
    }

    /// Biases too are drawn; targets start as `init` says.
    pub(crate) fn with_examples<T: Scalar>(
        &self,
        mut model: DecoupledCircuit<T>,
        init: &TargetInit<T>,
    ) -> DecoupledCircuit<T> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xdada);
        let mut draw = |size: f64| T::of(rng.random_range(-size..size));
        for t in 0..self.depth() {
            let mut parameters = model.circuit().parameters(t).to_vec();
            parameters.iter_mut().for_each(|p| *p += draw(0.2));
            model.set_parameters(t, &parameters).unwrap();
        }
        let n = self.examples;
        let x = DMatrix::from_fn(self.dims[0], n, |_, _| draw(1.5));
        let outputs = self.dims[self.depth()];
        let y = DMatrix::from_fn(outputs, n, |i, j| match self.classifies {
            true if (j + self.seed as usize) % outputs == i => T::one(),
            true => T::zero(),
            false => draw(1.0),
        });
        if self.weighted {
            let penalties = (1..self.depth()).map(|t| T::of(0.3 + 0.4 * t as f64));
            model.set_penalties(&penalties.collect::<Vec<_>>()).unwrap();
        }
        model.add_examples(&x, &y, init).unwrap();
        if self.weighted {
            let weights: Vec<T> = (0..n).map(|i| T::of(0.5 + 0.4 * i as f64)).collect();
            model
                .set_example_weights(&Selection::All, &weights)
                .unwrap();
        }
        model
    }
}

/// Targets N(0, ½²).
pub(crate) fn noise<T: Scalar>() -> TargetInit<T> {
    TargetInit::RandomNormal { std: 0.5, seed: 9 }
}

/// Sweeps until no entry of ∂E/∂z exceeds `tolerance`.
pub(crate) fn settle<T: Scalar>(model: &mut DecoupledCircuit<T>, tolerance: f64) {
    settle_by(ReverseSweep::new(100), model, tolerance);
}

/// The same with steps that are not checked: to where a wrong gradient leads, E be what it may.
pub(crate) fn settle_unchecked<T: Scalar>(model: &mut DecoupledCircuit<T>, tolerance: f64) {
    let sweeps = ReverseSweep::new(100).with_step(StepSize::Fixed(0.1));
    settle_by(sweeps.unwrap(), model, tolerance);
}

fn settle_by<T: Scalar>(solver: ReverseSweep, model: &mut DecoupledCircuit<T>, tolerance: f64) {
    for _ in 0..2000 {
        let targets = model.gradients(&Selection::All).unwrap().targets;
        if targets.iter().all(|g| g.amax().as_f64() <= tolerance) {
            return;
        }
        model.solve_targets(&solver, &Selection::All).unwrap();
    }
    panic!("the sweeps did not reach a stationary point");
}

/// The largest |a − b|.
pub(crate) fn distance<T: Scalar>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |top, (&a, &b)| (a - b).as_f64().abs().max(top))
}

/// The Euclidean norm.
pub(crate) fn norm<T: Scalar>(values: &[T]) -> f64 {
    let squares = values.iter().map(|v| v.as_f64().powi(2));
    squares.sum::<f64>().sqrt()
}
