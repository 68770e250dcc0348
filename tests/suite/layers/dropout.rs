//! Values dropped at random in training: the mask of a visit, and nothing but the mask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use layerwise::decoupled::{Selection, TargetInit, TargetUse};
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, Dropout, Point, Sequential};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::parameter_solver::LevenbergMarquardt;
use layerwise::state::State;
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::training::{
    Backprop, Decoupling, FixedPrediction, Phase, Scheme, Trainer, Visit, ZIl,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};

use super::checked::{Call, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(passes_every_check);

fn passes_every_check<T: Tested>() {
    holds::<T>(Dropout::new([3, 2], 0.4).unwrap());
    holds::<T>(Dropout::new(3, 0.0).unwrap());
}

/// The outputs for inputs of 1.
fn ones<T: Scalar>(layer: &dyn Layer<T>, context: Context<'_>, n: usize) -> Vec<T> {
    let input = vec![T::one(); n * layer.input_dim()];
    Call::in_context(context, layer, &[], &input).output
}

#[test]
fn the_mask_is_that_of_seed_layer_visit_and_example() {
    let layer = Dropout::new(40, 0.3).unwrap();
    let mask = |context: Context<'_>| ones::<f64>(&layer, context, 2);
    let ids = [7, 3];
    let one = mask(Context::training(1, 2, 5, &ids));
    assert_eq!(mask(Context::training(1, 2, 5, &ids)), one);
    // Every one of the four counts, and each example has its own.
    let seed = mask(Context::training(2, 2, 5, &ids));
    let place = mask(Context::training(1, 3, 5, &ids));
    let visit = mask(Context::training(1, 2, 6, &ids));
    let others = mask(Context::training(1, 2, 5, &[8, 4]));
    let all = [&one, &seed, &place, &visit, &others];
    let all: Vec<&[f64]> = all.iter().flat_map(|mask| mask.chunks_exact(40)).collect();
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b), "mask {i} twice");
    }
    // The same alone, in another place, and in another scalar.
    assert_eq!(
        ones::<f64>(&layer, Context::training(1, 2, 5, &[3]), 1),
        one[40..]
    );
    let swapped = mask(Context::training(1, 2, 5, &[3, 7]));
    assert_eq!([&swapped[40..], &swapped[..40]].concat(), one);
    let single = ones::<f32>(&layer, Context::training(1, 2, 5, &ids), 2);
    assert!(
        single
            .iter()
            .zip(&one)
            .all(|(a, b)| (*a == 0.0) == (*b == 0.0))
    );
    // Off: in predictions, and without ids.
    assert_eq!(mask(Context::inference(1, 2)), [1.0; 80]);
    assert_eq!(mask(Context::training(1, 2, 5, &[])), [1.0; 80]);
}

/// Over many visits the mean is the input, values are dropped at the rate, and neighbours in value,
/// example and visit are not dropped together.
#[test]
fn the_mean_is_unchanged_and_masks_are_independent() {
    let (size, n, visits) = (50, 20_usize, 100);
    let ids: Vec<u64> = (0..n as u64).collect();
    for rate in [0.1, 0.5, 0.8] {
        let layer = Dropout::new(size, rate).unwrap();
        let masks: Vec<f64> = (0..visits)
            .flat_map(|visit| ones::<f64>(&layer, Context::training(0, 0, visit, &ids), n))
            .collect();
        let kept = 1.0 / (1.0 - rate);
        assert!(masks.iter().all(|&m| m == 0.0 || m == kept));
        let count = masks.len() as f64;
        let deviation = (rate / (1.0 - rate)).sqrt();
        let mean = masks.iter().sum::<f64>() / count;
        let error = (mean - 1.0).abs() / (deviation / count.sqrt());
        assert!(
            error < 4.0,
            "rate {rate}: mean {mean}, {error} deviations from 1"
        );
        for distance in [1, size, size * n] {
            let pairs = masks.iter().zip(&masks[distance..]);
            let products: f64 = pairs.map(|(a, b)| (a - 1.0) * (b - 1.0)).sum();
            let error = products / deviation.powi(2) / count.sqrt();
            assert!(
                error.abs() < 4.0,
                "rate {rate}, distance {distance}: {error}"
            );
        }
    }
}

/// Every dropout layer of a unit has its own mask, even in units within units at seed 0.
#[test]
fn layers_of_a_unit_have_masks_of_their_own() {
    let dropout = || Box::new(Dropout::new(60, 0.5).unwrap()) as Box<dyn Layer<f64>>;
    let unit = |layers| Box::new(Sequential::new(layers).unwrap()) as Box<dyn Layer<f64>>;
    let nothing = || Box::new(Dropout::new(60, 0.0).unwrap()) as Box<dyn Layer<f64>>;
    let places: [Box<dyn Layer<f64>>; 6] = [
        dropout(),
        unit(vec![dropout(), nothing()]),
        unit(vec![nothing(), dropout()]),
        unit(vec![unit(vec![nothing(), dropout()]), nothing()]),
        unit(vec![unit(vec![dropout(), nothing()]), nothing()]),
        unit(vec![nothing(), unit(vec![dropout(), nothing()])]),
    ];
    let masks = places.map(|layer| ones(&layer, Context::training(0, 0, 0, &[0]), 1));
    for (i, a) in masks.iter().enumerate() {
        assert!(masks[..i].iter().all(|b| a != b), "mask {i} twice");
    }
}

