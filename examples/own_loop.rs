//! A hand-written training loop, with progress output and a clean stop, for a scheme that is not part
//! of the crate. It gives the same bits as `Trainer::run`.
//!
//! `cargo run --release --example own_loop`

use layerwise::decoupled::TargetUse;
use layerwise::prelude::*;
use layerwise::state::State;
use layerwise::training::{Event, Session, Visit};

/// Resets the targets to a forward pass, makes a sweep and a step of θ, and then a second sweep at
/// the new θ and another step of θ.
#[derive(Debug)]
struct Twice;

impl<T: Scalar> Scheme<T> for Twice {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        visit.target_problem().refresh()?;
        for _ in 0..2 {
            let report = ReverseSweep::new(1).solve(state, &mut visit.target_problem())?;
            visit.record_solve(report);
            visit.evaluate()?.step()?;
        }
        Ok(visit.evaluate()?.energy())
    }
}

fn main() -> Result<(), Error> {
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(1, 16, Activation::Tanh)?)
        .layer(Dense::new(16, 16, Activation::Tanh)?)
        .layer(Dense::new(16, 1, Activation::Identity)?)
        .build()?;
    let x = DMatrix::from_fn(1, 100, |_, i| i as f64 / 50.0 - 1.0);
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(&x, &x.map(|x| (3.0 * x).sin()), &TargetInit::ForwardPass)?;
    let phase = Phase::new(Twice, Adam::new(1e-2)?).with_batch_size(25)?;
    let trainer = Trainer::new(phase.with_epochs(40));
    let mut twin = model.clone();

    let mut session = Session::new(&trainer, model)?;
    while let Some(event) = session.advance()? {
        if let Event::Epoch(record) = event
            && record.epoch % 10 == 0
        {
            let loss = record.composed_loss.unwrap_or_default();
            println!("epoch {:>2}: composed loss {loss:.5}", record.epoch);
            if loss < 1e-4 {
                session.stop();
            }
        }
    }
    let (model, report) = session.finish();
    println!("{} steps: {}", report.steps, report.stop);

    trainer.run(&mut twin)?;
    let same = (0..3).all(|t| model.circuit().parameters(t) == twin.circuit().parameters(t));
    assert!(same, "the two loops differ");
    Ok(())
}
