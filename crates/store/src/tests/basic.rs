use super::*;
use crate::vfs::Vfs;
use std::io;

#[test]
fn what_is_written_is_read_before_and_after_a_checkpoint_and_a_restart() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 10, &[100, 101, 102]));
    put(&mut store, &zero(0, 1, 2, 11, 1));
    put(&mut store, &write(0, 1, 3, 12, &[200]));
    let expected = vec![None, Some(100), Some(0), Some(200), None];
    assert_eq!(read(&mut store, 0, 9, 5).unwrap(), expected);
    checkpoint(&mut store);
    assert_eq!(read(&mut store, 0, 9, 5).unwrap(), expected);
    put(&mut store, &write(0, 1, 4, 9, &[300]));
    let expected = vec![Some(300), Some(100), Some(0), Some(200), None];
    assert_eq!(read(&mut store, 0, 9, 5).unwrap(), expected);
    drop(store);
    let mut store = open(&vfs.restart());
    assert_eq!(read(&mut store, 0, 9, 5).unwrap(), expected);
    assert_eq!(store.chunk_states(VOLUME)[0].position, Position { generation: 1, sequence: 4 });
}

#[test]
fn mutations_come_in_order_or_not_at_all() {
    let mut store = open(&MemVfs::new());
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    assert_eq!(store.stage(&write(0, 1, 1, 0, &[1])), Ok(Staged::Duplicate));
    assert_eq!(store.stage(&write(0, 1, 3, 0, &[1])), Err(Refusal::OutOfOrder { expected: 2 }));
    let newer = |sequence| {
        let position = Position { generation: 2, sequence };
        Mutation { position, ..write(0, 1, 0, 0, &[7]) }
    };
    // A new generation goes on where the history stands; what it would write below is not a duplicate.
    assert_eq!(store.stage(&newer(1)), Err(Refusal::OutOfOrder { expected: 2 }));
    put(&mut store, &newer(2));
    assert_eq!(store.stage(&write(0, 1, 3, 0, &[1])), Err(Refusal::OutOfOrder { expected: 3 }));
    assert_eq!(read(&mut store, 0, 0, 1).unwrap(), vec![Some(7)]);
}

#[test]
fn nonsense_is_refused() {
    let mut store = open(&MemVfs::new());
    let good = write(0, 1, 1, 0, &[1, 2]);
    let bad = [
        Mutation { blocks: 0, ..good.clone() },
        Mutation { blocks: 3, ..good.clone() },
        Mutation { block: 16383, ..good.clone() },
        Mutation { body: Bytes::from(vec![0; 8]), ..good.clone() },
        Mutation { data: good.data.slice(..4096), ..good.clone() },
        Mutation { data: good.data.slice(..5000), ..good.clone() },
        Mutation { kind: MutationKind::Zero, ..good.clone() },
        Mutation { layer: 1, ..fill(0, 1, 0, &[Some(1)]) },
    ];
    for mutation in bad {
        assert!(matches!(store.stage(&mutation), Err(Refusal::Invalid { .. })), "{mutation:?}");
    }
    assert_eq!(store.stage(&good), Ok(Staged::New));
    assert!(read(&mut store, 0, 16383, 2).is_err());
    assert!(read(&mut store, 0, 0, 0).is_err());
}

#[test]
fn a_fill_touches_only_what_is_absent() {
    let mut store = open(&MemVfs::new());
    put(&mut store, &fill(0, 1, 5, &[Some(50), None]));
    put(&mut store, &fill(0, 2, 4, &[Some(4), Some(5), Some(6), Some(7)]));
    let base = |store: &mut Store<MemVfs>| tags(&store.read_layer(key(0, 0), 4, 4).unwrap());
    assert_eq!(base(&mut store), vec![Some(4), Some(50), Some(0), Some(7)]);
    // In one batch the second must see the first.
    assert_eq!(store.stage(&fill(0, 3, 20, &[Some(1)])), Ok(Staged::New));
    assert_eq!(store.stage(&fill(0, 4, 20, &[Some(2)])), Ok(Staged::CommitFirst));
    store.commit().unwrap();
    put(&mut store, &fill(0, 4, 20, &[Some(2)]));
    assert_eq!(tags(&store.read_layer(key(0, 0), 20, 1).unwrap()), vec![Some(1)]);
    checkpoint(&mut store);
    put(&mut store, &fill(0, 5, 4, &[Some(9), Some(9), Some(9), Some(9)]));
    assert_eq!(base(&mut store), vec![Some(4), Some(50), Some(0), Some(7)]);
    put(&mut store, &write(0, 1, 6, 5, &[77]));
    assert_eq!(read(&mut store, 0, 4, 4).unwrap(), vec![Some(4), Some(77), Some(0), Some(7)]);
}

