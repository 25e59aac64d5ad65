//! The volume against servers and a master made of a few lines each, on a made-up clock.

mod bench;
mod fake;
mod heal;
mod hedge;
mod last;
mod lazy;
mod loss;
mod moves;
mod mutants;
mod repair;
mod shown;

use bench::{Bench, Mode, BLOCK};

use crate::api::{Action, CloseReason, ControlAnswer, ControlRequest, GuestData, GuestError, GuestOp};

#[test]
fn a_write_is_on_every_server_before_it_is_acknowledged() {
    let mut bench = Bench::open(&[]);
    let write = bench.write(0, 7, BLOCK);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    for server in 1..=3 {
        assert_eq!(bench.servers[&server].block(0, 1, 0), Some(7), "server {server}");
    }
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 8, BLOCK);
    assert_eq!(bench.answer(write), None, "one of three has not answered");
    bench.mode(3, Mode::Up);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    assert_eq!(bench.read(0, BLOCK), vec![8; BLOCK]);
}

#[test]
fn a_hung_server_is_degraded_first_and_the_write_acknowledged_then() {
    let mut bench = Bench::open(&[]);
    bench.master.deaf = true;
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 1, BLOCK);
    bench.pass_ms(900);
    assert!(bench.master.heard.is_empty(), "not hung yet");
    bench.pass_ms(200);
    assert_eq!(bench.master.heard, ["degrade 3"]);
    bench.pass_ms(60_000);
    assert_eq!(bench.answer(write), None, "the master has not answered: wait for ever");
    bench.master.deaf = false;
    bench.tell_master();
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn a_pause_of_our_own_is_nobody_elses_fault() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 1, BLOCK);
    bench.now += 30_000_000;
    bench.pass_ms(500);
    assert!(bench.master.heard.is_empty());
    bench.mode(3, Mode::Up);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn a_refused_degrade_is_asked_again_and_no_guest_sees_an_error() {
    let mut bench = Bench::new(&[2]);
    bench.mode(2, Mode::Down);
    bench.pass_ms(50);
    bench.mode(3, Mode::Down);
    let write = bench.write(0, 1, BLOCK);
    bench.pass_ms(5_000);
    assert_eq!(bench.answer(write), None, "one in-sync server alone is never enough");
    let asked = bench.master.heard.iter().filter(|one| *one == "degrade 3").count();
    assert!((4..=6).contains(&asked), "asked {asked} times in 5 s");
    bench.mode(3, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn open_degrades_the_silent_and_serves_with_two() {
    let mut bench = Bench::new(&[]);
    bench.mode(2, Mode::Down);
    bench.pass_ms(1_900);
    assert!(!bench.opened);
    bench.pass_ms(300);
    assert!(bench.opened);
    assert_eq!(bench.master.stale, [2].into());
    let write = bench.write(0, 1, BLOCK);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn requests_that_come_before_the_open_are_kept() {
    let mut bench = Bench::new(&[]);
    bench.servers.values_mut().for_each(|server| server.mode = Mode::Silent);
    let write = bench.write(0, 1, BLOCK);
    bench.pass_ms(100);
    assert_eq!(bench.answer(write), None);
    (1..=3).for_each(|server| bench.mode(server, Mode::Up));
    bench.pass_ms(100);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn a_short_break_is_bridged_by_sending_again_in_order() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Silent);
    let writes: Vec<u64> = (0..5).map(|n| bench.write(n * BLOCK as u64, n as u8 + 1, BLOCK)).collect();
    bench.drop_unprocessed(3, 2); // it has journalled two of them, and answered none
    bench.mode(3, Mode::Up);
    bench.cut(3);
    bench.pass_ms(20);
    assert!(writes.iter().all(|write| bench.answer(*write) == Some(Ok(GuestData::Done))));
    assert!(bench.master.heard.is_empty(), "no degrade for it: {:?}", bench.master.heard);
    assert_eq!(bench.servers[&3].chunks[&0].position.sequence, 5);
}

#[test]
fn sub_block_writes_merge_in_order() {
    let mut bench = Bench::open(&[]);
    bench.servers.values_mut().for_each(|server| server.mode = Mode::Silent);
    let first = bench.write(0, 1, 3 * BLOCK);
    let second = bench.write(BLOCK as u64 + 10, 2, 20);
    let third = bench.write(BLOCK as u64 + 20, 3, 20);
    let whole = bench.write(2 * BLOCK as u64, 4, BLOCK);
    let read = bench.ask(GuestOp::Read { offset: 0, len: 3 * BLOCK as u32 });
    (1..=3).for_each(|server| bench.mode(server, Mode::Up));
    for one in [first, second, third, whole] {
        assert_eq!(bench.answer(one), Some(Ok(GuestData::Done)));
    }
    let bytes = bench.bytes(read).expect("it is answered");
    let mut expected = vec![1; 3 * BLOCK];
    expected[BLOCK + 10..BLOCK + 30].fill(2);
    expected[BLOCK + 20..BLOCK + 40].fill(3);
    expected[2 * BLOCK..].fill(4);
    assert_eq!(bytes, expected);
}

#[test]
fn a_read_waits_for_the_write_under_it() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    bench.mode(3, Mode::Silent);
    let write = bench.write(0, 2, BLOCK);
    let read = bench.ask(GuestOp::Read { offset: 100, len: 8 });
    let beside = bench.ask(GuestOp::Read { offset: BLOCK as u64, len: 8 });
    assert_eq!((bench.bytes(read), bench.bytes(beside)), (None, Some(vec![0; 8])));
    bench.mode(3, Mode::Up);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    assert_eq!(bench.bytes(read), Some(vec![2; 8]));
}

#[test]
fn a_read_on_its_way_waits_for_a_write_that_overtakes_it() {
    let mut bench = Bench::open(&[]);
    bench.mode(1, Mode::Silent); // reads go to server 1
    let read = bench.ask(GuestOp::Read { offset: 0, len: 8 });
    bench.mode(2, Mode::Silent);
    let write = bench.write(0, 2, BLOCK);
    bench.mode(1, Mode::Up);
    assert_eq!(bench.bytes(read), None, "it may have seen the write, which may still be lost");
    bench.mode(2, Mode::Up);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    assert!(bench.bytes(read).is_some());
}

#[test]
fn a_full_disk_is_no_error_to_the_guest() {
    let mut bench = Bench::open(&[]);
    for server in [2, 3] {
        bench.servers.get_mut(&server).unwrap().full = true;
    }
    let write = bench.write(0, 1, BLOCK);
    bench.pass_ms(5_000);
    assert_eq!(bench.answer(write), None, "it waits until there is room");
    for server in [2, 3] {
        bench.servers.get_mut(&server).unwrap().full = false;
    }
    bench.pass_ms(5_000);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
}

#[test]
fn a_fenced_volume_stops_at_once() {
    let mut bench = Bench::open(&[]);
    bench.mode(3, Mode::Silent);
    let first = bench.write(0, 1, BLOCK);
    bench.servers.get_mut(&3).unwrap().fence = 9;
    bench.mode(3, Mode::Up);
    assert_eq!(bench.answer(first), Some(Err(GuestError::Shutdown)));
    assert_eq!(bench.closed, Some(CloseReason::Fenced));
    assert!(bench.master.heard.contains(&"fenced".to_owned()));
    let late = bench.write(0, 1, BLOCK);
    assert_eq!(bench.answer(late), Some(Err(GuestError::Shutdown)));
}

#[test]
fn a_newer_generation_in_the_masters_record_fences_too() {
    let mut bench = Bench::open(&[]);
    bench.master.fenced = true;
    bench.mode(3, Mode::Down);
    bench.pass_ms(200);
    assert_eq!(bench.closed, Some(CloseReason::Fenced));
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let mut bench = Bench::open(&[]);
    let size = bench.volume.spec().size_bytes;
    let read = bench.ask(GuestOp::Read { offset: size, len: 1 });
    assert_eq!(bench.answer(read), Some(Err(GuestError::Invalid)));
    let write = bench.write(size - 10, 1, 11);
    assert_eq!(bench.answer(write), Some(Err(GuestError::NoSpace)));
    let zero = bench.ask(GuestOp::Zero { offset: u64::MAX, len: 2, fua: false, may_trim: true });
    assert_eq!(bench.answer(zero), Some(Err(GuestError::NoSpace)));
    let empty = bench.ask(GuestOp::Read { offset: size, len: 0 });
    assert_eq!(bench.answer(empty), Some(Ok(GuestData::Read(vec![]))));
}

#[test]
fn more_than_the_limit_waits_its_turn() {
    let mut bench = Bench::open(&[]);
    bench.servers.values_mut().for_each(|server| server.mode = Mode::Silent);
    bench.config(|config| config.in_flight_bytes_max = 64 << 10);
    let writes: Vec<u64> = (0..100).map(|n| bench.write(n << 20, n as u8, 1 << 10)).collect();
    assert_eq!(bench.volume.in_flight_bytes, 64 << 10);
    assert_eq!(bench.volume.in_flight(), 100);
    (1..=3).for_each(|server| bench.mode(server, Mode::Up));
    assert!(writes.iter().all(|write| bench.answer(*write) == Some(Ok(GuestData::Done))));
    assert_eq!(bench.volume.in_flight_bytes, 0);
}

#[test]
fn a_snapshot_switches_at_once_and_answers_when_the_past_is_durable() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    bench.mode(3, Mode::Silent);
    let before = bench.write(BLOCK as u64, 1, BLOCK);
    let control = bench.control(ControlRequest::Snapshot { parents: vec![0, 0, 1], head: 2 });
    let after = bench.write(0, 2, BLOCK);
    assert_eq!(bench.servers[&1].block(0, 2, 0), Some(2), "new writes go to the new layer");
    assert_eq!(bench.servers[&1].block(0, 1, 0), Some(1), "the old layer keeps the old block");
    assert_eq!(bench.controls.get(&control), None, "a write to the old layer is not acknowledged yet");
    bench.mode(3, Mode::Up);
    assert_eq!(bench.controls.get(&control), Some(&Ok(ControlAnswer::Snapshot { head: 2 })));
    for one in [before, after] {
        assert_eq!(bench.answer(one), Some(Ok(GuestData::Done)));
    }
    let again = bench.control(ControlRequest::Snapshot { parents: vec![0, 0, 1], head: 2 });
    assert_eq!(bench.controls.get(&again), Some(&Ok(ControlAnswer::Snapshot { head: 2 })), "asked again");
    let wrong = bench.control(ControlRequest::Snapshot { parents: vec![0, 0, 0, 2], head: 3 });
    assert!(matches!(bench.controls.get(&wrong), Some(Err(_))), "the tree was changed, not grown");
}

