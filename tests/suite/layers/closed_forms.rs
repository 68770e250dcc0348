//! Closed-form W-steps of grouped and transposed convolutions.

use layerwise::energy::LocalProblem;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Execution;
use layerwise::layer::{
    Activation, Affine, Context, Conv2d, ConvTranspose2d, WeightOrder, Window2d,
};
use layerwise::loss::SquaredError;
use layerwise::parameter_solver::{LeastSquares, ParameterSolver};
use layerwise::state::State;
use layerwise::{Error, Layer};

use super::laws::uniform;

/// Convolutions and transposed convolutions with 1, 2 and 4 groups and uneven windows, and one of each without bias.
fn layers(activation: Activation) -> Vec<Box<dyn Layer<f64>>> {
    let window = Window2d::new([2, 3]).with_stride([2, 1]);
    let window = window.with_padding([1, 0]).with_dilation([1, 2]);
    let mut layers: Vec<Box<dyn Layer<f64>>> = Vec::new();
    for groups in [1, 2, 4] {
        let conv = Conv2d::new([4, 4, 6], 8, window, activation).unwrap();
        layers.push(Box::new(conv.with_groups(groups).unwrap()));
        let up = ConvTranspose2d::new([4, 3, 4], 8, window, activation).unwrap();
        let up = up.with_output_padding([1, 0]).unwrap();
        layers.push(Box::new(up.with_groups(groups).unwrap()));
    }
    let bare = Conv2d::new([4, 5, 3], 2, 2, activation).unwrap();
    layers.push(Box::new(bare.with_groups(2).unwrap().without_bias()));
    let bare = ConvTranspose2d::new([4, 3, 2], 2, 2, activation).unwrap();
    layers.push(Box::new(bare.without_bias()));
    layers
}

fn count(layer: &dyn Layer<f64>) -> usize {
    layer.parameters().last().unwrap().range.end
}

fn output(layer: &dyn Layer<f64>, parameters: &[f64], z: &[f64]) -> Vec<f64> {
    let n = z.len() / layer.input_dim();
    let (mut work, context) = (vec![0.0; layer.scratch(n).work], Context::inference(0, 0));
    let context = context.with_execution(Execution::Sequential);
    let mut output = vec![0.0; layer.output_dim() * n];
    layer.forward(&context, parameters, z, &mut output, None, &mut work);
    output
}

/// θ after one call from the problem's θ, which matters only where a target has several preimages.
fn solved(
    solver: &LeastSquares,
    state: &mut State<f64>,
    problem: &LocalProblem<'_, f64>,
) -> Result<Vec<f64>, Error> {
    let mut found = problem.parameters().to_vec();
    solver.solve(state, problem, &mut problem.workspace(), &mut found)?;
    Ok(found)
}

#[test]
fn the_gradient_is_0_at_the_solution() {
    let n = 25;
    for layer in layers(Activation::Identity) {
        let (z, start) = (uniform(1, n * layer.input_dim()), uniform(2, count(&layer)));
        let (p, lambda) = (
            uniform(3, n * layer.output_dim()),
            uniform(4, n * layer.output_dim()),
        );
        let weights: Vec<f64> = (0..n).map(|i| [1.0, 0.0, 0.25, 3.0][i % 4]).collect();
        let problem = LocalProblem::new(&layer, &start, &SquaredError, 2.5, &z, &p).unwrap();
        let problem = problem.with_multipliers(&lambda).unwrap();
        let problem = problem.with_example_weights(&weights).unwrap();
        let solver = LeastSquares::ridge(0.0).unwrap();
        let found = solved(&solver, &mut State::new(), &problem).unwrap();
        let at = problem.at_parameters(&found).unwrap().gradients();
        assert!(
            at.parameters.iter().all(|g| g.abs() < 1e-10),
            "{layer:?}: {at:?}"
        );
        assert!(problem.gradients().parameters.iter().any(|g| g.abs() > 0.1));
    }
}

