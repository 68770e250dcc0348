//! What a layer and a loss get that write only what they must.

use layerwise::decoupled::Projection;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::loss::SquaredError;
use layerwise::nalgebra::DMatrix;
use layerwise::rand::Rng;
use layerwise::{Circuit, Layer, Loss};

/// ẑ = 2z, with nothing but the required methods.
#[derive(Debug)]
struct Twice(usize);

impl Layer<f64> for Twice {
    fn input_shape(&self) -> Shape {
        self.0.into()
    }

    fn output_shape(&self) -> Shape {
        self.0.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        Write::Set(output).each(|i| 2.0 * input[i]);
    }

    fn vjp(
        &self,
        _: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| 2.0 * cotangent[i]);
    }

    fn jvp(
        &self,
        _: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        Write::Set(tangent).each(|i| v_input.map_or(0.0, |v| 2.0 * v[i]));
    }
}

/// [`SquaredError`], with nothing but the required methods.
#[derive(Debug)]
struct Plain;

impl Loss<f64> for Plain {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        Loss::<f64>::scratch(&SquaredError, dim, batch)
    }

    valued_by!(SquaredError);
}

#[test]
fn a_layer_promises_nothing_that_it_does_not_say() {
    let layer: &dyn Layer<f64> = &Twice(2);
    assert!(layer.input_differentiable());
    assert!(layer.check_input(&[f64::MAX, -1.0]).is_ok());
    assert_eq!(layer.scratch(3).bound, 0);
    assert_eq!(layer.cost(), None);
    assert_eq!((layer.input_dim(), layer.output_dim()), (2, 2));
    let mut patches = [0.0; 2];
    layer.unfold(&[5.0, 6.0], &mut patches);
    assert_eq!(patches, [5.0, 6.0]);
    assert_eq!(layer.curvature_bound(&[], &mut []), None);
    assert_eq!(layer.affine(), None);
    assert_eq!(layer.target_range(), (0.0, 1.0));
}

#[test]
fn projected_targets_of_such_a_layer_are_standard() {
    let circuit = Circuit::builder()
        .layer(Twice(2))
        .layer(Dense::new(2, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let inputs = DMatrix::from_fn(2, 100, |i, j| ((j * (i + 2)) % 7) as f64);
    let projection = Projection::fit(&circuit, &inputs, 0).unwrap();
    let targets = &projection.apply(&inputs).unwrap()[0];
    for row in targets.row_iter() {
        assert!(row.mean().abs() < 1e-12, "{}", row.mean());
    }
    let variance = targets.map(|v| v * v).mean();
    assert!((variance - 1.0).abs() < 1e-12, "{variance}");
}

#[test]
fn a_loss_takes_every_target_and_gives_no_bound() {
    let loss: &dyn Loss<f64> = &Plain;
    assert!(loss.check_target(2, &[f64::MAX, -1.0]).is_ok());
    assert_eq!(loss.curvature_bound(&[]), None);
}

#[test]
fn dense_layers_say_what_they_are_made_of() {
    let layer: &dyn Layer<f64> = &Dense::new(3, 2, Activation::Gelu).unwrap();
    let affine = layer.affine().unwrap();
    assert_eq!((affine.weights, affine.bias), (0..6, Some(6..8)));
    assert_eq!(affine.activation, Activation::Gelu);
    let bare = Dense::new(3, 2, Activation::Tanh).unwrap().without_bias();
    assert_eq!(bare.affine().unwrap().bias, None);
    let [weights, bias] = &layer.parameters()[..] else {
        panic!("two groups");
    };
    assert_eq!((weights.decays, bias.decays), (true, false));
    assert_eq!(
        (&weights.shape[..], &bias.shape[..]),
        (&[2, 3][..], &[2][..])
    );
}
