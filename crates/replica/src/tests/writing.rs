//! Large data is written in place by other threads, while the server goes on with what does not depend on it.

use super::*;

/// Every write that goes in place goes apart, and waits until the test lets it.
fn held() -> Server {
    let vfs = MemVfs::new();
    let store = Store::open(vfs.clone(), Options { write_apart_bytes_min: 1, ..options() }).unwrap();
    let mut server = Server::of(vfs, store);
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
    server.run_jobs = false;
    server
}

fn flush() -> Frame {
    plain(header(Kind::Flush))
}

fn first_byte(server: &mut Server, connection: ConnectionId, block: u16) -> u8 {
    server.ask(connection, read(0, block, 1)).data[0]
}

#[test]
fn what_is_being_written_is_neither_seen_nor_answered_and_what_comes_behind_waits() {
    let mut server = held();
    server.frame(1, write(1, 0, 2, 0, 2, 16));
    server.frame(1, write(1, 0, 3, 0, 3, 1));
    server.frame(1, flush());
    assert!(server.sent.is_empty() && matches!(server.jobs[..], [Action::Write(_)]));
    assert_eq!(first_byte(&mut server, 1, 0), 1, "reads go on");
    let write = server.jobs.remove(0);
    server.run(write);
    server.turn();
    let acks: Vec<u64> = server.sent.drain(..).map(|(_, frame)| frame.header.sequence).collect();
    assert_eq!(acks, [2, 3]);
    assert_eq!((first_byte(&mut server, 1, 0), first_byte(&mut server, 1, 1)), (3, 2));
    server.run_jobs = true;
    server.run_waiting();
    assert!(matches!(&server.sent.make_contiguous()[..], [(1, frame)] if is_ack(frame)), "the flush");
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    assert_eq!((first_byte(&mut server, 1, 0), first_byte(&mut server, 1, 1)), (3, 2));
}

#[test]
fn a_power_cut_before_the_data_is_there_leaves_what_was_before() {
    let mut server = held();
    server.run_jobs = true;
    is_ack(&server.ask(1, flush()));
    server.run_jobs = false;
    server.frame(1, write(1, 0, 2, 0, 2, 16));
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    let claimed = server.claim(1, 1, 9).unwrap();
    assert_eq!(claimed.chunks[0].position.sequence, 1);
    assert_eq!(first_byte(&mut server, 1, 0), 1);
}

#[test]
fn whoever_asks_how_far_a_chunk_is_hears_of_what_is_being_written() {
    let mut server = held();
    server.frame(1, write(1, 0, 2, 0, 2, 16));
    server.open(2);
    server.frame(2, claim(&write_token(2), 10, &[0, 0]));
    // The threads come late: nothing happens twice.
    server.run_waiting();
    let frames: Vec<(ConnectionId, Frame)> = server.sent.drain(..).collect();
    let [(1, finished), (2, reply)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((is_ack(finished), finished.header.sequence), (true, 2), "it was finished first, and answered");
    let claimed = json_body::<ClaimReply>(reply).unwrap();
    assert_eq!(claimed.chunks[0].position.sequence, 2);
    assert_eq!(first_byte(&mut server, 2, 0), 2);
}

#[test]
fn a_peer_that_pulls_is_told_of_a_chunk_only_when_it_is_written() {
    let mut server = held();
    server.frame(1, write(1, 0, 2, 0, 2, 16));
    server.open(2);
    server.frame(2, claim(&read_token(), 0, &[0, 0]));
    server.sent.clear();
    server.frame(1, write(1, 0, 3, 32, 3, 16));
    assert!(matches!(server.jobs.last(), Some(Action::Write(_))));
    server.frame(2, json_frame(Header { sequence: 3, layer: 0, ..header(Kind::Versions) }, &versions()));
    let told = server.sent.iter().find(|(_, frame)| frame.header.kind == Kind::VersionsReply);
    let body = told.expect("what came before was finished for it").1.body.clone();
    let reply = yuntai_proto::data::VersionsReply::decode(body).unwrap();
    assert_eq!((reply.position.sequence, reply.entries.len()), (3, 32));
}

fn versions() -> yuntai_proto::data::VersionsRequest {
    yuntai_proto::data::VersionsRequest { volume: VOLUME }
}

#[test]
fn a_disk_that_fails_meanwhile_is_told_to_whoever_wrote_and_nothing_has_happened() {
    let mut server = held();
    server.frame(1, write(1, 0, 2, 0, 2, 16));
    server.frame(1, write(1, 0, 3, 40, 3, 16));
    server.vfs.fail_at(server.vfs.operations() + 1, std::io::ErrorKind::StorageFull);
    server.run_jobs = true;
    server.run_waiting();
    let answers: Vec<Frame> = server.sent.drain(..).map(|(_, frame)| frame).collect();
    assert_eq!(refusal(&answers[0]), Refusal::Full);
    assert_eq!(refusal(&answers[1]), Refusal::OutOfOrder { expected: 2 });
    is_ack(&server.ask(1, write(1, 0, 2, 0, 4, 16)));
    assert_eq!(first_byte(&mut server, 1, 0), 4);
}

#[test]
fn writers_that_never_pause_do_not_keep_a_checkpoint_from_beginning() {
    let mut server = held();
    server.frame(1, write(1, 0, 2, 0, 1, 32));
    for sequence in 3..80 {
        server.frame(1, write(1, 0, sequence, 32 * (sequence as u16 % 64), 1, 32)); // waits for the one before
        let at = server.jobs.iter().position(|job| matches!(job, Action::Write(_))).expect("never a pause");
        let job = server.jobs.remove(at);
        server.run(job);
        server.turn();
        if server.jobs.iter().any(|job| matches!(job, Action::Checkpoint(_))) {
            return;
        }
    }
    panic!("no checkpoint was begun");
}

#[test]
fn a_checkpoint_begins_when_large_writes_take_the_journal_for_want_of_one() {
    let mut server = held();
    server.run_jobs = true;
    is_ack(&server.ask(1, write(1, 0, 2, 0, 2, 16)));
    assert_eq!(server.replica.store().in_place_bytes(), 16 * 4096);
    server.run_jobs = false;
    server.turn();
    assert!(server.jobs.is_empty(), "none is due");
    is_ack(&server.ask(1, write(1, 0, 3, 0, 3, 16)));
    server.turn();
    let [Action::Checkpoint(_)] = server.jobs[..] else { panic!("{} jobs", server.jobs.len()) };
    server.run_jobs = true;
    server.run_waiting();
    is_ack(&server.ask(1, write(1, 0, 4, 0, 4, 16)));
    assert_eq!(server.replica.store().in_place_bytes(), 16 * 4096, "in place again");
    assert_eq!(first_byte(&mut server, 1, 15), 4);
}
