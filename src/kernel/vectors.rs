//! Vectors of numbers, as wide as the processor's registers.

use crate::kernel::Scalar;

/// The operations on vectors that products are made of, for one type of number on one processor.
///
/// Every method must be inlined into code that is compiled for this processor. So there are no
/// closures on the way to them: a closure would be compiled for any processor.
pub(super) trait Vectors: Copy {
    type Number: Scalar;
    type Vector: Copy + 'static;

    /// Numbers in a vector.
    const LANES: usize;

    /// Vectors of rows in the largest tile.
    const MOST_VECTORS: usize;

    /// Rows and columns of the blocks that [`transpose`](Self::transpose) transposes.
    const BLOCK: usize;

    /// The vector whose numbers are all x.
    fn splat(self, x: Self::Number) -> Self::Vector;

    /// Columns of the tiles of a product whose largest panel has this many vectors of rows: as many
    /// as leave registers for the factors.
    fn columns(vectors: usize) -> usize;

    /// a + b.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// a b + c, rounded once where the processor can.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// The numbers as vectors; what is left over is ignored.
    fn view(numbers: &[Self::Number]) -> &[Self::Vector];

    /// The numbers as vectors, and what is left over.
    fn view_mut(numbers: &mut [Self::Number]) -> (&mut [Self::Vector], &mut [Self::Number]);

    /// A vector of at most [`LANES`](Self::LANES) numbers.
    fn load(self, numbers: &[Self::Number]) -> Self::Vector;

    /// The first numbers of a vector, at most [`LANES`](Self::LANES).
    fn store(self, numbers: &mut [Self::Number], vector: Self::Vector);

    /// `to[q step + r] ← from[r stride + q]` for all q and r below [`BLOCK`](Self::BLOCK).
    fn transpose(self, from: &[Self::Number], stride: usize, to: &mut [Self::Number], step: usize);

    /// Prefetches the cache line of the first number, which is needed soon.
    fn fetch(self, numbers: &[Self::Number]);

    /// Does the work in a function of its own, compiled for this processor.
    fn apart(self, work: impl FnOnce());
}

#[inline(always)]
fn by_loops<T: Copy, const BLOCK: usize>(from: &[T], stride: usize, to: &mut [T], step: usize) {
    for q in 0..BLOCK {
        for r in 0..BLOCK {
            to[q * step + r] = from[r * stride + q];
        }
    }
}

#[cfg(not(feature = "fast-kernels"))]
pub(super) use plain::Plain;

#[cfg(not(feature = "fast-kernels"))]
mod plain {
    //! Arrays, which the compiler vectorises as it can.

    use std::marker::PhantomData;

    use super::{Vectors, by_loops};
    use crate::kernel::Scalar;

    /// The number of lanes of [`Plain`] vectors: 16 bytes of `f32`.
    const PLAIN_LANES: usize = 4;

    /// Arrays as vectors, which the compiler vectorises as it can.
    #[derive(Clone, Copy)]
    pub(crate) struct Plain<T>(PhantomData<T>);

    impl<T> Plain<T> {
        pub(crate) fn new() -> Self {
            Self(PhantomData)
        }
    }

    impl<T: Scalar> Vectors for Plain<T> {
        type Number = T;
        type Vector = [T; PLAIN_LANES];

        const LANES: usize = PLAIN_LANES;
        const MOST_VECTORS: usize = 3;
        const BLOCK: usize = 4;

        #[inline(always)]
        fn columns(_vectors: usize) -> usize {
            4
        }

        #[inline(always)]
        fn splat(self, x: T) -> Self::Vector {
            [x; PLAIN_LANES]
        }

        #[inline(always)]
        fn add(self, mut a: Self::Vector, b: Self::Vector) -> Self::Vector {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
            a
        }

        #[inline(always)]
        fn multiply_add(
            self,
            a: Self::Vector,
            b: Self::Vector,
            mut c: Self::Vector,
        ) -> Self::Vector {
            for (c, (a, b)) in c.iter_mut().zip(a.into_iter().zip(b)) {
                *c += a * b;
            }
            c
        }

        #[inline(always)]
        fn view(numbers: &[T]) -> &[Self::Vector] {
            numbers.as_chunks().0
        }

        #[inline(always)]
        fn view_mut(numbers: &mut [T]) -> (&mut [Self::Vector], &mut [T]) {
            numbers.as_chunks_mut()
        }