#[test]
fn zeros_take_no_room_and_holes_stay_holes() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 1000, &[1; 64]));
    checkpoint(&mut store);
    let before = store.usage().used_bytes;
    put(&mut store, &zero(0, 1, 2, 1000, 64));
    checkpoint(&mut store);
    assert!(store.usage().used_bytes + 60 * 4096 < before, "{before} then {:?}", store.usage());
    put(&mut store, &zero(1, 1, 1, 0, 16384));
    checkpoint(&mut store);
    let states: Vec<_> = read(&mut store, 1, 0, 16384).unwrap();
    assert!(states.iter().all(|state| *state == Some(0)));
}

#[test]
fn a_full_disk_refuses_new_chunks_keeps_serving_and_comes_back() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    vfs.set_capacity(Some(41 << 10));
    for sequence in 2..10 {
        put(&mut store, &write(0, 1, sequence, sequence as u16, &[sequence]));
    }
    store.refresh_space().unwrap();
    assert!(store.usage().full);
    assert_eq!(store.stage(&write(1, 1, 1, 0, &[1])), Err(Refusal::Full));
    // An existing chunk goes on until the disk really has nothing left, and then nothing is half-made.
    let mut sequence = 10;
    let refused = loop {
        assert_eq!(store.stage(&write(0, 1, sequence, 0, &[sequence])), Ok(Staged::New));
        assert_eq!(store.stage(&write(0, 1, sequence + 1, 1, &[sequence + 1])), Ok(Staged::New));
        match store.commit() {
            Ok(()) => sequence += 2,
            Err(refusal) => break refusal,
        }
        assert!(sequence < 100, "never full");
    };
    assert_eq!(refused, Refusal::Full);
    assert_eq!(store.chunk_states(VOLUME)[0].position.sequence, sequence - 1);
    assert_eq!(read(&mut store, 0, 1, 2).unwrap()[1], Some(2));
    vfs.set_capacity(None);
    store.refresh_space().unwrap();
    put(&mut store, &write(0, 1, sequence, 0, &[5555]));
    put(&mut store, &write(1, 1, 1, 0, &[1]));
    let mut store = open(&vfs.restart());
    assert_eq!(store.chunk_states(VOLUME)[0].position.sequence, sequence);
    assert_eq!(read(&mut store, 0, 0, 1).unwrap(), vec![Some(5555)]);
}

#[test]
fn a_failed_append_leaves_nothing() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    vfs.fail_at(vfs.operations() + 1, io::ErrorKind::Other);
    assert_eq!(store.stage(&write(0, 1, 2, 0, &[2])), Ok(Staged::New));
    assert_eq!(store.stage(&write(9, 1, 1, 0, &[2])), Ok(Staged::New));
    assert!(matches!(store.commit(), Err(Refusal::Io { .. })));
    assert_eq!(store.chunk_states(VOLUME).len(), 1);
    assert_eq!(read(&mut store, 0, 0, 1).unwrap(), vec![Some(1)]);
    put(&mut store, &write(0, 1, 2, 0, &[3]));
    assert_eq!(read(&mut open(&vfs.restart()), 0, 0, 1).unwrap(), vec![Some(3)]);
}

#[test]
pub(super) fn a_flipped_bit_is_found_and_refused() {
    for (path, offset, in_place_blocks_min) in [
        ("volumes/0000000000000077/00000000.00000001.data", 4096 * 3 + 77, u16::MAX),
        ("volumes/0000000000000077/00000000.00000001.data", (64 << 20) + 4096 * 3 + 77, 2),
        ("volumes/0000000000000077/00000000.00000001.entries", 100, 2),
    ] {
        let vfs = MemVfs::new();
        let mut store = Store::open(vfs.clone(), Options { in_place_blocks_min, ..options() }).unwrap();
        put(&mut store, &write(0, 1, 1, 2, &[1, 2, 3]));
        checkpoint(&mut store);
        assert!(vfs.flip_bit(path, offset, 3));
        assert_eq!(
            read(&mut store, 0, 0, 8).unwrap_err().to_string().split(" is ").last().unwrap(),
            "damaged on this replica"
        );
        // Writing a neighbour in the same group neither heals nor hides it.
        put(&mut store, &write(0, 1, 2, 9, &[9]));
        checkpoint(&mut store);
        assert!(matches!(read(&mut store, 0, 3, 1), Err(Refusal::Damaged { chunk: 0, block: 3 })));
        assert_eq!(read(&mut store, 0, 9, 1).unwrap(), vec![Some(9)]);
        // Writing the block itself does.
        put(&mut store, &write(0, 1, 3, 3, &[33]));
        assert_eq!(read(&mut store, 0, 3, 1).unwrap(), vec![Some(33)]);
        checkpoint(&mut store);
        assert_eq!(read(&mut store, 0, 3, 1).unwrap(), vec![Some(33)]);
    }
}

