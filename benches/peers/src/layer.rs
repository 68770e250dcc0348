//! One layer: its output, or its vector-Jacobian product.

use std::path::PathBuf;
use std::time::Instant;

use layerwise::kernel::{Execution, Write};
use layerwise::layer::{Activation, Attention, Context, Conv2d, Layer, LayerNorm, Point, Window2d};
use serde::Deserialize;

use crate::Failure;
use crate::problem::{read_array, write_array};

/// A layer on the arrays in a folder: z.f32, theta.f32 and u.f32, as layerwise stores them.
#[derive(Deserialize)]
pub struct Request {
    folder: PathBuf,
    layer: Settings,
    what: What,
    /// How long to time it; if not given, the results are written to the folder instead.
    seconds: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(tag = "kind")]
enum Settings {
    /// With a square kernel and a bias.
    Convolution {
        /// Channels, height and width.
        input: [usize; 3],
        channels: usize,
        kernel: usize,
        padding: usize,
    },
    LayerNorm {
        dim: usize,
        length: usize,
    },
    Attention {
        dim: usize,
        length: usize,
        heads: usize,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// The output.
    Forward,
    /// The gradients of ⟨u, output⟩ in z and θ, after a forward pass.
    Vjp,
}

impl Settings {
    fn layer(self) -> Result<Box<dyn Layer<f32>>, Failure> {
        Ok(match self {
            Self::Convolution { input, channels, kernel, padding } => {
                let window = Window2d::new(kernel).with_padding(padding);
                Box::new(Conv2d::new(input, channels, window, Activation::Identity)?)
            }
            Self::LayerNorm { dim, length } => Box::new(LayerNorm::new([dim, length])?),
            Self::Attention { dim, length, heads } => Box::new(Attention::new(dim, length, heads)?),
        })
    }
}

impl Request {
    /// Seconds of one call.
    pub fn run(&self, threads: usize) -> Result<f64, Failure> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        // A failure stays on its thread, but its message is passed on.
        let seconds = pool.install(|| self.run_in_pool().map_err(|failure| failure.to_string()));
        Ok(seconds?)
    }

    fn run_in_pool(&self) -> Result<f64, Failure> {
        let layer = self.layer.layer()?;
        let read = |name: &str| read_array(&self.folder.join(name));
        let (z, theta, u) = (read("z.f32")?, read("theta.f32")?, read("u.f32")?);
        let n = z.len() / layer.input_dim();
        let (mut output, mut d_z, mut d_theta) =
            (vec![0.0; u.len()], vec![0.0; z.len()], vec![0.0; theta.len()]);
        let scratch = layer.scratch(n);
        let (mut tape, mut work) = (vec![0.0; scratch.tape], vec![0.0; scratch.work]);
        let context = Context::inference(0, 0).with_execution(Execution::Columns);
        layer.forward(&context, &theta, &z, &mut output, Some(&mut tape), &mut work);
        let at = output.clone();
        let mut call = || match self.what {
            What::Forward => layer.forward(&context, &theta, &z, &mut output, None, &mut work),
            What::Vjp => {
                let at = Point::new(context, &theta, &z, &at, &tape);
                let (d_z, d_theta) = (Write::Set(&mut d_z), Write::Set(&mut d_theta));
                layer.vjp(&at, &u, d_z, d_theta, &mut work);
            }
        };
        call();
        let Some(seconds) = self.seconds else {
            let write = |name: &str, array: &[f32]| write_array(&self.folder.join(name), array);
            write("output.f32", &output)?;
            write("d_z.f32", &d_z)?;
            write("d_theta.f32", &d_theta)?;
            return Ok(0.0);
        };
        let mut calls = 0_u32;
        let start = Instant::now();
        while calls == 0 || start.elapsed().as_secs_f64() < seconds {
            call();
            calls += 1;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(calls))
    }
}
