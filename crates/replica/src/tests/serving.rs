use super::*;
use yuntai_proto::frame::{FLAG_DURABLE, FLAG_STATES_ONLY};

fn claimed() -> Server {
    let mut server = Server::new();
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    server
}

#[test]
fn writes_are_read_back_with_their_checksums() {
    let mut server = claimed();
    is_ack(&server.ask(1, write(1, 0, 1, 3, 7, 2)));
    let zero = Header { sequence: 2, layer: 1, block: 4, blocks: 1, ..header(Kind::Zero) };
    is_ack(&server.ask(1, plain(zero)));
    let answer = server.ask(1, read(0, 2, 4));
    assert_eq!(answer.header.kind, Kind::ReadReply);
    assert_eq!(answer.body[..4], [0, 2, 1, 0]);
    assert_eq!(answer.body[8..12], block_crc(&[7; BLOCK_BYTES]).to_le_bytes());
    assert_eq!(answer.data, vec![7; BLOCK_BYTES]);
    let states = plain(Header { flags: FLAG_STATES_ONLY, ..read(0, 2, 4).header });
    let states = server.ask(1, states);
    assert_eq!((&states.body, states.data.len()), (&answer.body, 0));
}

#[test]
fn a_block_damaged_on_the_way_is_not_taken() {
    let mut server = claimed();
    let good = write(1, 0, 1, 0, 1, 1);
    let mut bytes = good.data.to_vec();
    bytes[9] ^= 1;
    let bad = Frame { data: bytes.into(), ..good.clone() };
    assert!(matches!(refusal(&server.ask(1, bad)), Refusal::Invalid { .. }));
    is_ack(&server.ask(1, good));
}

#[test]
fn order_holds_and_duplicates_are_acknowledged() {
    let mut server = claimed();
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
    assert_eq!(refusal(&server.ask(1, write(1, 0, 3, 0, 3, 1))), Refusal::OutOfOrder { expected: 2 });
    is_ack(&server.ask(1, write(1, 1, 1, 0, 1, 1)));
    is_ack(&server.ask(1, write(1, 0, 2, 0, 2, 1)));
    assert_eq!(server.ask(1, read(0, 0, 1)).data[0], 2);
}

#[test]
fn a_whole_turn_is_one_append_and_reads_see_it() {
    let mut server = claimed();
    let before = server.vfs.operations();
    let now = server.now();
    for sequence in 1..=10u8 {
        let frame = write(1, 0, sequence.into(), 0, sequence, 1);
        server.replica.apply(Event::Frame { connection: 1, frame }, now);
    }
    server.replica.apply(Event::Frame { connection: 1, frame: read(0, 0, 1) }, now);
    server.turn();
    assert_eq!(server.vfs.operations(), before + 1);
    assert_eq!(server.sent.len(), 11);
    assert_eq!(server.sent.pop_back().unwrap().1.data[0], 10);
}

#[test]
pub(super) fn flush_and_durable_writes_answer_after_the_sync_all_with_one() {
    let mut server = claimed();
    server.run_jobs = false;
    let now = server.now();
    let durable = |sequence| {
        let frame = write(1, 0, sequence, 0, 1, 1);
        Frame { header: Header { flags: FLAG_DURABLE, ..frame.header }, ..frame }
    };
    server.replica.apply(Event::Frame { connection: 1, frame: durable(1) }, now);
    server.replica.apply(Event::Frame { connection: 1, frame: durable(2) }, now);
    server.replica.apply(Event::Frame { connection: 1, frame: plain(header(Kind::Flush)) }, now);
    server.turn();
    assert_eq!((server.sent.len(), server.jobs.len()), (0, 1));
    // What comes while a sync runs goes with the next.
    server.frame(1, durable(3));
    assert_eq!((server.sent.len(), server.jobs.len()), (0, 1));
    server.run_waiting();
    assert_eq!((server.sent.len(), server.jobs.len()), (3, 1));
    server.run_waiting();
    assert_eq!((server.sent.len(), server.jobs.len()), (4, 0));
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    assert_eq!(server.claim(1, 1, 9).unwrap().chunks[0].position.sequence, 3);
}

#[test]
fn an_unflushed_write_may_be_lost_but_not_in_the_middle() {
    let mut server = claimed();
    for sequence in 1..=5u8 {
        is_ack(&server.ask(1, write(1, 0, sequence.into(), sequence.into(), sequence, 1)));
        if sequence == 2 {
            is_ack(&server.ask(1, plain(header(Kind::Flush))));
        }
    }
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    assert_eq!(server.claim(1, 1, 9).unwrap().chunks[0].position.sequence, 2);
}

