use super::*;
use yuntai_proto::data::Pull;
use yuntai_proto::Position;

/// Carry frames between a pulling server and its source until both are silent.
fn carry(target: &mut Server, source: &mut Server) -> Vec<Frame> {
    let mut answers = Vec::new();
    for _ in 0..10_000 {
        let mut moved = false;
        while let Some((connection, frame)) = target.sent.pop_front() {
            moved = true;
            match connection {
                100 => source.frame(200, frame),
                _ => answers.push(frame),
            }
        }
        while let Some((_, frame)) = source.sent.pop_front() {
            moved = true;
            target.frame(100, frame);
        }
        if !moved {
            return answers;
        }
    }
    panic!("the servers never fall silent");
}

fn pull_frame(min_sequence: u64, bytes_per_s_max: u64) -> Frame {
    pull_of(min_sequence, bytes_per_s_max, false)
}

fn pull_of(min_sequence: u64, bytes_per_s_max: u64, accept_loss: bool) -> Frame {
    let source = "there:7101".into();
    let pull = Pull { source, token: read_token(), min_sequence, bytes_per_s_max, accept_loss };
    json_frame(header(Kind::Pull), &pull)
}

fn begin(sequence: u64) -> Frame {
    plain(Header { sequence, ..header(Kind::BeginRebuild) })
}

fn end(generation: u64, sequence: u64) -> Frame {
    plain(Header { generation, sequence, ..header(Kind::EndRebuild) })
}

/// A source with 600 blocks and a target that missed most of them.
fn pair() -> (Server, Server) {
    let (mut target, mut source) = (Server::new(), Server::new());
    for server in [&mut target, &mut source] {
        server.open(1);
        server.claim(1, 1, 9).unwrap();
        is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 200)));
    }
    is_ack(&target.ask(1, write(1, 0, 2, 900, 66, 1)));
    is_ack(&source.ask(1, write(1, 0, 2, 100, 2, 300)));
    is_ack(&source.ask(1, write(1, 0, 3, 500, 3, 200)));
    source.open(200);
    (target, source)
}

fn dialed(target: &mut Server) {
    let (dial, address) = target.dials.pop().expect("the source is called");
    assert_eq!(address, "there:7101");
    target.event(Event::Dialed { dial, connection: 100 });
}

fn assert_equal(target: &mut Server, source: &mut Server) {
    let versions = |server: &mut Server| server.replica.store().versions(VOLUME, 0, 0).unwrap();
    assert_eq!(versions(target), versions(source));
    for block in (0..1000).step_by(100) {
        let (left, right) = (target.ask(1, read(0, block, 100)), source.ask(1, read(0, block, 100)));
        assert_eq!((left.body, left.data), (right.body, right.data));
    }
}

#[test]
fn a_returning_server_pulls_while_the_stream_goes_on() {
    let (mut target, mut source) = pair();
    is_ack(&target.ask(1, begin(4)));
    assert!(matches!(refusal(&target.ask(1, read(0, 0, 1))), Refusal::Busy { .. }));
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    // The stream overtakes the pull: blocks 150..152 must end as the stream says.
    let streamed = write(1, 0, 4, 150, 44, 2);
    is_ack(&source.ask(1, streamed.clone()));
    let early = target.sent.pop_front().unwrap();
    is_ack(&target.ask(1, streamed));
    target.sent.push_front(early);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(&answers[..], [ack] if is_ack(ack)));
    assert_eq!(refusal(&target.ask(1, end(1, 3))), Refusal::OutOfOrder { expected: 5 });
    is_ack(&target.ask(1, end(1, 4)));
    assert_equal(&mut target, &mut source);
    let position = Position { generation: 1, sequence: 4 };
    let mut target = Server::over(target.vfs.crash(&mut |_| 0));
    let state = target.replica.store().chunk_states(VOLUME)[0];
    assert_eq!((state.position, state.rebuilding), (position, false));
    target.open(1);
    target.claim(1, 1, 9).unwrap();
    assert_equal(&mut target, &mut source);
}

#[test]
fn a_pull_that_is_asked_for_again_goes_on_at_the_new_rate() {
    let (mut target, mut source) = pair();
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 1));
    dialed(&mut target);
    assert!(carry(&mut target, &mut source).is_empty(), "one byte a second: the first window, and no more");
    target.frame(1, pull_frame(3, 0));
    assert!(target.dials.is_empty(), "the source is not called again");
    let answers = carry(&mut target, &mut source);
    let [refused, done] = &answers[..] else { panic!("{answers:?}") };
    assert!(matches!(refusal(refused), Refusal::Busy { .. }) && is_ack(done));
    is_ack(&target.ask(1, end(1, 3)));
    assert_equal(&mut target, &mut source);
}

