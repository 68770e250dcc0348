//! The machine's limit: fused multiply-adds that never leave the registers.

use std::time::Instant;

use crate::Failure;

/// GFLOP/s of one thread, with the widest vectors that reach more; two operations a multiply-add.
pub fn measure(double: bool, seconds: f64) -> Result<f64, Failure> {
    let mut best = 0.0_f64;
    for (run, flops) in kernels(double) {
        let (mut rounds, mut elapsed) = (1 << 12, 0.0);
        while elapsed < 0.5 * seconds {
            rounds *= 2;
            let start = Instant::now();
            std::hint::black_box(run(rounds));
            elapsed = start.elapsed().as_secs_f64();
        }
        best = best.max(flops * rounds as f64 / elapsed / 1e9);
    }
    if best == 0.0 {
        return Err("no fused multiply-adds on this machine".into());
    }
    Ok(best)
}

/// Loops of this many rounds, and the operations of a round.
type Kernel = (fn(u64) -> f64, f64);

#[cfg(not(target_arch = "x86_64"))]
fn kernels(_double: bool) -> Vec<Kernel> {
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
fn kernels(double: bool) -> Vec<Kernel> {
    let mut all: Vec<Kernel> = Vec::new();
    let chains = CHAINS as f64;
    if is_x86_feature_detected!("avx512f") {
        all.push(if double {
            (|n| unsafe { wide_f64(n) }, chains * 2.0 * 8.0)
        } else {
            (|n| unsafe { wide_f32(n) }, chains * 2.0 * 16.0)
        });
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        all.push(if double {
            (|n| unsafe { narrow_f64(n) }, chains * 2.0 * 4.0)
        } else {
            (|n| unsafe { narrow_f32(n) }, chains * 2.0 * 8.0)
        });
    }
    all
}

/// Independent chains: more than latency times units, and as many as there are registers for.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
macro_rules! chains {
    ($name:ident, $features:literal, $set:ident, $fma:ident, $add:ident, $first:expr) => {
        #[target_feature(enable = $features)]
        fn $name(rounds: u64) -> f64 {
            use std::arch::x86_64::*;
            let factor = std::hint::black_box($set(0.999));
            let term = std::hint::black_box($set(0.001));
            let mut sums = [term; CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = $fma(*sum, factor, term);
                }
            }
            let mut total = term;
            for sum in sums {
                total = $add(total, sum);
            }
            #[allow(clippy::redundant_closure_call)]
            ($first)(total)
        }
    };
}

#[cfg(target_arch = "x86_64")]
chains!(
    wide_f32,
    "avx512f",
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    |v| { f64::from(_mm512_cvtss_f32(v)) }
);
#[cfg(target_arch = "x86_64")]
chains!(
    wide_f64,
    "avx512f",
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    |v| { _mm512_cvtsd_f64(v) }
);
#[cfg(target_arch = "x86_64")]
chains!(
    narrow_f32,
    "avx2,fma",
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    |v| { f64::from(_mm256_cvtss_f32(v)) }
);
#[cfg(target_arch = "x86_64")]
chains!(
    narrow_f64,
    "avx2,fma",
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    |v| { _mm256_cvtsd_f64(v) }
);
