//! Options of target solvers go through JSON and back, and are checked on the way.

use std::fmt::Debug;

use layerwise::target_solver::{
    ConjugateGradients, Convergence, ErrorDescent, GaussNewton, Iterate, RedBlack, ReverseSweep,
    StepSize,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn there_and_back<S: Serialize + DeserializeOwned + PartialEq + Debug>(solver: S) -> String {
    let text = serde_json::to_string(&solver).unwrap();
    assert_eq!(serde_json::from_str::<S>(&text).unwrap(), solver);
    text
}

#[test]
fn options_come_back() {
    let ends = Convergence::NEVER.with_tolerance(0.25).unwrap();
    let sweep = ReverseSweep::new(3).with_step(StepSize::Bounded { margin: 1.5 });
    let sweep = sweep.unwrap().with_bound_every(7).unwrap();
    let sweep = there_and_back(sweep.with_convergence(ends));
    let direct = there_and_back(GaussNewton::direct(2).with_damping(0.5).unwrap());
    let loose = ConjugateGradients::chained(4).with_tolerance(0.125);
    let iterated = there_and_back(GaussNewton::solved_by(1, loose.unwrap()));
    there_and_back(RedBlack::new(5));
    there_and_back(ErrorDescent::new(5));
    there_and_back(Iterate::new(5, ()));
    let refused = |error: Result<(), serde_json::Error>, what: &str| {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let read = |text: String| serde_json::from_str::<ReverseSweep>(&text).map(drop);
    refused(read(sweep.replace("1.5", "2.5")), "margin");
    refused(read(sweep.replace("0.25", "-1.0")), "tolerance");
    refused(read(sweep.replace(":7", ":0")), "nonzero");
    let fixed = r#"{"Fixed":0.1}"#;
    let with_bounds = sweep.replace(r#"{"Bounded":{"margin":1.5}}"#, fixed);
    assert!(with_bounds.contains(fixed));
    refused(read(with_bounds), "with_bound_every");
    let read = |text: String| serde_json::from_str::<GaussNewton>(&text).map(drop);
    refused(read(direct.replace("0.5", "-0.5")), "damping");
    refused(read(iterated.replace("0.125", "-1.0")), "tolerance");
}
