//! States of solvers that do not fit, as from a damaged file: errors, never a panic.

use crate::property::Tested;
use layerwise::energy::LocalProblem;
use layerwise::loss::SquaredError;
use layerwise::parameter_solver::{LevenbergMarquardt, ParameterSolver};
use layerwise::prelude::*;
use layerwise::state::State;
use layerwise::target_solver::{SolveReport, SynchronousDescent, TargetProblem};

in_both_scalars!(
    bounds_without_couplings_are_refused,
    a_damping_that_is_none_is_refused,
);

/// Calls a solver, damages its state, and calls it again.
#[derive(Debug)]
struct Damaged<S>(S);

impl<T: Scalar, S: TargetSolver<T>> TargetSolver<T> for Damaged<S> {
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        self.0.solve(state, problem)?;
        let bounds = &mut state.parts[0].parts[0].values;
        assert_eq!([bounds[0].len(), bounds[1].len()], [3, 2]);
        bounds[1].clear();
        self.0.solve(state, problem)
    }
}

fn bounds_without_couplings_are_refused<T: Tested>() {
    let dense = |m, n| Dense::new(m, n, Activation::Tanh).unwrap();
    let circuit = Circuit::builder().layer(dense(2, 3)).layer(dense(3, 4));
    let circuit = circuit.layer(dense(4, 2)).layer(dense(2, 1)).build();
    let mut model = DecoupledCircuit::<T>::new(circuit.unwrap(), Energy::default()).unwrap();
    let (x, y) = (DMatrix::zeros(2, 3), DMatrix::zeros(1, 3));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let step = StepSize::Bounded { margin: 1.0 };
    let synchronous = SynchronousDescent::new(2, step).unwrap();
    let solver = Damaged(synchronous);
    let error = model.solve_targets(&solver, &Selection::All).unwrap_err();
    let expected = Error::Length {
        what: "the couplings in a state".into(),
        expected: 2,
        found: 0,
    };
    assert_eq!(error, expected);
}

fn a_damping_that_is_none_is_refused<T: Tested>() {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let [theta, x, y] = [[0.5, 0.0], [1.0, -1.0], [3.0, 1.0]].map(|own| own.map(T::of));
    let problem = LocalProblem::new(&layer, &theta, &SquaredError, T::one(), &x, &y).unwrap();
    let mut state = State::new();
    for damping in [f64::NAN, f64::INFINITY, -1.0] {
        state.values = vec![vec![T::of(damping)]];
        let mut own = theta;
        let error = LevenbergMarquardt::new(3, 3)
            .solve(&mut state, &problem, &mut problem.workspace(), &mut own)
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("damping") && own == theta, "{text}");
    }
}