#[test]
fn close_flushes_and_ends() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 1, BLOCK);
    let control = bench.control(ControlRequest::Close);
    assert_eq!(bench.controls.get(&control), Some(&Ok(ControlAnswer::Closed { flushed: true })));
    assert_eq!(bench.closed, Some(CloseReason::Asked));
    assert!((1..=3).all(|server| bench.servers[&server].durable.contains_key(&0)));

    let mut bench = Bench::open(&[]);
    bench.master.deaf = true;
    bench.mode(3, Mode::Silent);
    let control = bench.control(ControlRequest::Close);
    bench.pass_ms(6_000);
    assert_eq!(bench.controls.get(&control), Some(&Ok(ControlAnswer::Closed { flushed: false })));
}

#[test]
fn growing_adds_chunks() {
    let mut bench = Bench::open(&[]);
    let mut spec = bench.volume.spec().clone();
    spec.size_bytes *= 2;
    spec.placement.extend(spec.placement.clone());
    let old = bench.volume.spec().size_bytes;
    let control = bench.control(ControlRequest::Reopen(Box::new(spec.clone())));
    assert_eq!(bench.controls.get(&control), Some(&Ok(ControlAnswer::Reopened)));
    let write = bench.write(old, 5, BLOCK);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    spec.size_bytes = old;
    let control = bench.control(ControlRequest::Reopen(Box::new(spec)));
    assert!(matches!(bench.controls.get(&control), Some(Err(_))), "never smaller");
}

