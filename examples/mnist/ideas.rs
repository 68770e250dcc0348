//! Other ways to carry targets from visit to visit, none of them better than those of the crate, as
//! examples of schemes that a user can write.

use clap::ValueEnum;
use layerwise::decoupled::TargetUse;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, TargetProblem, TargetSolver};
use layerwise::training::{Scheme, Visit};
use layerwise::{DecoupledCircuit, Error};

/// What an example keeps of its targets z_t, and how they are restored. h_t is the forward pass,
/// ẑ_t the prediction from the target below, and γ the share that is kept.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Idea {
    /// The offset from the forward pass: z_t = h_t + γ (z_t − h_t).
    Offset,
    /// Offsets averaged over visits: z_t = h_t + γ (old offset) + (1 − γ) (offset of this sweep).
    Average,
    /// The residual before the activation: z_t = tanh(atanh ẑ_t + γ s_t).
    PreActivation,
    /// The target itself, mixed with the forward pass: z_t = γ z_t + (1 − γ) h_t.
    Mix,
    /// The residual, scaled by how well the example's last two sweeps agreed (their cosine, or 0 if
    /// it is negative).
    Agreement,
    /// The residual, with a share that rises from 0 to γ.
    Rising,
    /// The residual of the last hidden layer only.
    Last,
}

/// A refreshed scheme with one reverse sweep and a memory per example. For each hidden layer its
/// state holds what is kept (one column per example) and the agreement (one number per example);
/// its counts say which examples have been visited.
#[derive(Debug)]
pub struct Carried {
    idea: Idea,
    share: f32,
    sweep: ReverseSweep,
}

/// What the state keeps, borrowed.
struct Memory<'a> {
    dims: &'a [usize],
    agreement: &'a [Vec<f32>],
    visited: &'a [u64],
}

impl Carried {
    pub fn new(idea: Idea, share: f64) -> Self {
        Self {
            idea,
            share: share as f32,
            sweep: ReverseSweep::new(1),
        }
    }

    /// Computes the targets of a batch from the forward pass that they hold and from `old`.
    fn load(
        &self,
        problem: &mut TargetProblem<'_, f32>,
        memory: &Memory<'_>,
        ids: &[usize],
        old: &[Vec<f32>],
        share: f32,
    ) -> Result<(), Error> {
        let hidden = memory.dims.len();
        match self.idea {
            Idea::Average => {}
            Idea::Offset => {
                for (t, old) in (1..).zip(old) {
                    let z = problem.target_mut(t).iter_mut();
                    z.zip(old).for_each(|(z, old)| *z += share * old);
                }
            }
            Idea::Mix => {
                for ((t, old), &dim) in (1..).zip(old).zip(memory.dims) {
                    let z = problem.target_mut(t).chunks_exact_mut(dim);
                    for ((z, old), &id) in z.zip(old.chunks_exact(dim)).zip(ids) {
                        if memory.visited[id] > 0 {
                            let pairs = z.iter_mut().zip(old);
                            pairs.for_each(|(z, old)| *z = share * old + (1.0 - share) * *z);
                        }
                    }
                }
            }
            Idea::PreActivation => problem.chain(|t, prediction, z| {
                let terms = z.iter_mut().zip(prediction).zip(&old[t - 1]);
                terms.for_each(|((z, p), s)| *z = (inverse(*p) + share * s).tanh());
            })?,
            Idea::Agreement | Idea::Rising | Idea::Last => problem.chain(|t, prediction, z| {
                let dim = memory.dims[t - 1];
                for (i, z) in z.chunks_exact_mut(dim).enumerate() {
                    let share = match self.idea {
                        Idea::Agreement => share * memory.agreement[t - 1][ids[i]],
                        Idea::Last if t < hidden => 0.0,
                        _ => share,
                    };
                    let own = i * dim..(i + 1) * dim;
                    let terms = z.iter_mut().zip(&prediction[own.clone()]);
                    let terms = terms.zip(&old[t - 1][own]);
                    terms.for_each(|((z, p), r)| *z = p + share * r);
                }
            })?,
        }
        Ok(())
    }
}