#[test]
fn the_source_waits_until_it_is_far_enough() {
    let (mut target, mut source) = pair();
    is_ack(&target.ask(1, begin(5)));
    target.frame(1, pull_frame(4, 0));
    dialed(&mut target);
    assert!(carry(&mut target, &mut source).is_empty());
    // The source has its own writer too; its answer is sorted out by the connection.
    source.frame(1, write(1, 0, 4, 150, 44, 2));
    is_ack(&source.sent.pop_front().unwrap().1);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(&answers[..], [ack] if is_ack(ack)));
    is_ack(&target.ask(1, end(1, 4)));
    assert_equal(&mut target, &mut source);
}

#[test]
fn a_source_that_never_gets_there_says_busy() {
    let (mut target, mut source) = pair();
    is_ack(&target.ask(1, begin(5)));
    target.frame(1, pull_frame(4, 0));
    dialed(&mut target);
    assert!(carry(&mut target, &mut source).is_empty());
    source.now_us += 3_000_000;
    source.event(Event::Tick);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(refusal(&answers[0]), Refusal::Busy { .. }));
    assert_eq!(target.closed, vec![100]);
}

#[test]
fn a_pull_fails_with_its_source_its_asker_or_its_chunk() {
    // The source breaks.
    let (mut target, _) = pair();
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    target.sent.clear();
    target.event(Event::Closed { connection: 100 });
    assert!(matches!(refusal(&target.sent.pop_front().unwrap().1), Refusal::Busy { .. }));
    // It cannot be reached.
    target.frame(1, pull_frame(3, 0));
    let (dial, _) = target.dials.pop().unwrap();
    target.event(Event::DialFailed { dial, reason: "no route".into() });
    assert!(matches!(refusal(&target.sent.pop_front().unwrap().1), Refusal::Busy { .. }));
    // It says nothing.
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    target.sent.clear();
    target.now_us += 11_000_000;
    target.event(Event::Tick);
    assert!(matches!(refusal(&target.sent.pop_front().unwrap().1), Refusal::Busy { .. }));
    // A new beginning cancels it.
    target.frame(1, pull_frame(3, 0));
    target.frame(1, begin(4));
    let kinds: Vec<Kind> = target.sent.drain(..).map(|(_, frame)| frame.header.kind).collect();
    assert_eq!(kinds, vec![Kind::Error, Kind::Ack]);
    let (dial, _) = target.dials.pop().unwrap();
    target.closed.clear();
    target.event(Event::Dialed { dial, connection: 101 });
    assert_eq!(target.closed, vec![101], "nobody wants it any more");
    // The asker goes.
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    target.closed.clear();
    target.event(Event::Closed { connection: 1 });
    assert_eq!(target.closed, vec![100]);
}

#[test]
fn the_rate_is_kept() {
    let (mut target, mut source) = pair();
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 500 << 10));
    dialed(&mut target);
    let mut ticks = 0;
    loop {
        if let Some(answer) = carry(&mut target, &mut source).pop() {
            is_ack(&answer);
            break;
        }
        ticks += 1;
        assert!(ticks < 10_000);
        target.now_us += 20_000;
        target.event(Event::Tick);
    }
    // 500 blocks are 2,000 KiB; the last window goes without waiting.
    assert!((30..=200).contains(&ticks), "{ticks} ticks of 20 ms");
}

#[test]
fn a_rebuild_must_be_begun_again_after_a_restart() {
    let (mut target, _) = pair();
    is_ack(&target.ask(1, begin(4)));
    let mut target = Server::over(target.vfs.crash(&mut |_| 0));
    target.open(1);
    let reply = target.claim(1, 1, 9).unwrap();
    assert!(reply.chunks[0].rebuilding);
    assert!(matches!(refusal(&target.ask(1, end(1, 3))), Refusal::Busy { .. }));
    assert!(matches!(refusal(&target.ask(1, read(0, 0, 1))), Refusal::Busy { .. }));
    is_ack(&target.ask(1, begin(4)));
}

fn checkpointed(server: &mut Server) {
    let mut job = server.replica.store().begin_checkpoint().unwrap();
    while !job.step().unwrap() {}
    server.replica.store().end_checkpoint(job);
}

#[test]
fn a_pull_brings_everything_but_what_is_damaged_at_the_source() {
    let (mut target, mut source) = pair();
    // Blocks 120 and 121 rot in the source's files, and with block 600's group its neighbours' entries.
    checkpointed(&mut source);
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    for block in [120u64, 121] {
        assert!(source.vfs.flip_bit(&key.data_path(), block * 4096, 0));
    }
    assert!(source.vfs.flip_bit(&key.entries_path(), 600 / 21 * 512, 0));
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(refusal(&answers[0]), Refusal::SourceDamaged { chunk: 0, .. }), "{answers:?}");
    // Whoever asks the next source fetches only these.
    is_ack(&target.ask(1, end(1, 3)));
    for (block, byte) in [(100, 2), (119, 2), (122, 2), (399, 2), (500, 3), (580, 3), (620, 3), (699, 3)] {
        let answer = target.ask(1, read(0, block, 1));
        assert_eq!(answer.data, vec![byte; BLOCK_BYTES], "block {block}");
    }
    assert_eq!(target.ask(1, read(0, 120, 2)).data, vec![1; 2 * BLOCK_BYTES], "what it had before");
    assert_eq!(source.replica.store().damaged(9).len(), 1);
}

