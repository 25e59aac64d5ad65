//! Servers that fail, come back, lose what they had, and lie.

use yuntai_proto::Position;

use super::bench::{filled, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{GuestData, GuestOp};

const DONE: Option<Result<GuestData, crate::GuestError>> = Some(Ok(GuestData::Done));

fn same_everywhere(bench: &Bench) {
    for server in 2..=3 {
        for (chunk, copy) in &bench.servers[&1].chunks {
            let other = &bench.servers[&server].chunks[chunk];
            assert_eq!((copy.position, &copy.blocks), (other.position, &other.blocks), "chunk {chunk} at {server}");
            assert!(!other.rebuilding);
        }
    }
}

#[test]
fn a_server_that_nobody_can_connect_to_is_degraded_at_once_and_a_broken_connection_may_come_back() {
    let mut bench = Bench::open(&[]);
    bench.cut(3);
    bench.pass_ms(40);
    assert!(bench.master.heard.is_empty(), "{:?}", bench.master.heard);
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Down);
    let write = bench.write(0, 1, BLOCK);
    bench.pass_ms(1);
    assert_eq!(bench.master.heard, ["degrade 3"]);
    assert_eq!(bench.answer(write), DONE);
}

#[test]
pub(super) fn a_server_that_was_away_is_rebuilt_while_writes_go_on_and_taken_back() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    assert_eq!(bench.master.stale, [3].into());
    for n in 0..20u64 {
        let write = bench.write(n * BLOCK as u64, 50 + n as u8, BLOCK);
        assert_eq!(bench.answer(write), DONE);
    }
    bench.mode(3, Mode::Up);
    for n in 0..300u64 {
        bench.write(n % 40 * BLOCK as u64, n as u8, BLOCK);
        bench.pass_ms(10);
    }
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 3"]);
    assert!(bench.master.stale.is_empty());
    assert_eq!(bench.servers[&3].pulls, 1, "only the chunk that was written is pulled");
    same_everywhere(&bench);
}

#[test]
fn a_server_that_missed_nothing_pulls_nothing() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    bench.mode(3, Mode::Down);
    bench.pass_ms(500);
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 3"]);
    assert_eq!(bench.servers[&3].pulls, 0);
}

#[test]
fn writes_do_not_wait_for_a_returning_server() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.write(0, 1, BLOCK);
    bench.mode(3, Mode::Up);
    bench.pass_ms(150);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 2, BLOCK);
    assert_eq!(bench.answer(write), DONE);
}

#[test]
pub(super) fn the_longest_history_wins_at_open_and_the_others_pull_one_after_the_other() {
    let mut bench = Bench::new(&[]);
    for server in 1..=3u32 {
        let copy = ChunkCopy {
            position: Position { generation: 3, sequence: if server == 2 { 9 } else { 8 } },
            rebuilding: false,
            blocks: [((1, 0), filled(server as u8))].into(),
        };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.pass_ms(30);
    assert_eq!(bench.read(0, 4), vec![2; 4]);
    same_everywhere(&bench);
    let write = bench.write(0, 7, BLOCK);
    assert_eq!(bench.answer(write), DONE);
    assert_eq!(bench.servers[&1].chunks[&0].position, Position { generation: 4, sequence: 10 });
}

#[test]
fn a_chunk_serves_nobody_before_it_is_level() {
    let mut bench = Bench::new(&[]);
    let position = Position { generation: 3, sequence: 1 };
    let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(9))].into() };
    bench.servers.get_mut(&1).unwrap().chunks.insert(0, copy);
    bench.servers.get_mut(&3).unwrap().full = true; // its rebuild is refused
    bench.master.deaf = true;
    bench.pass_ms(100);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    assert_eq!(bench.bytes(read), None);
    let other = bench.read(64 << 20, 4);
    assert_eq!(other, vec![0; 4], "other chunks serve meanwhile");
    bench.master.deaf = false;
    bench.tell_master();
    assert_eq!(bench.bytes(read), Some(vec![9; 4]), "level, once the one that cannot be is out");
}

