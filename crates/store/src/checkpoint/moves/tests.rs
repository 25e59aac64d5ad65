use super::spans;
use crate::spares::tests::{is_whole, tags_of};
use crate::tests::{checkpoint, open, options, put, write};
use crate::vfs::memory::MemVfs;
use crate::{Options, Store};

/// Write all of it. Did that go in place?
fn overwrite(store: &mut Store<MemVfs>, sequence: u64) -> bool {
    let before = store.in_place_bytes();
    put(store, &write(0, 1, sequence, 0, &tags_of(sequence)));
    store.in_place_bytes() > before
}

/// Block 7 lies in another half than all others.
fn mixed(vfs: &MemVfs) -> Store<MemVfs> {
    let mut store = open(vfs);
    for sequence in 1..=2 {
        assert!(overwrite(&mut store, sequence));
        if sequence == 1 {
            checkpoint(&mut store);
        }
    }
    put(&mut store, &write(0, 1, 3, 7, &[77]));
    checkpoint(&mut store);
    store
}

#[test]
fn what_lies_in_both_halves_is_brought_together_by_the_next_large_write() {
    let mut store = mixed(&MemVfs::new());
    assert!(!overwrite(&mut store, 4));
    checkpoint(&mut store);
    assert!(is_whole(&mut store, 0, 4));
    assert!(overwrite(&mut store, 5));
    checkpoint(&mut store);
    assert!(is_whole(&mut store, 0, 5));
}

#[test]
fn nothing_is_written_in_place_where_a_checkpoint_moves_blocks() {
    let vfs = MemVfs::new();
    let mut store = mixed(&vfs);
    assert!(!overwrite(&mut store, 4));
    let mut job = store.begin_checkpoint().unwrap();
    assert!(!overwrite(&mut store, 5));
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    assert!(is_whole(&mut store, 0, 5));
    assert!(overwrite(&mut store, 6), "it is over");
    drop(store);
    assert!(is_whole(&mut open(&vfs.restart()), 0, 6));
}

#[test]
fn a_failed_checkpoint_lets_it_be_written_in_place_again() {
    let mut store = mixed(&MemVfs::new());
    assert!(!overwrite(&mut store, 4));
    drop(store.begin_checkpoint().unwrap());
    store.abandon_checkpoint();
    let before = store.in_place_bytes();
    put(&mut store, &write(0, 1, 5, 16, &[3, 4]));
    assert!(store.in_place_bytes() > before);
}

#[test]
fn a_disk_without_room_moves_nothing() {
    let vfs = MemVfs::new();
    let mut store = mixed(&vfs);
    store.options = Options { full_percent: 0, ..options() };
    assert!(!overwrite(&mut store, 4));
    checkpoint(&mut store);
    assert!(is_whole(&mut store, 0, 4));
    assert!(!overwrite(&mut store, 5));
}

#[test]
fn a_span_is_what_lies_side_by_side_in_the_journal() {
    let mut store = open(&MemVfs::new());
    for (sequence, block) in [(1, 3), (2, 4), (3, 5), (4, 9), (5, 4)] {
        put(&mut store, &write(0, 1, sequence, block, &[sequence]));
    }
    let overlay = &store.chunks[&(crate::tests::VOLUME, 0)].layer(1).unwrap().overlay;
    assert_eq!(spans(overlay, 1), [(3, 3), (9, 1)]);
    assert_eq!(spans(overlay, 2), [(3, 3)]);
}