#[test]
fn a_read_only_volume_serves_with_one_server_and_refuses_writes() {
    let mut bench = Bench::prepared(&[], |spec| spec.read_only = true);
    bench.mode(1, Mode::Down);
    bench.mode(2, Mode::Down);
    bench.pass_ms(2_100);
    assert!(bench.opened);
    assert_eq!(bench.read(0, 10), vec![0; 10]);
    let write = bench.write(0, 1, BLOCK);
    assert_eq!(bench.answer(write), Some(Err(GuestError::ReadOnly)));
    let flush = bench.ask(GuestOp::Flush);
    assert_eq!(bench.answer(flush), Some(Ok(GuestData::Done)));
    assert!(bench.master.heard.is_empty());
}

#[test]
fn zeroing_what_was_never_written_costs_nothing() {
    let mut bench = Bench::open(&[]);
    let zero = bench.ask(GuestOp::Zero { offset: 0, len: 128 << 20, fua: true, may_trim: true });
    assert_eq!(bench.answer(zero), Some(Ok(GuestData::Done)));
    assert!(bench.servers[&1].chunks.is_empty());
    bench.write(0, 1, BLOCK);
    let zero = bench.ask(GuestOp::Zero { offset: 0, len: 128 << 20, fua: false, may_trim: false });
    assert_eq!(bench.answer(zero), Some(Ok(GuestData::Done)));
    assert_eq!(bench.read(0, BLOCK), vec![0; BLOCK]);
    assert_eq!(bench.servers[&1].chunks.len(), 1);
}

#[test]
fn the_same_events_give_the_same_actions() {
    let run = || {
        let mut bench = Bench::open(&[]);
        for n in 0..50u64 {
            bench.write(n * 5000, n as u8, 3000);
        }
        bench.mode(2, Mode::Down);
        bench.pass_ms(500);
        bench.mode(2, Mode::Up);
        bench.pass_ms(3_000);
        bench.trace
    };
    let (first, second) = (run(), run());
    assert!(first.len() > 300);
    assert_eq!(first, second);
}

/// For the trace.
pub(super) fn line(action: &Action) -> String {
    let text = format!("{action:?}");
    text.chars().take(160).collect()
}
