//! Volumes that were made from a snapshot of another one.

use yuntai_proto::control::{BlockRange, OpenVolume};
use yuntai_proto::CHUNK_BYTES;

use super::bench::{filled, source, Bench, ChunkCopy, Mode, BLOCK};
use crate::api::{ControlAnswer, ControlRequest, Extent, GuestData, GuestOp};

/// A clone; its source has blocks 0..300 of chunk 0 (value 40) and zeros at 300..310.
fn clone(background: bool) -> Bench {
    clone_with(background, |_| {})
}

fn clone_with(background: bool, change: impl FnOnce(&mut OpenVolume)) -> Bench {
    let mut bench = Bench::prepared(&[], |spec| {
        spec.sources = vec![source()];
        change(spec);
    });
    bench.config(|config| {
        config.hydrate_bytes_per_s = if background { 1 << 30 } else { 0 };
        config.hydrate_busy_bytes_per_s = config.hydrate_bytes_per_s;
    });
    let data = (0..300).map(|block| ((1, block), filled(40)));
    let zeros = (300..310).map(|block| ((1, block), None));
    let copy = ChunkCopy { blocks: data.chain(zeros).collect(), ..ChunkCopy::default() };
    for server in 11..=13 {
        bench.servers.get_mut(&server).unwrap().chunks.insert(0, copy.clone());
    }
    bench
}

fn opened(background: bool) -> Bench {
    let mut bench = clone(background);
    bench.pass_ms(20);
    assert!(bench.opened);
    bench
}

#[test]
fn an_absent_block_comes_from_the_source_and_is_kept() {
    let mut bench = opened(false);
    let read = bench.ask(GuestOp::Read { offset: 298 * BLOCK as u64, len: 4 * BLOCK as u32 });
    bench.pass_ms(300);
    let mut expected = vec![40; 2 * BLOCK];
    expected.resize(4 * BLOCK, 0);
    assert_eq!(bench.bytes(read), Some(expected));
    for server in 1..=3 {
        assert_eq!(bench.servers[&server].block(0, 0, 298), Some(40), "filled into the base layer");
        assert!(!bench.servers[&server].chunks[&0].blocks.contains_key(&(0, 300)), "zeros cost nothing");
    }
    (11..=12).for_each(|server| bench.mode(server, Mode::Down));
    assert_eq!(bench.read(298 * BLOCK as u64, 2 * BLOCK), vec![40; 2 * BLOCK]);
}

#[test]
fn a_read_does_not_wait_for_the_fill() {
    let mut bench = opened(false);
    bench.servers.get_mut(&3).unwrap().mode = Mode::Silent;
    let read = bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
    bench.pass_ms(10);
    assert_eq!(bench.bytes(read), Some(vec![40; BLOCK]));
}

#[test]
pub(super) fn a_part_of_a_block_is_merged_with_the_source() {
    let mut bench = opened(false);
    let write = bench.write(10, 1, 20);
    bench.pass_ms(300);
    assert_eq!(bench.answer(write), Some(Ok(GuestData::Done)));
    let mut expected = vec![40; 50];
    expected[10..30].fill(1);
    assert_eq!(bench.read(0, 50), expected);
}

#[test]
fn another_server_of_the_source_is_asked_when_one_fails() {
    for mode in [Mode::Down, Mode::Silent] {
        let mut bench = clone(false);
        bench.mode(11, mode);
        bench.pass_ms(20);
        let read = bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
        bench.pass_ms(3_000);
        assert_eq!(bench.bytes(read), Some(vec![40; BLOCK]), "{mode:?}");
    }
}

#[test]
fn without_any_server_of_the_source_a_read_waits() {
    let mut bench = clone(false);
    (11..=12).for_each(|server| bench.mode(server, Mode::Down));
    bench.pass_ms(20);
    let read = bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
    bench.pass_ms(10_000);
    assert_eq!(bench.answer(read), None);
    bench.mode(12, Mode::Up);
    bench.pass_ms(3_000);
    assert_eq!(bench.bytes(read), Some(vec![40; BLOCK]));
}

#[test]
fn background_copying_ends_and_the_source_is_not_needed_any_more() {
    let mut bench = opened(true);
    bench.write(5 * BLOCK as u64, 9, BLOCK);
    bench.pass_ms(10_000);
    assert_eq!(bench.master.hydrated, 2);
    (11..=12).for_each(|server| bench.mode(server, Mode::Down));
    assert_eq!(bench.read(5 * BLOCK as u64, BLOCK), vec![9; BLOCK]);
    assert_eq!(bench.read(299 * BLOCK as u64, BLOCK), vec![40; BLOCK]);
    assert_eq!(bench.read(400 * BLOCK as u64, BLOCK), vec![0; BLOCK]);
    assert_eq!(bench.read(CHUNK_BYTES, BLOCK), vec![0; BLOCK]);
    for server in 1..=3 {
        assert_eq!(bench.servers[&server].durable_block(0, 0, 5), Some(40), "under the guest's block too");
    }
}

#[test]
fn the_mark_is_told_only_when_it_is_durable_and_again_after_a_refusal() {
    let mut bench = opened(true);
    bench.master.deaf = true;
    bench.pass_ms(10_000);
    let heard = bench.master.heard.clone();
    assert_eq!(heard.len(), 1, "one report at a time: {heard:?}");
    bench.master.deaf = false;
    bench.tell_master();
    bench.pass_ms(10_000);
    assert_eq!(bench.master.hydrated, 2);
}

