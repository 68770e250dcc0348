//! Time of one step on four nets: the decoupled step (E, every ∂E/∂θ and ∂E/∂z), backprop, the
//! matrix products of each alone, and the decoupled step on two threads.
//!
//! `cargo bench -p benches --bench step`. tanh, the last layer linear, squared error.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use layerwise::decoupled::TargetInit;
use layerwise::energy::{All, Workspace};
#[cfg(feature = "rayon")]
use layerwise::kernel::Execution;
use layerwise::kernel::{Matrix, Write};
use layerwise::{DecoupledCircuit, Scalar};
use nets::{model, nets};

mod nets;

/// W Z and G Zᵀ for every layer, and Wᵀ G for all layers except the first, on separate arrays.
fn products<T: Scalar>(widths: &[usize], n: usize) -> impl FnMut() {
    let numbers =
        |count: usize| -> Vec<T> { (0..count).map(|i| T::of((i as f64).sin())).collect() };
    let mut layers: Vec<_> = widths
        .windows(2)
        .map(|pair| {
            let (k, m) = (pair[0], pair[1]);
            let arrays = [m * k, k * n, m * n, m * k, k * n].map(numbers);
            (k, m, arrays)
        })
        .collect();
    move || {
        for (t, (k, m, [w, z, out, dw, dz])) in layers.iter_mut().enumerate() {
            let (w, z) = (Matrix::new(w, *m, *k), Matrix::new(z, *k, n));
            T::matmul(Write::Set(out), w, z);
            T::matmul(Write::Set(dw), Matrix::new(out, *m, n), z.t());
            if t > 0 {
                T::matmul(Write::Set(dz), w.t(), Matrix::new(out, *m, n));
            }
        }
    }
}

fn bench_scalar<T: Scalar>(c: &mut Criterion, scalar: &str) {
    for (name, widths, n) in nets() {
        let init = TargetInit::RandomNormal { std: 0.5, seed: 0 };
        let model: DecoupledCircuit<T> = model(&widths, n, &init);
        let problem = model.problem(0..n).expect("all columns");
        let mut workspace = Workspace::new();
        let mut group = c.benchmark_group(format!("step {scalar}"));
        group.bench_function(BenchmarkId::new("decoupled", name), |b| {
            b.iter(|| problem.evaluate(All, &mut workspace).energy());
        });
        group.bench_function(BenchmarkId::new("products", name), |b| {
            b.iter(products::<T>(&widths, n));
        });
        group.bench_function(BenchmarkId::new("backprop", name), |b| {
            b.iter(|| problem.backprop(&mut workspace).loss());
        });
        #[cfg(feature = "rayon")]
        for execution in [
            Execution::Sequential,
            Execution::Layers,
            Execution::Columns,
            Execution::Automatic,
        ] {
            let name = BenchmarkId::new(format!("on 2 threads {execution:?}"), name);
            group.bench_function(name, |b| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
                pool.expect("two threads").install(|| {
                    let problem = problem.with_execution(execution);
                    b.iter(|| problem.evaluate(All, &mut workspace).energy());
                });
            });
        }
    }
}

fn bench(c: &mut Criterion) {
    bench_scalar::<f32>(c, "f32");
    bench_scalar::<f64>(c, "f64");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = bench
}
criterion_main!(benches);
