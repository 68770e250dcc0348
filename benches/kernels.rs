//! Time of the elementwise kernels on batches of 64 rows, compared with loops of std calls, and of
//! parameter updates.
//!
//! `cargo bench -p benches --bench kernels`; the throughput gives the time per element. The std loops use the
//! textbook formulas, whose derivatives are inaccurate near saturation.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layerwise::kernel::Write;
use layerwise::layer::Activation;
use layerwise::loss::{BinaryCrossEntropy, Pair, Poisson, SoftmaxCrossEntropy, SquaredError};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, RmsProp, Step};
use layerwise::{Loss, Scalar};

const ROWS: usize = 64;

/// Arguments from −4 to 4.
fn arguments<T: Scalar>(n: usize) -> Vec<T> {
    (0..n)
        .map(|i| T::of(4.0 * ((i * i % 4001) as f64).sin()))
        .collect()
}

/// (f(x), f′(x)).
type Pointwise<T> = fn(T) -> (T, T);

fn sigmoid<T: Scalar>(x: T) -> T {
    (T::one() + (-x).exp()).recip()
}

fn activations<T: Scalar>() -> Vec<(&'static str, Activation, Pointwise<T>)> {
    let leaky = Activation::LeakyRelu { slope: 0.1 };
    vec![
        ("tanh", Activation::Tanh, |x| {
            let y = x.tanh();
            (y, T::one() - y * y)
        }),
        ("sigmoid", Activation::Sigmoid, |x| {
            let y = sigmoid(x);
            (y, y * (T::one() - y))
        }),
        ("softplus", Activation::Softplus, |x| {
            (x.exp().ln_1p(), sigmoid(x))
        }),
        ("silu", Activation::Silu, |x| {
            let y = sigmoid(x);
            (x * y, y * (T::one() + x * (T::one() - y)))
        }),
        // The tanh approximation, since std has no error function.
        ("gelu", Activation::Gelu, |x| {
            let (scale, cubic) = (T::of(0.797_884_560_802_865_4), T::of(0.044_715));
            let t = (scale * (x + cubic * x * x * x)).tanh();
            let (half, inner) = (T::of(0.5), T::one() + T::of(3.0) * cubic * x * x);
            let up = half * (T::one() + t);
            (x * up, up + half * x * (T::one() - t * t) * scale * inner)
        }),
        ("relu", Activation::Relu, |x| {
            (
                x.max(T::zero()),
                if x > T::zero() { T::one() } else { T::zero() },
            )
        }),
        ("leaky relu", leaky, |x| {
            let slope = if x > T::zero() { T::one() } else { T::of(0.1) };
            (slope * x, slope)
        }),
    ]
}

fn bench_activations<T: Scalar>(c: &mut Criterion, scalar: &str, n: usize) {
    let x: Vec<T> = arguments(n);
    let mut group = c.benchmark_group(format!("activations {scalar} {n}"));
    group.throughput(Throughput::Elements(n as u64));
    let mut derivatives = x.clone();
    for (name, activation, formula) in activations::<T>() {
        group.bench_function(BenchmarkId::new(name, "value and derivative"), |b| {
            b.iter_batched_ref(
                || x.clone(),
                |v| T::activate(activation, v, Some(&mut derivatives)),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new(name, "value"), |b| {
            b.iter_batched_ref(
                || x.clone(),
                |v| T::activate(activation, v, None),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new(name, "std"), |b| {
            b.iter_batched_ref(
                || x.clone(),
                |v| {
                    for (v, d) in v.iter_mut().zip(&mut derivatives) {
                        (*v, *d) = formula(*v);
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.bench_function(BenchmarkId::new("exp", "value"), |b| {
        b.iter_batched_ref(|| x.clone(), |v| T::exp_all(v), BatchSize::LargeInput);
    });
    group.bench_function(BenchmarkId::new("exp", "std"), |b| {
        b.iter_batched_ref(
            || x.clone(),
            |v| v.iter_mut().for_each(|v| *v = v.exp()),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Values and both gradients.
fn bench_losses<T: Scalar>(c: &mut Criterion, scalar: &str, n: usize) {
    let mut group = c.benchmark_group(format!("losses {scalar} {n}"));
    group.throughput(Throughput::Elements(n as u64));
    let prediction: Vec<T> = arguments(n);
    let target = vec![T::of(1.0 / ROWS as f64); n];
    let losses: [(&str, &dyn Loss<T>); 4] = [
        ("squared error", &SquaredError),
        ("softmax cross entropy", &SoftmaxCrossEntropy),
        ("binary cross entropy", &BinaryCrossEntropy),
        ("poisson", &Poisson),
    ];
    let mut values = vec![T::zero(); n / ROWS];
    let (mut d_target, mut d_prediction) = (target.clone(), target.clone());
    let at = Pair::new(ROWS, &target, &prediction);
    for (name, loss) in losses {
        let mut work = vec![T::zero(); loss.scratch(ROWS, n / ROWS)];
        group.bench_function(BenchmarkId::new(name, "both gradients"), |b| {
            b.iter(|| {
                let (z, p) = (Write::Set(&mut d_target), Write::Set(&mut d_prediction));
                loss.evaluate(&at, &mut values, z, p, &mut work);
            });
        });
        group.bench_function(BenchmarkId::new(name, "gradient of the prediction"), |b| {
            b.iter(|| {
                let p = Write::Set(&mut d_prediction);
                loss.evaluate(&at, &mut values, Write::Skip, p, &mut work);
            });
        });
    }
    group.bench_function(BenchmarkId::new("softmax cross entropy", "std"), |b| {
        b.iter(|| {
            let columns = target.chunks_exact(ROWS).zip(prediction.chunks_exact(ROWS));
            let out = d_prediction.chunks_exact_mut(ROWS);
            for ((value, d), (y, x)) in values.iter_mut().zip(out).zip(columns) {
                let top = x.iter().fold(x[0], |top, &x| top.max(x));
                let sum = x.iter().fold(T::zero(), |sum, &x| sum + (x - top).exp());
                let log = top + sum.ln();
                *value = T::zero();
                for ((d, &y), &x) in d.iter_mut().zip(y).zip(x) {
                    *value += y * (log - x);
                    *d = (x - log).exp() - y;
                }
            }
        });
    });
    group.finish();
}

fn bench_updates<T: Scalar>(c: &mut Criterion, scalar: &str, n: usize) {
    let mut group = c.benchmark_group(format!("updates {scalar} {n}"));
    group.throughput(Throughput::Elements(n as u64));
    let gradient: Vec<T> = arguments(n);
    let rules: [(&str, &dyn Optimizer<T>); 3] = [
        (
            "gradient descent",
            &GradientDescent::new(1e-6).expect("valid"),
        ),
        ("adam", &Adam::new(1e-6).expect("valid")),
        ("rms prop", &RmsProp::new(1e-6).expect("valid")),
    ];
    for (name, rule) in rules {
        let mut values = gradient.clone();
        let mut state = vec![T::zero(); n * rule.slots()];
        group.bench_function(name, |b| {
            b.iter(|| rule.update(Step::new(1, 1.0), &mut values, &gradient, &mut state));
        });
    }
    group.finish();
}

fn bench(c: &mut Criterion) {
    for n in [4096, 65536] {
        bench_activations::<f32>(c, "f32", n);
        bench_activations::<f64>(c, "f64", n);
        bench_losses::<f32>(c, "f32", n);
        bench_losses::<f64>(c, "f64", n);
        bench_updates::<f32>(c, "f32", n);
        bench_updates::<f64>(c, "f64", n);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = bench
}
criterion_main!(benches);
