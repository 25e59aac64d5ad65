use super::*;
use std::collections::BTreeMap;

#[test]
fn depth_1000_reads_right_before_and_after_checkpoint() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    let depth = 1000u32;
    let tree = line(depth + 1);
    for layer in 1..=depth {
        let block = (layer % 50) as u16;
        store.stage(&write(0, layer, u64::from(layer), block, &[u64::from(layer)])).unwrap();
        if layer % 100 == 0 {
            store.commit().unwrap();
        }
    }
    store.commit().unwrap();
    let check = |store: &mut Store<MemVfs>| {
        for head in [1, 50, 51, 500, 777, 1000] {
            let got = tags(&store.read(key(0, head), &tree, 0, 50).unwrap());
            for block in 0..50u32 {
                let owner = (1..=head).rev().find(|layer| layer % 50 == block).map(u64::from);
                assert_eq!(got[block as usize], owner, "head {head} block {block}");
            }
        }
    };
    check(&mut store);
    checkpoint(&mut store);
    check(&mut store);
    put(&mut store, &write(0, 1000, 1001, 3, &[5000]));
    assert_eq!(tags(&store.read(key(0, 1000), &tree, 3, 1).unwrap()), vec![Some(5000)]);
    assert_eq!(tags(&store.read(key(0, 999), &tree, 3, 1).unwrap()), vec![Some(953)]);
}

/// Random trees, writes, zeros, fills and checkpoints: every layer reads as a plain model says.
#[test]
fn random_trees_read_like_a_model() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut store = open(&MemVfs::new());
        let mut parents = vec![0u32, 0];
        let mut model: BTreeMap<(u32, u16), u64> = BTreeMap::new();
        for sequence in 1..250u64 {
            let block = random.below(40) as u16;
            let layer = 1 + random.below(parents.len() - 1) as u32;
            match random.below(10) {
                0 if parents.len() < 12 => {
                    parents.push(random.below(parents.len()) as u32);
                    put(&mut store, &zero(0, layer, sequence, block, 1));
                    model.insert((layer, block), 0);
                }
                1 => {
                    put(&mut store, &fill(0, sequence, block, &[Some(sequence), None]));
                    model.entry((0, block)).or_insert(sequence);
                    model.entry((0, block + 1)).or_insert(0);
                }
                2 => {
                    put(&mut store, &zero(0, layer, sequence, block, 4));
                    model.extend((0..4).map(|at| ((layer, block + at), 0)));
                }
                _ => {
                    put(&mut store, &write(0, layer, sequence, block, &[sequence, sequence]));
                    model.extend((0..2).map(|at| ((layer, block + at), sequence)));
                }
            }
            if random.below(40) == 0 {
                checkpoint(&mut store);
            }
            let tree = LayerTree::new(&parents).unwrap();
            let head = random.below(parents.len()) as u32;
            let got = tags(&store.read(key(0, head), &tree, 0, 50).unwrap());
            for block in 0..50u16 {
                let mut at = head;
                let expected = loop {
                    match model.get(&(at, block)) {
                        Some(tag) => break Some(*tag),
                        None if at == 0 => break None,
                        None => at = parents[at as usize],
                    }
                };
                assert_eq!(got[block as usize], expected, "seed {seed} sequence {sequence} head {head} block {block}");
            }
        }
    }
}
