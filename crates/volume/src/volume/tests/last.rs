//! One whole in-sync replica is all that can be reached: nobody is served, and the others are repaired from it.

use std::collections::BTreeMap;

use yuntai_proto::control::Move;
use yuntai_proto::{Position, CHUNK_BYTES};

use super::bench::{filled, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{ControlRequest, GuestData, GuestOp};

const DONE: Option<Result<GuestData, crate::GuestError>> = Some(Ok(GuestData::Done));

fn has(bench: &mut Bench, server: u32, sequence: u64) {
    let position = Position { generation: 3, sequence };
    let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(sequence as u8))].into() };
    bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
}

fn same(bench: &Bench, servers: &[u32]) {
    let first = &bench.servers[&servers[0]].chunks[&0];
    for server in servers {
        let other = &bench.servers[server].chunks[&0];
        assert_eq!((first.position, &first.blocks), (other.position, &other.blocks), "at {server}");
        assert!(!other.rebuilding);
    }
}

/// Server 2 has missed writes, 3 is away and cannot be spared.
fn one_left() -> Bench {
    let mut bench = Bench::new(&[2]);
    has(&mut bench, 1, 9);
    has(&mut bench, 2, 5);
    has(&mut bench, 3, 9);
    bench.mode(3, Mode::Down);
    bench
}

#[test]
fn a_returning_replica_is_repaired_from_the_only_one_and_the_missing_one_spared_then() {
    let mut bench = one_left();
    bench.master.deaf = true;
    bench.pass_ms(3_000);
    assert!(!bench.opened, "the master has not said that 3 cannot be spared");
    bench.master.deaf = false;
    bench.tell_master();
    assert!(bench.opened);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    bench.pass_ms(3_000);
    assert_eq!(bench.bytes(read), Some(vec![9; 4]));
    assert_eq!(bench.master.stale, [3].into());
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 2", "degrade 3"]);
    assert_eq!(bench.servers[&2].pulls, 1, "the chunk without history is not pulled");
    same(&bench, &[1, 2]);
    let write = bench.write(0, 7, BLOCK);
    assert_eq!(bench.answer(write), DONE);
    bench.mode(3, Mode::Up);
    bench.pass_ms(4_000);
    assert!(bench.master.stale.is_empty());
    same(&bench, &[1, 2, 3]);
    assert_eq!(bench.read(0, 4), vec![7; 4]);
}

#[test]
pub(super) fn nobody_is_served_from_one_replica() {
    let mut bench = one_left();
    bench.mode(2, Mode::Down);
    bench.pass_ms(5_000);
    assert!(bench.opened, "it waits, and says so");
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    let write = bench.write(BLOCK as u64, 7, BLOCK);
    bench.pass_ms(60_000);
    assert_eq!((bench.bytes(read), bench.answer(write)), (None, None));
    assert!(bench.volume.stats().waiting.contains("cs-3"), "{}", bench.volume.stats().waiting);
    assert_eq!(bench.servers[&1].chunks[&0].position.sequence, 9, "no write was given out");
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!((bench.bytes(read), bench.answer(write)), (Some(vec![9; 4]), DONE));
}

#[test]
fn with_no_in_sync_server_it_is_not_opened() {
    let mut bench = one_left();
    bench.mode(1, Mode::Down);
    bench.pass_ms(20_000);
    assert!(!bench.opened);
    bench.mode(1, Mode::Up);
    bench.pass_ms(4_000);
    assert_eq!(bench.read(0, 4), vec![9; 4]);
}

/// Whatever the repaired replica is at, the one that comes back has more, which nobody was promised.
#[test]
pub(super) fn a_longer_history_that_comes_back_in_time_is_what_all_go_on_with() {
    for ms in (0..3_000).step_by(100) {
        let mut bench = one_left();
        has(&mut bench, 3, 11);
        let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
        bench.pass_ms(2_100);
        bench.master.deaf = ms % 200 == 0;
        bench.pass_ms(ms);
        let before = bench.bytes(read);
        bench.mode(3, Mode::Up);
        bench.pass_ms(1_000);
        bench.master.deaf = false;
        bench.tell_master();
        bench.pass_ms(10_000);
        let after = bench.bytes(read).expect("it serves");
        assert!(before.is_none_or(|bytes| bytes == after), "after {ms} ms");
        assert_eq!(bench.read(0, 4), after, "what was read stays so");
        assert!(bench.master.stale.is_empty(), "after {ms} ms: {:?}", bench.master.heard);
        same(&bench, &[1, 2, 3]);
    }
}

#[test]
fn the_only_one_dies_while_it_is_pulled_from() {
    let mut bench = one_left();
    bench.mode(2, Mode::Silent);
    bench.pass_ms(3_000);
    bench.mode(1, Mode::Down);
    bench.mode(2, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.master.stale.contains(&2), "it has not got everything: {:?}", bench.master.heard);
    bench.mode(1, Mode::Up);
    bench.pass_ms(10_000);
    assert_eq!(bench.read(0, 4), vec![9; 4]);
    same(&bench, &[1, 2]);
    assert_eq!(bench.master.stale, [3].into());
}

#[test]
fn replicas_move_from_servers_that_are_gone_for_good() {
    let mut bench = one_left();
    bench.mode(2, Mode::Down);
    bench.pass_ms(3_000);
    let (first, second) = ([(0, 2, 4), (1, 2, 4)], [(0, 3, 5), (1, 3, 5)]);
    for wanted in [first, second] {
        let moves = wanted.map(|(chunk, from, to)| Move { chunk, from, to }).to_vec();
        let servers: BTreeMap<u32, String> = (1..=6).map(|id| (id, format!("s{id}"))).collect();
        bench.control(ControlRequest::Moves { moves, servers });
        bench.pass_ms(3_000);
        // The record has no place for who left, so nothing is to be stale there.
        let placed = bench.volume.spec().placement.clone();
        bench.master.stale.retain(|server| placed.iter().flatten().any(|one| one == server));
        bench.pass_ms(3_000);
    }
    assert_eq!(bench.volume.spec().placement, [vec![1, 4, 5], vec![1, 4, 5]], "{:?}", bench.master.heard);
    same(&bench, &[1, 4, 5]);
    assert_eq!(bench.read(0, 4), vec![9; 4]);
    let write = bench.write(CHUNK_BYTES, 7, BLOCK);
    assert_eq!(bench.answer(write), DONE);
}

#[test]
fn a_longer_history_comes_back_while_another_server_joins() {
    for ms in (0..2_000).step_by(50) {
        let mut bench = one_left();
        bench.mode(2, Mode::Down);
        has(&mut bench, 3, 11);
        bench.pass_ms(3_000);
        let servers: BTreeMap<u32, String> = (1..=6).map(|id| (id, format!("s{id}"))).collect();
        bench.master.deaf = ms % 100 == 0;
        bench.control(ControlRequest::Moves { moves: vec![Move { chunk: 0, from: 2, to: 4 }], servers });
        let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
        bench.pass_ms(ms);
        bench.mode(3, Mode::Up);
        bench.pass_ms(1_000);
        bench.master.deaf = false;
        bench.tell_master();
        bench.pass_ms(10_000);
        let after = bench.bytes(read).expect("it serves");
        assert_eq!(bench.read(0, 4), after);
        assert_eq!(bench.volume.spec().placement[0], [1, 4, 3], "after {ms} ms: {:?}", bench.master.heard);
        same(&bench, &[1, 3, 4]);
        let write = bench.write(0, 7, BLOCK);
        assert_eq!(bench.answer(write), DONE);
        same(&bench, &[1, 3, 4]);
    }
}
