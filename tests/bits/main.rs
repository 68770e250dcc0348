//! Exact equalities, which also have to hold as users build: optimised.

#[cfg(feature = "rayon")]
mod few_heavy_images;
mod products;
mod same_bits;