#[test]
fn block_status_calls_data_what_a_source_may_have() {
    let mut bench = opened(false);
    bench.write(0, 1, BLOCK);
    let zero = bench.ask(GuestOp::Zero { offset: BLOCK as u64, len: BLOCK as u64, fua: false, may_trim: true });
    assert_eq!(bench.answer(zero), Some(Ok(GuestData::Done)));
    let status = bench.ask(GuestOp::BlockStatus { offset: 0, len: 4 * BLOCK as u32 });
    let extent = |blocks: usize, data| Extent { len: (blocks * BLOCK) as u64, data };
    let extents = vec![extent(1, true), extent(1, false), extent(2, true)];
    assert_eq!(bench.answer(status), Some(Ok(GuestData::Extents(extents))));

    let mut bench = Bench::open(&[]);
    bench.write(BLOCK as u64, 1, BLOCK);
    let status = bench.ask(GuestOp::BlockStatus { offset: 0, len: 4 * BLOCK as u32 });
    let extents = vec![extent(1, false), extent(1, true), extent(2, false)];
    assert_eq!(bench.answer(status), Some(Ok(GuestData::Extents(extents))));
}

#[test]
fn what_a_guest_reads_first_is_told_to_the_master_once() {
    let mut bench = opened(false);
    for block in [7u64, 3, 4, 3, 200] {
        bench.ask(GuestOp::Read { offset: block * BLOCK as u64, len: BLOCK as u32 });
        bench.pass_ms(300);
    }
    bench.pass_ms(50_000);
    assert!(bench.master.boot_set.is_empty(), "the first minute is not over");
    bench.pass_ms(10_000);
    let range = |block, blocks| BlockRange { chunk: 0, block, blocks };
    assert_eq!(bench.master.boot_set, [range(7, 1), range(3, 2), range(200, 1)]);
    bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
    bench.pass_ms(70_000);
    assert_eq!(bench.master.heard, ["boot set 3"]);
}

#[test]
fn a_known_boot_set_is_copied_before_the_rest() {
    let mut bench = clone_with(true, |spec| {
        let range = |chunk, block, blocks| BlockRange { chunk, block, blocks };
        // The second range is longer than a piece; the last two make no sense for this volume.
        spec.boot_set = vec![range(0, 280, 2), range(0, 20, 270), range(9, 0, 1), range(0, 16380, 10)];
    });
    // So slow that each tick brings no more than a piece.
    bench.config(|config| {
        config.hydrate_pieces_max = 1;
        config.hydrate_bytes_per_s = 3 << 20;
        config.hydrate_busy_bytes_per_s = 3 << 20;
    });
    let mut first = Vec::new();
    for _ in 0..300 {
        bench.pass_ms(10);
        let Some(copy) = bench.servers[&1].chunks.get(&0) else { continue };
        for (_, block) in copy.blocks.keys() {
            if !first.contains(block) {
                first.push(*block);
            }
        }
    }
    assert!(first[..256].iter().all(|block| (20..290).contains(block)), "{first:?}");
    bench.pass_ms(60_000);
    assert_eq!(bench.master.hydrated, 2);
    assert!(bench.master.boot_set.is_empty(), "one that is known is not told again");
}

#[test]
fn many_clones_of_one_image_ask_all_its_servers() {
    let mut asked = [0; 3];
    for number in 0..200u64 {
        let mut bench = clone_with(false, |spec| {
            spec.volume = 0x1_0000 + number;
            spec.sources[0].placement = vec![vec![11, 12, 13]];
            spec.sources[0].servers.insert(13, "s13".to_owned());
        });
        bench.pass_ms(20);
        bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
        bench.pass_ms(300);
        for (count, server) in asked.iter_mut().zip(11..=13) {
            *count += bench.servers[&server].reads;
        }
    }
    assert_eq!(asked.iter().sum::<usize>(), 200);
    assert!(asked.iter().all(|count| (45..=90).contains(count)), "uneven: {asked:?}");
}

#[test]
fn background_copying_leaves_a_source_alone_that_has_much_to_do() {
    let mut bench = opened(false);
    bench.ask(GuestOp::Read { offset: 299 * BLOCK as u64, len: BLOCK as u32 });
    bench.pass_ms(300); // connected
    bench.config(|config| {
        config.hydrate_bytes_per_s = 1 << 20;
        config.hydrate_busy_bytes_per_s = 1 << 20;
        config.hydrate_pieces_max = 1;
    });
    (11..=12).for_each(|server| bench.servers.get_mut(&server).unwrap().mode = Mode::Silent);
    bench.pass_ms(300);
    (11..=12).for_each(|server| bench.mode(server, Mode::Up));
    bench.pass_ms(10);
    let reads = |bench: &Bench| bench.servers[&11].reads + bench.servers[&12].reads;
    let before = reads(&bench);
    assert_eq!(before, 2, "the second one took long");
    bench.pass_ms(900);
    assert_eq!(reads(&bench), before, "four times as long nothing is asked");
    bench.pass_ms(5_000);
    assert!(reads(&bench) > before);
}

#[test]
fn a_source_that_moved_is_asked_where_it_is_now() {
    let mut bench = opened(false);
    let copy = bench.servers[&11].chunks[&0].clone();
    bench.servers.get_mut(&6).unwrap().chunks.insert(0, copy);
    for server in 11..=12 {
        bench.servers.get_mut(&server).unwrap().chunks.clear(); // their replicas were dropped: they say "absent"
    }
    let mut spec = bench.volume.spec().clone();
    spec.sources[0].placement = vec![vec![6]];
    spec.sources[0].servers = [(6, "s6".to_owned())].into();
    let asked = bench.control(ControlRequest::Reopen(Box::new(spec)));
    assert_eq!(bench.controls[&asked], Ok(ControlAnswer::Reopened));
    let read = bench.ask(GuestOp::Read { offset: 0, len: BLOCK as u32 });
    bench.pass_ms(300);
    assert_eq!(bench.bytes(read), Some(vec![40; BLOCK]));
}
