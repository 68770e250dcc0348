//! What most programs need: `use layerwise::prelude::*`.

pub use crate::circuit::Circuit;
pub use crate::data::{Split, Standardizer, ThreeWaySplit, from_rows, metrics};
pub use crate::decoupled::{DecoupledCircuit, Selection, TargetInit};
pub use crate::energy::Energy;
pub use crate::error::Error;
pub use crate::gradcheck::GradCheck;
pub use crate::kernel::Scalar;
pub use crate::layer::{Activation, AveragePool2d, Conv2d, Dense, Layer, MaxPool2d, Sequential};
pub use crate::loss::{BinaryCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError};
pub use crate::optimizer::{Adam, AdamW, GradientDescent, Optimizer};
pub use crate::presets;
pub use crate::regularizer::Regularizer;
pub use crate::schedule::Schedule;
pub use crate::target_solver::{GaussNewton, ReverseSweep, StepSize, TargetSolver};
pub use crate::training::{
    Backprop, Decoupling, Event, Phase, Scheme, Session, Stopping, Trainer, WStep,
};
pub use nalgebra::DMatrix;