#[test]
fn a_bit_flipped_in_the_journal_is_not_blessed_by_the_checkpoint() {
    let vfs = MemVfs::new();
    let mut store = Store::open(vfs.clone(), Options { in_place_blocks_min: u16::MAX, ..options() }).unwrap();
    put(&mut store, &write(0, 1, 1, 2, &[1, 2, 3]));
    sync(&mut store);
    let (journal, _) = vfs.files().into_iter().find(|(path, len)| path.contains("journal") && *len > 4096).unwrap();
    assert!(vfs.flip_bit(&journal, 64 + 80 + 12 + 4096 + 5, 0));
    assert!(matches!(read(&mut store, 0, 2, 3), Err(Refusal::Damaged { chunk: 0, block: 3 })));
    checkpoint(&mut store);
    assert!(matches!(read(&mut store, 0, 2, 3), Err(Refusal::Damaged { chunk: 0, block: 3 })));
    assert_eq!(read(&mut store, 0, 4, 1).unwrap(), vec![Some(3)]);
    assert_eq!(store.usage().damaged_blocks, 1);
}

#[test]
fn a_deleted_volume_is_gone_for_ever() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    store.raise_fence(VOLUME, 4, 1).unwrap();
    put(&mut store, &write(0, 1, 1, 2, &[1, 2, 3]));
    let mut job = store.begin_checkpoint().unwrap();
    job.step().unwrap();
    store.delete_volume(VOLUME).unwrap();
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    assert!(store.chunk_states(VOLUME).is_empty());
    assert!(store.has_doomed());
    checkpoint(&mut store);
    assert!(!store.has_doomed());
    assert!(vfs.list("volumes").unwrap().is_empty());
    let refused = Err(Refusal::Fenced { generation: u64::MAX, session: 0 });
    assert_eq!(store.raise_fence(VOLUME, 5, 1), refused);
    let mut store = open(&vfs.restart());
    assert_eq!(store.raise_fence(VOLUME, 5, 1), refused);
    assert!(store.chunk_states(VOLUME).is_empty());
}

#[test]
pub(super) fn fences_hold() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    store.raise_fence(VOLUME, 4, 1).unwrap();
    store.raise_fence(VOLUME, 4, 1).unwrap();
    assert!(store.raise_fence(VOLUME, 4, 2).is_err());
    assert!(store.raise_fence(VOLUME, 3, 1).is_err());
    let mut store = open(&vfs.crash(&mut |_| 0));
    assert!(store.raise_fence(VOLUME, 3, 1).is_err());
    store.raise_fence(VOLUME, 5, 2).unwrap();
}

#[test]
fn a_folder_is_for_one() {
    let vfs = MemVfs::new();
    let _store = open(&vfs);
    assert!(matches!(Store::open(vfs.clone(), options()), Err(crate::OpenError::Locked)));
}

#[test]
fn what_is_written_while_a_checkpoint_runs_stays() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1, 2, 3, 4]));
    let mut job = store.begin_checkpoint().unwrap();
    let mut sequence = 1;
    loop {
        sequence += 1;
        put(&mut store, &write(0, 1, sequence, sequence as u16 % 6, &[sequence]));
        if job.step().unwrap() {
            break;
        }
    }
    store.end_checkpoint(job);
    let expected: Vec<Option<u64>> = (0..6)
        .map(|block| (2..=sequence).rev().find(|at| at % 6 == block).or((block < 4).then_some(block + 1)))
        .collect();
    assert_eq!(read(&mut store, 0, 0, 6).unwrap(), expected);
    let mut store = open(&vfs.restart());
    assert_eq!(read(&mut store, 0, 0, 6).unwrap(), expected);
    checkpoint(&mut store);
    assert_eq!(read(&mut store, 0, 0, 6).unwrap(), expected);
}

#[test]
fn nothing_goes_in_place_into_files_that_a_checkpoint_is_about_to_make() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    let mut job = store.begin_checkpoint().unwrap();
    put(&mut store, &write(0, 1, 2, 4, &[2; 4]));
    put(&mut store, &write(0, 2, 3, 4, &[3; 4]));
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    put(&mut store, &write(0, 1, 4, 8, &[4; 4]));
    let expected = [vec![Some(1), None, None, None], vec![Some(2); 4], vec![Some(4); 4]].concat();
    assert_eq!(read(&mut store, 0, 0, 12).unwrap(), expected);
    checkpoint(&mut store);
    let mut store = open(&vfs.restart());
    assert_eq!(read(&mut store, 0, 0, 12).unwrap(), expected);
    assert_eq!(tags(&store.read_layer(key(0, 2), 4, 4).unwrap()), vec![Some(3); 4]);
}
