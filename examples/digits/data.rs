//! The bundled handwritten digits, split into training and test images.

use std::io::Read;

use flate2::read::GzDecoder;
use layerwise::data::metrics;
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::seq::SliceRandom;

pub const PIXELS: usize = 64;
pub const CLASSES: usize = 10;

/// Images (64 × n, row by row, mean-centred), the mean that was subtracted, one-hot classes (10 × n), and the
/// labels.
pub struct Digits {
    pub images: DMatrix<f32>,
    pub mean: DVector<f32>,
    pub classes: DMatrix<f32>,
    pub labels: Vec<usize>,
}

/// A random split into 80 % training and 20 % test images, determined by `seed`. Pixels are divided
/// by 16 and centred by the means of the training images.
pub fn load(seed: u64) -> Result<(Digits, Digits), Box<dyn std::error::Error>> {
    let packed = include_bytes!("../data/digits.csv.gz");
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text)?;
    let mut rows: Vec<Vec<f32>> = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(text.as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()?;
    if let Some(row) = rows.iter().find(|row| row.len() != PIXELS + 1) {
        return Err(format!("a row has {} values, not {}", row.len(), PIXELS + 1).into());
    }
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let test = rows.split_off(rows.len() * 4 / 5);
    let (mut train, mut test) = (Digits::new(&rows)?, Digits::new(&test)?);
    let mean = train.images.column_mean();
    for digits in [&mut train, &mut test] {
        digits.mean = mean.clone();
        for mut image in digits.images.column_iter_mut() {
            image -= &digits.mean;
        }
    }
    Ok((train, test))
}

impl Digits {
    fn new(rows: &[Vec<f32>]) -> Result<Self, layerwise::Error> {
        let labels: Vec<usize> = rows.iter().map(|row| row[PIXELS] as usize).collect();
        Ok(Self {
            images: DMatrix::from_fn(PIXELS, rows.len(), |i, j| rows[j][i] / 16.0),
            mean: DVector::zeros(PIXELS),
            classes: metrics::one_hot(&labels, CLASSES)?,
            labels,
        })
    }
}
