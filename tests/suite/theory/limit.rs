//! μ → ∞: stationary points of E tend to those of the composed loss, at the rate and from the side
//! that `docs/theory.md` states.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::optimizer::Adam;
use layerwise::training::{Backprop, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, theory};

const ALL: Selection<'static> = Selection::All;
const EXAMPLES: usize = 6;

/// ẑ = v tanh(w x + b) + c on six examples that it cannot fit, trained by backprop.
fn trained() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(1, 1, Activation::Tanh).unwrap())
        .layer(Dense::new(1, 1, Activation::Identity).unwrap())
        .seed(3)
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_fn(1, EXAMPLES, |_, j| (j as f64 - 2.5) / 2.0);
    let noise = [0.15, -0.2, 0.1, 0.2, -0.15, -0.05];
    let y = DMatrix::from_fn(1, EXAMPLES, |_, j| (2.0 * x[j]).tanh() + noise[j]);
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let phase = Phase::new(Backprop, Adam::new(0.02).unwrap()).with_epochs(3000);
    Trainer::new(phase)
        .with_measure_every(0)
        .run(&mut model)
        .unwrap();
    model
}

/// θ, then z_1.
fn read(model: &DecoupledCircuit<f64>) -> DVector<f64> {
    let circuit = model.circuit();
    let own = [circuit.parameters(0), circuit.parameters(1)].concat();
    let z = model.z(1).unwrap().into_owned();
    DVector::from_iterator(4 + EXAMPLES, own.into_iter().chain(z.iter().copied()))
}

fn write(model: &mut DecoupledCircuit<f64>, x: &DVector<f64>) {
    model.set_parameters(0, &x.as_slice()[..2]).unwrap();
    model.set_parameters(1, &x.as_slice()[2..4]).unwrap();
    let z = DMatrix::from_column_slice(1, EXAMPLES, &x.as_slice()[4..]);
    model.set_targets(1, &ALL, &z).unwrap();
}

/// Central differences of a vector function.
fn jacobian(x: &DVector<f64>, f: &mut dyn FnMut(&DVector<f64>) -> DVector<f64>) -> DMatrix<f64> {
    let h = 1e-5;
    let columns: Vec<_> = (0..x.len())
        .map(|i| {
            let (mut plus, mut minus) = (x.clone(), x.clone());
            plus[i] += h;
            minus[i] -= h;
            (f(&plus) - f(&minus)) / (2.0 * h)
        })
        .collect();
    DMatrix::from_columns(&columns)
}

/// Newton's method for f = 0.
fn solve(mut x: DVector<f64>, f: &mut dyn FnMut(&DVector<f64>) -> DVector<f64>) -> DVector<f64> {
    for _ in 0..12 {
        let residual = f(&x);
        let jacobian = jacobian(&x, f);
        x -= jacobian.lu().solve(&residual).unwrap();
    }
    let rest = f(&x).amax();
    assert!(rest < 1e-10, "not at rest: {rest} at {x}");
    x
}

#[test]
fn stationary_points_tend_to_backprops_at_the_rate_of_one_over_mu() {
    let model = trained();
    let parameters = |x: &DVector<f64>| x.rows(0, 4).into_owned();
    let composed = |theta: &DVector<f64>| {
        let mut model = model.clone();
        model.set_parameters(0, &theta.as_slice()[..2]).unwrap();
        model.set_parameters(1, &theta.as_slice()[2..]).unwrap();
        model.backprop(&ALL).unwrap()
    };
    let mut gradient =
        |theta: &DVector<f64>| DVector::from_vec(composed(theta).parameters.concat());
    let limit = solve(parameters(&read(&model)), &mut gradient);
    let hessian = jacobian(&limit, &mut gradient);
    assert!(
        hessian.clone().symmetric_eigenvalues().min() > 1e-3,
        "a degenerate minimum"
    );

    // θ_μ = θ* + (1/2μ) (∇²L)⁻¹ ∇ Σ‖δ‖² + O(μ⁻²).
    let mut squares =
        |theta: &DVector<f64>| DVector::from_element(1, composed(theta).targets[0].norm_squared());
    let slope = jacobian(&limit, &mut squares).transpose();
    let expected = hessian.lu().solve(&slope).unwrap().column(0) * 0.5;
    assert!(expected.norm() > 0.1, "nothing to compare");

    let mut at = model.clone();
    at.set_parameters(0, &limit.as_slice()[..2]).unwrap();
    at.set_parameters(1, &limit.as_slice()[2..]).unwrap();
    at.initialize_targets(&TargetInit::ForwardPass).unwrap();
    let start = read(&at);
    let delta = at.backprop(&ALL).unwrap().targets[0].clone();
    let errors = [200.0, 400.0, 800.0, 1600.0].map(|penalty| {
        at.set_penalties(&[penalty]).unwrap();
        let mut probe = at.clone();
        let rest = solve(start.clone(), &mut |x| {
            write(&mut probe, x);
            let gradients = probe.gradients(&ALL).unwrap();
            let all = gradients.parameters.concat().into_iter();
            DVector::from_vec(all.chain(gradients.targets[0].iter().copied()).collect())
        });
        write(&mut probe, &rest);
        let found = theory::stationarity(&probe, &ALL).unwrap();
        let theta = (parameters(&rest) - &limit) * penalty;
        let gap = probe.gap().unwrap()[0];
        [
            (theta - &expected).norm(),
            (&found.multipliers[0] - &delta).norm(),
            gap,
        ]
    });
    // First order in 1/μ each: θ's coefficient, λ → δ, and the gap.
    for pair in errors.windows(2) {
        for (coarse, fine) in pair[0].iter().zip(&pair[1]) {
            let ratio = fine / coarse;
            assert!((0.4..0.6).contains(&ratio), "{errors:?}");
        }
    }
    assert!(
        errors[3][0] < 0.05 * expected.norm(),
        "{errors:?}, {expected}"
    );
}

/// Layers below the last rest at the forward pass whatever θ is, z does not: both must.
#[test]
fn a_part_of_stationarity_is_not_enough() {
    let mut model = trained();
    model.set_parameters(0, &[0.3, -0.5]).unwrap();
    model.initialize_targets(&TargetInit::ForwardPass).unwrap();
    // The last layer at its own optimum.
    let z = model.z(1).unwrap().into_owned();
    let y = model.z(2).unwrap().into_owned();
    let rows = DMatrix::from_fn(EXAMPLES, 2, |i, j| if j == 0 { z[i] } else { 1.0 });
    let normal = rows.transpose() * &rows;
    let last = normal
        .lu()
        .solve(&(rows.transpose() * y.transpose()))
        .unwrap();
    model.set_parameters(1, last.as_slice()).unwrap();
    for penalty in [1.0, 1e6] {
        model.set_penalties(&[penalty]).unwrap();
        let own = model.gradients(&ALL).unwrap();
        let exact = model.backprop(&ALL).unwrap();
        let rest = own
            .parameters
            .concat()
            .iter()
            .fold(0.0, |top: f64, g| top.max(g.abs()));
        assert!(rest < 1e-12, "{rest}");
        let slope = exact.parameters[0]
            .iter()
            .fold(0.0, |top: f64, g| top.max(g.abs()));
        assert!(slope > 1e-2 && own.targets[0].amax() > 1e-2, "{slope}");
    }
}
