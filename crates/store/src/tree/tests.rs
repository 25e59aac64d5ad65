use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn ancestors_equal_a_walk(picks in prop::collection::vec(any::<u32>(), 1..200)) {
        let mut parents = vec![0];
        for (layer, pick) in (1u32..).zip(picks) {
            // Mostly chains, now and then a branch.
            parents.push(if pick % 4 == 0 { (pick / 4) % layer } else { layer - 1 });
        }
        let tree = LayerTree::new(&parents).unwrap();
        for layer in 0..parents.len() as u32 {
            let mut above = vec![layer];
            while *above.last().unwrap() != 0 {
                above.push(parents[*above.last().unwrap() as usize]);
            }
            for other in 0..parents.len() as u32 {
                prop_assert_eq!(tree.is_ancestor(other, layer), above.contains(&other));
            }
        }
    }
}

#[test]
fn nonsense_is_refused() {
    assert!(LayerTree::new(&[]).is_none());
    assert!(LayerTree::new(&[1, 0]).is_none());
    assert!(LayerTree::new(&[0, 1]).is_none());
    assert!(LayerTree::new(&[0, 2, 0]).is_none());
}