#[test]
fn what_no_source_has_is_lost_until_it_is_written_and_outlives_a_crash_and_a_checkpoint() {
    let (mut target, mut source) = pair();
    checkpointed(&mut source);
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    assert!(source.vfs.flip_bit(&key.data_path(), 101 * 4096, 0));
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    let answers = carry(&mut target, &mut source);
    assert_eq!(refusal(&answers[0]), Refusal::SourceDamaged { chunk: 0, block: 101 });
    target.frame(1, pull_of(3, 0, true));
    dialed(&mut target);
    source.open(200);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(&answers[..], [ack] if is_ack(ack)));
    is_ack(&target.ask(1, end(1, 3)));
    let damaged = |target: &mut Server| {
        assert_eq!(refusal(&target.ask(1, read(0, 100, 4))), Refusal::Damaged { chunk: 0, block: 101 });
        assert_eq!(target.ask(1, read(0, 102, 4)).header.kind, Kind::ReadReply);
        assert_eq!(target.replica.status().damaged[0].named, [101]);
    };
    damaged(&mut target);
    let again = |vfs| {
        let mut server = Server::over(vfs);
        server.open(1);
        server.claim(1, 1, 9).unwrap();
        server
    };
    let mut target = again(target.vfs.crash(&mut |_| 0));
    damaged(&mut target);
    checkpointed(&mut target);
    let mut target = again(target.vfs.crash(&mut |_| 0));
    damaged(&mut target);
    is_ack(&target.ask(1, write(1, 0, 4, 101, 77, 1)));
    assert_eq!(target.ask(1, read(0, 101, 1)).data[0], 77);
    assert!(target.replica.status().damaged.is_empty());
}

#[test]
fn what_one_source_gave_is_not_lost_though_the_next_lacks_it() {
    let (mut target, mut first) = pair();
    let (_, mut second) = pair();
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    for (source, block) in [(&mut first, 101u64), (&mut second, 120)] {
        checkpointed(source);
        assert!(source.vfs.flip_bit(&key.data_path(), block * 4096, 0));
    }
    // The second one does not even know what it had there.
    let group = 120 / 21 * 512;
    assert!(second.vfs.flip_bit(&key.entries_path(), group, 0));
    is_ack(&target.ask(1, begin(4)));
    let mut pull = |source: &mut Server| {
        target.frame(1, pull_frame(3, 0));
        dialed(&mut target);
        carry(&mut target, source)
    };
    let answers = pull(&mut first);
    assert_eq!(refusal(&answers[0]), Refusal::SourceDamaged { chunk: 0, block: 101 });
    let answers = pull(&mut second);
    assert!(matches!(&answers[..], [ack] if is_ack(ack)), "between them they had everything");
    is_ack(&target.ask(1, end(1, 3)));
    for block in [101, 120] {
        assert_eq!(target.ask(1, read(0, block, 1)).header.kind, Kind::ReadReply);
    }
}

#[test]
fn what_may_be_right_here_is_not_given_up_for_a_source_that_does_not_know() {
    let (mut target, mut source) = pair();
    checkpointed(&mut source);
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_frame(3, 0));
    dialed(&mut target);
    assert!(matches!(&carry(&mut target, &mut source)[..], [ack] if is_ack(ack)));
    assert!(source.vfs.flip_bit(&key.entries_path(), 120 / 21 * 512, 0));
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_of(3, 0, true));
    dialed(&mut target);
    source.open(200);
    let answers = carry(&mut target, &mut source);
    assert!(matches!(refusal(&answers[0]), Refusal::SourceDamaged { chunk: 0, .. }));
}

#[test]
fn who_comes_back_with_a_lost_block_is_known_by_its_checksum() {
    let (mut target, mut source) = pair();
    checkpointed(&mut source);
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    assert!(source.vfs.flip_bit(&key.data_path(), 101 * 4096, 0));
    is_ack(&target.ask(1, begin(4)));
    target.frame(1, pull_of(3, 0, true));
    dialed(&mut target);
    assert!(matches!(&carry(&mut target, &mut source)[..], [ack] if is_ack(ack)));
    is_ack(&target.ask(1, end(1, 3)));
    checkpointed(&mut target);
    // It has been away, and pulls from the one that marked the block: its own is the right one.
    let (_, mut back) = pair();
    is_ack(&back.ask(1, begin(4)));
    back.frame(1, pull_frame(3, 0));
    dialed(&mut back);
    target.open(200);
    assert!(matches!(&carry(&mut back, &mut target)[..], [ack] if is_ack(ack)));
    is_ack(&back.ask(1, end(1, 3)));
    assert_eq!(back.ask(1, read(0, 101, 1)).data, vec![2; BLOCK_BYTES]);
}
