//! The README's quick start, as it stands there.

use layerwise::prelude::*;

fn main() -> Result<(), Error> {
    // One column per example: y = sin 3x.
    let x = DMatrix::from_fn(1, 100, |_, i| i as f64 / 50.0 - 1.0);
    let y = x.map(|x| (3.0 * x).sin());
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(1, 32, Activation::Tanh)?)
        .layer(Dense::new(32, 32, Activation::Tanh)?)
        .layer(Dense::new(32, 1, Activation::Identity)?)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
    let scheme = Decoupling::refreshed(ReverseSweep::new(1)); // or Backprop, Decoupling::joint(…), …
    let phase = Phase::new(scheme, Adam::new(5e-3)?).with_epochs(300);
    println!("{}", Trainer::new(phase).run(&mut model)?);
    println!("{}", model.predict(&DMatrix::from_element(1, 1, 0.5))?);
    Ok(())
}
