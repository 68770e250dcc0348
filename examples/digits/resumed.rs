//! Sessions that go on where an earlier run of the program was stopped (`--resume`).

use std::error::Error;
use std::path::Path;

use layerwise::DecoupledCircuit;
use layerwise::training::{Session, Trainer};

/// A new session, or the one that was left in `folder` under `name`; saved there after every k-th
/// visit, k = `every`. Without a folder nothing is read or saved.
#[cfg(feature = "storage")]
pub fn session(
    trainer: &Trainer<f32>,
    model: DecoupledCircuit<f32>,
    folder: Option<&Path>,
    name: &str,
    every: u64,
) -> Result<Session<f32>, Box<dyn Error>> {
    let Some(folder) = folder else {
        return Ok(Session::new(trainer, model)?);
    };
    std::fs::create_dir_all(folder)?;
    let path = folder.join(name).with_extension("safetensors");
    let mut session = match path.exists() {
        true => Session::reopen(trainer, model, &path)?,
        false => Session::new(trainer, model)?,
    };
    session.checkpoint_every(every, path)?;
    Ok(session)
}

#[cfg(not(feature = "storage"))]
pub fn session(
    trainer: &Trainer<f32>,
    model: DecoupledCircuit<f32>,
    folder: Option<&Path>,
    _name: &str,
    _every: u64,
) -> Result<Session<f32>, Box<dyn Error>> {
    match folder {
        None => Ok(Session::new(trainer, model)?),
        Some(_) => Err("--resume needs the feature `storage`".into()),
    }
}
