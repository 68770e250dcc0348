//! A worker of the comparison: answers the driver's commands, one JSON object a line.
//!
//! `peers NAME THREADS`, with NAME layerwise, candle or burn.

#[cfg(feature = "rust-peers")]
mod burn;
#[cfg(feature = "rust-peers")]
mod candle;
mod digits;
mod layer;
mod own;
mod peak;
mod problem;
mod products;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use problem::{Kind, Outcome, Peer, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a peer may say went wrong.
pub type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
enum Command {
    Hello,
    /// Reads a net's weights, targets and data from a folder.
    Load {
        net: String,
        folder: PathBuf,
    },
    /// Makes `steps` steps from the beginning and writes θ and z there.
    Check {
        net: String,
        kind: Kind,
        steps: u64,
        folder: PathBuf,
    },
    /// Seconds of `steps` steps from the beginning, but for the first.
    Time {
        net: String,
        kind: Kind,
        steps: u64,
    },
    /// GFLOP/s of a register-resident loop of fused multiply-adds.
    Peak {
        double: bool,
        seconds: f64,
    },
    /// GFLOP/s of one product by one library.
    Product(products::Request),
    /// Seconds of one layer: see [`layer::Request`].
    Layer(layer::Request),
    /// Training on digits: see [`digits::Request`].
    Digits(digits::Request),
}

fn peer(name: &str, threads: usize) -> Result<Box<dyn Peer>, Failure> {
    match name {
        "layerwise" => Ok(Box::new(own::Layerwise::new(threads))),
        #[cfg(feature = "rust-peers")]
        "candle" => Ok(Box::new(candle::Candle)),
        #[cfg(feature = "rust-peers")]
        "burn" => Ok(Box::new(burn::Burn)),
        _ => Err(format!("there is no peer {name} in this build").into()),
    }
}

fn answer(
    command: Command,
    peer: &mut dyn Peer,
    nets: &mut HashMap<String, Problem>,
    threads: usize,
) -> Result<Value, Failure> {
    let of = |nets: &HashMap<String, Problem>, net: &str| -> Result<Problem, Failure> {
        let found = nets.get(net).cloned();
        found.ok_or_else(|| format!("the net {net} was not loaded").into())
    };
    Ok(match command {
        Command::Hello => json!({ "version": peer.version(), "kinds": peer.kinds() }),
        Command::Load { net, folder } => {
            nets.insert(net, Problem::read(&folder)?);
            json!({})
        }
        Command::Check {
            net,
            kind,
            steps,
            folder,
        } => {
            let Outcome { value, state, .. } = peer.run(&of(nets, &net)?, kind, steps)?;
            state.write(&folder)?;
            json!({ "value": value })
        }
        Command::Time { net, kind, steps } => {
            let problem = nets.get(&net).ok_or("the net was not loaded")?;
            json!({ "seconds": peer.run(problem, kind, steps)?.seconds })
        }
        Command::Peak { double, seconds } => json!({ "gflops": peak::measure(double, seconds)? }),
        Command::Product(request) => json!({ "gflops": request.measure()? }),
        Command::Layer(request) => json!({ "seconds": request.run(threads)? }),
        Command::Digits(request) => request.run(threads)?,
    })
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, threads] = &arguments[..] else {
        return Err("usage: peers NAME THREADS".into());
    };
    let threads: usize = threads.parse()?;
    let mut peer = peer(name, threads)?;
    let mut nets = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let reply = serde_json::from_str(&line?)
            .map_err(Failure::from)
            .and_then(|command| answer(command, peer.as_mut(), &mut nets, threads))
            .unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}