/// atanh, kept finite.
fn inverse(x: f32) -> f32 {
    x.clamp(-0.9999, 0.9999).atanh()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Scheme<f32> for Carried {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn start(&self, model: &mut DecoupledCircuit<f32>) -> Result<State<f32>, Error> {
        let (n, depth) = (model.examples().len(), model.circuit().depth());
        let mut state = State::new();
        let hidden = model.circuit().dims()[1..depth].iter();
        state.values = hidden.map(|dim| vec![0.0; dim * n]).collect();
        state.values.resize(2 * (depth - 1), vec![0.0; n]);
        state.counts = vec![0; n];
        state.parts.push(TargetSolver::<f32>::start(&self.sweep));
        Ok(state)
    }

    fn visit(&self, state: &mut State<f32>, visit: &mut Visit<'_, f32>) -> Result<f32, Error> {
        let (ids, depth) = (visit.columns(), visit.layers().depth());
        let dims = visit.layers().dims()[1..depth].to_vec();
        let share = match self.idea {
            Idea::Rising => self.share * (1.0 - visit.scheduled(Schedule::linear(0.0)?) as f32),
            _ => self.share,
        };
        let (kept, agreement) = state.values.split_at_mut(depth - 1);
        let mut old = Vec::new();
        for (kept, &dim) in kept.iter().zip(&dims) {
            let columns = ids.iter().flat_map(|id| &kept[id * dim..(id + 1) * dim]);
            old.push(columns.copied().collect::<Vec<f32>>());
        }
        let mut problem = visit.target_problem();
        problem.refresh()?;
        let forward: Vec<Vec<f32>> = (1..depth).map(|t| problem.batch().z(t).to_vec()).collect();
        let memory = Memory {
            dims: &dims,
            agreement,
            visited: &state.counts,
        };
        self.load(&mut problem, &memory, ids, &old, share)?;
        let before = problem.gap();
        self.sweep.solve(&mut state.parts[0], &mut problem)?;
        if self.idea == Idea::Average {
            for (t, (h, old)) in (1..).zip(forward.iter().zip(&old)) {
                let terms = problem.target_mut(t).iter_mut().zip(h).zip(old);
                terms.for_each(|((z, h), old)| *z = h + share * old + (1.0 - share) * (*z - h));
            }
        }
        visit.record_gap_before(before);
        let mut evaluated = visit.evaluate()?;
        evaluated.record_gap_after();
        for t in 1..depth {
            let dim = dims[t - 1];
            let problem = evaluated.problem();
            let (z, prediction) = (problem.batch().z(t), evaluated.prediction(t - 1));
            for (i, &id) in ids.iter().enumerate() {
                let own = i * dim..(i + 1) * dim;
                let (z, p, h) = (
                    &z[own.clone()],
                    &prediction[own.clone()],
                    &forward[t - 1][own.clone()],
                );
                let now = |j: usize| match self.idea {
                    Idea::Offset | Idea::Average => z[j] - h[j],
                    Idea::Mix => z[j],
                    Idea::PreActivation => inverse(z[j]) - inverse(p[j]),
                    Idea::Agreement | Idea::Rising | Idea::Last => z[j] - p[j],
                };
                let new: Vec<f32> = (0..dim).map(now).collect();
                if self.idea == Idea::Agreement {
                    let old = &old[t - 1][own];
                    let used = share * agreement[t - 1][id];
                    let fresh: Vec<f32> = new.iter().zip(old).map(|(n, o)| n - used * o).collect();
                    let length = (dot(&fresh, &fresh) * dot(old, old)).sqrt();
                    let cosine = dot(&fresh, old) / length.max(1e-12);
                    agreement[t - 1][id] = cosine.clamp(0.0, 1.0);
                }
                kept[t - 1][id * dim..(id + 1) * dim].copy_from_slice(&new);
            }
        }
        for &id in ids {
            state.counts[id] += 1;
        }
        evaluated.step()
    }
}
