//! Blocks that are damaged wherever they should be.

use yuntai_proto::control::Move;
use yuntai_proto::Position;

use super::bench::{filled, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{ControlRequest, GuestData, GuestError, GuestOp};

const DONE: Option<Result<GuestData, GuestError>> = Some(Ok(GuestData::Done));
const LOST: Option<Result<GuestData, GuestError>> = Some(Err(GuestError::Lost));

fn read_of(bench: &mut Bench, block: u64) -> u64 {
    bench.ask(GuestOp::Read { offset: block * BLOCK as u64, len: BLOCK as u32 })
}

/// Server 2 missed what blocks 0 and 1 are now; block 0 is damaged at the two that have it.
fn both_damaged() -> Bench {
    let mut bench = Bench::open(&[]);
    for block in 0..4u64 {
        bench.write(block * BLOCK as u64, 10 + block as u8, BLOCK);
    }
    bench.mode(2, Mode::Down);
    bench.pass_ms(200);
    bench.write(0, 20, BLOCK);
    bench.write(BLOCK as u64, 21, BLOCK);
    for server in [1, 3] {
        bench.servers.get_mut(&server).unwrap().damaged.insert((0, 0));
    }
    bench
}

#[test]
pub(super) fn a_block_that_nobody_has_is_lost_and_the_rest_goes_on() {
    let mut bench = both_damaged();
    bench.mode(2, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.master.stale.is_empty(), "{:?}", bench.master.heard);
    let copy = &bench.servers[&2];
    assert_eq!((copy.block(0, 1, 1), copy.damaged.contains(&(0, 0))), (Some(21), true));
    let (lost, all) = (read_of(&mut bench, 0), bench.ask(GuestOp::Read { offset: 0, len: 4 * BLOCK as u32 }));
    bench.pass_ms(1_000);
    assert_eq!((bench.answer(lost), bench.answer(all)), (LOST, LOST));
    assert_eq!(bench.read(BLOCK as u64, BLOCK), vec![21; BLOCK]);
    let part = bench.write(7, 1, 3);
    bench.pass_ms(1_000);
    assert_eq!(bench.answer(part), LOST, "what is around it is not known");
    let whole = bench.write(0, 5, BLOCK);
    assert_eq!(bench.answer(whole), DONE);
    let part = bench.write(7, 1, 3);
    assert_eq!(bench.answer(part), DONE);
    assert_eq!(bench.read(0, 7), vec![5; 7]);
    assert!(bench.servers.values().all(|server| server.damaged.is_empty()));
    assert_eq!(bench.volume.stats().counters.lost_requests, 3);
}

#[test]
fn while_somebody_may_still_bring_it_its_reader_waits() {
    let mut bench = both_damaged();
    bench.config(|config| config.rebuild_busy_bytes_per_s = 0);
    bench.config(|config| config.rebuild_bytes_per_s = 0);
    bench.mode(2, Mode::Up);
    let read = read_of(&mut bench, 0);
    bench.pass_ms(10_000);
    assert_eq!(bench.answer(read), None, "server 2 is there and was not asked");
    bench.servers.get_mut(&3).unwrap().damaged.clear();
    bench.pass_ms(1_000);
    assert_eq!(bench.bytes(read), Some(vec![20; BLOCK]));
}

#[test]
fn while_one_that_may_have_it_is_away_its_reader_waits_and_a_new_disk_there_ends_it() {
    let mut bench = both_damaged();
    let read = read_of(&mut bench, 0);
    bench.pass_ms(300_000);
    assert_eq!(bench.answer(read), None, "it may come back");
    let server = bench.servers.get_mut(&2).unwrap();
    (server.chunks, server.durable) = Default::default();
    bench.mode(2, Mode::Up);
    bench.pass_ms(10_000);
    assert_eq!(bench.answer(read), LOST);
    assert_eq!(bench.read(BLOCK as u64, BLOCK), vec![21; BLOCK]);
}

#[test]
fn nobody_takes_over_from_one_that_may_bring_it_back() {
    let mut bench = both_damaged();
    for server in [1, 3] {
        let server = bench.servers.get_mut(&server).unwrap();
        server.damaged = [(0, 2)].into(); // not written since server 2 left: it has it
    }
    let servers = (1..=4).map(|id| (id, format!("s{id}"))).collect();
    bench.control(ControlRequest::Moves { moves: vec![Move { chunk: 0, from: 2, to: 4 }], servers });
    bench.pass_ms(120_000);
    assert!(bench.master.placed.is_empty(), "server 2 may bring block 2 back");
    assert!(bench.servers[&4].pulls > 1 && bench.servers[&4].damaged.is_empty(), "nothing is given up meanwhile");
    bench.mode(2, Mode::Up);
    bench.pass_ms(20_000);
    assert_eq!(bench.read(2 * BLOCK as u64, BLOCK), vec![12; BLOCK]);
    assert_eq!((bench.master.placed.len(), bench.servers[&4].damaged.len()), (1, 0));
}

#[test]
fn who_was_asked_by_a_heal_before_is_asked_again_by_a_rebuild() {
    let mut bench = both_damaged();
    bench.servers.get_mut(&1).unwrap().damaged.clear();
    bench.volume.heals.in_vain.insert((0, 2), [1].into());
    bench.mode(2, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.master.stale.is_empty(), "{:?}", bench.master.heard);
    assert_eq!(bench.servers[&2].block(0, 1, 0), Some(20));
    assert!(!bench.servers[&2].damaged.contains(&(0, 0)), "server 1 has it");
}

/// The master tells that the operator has declared server 2 lost.
fn give_up(bench: &mut Bench) {
    let mut spec = bench.volume.spec().clone();
    (spec.stale, spec.given_up) = (vec![2], vec![2]);
    bench.control(ControlRequest::Reopen(Box::new(spec)));
}

/// Server 2 is away and has block 2, which has rotted at both others.
fn one_away_has_it() -> Bench {
    let mut bench = both_damaged();
    for server in [1, 3] {
        bench.servers.get_mut(&server).unwrap().damaged = [(0, 2)].into();
    }
    bench
}

#[test]
fn nobody_waits_for_one_that_was_given_up_and_it_is_heard_if_it_comes_back() {
    let mut bench = one_away_has_it();
    let read = read_of(&mut bench, 2);
    bench.pass_ms(60_000);
    assert_eq!(bench.answer(read), None, "it may come back");
    give_up(&mut bench);
    bench.pass_ms(1_000);
    assert_eq!(bench.answer(read), LOST);
    assert_eq!(bench.read(BLOCK as u64, BLOCK), vec![21; BLOCK], "only that block is lost");
    bench.mode(2, Mode::Up);
    bench.pass_ms(10_000);
    assert_eq!(bench.read(2 * BLOCK as u64, BLOCK), vec![12; BLOCK], "it had it after all");
    bench.mode(2, Mode::Down);
    let read = read_of(&mut bench, 2);
    bench.pass_ms(60_000);
    assert_eq!(bench.answer(read), None, "it is waited for like any other now");
    bench.mode(2, Mode::Up);
    bench.pass_ms(10_000);
    for server in [1, 3] {
        bench.control(ControlRequest::Heal { server, chunks: vec![0] });
    }
    bench.pass_ms(10_000);
    bench.mode(2, Mode::Down);
    bench.pass_ms(10_000);
    assert_eq!(bench.read(2 * BLOCK as u64, BLOCK), vec![12; BLOCK], "the others have it from there");
}

#[test]
fn its_place_is_taken_without_what_only_it_had() {
    let mut bench = one_away_has_it();
    let servers = (1..=4).map(|id| (id, format!("s{id}"))).collect();
    bench.control(ControlRequest::Moves { moves: vec![Move { chunk: 0, from: 2, to: 4 }], servers });
    bench.pass_ms(60_000);
    assert!(bench.master.placed.is_empty(), "server 2 may bring block 2 back");
    give_up(&mut bench);
    bench.pass_ms(20_000);
    assert_eq!(bench.master.placed.len(), 1, "{:?}", bench.master.heard);
    assert_eq!(bench.servers[&4].damaged, [(0, 2)].into(), "that block is lost, and no other");
    let read = read_of(&mut bench, 2);
    bench.pass_ms(1_000);
    assert_eq!(bench.answer(read), LOST);
    assert_eq!(bench.read(0, 2 * BLOCK), [vec![20; BLOCK], vec![21; BLOCK]].concat());
}

#[test]
fn one_that_counts_is_waited_for_though_it_was_given_up() {
    let mut bench = one_damaged();
    bench.mode(2, Mode::Down);
    let mut spec = bench.volume.spec().clone();
    spec.given_up = vec![3];
    bench.control(ControlRequest::Reopen(Box::new(spec)));
    let read = read_of(&mut bench, 0);
    bench.pass_ms(60_000);
    assert_eq!(bench.answer(read), None, "the master has not taken it out of the in-sync set");
}

/// Server 1 is all that can be reached of those that count, and its block is damaged.
fn one_damaged() -> Bench {
    let mut bench = Bench::new(&[2]);
    for (server, sequence) in [(1, 9), (2, 5), (3, 9)] {
        let position = Position { generation: 3, sequence };
        let blocks = [((1, 0), filled(sequence as u8)), ((1, 1), filled(30 + sequence as u8))].into();
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, ChunkCopy { position, rebuilding: false, blocks });
    }
    bench.servers.get_mut(&1).unwrap().damaged.insert((0, 0));
    bench.mode(3, Mode::Down);
    bench
}

#[test]
fn one_that_comes_back_brings_it_however_late() {
    let mut bench = one_damaged();
    bench.pass_ms(300_000);
    assert_eq!(bench.master.stale, [2].into(), "the one that is away may have it: {:?}", bench.master.heard);
    assert!(!bench.servers[&2].damaged.contains(&(0, 0)));
    bench.mode(3, Mode::Up);
    bench.pass_ms(10_000);
    assert!(bench.master.stale.is_empty(), "{:?}", bench.master.heard);
    assert_eq!(bench.read(0, BLOCK), vec![9; BLOCK]);
    assert_eq!(bench.servers[&2].block(0, 1, 0), Some(9));
    assert!(!bench.servers[&2].damaged.contains(&(0, 0)));
}

#[test]
fn an_older_server_goes_on_refusing_and_is_asked_now_and_then() {
    let mut bench = both_damaged();
    bench.servers.get_mut(&2).unwrap().old = true;
    bench.mode(2, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.master.stale, [2].into());
    let pulls = bench.servers[&2].pulls;
    assert!((3..60).contains(&pulls), "{pulls}");
}
