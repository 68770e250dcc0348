//! Images of 28×28 pixels in ten classes: Fashion-MNIST, or any data in its format.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use flate2::read::GzDecoder;
use layerwise::data::{Dataset, Idx, TargetEncoding, metrics};
use layerwise::nalgebra::DMatrix;

/// Pixels per side.
pub const SIDE: usize = 28;
pub const CLASSES: usize = 10;
const PIXELS: usize = SIDE * SIDE;

/// Images (784 × n, row by row), one-hot classes (10 × n), and the labels.
pub struct Images {
    pub pixels: DMatrix<f32>,
    pub classes: DMatrix<f32>,
    pub labels: Vec<usize>,
}

/// Training and test images from the IDX files in `folder`, or else the bundled sample. The mean and the
/// standard deviation of all training pixels become 0 and 1.
pub fn load(folder: Option<&Path>) -> Result<[Images; 2], Box<dyn std::error::Error>> {
    let mut both = match folder {
        Some(folder) => [read(folder, "train")?, read(folder, "t10k")?],
        None => sample()?,
    };
    for images in &both {
        if images.pixels.nrows() != PIXELS {
            let found = images.pixels.nrows();
            return Err(format!("the images have {found} pixels, not {PIXELS}").into());
        }
    }
    // In f64: the sums are over tens of millions of pixels.
    let train = &both[0].pixels;
    let mean_of = |of: &dyn Fn(f64) -> f64| {
        train.iter().map(|&x| of(f64::from(x))).sum::<f64>() / train.len() as f64
    };
    let mean = mean_of(&|x| x);
    let deviation = mean_of(&|x| (x - mean).powi(2)).sqrt();
    for images in &mut both {
        let standard = |x: &mut f32| *x = ((f64::from(*x) - mean) / deviation) as f32;
        images.pixels.apply(standard);
    }
    Ok(both)
}

fn read(folder: &Path, name: &str) -> Result<Images, layerwise::Error> {
    let [images, labels] =
        ["images-idx3", "labels-idx1"].map(|kind| folder.join(format!("{name}-{kind}-ubyte")));
    let one_hot = TargetEncoding::OneHot { classes: CLASSES };
    let data = Idx::open(images, labels, one_hot)?;
    let rows: Vec<usize> = (0..data.len()).collect();
    let (pixels, classes) = data.matrices(&rows)?;
    Ok(Images {
        labels: metrics::labels(&classes),
        pixels,
        classes,
    })
}

/// The first 100 training and 50 test images of Fashion-MNIST.
fn sample() -> Result<[Images; 2], Box<dyn std::error::Error>> {
    let mut unpacked = GzDecoder::new(&include_bytes!("../data/fashion-mnist.gz")[..]);
    let mut next = |count: usize| -> Result<Images, Box<dyn std::error::Error>> {
        let (mut pixels, mut labels) = (vec![0; count * PIXELS], vec![0; count]);
        unpacked.read_exact(&mut pixels)?;
        unpacked.read_exact(&mut labels)?;
        let labels: Vec<usize> = labels.into_iter().map(usize::from).collect();
        let pixels = pixels.into_iter().map(f32::from);
        Ok(Images {
            pixels: DMatrix::from_iterator(PIXELS, count, pixels),
            classes: metrics::one_hot(&labels, CLASSES)?,
            labels,
        })
    };
    Ok([next(100)?, next(50)?])
}

impl Images {
    pub fn part(&self, range: Range<usize>) -> Self {
        let columns = |of: &DMatrix<f32>| of.columns(range.start, range.len()).into_owned();
        Self {
            pixels: columns(&self.pixels),
            classes: columns(&self.classes),
            labels: self.labels[range.clone()].to_vec(),
        }
    }
}
