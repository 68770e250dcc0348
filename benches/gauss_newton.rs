//! Time of one iteration of [`GaussNewton`]'s conjugate gradients, compared with its matrix
//! products.
//!
//! `cargo bench -p benches --bench gauss_newton [-- <part of a case's name>]`. Nets M and D of
//! `step.rs`: tanh, the last layer linear, squared error. The time of an iteration is the
//! difference between two calls with different numbers of iterations. The products are one W p and
//! one Wᵀ g for every layer except the first (two of each between hidden layers with the chained preconditioner), on
//! separate arrays. All three are timed in turn, and medians over the rounds are reported. On one
//! thread this measures the thread's CPU time, so that other programs matter little; on two
//! threads, wall-clock time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use layerwise::decoupled::TargetInit;
use layerwise::kernel::{Matrix, Write};
use layerwise::optimizer::GradientDescent;
use layerwise::state::State;
use layerwise::target_solver::{GaussNewton, SolveReport, TargetProblem, TargetSolver};
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{DecoupledCircuit, Error, Scalar};
use nets::{model, nets};

mod nets;

const ROUNDS: usize = 31;
const FEW: u64 = 2;
const MANY: u64 = 8;

/// Times two solvers and the products on the problem with which it is called.
#[derive(Debug)]
struct Probe {
    name: String,
    few: GaussNewton,
    many: GaussNewton,
    chained: bool,
    alone: bool,
}

impl Probe {
    fn new(name: String, chained: bool, alone: bool) -> Self {
        let solver = |iterations| {
            let solver = if chained {
                GaussNewton::chained(1, iterations)
            } else {
                GaussNewton::new(1, iterations)
            };
            let solver = solver.with_residual_tolerance(0.0);
            solver
                .and_then(|solver| solver.with_damping(1e-3))
                .expect("valid")
        };
        Self {
            name,
            few: solver(FEW),
            many: solver(MANY),
            chained,
            alone,
        }
    }

    /// The matrix products of one iteration, with W, p, W p and Wᵀ g of every layer.
    fn products<T: Scalar>(&self, layers: &mut [[Vec<T>; 4]], dims: &[usize], n: usize) {
        for (t, [w, p, pushed, pulled]) in layers.iter_mut().enumerate() {
            let (rows, columns) = (dims[t + 1], dims[t]);
            let hidden = (1..dims.len() - 2).contains(&t);
            let times = match t {
                0 => 0,
                _ if self.chained && hidden => 2,
                _ => 1,
            };
            for _ in 0..times {
                let w = Matrix::new(w, rows, columns);
                T::matmul(Write::Set(pushed), w, Matrix::new(p, columns, n));
                T::matmul(Write::Set(pulled), w.t(), Matrix::new(pushed, rows, n));
            }
        }
        black_box(layers);
    }
}

impl<T: Scalar> TargetSolver<T> for Probe {
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let (dims, n) = (problem.layers().dims().to_vec(), problem.batch().len());
        let before: Vec<Vec<T>> = (1..dims.len() - 1)
            .map(|t| problem.batch().z(t).to_vec())
            .collect();
        let layer = |pair: &[usize]| {
            let wave = |size: usize| (0..size).map(|i| T::of((i as f64).sin())).collect();
            [
                wave(pair[0] * pair[1]),
                wave(pair[0] * n),
                wave(pair[1] * n),
                wave(pair[0] * n),
            ]
        };
        let mut layers: Vec<_> = dims.windows(2).map(layer).collect();
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut times = [Duration::ZERO; 3];
            for (which, time) in times.iter_mut().enumerate() {
                problem.predict();
                let start = now(self.alone);
                let solved = match which {
                    0 => Some((FEW, self.few.solve(state, problem)?)),
                    1 => Some((MANY, self.many.solve(state, problem)?)),
                    _ => {
                        (FEW..MANY).for_each(|_| self.products(&mut layers, &dims, n));
                        None
                    }
                };
                *time = now(self.alone) - start;
                if let Some((iterations, report)) = solved {
                    assert_eq!(report.products, iterations, "all iterations are made");
                    // A shortened step would cost evaluations that do not belong to an iteration.
                    assert_eq!(report.drawn_back, 0, "the step stands");
                }
                for (t, before) in (1..).zip(&before) {
                    problem.target_mut(t).copy_from_slice(before);
                }
            }
            let each = |time: f64| time * 1e6 / (MANY - FEW) as f64;
            let [few, many, products] = times.map(|time| time.as_secs_f64());
            rounds.push([each(many - few), each(products)]);
        }
        let median = |value: &dyn Fn(&[f64; 2]) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [iteration, products] = [0, 1].map(|which| median(&|round| round[which]));
        let ratio = median(&|round| round[0] / round[1]);
        println!(
            "{:<28} {iteration:>9.0} {products:>9.0} {ratio:>7.3}",
            self.name
        );
        Ok(SolveReport::new(0, n))
    }
}

/// CPU time of this thread where the system reports it, otherwise wall-clock time.
fn now(alone: bool) -> Duration {
    if alone {
        // The system updates its count when the thread yields.
        std::thread::sleep(Duration::from_nanos(1));
        let own = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let own = own.and_then(|line| line.split(' ').next().map(str::parse));
        if let Some(Ok(nanoseconds)) = own {
            return Duration::from_nanos(nanoseconds);
        }
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn bench<T: Scalar>(scalar: &str, wanted: &str) {
    let own = |net: &(&str, _, _)| ["M", "D"].contains(&net.0);
    for (net, widths, n) in nets().into_iter().filter(own) {
        let init = TargetInit::NoisyForwardPass { std: 0.01, seed: 0 };
        let mut model: DecoupledCircuit<T> = model(&widths, n, &init);
        for (kind, chained) in [("plain", false), ("chained", true)] {
            for threads in [1, 2] {
                if threads > 1 && !cfg!(feature = "rayon") {
                    continue;
                }
                let name = format!("{net} {scalar} {kind}, {threads} threads");
                if !name.contains(wanted) {
                    continue;
                }
                let probe = Probe::new(name, chained, threads == 1);
                let rule = GradientDescent::new(1e-9).expect("valid");
                let phase = Phase::new(Decoupling::persistent(probe), rule).with_epochs(1);
                let trainer = Trainer::new(phase).with_threads(threads);
                let trainer = trainer.expect("allowed").with_measure_every(0);
                trainer.run(&mut model).expect("it can be solved");
            }
        }
    }
}

fn main() {
    let wanted = std::env::args().skip(1).find(|own| !own.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    println!(
        "{:<28} {:>9} {:>9} {:>7}",
        "µs", "iteration", "products", "ratio"
    );
    bench::<f32>("f32", &wanted);
    bench::<f64>("f64", &wanted);
}