/// Which values of (visit, example) were kept.
type Masks = Arc<Mutex<BTreeMap<(u64, u64), Vec<bool>>>>;

/// A dropout layer that records its masks in training, and compares them with those before.
#[derive(Debug)]
struct Recorded(Box<dyn Layer<f64>>, Masks);

impl Recorded {
    fn record(&self, context: &Context<'_>, from: &[f64], to: &[f64]) {
        let n = from.len() / self.0.input_dim();
        if !context.training {
            assert_eq!(from, to);
            return;
        }
        assert_eq!(context.examples.len(), n, "an id for every column");
        let columns = to.chunks_exact(to.len() / n);
        for (&id, column) in context.examples.iter().zip(columns) {
            let mask: Vec<bool> = column.iter().map(|&value| value != 0.0).collect();
            let mut masks = self.1.lock().unwrap();
            let before = masks.entry((context.visit, id)).or_insert(mask.clone());
            assert_eq!(*before, mask, "visit {}, example {id}", context.visit);
        }
    }
}

impl Layer<f64> for Recorded {
    described_by!(0: f64);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        tape: Option<&mut [f64]>,
        work: &mut [f64],
    ) {
        self.0
            .forward(context, parameters, input, output, tape, work);
        self.record(context, input, output);
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        mut d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        let all = 0..d_input.len();
        self.0
            .vjp(at, cotangent, d_input.part(all), d_parameters, work);
        if let Write::Set(d) = d_input
            && cotangent.iter().all(|&u| u != 0.0)
        {
            self.record(&at.context, cotangent, d);
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        v_parameters: Option<&[f64]>,
        tangent: &mut [f64],
        work: &mut [f64],
    ) {
        self.0.jvp(at, v_input, v_parameters, tangent, work);
        if let Some(v) = v_input.filter(|v| v.iter().all(|&v| v != 0.0)) {
            self.record(&at.context, v, tangent);
        }
    }

    fn curvature_bound(&self, parameters: &[f64], work: &mut [f64]) -> Option<f64> {
        self.0.curvature_bound(parameters, work)
    }
}

const EXAMPLES: usize = 6;

fn model(masks: &Masks) -> DecoupledCircuit<f64> {
    let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let dropout = Box::new(Dropout::new(5, 0.4).unwrap());
    let circuit = Circuit::builder()
        .seed(3)
        .layer(dense(3, 5))
        .layer(Recorded(dropout, masks.clone()))
        .layer(dense(5, 4))
        .layer(dense(4, 2))
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let values = |seed, rows| {
        let values = uniform::<f64>(&mut generator(seed), rows * EXAMPLES, 1.0);
        DMatrix::from_vec(rows, EXAMPLES, values)
    };
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 1 };
    model
        .add_examples(&values(1, 3), &values(2, 2), &init)
        .unwrap();
    model
}

