//! The layers of the crate, one file each: derivatives, bounds, the rest of the contract, and what
//! each of them computes.

mod activate;
mod attention;
mod carry;
mod checked;
mod dropout;
mod embedding;
mod normalize;
mod position_bias;
mod position_wise;
mod pytorch;
mod residual;
mod scale;
mod softmax;
