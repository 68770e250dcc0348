//! Property tests in every scalar: tolerances, a runner with a recorded seed, random numbers.

use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::{Error, Scalar};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};

/// A scalar, with what can be asked of central differences in it.
pub(crate) trait Tested: Scalar {
    /// Error that `GradCheck` may report.
    const GRADIENT: f64;
    /// Rounding of a short sum, relative to the sum of its terms' magnitudes.
    const ROUNDING: f64;
}

impl Tested for f64 {
    const GRADIENT: f64 = 1e-6;
    const ROUNDING: f64 = 1e-13;
}

impl Tested for f32 {
    const GRADIENT: f64 = 5e-3;
    const ROUNDING: f64 = 1e-5;
}

/// Runs `test` on 256 draws of `strategy`. The seed is fixed, so a failure comes back by running
/// the same test again; proptest prints the smallest failing case.
pub(crate) fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x6c61_7965),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("{failure}");
    }
}

/// Turns the crate's errors into failures of a case.
pub(crate) fn failed(error: Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// The same test in every scalar.
macro_rules! in_both_scalars {
    ($($(#[$attribute:meta])* $test:ident),* $(,)?) => {$(
        mod $test {
            #[test]
            $(#[$attribute])*
            fn in_f64() {
                super::$test::<f64>();
            }

            #[test]
            $(#[$attribute])*
            fn in_f32() {
                super::$test::<f32>();
            }
        }
    )*};
}

pub(crate) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `count` draws from U(−size, size).
pub(crate) fn uniform<T: Scalar>(rng: &mut ChaCha8Rng, count: usize, size: f64) -> Vec<T> {
    let draws = (0..count).map(|_| T::of(rng.random_range(-size..size)));
    draws.collect()
}
