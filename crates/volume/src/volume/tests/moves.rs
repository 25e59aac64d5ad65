//! Replicas that move to another server while the guest works, and whoever dies meanwhile.

use std::collections::BTreeMap;

use yuntai_proto::control::Move;
use yuntai_proto::{Position, CHUNK_BYTES};

use super::bench::{filled, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{CloseReason, ControlAnswer, ControlRequest, GuestData, GuestOp};

const DONE: Option<Result<GuestData, crate::GuestError>> = Some(Ok(GuestData::Done));

fn a_move(chunk: u32, from: u32, to: u32) -> Move {
    Move { chunk, from, to }
}

fn want(bench: &mut Bench, moves: &[Move]) -> ControlAnswer {
    let servers: BTreeMap<u32, String> = (1..=6).map(|id| (id, format!("s{id}"))).collect();
    let asked = bench.control(ControlRequest::Moves { moves: moves.to_vec(), servers });
    bench.controls[&asked].clone().expect("the list is taken")
}

/// Chunk 0 has ten blocks; the guest goes on writing over them.
fn written() -> Bench {
    let mut bench = Bench::open(&[]);
    for n in 0..10u64 {
        bench.write(n * BLOCK as u64, n as u8 + 1, BLOCK);
    }
    bench
}

fn work_on(bench: &mut Bench, turns: u64) {
    for n in 0..turns {
        let write = bench.write(n % 10 * BLOCK as u64, 100 + n as u8, BLOCK);
        assert_eq!(bench.answer(write), DONE, "turn {n}");
        bench.pass_ms(10);
    }
}

fn same(bench: &Bench, chunk: u32, servers: &[u32]) {
    let first = &bench.servers[&servers[0]].chunks[&chunk];
    for server in servers {
        let other = &bench.servers[server].chunks[&chunk];
        assert_eq!((first.position, &first.blocks), (other.position, &other.blocks), "chunk {chunk} at {server}");
        assert!(!other.rebuilding);
    }
}

#[test]
fn a_replica_leaves_a_server_that_is_well_while_writes_go_on() {
    let mut bench = written();
    want(&mut bench, &[a_move(0, 3, 4)]);
    work_on(&mut bench, 50);
    assert_eq!(bench.master.placed, [a_move(0, 3, 4)]);
    assert_eq!(bench.volume.spec().placement, [vec![1, 2, 4], vec![1, 2, 3]]);
    same(&bench, 0, &[1, 2, 4]);
    assert_eq!(bench.servers[&4].pulls, 1);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 7, BLOCK);
    assert_eq!(bench.answer(write), DONE, "it is not waited for any more");
}

#[test]
fn a_replica_of_a_dead_server_is_made_elsewhere_and_the_server_forgotten() {
    let mut bench = written();
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    work_on(&mut bench, 5);
    want(&mut bench, &[a_move(0, 3, 4), a_move(1, 3, 5)]);
    work_on(&mut bench, 50);
    assert_eq!(bench.master.placed.len(), 2);
    assert_eq!(bench.master.heard, ["degrade 3", "moved 2"], "one question for both");
    assert_eq!(bench.volume.spec().placement, [vec![1, 2, 4], vec![1, 2, 5]]);
    assert!(bench.volume.spec().stale.is_empty() && !bench.volume.stats().servers.contains_key(&3));
    same(&bench, 0, &[1, 2, 4]);
    bench.master.stale.clear(); // as the master does with the server's last place
    bench.mode(1, Mode::Down);
    bench.pass_ms(200);
    let write = bench.write(0, 9, BLOCK);
    assert_eq!(bench.answer(write), DONE, "three again: one may go");
}

#[test]
fn an_empty_chunk_moves_without_a_pull_and_without_a_replica() {
    let mut bench = written();
    want(&mut bench, &[a_move(1, 3, 4)]);
    bench.pass_ms(150);
    assert_eq!(bench.master.placed, [a_move(1, 3, 4)]);
    assert!(bench.servers[&4].chunks.is_empty() && bench.servers[&4].pulls == 0);
    let write = bench.write(CHUNK_BYTES, 5, BLOCK);
    assert_eq!(bench.answer(write), DONE);
    same(&bench, 1, &[1, 2, 4]);
    assert!(!bench.servers[&3].chunks.contains_key(&1));
}

#[test]
fn an_old_replica_at_the_new_server_is_not_taken_for_the_chunk() {
    let mut bench = written();
    let position = bench.servers[&1].chunks[&0].position;
    let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(99))].into() };
    bench.servers.get_mut(&4).unwrap().chunks.insert(0, copy);
    want(&mut bench, &[a_move(0, 1, 4)]);
    bench.pass_ms(500);
    assert_eq!(bench.master.placed.len(), 1);
    same(&bench, 0, &[2, 3, 4]);
}

