//! The shortest complete program: checks the gradients of a decoupled circuit and trains it to fit
//! a curve.

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};

fn main() -> Result<(), Error> {
    // 200 examples of y = sin 3x, one column per example.
    let x = DMatrix::from_fn(1, 200, |_, i| i as f64 / 100.0 - 1.0);
    let y = x.map(|x| (3.0 * x).sin());

    // Three layers. z_1 and z_2 of every example will be trained together with the weights.
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(1, 32, Activation::Tanh)?)
        .layer(Dense::new(32, 32, Activation::Tanh)?)
        .layer(Dense::new(32, 1, Activation::Identity)?)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(&x, &y, &TargetInit::ForwardPass)?;

    // Compare every gradient with finite differences along 20 random directions.
    let gradients = GradCheck::new().with_directions(20)?.circuit(&model)?;
    gradients.require(1e-5)?;
    println!("largest gradient error: {:.1e}", gradients.error());

    // Every visit sets the targets by a forward pass, moves them by one sweep from output to input,
    // and then steps each layer's weights on the layer's own loss. To use another scheme, change
    // the first argument.
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let report = Trainer::new(Phase::new(scheme, Adam::new(3e-3)?).with_epochs(2000))
        .with_measure_every(500)
        .run(&mut model)?;
    for record in report.history.iter().filter(|r| r.composed_loss.is_some()) {
        println!(
            "epoch {:>4}: E {:.2e}, composed loss {:.2e}, gap after the sweep {:.2e}",
            record.epoch,
            record.objective,
            record.composed_loss.unwrap_or_default(),
            record.gap_after.unwrap_or_default()
        );
    }

    println!(
        "prediction at x = 0.5: {:.4}",
        model.predict(&DMatrix::from_element(1, 1, 0.5))?[0]
    );
    println!("sin 1.5 = {:.4}", 1.5f64.sin());
    Ok(())
}
