//! Options and states as serde values: the same when read again, and refused where a constructor would
//! refuse them.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use layerwise::Scalar;
use layerwise::data::Standardizer;
use layerwise::description::Description;
use layerwise::energy::LocalProblem;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SquaredError;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt, ParameterSolver};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{
    Check, ConjugateGradients, Convergence, ErrorDescent, GaussNewton, Iterate, LinearSolver,
    RedBlack, ReverseSweep, StepSize,
};
use layerwise::training::{Decoupling, Targets, ZStep};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An object with a field that it does not have is refused by that name, wherever it stands in
/// `value`; returns how many there were.
fn refuses_unknown_fields<A: DeserializeOwned>(value: &Value) -> usize {
    fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
        let Value::Object(fields) = value else {
            return;
        };
        // The name of a variant is no object of fields.
        let variant =
            fields.len() == 1 && fields.keys().all(|key| key.starts_with(char::is_uppercase));
        if !variant {
            found.push(at.into());
        }
        for (key, own) in fields {
            objects(own, &format!("{at}/{key}"), found);
        }
    }
    let mut found = Vec::new();
    objects(value, "", &mut found);
    for pointer in &found {
        let mut other = value.clone();
        other.pointer_mut(pointer).unwrap()["misspelt"] = json!(1);
        let Err(error) = serde_json::from_value::<A>(other) else {
            panic!("{value} with another field at '{pointer}' was read");
        };
        assert!(error.to_string().contains("misspelt"), "{pointer}: {error}");
    }
    found.len()
}

/// Comes back as it is; with each of the numbers in its place it is refused by the option's name.
fn assert_checked<A>(options: A, refused: &[(&str, f64, &str)])
where
    A: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value = serde_json::to_value(&options).unwrap();
    assert_eq!(serde_json::from_value::<A>(value.clone()).unwrap(), options);
    assert!(refuses_unknown_fields::<A>(&value) > 0);
    for &(pointer, number, name) in refused {
        let mut other: Value = value.clone();
        *other.pointer_mut(pointer).expect(pointer) = json!(number);
        let error = serde_json::from_value::<A>(other).unwrap_err();
        let text = format!("option {name} is {number}");
        assert!(error.to_string().contains(&text), "{error}");
    }
}

