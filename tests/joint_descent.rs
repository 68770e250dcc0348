//! Joint descent makes new values in its gradients' memory, layer after layer: it is what its public
//! parts make of it, and leaves everything as it was after an error; and what it stands on, blocks of
//! columns and squared errors.

#![cfg(feature = "rayon")]

use layerwise::nalgebra::DMatrix;
use layerwise::{
    Activation, Adam, Circuit, DecoupledCircuit, Dense, Error, Execution, Gaussian,
    GradientDescent, JointDescent, Matrix, Optimizer, Phase, Regularizer, Scheme, SquaredError,
    Step, TargetInit, Trainer, Visit, Workspace, Write,
};

/// Joint descent by the public parts alone.
#[derive(Debug)]
struct Plain<O>(O, Vec<Vec<Vec<f64>>>, Vec<u64>);

impl<O: Optimizer<f64>> Scheme<f64> for Plain<O> {
    fn start(&mut self, m: &DecoupledCircuit<f64>) -> Result<(), Error> {
        let n = 1 + *m.examples().iter().max().unwrap() as usize;
        let s = self.0.slots();
        self.1 = (1..m.circuit().depth())
            .map(|t| vec![vec![0.0; s * m.circuit().dims()[t]]; n])
            .collect();
        self.2 = vec![0; n];
        Ok(())
    }
    fn visit(&mut self, visit: &mut Visit<'_, '_, f64>) -> Result<f64, Error> {
        let mut p = visit.target_problem();
        let e = p.evaluate(true, true);
        let ids = p.batch().examples().to_vec();
        let w = p.example_weights().map(<[f64]>::to_vec);
        for &id in &ids {
            self.2[id as usize] += 1;
        }
        for t in 1..p.circuit().depth() {
            let dim = p.circuit().dims()[t];
            let (z, g) = p.target_and_gradient(t);
            let cols = z.chunks_exact_mut(dim).zip(g.chunks_exact(dim));
            for (i, (z, g)) in cols.enumerate() {
                let id = ids[i] as usize;
                let step = Step::new(self.2[id], 1.0)
                    .with_gradient_factor(1.0 / w.as_ref().map_or(1.0, |w| w[i]));
                self.0.update(step, z, g, &mut self.1[t - 1][id]);
            }
        }
        visit.step_parameters()?;
        Ok(e)
    }
}

fn model(dims: &[usize], n: usize, gauss: bool, act: Activation) -> DecoupledCircuit<f64> {
    let mut b = Circuit::builder().seed(3);
    b = if gauss {
        b.output_loss(Gaussian::learned(1.0, 1e-3).unwrap())
            .hidden_loss(Gaussian::learned(1.5, 1e-3).unwrap())
    } else {
        b.output_loss(SquaredError)
    };
    for (i, p) in dims.windows(2).enumerate() {
        let d = Dense::new(p[0], p[1], act).unwrap();
        b = b.layer(if i % 3 == 1 { d.without_bias() } else { d });
    }
    b = b.regularize_parameters(Regularizer::default());
    let mut m = DecoupledCircuit::new(b.build().unwrap());
    add(&mut m, n);
    m
}
fn add(m: &mut DecoupledCircuit<f64>, n: usize) {
    let d = m.circuit().dims().to_vec();
    let x = DMatrix::from_fn(d[0], n, |i, j| ((i * 7 + j * 11) % 13) as f64 / 7.0 - 0.9);
    let y = DMatrix::from_fn(*d.last().unwrap(), n, |i, j| {
        ((i * 5 + j * 3) % 7) as f64 / 7.0
    });
    m.add_examples(&x, &y, &TargetInit::NoisyForwardPass { std: 0.2, seed: 4 })
        .unwrap();
}
fn state(m: &DecoupledCircuit<f64>) -> Vec<Vec<u64>> {
    let depth = m.circuit().depth();
    let b = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let p = (0..depth).map(|t| b(m.circuit().parameters(t)));
    let z = (1..depth).map(|t| b(m.z(t).unwrap().into_owned().as_slice()));
    p.chain(z).collect()
}

