//! Volumes that are shown read-only, while the store works on them as on any other.

use std::collections::BTreeMap;

use yuntai_proto::control::{Move, OpenVolume, Upkeep};
use yuntai_proto::Position;

use super::bench::{filled, source, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{ControlAnswer, ControlRequest, GuestData, GuestError, GuestOp};

/// Layer 1 was frozen and is shown; the head is 2.
fn frozen(spec: &mut OpenVolume) {
    (spec.read_only, spec.parents, spec.head) = (true, vec![0, 0, 1], 1);
    spec.upkeep = Some(Upkeep { token: "w".to_owned(), head: 2, hydrate: false });
}

/// The head is shown.
fn head(spec: &mut OpenVolume) {
    spec.read_only = true;
    spec.upkeep = Some(Upkeep { token: "w".to_owned(), head: 1, hydrate: false });
}

/// Server 2 has missed writes, 3 has what the others have, and perhaps one more that was not acknowledged.
fn prepared(stale: &[u32], third: u64, change: fn(&mut OpenVolume)) -> Bench {
    let mut bench = Bench::prepared(stale, change);
    for (server, sequence) in [(1, 9), (2, 5), (3, third)] {
        let position = Position { generation: 3, sequence };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(sequence as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench
}

#[test]
fn what_is_shown_is_repaired_healed_and_moved_like_any_other() {
    for change in [head, frozen] {
        let mut bench = prepared(&[2], 9, change);
        bench.pass_ms(1_000);
        assert_eq!(bench.master.heard, ["readmit 2"]);
        assert_eq!((bench.servers[&2].pulls, bench.servers[&2].block(0, 1, 0)), (1, Some(9)));
        bench.servers.get_mut(&3).unwrap().damaged.insert((0, 0));
        let asked = bench.control(ControlRequest::Heal { server: 3, chunks: vec![0] });
        bench.pass_ms(200);
        assert_eq!(bench.controls[&asked], Ok(ControlAnswer::Heal { queued: 1 }));
        assert!(bench.servers[&3].damaged.is_empty());
        let servers: BTreeMap<u32, String> = (1..=6).map(|id| (id, format!("s{id}"))).collect();
        let moves = [0, 1].map(|chunk| Move { chunk, from: 1, to: 4 }).to_vec();
        bench.control(ControlRequest::Moves { moves, servers });
        bench.pass_ms(1_000);
        assert_eq!(bench.volume.spec().placement, [vec![4, 2, 3], vec![4, 2, 3]]);
        assert_eq!(bench.servers[&4].block(0, 1, 0), Some(9));
        let write = bench.write(0, 1, BLOCK);
        assert_eq!(bench.answer(write), Some(Err(GuestError::ReadOnly)));
        let flush = bench.ask(GuestOp::Flush);
        assert_eq!(bench.answer(flush), Some(Ok(GuestData::Done)));
        assert_eq!(bench.read(0, 4), vec![9; 4]);
    }
}

#[test]
fn a_frozen_layer_is_read_from_one_replica() {
    let mut bench = prepared(&[2], 9, frozen);
    bench.mode(2, Mode::Down);
    bench.mode(3, Mode::Down);
    bench.pass_ms(3_500);
    assert!(bench.opened);
    assert_eq!(bench.read(0, 4), vec![9; 4]);
    assert_eq!(bench.master.heard[0], "degrade 3", "it does not keep its guest waiting, and still it asks");
    assert!(bench.master.stale == [2].into(), "but two count, as ever");
    bench.mode(1, Mode::Down);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    bench.pass_ms(2_000);
    assert_eq!(bench.bytes(read), None, "from none it waits");
    bench.mode(1, Mode::Up);
    bench.pass_ms(2_000);
    assert_eq!(bench.bytes(read), Some(vec![9; 4]));
    bench.mode(2, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.master.stale, [3].into(), "the other was repaired meanwhile: {:?}", bench.master.heard);
    assert_eq!(bench.read(0, 4), vec![9; 4]);
}

#[test]
fn one_that_is_half_built_shows_nothing() {
    let mut bench = prepared(&[2], 9, frozen);
    bench.mode(2, Mode::Down);
    bench.mode(3, Mode::Down);
    bench.servers.get_mut(&1).unwrap().chunks.get_mut(&0).unwrap().rebuilding = true;
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    bench.pass_ms(10_000);
    assert_eq!((bench.opened, bench.bytes(read)), (true, None));
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!(bench.bytes(read), Some(vec![9; 4]));
}

/// What the last writer sent may be on the one that is away: read now from the other, it could still change.
#[test]
pub(super) fn a_head_is_not_read_from_one_replica() {
    for ms in [0, 3_500, 20_000] {
        let mut bench = prepared(&[2], 11, head);
        bench.mode(2, Mode::Down);
        bench.mode(3, Mode::Down);
        bench.pass_ms(3_500);
        let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
        bench.pass_ms(ms);
        assert_eq!(bench.bytes(read), None);
        bench.mode(3, Mode::Up);
        bench.pass_ms(5_000);
        assert_eq!(bench.bytes(read), Some(vec![11; 4]));
        assert_eq!(bench.servers[&1].block(0, 1, 0), Some(11));
    }
}

#[test]
fn a_snapshot_taken_meanwhile_freezes_nothing_for_the_one_that_shows_the_head() {
    let mut bench = prepared(&[2], 11, head);
    bench.mode(2, Mode::Down);
    bench.mode(3, Mode::Down);
    bench.pass_ms(3_500);
    let mut spec = bench.volume.spec().clone();
    (spec.parents, spec.upkeep) = (vec![0, 0, 1], Some(Upkeep { token: "newer".to_owned(), head: 2, hydrate: false }));
    bench.control(ControlRequest::Reopen(Box::new(spec)));
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    bench.pass_ms(3_000);
    assert_eq!(bench.bytes(read), None);
    assert_eq!(bench.volume.spec().upkeep.as_ref().map(|upkeep| upkeep.token.as_str()), Some("newer"));
}

#[test]
fn what_is_read_from_a_source_is_kept_only_if_it_is_to_be() {
    for hydrate in [false, true] {
        let mut bench = Bench::prepared(&[], |spec| {
            head(spec);
            spec.sources = vec![source()];
            spec.upkeep.as_mut().unwrap().hydrate = hydrate;
        });
        for server in [11, 12] {
            let copy = ChunkCopy { blocks: [((1, 3), filled(7))].into(), ..ChunkCopy::default() };
            bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
        }
        bench.pass_ms(50);
        assert_eq!(bench.read(3 * BLOCK as u64, 4), vec![7; 4]);
        bench.pass_ms(120_000);
        assert_eq!(bench.servers[&1].block(0, 0, 3), hydrate.then_some(7));
        assert_eq!(bench.master.hydrated, if hydrate { 2 } else { 0 });
        assert!(bench.master.boot_set.is_empty(), "no guest boots from it");
    }
}

#[test]
fn it_is_let_go_at_once_whoever_is_away() {
    let mut bench = prepared(&[2], 9, frozen);
    bench.mode(3, Mode::Silent);
    bench.pass_ms(4_000);
    let close = bench.control(ControlRequest::Close);
    assert_eq!(bench.controls.get(&close), Some(&Ok(ControlAnswer::Closed { flushed: true })));
}

#[test]
fn a_newer_generation_fences_it() {
    let mut bench = prepared(&[], 9, frozen);
    bench.pass_ms(1_000);
    bench.servers.values_mut().for_each(|server| server.fence = 5);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    assert_eq!(bench.answer(read), Some(Err(GuestError::Shutdown)));
    assert_eq!(bench.closed, Some(crate::CloseReason::Fenced));
}
