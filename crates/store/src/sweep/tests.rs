use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use yuntai_proto::data::Refusal;

use super::REMOVED_BLOCKS_MAX;
use crate::tests::{checkpoint, content, key, open, put, sync, tags, write, zero, Random, VOLUME};
use crate::vfs::memory::MemVfs;
use crate::{Found, Freed, LayerTree, Question, ScanJob, Search, Store};

/// A sweep of one chunk, as the server does it: look, take out in pieces, mark.
fn sweep(store: &mut Store<MemVfs>, question: &Arc<Question>, chunk: u32) -> Result<u64, Refusal> {
    let Some(mut job) = store.scan(VOLUME, chunk, Search::Free(Arc::clone(question))) else { return Ok(0) };
    while !job.step().map_err(|error| Refusal::Io { message: error.to_string() })? {}
    let ScanJob { stamp, found: Found::Free(freed), .. } = job else { panic!("not what was asked") };
    let bytes = freed.iter().map(|of| of.bytes).sum();
    for Freed { layer, runs, all, .. } in freed {
        for (first, blocks) in runs {
            for at in (0..blocks).step_by(REMOVED_BLOCKS_MAX.into()) {
                store.remove_blocks(&stamp, layer, (first + at, REMOVED_BLOCKS_MAX.min(blocks - at)))?;
                store.commit()?;
            }
        }
        if all {
            store.mark_emptied(&stamp, layer);
        }
    }
    Ok(bytes)
}

/// What live layers show, block by block, of the first blocks.
fn shown(store: &mut Store<MemVfs>, parents: &[u32], live: &[u32], blocks: u16) -> BTreeMap<u32, Vec<Option<u64>>> {
    let tree = LayerTree::new(parents).unwrap();
    live.iter().map(|layer| (*layer, tags(&store.read(key(3, *layer), &tree, 0, blocks).unwrap()))).collect()
}

#[test]
fn a_deleted_snapshot_gives_its_room_back_and_its_files_go() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    let numbers: Vec<u64> = (1..=200).collect();
    put(&mut store, &write(3, 1, 1, 0, &numbers));
    checkpoint(&mut store);
    put(&mut store, &write(3, 2, 2, 0, &numbers));
    checkpoint(&mut store);
    let before = store.usage().used_bytes;
    let question = Arc::new(Question::new(&[0, 0, 1], &[2]).unwrap());
    assert_eq!(sweep(&mut store, &question, 3), Ok(200 * 4096));
    checkpoint(&mut store);
    assert!(store.has_doomed(), "the files of the emptied layer");
    checkpoint(&mut store);
    assert!(!store.has_doomed());
    assert!(store.usage().used_bytes + 190 * 4096 < before);
    let files = vfs.files();
    assert!(files.iter().all(|(path, _)| *path != key(3, 1).data_path()), "{files:?}");
    assert_eq!(sweep(&mut store, &question, 3), Ok(0));
    let live = shown(&mut store, &[0, 0, 1], &[2], 200);
    assert_eq!(live[&2], numbers.iter().map(|number| Some(*number)).collect::<Vec<_>>());
    drop(store);
    let mut store = open(&vfs.crash(&mut |n| n - 1));
    assert_eq!(shown(&mut store, &[0, 0, 1], &[2], 200), live);
}

#[test]
fn a_layer_that_was_emptied_and_filled_again_keeps_what_came() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 0, &[1, 2]));
    checkpoint(&mut store);
    let question = Arc::new(Question::new(&[0, 0], &[]).unwrap());
    sweep(&mut store, &question, 3).unwrap();
    put(&mut store, &write(3, 1, 2, 5, &[9, 8, 7]));
    checkpoint(&mut store);
    checkpoint(&mut store);
    let tree = LayerTree::new(&[0, 0]).unwrap();
    assert_eq!(tags(&store.read(key(3, 1), &tree, 5, 3).unwrap()), [Some(9), Some(8), Some(7)]);
    // And one whose files are just being cleared away.
    sweep(&mut store, &question, 3).unwrap();
    checkpoint(&mut store);
    let mut job = store.begin_checkpoint().unwrap();
    put(&mut store, &write(3, 1, 3, 6, &[4, 5]));
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    checkpoint(&mut store);
    drop(store);
    let mut store = open(&vfs.crash(&mut |n| n - 1));
    assert_eq!(tags(&store.read(key(3, 1), &tree, 5, 3).unwrap()), [None, Some(4), Some(5)]);
}

