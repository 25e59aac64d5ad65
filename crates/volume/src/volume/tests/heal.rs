//! Damage that a scrubber found, chunks that nobody may answer for, and the limits of background work.

use yuntai_proto::control::Move;
use yuntai_proto::{Position, CHUNK_BYTES};

use super::bench::{filled, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{ControlAnswer, ControlRequest, GuestData, GuestOp};

const MIB: u64 = 1 << 20;
const DONE: Option<Result<GuestData, crate::GuestError>> = Some(Ok(GuestData::Done));

fn heal(bench: &mut Bench, server: u32, chunks: &[u32]) -> Result<ControlAnswer, String> {
    let asked = bench.control(ControlRequest::Heal { server, chunks: chunks.to_vec() });
    bench.controls[&asked].clone()
}

fn tune(bench: &mut Bench, name: &str, value: u64) -> Result<ControlAnswer, String> {
    let asked = bench.control(ControlRequest::Tune { tunables: [(name.to_owned(), value)].into() });
    bench.controls[&asked].clone()
}

fn damage(bench: &mut Bench, server: u32) {
    bench.servers.get_mut(&server).unwrap().damaged.insert((0, 0));
}

#[test]
fn what_a_scrubber_found_is_pulled_anew_without_leaving_the_in_sync_set() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    damage(&mut bench, 2);
    assert_eq!(heal(&mut bench, 2, &[0, 1, 70]), Ok(ControlAnswer::Heal { queued: 2 }));
    bench.pass_ms(100);
    assert!(bench.servers[&2].damaged.is_empty());
    assert_eq!(bench.volume.stats().counters.healed_chunks, 2);
    assert!(bench.master.heard.is_empty());
    let write = bench.write(0, 7, BLOCK);
    assert_eq!(bench.answer(write), DONE);
}

#[test]
fn nothing_is_healed_while_only_two_servers_are_in_sync() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    damage(&mut bench, 2);
    heal(&mut bench, 2, &[0]).expect("it is queued");
    bench.pass_ms(2_000);
    assert_eq!(bench.servers[&2].pulls, 0);
    bench.mode(3, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.servers[&2].pulls, 1);
    assert!(bench.servers[&2].damaged.is_empty());
}

#[test]
fn what_a_server_says_is_damaged_at_the_open_is_healed() {
    let mut bench = Bench::new(&[]);
    for server in 1..=3u32 {
        let position = Position { generation: 3, sequence: 8 };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(5))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    damage(&mut bench, 3);
    bench.pass_ms(100);
    assert!(bench.opened && bench.servers[&3].damaged.is_empty());
    assert_eq!(bench.read(0, 4), vec![5; 4]);
}

/// Servers 1 and 2 have block 0 damaged; server 1 alone block 1, which is read. Then the chunk is written.
fn damaged_at_the_source_too(third: Mode) -> Bench {
    let mut bench = Bench::open(&[]);
    for n in 0..4u64 {
        bench.write(n * BLOCK as u64, 10 + n as u8, BLOCK);
    }
    bench.mode(3, third);
    bench.pass_ms(200);
    for (server, block) in [(1, 0), (1, 1), (2, 0)] {
        bench.servers.get_mut(&server).unwrap().damaged.insert((0, block));
    }
    assert_eq!(bench.read(BLOCK as u64, 4), vec![11; 4]);
    let write = bench.write(3 * BLOCK as u64, 99, BLOCK);
    bench.pass_ms(3_000);
    assert_eq!(bench.answer(write), DONE, "{:?}", bench.master.heard);
    bench
}

#[test]
fn a_heal_takes_what_its_only_source_has_and_ends() {
    let mut bench = damaged_at_the_source_too(Mode::Down);
    assert_eq!(bench.master.stale, [3].into(), "neither of the two is given up");
    assert_eq!(bench.servers[&1].damaged, [(0, 0)].into(), "what could be healed is");
    assert!(!bench.servers[&1].chunks[&0].rebuilding);
    assert_eq!(bench.servers[&1].pulls, 1, "and it is not tried without end");
    bench.mode(2, Mode::Down);
    let read = bench.ask(GuestOp::Read { offset: BLOCK as u64, len: 4 });
    bench.pass_ms(100);
    assert_eq!(bench.bytes(read), Some(vec![11; 4]), "server 1 answers for it");
}

#[test]
fn many_damaged_blocks_are_not_healed_one_a_minute() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 9, 16 * BLOCK);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    for block in 0..16u16 {
        bench.servers.get_mut(&(1 + u32::from(block) % 2)).unwrap().damaged.insert((0, block));
    }
    bench.servers.values_mut().for_each(|server| server.finds_one = true);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 16 * BLOCK as u32 });
    bench.pass_ms(5_000);
    assert_eq!(bench.bytes(read), Some(vec![9; 16 * BLOCK]));
}

