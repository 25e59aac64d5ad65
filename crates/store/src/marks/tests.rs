use super::*;
use crate::tests::options;
use crate::vfs::memory::MemVfs;
use crate::{Options, Store};

fn strict() -> Options {
    Options { admitted: false, ..options() }
}

#[test]
fn a_new_store_waits_to_be_admitted_and_remembers_it() {
    let vfs = MemVfs::new();
    let mut store = Store::open(vfs.clone(), strict()).unwrap();
    assert!(!store.admitted());
    assert!(store.admit("another").is_err());
    let name = store.name();
    store.admit(&name).unwrap();
    store.admit(&name).unwrap();
    drop(store);
    let store = Store::open(vfs.crash(&mut |_| 0), strict()).unwrap();
    assert!(store.admitted());
    assert_eq!(store.name(), name);
}

#[test]
fn a_store_from_before_the_mark_is_admitted_and_a_damaged_mark_is_no_admission() {
    let vfs = MemVfs::new();
    drop(Store::open(vfs.clone(), strict()).unwrap());
    let vfs = vfs.crash(&mut |_| 0);
    vfs.remove(NAME).unwrap();
    vfs.sync_dir("").unwrap();
    let mut store = Store::open(vfs.clone(), strict()).unwrap();
    assert!(store.admitted());
    store.hear_term(3).unwrap();
    drop(store);
    let vfs = vfs.crash(&mut |_| 0);
    assert!(Store::open(vfs.clone(), strict()).unwrap().admitted());
    let vfs = vfs.crash(&mut |_| 0);
    assert!(vfs.flip_bit(NAME, 9, 0));
    assert!(!Store::open(vfs, strict()).unwrap().admitted());
}

#[test]
pub(crate) fn terms_only_grow_over_any_crash() {
    let vfs = MemVfs::new();
    let mut store = Store::open(vfs.clone(), strict()).unwrap();
    store.hear_term(7).unwrap();
    store.hear_term(7).unwrap();
    assert!(store.hear_term(6).is_err());
    drop(store);
    let mut store = Store::open(vfs.crash(&mut |_| 0), strict()).unwrap();
    assert!(store.hear_term(6).is_err());
    store.hear_term(8).unwrap();
}

#[test]
fn a_format_cut_short_at_any_operation_never_gives_an_admitted_store() {
    for at in 0..40 {
        let vfs = MemVfs::new();
        vfs.die_after(at);
        let done = Store::open(vfs.clone(), strict()).is_ok();
        for pick in 0..2 {
            let vfs = vfs.crash(&mut |n| pick * (n - 1));
            assert!(!Store::open(vfs, strict()).unwrap().admitted());
        }
        if done {
            return;
        }
    }
    panic!("formatting never ended");
}
