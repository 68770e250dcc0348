//! Runs on several threads inside a pool of the caller's: the thread that waits for a run does nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use layerwise::kernel::Execution;
use layerwise::prelude::*;
use layerwise::training::{Decoupling, Session};
use rayon::prelude::*;

const LIMIT: Duration = Duration::from_secs(60);

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(6, 24, Activation::Tanh).unwrap())
        .layer(Dense::new(24, 24, Activation::Tanh).unwrap())
        .layer(Dense::new(24, 2, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let wave = |rows, step: f64| {
        DMatrix::from_fn(rows, 64, |i, j| {
            T::of((step * (j as f64 + 1.3 * i as f64)).sin())
        })
    };
    model
        .add_examples(&wave(6, 0.7), &wave(2, 1.1), &TargetInit::ForwardPass)
        .unwrap();
    model
}

fn trainer<T: Scalar>(threads: usize) -> Trainer<T> {
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    Trainer::new(Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(6))
        .with_threads(threads)
        .unwrap()
        .with_execution(Execution::Layers)
}

fn parameters<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<Vec<T>> {
    (0..3)
        .map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

/// 24 runs in a pool of so many threads; how many were open at once, at most.
fn runs_in_a_pool<T: Scalar>(outer: usize, inner: usize, locked: bool) -> usize {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut alone = model::<T>();
        trainer(1).run(&mut alone).unwrap();
        let expected = parameters(&alone);
        let lock = Mutex::new(());
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = |i: usize| {
            let held = locked.then(|| lock.lock().unwrap());
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let trainer = trainer::<T>(inner);
            let found = match i % 2 {
                0 => {
                    let mut own = model::<T>();
                    trainer.run(&mut own).unwrap();
                    parameters(&own)
                }
                _ => {
                    let mut session = Session::new(&trainer, model::<T>()).unwrap();
                    while session.advance().unwrap().is_some() {}
                    parameters(session.model())
                }
            };
            open.fetch_sub(1, Ordering::SeqCst);
            drop(held);
            assert!(found == expected, "{outer}, {inner}");
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(outer)
            .build()
            .unwrap();
        pool.install(|| (0..24).into_par_iter().for_each(run));
        send.send(most.into_inner()).unwrap();
    });
    match receive.recv_timeout(LIMIT) {
        Ok(most) => most,
        Err(RecvTimeoutError::Timeout) => panic!("a deadlock"),
        Err(RecvTimeoutError::Disconnected) => panic!("a run failed"),
    }
}

#[test]
fn a_lock_held_around_a_run_in_a_pool_is_no_deadlock() {
    for outer in [1, 4] {
        assert_eq!(runs_in_a_pool::<f64>(outer, 3, true), 1);
        assert_eq!(runs_in_a_pool::<f32>(outer, 2, true), 1);
    }
}

#[test]
fn a_pool_opens_no_more_runs_than_it_has_threads() {
    for (outer, inner) in [(1, 2), (1, 3), (3, 2)] {
        assert!(runs_in_a_pool::<f64>(outer, inner, false) <= outer);
        assert!(runs_in_a_pool::<f32>(outer, inner, false) <= outer);
    }
}

/// A panic of the work passes through the thread in between.
#[test]
fn a_panic_in_a_nested_run_reaches_the_caller() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let own = Arc::new(Mutex::new(model::<f64>()));
    let shared = own.clone();
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.install(|| {
            let mut own = shared.lock().unwrap();
            trainer(2).run_with(&mut own, |_, _| panic!("a caller's bug"))
        })
    }));
    let message = run.unwrap_err();
    assert_eq!(message.downcast_ref::<&str>(), Some(&"a caller's bug"));
    let own = own.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert_eq!(own.circuit().depth(), 3);
}
