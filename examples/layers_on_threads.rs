//! Evaluates the T local problems of a circuit, each on its own thread. The results have the same
//! bits as the circuit's own evaluation.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::energy::LocalGradients;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Error};

fn main() -> Result<(), Error> {
    let widths = [20, 64, 48, 32, 16, 3];
    let mut builder = Circuit::<f64>::builder();
    for pair in widths.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh)?);
    }
    let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
    let n = 256;
    let x = DMatrix::from_fn(20, n, |i, j| ((3 * i + 7 * j) % 13) as f64 / 13.0 - 0.5);
    let y = DMatrix::from_fn(3, n, |i, j| ((i + j) % 3) as f64 / 2.0 - 0.5);
    let init = TargetInit::RandomNormal { std: 0.5, seed: 1 };
    model.add_examples(&x, &y, &init)?;

    // A local problem borrows θ_t, z_t and z_{t+1}. The threads share no mutable data, and none
    // waits for another.
    let depth = model.circuit().depth();
    let problems = (0..depth)
        .map(|t| model.local_problem(t, 0..n))
        .collect::<Result<Vec<_>, _>>()?;
    let results: Vec<LocalGradients<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = problems
            .iter()
            .map(|problem| scope.spawn(|| problem.gradients()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect()
    });

    let whole = model.gradients(&Selection::All)?;
    println!(
        "{:>5} {:>12} {:>14} {:>10}",
        "layer", "energy", "|dE/dθ|", "same bits"
    );
    let mut all_same = true;
    for (t, local) in results.iter().enumerate() {
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let mut same = bits(&local.parameters) == bits(&whole.parameters[t]);
        if t + 1 < depth {
            // ∂E/∂z_{t+1}: the part as this layer's target, then the part as the next layer's
            // input.
            let next = &results[t + 1].input;
            let sum: Vec<f64> = local.target.iter().zip(next).map(|(a, b)| a + b).collect();
            same &= bits(&sum) == bits(whole.targets[t].as_slice());
        }
        let norm = local.parameters.iter().map(|g| g * g).sum::<f64>().sqrt();
        println!("{t:>5} {:>12.4} {norm:>14.4} {same:>10}", local.energy);
        all_same &= same;
    }
    let energy: f64 = results.iter().map(|local| local.energy).sum();
    all_same &= energy.to_bits() == whole.energy.to_bits();
    println!("E = {energy:.4}; all bits equal: {all_same}");
    assert!(all_same, "threads changed the result");
    Ok(())
}