#[test]
fn nobody_waits_for_a_joiner_that_dies_half_way_and_it_is_tried_again() {
    let mut bench = written();
    bench.mode(4, Mode::Silent);
    want(&mut bench, &[a_move(0, 3, 4)]);
    work_on(&mut bench, 5);
    bench.mode(4, Mode::Down);
    work_on(&mut bench, 20);
    assert!(bench.master.heard.is_empty(), "nobody has to be asked: {:?}", bench.master.heard);
    bench.mode(4, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.master.placed.len(), 1);
    same(&bench, 0, &[1, 2, 4]);
}

#[test]
fn a_joiner_that_dies_after_it_counted_and_before_the_master_was_asked_is_let_go_at_once() {
    let mut bench = written();
    want(&mut bench, &[a_move(0, 3, 4)]);
    while bench.servers[&4].chunks.get(&0).is_none_or(|copy| copy.rebuilding) {
        bench.pass_ms(10);
    }
    assert!(bench.master.heard.is_empty(), "it waits for others");
    bench.mode(4, Mode::Down);
    work_on(&mut bench, 20);
    assert!(bench.master.heard.is_empty());
    assert_eq!(bench.volume.spec().placement[0], [1, 2, 3]);
}

#[test]
fn while_the_master_is_asked_both_servers_have_every_write() {
    let mut bench = written();
    bench.master.deaf = true;
    want(&mut bench, &[a_move(0, 3, 4)]);
    work_on(&mut bench, 30);
    assert_eq!(bench.master.heard, ["moved 1"]);
    same(&bench, 0, &[1, 2, 3, 4]);
    bench.mode(4, Mode::Silent);
    let write = bench.write(0, 50, BLOCK);
    bench.pass_ms(5_000);
    assert_eq!(bench.answer(write), None, "the record may name it: it cannot be left out");
    bench.master.deaf = false;
    bench.tell_master();
    bench.pass_ms(2_000);
    assert_eq!(bench.answer(write), DONE);
    assert_eq!(bench.master.heard, ["moved 1", "degrade 4"], "placed, and degraded then");
}

#[test]
fn the_leaver_counts_until_the_move_is_committed() {
    let mut bench = written();
    bench.master.deaf = true;
    want(&mut bench, &[a_move(0, 3, 4)]);
    bench.pass_ms(300);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 50, BLOCK);
    bench.pass_ms(100);
    assert_eq!(bench.answer(write), None, "the record may name the leaver");
    bench.master.deaf = false;
    bench.tell_master();
    assert_eq!(bench.answer(write), DONE);
}

#[test]
fn a_gateway_that_opens_next_finds_everything_whether_the_master_had_committed_or_not() {
    for committed in [false, true] {
        let mut bench = written();
        bench.master.deaf = true;
        want(&mut bench, &[a_move(0, 3, 4)]);
        work_on(&mut bench, 30);
        let write = bench.ask(GuestOp::Write { offset: 0, data: vec![77; BLOCK].into(), fua: true });
        assert_eq!(bench.answer(write), DONE);
        // The others lose what they had not synced, and the one that is in doubt is asked first.
        (1..=4).for_each(|server| bench.servers.get_mut(&server).unwrap().power_cut());
        bench.master.deaf = false;
        let last = if committed { 4 } else { 3 };
        bench.open_elsewhere(|spec| {
            spec.placement[0] = vec![1, 2, last];
            spec.servers.insert(4, "s4".to_owned());
            spec.prefer = vec![last];
        });
        assert!(bench.opened);
        assert_eq!(bench.read(0, BLOCK), vec![77; BLOCK], "committed: {committed}");
        same(&bench, 0, &[1, 2, last]);
    }
}

#[test]
fn what_the_master_did_not_commit_is_no_replica_and_is_tried_again() {
    let mut bench = written();
    bench.master.keeps.insert(0);
    want(&mut bench, &[a_move(0, 3, 4), a_move(1, 3, 4)]);
    bench.pass_ms(500);
    assert_eq!(bench.master.placed, [a_move(1, 3, 4)]);
    bench.mode(4, Mode::Silent);
    let write = bench.write(0, 50, BLOCK);
    assert_eq!(bench.answer(write), DONE, "chunk 0 does not wait for server 4");
    bench.mode(4, Mode::Up);
    bench.master.keeps.clear();
    bench.pass_ms(3_000);
    assert_eq!(bench.master.placed, [a_move(1, 3, 4), a_move(0, 3, 4)]);
}

