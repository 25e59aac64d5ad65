use super::*;
use crate::vfs::{Vfs, VfsFile};
use std::io::IoSlice;

/// What the caller did, and what it was told before the power went.
#[derive(Default)]
struct Told {
    appended: u64,
    synced: u64,
    fence: u64,
    /// By sequence from 1: first block, blocks, tag (0: zeros).
    history: Vec<(u16, u16, u64)>,
}

const BLOCKS: u16 = 24;

/// Writes of all widths (the wider go in place), with syncs, checkpoints and fences in between, until the disk dies.
fn run_until_death(vfs: &MemVfs, told: &mut Told, random: &mut Random) -> Option<()> {
    let mut store = Store::open(vfs.clone(), options()).ok()?;
    for round in 0..40 {
        for _ in 0..=random.below(3) {
            let sequence = told.history.len() as u64 + 1;
            let block = random.below(BLOCKS as usize) as u16;
            let blocks = (1 + random.below(6) as u16).min(BLOCKS - block);
            let tag = if random.below(6) == 0 { 0 } else { sequence };
            told.history.push((block, blocks, tag));
            let mutation = match tag {
                0 => zero(0, 1, sequence, block, blocks),
                _ => write(0, 1, sequence, block, &vec![tag; blocks as usize]),
            };
            store.stage(&mutation).ok()?;
        }
        store.commit().ok()?;
        told.appended = store.chunk_state(VOLUME, 0)?.position.sequence;
        if random.below(3) == 0 {
            let ticket = store.sync_ticket();
            ticket.as_ref().map_or(Ok(()), |ticket| ticket.run()).ok()?;
            ticket.iter().for_each(|ticket| store.synced(ticket));
            told.synced = told.appended;
        }
        if random.below(8) == 0 {
            store.raise_fence(VOLUME, told.fence + 1, 7).ok()?;
            told.fence += 1;
        }
        if random.below(5) == 0 || round == 20 {
            let mut job = store.begin_checkpoint()?;
            let target = told.appended;
            let gives_up = random.below(4) == 0;
            let mut steps = 0;
            while !job.step().ok()? {
                steps += 1;
                if gives_up && steps == 3 {
                    break;
                }
                // Life goes on meanwhile.
                let sequence = told.history.len() as u64 + 1;
                let block = random.below(BLOCKS as usize - 3) as u16;
                told.history.push((block, 3, sequence));
                store.stage(&write(0, 1, sequence, block, &[sequence; 3])).ok()?;
                store.commit().ok()?;
                told.appended = sequence;
            }
            if gives_up {
                store.abandon_checkpoint();
            } else {
                store.end_checkpoint(job);
                told.synced = target;
            }
        }
    }
    Some(())
}

/// The surviving history must be a prefix that holds everything synced, and every block must be what that prefix says.
fn check_survivor(vfs: &MemVfs, told: &Told, label: &str) -> u64 {
    let mut store = Store::open(vfs.clone(), options()).unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(!store.lost_durable(), "{label}: a plain crash is not damage");
    let last = store.chunk_state(VOLUME, 0).map_or(0, |state| state.position.sequence);
    assert!(last >= told.synced, "{label}: synced {} but only {last} survived", told.synced);
    assert!(store.fence(VOLUME).generation >= told.fence, "{label}: the fence went back");
    let mut expected = vec![None; BLOCKS as usize];
    for (block, blocks, tag) in &told.history[..last as usize] {
        expected[*block as usize..(block + blocks) as usize].fill(Some(*tag));
    }
    for _ in 0..2 {
        let got = read(&mut store, 0, 0, BLOCKS).unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(got, expected, "{label}");
        checkpoint(&mut store);
    }
    last
}

/// The power goes at every operation in turn; then once more during the recovery.
#[test]
pub(super) fn the_survivor_is_a_prefix_with_everything_synced() {
    let mut deaths = 0;
    for seed in 0..16 {
        for at in (0..900).step_by(4 + seed as usize % 3) {
            let label = format!("seed {seed} death {at}");
            let mut random = Random::new(seed * 1000 + at);
            let vfs = MemVfs::new();
            drop(open(&vfs));
            let vfs = vfs.restart();
            vfs.die_after(vfs.operations() + at);
            let mut told = Told::default();
            let ended = run_until_death(&vfs, &mut told, &mut Random::new(seed)).is_some();
            deaths += usize::from(!ended);
            let vfs = vfs.crash(&mut |n| random.below(n));
            // The recovery dies too, somewhere.
            vfs.die_after(vfs.operations() + at % 17);
            let survivor = Store::open(vfs.clone(), options()).ok().and_then(|store| store.chunk_state(VOLUME, 0));
            let seen = survivor.map(|state| state.position.sequence);
            let vfs = vfs.crash(&mut |n| random.below(n));
            let last = check_survivor(&vfs, &told, &label);
            assert!(seen.is_none_or(|seen| last >= seen), "{label}: a start saw {seen:?}, the next only {last}");
            if ended {
                break;
            }
        }
    }
    assert!(deaths > 800, "only {deaths} deaths: the test does not test");
}