#[test]
fn a_survivor_that_dies_before_its_chunk_serves_is_replaced() {
    let mut bench = Bench::new(&[]);
    for (server, sequence) in [(1, 9), (2, 8), (3, 8)] {
        let position = Position { generation: 3, sequence };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(sequence as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    // Both laggards answer the claim and nothing after it.
    bench.servers.get_mut(&2).unwrap().full = true;
    bench.servers.get_mut(&3).unwrap().full = true;
    bench.master.deaf = true;
    bench.pass_ms(30);
    assert!(bench.opened);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 4 });
    assert_eq!(bench.bytes(read), None);
    bench.servers.get_mut(&2).unwrap().full = false;
    bench.servers.get_mut(&3).unwrap().full = false;
    bench.mode(1, Mode::Down);
    bench.master.deaf = false;
    bench.pass_ms(5_000);
    bench.tell_master();
    bench.pass_ms(5_000);
    // Whichever of them was out meanwhile: it serves again, and an unacknowledged write went one way for all.
    bench.mode(1, Mode::Up);
    bench.pass_ms(10_000);
    let bytes = bench.bytes(read).expect("it serves again");
    assert!(bytes == vec![8; 4] || bytes == vec![9; 4]);
    assert!(bench.master.stale.is_empty(), "all are back: {:?}", bench.master.heard);
    same_everywhere(&bench);
}

#[test]
fn a_damaged_history_that_nobody_was_promised_is_given_up_at_open() {
    let mut bench = Bench::new(&[]);
    for (server, sequence) in [(1, 9), (2, 8), (3, 8)] {
        let position = Position { generation: 3, sequence };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(sequence as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.servers.get_mut(&1).unwrap().damaged.insert((0, 0));
    bench.pass_ms(3_000);
    assert_eq!(bench.read(0, 4), vec![8; 4]);
    same_everywhere(&bench);
}

#[test]
fn with_two_in_sync_a_damaged_history_is_given_up_for_the_other_one() {
    let mut bench = Bench::new(&[3]);
    bench.mode(3, Mode::Down);
    for (server, sequence) in [(1, 9), (2, 8)] {
        let position = Position { generation: 3, sequence };
        let copy = ChunkCopy { position, rebuilding: false, blocks: [((1, 0), filled(sequence as u8))].into() };
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy);
    }
    bench.servers.get_mut(&1).unwrap().damaged.insert((0, 0));
    bench.pass_ms(3_000);
    assert_eq!(bench.read(0, 4), vec![8; 4]);
    let write = bench.write(0, 5, BLOCK);
    assert_eq!(bench.answer(write), DONE);
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    same_everywhere(&bench);
}

#[test]
fn a_server_that_lost_acknowledged_writes_counts_for_nothing_until_it_has_them_again() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    let flush = bench.ask(GuestOp::Flush);
    assert_eq!(bench.answer(flush), DONE);
    bench.write(0, 2, BLOCK);
    bench.write(BLOCK as u64, 2, BLOCK);
    bench.master.deaf = true;
    bench.servers.get_mut(&3).unwrap().power_cut();
    bench.cut(3); // it is back within the grace time, with less than it had acknowledged
    assert_eq!(bench.master.heard, ["degrade 3"]);
    let flush = bench.ask(GuestOp::Flush);
    let ops = bench.servers[&3].flushes;
    bench.pass_ms(50);
    let synced = bench.servers[&3].durable_block(0, 1, 0);
    if bench.answer(flush) == DONE {
        assert_eq!(synced, Some(2), "a flush was acknowledged that server 3 has not (flushes: {ops})");
    }
    bench.master.deaf = false;
    bench.tell_master();
    bench.pass_ms(3_000);
    assert_eq!(bench.answer(flush), DONE);
    assert!(bench.master.stale.is_empty());
    same_everywhere(&bench);
}

#[test]
pub(super) fn a_flush_waits_for_a_server_that_is_being_levelled() {
    let mut bench = Bench::new(&[2]);
    bench.mode(2, Mode::Down); // two are left, none can be spared
    bench.pass_ms(50);
    bench.write(0, 1, BLOCK);
    bench.servers.get_mut(&3).unwrap().power_cut();
    bench.servers.get_mut(&3).unwrap().full = true; // it cannot begin its rebuild
    bench.cut(3);
    let flush = bench.ask(GuestOp::Flush);
    bench.pass_ms(3_000);
    assert_eq!(bench.answer(flush), None);
    bench.servers.get_mut(&3).unwrap().full = false;
    bench.pass_ms(2_000);
    assert_eq!(bench.answer(flush), DONE);
    assert_eq!(bench.servers[&3].durable_block(0, 1, 0), Some(1));
}

