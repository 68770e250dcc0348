//! A run that can be stopped at any time and continues where it stopped: run it, press Ctrl-C
//! (or kill it), and run it again. A second Ctrl-C ends it at once.
//!
//! `cargo run --release --features storage --example resume -- --resume run.safetensors`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use layerwise::prelude::*;
use layerwise::training::{Decoupling, Event, Session};
use signal_hook::consts::SIGINT;

/// Fits sin 6x at 400 points with a circuit of widths 1, 32, 32, 32, 1, in batches of 20, and saves the run
/// after every 500th visit.
#[derive(Parser)]
struct Options {
    /// Checkpoint file: resumed from if it exists, and updated during the run.
    #[arg(long, value_name = "FILE")]
    resume: PathBuf,
    /// Number of epochs. Must equal that of the checkpoint.
    #[arg(long, default_value_t = 2000)]
    epochs: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let mut builder = Circuit::<f64>::builder();
    for (inputs, outputs) in [(1, 32), (32, 32), (32, 32)] {
        builder = builder.layer(Dense::new(inputs, outputs, Activation::Tanh)?);
    }
    let last = Dense::new(32, 1, Activation::Identity)?;
    let circuit = builder.layer(last).build()?;
    let x = DMatrix::from_fn(1, 400, |_, j| j as f64 / 200.0 - 1.0);
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(&x, &x.map(|x| (6.0 * x).sin()), &TargetInit::ForwardPass)?;

    // The first Ctrl-C sets the flag; once it is set, the next one ends the program.
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, Arc::clone(&stop))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&stop))?;

    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(3e-3)?);
    let phase = phase.with_epochs(options.epochs).with_batch_size(20)?;
    let trainer = Trainer::new(phase)
        .with_measure_every(100)
        .with_stop_flag(stop);

    let mut session = match options.resume.exists() {
        true => Session::reopen(&trainer, model, &options.resume)?,
        false => Session::new(&trainer, model)?,
    };
    println!("{} visits made so far", session.progress().visits);
    session.checkpoint_every(500, &options.resume)?;
    while let Some(event) = session.advance()? {
        match event {
            Event::Epoch(record) if record.composed_loss.is_some() => println!("{record}"),
            Event::Stop(reason) => println!("{reason}"),
            _ => {}
        }
    }
    println!("{}", session.report());
    Ok(())
}
