//! The studies behind `docs/evidence.md`: what decoupled training gives beside backprop.
//!
//! `cargo run --release --example evidence -- --help` lists them and the options.

mod autoencoder;
mod cost;
mod curve;
mod difficulties;
#[path = "../digits/data.rs"]
mod digits;
mod figures;
#[path = "../mnist/idx.rs"]
mod idx;
mod nets;
mod recipe;
mod resemblance;
mod results;
mod statistics;
mod trainability;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use results::Results;

/// Runs a study and prints its tables.
///
/// Every finished run is a line of JSON in a file; a study that was broken off goes on from there, and
/// one that is whole only prints. `--results` of another name, or removing the file, starts anew.
#[derive(Parser)]
pub struct Options {
    study: Study,
    /// Seeds: weights, projections, order of the examples.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Seed of the split of the digits into 1437 training and 360 test images.
    #[arg(long, default_value_t = 2)]
    split_seed: u64,
    /// A look: one seed, few cells, short runs.
    #[arg(long)]
    quick: bool,
    /// Also print the results behind the tables, one JSON object a line, before them.
    #[arg(long)]
    json: bool,
    /// Where results are kept [default: target/evidence/STUDY.jsonl].
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Where figures are written [default: target/evidence].
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// Runs at a time, each on one thread; `cost` and update locking make one at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Minutes after which no further run begins.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    minutes: u64,
    /// Directory of Fashion-MNIST's four IDX files, for `cost` (examples/data/README.md).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Study {
    /// How like backprop's the circuits are that decoupled schemes give.
    Resemblance,
    /// Which depths and initial scales of the weights can be trained at all.
    Trainability,
    /// Update locking, dead units, shattered gradients, memory, ill-conditioned inputs.
    Difficulties,
    /// The deep sigmoid autoencoder.
    Autoencoder,
    /// Seconds and passes to a test accuracy.
    Cost,
}

impl Study {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is hidden");
        value.get_name().to_owned()
    }
}

impl Options {
    fn figure(&self, name: &str) -> Result<PathBuf, std::io::Error> {
        let folder = self.figures.clone().unwrap_or("target/evidence".into());
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(name))
    }

    fn results(&self) -> Result<Results, String> {
        let name = format!("target/evidence/{}.jsonl", self.study.name());
        let path = self.results.clone().unwrap_or(name.into());
        let limit = Duration::from_secs(60 * self.minutes);
        Results::open(&path, self.json, limit)
    }
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    options.seeds.sort_unstable();
    options.seeds.dedup();
    if options.quick {
        options.seeds.truncate(1);
    }
    let study = match options.study {
        Study::Resemblance => resemblance::study,
        Study::Trainability => trainability::study,
        Study::Difficulties => difficulties::study,
        Study::Autoencoder => autoencoder::study,
        Study::Cost => cost::study,
    };
    match study(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