#[test]
fn options_pass_their_checks_when_they_are_read() {
    let adam = Adam::new(0.1).unwrap().with_betas(0.5, 0.75).unwrap();
    assert_checked(
        adam,
        &[
            ("/rate", 0.0, "Adam::rate"),
            ("/beta1", 1.0, "Adam::beta1"),
            ("/beta2", -0.1, "Adam::beta2"),
            ("/epsilon", -1.0, "Adam::epsilon"),
        ],
    );
    assert_checked(
        AdamW::new(adam),
        &[
            ("/decay", -0.1, "AdamW::weight_decay"),
            ("/adam/rate", -2.0, "Adam::rate"),
        ],
    );
    let descent = GradientDescent::new(0.1).unwrap();
    assert_checked(
        descent.with_nesterov(0.5).unwrap(),
        &[
            ("/rate", -0.1, "GradientDescent::rate"),
            ("/momentum", 1.5, "GradientDescent::momentum"),
        ],
    );
    assert_checked(
        RmsProp::new(0.1).unwrap().with_alpha(0.5).unwrap(),
        &[
            ("/rate", 0.0, "RmsProp::rate"),
            ("/alpha", 1.0, "RmsProp::alpha"),
            ("/epsilon", 0.0, "RmsProp::epsilon"),
        ],
    );
    assert_checked(
        Regularizer::elastic(0.1, 0.2).unwrap(),
        &[
            ("/l1", -0.1, "Regularizer::l1"),
            ("/l2", -0.9, "Regularizer::l2"),
        ],
    );
    assert_checked(Schedule::CONSTANT, &[]);
    for (schedule, pointer, number, name) in [
        (
            Schedule::cosine(0.5).unwrap().with_warm_up(3),
            "/shape/Cosine/end",
            1.5,
            "Schedule::cosine's end",
        ),
        (
            Schedule::linear(2.0).unwrap(),
            "/shape/Linear/end",
            -1.0,
            "Schedule::linear's end",
        ),
        (
            Schedule::geometric(0.5).unwrap(),
            "/shape/Geometric/end",
            0.0,
            "Schedule::geometric's end",
        ),
        (
            Schedule::steps(3, 0.5).unwrap(),
            "/shape/Steps/ratio",
            -0.5,
            "Schedule::steps' ratio",
        ),
    ] {
        assert_checked(schedule, &[(pointer, number, name)]);
    }
    let steps = json!({"shape": {"Steps": {"every": 0, "ratio": 0.5}}, "warm_up": 0});
    let error = serde_json::from_value::<Schedule>(steps).unwrap_err();
    assert!(error.to_string().contains("every is 0"), "{error}");
    let squares = LeastSquares::ridge(0.1).unwrap();
    assert_checked(
        squares.with_forgetting_factor(0.5).unwrap(),
        &[
            ("/ridge", -0.1, "LeastSquares::ridge"),
            ("/proximal", -0.1, "LeastSquares::proximal"),
            ("/forgetting", 1.5, "LeastSquares::forgetting"),
            ("/margin", 0.5, "LeastSquares::margin"),
        ],
    );
    assert_checked(
        LevenbergMarquardt::new(2, 3).with_damping(0.5).unwrap(),
        &[
            ("/damping", -1.0, "LevenbergMarquardt::damping"),
            ("/tolerance", -1.0, "LevenbergMarquardt::tolerance"),
        ],
    );
}

/// Solutions of one batch after another, with the state written and read between, or kept.
fn solutions<T>(solver: &dyn ParameterSolver<T>, through_text: bool) -> Vec<Vec<T>>
where
    T: Scalar + Serialize + DeserializeOwned,
{
    let layer = Dense::new(2, 2, Activation::Tanh).unwrap();
    let mut state = solver.start();
    let mut parameters = [0.3, -0.2, 0.5, 0.1, 0.0, 0.2].map(T::of);
    let mut found = Vec::new();
    for batch in 1..6 {
        let wave = |scale: f64| -> Vec<T> {
            let wave = |i: i32| T::of(0.8 * (scale * f64::from(batch * i + 1)).sin());
            (0..8).map(wave).collect()
        };
        let (input, target) = (wave(0.7), wave(1.9));
        let problem = LocalProblem::new(
            &layer,
            &parameters,
            &SquaredError,
            T::one(),
            &input,
            &target,
        );
        let problem = problem.unwrap();
        let (mut next, mut workspace) = (parameters, problem.workspace());
        solver
            .solve(&mut state, &problem, &mut workspace, &mut next)
            .unwrap();
        if through_text {
            let text = serde_json::to_string(&state).unwrap();
            let read: State<T> = serde_json::from_str(&text).unwrap();
            assert_eq!(read, state);
            state = read;
        }
        parameters = next;
        found.push(parameters.to_vec());
    }
    found
}

#[test]
fn a_state_goes_on_where_it_was_written() {
    fn in_scalar<T: Scalar + Serialize + DeserializeOwned>() {
        let squares = LeastSquares::ridge(0.1).unwrap();
        let solvers: [Box<dyn ParameterSolver<T>>; 3] = [
            Box::new(squares),
            Box::new(squares.with_forgetting_factor(0.7).unwrap()),
            Box::new(LevenbergMarquardt::new(2, 2).with_damping(4.0).unwrap()),
        ];
        for solver in solvers {
            assert_eq!(solutions(&*solver, true), solutions(&*solver, false));
        }
    }
    in_scalar::<f32>();
    in_scalar::<f64>();
}

