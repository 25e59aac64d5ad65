use super::*;
use crate::tests::{checkpoint, key, open, put, tags, write, VOLUME};
use crate::vfs::memory::MemVfs;
use crate::Found;

fn deep(layers: u32) -> (Store<MemVfs>, LayerTree) {
    let mut store = open(&MemVfs::new());
    for layer in 1..layers {
        put(&mut store, &write(3, layer, u64::from(layer), (layer % 40) as u16, &[u64::from(layer)]));
    }
    checkpoint(&mut store);
    (store, crate::tests::line(layers))
}

fn make(store: &mut Store<MemVfs>, mut job: ScanJob<MemVfs>, head: &LayerKey) {
    while !job.step().unwrap() {}
    let Found::Owners(owners) = job.found else { panic!("not a map") };
    store.end_owners(head, &owners);
}

#[test]
fn a_map_made_beside_reads_and_writes_says_what_a_walk_says() {
    let (mut store, tree) = deep(300);
    let head = key(3, 299);
    assert!(store.wants_owners(&head, &tree));
    let job = store.scan_owners(&head, &tree).unwrap();
    // Written while it is made: by the head itself, and by a fill of the root.
    put(&mut store, &write(3, 299, 300, 7, &[7777]));
    put(&mut store, &crate::tests::fill(3, 301, 39, &[Some(1), Some(2), Some(3)]));
    make(&mut store, job, &head);
    assert!(!store.wants_owners(&head, &tree));
    let found = tags(&store.read(head, &tree, 0, 43).unwrap());
    let mut due: Vec<Option<u64>> = (0..40).map(|at| (260..300).find(|layer| layer % 40 == at)).collect();
    due[7] = Some(7777);
    due.extend([Some(2), Some(3), None]);
    assert_eq!(found, due);
}

#[test]
fn a_map_that_became_doubtful_is_not_used() {
    let (mut store, tree) = deep(100);
    let head = key(3, 99);
    let job = store.scan_owners(&head, &tree).unwrap();
    // An ancestor's block came meanwhile.
    put(&mut store, &write(3, 98, 100, 39, &[5]));
    make(&mut store, job, &head);
    assert!(store.wants_owners(&head, &tree));
    assert_eq!(tags(&store.read(head, &tree, 39, 1).unwrap()), [Some(5)]);
    assert!(!store.wants_owners(&key(4, 99), &tree), "there is nothing of that chunk");
    assert!(store.scan(VOLUME, 4, Search::Owners(Vec::new())).is_none());
}
