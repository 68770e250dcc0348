//! Fills in missing quarters of handwritten digits with a trained circuit that is run backwards.
//!
//! An autoencoder with decoupled layers is trained to produce whole images, from whole ones and from images
//! with a quarter missing. Then a quarter of each test image is left free, in the input and in the output,
//! and a Z-step with θ fixed infers it from the rest. The table compares the mean squared error on the
//! missing pixels with that of the plain prediction, of the mean image of the digit's class (given the true
//! class), and of the mean of all images.
//!
//! `cargo run --release --example inpaint -- --pictures target/inpaint`

#[path = "digits/data.rs"]
mod data;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use data::{Digits, PIXELS};
use layerwise::inference::Evidence;
use layerwise::prelude::*;
use layerwise::target_solver::GaussNewton;
use serde::Serialize;

/// Fills in missing quarters of 8×8 handwritten digits.
#[derive(Parser)]
struct Options {
    /// Seeds of the initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Seed of the split into 1437 training and 360 test images. The other defaults were chosen on split 2.
    #[arg(long, default_value_t = 5)]
    split_seed: u64,
    /// Number of training epochs.
    #[arg(long, default_value_t = 40)]
    epochs: u64,
    /// Number of Gauss-Newton steps in the Z-step.
    #[arg(long, default_value_t = 30)]
    steps: u64,
    /// Precision of the prior on the missing pixels.
    #[arg(long, default_value_t = 1.0)]
    precision: f32,
    /// Folder for PNG files of the first ten test images, in columns: whole, with the quarter missing, filled in.
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
}

/// One row of the table: mean squared errors per missing pixel, of pixels from 0 to 1.
#[derive(Serialize)]
struct Row {
    scheme: &'static str,
    seed: u64,
    quarter: &'static str,
    /// Of the filled-in image.
    error: f64,
    /// Of the plain prediction from the rest.
    prediction: f64,
    /// Of the mean training image of the digit's class.
    class_mean: f64,
    /// Of the mean training image.
    mean: f64,
    seconds: f64,
}

/// The quarters, by the rows and columns where they begin.
const QUARTERS: [(&str, usize, usize); 4] = [
    ("top left", 0, 0),
    ("top right", 0, 4),
    ("bottom left", 4, 0),
    ("bottom right", 4, 4),
];

/// Pixels per side.
const SIDE: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let (train, test) = data::load(options.split_seed)?;
    if let Some(folder) = &options.pictures {
        fs::create_dir_all(folder)?;
    }
    if !options.json {
        println!("seed  quarter       error   prediction  class mean  mean    seconds");
    }
    for &seed in &options.seeds {
        let model = trained(&train, seed, options.epochs)?;
        for quarter in QUARTERS {
            let (row, filled) = fill(&model, &train, &test, (seed, quarter), &options)?;
            match options.json {
                true => println!("{}", serde_json::to_string(&row)?),
                false => println!(
                    "{:<4}  {:<12}  {:.4}  {:.4}      {:.4}      {:.4}  {:.2}",
                    row.seed,
                    row.quarter,
                    row.error,
                    row.prediction,
                    row.class_mean,
                    row.mean,
                    row.seconds
                ),
            }
            if let Some(folder) = &options.pictures {
                let name = format!("{}-{seed}.png", quarter.0.replace(' ', "-"));
                picture(&folder.join(name), &test, &filled, quarter)?;
            }
        }
    }
    Ok(())
}

/// An autoencoder 64 → 64 → 16 → 64 → 64, trained with refreshed targets and a reverse sweep. μ is large,
/// so that the Z-step stays close to what the layers produce.
fn trained(train: &Digits, seed: u64, epochs: u64) -> Result<DecoupledCircuit<f32>, Error> {
    let circuit = Circuit::builder()
        .layer(Dense::new(PIXELS, 64, Activation::Tanh)?)
        .layer(Dense::new(64, 16, Activation::Tanh)?)
        .layer(Dense::new(16, 64, Activation::Tanh)?)
        .layer(Dense::new(64, PIXELS, Activation::Identity)?)
        .seed(seed)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::default().with_penalty(100.0))?;
    model.add_examples(&train.images, &train.images, &TargetInit::ForwardPass)?;
    for quarter in QUARTERS {
        let partial = without(&train.images, quarter);
        model.add_examples(&partial, &train.images, &TargetInit::ForwardPass)?;
    }
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(3e-3)?)
        .with_epochs(epochs)
        .with_batch_size(64)?;
    Trainer::new(phase).with_measure_every(0).run(&mut model)?;
    Ok(model)
}