/// Those that are only made of checked parts, or are checked where they are used.
#[test]
fn unknown_fields_are_refused() {
    fn check<A: Serialize + DeserializeOwned>(options: &A, objects: usize) {
        let value = serde_json::to_value(options).unwrap();
        assert_eq!(refuses_unknown_fields::<A>(&value), objects, "{value}");
    }
    let ends = Convergence::NEVER.with_tolerance(0.5).unwrap();
    check(&ends, 1);
    check(&StepSize::Bounded { margin: 1.0 }, 1);
    // The steps with their convergence, the rule, and its margin.
    check(&ReverseSweep::new(1).with_convergence(ends), 4);
    check(&RedBlack::new(1), 4);
    check(&ErrorDescent::new(1), 4);
    // The steps with their convergence, the damping, and the iterations.
    check(&GaussNewton::chained(2, 3), 4);
    check(&GaussNewton::direct(2), 3);
    check(&LinearSolver::from(ConjugateGradients::new(2)), 1);
    check(&Iterate::new(5, ()), 2);
    let schedule = Schedule::cosine(0.5).unwrap();
    check(
        &Targets::Residual {
            keep: 0.5,
            schedule,
        },
        3,
    );
    check(&Targets::Projected { seed: 1 }, 1);
    check(&Standardizer::<f64>::fit_rows(&[[1.0], [3.0]]).unwrap(), 1);
    let described = json!({"kind": "Huber", "settings": {"delta": 0.5}, "misspelt": 1});
    let error = serde_json::from_value::<Description>(described).unwrap_err();
    assert!(error.to_string().contains("misspelt"), "{error}");
}

/// How a solver's steps are checked follows from their kind. Another check could make E rise in silence.
#[test]
fn a_solver_with_another_check_is_refused() {
    fn check<A: Serialize + DeserializeOwned + PartialEq + Debug>(solver: A, own: &str) {
        let value = serde_json::to_value(&solver).unwrap();
        assert_eq!(value["check"], own, "{value}");
        for check in ["None", "Rounding", "Strict"] {
            let mut other = value.clone();
            other["check"] = json!(check);
            match serde_json::from_value::<A>(other) {
                Ok(read) => assert_eq!(
                    (check, read),
                    (own, serde_json::from_value(value.clone()).unwrap())
                ),
                Err(error) => {
                    assert_ne!(check, own);
                    assert!(error.to_string().contains("check"), "{error}");
                }
            }
        }
    }
    for (step, own) in [
        (StepSize::Fixed(0.1), "None"),
        (StepSize::Checked(0.1), "Rounding"),
        (StepSize::Bounded { margin: 1.0 }, "Rounding"),
    ] {
        check(ReverseSweep::new(1).with_step(step).unwrap(), own);
        check(RedBlack::new(1).with_step(step).unwrap(), own);
        check(ErrorDescent::new(1).with_step(step).unwrap(), own);
    }
    check(GaussNewton::direct(1), "Strict");
    // Here it can be chosen.
    let value = serde_json::to_value(Iterate::new(5, ()).with_check(Check::Strict)).unwrap();
    assert!(serde_json::from_value::<Iterate<()>>(value).is_ok());
}