#[test]
fn a_durable_write_that_a_server_had_before_it_was_lost_is_made_durable_there() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Silent);
    let data = vec![9; BLOCK].into();
    let write = bench.ask(GuestOp::Write { offset: 0, data, fua: true });
    bench.drop_unprocessed(3, 1);
    bench.servers.get_mut(&3).unwrap().durable.clear(); // journalled, the sync did not happen
    bench.mode(3, Mode::Up);
    bench.cut(3);
    assert_eq!(bench.answer(write), DONE);
    assert_eq!(bench.servers[&3].durable_block(0, 1, 0), Some(9));
}

#[test]
pub(super) fn a_damaged_block_is_served_from_another_server_and_the_chunk_pulled_anew() {
    for lies in [false, true] {
        let mut bench = Bench::open(&[]);
        bench.write(0, 6, BLOCK);
        let server = bench.servers.get_mut(&1).unwrap();
        server.damaged.insert((0, 0));
        server.lies = lies;
        assert_eq!(bench.read(0, BLOCK), vec![6; BLOCK]);
        assert_eq!(bench.volume.stats().counters.damaged_blocks, 1);
        bench.pass_ms(50);
        assert_eq!(bench.servers[&1].pulls, 1);
        assert!(bench.servers[&1].damaged.is_empty());
        assert!(bench.master.heard.is_empty(), "it never left the in-sync set");
        let write = bench.write(0, 7, BLOCK);
        assert_eq!(bench.answer(write), DONE);
        same_everywhere(&bench);
    }
}

#[test]
fn a_full_server_is_degraded_and_comes_back_when_it_has_space() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.write(0, 1, BLOCK);
    bench.servers.get_mut(&3).unwrap().full = true;
    bench.mode(3, Mode::Up);
    bench.pass_ms(5_000);
    assert_eq!(bench.master.stale, [3].into());
    bench.servers.get_mut(&3).unwrap().full = false;
    bench.pass_ms(3_000);
    assert!(bench.master.stale.is_empty());
    same_everywhere(&bench);
}

#[test]
fn a_server_counts_from_the_moment_its_readmission_is_proposed() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.write(0, 1, BLOCK);
    bench.master.deaf = true;
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 3"]);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 2, BLOCK);
    bench.pass_ms(5_000);
    assert_eq!(bench.answer(write), None, "the master may have taken it back: it has to leave first");
    bench.master.deaf = false;
    bench.tell_master();
    bench.pass_ms(100);
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 3", "degrade 3"]);
    assert_eq!(bench.answer(write), DONE);
}

#[test]
pub(super) fn a_returning_server_counts_before_its_history_is_made_durable_and_is_not_read_before_that() {
    let mut bench = Bench::prepared(&[], |spec| spec.prefer = vec![3]);
    bench.pass_ms(50);
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    bench.write(0, 1, BLOCK);
    bench.servers.get_mut(&3).unwrap().holds_flushes = true;
    bench.mode(3, Mode::Up);
    while !bench.servers[&3].holds() {
        bench.pass_ms(10);
    }
    // What is written behind that flush may not be there when the flush is answered.
    let write = bench.write(BLOCK as u64, 2, BLOCK);
    bench.pass_ms(20);
    assert_eq!(bench.answer(write), None, "the master is about to be told that server 3 has all that is acknowledged");
    assert_eq!((bench.read(0, 1), bench.servers[&3].reads), (vec![1], 0));
    // It hangs: it does not count any more, since the master was not asked yet.
    bench.pass_ms(2_000);
    assert_eq!(bench.answer(write), DONE);
    assert_eq!(bench.master.heard, ["degrade 3"]);
    bench.servers.get_mut(&3).unwrap().holds_flushes = false;
    bench.pass_ms(5_000);
    assert_eq!(bench.master.heard, ["degrade 3", "readmit 3"]);
    assert_eq!(bench.read(0, 1), [1]);
    assert_eq!(bench.servers[&3].reads, 1);
    same_everywhere(&bench);
}
