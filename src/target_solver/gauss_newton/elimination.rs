//! Orders in which the blocks of a block tridiagonal matrix are eliminated.

/// One block to eliminate, with its neighbours among the blocks that remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elimination {
    pub(super) block: usize,
    pub(super) below: Option<usize>,
    pub(super) above: Option<usize>,
}

/// The order of elimination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One block after another, from the input up (block Cholesky): as many levels as blocks.
    Sequential,
    /// Repeatedly every other one of the remaining blocks (cyclic reduction): ⌊log₂ m⌋ + 1 levels
    /// for m blocks.
    Cyclic,
}

impl Order {
    /// Levels of eliminations for m blocks; eliminations within a level are independent.
    pub(super) fn levels(self, m: usize) -> Vec<Vec<Elimination>> {
        let mut remaining: Vec<usize> = (0..m).collect();
        let mut levels = Vec::new();
        while !remaining.is_empty() {
            let step = match self {
                // One that does not come again.
                Self::Sequential => remaining.len(),
                Self::Cyclic => 2,
            };
            let at = |place: Option<usize>| place.and_then(|p| remaining.get(p).copied());
            let level = (0..remaining.len()).step_by(step).map(|place| Elimination {
                block: remaining[place],
                below: at(place.checked_sub(1)),
                above: at(Some(place + 1)),
            });
            let level: Vec<Elimination> = level.collect();
            remaining.retain(|block| level.iter().all(|own| own.block != *block));
            levels.push(level);
        }
        levels
    }
}

#[cfg(test)]
#[path = "elimination_tests.rs"]
mod tests;
