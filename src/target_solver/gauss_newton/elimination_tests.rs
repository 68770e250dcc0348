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
