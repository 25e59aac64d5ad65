use super::*;
use crate::tests::{checkpoint, key, open, put, write, zero, VOLUME};
use crate::vfs::memory::MemVfs;
use yuntai_proto::Position;

fn run(store: &Store<MemVfs>, chunk: u32, search: Search) -> Found {
    let mut job = store.scan(VOLUME, chunk, search).unwrap();
    while !job.step().unwrap() {}
    assert!(store.still_holds(&job.stamp));
    job.found
}

fn question(live: &[u32]) -> Arc<Question> {
    Arc::new(Question::new(&[0, 0, 1, 2], live).unwrap())
}

#[test]
fn journal_and_files_together_are_what_is_there() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 10, &[1, 2, 3]));
    checkpoint(&mut store);
    put(&mut store, &write(3, 2, 2, 11, &[4]));
    put(&mut store, &zero(3, 3, 3, 12, 1));
    let Found::Changes(changed) = run(&store, 3, Search::Changes { question: question(&[]), since: Some(1), node: 3 })
    else {
        panic!("not what was asked");
    };
    let plain: Vec<_> = changed.unwrap().iter().map(|of| (of.block, of.blocks, of.data)).collect();
    assert_eq!(plain, [(11, 1, true), (12, 1, false)]);
    let Found::Account(usage) = run(&store, 3, Search::Account(question(&[1, 3]))) else { panic!("not asked") };
    let of = |layer: u32| usage.iter().find(|of| of.layer == layer).copied().unwrap_or_default();
    assert_eq!((of(1).bytes, of(1).exclusive_bytes, of(1).visible_bytes), (3 * 4096, 2 * 4096, 3 * 4096));
    assert_eq!((of(3).bytes, of(3).exclusive_bytes, of(3).visible_bytes), (0, 4096, 2 * 4096));
    let Found::Owners(owners) = run(&store, 3, Search::Owners(vec![3, 2, 1])) else { panic!("not asked") };
    assert_eq!(owners[9..14], [NOBODY, 1, 2, 3, NOBODY]);
}

#[test]
fn what_was_learnt_before_a_rebuild_does_not_hold_after_it() {
    let mut store = open(&MemVfs::new());
    put(&mut store, &write(3, 1, 1, 10, &[1]));
    let stamp = store.scan(VOLUME, 3, Search::Free(question(&[]))).unwrap().stamp;
    let position = Position { generation: 1, sequence: 1 };
    store.begin_rebuild(VOLUME, 3, position).unwrap();
    store.commit().unwrap();
    assert!(store.scan(VOLUME, 3, Search::Free(question(&[]))).is_none());
    store.end_rebuild(VOLUME, 3, position).unwrap();
    store.commit().unwrap();
    assert!(!store.still_holds(&stamp));
    assert!(store.remove_blocks(&stamp, 1, (10, 1)).is_err());
}

#[test]
fn a_damaged_group_is_there_and_not_known() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(3, 1, 1, 10, &[1]));
    checkpoint(&mut store);
    assert!(vfs.flip_bit(&key(3, 1).entries_path(), 10 * 24, 0));
    let search = Search::Changes { question: question(&[]), since: None, node: 3 };
    assert!(matches!(run(&store, 3, search), Found::Changes(Err(0))));
}
