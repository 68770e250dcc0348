//! A circuit cut into segments: what each makes, with the messages at its ends, is the whole.

use layerwise::energy::{All, Energy, Workspace};
use layerwise::prelude::*;
use layerwise::segment::Segment;

const WIDTHS: [usize; 6] = [3, 5, 2, 4, 3, 2];
const EXAMPLES: usize = 7;

fn model() -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder().seed(3);
    for pair in WIDTHS.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
    }
    let energy = Energy::default().with_penalties(vec![0.5, 2.0, 1.5, 0.7]);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let wave = |rows, shift: usize| {
        DMatrix::from_fn(rows, EXAMPLES, |i, j| {
            ((3 * i + 5 * j + shift) as f64).sin()
        })
    };
    let targets = TargetInit::RandomNormal { std: 0.6, seed: 1 };
    model
        .add_examples(&wave(3, 0), &wave(2, 1), &targets)
        .unwrap();
    let weights: Vec<f64> = (0..EXAMPLES).map(|i| 0.5 + i as f64 / 4.0).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

#[test]
fn segments_and_their_messages_are_the_whole() {
    let model = model();
    let depth = WIDTHS.len() - 1;
    let wave = |t: usize| (0..WIDTHS[t] * EXAMPLES).map(move |i| ((i * t) as f64).cos() / 3.0);
    let multipliers: Vec<Vec<f64>> = (1..depth).map(|t| wave(t).collect()).collect();
    let problem = model.problem(0..EXAMPLES).unwrap();
    for problem in [problem, problem.with_multipliers(&multipliers).unwrap()] {
        let mut workspace = Workspace::new();
        let whole = problem.evaluate(All, &mut workspace);
        for cuts in [vec![], vec![2], vec![1, 2], vec![1, 2, 3, 4], vec![4]] {
            let ends = cuts.iter().copied().chain([depth]);
            let starts = [0].into_iter().chain(cuts.iter().copied());
            let mut workspaces: Vec<_> = ends.clone().map(|_| Workspace::new()).collect();
            let parts = starts.zip(ends).zip(&mut workspaces);
            let mut segments: Vec<Segment<'_, '_, f64>> = parts
                .map(|((start, end), workspace)| Segment::new(problem, start..end, workspace))
                .collect();
            let layers: Vec<_> = segments.iter().map(Segment::layers).collect();
            let all: Vec<_> = segments.iter_mut().map(Segment::evaluate).collect();
            let energy: f64 = all.iter().map(|own| own.energy()).sum();
            assert!((energy - whole.energy()).abs() < 1e-13 * whole.energy().abs());
            for (own, layers) in all.iter().zip(&layers) {
                for t in layers.clone() {
                    assert_eq!(own.parameter_gradient(t), whole.parameter_gradient(t));
                }
                for t in layers.start + 1..layers.end {
                    assert_eq!(own.target_gradient(t), whole.target_gradient(t));
                }
            }
            for (pair, layers) in all.windows(2).zip(&layers[1..]) {
                let parts = pair[0]
                    .upper_gradient()
                    .iter()
                    .zip(pair[1].lower_gradient());
                let sum: Vec<f64> = parts.map(|(below, above)| below + above).collect();
                assert_eq!(sum, whole.target_gradient(layers.start));
            }
        }
    }
}

#[test]
#[should_panic(expected = "layers 3..6 are not a non-empty range within 0..5")]
fn layers_that_do_not_exist_are_no_segment() {
    let model = model();
    Segment::new(model.problem(0..2).unwrap(), 3..6, &mut Workspace::new());
}
