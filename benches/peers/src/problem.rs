//! What every worker computes: a net with its data, and a step on it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// Which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// E, all its gradients, plain descent of θ and z.
    Step,
    /// The composed loss, its gradients in θ, plain descent of θ.
    Backprop,
    /// Like `Step`, by Adam.
    Adam,
    /// `Step` in f64.
    Step64,
    /// `Backprop` in f64.
    Backprop64,
    /// `Step` with the threads given whole layers, whatever the net.
    Layers,
    /// `Step` with the threads given columns of one layer after another.
    Columns,
    /// `Step` on one of the threads.
    Sequential,
}

/// θ and z, example by example; W of a layer input by input.
#[derive(Debug, Clone)]
pub struct State {
    /// W_t (in × out, rows one behind the other), then b_t.
    pub theta: Vec<Vec<f32>>,
    /// z_1, …, z_{T−1}, n × d_t, rows one behind the other.
    pub z: Vec<Vec<f32>>,
}

/// A net, its data and where it starts.
#[derive(Debug, Clone)]
pub struct Problem {
    pub description: Description,
    pub x: Vec<f32>,
    pub y: Vec<f32>,
    pub start: State,
}

/// The file `net.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Description {
    pub widths: Vec<usize>,
    pub examples: usize,
    /// η of θ, for the mean gradient over the examples.
    pub rate: f64,
    /// η of z, for each example's own gradient.
    pub target_rate: f64,
}

/// What `steps` steps from the beginning came to.
pub struct Outcome {
    /// Of all steps but the first, which makes the memory that later ones use again.
    pub seconds: f64,
    /// E or the composed loss, a sum over examples, before the last step's update.
    pub value: f64,
    pub state: State,
}

/// A library that makes the steps.
pub trait Peer {
    fn version(&self) -> String;

    fn kinds(&self) -> Vec<Kind>;

    /// Makes `steps` steps from the beginning; neither making the beginning nor the
    /// first step is timed.
    fn run(&mut self, problem: &Problem, kind: Kind, steps: u64) -> Result<Outcome, Failure>;
}

impl Problem {
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let description: Description =
            serde_json::from_str(&fs::read_to_string(folder.join("net.json"))?)?;
        let depth = description.widths.len() - 1;
        let array = |name: String| read_array(&folder.join(name));
        let theta = (0..depth).map(|t| array(format!("theta{t}.f32")));
        let z = (1..depth).map(|t| array(format!("z{t}.f32")));
        Ok(Self {
            x: array("x.f32".into())?,
            y: array("y.f32".into())?,
            start: State {
                theta: theta.collect::<Result<_, _>>()?,
                z: z.collect::<Result<_, _>>()?,
            },
            description,
        })
    }

    pub fn depth(&self) -> usize {
        self.description.widths.len() - 1
    }
}

impl State {
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        fs::create_dir_all(folder)?;
        for (t, theta) in self.theta.iter().enumerate() {
            write_array(&folder.join(format!("theta{t}.f32")), theta)?;
        }
        for (t, z) in (1..).zip(&self.z) {
            write_array(&folder.join(format!("z{t}.f32")), z)?;
        }
        Ok(())
    }
}

pub fn read_array(path: &Path) -> Result<Vec<f32>, Failure> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let values = bytes.as_chunks().0.iter().copied();
    Ok(values.map(f32::from_le_bytes).collect())
}

pub fn write_array(path: &Path, values: &[f32]) -> Result<(), Failure> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Ok(fs::write(path, bytes)?)
}