fn fill(
    model: &DecoupledCircuit<f32>,
    train: &Digits,
    test: &Digits,
    (seed, quarter): (u64, (&'static str, usize, usize)),
    options: &Options,
) -> Result<(Row, DMatrix<f32>), Error> {
    let begun = Instant::now();
    let missing = |k: usize| is_missing(k, quarter);
    let (pixels, n) = test.images.shape();
    let free = DMatrix::from_fn(pixels, n, |k, _| missing(k));
    let start = without(&test.images, quarter);
    let prediction = model.predict(&start)?;
    let evidence = Evidence::new(start.clone(), start)?
        .with_free_inputs(free.clone())?
        .with_free_targets(free)?
        .with_prior(options.precision, &[0.0; PIXELS])?;
    let filled = model
        .infer(&evidence, &GaussNewton::direct(options.steps))?
        .outputs;
    let seconds = begun.elapsed().as_secs_f64();

    let classes = class_means(train);
    let error = |of: &dyn Fn(usize, usize) -> f32| {
        let all = (0..n).flat_map(|i| (0..PIXELS).map(move |k| (k, i)));
        let squares = all
            .filter(|&(k, _)| missing(k))
            .map(|(k, i)| f64::from(of(k, i) - test.images[(k, i)]).powi(2));
        squares.sum::<f64>() / (n * PIXELS / 4) as f64
    };
    let row = Row {
        scheme: "refreshed",
        seed,
        quarter: quarter.0,
        error: error(&|k, i| filled[(k, i)]),
        prediction: error(&|k, i| prediction[(k, i)]),
        class_mean: error(&|k, i| classes[(k, test.labels[i])]),
        mean: error(&|_, _| 0.0),
        seconds,
    };
    Ok((row, filled))
}

/// The images, with a quarter replaced by the mean image, which is 0.
fn without(images: &DMatrix<f32>, quarter: (&str, usize, usize)) -> DMatrix<f32> {
    DMatrix::from_fn(images.nrows(), images.ncols(), |k, i| {
        match is_missing(k, quarter) {
            true => 0.0,
            false => images[(k, i)],
        }
    })
}

fn is_missing(k: usize, (_, top, left): (&str, usize, usize)) -> bool {
    (top..top + SIDE / 2).contains(&(k / SIDE)) && (left..left + SIDE / 2).contains(&(k % SIDE))
}

/// The mean training image of every class, one per column.
fn class_means(train: &Digits) -> DMatrix<f32> {
    let mut means = &train.images * train.classes.transpose();
    for (mut mean, class) in means.column_iter_mut().zip(train.classes.row_iter()) {
        mean /= class.sum();
    }
    means
}

/// The first ten images, in columns: whole, without the quarter, filled in.
fn picture(
    path: &Path,
    test: &Digits,
    filled: &DMatrix<f32>,
    quarter: (&str, usize, usize),
) -> Result<(), Box<dyn std::error::Error>> {
    const ZOOM: usize = 6;
    let (columns, tile) = (10, (SIDE + 1) * ZOOM);
    let (width, height) = (columns * tile, 3 * tile);
    let mut pixels = vec![255_u8; width * height];
    for (row, column) in (0..3).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        for (y, x) in (0..SIDE * ZOOM).flat_map(|y| (0..SIDE * ZOOM).map(move |x| (y, x))) {
            let k = y / ZOOM * SIDE + x / ZOOM;
            let value = match (row, is_missing(k, quarter)) {
                (1, true) => 0.5 - test.mean[k],
                (2, true) => filled[(k, column)],
                _ => test.images[(k, column)],
            };
            let at = (row * tile + y) * width + column * tile + x;
            pixels[at] = (255.0 * (value + test.mean[k]).clamp(0.0, 1.0)) as u8;
        }
    }
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}