/// The master that was asked first may have committed the move before it died, and the next one may be busy.
#[test]
fn what_the_master_does_not_decide_now_counts_on_and_is_asked_again() {
    let mut bench = written();
    bench.master.busy = true;
    want(&mut bench, &[a_move(0, 3, 4)]);
    bench.pass_ms(1_000);
    assert!(bench.master.heard.iter().filter(|heard| *heard == "moved 1").count() > 1, "{:?}", bench.master.heard);
    for doubtful in [3, 4] {
        bench.mode(doubtful, Mode::Silent);
        let write = bench.write(0, 50, BLOCK);
        bench.pass_ms(100);
        assert_eq!(bench.answer(write), None, "the record may name server {doubtful}");
        bench.mode(doubtful, Mode::Up);
        bench.pass_ms(3_000);
        assert_eq!(bench.answer(write), DONE);
    }
    bench.master.busy = false;
    bench.pass_ms(3_000);
    assert!(bench.master.placed.contains(&a_move(0, 3, 4)));
}

#[test]
fn an_open_of_the_same_generation_brings_moves_that_were_committed_unheard() {
    let mut bench = written();
    bench.master.deaf = true;
    want(&mut bench, &[a_move(0, 3, 4), a_move(1, 3, 4)]);
    bench.pass_ms(500);
    let mut spec = bench.volume.spec().clone();
    let older = spec.clone();
    spec.placement[0] = vec![1, 2, 4];
    let asked = bench.control(ControlRequest::Reopen(Box::new(spec.clone())));
    assert_eq!(bench.controls[&asked], Ok(ControlAnswer::Reopened));
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 50, BLOCK);
    assert_eq!(bench.answer(write), DONE, "server 3 has left chunk 0");
    bench.mode(3, Mode::Up);
    bench.master.deaf = false;
    bench.tell_master();
    assert_eq!(bench.volume.spec().placement, [vec![1, 2, 4], vec![1, 2, 4]]);
    let asked = bench.control(ControlRequest::Reopen(Box::new(older)));
    assert_eq!(bench.controls[&asked], Ok(ControlAnswer::Reopened), "an older reading changes nothing");
    assert_eq!(bench.volume.spec().placement, [vec![1, 2, 4], vec![1, 2, 4]]);
    spec.placement[0] = vec![1, 2, 6];
    spec.servers.insert(6, "s6".to_owned());
    let asked = bench.control(ControlRequest::Reopen(Box::new(spec)));
    assert!(bench.controls[&asked].is_err(), "nobody moved it to 6");
}

#[test]
fn a_move_that_is_not_wanted_any_more_is_given_up() {
    let mut bench = written();
    bench.mode(4, Mode::Silent);
    want(&mut bench, &[a_move(0, 3, 4)]);
    bench.pass_ms(50);
    assert_eq!(want(&mut bench, &[]), ControlAnswer::Moves { under_way: vec![], refused: vec![] });
    bench.mode(4, Mode::Up);
    bench.pass_ms(500);
    assert!(bench.master.heard.is_empty());
    assert!(!bench.volume.stats().servers.contains_key(&4), "its connection is gone");
    work_on(&mut bench, 3);
}

#[test]
fn moves_that_cannot_be_are_refused_one_by_one() {
    let mut bench = written();
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    let moves = [a_move(0, 1, 3), a_move(0, 5, 4), a_move(7, 1, 4), a_move(0, 2, 1), a_move(0, 3, 4), a_move(1, 2, 9)];
    let ControlAnswer::Moves { under_way, refused } = want(&mut bench, &moves) else { panic!("of another kind") };
    assert_eq!(under_way, [a_move(0, 3, 4)]);
    assert_eq!(refused.len(), 5, "{refused:?}");
}

#[test]
fn many_moves_go_some_at_a_time() {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.size_bytes = 12 * CHUNK_BYTES;
        spec.placement = vec![vec![1, 2, 3]; 12];
    });
    bench.config(|config| config.moves_max = 2);
    bench.pass_ms(50);
    for chunk in 0..12u64 {
        bench.write(chunk * CHUNK_BYTES, chunk as u8 + 1, BLOCK);
    }
    bench.mode(4, Mode::Silent);
    let moves: Vec<Move> = (0..12).map(|chunk| a_move(chunk, 3, 4)).collect();
    let ControlAnswer::Moves { under_way, .. } = want(&mut bench, &moves) else { panic!("of another kind") };
    assert_eq!(under_way.len(), 2);
    bench.mode(4, Mode::Up);
    bench.pass_ms(2_000);
    assert_eq!(bench.master.placed.len(), 12);
    (0..12).for_each(|chunk| same(&bench, chunk, &[1, 2, 4]));
    assert!(!bench.volume.stats().servers.contains_key(&3));
}