fn journal_tail(vfs: &MemVfs) -> (String, u64) {
    vfs.files().into_iter().rfind(|(path, len)| path.starts_with("journal/") && *len > 64).unwrap()
}

#[test]
fn a_tail_torn_at_every_byte_is_cut_and_not_built_upon() {
    let lengths = {
        let vfs = MemVfs::new();
        let mut store = open(&vfs);
        put(&mut store, &write(0, 1, 1, 0, &[1]));
        put(&mut store, &write(0, 1, 2, 1, &[2]));
        journal_tail(&vfs).1
    };
    let one = (lengths - 64) / 2;
    for cut in (0..=lengths).rev().step_by(13).chain(lengths - 100..lengths).chain(60..160) {
        let vfs = MemVfs::new();
        let mut store = open(&vfs);
        put(&mut store, &write(0, 1, 1, 0, &[1]));
        put(&mut store, &write(0, 1, 2, 1, &[2]));
        let (path, _) = journal_tail(&vfs);
        vfs.open(&path).unwrap().set_len(cut).unwrap();
        let vfs = vfs.restart();
        let mut store = open(&vfs);
        let whole = if cut < 64 { 0 } else { (cut - 64) / one };
        assert!(!store.lost_durable());
        assert_eq!(store.chunk_states(VOLUME).first().map_or(0, |s| s.position.sequence), whole, "cut {cut}");
        put(&mut store, &write(0, 1, whole + 1, 5, &[55]));
        let mut store = open(&vfs.restart());
        assert_eq!(read(&mut store, 0, 5, 1).unwrap(), vec![Some(55)], "cut {cut}");
    }
}

#[test]
fn durable_records_that_vanish_make_every_chunk_wait_for_a_rebuild() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    for sequence in 1..5 {
        put(&mut store, &write(0, 1, sequence, sequence as u16, &[sequence]));
        sync(&mut store);
    }
    let (path, _) = journal_tail(&vfs);
    // The second record's data rots; the fourth says that it had been durable.
    assert!(vfs.flip_bit(&path, 64 + 4180 + 300, 1));
    let vfs = vfs.restart();
    let store = open(&vfs);
    assert!(store.lost_durable());
    assert!(store.chunk_states(VOLUME).iter().all(|state| state.rebuilding));
    drop(store);
    let store = open(&vfs.crash(&mut |_| 0));
    assert!(store.chunk_states(VOLUME).iter().all(|state| state.rebuilding), "the mark must be durable");
}

#[test]
fn a_stale_batch_of_a_failed_append_is_never_replayed_after_newer_records() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    // Both records reach the disk, but the write is reported as failed.
    let (path, end) = journal_tail(&vfs);
    store.stage(&write(0, 1, 2, 0, &[2])).unwrap();
    store.stage(&write(0, 1, 3, 0, &[3])).unwrap();
    vfs.fail_at(vfs.operations() + 1, std::io::ErrorKind::Other);
    store.commit().unwrap_err();
    let mut other = open(&MemVfs::new());
    put(&mut other, &write(0, 1, 1, 0, &[1]));
    put(&mut other, &write(0, 1, 2, 0, &[2]));
    put(&mut other, &write(0, 1, 3, 0, &[3]));
    let (_, other_end) = journal_tail(&other.vfs);
    let mut bytes = vec![0; (other_end - end) as usize];
    other.vfs.open(&path).unwrap().read_at(&mut bytes, end).unwrap();
    vfs.open(&path).unwrap().write_at(&mut [IoSlice::new(&bytes)], end).unwrap();
    put(&mut store, &write(0, 1, 2, 0, &[22]));
    sync(&mut store);
    vfs.open(&path).unwrap().write_at(&mut [IoSlice::new(&bytes)], end).unwrap();
    let mut store = open(&vfs.restart());
    assert_eq!(store.chunk_states(VOLUME)[0].position.sequence, 2);
    assert_eq!(read(&mut store, 0, 0, 1).unwrap(), vec![Some(22)]);
}

/// The process dies and the page cache lives: the next start sees records that were never synced. What it has seen and
/// told of must then outlive a power cut.
#[test]
pub(super) fn what_a_start_has_seen_stays() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let vfs = MemVfs::new();
        let mut store = open(&vfs);
        for sequence in 1..=1 + random.below(5) as u64 {
            let blocks = 1 + random.below(4);
            put(&mut store, &write(0, 1, sequence, sequence as u16 * 8, &vec![sequence; blocks]));
        }
        let vfs = vfs.restart();
        let seen = open(&vfs).chunk_states(VOLUME)[0].position;
        let mut store = open(&vfs.crash(&mut |n| random.below(n)));
        assert_eq!(store.chunk_states(VOLUME)[0].position, seen, "seed {seed}");
        let last = seen.sequence;
        assert_eq!(read(&mut store, 0, last as u16 * 8, 1).unwrap(), vec![Some(last)]);
    }
}