#[test]
fn a_heal_goes_from_source_to_source() {
    let mut bench = damaged_at_the_source_too(Mode::Up);
    assert!(bench.servers[&1].damaged.is_empty());
    assert!(bench.servers[&2].damaged.is_empty(), "the source's damage was noticed");
    assert!(bench.master.heard.is_empty(), "nobody left the in-sync set: {:?}", bench.master.heard);
    assert_eq!(bench.read(0, 4), vec![10; 4]);
}

#[test]
fn one_that_missed_a_mutation_on_the_way_to_its_heal_is_not_taken_as_level() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 10, BLOCK);
    bench.write(BLOCK as u64, 11, BLOCK);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    for (server, block) in [(1, 0), (2, 0)] {
        bench.servers.get_mut(&server).unwrap().damaged.insert((0, block));
    }
    bench.servers.get_mut(&1).unwrap().full = true; // its rebuild is refused at first
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    let write = bench.write(BLOCK as u64, 12, BLOCK);
    bench.pass_ms(2_000);
    assert_eq!((bench.bytes(read), bench.answer(write)), (None, None));
    bench.servers.get_mut(&1).unwrap().full = false;
    bench.pass_ms(5_000);
    let copy = &bench.servers[&1].chunks[&0];
    assert!(copy.rebuilding || copy.blocks[&(1, 1)] == filled(12), "{copy:?}");
}

