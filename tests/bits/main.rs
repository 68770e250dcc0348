//! Exact equalities, which also have to hold as users build: optimised.

mod products;
mod same_bits;
