//! A disk without room, and one large enough to count its memory.

use std::io::ErrorKind;
use std::sync::Arc;

use super::*;
use crate::{Found, Question, ScanJob, Search};

const OTHER: u64 = 0x78;

/// Write to the first volume until the disk is full; the last sequence that was taken.
fn fill(store: &mut Store<MemVfs>) -> u64 {
    for sequence in 1.. {
        match store.stage(&write(0, 2, sequence, (sequence % 9000) as u16, &[sequence])) {
            Ok(_) => {}
            Err(Refusal::Busy { .. }) => return sequence - 1,
            Err(refusal) => panic!("{refusal}"),
        }
        match store.commit() {
            Ok(()) => {}
            Err(Refusal::Full) => return sequence - 1,
            Err(refusal) => panic!("{refusal}"),
        }
    }
    0
}

fn try_checkpoint(store: &mut Store<MemVfs>) -> bool {
    let Some(mut job) = store.begin_checkpoint() else { return false };
    loop {
        match job.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                assert!(error.kind() == ErrorKind::StorageFull && !job.failed_in_journal(), "{error}");
                store.abandon_checkpoint();
                return false;
            }
        }
    }
    store.end_checkpoint(job);
    true
}

/// A disk that is full to the last byte; half of it is another volume's, or a dead layer's.
fn full() -> (MemVfs, Store<MemVfs>, u64) {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    let tags: Vec<u64> = (1..=400).collect();
    put(&mut store, &Mutation { volume: OTHER, ..write(0, 1, 1, 0, &tags) });
    put(&mut store, &write(1, 1, 1, 0, &tags));
    put(&mut store, &write(1, 2, 2, 0, &tags));
    checkpoint(&mut store);
    vfs.set_capacity(Some(vfs.used_bytes() + (1 << 20)));
    let last = fill(&mut store);
    assert!(last > 50 && !try_checkpoint(&mut store), "there is no room for what the journal has");
    assert_eq!(
        store.read(key(0, 2), &line(3), last as u16, 1).map(|blocks| super::tags(&blocks)),
        Ok(vec![Some(last)])
    );
    (vfs, store, last)
}

fn goes_on(vfs: &MemVfs, mut store: Store<MemVfs>, last: u64) {
    assert!(try_checkpoint(&mut store));
    put(&mut store, &write(0, 2, last + 1, 0, &[7]));
    sync(&mut store);
    drop(store);
    let mut store = open(&vfs.crash(&mut |n| n - 1));
    for (block, tag) in [(0, 7), (1, 1), (last, last)] {
        assert_eq!(store.read(key(0, 2), &line(3), block as u16, 1).map(|blocks| tags(&blocks)), Ok(vec![Some(tag)]));
    }
}

#[test]
fn a_full_disk_serves_what_it_has_and_goes_on_when_there_is_room() {
    let (vfs, mut store, last) = full();
    assert_eq!(store.stage(&write(0, 2, last + 1, 0, &[7])).and_then(|_| store.commit()), Err(Refusal::Full));
    vfs.set_capacity(None);
    goes_on(&vfs, store, last);
}

#[test]
fn deleting_a_volume_makes_room_on_a_full_disk() {
    let (vfs, mut store, last) = full();
    // A fence is a few bytes in a block that is there already.
    vfs.set_capacity(Some(vfs.used_bytes() + 1024));
    store.delete_volume(OTHER).unwrap();
    goes_on(&vfs, store, last);
}

#[test]
fn a_sweep_makes_room_on_a_full_disk() {
    let (vfs, mut store, last) = full();
    let question = Arc::new(Question::new(&[0, 0, 1], &[2]).unwrap());
    let mut job = store.scan(VOLUME, 1, Search::Free(question)).unwrap();
    while !job.step().unwrap() {}
    let ScanJob { stamp, found: Found::Free(freed), .. } = job else { panic!("not what was asked") };
    // The journal's segments have their room from the beginning; entries are written where there are some.
    vfs.set_capacity(Some(vfs.used_bytes() + (300 << 10)));
    for (first, blocks) in &freed[0].runs {
        store.remove_blocks(&stamp, freed[0].layer, (*first, *blocks)).unwrap();
        store.commit().unwrap();
    }
    vfs.set_capacity(Some(vfs.used_bytes() + (300 << 10)));
    goes_on(&vfs, store, last);
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
#[ignore = "measures the whole process: run it alone, with --ignored --nocapture"]
fn a_tebibyte_of_chunks_takes_little_memory() {
    use crate::table::{Row, Table, NAME};
    use crate::vfs::{replace_file, OsVfs};
    let folder = std::env::temp_dir().join(format!("yuntai-memory-{}", std::process::id()));
    drop(Store::open(OsVfs::new(&folder).unwrap(), options()).unwrap());
    let row = |chunk: u32| Row {
        volume: u64::from(chunk / 1600),
        chunk: chunk % 1600,
        rebuilding: false,
        position: Position { generation: 3, sequence: 1000 },
        layers: (0..8).map(|layer| (layer, 8 << 20)).collect(),
    };
    let table = Table { next_lsn: 1, first_segment: 1, rows: (0..16384).map(row).collect() };
    replace_file(&OsVfs::new(&folder).unwrap(), "", NAME, &table.encode()).unwrap();
    drop(table);
    let before = resident();
    let mut store = Store::open(OsVfs::new(&folder).unwrap(), Options::new(1, [9; 16])).unwrap();
    let opened = resident();
    for chunk in 0..600 {
        let owners = vec![1; yuntai_proto::CHUNK_BLOCKS].into_boxed_slice();
        store.owners.insert(LayerKey { volume: 0, chunk, layer: 7 }, owners);
    }
    let states: usize = store.volumes().iter().map(|volume| store.chunk_states(*volume).len()).sum();
    let after = resident();
    std::fs::remove_dir_all(&folder).unwrap();
    println!("open: {} MB; with every owner map: {} MB", (opened - before) >> 20, (after - before) >> 20);
    assert_eq!(states, 16384);
    assert!(after - before < 150 << 20);
}
