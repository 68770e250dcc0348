//! The layers of the crate, one file each: derivatives, bounds, the rest of the contract, and what
//! each of them computes.

mod activate;
mod attention;
mod carry;
mod checked;
mod closed_forms;
mod conv2d;
mod conv_transpose2d;
mod dropout;
mod embedding;
mod laws;
mod normalize;
mod pool2d;
mod position_bias;
mod position_wise;
mod pytorch;
mod pytorch_images;
mod reshape;
mod residual;
mod scale;
mod softmax;