/// Types that serde reads, and how each is checked: a new one has to be put where it belongs.
#[test]
fn every_type_that_is_read_is_checked() {
    // By itself, as it is read (`serde_checked!`), or made of such parts and of numbers that may be any.
    const OPTIONS: &[&str] = &[
        "Adam",
        "AdamW",
        "GradientDescent",
        "RmsProp",
        "LeastSquares",
        "LevenbergMarquardt",
        "Regularizer",
        "Schedule",
        "ConjugateGradients",
        "GaussNewton",
        "DampedStep",
        "ReverseSweep",
        "RedBlack",
        "ErrorDescent",
        "Convergence",
        "StepSize",
        "StepRule",
    ];
    const MADE_OF_OPTIONS: &[&str] = &[
        "Shape",
        "Iterate",
        "LinearSolver",
        "Preconditioner",
        "Sweep",
        "HalfSweeps",
        "ErrorStep",
        "Check",
    ];
    // By what takes it: `Decoupling::with_targets`, `Shard::problem`, `Session::resume`.
    const CHECKED_WHERE_USED: &[&str] = &[
        "Standardizer",
        "Description",
        "Setting",
        "Targets",
        "ParameterGroup",
        "Shard",
        "State",
        "Penalties",
        "Windows",
        "SessionState",
        "Within",
        "Epoch",
        "Tracker",
        "Statistics",
        "WState",
        "LayerState",
        "Motion",
        "Relaxed",
        "Squares",
        "Sum",
    ];
    // Results, which nothing takes.
    const RESULTS: &[&str] = &[
        "CheckpointRecord",
        "Failure",
        "DiagnosticReport",
        "LayerDiagnostics",
        "GradientDiagnostics",
        "TargetDiagnostics",
        "CurvatureDiagnostics",
        "ErrorShareDiagnostics",
        "LocalGradients",
        "SolveStop",
        "SolveReport",
        "StopReason",
        "Event",
        "VisitRecord",
        "EpochRecord",
        "PhaseReport",
        "TrainingReport",
        "Warned",
        "Warning",
    ];
    fn sources(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, found),
                false => found.push(std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let mut files = Vec::new();
    sources(
        &Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("src"),
        &mut files,
    );
    let mut read = Vec::new();
    for file in &files {
        for part in file.split("serde::Deserialize))]").skip(1) {
            let mut words = part.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            words.find(|word| ["struct", "enum"].contains(word));
            let name = words.next().unwrap();
            let own = part
                .trim_start()
                .starts_with("#[cfg_attr(feature = \"serde\", serde(remote");
            let checks = file.contains(&format!("serde_checked!({name});"));
            assert_eq!((own, checks), (OPTIONS.contains(&name), own), "{name}");
            let strict = part.split("struct").next().unwrap();
            let strict = strict.split("enum ").next().unwrap();
            let denies = strict.contains("deny_unknown_fields");
            assert!(denies || !OPTIONS.contains(&name), "{name}");
            read.push(name);
        }
    }
    let mut listed = [OPTIONS, MADE_OF_OPTIONS, CHECKED_WHERE_USED, RESULTS].concat();
    read.sort_unstable();
    listed.sort_unstable();
    assert_eq!(read, listed);
    // Targets, whose fields are public, are checked when a scheme takes them.
    let kept = json!({"Residual": {"keep": 1.5, "schedule": Schedule::CONSTANT}});
    let targets: Targets = serde_json::from_value(kept).unwrap();
    let sweep = ReverseSweep::new(1);
    let error = Decoupling::<f64>::new(targets, ZStep::Solver(Arc::new(sweep))).unwrap_err();
    assert!(error.to_string().contains("1.5"), "{error}");
}

#[test]
fn a_standardizer_is_read_as_it_was_fitted() {
    let fitted = Standardizer::<f32>::fit_rows(&[[1.0, 7.0, 0.1], [3.0, 7.0, 0.3]]).unwrap();
    let text = serde_json::to_string(&fitted).unwrap();
    let read: Standardizer<f32> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, fitted);
    let rows = [[5.0, 8.0, 0.2]];
    assert_eq!(
        read.transform_rows(&rows).unwrap(),
        fitted.transform_rows(&rows).unwrap()
    );
    for (damaged, expected) in [
        (
            r#"{"mean": [1.0], "deviation": []}"#,
            "expected length 1, found 0",
        ),
        (
            r#"{"mean": [1.0], "deviation": [-2.0]}"#,
            "Standardizer::deviation is -2",
        ),
        (r#"{"mean": [1.0]}"#, "deviation"),
    ] {
        let error = serde_json::from_str::<Standardizer<f64>>(damaged).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