        #[inline(always)]
        fn load(self, numbers: &[T]) -> Self::Vector {
            let mut vector = [T::zero(); PLAIN_LANES];
            vector[..numbers.len()].copy_from_slice(numbers);
            vector
        }

        #[inline(always)]
        fn store(self, numbers: &mut [T], vector: Self::Vector) {
            numbers.copy_from_slice(&vector[..numbers.len()]);
        }

        #[inline(always)]
        fn transpose(self, from: &[T], stride: usize, to: &mut [T], step: usize) {
            by_loops::<T, 4>(from, stride, to, step);
        }

        #[inline(always)]
        fn fetch(self, _numbers: &[T]) {}

        fn apart(self, work: impl FnOnce()) {
            work();
        }
    }
}

#[cfg(feature = "fast-kernels")]
pub(super) use wide::{Wide32, Wide64};

#[cfg(feature = "fast-kernels")]
mod wide {
    //! The registers of this processor, by pulp.

    use pulp::Simd;

    use super::Vectors;

    struct Apart<F>(F);

    impl<F: FnOnce()> pulp::WithSimd for Apart<F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) {
            (self.0)();
        }
    }

    macro_rules! wide {
        (
            $name:ident, $number:ty, $vector:ident, $lanes:ident, $block:literal, $transpose:ident,
            $view:ident, $view_mut:ident, $splat:ident, $add:ident, $multiply_add:ident,
            $load:ident, $store:ident
        ) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name<S> {
                simd: S,
                processor: processor::Token,
            }

            impl<S: Simd> $name<S> {
                #[inline(always)]
                pub(crate) fn new(simd: S) -> Self {
                    let processor = processor::token();
                    Self { simd, processor }
                }
            }

            impl<S: Simd> Vectors for $name<S> {
                type Number = $number;
                type Vector = S::$vector;

                const LANES: usize = S::$lanes;
                const MOST_VECTORS: usize = if S::REGISTER_COUNT >= 32 { 4 } else { 3 };
                const BLOCK: usize = $block;

                #[inline(always)]
                fn columns(vectors: usize) -> usize {
                    match vectors {
                        _ if S::REGISTER_COUNT < 32 => 4,
                        4.. => 6,
                        _ => 8,
                    }
                }

                #[inline(always)]
                fn splat(self, x: $number) -> Self::Vector {
                    self.simd.$splat(x)
                }

                #[inline(always)]
                fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                    self.simd.$add(a, b)
                }

                #[inline(always)]
                fn multiply_add(
                    self,
                    a: Self::Vector,
                    b: Self::Vector,
                    c: Self::Vector,
                ) -> Self::Vector {
                    self.simd.$multiply_add(a, b, c)
                }

                #[inline(always)]
                fn view(numbers: &[$number]) -> &[Self::Vector] {
                    S::$view(numbers).0
                }

                #[inline(always)]
                fn view_mut(numbers: &mut [$number]) -> (&mut [Self::Vector], &mut [$number]) {
                    S::$view_mut(numbers)
                }

                #[inline(always)]
                fn load(self, numbers: &[$number]) -> Self::Vector {
                    self.simd.$load(numbers)
                }

                #[inline(always)]
                fn store(self, numbers: &mut [$number], vector: Self::Vector) {
                    self.simd.$store(numbers, vector);
                }

                #[inline(always)]
                fn transpose(
                    self,
                    from: &[$number],
                    stride: usize,
                    to: &mut [$number],
                    step: usize,
                ) {
                    processor::$transpose(self.processor, from, stride, to, step);
                }

                #[inline(always)]
                fn fetch(self, numbers: &[$number]) {
                    processor::fetch(self.processor, numbers);
                }

                #[inline(always)]
                fn apart(self, work: impl FnOnce()) {
                    self.simd.vectorize(Apart(work));
                }
            }
        };
    }

    wide!(
        Wide32,
        f32,
        f32s,
        F32_LANES,
        8,
        transpose_8,
        as_simd_f32s,
        as_mut_simd_f32s,
        splat_f32s,
        add_f32s,
        mul_add_e_f32s,
        partial_load_f32s,
        partial_store_f32s
    );
    wide!(
        Wide64,
        f64,
        f64s,
        F64_LANES,
        4,
        transpose_4,
        as_simd_f64s,
        as_mut_simd_f64s,
        splat_f64s,
        add_f64s,
        mul_add_e_f64s,
        partial_load_f64s,
        partial_store_f64s
    );

    #[cfg(target_arch = "x86_64")]
    mod processor {
        //! What pulp has under the processor's own names only.

        use std::arch::x86_64::{__m128, __m256, __m256d};

        use pulp::cast;
        use pulp::x86::V3;

        pub(super) type Token = Option<V3>;

        #[inline(always)]
        pub(super) fn token() -> Token {
            V3::try_new()
        }

        #[inline(always)]
        pub(super) fn fetch<T>(token: Token, numbers: &[T]) {
            if let Some(v3) = token {
                v3.sse._mm_prefetch::<3>(numbers.as_ptr().cast());
            }
        }

        #[inline(always)]
        pub(super) fn transpose_8(
            token: Token,
            from: &[f32],
            stride: usize,
            to: &mut [f32],
            step: usize,
        ) {
            let Some(V3 { avx, .. }) = token else {
                return super::super::by_loops::<f32, 8>(from, stride, to, step);
            };
            // Four columns at a time: rows r in the lower half of a register, r + 4 in the upper.
            for q in [0, 4] {
                let mut rows: [__m256; 4] = cast([0_f32; 32]);
                for (r, row) in rows.iter_mut().enumerate() {
                    let low: __m128 = cast(four(from, r * stride + q));
                    let high: __m128 = cast(four(from, (r + 4) * stride + q));
                    *row = avx._mm256_insertf128_ps::<1>(avx._mm256_castps128_ps256(low), high);
                }
                let a = avx._mm256_unpacklo_ps(rows[0], rows[1]);
                let b = avx._mm256_unpackhi_ps(rows[0], rows[1]);
                let c = avx._mm256_unpacklo_ps(rows[2], rows[3]);
                let d = avx._mm256_unpackhi_ps(rows[2], rows[3]);
                let columns = [
                    avx._mm256_shuffle_ps::<0x44>(a, c),
                    avx._mm256_shuffle_ps::<0xee>(a, c),
                    avx._mm256_shuffle_ps::<0x44>(b, d),
                    avx._mm256_shuffle_ps::<0xee>(b, d),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    to[(q + i) * step..][..8].copy_from_slice(&cast::<_, [f32; 8]>(column));
                }
            }
        }

        #[inline(always)]
        pub(super) fn transpose_4(
            token: Token,
            from: &[f64],
            stride: usize,
            to: &mut [f64],
            step: usize,
        ) {
            let Some(V3 { avx, .. }) = token else {
                return super::super::by_loops::<f64, 4>(from, stride, to, step);
            };
            let mut rows: [__m256d; 4] = cast([0_f64; 16]);
            for (r, row) in rows.iter_mut().enumerate() {
                *row = cast(four(from, r * stride));
            }
            let a = avx._mm256_unpacklo_pd(rows[0], rows[1]);
            let b = avx._mm256_unpackhi_pd(rows[0], rows[1]);
            let c = avx._mm256_unpacklo_pd(rows[2], rows[3]);
            let d = avx._mm256_unpackhi_pd(rows[2], rows[3]);
            let columns = [
                avx._mm256_permute2f128_pd::<0x20>(a, c),
                avx._mm256_permute2f128_pd::<0x20>(b, d),
                avx._mm256_permute2f128_pd::<0x31>(a, c),
                avx._mm256_permute2f128_pd::<0x31>(b, d),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                to[i * step..][..4].copy_from_slice(&cast::<_, [f64; 4]>(column));
            }
        }

        #[inline(always)]
        fn four<T: Copy>(from: &[T], at: usize) -> [T; 4] {
            let from = &from[at..at + 4];
            [from[0], from[1], from[2], from[3]]
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    mod processor {
        //! Loops, where nothing better is known.

        pub(super) type Token = ();

        pub(super) fn token() {}

        pub(super) fn fetch<T>((): Token, _numbers: &[T]) {}

        #[inline(always)]
        pub(super) fn transpose_8(
            (): Token,
            from: &[f32],
            stride: usize,
            to: &mut [f32],
            step: usize,
        ) {
            super::super::by_loops::<f32, 8>(from, stride, to, step);
        }

        #[inline(always)]
        pub(super) fn transpose_4(
            (): Token,
            from: &[f64],
            stride: usize,
            to: &mut [f64],
            step: usize,
        ) {
            super::super::by_loops::<f64, 4>(from, stride, to, step);
        }
    }
}
