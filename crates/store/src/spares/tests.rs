use super::AGE_MAX;
use crate::tests::{checkpoint, key, open, options, put, read, write};
use crate::vfs::memory::MemVfs;
use crate::vfs::{Vfs, VfsFile};
use crate::{LayerKey, Options, Store};

const BLOCKS: u16 = 512;
const BYTES: u64 = BLOCKS as u64 * 4096;

fn keeping(vfs: &MemVfs, spare_layers_max: usize) -> Store<MemVfs> {
    Store::open(vfs.clone(), Options { spare_layers_max, ..options() }).unwrap()
}

pub(crate) fn tags_of(sequence: u64) -> Vec<u64> {
    (0..u64::from(BLOCKS)).map(|block| sequence * 10_000 + block).collect()
}

/// One large write, taken up by a checkpoint.
fn overwrite(store: &mut Store<MemVfs>, chunk: u32, sequence: u64) {
    put(store, &write(chunk, 1, sequence, 0, &tags_of(sequence)));
    checkpoint(store);
}

fn taken(vfs: &MemVfs, key: &LayerKey) -> u64 {
    vfs.open(&key.data_path()).unwrap().allocated_bytes().unwrap()
}

fn age(store: &mut Store<MemVfs>) {
    (0..AGE_MAX).for_each(|_| store.age_spares());
}

pub(crate) fn is_whole(store: &mut Store<MemVfs>, chunk: u32, sequence: u64) -> bool {
    let wanted: Vec<Option<u64>> = tags_of(sequence).into_iter().map(Some).collect();
    read(store, chunk, 0, BLOCKS).is_ok_and(|found| found == wanted)
}

/// Also the mutants' test.
pub(crate) fn room_is_kept_while_a_layer_is_written_and_then_given_back() {
    let vfs = MemVfs::new();
    let mut store = keeping(&vfs, 4);
    for sequence in 1..=3 {
        overwrite(&mut store, 0, sequence);
    }
    assert!(!store.has_spares_due());
    assert_eq!(taken(&vfs, &key(0, 1)), 2 * BYTES);
    age(&mut store);
    assert!(store.has_spares_due());
    checkpoint(&mut store);
    assert!(!store.has_spares_due());
    assert_eq!(taken(&vfs, &key(0, 1)), BYTES);
    assert!(is_whole(&mut store, 0, 3), "what is in use is not what was kept");
    assert!(store.usage().used_bytes < 2 * BYTES);
}

#[test]
fn kept_and_given_back() {
    room_is_kept_while_a_layer_is_written_and_then_given_back();
}

#[test]
fn the_layer_that_was_not_written_for_longest_gives_first() {
    let vfs = MemVfs::new();
    let mut store = keeping(&vfs, 2);
    for chunk in 0..3 {
        store.age_spares();
        overwrite(&mut store, chunk, 1);
        overwrite(&mut store, chunk, 2);
    }
    checkpoint(&mut store);
    assert_eq!([0, 1, 2].map(|chunk| taken(&vfs, &key(chunk, 1)) / BYTES), [1, 2, 2]);
}

#[test]
fn a_disk_with_little_room_left_keeps_none() {
    let vfs = MemVfs::new();
    vfs.set_capacity(Some(64 << 20));
    let mut store = keeping(&vfs, 4);
    overwrite(&mut store, 0, 1);
    overwrite(&mut store, 0, 2);
    assert!(!store.has_spares_due());
    assert_eq!(taken(&vfs, &key(0, 1)), BYTES);
    assert!(is_whole(&mut store, 0, 2));
}

#[test]
fn nothing_is_written_in_place_where_room_is_being_given_back() {
    let vfs = MemVfs::new();
    let mut store = keeping(&vfs, 4);
    overwrite(&mut store, 0, 1);
    overwrite(&mut store, 0, 2);
    age(&mut store);
    let mut job = store.begin_checkpoint().unwrap();
    put(&mut store, &write(0, 1, 3, 0, &tags_of(3)));
    assert_eq!(store.in_place_bytes(), 0);
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
    assert!(is_whole(&mut store, 0, 3));
    overwrite(&mut store, 0, 4);
    assert_eq!(taken(&vfs, &key(0, 1)), 2 * BYTES, "the checkpoint is over, so it is written in place again");
    assert!(is_whole(&mut store, 0, 4));
}

#[test]
fn a_failed_checkpoint_gives_nothing_back_and_the_next_does() {
    let vfs = MemVfs::new();
    let mut store = keeping(&vfs, 4);
    overwrite(&mut store, 0, 1);
    overwrite(&mut store, 0, 2);
    store.keep_no_spares();
    drop(store.begin_checkpoint().unwrap());
    store.abandon_checkpoint();
    assert!(store.has_spares_due());
    put(&mut store, &write(0, 1, 3, 0, &tags_of(3)));
    assert_eq!(store.in_place_bytes(), BYTES);
    checkpoint(&mut store);
    assert_eq!(taken(&vfs, &key(0, 1)), BYTES);
    assert!(is_whole(&mut store, 0, 3));
}

#[test]
fn what_a_crash_left_is_found_by_the_scrubber() {
    let vfs = MemVfs::new();
    let mut store = keeping(&vfs, 4);
    overwrite(&mut store, 0, 1);
    overwrite(&mut store, 0, 2);
    drop(store);
    let mut store = open(&vfs.restart());
    assert!(!store.has_spares_due());
    let mut at = Some(0);
    let mut found = false;
    while let Some(block) = at {
        let mut job = store.scrub_job(key(0, 1), block);
        job.run().unwrap();
        found |= job.takes_too_much;
        at = job.next;
    }
    assert!(found);
    store.note_spare(key(0, 1));
    store.keep_no_spares();
    checkpoint(&mut store);
    assert!(is_whole(&mut store, 0, 2));
    let mut job = store.scrub_job(key(0, 1), BLOCKS);
    job.run().unwrap();
    assert!(!job.takes_too_much);
}
