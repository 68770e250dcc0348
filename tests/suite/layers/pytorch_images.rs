//! The layers of images agree with PyTorch's: values from `tests/data/layers.py`.

use layerwise::kernel::Execution;
use layerwise::layer::{
    Activation, AveragePool2d, Conv2d, ConvTranspose2d, Layer, MaxPool2d, Window2d,
};
use serde::Deserialize;

use super::laws;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reference {
    conv2d: Vec<Case>,
    conv_transpose2d: Vec<Case>,
    max_pool2d: Vec<Case>,
    average_pool2d: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    input: [usize; 3],
    #[serde(default)]
    channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: Option<[usize; 2]>,
    #[serde(default)]
    groups: usize,
    output_padding: Option<[usize; 2]>,
    count_include_pad: Option<bool>,
    shape: Vec<usize>,
    output: Vec<f64>,
    d_input: Vec<f64>,
    d_parameters: Vec<f64>,
}

impl Case {
    fn window(&self) -> Window2d {
        let window = Window2d::new(self.kernel).with_stride(self.stride);
        let dilation = self.dilation.unwrap_or([1, 1]);
        window.with_padding(self.padding).with_dilation(dilation)
    }

    /// Compares everything to 1e-12.
    fn compare(&self, layer: &dyn Layer<f64>) {
        assert_eq!(layer.output_shape().extents(), self.shape);
        let groups = layer.parameters();
        let parameters = (2..)
            .zip(&groups)
            .flat_map(|(seed, group)| numbers(seed, group.range.len()));
        let parameters: Vec<f64> = parameters.collect();
        let examples = |first, size| [numbers(first, size), numbers(first + 1, size)].concat();
        let (z, u) = (
            examples(1, layer.input_dim()),
            examples(4, layer.output_dim()),
        );
        let v = (&z[..], &parameters[..]);
        let found = laws::products(layer, Execution::Sequential, &parameters, &z, &u, v);
        for (found, expected) in [
            (&found.output, &self.output),
            (&found.d_input, &self.d_input),
            (&found.d_parameters, &self.d_parameters),
        ] {
            let near = found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs().max(1.0));
            assert!(
                near && found.len() == expected.len(),
                "{layer:?}: {found:?} is not {expected:?}"
            );
        }
    }
}

/// Numbers of the script.
fn numbers(seed: usize, count: usize) -> Vec<f64> {
    let number = |i: usize| ((7 * i * i + 3 * i + 5 * seed) % 23) as f64 - 11.0;
    (0..count).map(|i| number(i) / 8.0).collect()
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../data/layers.json")).unwrap()
}

#[test]
fn convolutions_are_those_of_pytorch() {
    for case in reference().conv2d {
        let layer = Conv2d::new(
            case.input,
            case.channels,
            case.window(),
            Activation::Identity,
        );
        case.compare(&layer.unwrap().with_groups(case.groups).unwrap());
    }
}

#[test]
fn transposed_convolutions_are_those_of_pytorch() {
    for case in reference().conv_transpose2d {
        let (window, activation) = (case.window(), Activation::Identity);
        let layer = ConvTranspose2d::new(case.input, case.channels, window, activation).unwrap();
        let layer = layer
            .with_output_padding(case.output_padding.unwrap())
            .unwrap();
        case.compare(&layer.with_groups(case.groups).unwrap());
    }
}

#[test]
fn pools_are_those_of_pytorch() {
    for case in reference().max_pool2d {
        case.compare(&MaxPool2d::new(case.input, case.window()).unwrap());
    }
    for case in reference().average_pool2d {
        let layer = AveragePool2d::new(case.input, case.window()).unwrap();
        match case.count_include_pad {
            Some(false) => case.compare(&layer.excluding_padding()),
            _ => case.compare(&layer),
        }
    }
}