#[test]
fn a_failed_sync_ends_the_process() {
    let mut server = claimed();
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
    server.run_jobs = false;
    server.frame(1, plain(header(Kind::Flush)));
    server.vfs.fail_at(server.vfs.operations() + 1, std::io::ErrorKind::Other);
    server.run_waiting();
    assert!(server.died.is_some());
    assert!(server.sent.is_empty(), "an unkept promise is not given");
}

#[test]
fn a_failed_append_refuses_the_whole_turn_and_goes_on() {
    let mut server = claimed();
    let now = server.now();
    server.vfs.fail_at(server.vfs.operations() + 1, std::io::ErrorKind::StorageFull);
    for sequence in 1..=3 {
        server.replica.apply(Event::Frame { connection: 1, frame: write(1, 0, sequence, 0, 1, 1) }, now);
    }
    server.turn();
    assert_eq!(server.sent.len(), 3);
    assert!(server.sent.drain(..).all(|(_, frame)| refusal(&frame) == Refusal::Full));
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
}

#[test]
pub(super) fn a_full_journal_holds_mutations_back_until_a_checkpoint() {
    let mut server = claimed();
    server.run_jobs = false;
    let mut sequence = 0;
    while server.replica.wants(1) {
        sequence += 1;
        server.frame(1, write(1, 0, sequence, 0, sequence as u8, 64));
        assert!(sequence < 1000, "the journal has no limit");
    }
    assert!(server.replica.store().journal_bytes() < 3 << 20);
    let answered = server.sent.len();
    assert!((answered as u64) < sequence);
    // Reads go on meanwhile.
    server.frame(1, read(0, 0, 1));
    assert_eq!(server.sent.pop_back().unwrap().1.header.kind, Kind::ReadReply);
    server.run_jobs = true;
    server.run_waiting();
    assert!(!server.unlinked.is_empty(), "a turn must not give back the room itself: that may take long");
    assert_eq!(server.sent.len() as u64, sequence);
    assert!(server.sent.drain(..).all(|(_, frame)| is_ack(&frame)));
    assert!(server.replica.wants(1));
    assert_eq!(server.ask(1, read(0, 0, 1)).data[0], sequence as u8);
}

#[test]
pub(super) fn a_flush_waits_for_the_mutations_that_were_sent_before_it() {
    let mut server = claimed();
    server.run_jobs = false;
    let mut sequence = 0;
    while server.replica.wants(1) {
        sequence += 1;
        server.frame(1, write(1, 0, sequence, 0, 1, 64));
        assert!(sequence < 1000, "the journal has no limit");
    }
    server.sent.clear();
    server.frame(1, plain(header(Kind::Flush)));
    let sync = server.jobs.iter().position(|job| matches!(job, Action::Sync(_)));
    if let Some(sync) = sync.map(|at| server.jobs.remove(at)) {
        server.run(sync);
        server.turn();
    }
    assert!(server.sent.is_empty(), "the journal is full: what the flush promises is not written yet");
    server.run_jobs = true;
    server.run_waiting();
    assert_eq!(server.replica.store().chunk_state(VOLUME, 0).unwrap().position.sequence, sequence);
    assert!(server.sent.iter().all(|(_, frame)| is_ack(frame)));
    assert_eq!(server.sent.back().unwrap().1.header.sequence, 0, "the flush is answered last");
}

#[test]
fn limits_and_nonsense() {
    let mut server = claimed();
    assert!(matches!(refusal(&server.ask(1, read(0, 0, 1025))), Refusal::Invalid { .. }));
    assert!(matches!(refusal(&server.ask(1, read(0, 16383, 2))), Refusal::Invalid { .. }));
    server.frame(1, plain(header(Kind::ClaimReply)));
    assert_eq!(server.closed, vec![1]);
    for connection in 2..1100 {
        server.open(connection);
    }
    assert!(server.closed.len() > 70, "more connections than the limit");
}

#[test]
fn a_damaged_block_is_refused_and_told_in_the_status() {
    let mut server = claimed();
    is_ack(&server.ask(1, write(1, 0, 1, 3, 7, 2)));
    server.now_us += 40_000_000;
    server.event(Event::Tick);
    assert!(server.vfs.flip_bit("volumes/0000000000000077/00000000.00000001.data", 4 * 4096 + 5, 1));
    assert_eq!(refusal(&server.ask(1, read(0, 0, 16))), Refusal::Damaged { chunk: 0, block: 4 });
    assert_eq!(server.ask(1, read(0, 3, 1)).header.kind, Kind::ReadReply);
    assert_eq!(server.replica.status().damaged_blocks, 1);
}