/// Every scheme evaluates a visit with one mask for each example, in Z-steps and W-steps and whatever
/// columns are left; the next visit has another one. The schemes have the same masks.
#[test]
fn every_scheme_keeps_a_mask_for_a_visit() {
    let rule = || Adam::new(1e-2).unwrap();
    let synchronous = || SynchronousDescent::new(3, StepSize::Bounded { margin: 1.0 }).unwrap();
    let checked = || {
        ReverseSweep::new(3)
            .with_step(StepSize::Checked(0.5))
            .unwrap()
    };
    let phases: Vec<Phase<f64>> = vec![
        Phase::new(Backprop, rule()),
        Phase::new(Decoupling::weights_only(), rule()),
        Phase::new(Decoupling::joint(rule()), rule()),
        Phase::new(Decoupling::persistent(checked()), rule()),
        Phase::new(Decoupling::refreshed(checked()), rule()),
        Phase::new(Decoupling::residual(RedBlack::new(2)), rule()),
        Phase::new(Decoupling::residual(ErrorDescent::new(2)), rule()),
        Phase::new(Decoupling::persistent(synchronous()), rule()),
        Phase::new(Decoupling::persistent(GaussNewton::new(2, 3)), rule()),
        Phase::new(Decoupling::refreshed(GaussNewton::direct(2)), rule()),
        Phase::new(
            Decoupling::persistent(checked())
                .with_multipliers(1.0)
                .unwrap(),
            rule(),
        ),
        Phase::new(ZIl, rule()),
        Phase::new(FixedPrediction::new(), rule()),
    ];
    let mut first = None;
    for (k, phase) in phases.into_iter().enumerate() {
        let masks = Masks::default();
        let mut model = model(&masks);
        let phase = phase.with_epochs(2).with_batch_size(EXAMPLES / 2).unwrap();
        let trainer = Trainer::new(phase).with_measure_every(1);
        trainer.run(&mut model).unwrap();
        let masks = masks.lock().unwrap().clone();
        // Two visits of each example: in visits 0 and 1, and in 2 and 3. Whether layers mix examples
        // was tried as in visit 0, too.
        for id in 0..EXAMPLES as u64 {
            let visits = (0..4).filter(|&visit| masks.contains_key(&(visit, id)));
            let visits: Vec<u64> = visits.collect();
            assert!(
                visits.iter().any(|&v| v < 2) && visits.iter().any(|&v| v >= 2),
                "{visits:?}"
            );
        }
        assert!(masks.keys().all(|&(visit, _)| visit < 4), "scheme {k}");
        assert!(masks.values().flatten().any(|kept| !kept), "scheme {k}");
        let first = first.get_or_insert(masks.clone());
        for (key, mask) in &masks {
            assert_eq!(
                first.entry(*key).or_insert(mask.clone()),
                mask,
                "scheme {k}"
            );
        }
    }
    let first = first.unwrap();
    let of = |visit, id| first.get(&(visit, id));
    let changed =
        |id| (0..4).any(|v| (0..v).any(|w| of(v, id).zip(of(w, id)).is_some_and(|(a, b)| a != b)));
    assert!((0..EXAMPLES as u64).filter(|&id| changed(id)).count() > EXAMPLES / 2);
}

/// Checked Z-steps never raise E, since the masks stay fixed.
#[test]
fn checked_z_steps_never_raise_e() {
    #[derive(Debug)]
    struct Watched<S>(S, Arc<Mutex<Vec<[f64; 2]>>>);

    impl<S: TargetSolver<f64>> Scheme<f64> for Watched<S> {
        fn targets(&self) -> TargetUse {
            TargetUse::Kept
        }

        fn start(&self, _: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
            Ok(self.0.start())
        }

        fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
            let before = visit.evaluate()?.energy();
            let report = self.0.solve(state, &mut visit.target_problem())?;
            visit.record_solve(report);
            let after = visit.evaluate()?.energy();
            self.1.lock().unwrap().push([before, after]);
            visit.evaluate()?.step()
        }
    }

    fn watched(solver: impl TargetSolver<f64> + 'static) {
        let energies = Arc::default();
        let scheme = Watched(solver, Arc::clone(&energies));
        let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(10);
        let phase = phase.with_batch_size(4).unwrap();
        Trainer::new(phase)
            .run(&mut model(&Masks::default()))
            .unwrap();
        let energies = energies.lock().unwrap();
        assert_eq!(energies.len(), 20);
        for [before, after] in energies.iter() {
            assert!(after < before, "E rose from {before} to {after}");
        }
    }
    let checked = StepSize::Checked(1.0);
    watched(ReverseSweep::new(2).with_step(checked).unwrap());
    watched(SynchronousDescent::new(3, checked).unwrap());
    watched(GaussNewton::new(2, 4));
}

/// In a whole model: gradients with masks are right, predictions have none, and a parameter solver
/// keeps one mask throughout its call.
#[test]
fn a_model_with_dropout_is_sound() {
    let masks = Masks::default();
    let mut model = model(&masks);
    GradCheck::new()
        .circuit(&model)
        .unwrap()
        .require(1e-6)
        .unwrap();
    let x = DMatrix::from_element(3, 2, 0.3);
    let circuit = Circuit::builder()
        .layer(Dropout::new(3, 0.9).unwrap())
        .build()
        .unwrap();
    assert_eq!(circuit.predict(&x).unwrap(), x);
    let solver = LevenbergMarquardt::new(3, 5);
    let before = model.energy().unwrap();
    model.solve_parameters(2, &solver, &Selection::All).unwrap();
    assert!(model.energy().unwrap() < before);
}

#[test]
fn the_bound_is_the_largest_slope() {
    let layer = Dropout::new(3, 0.75).unwrap();
    let bound = Call::<f64>::new(&layer, &[], &[1.0; 3]).bound().unwrap();
    assert!((16.0..16.0 + 1e-12).contains(&bound), "{bound}");
}

#[test]
fn refuses_with_the_numbers() {
    for rate in [1.0, -0.1, f64::NAN] {
        let error = Dropout::new(3, rate).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let told = Dropout::new(3, 1.5).unwrap_err().to_string();
    assert_eq!(
        told,
        "option Dropout::rate is 1.5, but must be at least 0 and below 1"
    );
    let error = Dropout::new(0, 0.5).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}
