//! Memory of backprop's activations compared with that of the targets.

use std::error::Error;

use layerwise::decoupled::TargetInit;

use crate::digits::Digits;
use crate::nets::{self, Start, Unit};
use crate::recipe::BATCH;
use crate::statistics::print_table;

/// Sizes in kilobytes, as counted by the library.
pub fn table(train: &Digits) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for depth in [3, 10, 30, 100] {
        let circuit = nets::deep(Unit::Tanh, depth, Start::Normal(1.0), 0)?;
        let model = nets::model(circuit, train, &TargetInit::ForwardPass)?;
        let dims = model.circuit().dims();
        let hidden: usize = dims[1..depth].iter().sum();
        let kilobytes = |bytes: usize| format!("{:.0}", bytes as f64 / 1024.0);
        let memory = model.memory(BATCH)?;
        rows.push(vec![
            depth.to_string(),
            // Every ẑ_t of a batch, which backprop keeps for the backward pass.
            kilobytes(size_of::<f32>() * BATCH * hidden),
            kilobytes(memory.targets),
            kilobytes(memory.parameters),
            kilobytes(memory.workspace),
        ]);
    }
    println!(
        "**Memory**, KB: {} examples, batches of {BATCH}, `f32`.\n",
        train.labels.len()
    );
    print_table(
        &[
            "depth",
            "backprop's activations, a batch",
            "targets, all examples",
            "θ",
            "workspace of a batch",
        ],
        &rows,
    );
    Ok(())
}