#[test]
fn joint_is_plain() {
    let shapes: [&[usize]; 7] = [
        &[4, 3],
        &[4, 3, 2],
        &[5, 5, 5, 5, 5, 5, 5, 5, 5],
        &[3, 300, 2, 70, 1, 17, 4],
        &[20, 20, 20, 7, 7, 7, 20, 20],
        &[1, 1, 1, 1],
        &[130, 260, 260, 40],
    ];
    for dims in shapes {
        for n in [1, 17, 37] {
            for gauss in [n == 17] {
                for size in [n, 16, 5] {
                    for adam in [false, true] {
                        for norm in [false, true] {
                            for weights in [false, true] {
                                let run = |plain: bool, threads: usize, ex: Execution| {
                                    let mut m = model(dims, n, gauss, Activation::Tanh);
                                    if weights {
                                        let ids = m.examples().to_vec();
                                        let w: Vec<f64> =
                                            (0..n).map(|i| 0.5 + i as f64 / 8.0).collect();
                                        m.set_example_weights(
                                            &layerwise::Selection::Examples(&ids),
                                            &w,
                                        )
                                        .unwrap();
                                    }
                                    let theta = Adam::new(0.01).unwrap();
                                    let ph = match (plain, adam) {
                                        (true, true) => Phase::new(
                                            Plain(Adam::new(0.02).unwrap(), vec![], vec![]),
                                            theta,
                                        ),
                                        (false, true) => Phase::new(
                                            JointDescent::new(Adam::new(0.02).unwrap()),
                                            theta,
                                        ),
                                        (p, false) => {
                                            let r = GradientDescent::new(0.05)
                                                .unwrap()
                                                .with_momentum(0.9)
                                                .unwrap();
                                            if p {
                                                Phase::new(Plain(r, vec![], vec![]), theta)
                                            } else {
                                                Phase::new(JointDescent::new(r), theta)
                                            }
                                        }
                                    };
                                    let mut ph = ph.epochs(3).batch_size(size.min(n));
                                    if norm {
                                        ph = ph.max_gradient_norm(0.05);
                                    }
                                    let mut t = Trainer::new(ph).threads(threads).execution(ex);
                                    let r = t.run(&mut m);
                                    r.unwrap();
                                    let gone = m.examples()[0];
                                    if n > 1 {
                                        m.remove_examples(&[gone]).unwrap();
                                    }
                                    add(&mut m, 3);
                                    t.run(&mut m).unwrap();
                                    state(&m)
                                };
                                let expected = run(true, 1, Execution::Automatic);
                                for (threads, ex) in [
                                    (1, Execution::Automatic),
                                    (2, Execution::Layers),
                                    (3, Execution::Columns),
                                    (5, Execution::Automatic),
                                ] {
                                    if threads > 1 && (size == 5 || n == 2) {
                                        continue;
                                    }
                                    assert!(
                                        run(false, threads, ex) == expected,
                                        "{dims:?} {n} {gauss} {size} {adam} {norm} {weights} {threads} {ex:?}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A scheme that may step along a gradient that another's visit has used.
#[derive(Debug)]
struct Wrapper<S>(S, bool);

impl<S: Scheme<f64>> Scheme<f64> for Wrapper<S> {
    fn start(&mut self, model: &DecoupledCircuit<f64>) -> Result<(), Error> {
        self.0.start(model)
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, f64>) -> Result<f64, Error> {
        let energy = self.0.visit(visit)?;
        if self.1 {
            visit.step_parameters()?;
        }
        Ok(energy)
    }
}

#[test]
fn a_second_step_after_joint_descent_is_refused() {
    let mut model = model(&[4, 3, 3, 2], 5, false, Activation::Tanh);
    let rule = || GradientDescent::new(0.05).unwrap();
    let run = |again, model: &mut DecoupledCircuit<f64>| {
        let scheme = Wrapper(JointDescent::new(rule()), again);
        Trainer::new(Phase::new(scheme, rule()).epochs(1)).run(model)
    };
    let mut once = model.clone();
    run(false, &mut once).unwrap();
    let error = run(true, &mut model).unwrap_err();
    assert!(matches!(error, Error::SpentGradients), "{error}");
    // The visit's own step of θ stands, as after any error that follows one.
    assert_eq!(model.circuit().parameters(1), once.circuit().parameters(1));
}

#[test]
fn columns_of_a_transposed_matrix_without_columns() {
    let none: [f64; 0] = [];
    let z = Matrix::new(&none, 3, 0).t();
    let part = z.column_range(1..3);
    assert_eq!((part.rows(), part.columns()), (0, 2));
}

#[test]
fn dense_blocks_have_the_same_bits() {
    for (inputs, outputs, n) in [
        (64, 1, 40000),
        (1, 64, 40000),
        (700, 2, 2000),
        (2, 900, 2000),
        (1030, 3, 1500),
        (301, 77, 333),
        (1, 1, 3_000_000),
        (3, 1, 800_000),
        (1, 2, 2_000_000),
        (1500, 1500, 33),
        (4000, 1, 500),
        (1, 4000, 500),
    ] {
        let mut all = Vec::new();
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let out = pool.install(|| {
                let d = Dense::new(inputs, outputs, Activation::Tanh).unwrap();
                let c = Circuit::builder()
                    .layer(d)
                    .layer(Dense::new(outputs, 1, Activation::Identity).unwrap())
                    .output_loss(SquaredError)
                    .seed(1)
                    .build()
                    .unwrap();
                let mut m = DecoupledCircuit::<f32>::new(c);
                let x = DMatrix::from_fn(inputs, n, |i, j| {
                    ((i * 7 + j * 11) % 1013) as f32 / 700.0 - 0.7
                });
                let y = DMatrix::from_fn(1, n, |_, j| (j % 17) as f32 / 9.0);
                m.add_examples(&x, &y, &TargetInit::NoisyForwardPass { std: 0.2, seed: 4 })
                    .unwrap();
                let mut w = Workspace::new(m.circuit(), n);
                let e = m.circuit().evaluate(
                    m.batch(0..n).unwrap(),
                    true,
                    true,
                    &mut w,
                    Execution::Columns,
                );
                let mut v = vec![e];
                for t in 0..2 {
                    v.extend_from_slice(w.parameter_gradient(t));
                    v.extend_from_slice(w.local(t).prediction());
                    v.extend_from_slice(w.local(t).target_gradient());
                }
                v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            });
            all.push(out);
        }
        for (i, o) in all.iter().enumerate() {
            let diff = o.iter().zip(&all[0]).filter(|(a, b)| a != b).count();
            assert!(
                diff == 0,
                "{inputs} {outputs} {n}: {diff} of {} differ, case {i}",
                o.len()
            );
        }
    }
}

/// A rule whose first steps are fine and whose later ones are not.
#[derive(Debug)]
struct Breaks(u64);
impl Optimizer<f64> for Breaks {
    fn slots(&self) -> usize {
        0
    }
    fn update(&self, step: Step, values: &mut [f64], g: &[f64], _: &mut [f64]) {
        for (v, g) in values.iter_mut().zip(g) {
            *v -= 0.01 * step.gradient_factor * g;
        }
        if step.number > self.0 {
            values[0] = f64::NAN;
        }
    }
}

#[test]
fn errors_leave_all() {
    for size in [7, 3] {
        for z in [false, true] {
            let fresh = || model(&[4, 3, 3, 2], 7, false, Activation::Tanh);
            let phase = |at: u64| {
                let (a, b) = if z { (at, 1000) } else { (1000, at) };
                Phase::new(JointDescent::new(Breaks(a)), Breaks(b)).batch_size(size)
            };
            let mut good = fresh();
            let mut bad = fresh();
            // Whole epochs before the fault, so that both runs end alike.
            let steps = 2 * 7u64.div_ceil(size as u64);
            Trainer::new(phase(1000).epochs(2)).run(&mut good).unwrap();
            let at = if z { 2 } else { steps };
            let e = Trainer::new(phase(at).epochs(5)).run(&mut bad).unwrap_err();
            println!("{e} {e:?}");
            assert!(state(&good) == state(&bad), "{size} {z}");
        }
    }
}

#[test]
fn automatic_outside_a_pool() {
    let m = model(&[4, 3, 3, 2], 7, false, Activation::Tanh);
    for ex in [Execution::Automatic, Execution::Layers, Execution::Columns] {
        let mut w = Workspace::new(m.circuit(), 1);
        for run in [0..0, 0..7, 3..4] {
            let b = match m.batch(run) {
                Ok(b) => b,
                Err(e) => {
                    println!("{e}");
                    continue;
                }
            };
            m.circuit().evaluate(b, true, true, &mut w, ex);
            m.circuit().backprop(b.with_execution(ex), &mut w);
        }
    }
}

/// Fails after what it does.
#[derive(Debug)]
struct Fails(JointDescent<f64>, u8, u64);
impl Scheme<f64> for Fails {
    fn start(&mut self, m: &DecoupledCircuit<f64>) -> Result<(), Error> {
        self.2 = 0;
        self.0.start(m)
    }
    fn visit(&mut self, visit: &mut Visit<'_, '_, f64>) -> Result<f64, Error> {
        self.2 += 1;
        if self.2 < 3 {
            return self.0.visit(visit);
        }
        if self.1 & 1 != 0 {
            visit.target_problem().target_mut(1)[0] += 1.0;
        }
        let e = self.0.visit(visit)?;
        if self.1 & 2 != 0 {
            self.0.visit(visit)?;
        }
        if self.1 & 4 != 0 {
            visit.target_problem().target_mut(2)[0] += 1.0;
            visit.target_problem().refresh()?;
        }
        let _ = e;
        Err(Error::NoExamples { operation: "this" })
    }
}

#[test]
fn failing_wrappers_put_targets_back() {
    for size in [7, 3] {
        for kind in 0..8 {
            let fresh = || model(&[4, 3, 3, 2], 7, false, Activation::Tanh);
            let rule = || GradientDescent::new(0.05).unwrap();
            let mut good = fresh();
            let mut bad = fresh();
            let n = 7u64.div_ceil(size as u64);
            // Two visits are made before the fault.
            let mut t = Trainer::new(
                Phase::new(Fails(JointDescent::new(rule()), kind, 0), rule())
                    .batch_size(size)
                    .epochs(9),
            );
            t.run(&mut bad).unwrap_err();
            let z = |m: &DecoupledCircuit<f64>| {
                (1..3)
                    .map(|t| m.z(t).unwrap().into_owned())
                    .collect::<Vec<_>>()
            };
            if n == 1 {
                Trainer::new(Phase::new(JointDescent::new(rule()), rule()).epochs(2))
                    .run(&mut good)
                    .unwrap();
                assert!(z(&good) == z(&bad), "{kind}");
            }
            let before = z(&bad);
            // Again on the same trainer: its third visit fails anew, all is usable.
            t.run(&mut bad).unwrap_err();
            assert!(before != z(&bad));
        }
    }
}

#[test]
fn later_phases_and_gaps() {
    use layerwise::{Alternating, ReverseSweep};
    for gauss in [false] {
        for size in [37, 16] {
            let run = |plain: bool, threads| {
                let mut m = model(&[20, 20, 20, 7, 7, 20, 3], 37, gauss, Activation::Tanh);
                let r = || Adam::new(0.01).unwrap();
                let a = if plain {
                    Phase::new(Plain(r(), vec![], vec![]), r())
                } else {
                    Phase::new(JointDescent::new(r()), r())
                };
                let b = Phase::new(Alternating::persistent(ReverseSweep::new(1)), r());
                let mut t = Trainer::new(a.epochs(2).batch_size(size))
                    .then(b.epochs(2).batch_size(9))
                    .threads(threads);
                let r = t.run(&mut m).unwrap();
                (state(&m), format!("{r:?}"))
            };
            let (a, ra) = run(true, 1);
            for threads in [1, 2, 4] {
                let (b, rb) = run(false, threads);
                assert!(a == b, "{size} {threads}");
                if threads == 1 {
                    println!("{ra}\n{rb}");
                }
            }
        }
    }
}

#[test]
fn squared_errors_whatever_is_wanted() {
    use layerwise::{Loss, Pair};
    for dim in [
        1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 1024, 1025, 3000,
    ] {
        for n in [1, 2, 3, 40] {
            let a: Vec<f64> = (0..dim * n)
                .map(|i| ((i * 37) % 101) as f64 / 17.0)
                .collect();
            let mut b: Vec<f64> = (0..dim * n)
                .map(|i| ((i * 53) % 97) as f64 / 13.0)
                .collect();
            for bad in [None, Some(f64::NAN), Some(f64::INFINITY)] {
                if let Some(x) = bad {
                    b[dim * n - 1] = x;
                }
                let pair = Pair::new(dim, &a, &b);
                let mut first: Option<Vec<u64>> = None;
                for k in 0..9 {
                    let mut v = vec![0.0; n];
                    let (mut x, mut y) = (vec![1.0; dim * n], vec![1.0; dim * n]);
                    fn w(k: usize, s: &mut [f64]) -> Write<'_, f64> {
                        match k {
                            0 => Write::Skip,
                            1 => Write::Set(s),
                            _ => Write::Add(s),
                        }
                    }
                    SquaredError.evaluate(
                        &pair,
                        &mut v,
                        w(k % 3, &mut x),
                        w(k / 3, &mut y),
                        &mut [],
                    );
                    let bits: Vec<u64> = v
                        .iter()
                        .map(|v| if v.is_nan() { 1 } else { v.to_bits() })
                        .collect();
                    assert!(
                        *first.get_or_insert(bits.clone()) == bits,
                        "{dim} {n} {k} {bad:?}"
                    );
                    for i in 0..dim * n {
                        let base = |k| if k == 2 { 1.0 } else { 0.0 };
                        let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
                        if k % 3 > 0 {
                            assert!(same(x[i], base(k % 3) + (a[i] - b[i])));
                        }
                        if k / 3 > 0 {
                            assert!(same(y[i], base(k / 3) + (b[i] - a[i])));
                        }
                    }
                    for (i, v) in v.iter().enumerate() {
                        let s: f64 = (i * dim..(i + 1) * dim)
                            .map(|i| (a[i] - b[i]).powi(2))
                            .sum::<f64>()
                            / 2.0;
                        assert!(s.is_nan() && v.is_nan() || s == *v || (s - v).abs() < 1e-12 * s);
                    }
                }
            }
        }
    }
}