#[test]
fn the_weights_that_made_the_targets_are_found() {
    for activation in [Activation::Tanh, Activation::Sigmoid, Activation::Identity] {
        for layer in layers(activation) {
            let z = uniform(1, 25 * layer.input_dim());
            let (start, truth) = (uniform(2, count(&layer)), uniform(3, count(&layer)));
            let truth: Vec<f64> = truth.iter().map(|w: &f64| 0.3 * w).collect();
            let p = output(&layer, &truth, &z);
            let problem = LocalProblem::new(&layer, &start, &SquaredError, 1.0, &z, &p).unwrap();
            let solver = LeastSquares::ridge(0.0).unwrap();
            let found = solved(&solver, &mut State::new(), &problem).unwrap();
            for (found, truth) in found.iter().zip(&truth) {
                assert!(
                    (found - truth).abs() < 1e-10,
                    "{layer:?}: {found}, not {truth}"
                );
            }
        }
    }
}

/// Successive batches give the solution for all examples at once, even if the first leaves a group of channels
/// undetermined.
#[test]
fn sums_are_kept_group_by_group() {
    let n = 30;
    let keeping = LeastSquares::ridge(0.0).unwrap();
    let keeping = keeping.with_forgetting_factor(1.0).unwrap();
    for layer in layers(Activation::Identity) {
        let (dim, size) = (layer.input_dim(), layer.output_dim());
        let (mut z, p) = (uniform(1, n * dim), uniform(2, n * size));
        // The last input channel is 0 in the first half.
        let half = n / 2;
        z[..half * dim]
            .iter_mut()
            .skip(3)
            .step_by(4)
            .for_each(|z| *z = 0.0);
        let start = uniform(3, count(&layer));
        let problem = |range: std::ops::Range<usize>| {
            let z = &z[range.start * dim..range.end * dim];
            let p = &p[range.start * size..range.end * size];
            LocalProblem::new(&layer, &start, &SquaredError, 1.0, z, p).unwrap()
        };
        let mut state = State::new();
        let first = solved(&keeping, &mut state, &problem(0..half));
        assert!(
            matches!(first, Err(Error::Singular { .. })),
            "{layer:?}: {first:?}"
        );
        let found = solved(&keeping, &mut state, &problem(half..n)).unwrap();
        let expected = solved(&keeping, &mut State::new(), &problem(0..n)).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-10, "{layer:?}");
        }
        let groups = layer.affine().unwrap().groups;
        assert_eq!(state.values.len(), 6 * groups);
    }
}

/// A convolution that claims the given `affine`.
#[derive(Debug)]
struct Claims(Conv2d, Affine);

impl Layer<f64> for Claims {
    described_by!(0: f64);
    evaluated_by!(0: f64);

    fn affine(&self) -> Option<Affine> {
        Some(self.1.clone())
    }

    fn unfold(&self, input: &[f64], patches: &mut [f64]) {
        self.0.unfold(input, patches);
    }
}

/// An `affine` that does not fit the layer is refused by the solver and by `GradCheck`.
#[test]
fn groups_that_do_not_fit_are_refused() {
    let layer = || {
        let layer = Conv2d::new([4, 3, 3], 6, 2, Activation::Identity).unwrap();
        layer.with_groups(2).unwrap()
    };
    let right = layer().affine().unwrap();
    let places = |inputs| WeightOrder::Places { inputs };
    let mut whole = right.clone();
    whole.unfolds = false;
    let wrong = [
        right.clone().with_groups(0),
        right.clone().with_groups(4),
        right.clone().with_groups(usize::MAX),
        right.clone().with_order(places(0)),
        right.clone().with_order(places(3)),
        right.clone().with_order(places(10)),
        right.clone().with_order(places(usize::MAX)),
        whole,
    ];
    let (z, p) = (uniform(1, 36 * 20), uniform(2, 24 * 20));
    let start = uniform(3, count(&layer()));
    let check = |affine: Affine| {
        let layer = Claims(layer(), affine);
        let problem = LocalProblem::new(&layer, &start, &SquaredError, 1.0, &z, &p).unwrap();
        let solver = LeastSquares::ridge(1e-3).unwrap();
        let checked = GradCheck::new().layer(&layer, &start, &z[..72]);
        (solved(&solver, &mut State::new(), &problem), checked)
    };
    let (found, checked) = check(right);
    assert!(found.is_ok(), "{found:?}");
    checked.unwrap().require(1e-6).unwrap();
    for affine in wrong {
        let (found, checked) = check(affine.clone());
        let error = found.unwrap_err();
        assert!(matches!(error, Error::ParameterSolver { .. }), "{error}");
        assert!(
            error.to_string().contains("is not a map from 36"),
            "{error}"
        );
        assert!(checked.is_err(), "{affine:?}");
    }
}
