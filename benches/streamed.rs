//! A run whose targets are in a file, beside the same run with everything in memory.
//!
//! `cargo bench -p benches --bench streamed [-- <megabytes>]`. The targets have that size (800 by
//! default). The same program runs as a process of its own in three ways: in memory, streamed, and
//! streamed with an address space of a quarter of the targets (`ulimit -v`, on Unix), in turn, and
//! reports its seconds and its peak memory. The circuit has wide layers between narrow ones, so that
//! there is much to move and little to compute; the inputs are computed by the data set.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use layerwise::data::Dataset;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};

/// Dimensions of z_0, …, z_T.
const DIMS: [usize; 5] = [8, 512, 16, 512, 4];
const ROUNDS: usize = 3;
const EPOCHS: u64 = 3;

/// Waves of different lengths, and what they add up to.
#[derive(Debug)]
struct Waves(usize);

impl Dataset<f32> for Waves {
    fn len(&self) -> usize {
        self.0
    }
    fn inputs(&self) -> usize {
        DIMS[0]
    }
    fn targets(&self) -> usize {
        DIMS[4]
    }
    fn read(&self, rows: &[usize], inputs: &mut [f32], targets: &mut [f32]) -> Result<(), Error> {
        self.check_read(rows, inputs, targets)?;
        let columns = inputs.chunks_exact_mut(DIMS[0]);
        for ((&row, x), y) in rows
            .iter()
            .zip(columns)
            .zip(targets.chunks_exact_mut(DIMS[4]))
        {
            for (k, x) in (1..).zip(&mut *x) {
                *x = (row as f32 * 0.01 * k as f32).sin();
            }
            for (k, y) in y.iter_mut().enumerate() {
                *y = x[k] * x[k + 1];
            }
        }
        Ok(())
    }
}

/// Trains, and prints the seconds and the peak memory.
fn train(way: &str, megabytes: usize) -> Result<(), Error> {
    let hidden: usize = DIMS[1..4].iter().sum();
    let n = megabytes * 1_000_000 / (4 * hidden);
    let mut builder = Circuit::<f32>::builder();
    for dims in DIMS.windows(2) {
        builder = builder.layer(Dense::new(dims[0], dims[1], Activation::Tanh)?);
    }
    let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
    let start = Instant::now();
    let data = Arc::new(Waves(n));
    match way {
        "memory" => model.add_dataset(&data, &TargetInit::ForwardPass)?,
        _ => model.stream_dataset(data, std::env::temp_dir(), &TargetInit::ForwardPass)?,
    };
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(1e-3)?).with_epochs(EPOCHS);
    let trainer = Trainer::new(phase.with_batch_size(256)?);
    let report = trainer.run(&mut model).map_err(Error::from)?;
    let seconds = start.elapsed().as_secs_f64();
    let loss = report.history.last().and_then(|own| own.composed_loss);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!(
        "{seconds} {} {}",
        loss.unwrap_or(f32::NAN),
        peak.unwrap_or("?").trim().replace(' ', "")
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    if let Ok(way) = std::env::var("LAYERWISE_STREAMED") {
        let megabytes = std::env::var("LAYERWISE_MEGABYTES");
        return train(
            &way,
            megabytes.ok().and_then(|own| own.parse().ok()).unwrap_or(0),
        );
    }
    let number = std::env::args().skip(1).find_map(|own| own.parse().ok());
    let megabytes: usize = number.unwrap_or(800);
    let program = std::env::current_exe().expect("this program's path");
    let mut ways = vec!["memory", "streamed"];
    if cfg!(unix) {
        ways.push("limited");
    }
    let mut all = vec![Vec::new(); ways.len()];
    let mut last = vec![String::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (i, way) in ways.iter().enumerate() {
            let mut command = Command::new(&program);
            if *way == "limited" {
                command = Command::new("sh");
                let kilobytes = megabytes * 1000 / 4;
                let script = format!("ulimit -v {kilobytes}; exec \"$0\"");
                command.arg("-c").arg(script).arg(&program);
            }
            command.env("LAYERWISE_STREAMED", way);
            command.env("LAYERWISE_MEGABYTES", megabytes.to_string());
            let output = command.output().expect("a process");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut words = text.split_whitespace();
            match words.next().and_then(|own| own.parse::<f64>().ok()) {
                Some(seconds) => all[i].push(seconds),
                None => panic!("{way}: {}", String::from_utf8_lossy(&output.stderr)),
            }
            last[i] = words.collect::<Vec<_>>().join("  peak ");
        }
    }
    println!("{megabytes} MB of targets, {EPOCHS} epochs, medians of {ROUNDS} rounds");
    let median = |own: &mut Vec<f64>| {
        own.sort_by(f64::total_cmp);
        own[own.len() / 2]
    };
    let base = median(&mut all[0]);
    for ((way, own), last) in ways.iter().zip(&mut all).zip(&last) {
        let seconds = median(own);
        println!(
            "{way:>9}: {seconds:6.2} s  ×{:.2}  loss {last}",
            seconds / base
        );
    }
    Ok(())
}
