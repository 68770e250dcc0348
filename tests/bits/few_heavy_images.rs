//! Convolutions of a few expensive images give the same bits for any number of threads.

use layerwise::Scalar;
use layerwise::kernel::{Execution, Write};
use layerwise::layer::{Activation, Context, Conv2d, ConvTranspose2d, Layer, Point, Window2d};

fn bits<T: Scalar>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.as_f64().to_bits()).collect()
}

/// Each block of a convolution has the work memory that it needs, even if it holds few images.
fn few_heavy_images<T: Scalar>(numbers: &[usize]) {
    let window = Window2d::new(3).with_padding(1);
    let tanh = Activation::Tanh;
    let grouped = Conv2d::new([8, 24, 24], 16, window.with_dilation([1, 2]), tanh);
    let up = Window2d::new(3).with_stride(2).with_padding(1);
    let layers: [Box<dyn Layer<T>>; 4] = [
        Box::new(Conv2d::new([8, 24, 24], 16, window, tanh).unwrap()),
        Box::new(Conv2d::new([32, 16, 16], 32, window, tanh).unwrap()),
        Box::new(grouped.unwrap().with_groups(2).unwrap()),
        Box::new(ConvTranspose2d::new([16, 16, 16], 16, up, tanh).unwrap()),
    ];
    for layer in layers.iter() {
        let count = layer.parameters().last().unwrap().range.end;
        let wave = |count: usize, k: f64| -> Vec<T> {
            (0..count).map(|i| T::of((k * i as f64).sin())).collect()
        };
        let parameters = wave(count, 1.7);
        for n in 0..600 {
            assert!(layer.scratch(n).work <= layer.scratch(n + 1).work, "{n}");
        }
        for &n in numbers {
            let (z, u) = (
                wave(n * layer.input_dim(), 0.9),
                wave(n * layer.output_dim(), 1.3),
            );
            let (v, w) = (wave(z.len(), 0.3), wave(count, 0.7));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.unwrap().install(|| {
                    let context = Context::inference(0, 0).with_execution(Execution::Columns);
                    let scratch = layer.scratch(n);
                    let mut tape = vec![T::zero(); scratch.tape];
                    let mut work = vec![T::zero(); scratch.work];
                    let mut output = vec![T::zero(); u.len()];
                    let to = Some(&mut tape[..]);
                    layer.forward(&context, &parameters, &z, &mut output, to, &mut work);
                    let at = Point::new(context, &parameters, &z, &output, &tape);
                    let (mut d_z, mut d_p) = (vec![T::zero(); z.len()], vec![T::zero(); count]);
                    let d_input = Write::Set(&mut d_z[..]);
                    layer.vjp(&at, &u, d_input, Write::Set(&mut d_p), &mut work);
                    let mut tangent = vec![T::zero(); u.len()];
                    layer.jvp(&at, Some(&v), Some(&w), &mut tangent, &mut work);
                    [output, d_z, d_p, tangent].map(|own| bits(&own))
                })
            };
            let expected = run(1);
            for threads in [2, 8] {
                assert!(run(threads) == expected, "{layer:?}, {n}, {threads}");
            }
        }
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn few_heavy_images_have_the_same_bits_on_any_number_of_threads() {
    few_heavy_images::<f32>(&[2, 5, 17]);
    few_heavy_images::<f64>(&[3]);
}
