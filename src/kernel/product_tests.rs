//! The vectors that are not chosen on this processor are correct too.

use super::*;

/// Numbers whose products and sums are exact in both types: small integers.
fn integers<T: Scalar>(count: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| T::of(((i * i + seed * i + seed) % 17) as f64 - 8.0);
    (0..count).map(number).collect()
}

const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [3, 5, 2],
    [10, 33, 17],
    [64, 64, 64],
    [65, 31, 7],
    [70, 500, 13],
    [129, 77, 300],
    [100, 800, 6],
    [24, 900, 140],
];

/// Every product of the shapes by these vectors is that of loops, exactly.
fn are_exact<T: Element>(run: impl Fn(Product<'_, T>, &mut [T], &mut [T])) {
    for [m, k, n] in SHAPES {
        let (left, right) = (integers::<T>(m * k, 3), integers::<T>(k * n, 5));
        for (a_transposed, b_transposed, add) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
            (true, true, false),
        ] {
            let a = match a_transposed {
                true => Matrix::new(&left, k, m).t(),
                false => Matrix::new(&left, m, k),
            };
            let b = match b_transposed {
                true => Matrix::new(&right, n, k).t(),
                false => Matrix::new(&right, k, n),
            };
            let before = integers::<T>(m * n, 7);
            let (mut out, mut expected) = (before.clone(), before);
            let write = if add { Write::Add } else { Write::Set };
            by_loops(write(&mut expected), a, b);
            let product = Product::new(&mut out, add, a, b);
            let (left, right) = product.room();
            let (mut left, mut right) = (vec![T::zero(); left], vec![T::zero(); right]);
            run(product, &mut left, &mut right);
            assert!(
                out == expected,
                "{m} x {k} x {n}, {a_transposed}, {b_transposed}"
            );
        }
    }
}

#[cfg(not(feature = "fast-kernels"))]
#[test]
fn plain_vectors_are_exact() {
    use crate::kernel::vectors::Plain;

    are_exact::<f32>(|product, left, right| product.run(Plain::new(), left, right));
    are_exact::<f64>(|product, left, right| product.run(Plain::new(), left, right));
}

#[cfg(all(feature = "fast-kernels", target_arch = "x86_64"))]
#[test]
fn narrower_registers_are_exact() {
    use crate::kernel::vectors::{Wide32, Wide64};

    struct Run<'a, T>(Product<'a, T>, &'a mut [T], &'a mut [T]);
    macro_rules! run {
        ($number:ty, $wide:ident) => {
            impl pulp::WithSimd for Run<'_, $number> {
                type Output = ();

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, simd: S) {
                    self.0.run($wide::new(simd), self.1, self.2);
                }
            }
        };
    }
    run!(f32, Wide32);
    run!(f64, Wide64);
    // Without it there is nothing to test.
    let Some(v3) = pulp::x86::V3::try_new() else {
        return;
    };
    are_exact::<f32>(|product, left, right| pulp::Simd::vectorize(v3, Run(product, left, right)));
    are_exact::<f64>(|product, left, right| pulp::Simd::vectorize(v3, Run(product, left, right)));
}
