//! Replicas that are slow to answer reads.

use super::bench::{Bench, Mode, BLOCK};
use crate::api::GuestOp;

fn read(bench: &mut Bench) -> u64 {
    bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 })
}

#[test]
fn a_slow_replica_is_overtaken_and_left_alone_for_a_while() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    for _ in 0..200 {
        bench.read(0, BLOCK);
    }
    bench.mode(1, Mode::Silent);
    let slow = read(&mut bench);
    assert_eq!(bench.bytes(slow), None);
    bench.pass_ms(20);
    assert_eq!(bench.bytes(slow), Some(vec![6; BLOCK]));
    let next = read(&mut bench);
    assert_eq!(bench.bytes(next), Some(vec![6; BLOCK]), "at once, from another");
    bench.mode(1, Mode::Up);
    let counters = bench.volume.stats().counters;
    assert_eq!((counters.hedged_reads, counters.hedges_won), (1, 1));
    let before = bench.servers[&1].reads;
    bench.pass_ms(1_100);
    bench.read(0, BLOCK);
    assert_eq!(bench.servers[&1].reads, before + 1, "asked again later");
}

#[test]
fn a_second_answer_that_comes_late_changes_nothing() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    bench.mode(1, Mode::Silent);
    bench.mode(2, Mode::Silent);
    let slow = read(&mut bench);
    bench.pass_ms(100);
    assert_eq!(bench.bytes(slow), None, "two are asked, not three");
    assert_eq!(bench.servers[&3].reads, 0);
    bench.mode(2, Mode::Up);
    assert_eq!(bench.bytes(slow), Some(vec![6; BLOCK]));
    bench.mode(1, Mode::Up);
    assert_eq!(bench.read(0, BLOCK), vec![6; BLOCK]);
}

#[test]
fn when_the_first_fails_the_second_is_waited_for_and_then_the_third_asked() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    bench.mode(1, Mode::Silent);
    bench.mode(2, Mode::Silent);
    let slow = read(&mut bench);
    bench.pass_ms(100);
    bench.mode(1, Mode::Down);
    assert_eq!(bench.servers[&3].reads, 0);
    bench.mode(2, Mode::Down);
    assert_eq!(bench.bytes(slow), Some(vec![6; BLOCK]));
    assert_eq!(bench.servers[&3].reads, 1);
}

#[test]
fn hedges_are_a_small_part_of_the_reads() {
    let mut bench = Bench::open(&[]);
    bench.write(0, 6, BLOCK);
    // Whatever is asked first answers only after a second one was asked.
    for _ in 0..400 {
        (1..=3).for_each(|server| bench.servers.get_mut(&server).unwrap().mode = Mode::Silent);
        let slow = read(&mut bench);
        bench.pass_ms(100);
        (1..=3).for_each(|server| bench.mode(server, Mode::Up));
        assert_eq!(bench.bytes(slow), Some(vec![6; BLOCK]));
    }
    let hedged = bench.volume.stats().counters.hedged_reads;
    assert!((64..=64 + 400 / 20 + 1).contains(&hedged), "{hedged} of 400");
}
