use super::*;
use crate::tests::{checkpoint, key, open, put, read, write, zero, VOLUME};
use crate::vfs::memory::MemVfs;

/// Go over everything; the damaged blocks.
fn scrub(store: &mut Store<MemVfs>) -> Vec<(LayerKey, u16)> {
    let mut damaged = Vec::new();
    let mut at = store.layer_from(LayerKey { volume: 0, chunk: 0, layer: 0 });
    while let Some(key) = at {
        let mut block = Some(0);
        while let Some(from) = block {
            let mut job = store.scrub_job(key, from);
            job.run().unwrap();
            damaged.extend(job.suspects.iter().filter(|at| store.confirm_damage(&key, **at)).map(|at| (key, *at)));
            assert!(job.next.is_none_or(|next| next > from), "it goes on");
            block = job.next;
        }
        at = store.layer_from(LayerKey { layer: key.layer + 1, ..key });
    }
    damaged
}

fn filled() -> (MemVfs, Store<MemVfs>) {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    let tags: Vec<u64> = (1..=900).collect();
    put(&mut store, &write(3, 1, 1, 100, &tags));
    put(&mut store, &zero(3, 1, 2, 5000, 40));
    put(&mut store, &write(3, 2, 3, 100, &[77]));
    put(&mut store, &write(8, 1, 1, 16383, &[5]));
    checkpoint(&mut store);
    (vfs, store)
}

#[test]
fn a_whole_disk_is_found_whole() {
    let (_, mut store) = filled();
    assert!(scrub(&mut store).is_empty());
    // Also while the journal has newer than the files.
    put(&mut store, &write(3, 1, 4, 100, &[1, 2, 3]));
    assert!(scrub(&mut store).is_empty());
    assert!(store.chunk_states(VOLUME).iter().all(|state| !state.damaged));
}

#[test]
fn rotten_bytes_and_rotten_entries_are_found_and_noted() {
    let (vfs, mut store) = filled();
    let (data, entries) = (key(3, 1).data_path(), key(8, 1).entries_path());
    // The large write went to the second half.
    let at = crate::groups::Half::Second.offset(444);
    assert!(vfs.flip_bit(&data, at + 17, 3));
    let group = crate::groups::place_of(16383).0 * crate::groups::GROUP_BYTES;
    assert!(vfs.flip_bit(&entries, group as u64, 1));
    let found = scrub(&mut store);
    assert!(found.contains(&(key(3, 1), 444)) && found.contains(&(key(8, 1), 16383)), "{found:?}");
    assert!(found.iter().all(|(of, block)| (of.chunk, *block) == (3, 444) || of.chunk == 8));
    assert!(store.chunk_states(VOLUME).iter().all(|state| state.damaged));
    let blocks: Vec<(u32, u32)> = store.damaged(10).iter().map(|of| (of.chunk, of.blocks)).collect();
    assert_eq!((blocks.len(), blocks[0]), (2, (3, 1)));
    // Writing over it is one way of healing.
    put(&mut store, &write(3, 1, 4, 444, &[9]));
    assert!(!store.chunk_state(VOLUME, 3).unwrap().damaged);
    assert_eq!(store.damaged(10).len(), 1);
    assert!(read(&mut store, 3, 444, 1).is_ok());
}

#[test]
fn the_mark_outlives_a_restart_and_a_broken_one_begins_anew() {
    let (vfs, mut store) = filled();
    let mark = ScrubMark { next_due_s: 5, ended_s: 4, at: Some(key(3, 2)) };
    let mut job = store.set_scrub_mark(mark);
    assert!(job.is_mark());
    job.run().unwrap();
    drop(store);
    let vfs = vfs.crash(&mut |_| 0);
    let store = open(&vfs);
    assert_eq!(store.scrub_mark(), mark);
    let (before, all) = store.scrub_progress(key(8, 1));
    assert!(store.scrub_progress(key(3, 1)).0 == 0 && before > 0 && before < all);
    drop(store);
    let vfs = vfs.crash(&mut |_| 0);
    assert!(vfs.flip_bit(NAME, 20, 1));
    assert_eq!(open(&vfs).scrub_mark(), ScrubMark::default());
}
