use yuntai_proto::data::{ChunkState, Refusal};
use yuntai_proto::Position;

use crate::tests::{checkpoint, open, put, read, sync, write, VOLUME};
use crate::vfs::memory::MemVfs;
use crate::Store;

fn state(store: &Store<MemVfs>, chunk: u32) -> ChunkState {
    store.chunk_state(VOLUME, chunk).unwrap()
}

fn chunk_files(vfs: &MemVfs) -> usize {
    vfs.files().iter().filter(|(path, _)| path.starts_with("volumes/")).count()
}

#[test]
fn a_dropped_chunk_goes_with_its_files_and_stays_away() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 0, &[1, 2, 3]));
    put(&mut store, &write(4, 1, 1, 0, &[9]));
    checkpoint(&mut store);
    let known = state(&store, 3);
    let moved_on = ChunkState { position: Position { sequence: 7, ..known.position }, ..known };
    assert!(!store.drop_chunk(VOLUME, &moved_on));
    assert!(!store.drop_chunk(VOLUME, &ChunkState { rebuilding: true, ..known }));
    assert!(store.drop_chunk(VOLUME, &known));
    assert!(store.drop_chunk(VOLUME, &known), "what is not here is not here");
    assert!(store.has_doomed());
    // Nothing begins anew on top of it until it is out of the table.
    assert!(matches!(store.begin_rebuild(VOLUME, 3, known.position), Err(Refusal::Busy { .. })));
    assert!(matches!(store.stage(&write(3, 1, 1, 0, &[5])), Err(Refusal::Busy { .. })));
    checkpoint(&mut store);
    assert!(!store.has_doomed());
    assert_eq!(chunk_files(&vfs), 2, "the other chunk's");
    put(&mut store, &write(3, 1, 1, 1, &[8]));
    assert_eq!(read(&mut store, 3, 0, 3), Ok(vec![None, Some(8), None]));
    sync(&mut store);
    drop(store);
    let mut store = open(&vfs.crash(&mut |_| 0));
    assert_eq!(read(&mut store, 3, 0, 3), Ok(vec![None, Some(8), None]));
    assert_eq!(read(&mut store, 4, 0, 1), Ok(vec![Some(9)]));
}

#[test]
fn a_drop_during_a_checkpoint_waits_for_the_next_one() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 0, &[1, 2, 3]));
    let mut job = store.begin_checkpoint().unwrap();
    assert!(!job.step().unwrap());
    let known = state(&store, 3);
    assert!(store.drop_chunk(VOLUME, &known));
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    assert!(matches!(store.begin_rebuild(VOLUME, 3, known.position), Err(Refusal::Busy { .. })));
    checkpoint(&mut store);
    store.begin_rebuild(VOLUME, 3, known.position).unwrap();
    store.commit().unwrap();
    drop(store);
    // The files that the first checkpoint made after the drop are strays to the next start.
    let vfs = vfs.crash(&mut |n| n - 1);
    let mut store = open(&vfs);
    if store.has_doomed() {
        checkpoint(&mut store);
    }
    assert_eq!(chunk_files(&vfs), 0);
}

#[test]
fn a_power_cut_at_any_operation_of_a_drop_leaves_the_old_chunk_or_none() {
    for at in 0.. {
        let vfs = MemVfs::new();
        let mut store = open(&vfs);
        put(&mut store, &write(3, 1, 1, 0, &[1, 2, 3]));
        put(&mut store, &write(4, 1, 1, 0, &[9]));
        checkpoint(&mut store);
        put(&mut store, &write(3, 1, 2, 1, &[7]));
        sync(&mut store);
        let known = state(&store, 3);
        vfs.die_after(vfs.operations() + at);
        assert!(store.drop_chunk(VOLUME, &known));
        let mut job = store.begin_checkpoint().unwrap();
        let through = loop {
            match job.step() {
                Ok(true) => break true,
                Ok(false) => {}
                Err(_) => break false,
            }
        };
        drop(store);
        let mut random = crate::tests::Random::new(at + 1);
        let vfs = vfs.crash(&mut |n| random.below(n));
        let mut store = open(&vfs);
        match store.chunk_state(VOLUME, 3) {
            None => assert_eq!(read(&mut store, 3, 0, 1), Ok(vec![None])),
            Some(state) => {
                assert_eq!(state, known);
                assert_eq!(read(&mut store, 3, 0, 3), Ok(vec![Some(1), Some(7), Some(3)]));
                assert!(!through, "a drop that was through stays");
            }
        }
        assert_eq!(read(&mut store, 4, 0, 1), Ok(vec![Some(9)]));
        checkpoint(&mut store);
        let left = if store.chunk_state(VOLUME, 3).is_some() { 4 } else { 2 };
        assert_eq!(chunk_files(&vfs), left, "no stray is left");
        if through {
            return;
        }
    }
}

#[test]
fn a_sync_on_its_way_outlives_the_deletion_of_a_volume() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 0, &[1, 2, 3]));
    assert!(store.in_place_bytes() > 0, "its new file's name is to be made durable");
    let ticket = store.sync_ticket().unwrap();
    store.delete_volume(VOLUME).unwrap();
    checkpoint(&mut store);
    assert_eq!(chunk_files(&vfs), 0);
    ticket.run().unwrap();
    store.synced(&ticket);
}