/// Writes at random into a random tree; then some layers are dead. The tree, the live layers, the next sequence.
fn grown(store: &mut Store<MemVfs>, random: &mut Random, synced: bool) -> (Vec<u32>, Vec<u32>, u64) {
    let mut parents = vec![0, 0];
    let mut sequence = 0;
    for _ in 0..5 {
        let head = parents.len() as u32 - 1;
        for _ in 0..random.below(5) {
            sequence += 1;
            let (block, blocks) = (random.below(30) as u16, 1 + random.below(8) as u16);
            let numbers: Vec<u64> = (0..u64::from(blocks)).map(|at| sequence * 100 + at).collect();
            let layer = if random.below(8) == 0 { 0 } else { head };
            match random.below(5) {
                0 => put(store, &zero(3, layer, sequence, block, blocks)),
                _ => put(store, &write(3, layer, sequence, block, &numbers)),
            }
        }
        if random.below(3) == 0 {
            checkpoint(store);
        }
        parents.push(random.below(parents.len()) as u32);
    }
    if synced {
        sync(store);
    }
    let live = (0..parents.len() as u32).filter(|_| random.below(3) == 0).collect();
    (parents, live, sequence)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_sweep_changes_nothing_that_is_shown_and_leaves_nothing_to_free(seed in any::<u64>()) {
        let vfs = MemVfs::new();
        let mut store = open(&vfs);
        let mut random = Random::new(seed);
        let (parents, live, _) = grown(&mut store, &mut random, false);
        let before = shown(&mut store, &parents, &live, 40);
        let question = Arc::new(Question::new(&parents, &live).unwrap());
        sweep(&mut store, &question, 3).unwrap();
        prop_assert_eq!(&shown(&mut store, &parents, &live, 40), &before);
        prop_assert_eq!(sweep(&mut store, &question, 3), Ok(0));
        checkpoint(&mut store);
        checkpoint(&mut store);
        prop_assert_eq!(&shown(&mut store, &parents, &live, 40), &before);
        drop(store);
        let mut store = open(&vfs.crash(&mut |n| random.below(n)));
        prop_assert_eq!(&shown(&mut store, &parents, &live, 40), &before);
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_sweep_changes_nothing_that_is_shown() {
    for seed in 1..6 {
        for at in 0.. {
            let vfs = MemVfs::new();
            let mut store = open(&vfs);
            let mut random = Random::new(seed);
            let (parents, live, sequence) = grown(&mut store, &mut random, true);
            let before = shown(&mut store, &parents, &live, 40);
            let question = Arc::new(Question::new(&parents, &live).unwrap());
            vfs.die_after(vfs.operations() + at);
            let mut steps = || -> Result<(), ()> {
                sweep(&mut store, &question, 3).map_err(|_| ())?;
                for _ in 0..2 {
                    let mut job = store.begin_checkpoint().ok_or(())?;
                    while !job.step().map_err(|_| ())? {}
                    store.end_checkpoint(job);
                }
                Ok(())
            };
            let through = steps().is_ok();
            drop(store);
            let mut random = Random::new(seed * 1000 + at);
            let vfs = vfs.crash(&mut |n| random.below(n));
            let mut store = open(&vfs);
            assert_eq!(store.chunk_state(VOLUME, 3).map_or(0, |state| state.position.sequence), sequence);
            assert_eq!(shown(&mut store, &parents, &live, 40), before, "seed {seed}, cut at {at}");
            sweep(&mut store, &question, 3).unwrap();
            checkpoint(&mut store);
            assert_eq!(shown(&mut store, &parents, &live, 40), before, "seed {seed}, cut at {at}");
            if through {
                break;
            }
        }
    }
}

#[test]
fn a_covering_write_that_was_not_durable_takes_the_removal_with_it() {
    let lost = |n: usize| {
        assert!(n > 0);
        0
    };
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 0, &[1]));
    sync(&mut store);
    put(&mut store, &write(3, 2, 2, 0, &[2]));
    let question = Arc::new(Question::new(&[0, 0, 1], &[2]).unwrap());
    assert_eq!(sweep(&mut store, &question, 3), Ok(4096));
    drop(store);
    let mut store = open(&vfs.crash(&mut { lost }));
    let live = shown(&mut store, &[0, 0, 1], &[2], 1);
    assert_eq!(live[&2], [Some(1)], "neither the write nor what it allowed to be freed");
    assert_eq!(content(1).len(), 4096);
}

#[test]
fn a_chain_of_a_thousand_layers_is_swept() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    let parents: Vec<u32> = (0..1000u32).map(|layer| layer.saturating_sub(1)).collect();
    for layer in 1..1000u32 {
        put(&mut store, &write(3, layer, u64::from(layer), (layer % 50) as u16, &[u64::from(layer)]));
    }
    checkpoint(&mut store);
    let live = [500, 999];
    let before = shown(&mut store, &parents, &live, 50);
    let question = Arc::new(Question::new(&parents, &live).unwrap());
    assert_eq!(sweep(&mut store, &question, 3), Ok((999 - 100) * 4096));
    checkpoint(&mut store);
    checkpoint(&mut store);
    assert_eq!(shown(&mut store, &parents, &live, 50), before);
    assert_eq!(vfs.files().iter().filter(|(path, _)| path.ends_with(".entries")).count(), 100);
}
