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
mod tests {
    use super::*;

    #[test]
    fn every_block_goes_once_beside_blocks_that_remain() {
        for order in [Order::Sequential, Order::Cyclic] {
            for m in 0..40 {
                let levels = order.levels(m);
                let expected = match order {
                    Order::Sequential => m,
                    Order::Cyclic => (0..).take_while(|k| m >> k > 0).count(),
                };
                assert_eq!(levels.len(), expected, "{order:?}, {m} blocks");
                let mut left: Vec<usize> = (0..m).collect();
                for level in levels {
                    for own in &level {
                        let place = left.iter().position(|b| *b == own.block).unwrap();
                        let below = place.checked_sub(1).map(|p| left[p]);
                        assert_eq!(own.below, below);
                        assert_eq!(own.above, left.get(place + 1).copied());
                        // Neighbours remain, so no two blocks of a level are adjacent.
                        let neighbour = |n: Option<usize>| level.iter().any(|o| Some(o.block) == n);
                        assert!(!neighbour(own.below) && !neighbour(own.above));
                    }
                    left.retain(|b| !level.iter().any(|own| own.block == *b));
                }
                assert!(left.is_empty());
            }
        }
    }
}
