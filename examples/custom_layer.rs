//! A layer written by a user: Gaussian radial basis functions, checked and then trained.
//!
//! ẑ_k = exp(−½ Σ_j (z_j − c_jk)² / s_k²), parameters: the centres c (input × units), then ln s.

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::rand::Rng;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};

#[derive(Debug)]
struct RadialBasis {
    inputs: usize,
    units: usize,
}

impl RadialBasis {
    /// (centre, 1/s²) of a unit.
    fn unit<'a, T: Scalar>(&self, parameters: &'a [T], k: usize) -> (&'a [T], T) {
        let centre = &parameters[k * self.inputs..(k + 1) * self.inputs];
        let log_width = parameters[self.inputs * self.units + k];
        (centre, (-(log_width + log_width)).exp())
    }
}

impl<T: Scalar> Layer<T> for RadialBasis {
    fn input_shape(&self) -> Shape {
        self.inputs.into()
    }

    fn output_shape(&self) -> Shape {
        self.units.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([
            ParameterGroup::new("centres", [self.inputs, self.units]),
            ParameterGroup::new("log_widths", [self.units]),
        ])
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        let (centres, log_widths) = parameters.split_at_mut(self.inputs * self.units);
        let spread = Initializer::lecun_uniform();
        spread.fill(centres, self.units, self.inputs, rng);
        log_widths.fill(T::of(-0.5));
    }

    fn scratch(&self, _batch: usize) -> Scratch {
        // The output is all that the derivatives need.
        Scratch::NONE
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let examples = input.chunks_exact(self.inputs);
        for (z, out) in examples.zip(output.chunks_exact_mut(self.units)) {
            for (k, out) in out.iter_mut().enumerate() {
                let (centre, precision) = self.unit(parameters, k);
                let squares = z.iter().zip(centre).map(|(&z, &c)| (z - c) * (z - c));
                let distance = squares.fold(T::zero(), |sum, s| sum + s);
                *out = (T::of(-0.5) * precision * distance).exp();
            }
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        // With r = (z − c)/s²: ∂ẑ/∂z = −ẑ r, ∂ẑ/∂c = ẑ r, ∂ẑ/∂ln s = ẑ Σ (z − c) r.
        let (mut d_input, mut d_parameters) = (d_input.accumulate(), d_parameters.accumulate());
        for (i, z) in at.input.chunks_exact(self.inputs).enumerate() {
            for k in 0..self.units {
                let (centre, precision) = self.unit(at.parameters, k);
                let place = i * self.units + k;
                let g = cotangent[place] * at.output[place];
                for (j, (&z, &c)) in z.iter().zip(centre).enumerate() {
                    let r = (z - c) * precision;
                    if let Some(d) = d_input.as_deref_mut() {
                        d[i * self.inputs + j] -= g * r;
                    }
                    if let Some(d) = d_parameters.as_deref_mut() {
                        d[k * self.inputs + j] += g * r;
                        d[self.inputs * self.units + k] += g * (z - c) * r;
                    }
                }
            }
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        for (i, z) in at.input.chunks_exact(self.inputs).enumerate() {
            for k in 0..self.units {
                let (centre, precision) = self.unit(at.parameters, k);
                let mut change = T::zero();
                for (j, (&z, &c)) in z.iter().zip(centre).enumerate() {
                    let r = (z - c) * precision;
                    if let Some(v) = v_input {
                        change -= r * v[i * self.inputs + j];
                    }
                    if let Some(v) = v_parameters {
                        change += r * v[k * self.inputs + j];
                        change += r * (z - c) * v[self.inputs * self.units + k];
                    }
                }
                let place = i * self.units + k;
                tangent[place] = at.output[place] * change;
            }
        }
    }

    fn target_range(&self) -> (f64, f64) {
        (0.5, 0.2)
    }
}

fn main() -> Result<(), Error> {
    // First check the derivatives: VJP and JVP, in input and parameters, overwriting and adding.
    let layer = RadialBasis {
        inputs: 2,
        units: 3,
    };
    let parameters = [0.3, -0.2, 0.9, 0.4, -0.6, 0.1, -0.4, 0.2, 0.0];
    let input = [0.5, 0.1, -0.7, 0.8, 0.2, -0.3, 1.1, 0.6];
    let check = GradCheck::new().layer(&layer, &parameters, &input)?;
    print!("{check}");
    check.require(1e-6)?;

    // Then classify two spirals by a circuit of radial units and a dense layer.
    let n = 200;
    let spiral = |i: usize| {
        let (arm, turn) = (i % 2, 0.5 + 2.5 * (i / 2) as f64 / 100.0);
        let angle = 2.0 * turn + std::f64::consts::PI * arm as f64;
        (turn / 3.0 * angle.cos(), turn / 3.0 * angle.sin())
    };
    let x = DMatrix::from_fn(2, n, |j, i| if j == 0 { spiral(i).0 } else { spiral(i).1 });
    let y = DMatrix::from_fn(1, n, |_, i| if i % 2 == 0 { 1.0 } else { -1.0 });
    let circuit = Circuit::builder()
        .layer(RadialBasis {
            inputs: 2,
            units: 40,
        })
        .layer(Dense::new(40, 20, Activation::Tanh)?)
        .layer(Dense::new(20, 1, Activation::Identity)?)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
    // The sweep's steps are bounded by the curvature of the layers above layer 0. Both are dense,
    // so the new layer needs no bound here. In any other place it would have to implement
    // `Layer::curvature_bound`, or the sweep would need a fixed step.
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let report = Trainer::new(Phase::new(scheme, Adam::new(1e-2)?).with_epochs(1000))
        .with_measure_every(250)
        .run(&mut model)?;
    for record in &report.history {
        if let (Some(loss), Some(gap)) = (record.composed_loss, record.gap) {
            println!(
                "epoch {:>4}: composed loss {loss:.4}, gap {gap:.4}",
                record.epoch
            );
        }
    }
    let predictions = model.predict(&x)?;
    let right = predictions
        .iter()
        .zip(y.iter())
        .filter(|(p, y)| **p * **y > 0.0);
    println!("{} of {n} points on the right spiral", right.count());
    Ok(())
}