#[test]
fn a_chunk_that_nobody_may_answer_for_waits_until_the_operator_accepts_the_loss() {
    let mut bench = Bench::new(&[]);
    for (server, sequence) in [(1, 7), (2, 9), (3, 8)] {
        let position = Position { generation: 3, sequence };
        let copy = ChunkCopy { position, rebuilding: true, blocks: [((1, 0), filled(sequence as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.pass_ms(100);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    bench.pass_ms(2_000);
    assert_eq!(bench.bytes(read), None);
    let stats = bench.volume.stats();
    assert_eq!((stats.barred.len(), &stats.barred[0].servers), (1, &vec![1, 2, 3]));
    assert_eq!(stats.waiting, "requests wait until chunk 0 is level");
    let asked = bench.control(ControlRequest::Salvage { chunk: 1 });
    assert!(bench.controls[&asked].is_err(), "chunk 1 waits for nobody");
    let asked = bench.control(ControlRequest::Salvage { chunk: 0 });
    assert_eq!(bench.controls[&asked], Ok(ControlAnswer::Salvage { server: 2, sequence: 9 }));
    bench.pass_ms(1_000);
    assert_eq!(bench.bytes(read), Some(vec![9; 4]));
    assert!(bench.volume.stats().barred.is_empty());
    for server in 1..=3 {
        assert_eq!(bench.servers[&server].chunks[&0].position, Position { generation: 3, sequence: 9 });
        assert_eq!(bench.servers[&server].block(0, 1, 0), Some(9));
    }
}

#[test]
pub(super) fn a_salvaged_replica_that_is_lost_half_way_leaves_the_chunk_waiting() {
    let mut bench = Bench::new(&[]);
    for server in 1..=3u32 {
        let position = Position { generation: 3, sequence: u64::from(server) };
        let copy = ChunkCopy { position, rebuilding: true, blocks: [((1, 0), filled(server as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.pass_ms(100);
    bench.servers.get_mut(&3).unwrap().mode = Mode::Silent;
    bench.control(ControlRequest::Salvage { chunk: 0 });
    bench.mode(3, Mode::Up);
    bench.cut(3);
    bench.pass_ms(1_000);
    if !bench.volume.stats().barred.is_empty() {
        bench.control(ControlRequest::Salvage { chunk: 0 });
        bench.pass_ms(1_000);
    }
    assert_eq!(bench.read(0, 4), vec![3; 4]);
}

/// Server 3 has missed a write of each of `chunks` chunks and is back; its pulls are asked for at once.
fn returning(chunks: u64, change: impl FnOnce(&mut crate::Config)) -> Bench {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.size_bytes = 8 * CHUNK_BYTES;
        spec.placement = vec![vec![1, 2, 3]; 8];
    });
    bench.config(|config| (config.rebuild_bytes_per_s, config.rebuild_busy_bytes_per_s) = (100 * MIB, 40 * MIB));
    bench.config(change);
    bench.pass_ms(50);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    for chunk in 0..chunks {
        bench.write(chunk * CHUNK_BYTES, 1, BLOCK);
    }
    bench.pass_ms(1_000);
    bench
}

#[test]
fn chunks_that_are_rebuilt_share_the_rate_and_go_slower_while_the_guest_works() {
    for (chunks, limits) in [(1, vec![100 * MIB]), (4, vec![25 * MIB; 4])] {
        let mut bench = returning(chunks, |_| {});
        bench.mode(3, Mode::Up);
        bench.pass_ms(5_000);
        assert_eq!(bench.servers[&3].limits, limits);
        assert!(bench.master.stale.is_empty());
    }
    let mut bench = returning(1, |_| {});
    bench.mode(3, Mode::Up);
    for _ in 0..300 {
        bench.read(0, BLOCK);
        bench.pass_ms(10);
    }
    assert_eq!(bench.servers[&3].limits, [40 * MIB]);
}

#[test]
fn pulls_under_way_slow_down_when_a_guest_begins_to_work_and_speed_up_again() {
    let mut bench = returning(4, |_| {});
    bench.servers.get_mut(&3).unwrap().holds_pulls = true;
    bench.mode(3, Mode::Up);
    for _ in 0..500 {
        if bench.servers[&3].waiting_limits().len() == 4 {
            break;
        }
        bench.pass_ms(10);
    }
    assert_eq!(bench.servers[&3].waiting_limits(), [25 * MIB; 4]);
    bench.read(0, BLOCK);
    bench.pass_ms(20);
    assert_eq!(bench.servers[&3].waiting_limits()[4..], [10 * MIB; 4]);
    bench.pass_ms(300);
    assert_eq!(bench.servers[&3].waiting_limits()[8..], [25 * MIB; 4]);
    bench.servers.get_mut(&3).unwrap().holds_pulls = false;
    bench.pass_ms(2_000);
    assert!(bench.master.stale.is_empty(), "the answers to what was asked first count for nothing, and do no harm");
    assert!(bench.servers[&3].chunks.values().all(|copy| !copy.rebuilding));
}

#[test]
fn a_pull_that_takes_long_at_a_low_rate_is_no_hung_server() {
    let mut bench = returning(1, |config| config.pull_wait_us = 500_000);
    bench.servers.get_mut(&3).unwrap().pulls_slowly = true;
    bench.mode(3, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.servers[&3].slow_pulls > 5 && bench.servers[&3].pulls == 0);
    bench.servers.get_mut(&3).unwrap().pulls_slowly = false;
    bench.pass_ms(2_000);
    assert!(bench.master.stale.is_empty());
    assert_eq!(bench.master.heard.iter().filter(|heard| heard.starts_with("degrade")).count(), 1);
}

#[test]
pub(super) fn background_work_can_be_switched_off_and_on() {
    let mut bench = returning(2, |config| config.rebuild_bytes_per_s = 0);
    bench.mode(3, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.servers[&3].pulls, 0);
    let worker = &bench.volume.stats().workers[0];
    assert_eq!((worker.name.as_str(), worker.state.as_str(), worker.total), ("rebuild", "off", 2));
    assert!(tune(&mut bench, "rebuild_speed", 5).unwrap_err().contains("rebuild_bytes_per_s"));
    assert_eq!(tune(&mut bench, "rebuild_bytes_per_s", 1 << 30), Ok(ControlAnswer::Tuned));
    bench.pass_ms(5_000);
    assert_eq!(bench.servers[&3].pulls, 2);
    assert!(bench.master.stale.is_empty());
    assert_eq!(bench.volume.stats().workers[0].state, "idle");
}

#[test]
fn stats_say_what_moves_and_what_requests_wait_for() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    bench.master.deaf = true;
    let one = Move { chunk: 0, from: 3, to: 4 };
    let servers = [(4, "s4".to_owned())].into();
    bench.control(ControlRequest::Moves { moves: vec![one], servers });
    bench.pass_ms(500);
    let stats = bench.volume.stats();
    assert_eq!((stats.moves[0].wanted, stats.moves[0].raised), (one, true));
    let worker = &stats.workers[1];
    assert_eq!((worker.name.as_str(), worker.done, worker.total), ("move", 0, 1));
    assert_eq!(stats.waiting, "");
    bench.mode(3, Mode::Down);
    bench.write(0, 2, BLOCK);
    bench.pass_ms(2_000);
    let waiting = bench.volume.stats().waiting;
    assert_eq!(waiting, "requests wait for cs-3: the master has not taken it out of the in-sync set");
}

#[test]
fn a_server_that_the_record_has_out_of_sync_is_asked_about_before_it_is_left_out() {
    let mut bench = Bench::open(&[]);
    bench.master.deaf = true;
    let mut spec = bench.volume.spec().clone();
    spec.stale = vec![3];
    bench.control(ControlRequest::Reopen(Box::new(spec)));
    bench.pass_ms(100);
    assert_eq!(bench.master.heard, ["degrade 3"]);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 1, BLOCK);
    assert_eq!(bench.answer(write), None, "until the master says so it counts");
    bench.master.deaf = false;
    bench.tell_master();
    assert_eq!(bench.answer(write), DONE);
    bench.mode(3, Mode::Up);
    bench.pass_ms(5_000);
    assert!(bench.master.stale.is_empty());
}