#[test]
fn a_joiner_does_not_hold_up_flushes_of_its_servers_other_chunks() {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.placement[1] = vec![2, 3, 4];
        spec.servers.insert(4, "s4".to_owned());
    });
    bench.pass_ms(50);
    bench.write(0, 1, BLOCK);
    bench.write(CHUNK_BYTES, 2, BLOCK);
    bench.servers.get_mut(&4).unwrap().full = true; // its rebuild cannot begin
    want(&mut bench, &[a_move(0, 1, 4)]);
    bench.pass_ms(100);
    let flush = bench.ask(GuestOp::Flush);
    assert_eq!(bench.answer(flush), DONE);
    assert_eq!(bench.servers[&4].durable_block(1, 1, 0), Some(2));
    assert!(bench.master.heard.is_empty(), "it is as good as before: {:?}", bench.master.heard);
    bench.servers.get_mut(&4).unwrap().full = false;
    bench.pass_ms(1_000);
    assert_eq!(bench.master.placed, [a_move(0, 1, 4)]);
    same(&bench, 0, &[2, 3, 4]);
    assert!(!bench.volume.stats().servers.contains_key(&1));
}

#[test]
fn a_server_that_leaves_and_comes_back_is_asked_anew_for_a_flush_that_still_waits() {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.placement[1] = vec![1, 2, 4];
        spec.servers.insert(4, "s4".to_owned());
    });
    bench.pass_ms(50);
    bench.write(0, 1, BLOCK);
    bench.master.deaf = true;
    want(&mut bench, &[a_move(0, 3, 4)]);
    bench.pass_ms(200);
    bench.mode(3, Mode::Silent);
    bench.mode(1, Mode::Silent);
    let flush = bench.ask(GuestOp::Flush);
    bench.master.deaf = false;
    bench.tell_master();
    assert!(!bench.volume.stats().servers.contains_key(&3), "it left with the flush unanswered");
    bench.mode(3, Mode::Up);
    want(&mut bench, &[a_move(1, 4, 3)]);
    bench.pass_ms(300);
    assert_eq!(bench.master.placed, [a_move(0, 3, 4), a_move(1, 4, 3)]);
    assert_eq!(bench.answer(flush), None, "server 1 has not answered");
    bench.pass_ms(3_000);
    assert_eq!(bench.master.heard.last().map(String::as_str), Some("degrade 1"));
    assert_eq!(bench.answer(flush), DONE);
}

#[test]
fn a_joiners_server_that_goes_out_of_sync_takes_its_joins_with_it() {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.placement[1] = vec![2, 3, 4];
        spec.servers.insert(4, "s4".to_owned());
    });
    bench.pass_ms(50);
    bench.write(0, 1, BLOCK);
    bench.servers.get_mut(&4).unwrap().full = true;
    want(&mut bench, &[a_move(0, 1, 4)]);
    bench.mode(4, Mode::Down);
    bench.pass_ms(200);
    assert_eq!(bench.master.stale, [4].into());
    bench.servers.get_mut(&4).unwrap().full = false;
    bench.mode(4, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.master.stale.is_empty());
    assert_eq!(bench.master.placed, [a_move(0, 1, 4)], "back, it is what the master wants still");
}

#[test]
fn a_volume_with_one_survivor_is_brought_back_by_moves() {
    let mut bench = written();
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.mode(2, Mode::Down);
    bench.pass_ms(200);
    let write = bench.write(0, 60, BLOCK);
    bench.pass_ms(2_000);
    assert_eq!(bench.answer(write), None, "one is never enough");
    want(&mut bench, &[a_move(0, 2, 4), a_move(1, 2, 4)]);
    bench.pass_ms(1_000);
    assert_eq!(bench.answer(write), DONE);
    same(&bench, 0, &[1, 4]);
}

#[test]
fn a_joiner_alone_is_no_second_replica_before_it_is_placed() {
    let mut bench = written();
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.mode(2, Mode::Down);
    bench.master.deaf = true;
    want(&mut bench, &[a_move(0, 2, 4), a_move(1, 2, 4)]);
    bench.pass_ms(1_000);
    let write = bench.write(0, 60, BLOCK);
    bench.pass_ms(1_000);
    assert_eq!(bench.answer(write), None);
}

#[test]
fn fenced_in_the_middle_it_ends() {
    let mut bench = written();
    bench.master.fenced = true;
    want(&mut bench, &[a_move(0, 3, 4)]);
    bench.pass_ms(500);
    assert_eq!(bench.closed, Some(CloseReason::Fenced));
    assert!(bench.master.placed.is_empty());
}

#[test]
fn moves_that_come_with_the_open_begin_when_it_serves() {
    let mut bench = Bench::prepared(&[3], |spec| {
        spec.moves = vec![a_move(0, 3, 4), a_move(1, 3, 4)];
        spec.servers.insert(4, "s4".to_owned());
    });
    bench.mode(3, Mode::Down);
    for server in 1..=2u32 {
        let position = Position { generation: 3, sequence: 9 };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(6))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.pass_ms(500);
    assert_eq!(bench.volume.spec().placement, [vec![1, 2, 4], vec![1, 2, 4]]);
    same(&bench, 0, &[1, 2, 4]);
}
