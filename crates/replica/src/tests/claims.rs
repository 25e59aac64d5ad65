use super::*;
use yuntai_proto::data::Layers;

fn fenced(generation: u64, session: u64) -> Refusal {
    Refusal::Fenced { generation, session }
}

#[test]
fn nothing_without_a_claim() {
    let mut server = Server::new();
    server.open(1);
    for frame in [
        write(1, 0, 1, 0, 1, 1),
        read(0, 0, 1),
        plain(header(Kind::Flush)),
        plain(header(Kind::Versions)),
        plain(Header { blocks: 1, ..header(Kind::ReadLayer) }),
        plain(Header { sequence: 1, ..header(Kind::BeginRebuild) }),
        plain(header(Kind::EndRebuild)),
        json_frame(header(Kind::Layers), &Layers { parents: vec![0, 0] }),
    ] {
        let kind = frame.header.kind;
        let answer = server.ask(1, frame);
        assert!(matches!(refusal(&answer), Refusal::Denied { .. }), "{kind:?}");
    }
    assert!(server.replica.store().chunk_states(VOLUME).is_empty());
}

#[test]
fn tokens_are_checked() {
    let mut server = Server::new();
    server.open(1);
    let other_secret = sign_token(
        &[6; 32],
        &Token { volume: VOLUME, rights: Rights::Write, generation: 1, expires_unix_s: UNIX_S + 60 },
    );
    for bad in [
        other_secret,
        token(VOLUME, Rights::Write, 1, UNIX_S - 1),
        token(VOLUME + 1, Rights::Write, 1, UNIX_S + 60),
        token(VOLUME, Rights::Write, 0, UNIX_S + 60),
        "nonsense".into(),
    ] {
        let answer = server.ask(1, claim(&bad, 1, &[0, 0]));
        assert!(matches!(refusal(&answer), Refusal::Denied { .. }), "{bad}");
    }
    for parents in [vec![], vec![1], vec![0, 1], vec![0, 2, 0]] {
        let answer = server.ask(1, claim(&write_token(1), 1, &parents));
        assert!(matches!(refusal(&answer), Refusal::Invalid { .. }), "{parents:?}");
    }
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    let mut server = Server::new();
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    is_ack(&server.ask(1, write(1, 0, 1, 3, 7, 1)));
    server.open(2);
    let answer = server.ask(2, claim(&read_token(), 0, &[0, 0]));
    assert_eq!(answer.header.kind, Kind::ClaimReply);
    assert_eq!(server.ask(2, read(0, 3, 1)).data, vec![7; BLOCK_BYTES]);
    for frame in [write(1, 0, 2, 0, 1, 1), plain(header(Kind::Flush))] {
        assert!(matches!(refusal(&server.ask(2, frame)), Refusal::Denied { .. }));
    }
    // A reader does not disturb the writer.
    is_ack(&server.ask(1, write(1, 0, 2, 3, 8, 1)));
}

#[test]
pub(super) fn a_higher_generation_fences_a_lower_for_ever() {
    let mut server = Server::new();
    server.open(1);
    server.open(2);
    server.claim(1, 3, 10).unwrap();
    is_ack(&server.ask(1, write(3, 0, 1, 0, 1, 1)));
    server.claim(2, 4, 20).unwrap();
    assert_eq!(refusal(&server.ask(1, write(3, 0, 2, 0, 1, 1))), fenced(4, 20));
    assert_eq!(refusal(&server.ask(1, plain(Header { generation: 3, ..header(Kind::Flush) }))), fenced(4, 20));
    assert_eq!(refusal(&server.ask(1, read(0, 0, 1))), fenced(4, 20));
    assert_eq!(server.claim(1, 3, 10).unwrap_err(), fenced(4, 20));
    assert_eq!(server.claim(1, 4, 10).unwrap_err(), fenced(4, 20));
    is_ack(&server.ask(2, write(4, 0, 2, 0, 2, 1)));
    // The power goes: the fence stays.
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    assert_eq!(server.claim(1, 3, 10).unwrap_err(), fenced(4, 20));
    server.claim(1, 4, 20).unwrap();
}

#[test]
fn a_frame_of_another_generation_than_the_claims_is_refused() {
    let mut server = Server::new();
    server.open(1);
    server.claim(1, 3, 10).unwrap();
    assert_eq!(refusal(&server.ask(1, write(2, 0, 1, 0, 1, 1))), fenced(3, 10));
    assert_eq!(refusal(&server.ask(1, write(4, 0, 1, 0, 1, 1))), fenced(3, 10));
    assert!(server.replica.store().chunk_states(VOLUME).is_empty());
}

#[test]
fn the_same_writer_again_closes_its_older_connection() {
    let mut server = Server::new();
    server.open(1);
    server.open(2);
    server.claim(1, 3, 10).unwrap();
    server.claim(2, 3, 10).unwrap();
    assert_eq!(server.closed, vec![1]);
    is_ack(&server.ask(2, write(3, 0, 1, 0, 1, 1)));
    server.frame(1, write(3, 0, 2, 0, 1, 1));
    assert!(server.sent.is_empty(), "a closed connection says nothing more");
}

#[test]
fn a_claim_is_answered_only_when_all_that_it_tells_is_durable() {
    let mut server = Server::new();
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    is_ack(&server.ask(1, write(1, 0, 1, 3, 7, 1)));
    server.run_jobs = false;
    server.open(2);
    server.frame(2, claim(&write_token(2), 8, &[0, 0]));
    assert!(server.sent.is_empty());
    server.run_waiting();
    let reply: ClaimReply = json_body(&server.sent.pop_front().unwrap().1).unwrap();
    assert_eq!(reply.chunks[0].position.sequence, 1);
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    server.open(1);
    assert_eq!(server.claim(1, 2, 8).unwrap().chunks[0].position.sequence, 1);
}

#[test]
fn layers_only_grow() {
    let mut server = Server::new();
    server.open(1);
    server.claim(1, 1, 9).unwrap();
    let too_high = Header { layer: 2, ..write(1, 0, 1, 0, 1, 1).header };
    let frame = Frame { header: too_high, ..write(1, 0, 1, 0, 1, 1) };
    assert!(matches!(refusal(&server.ask(1, frame.clone())), Refusal::Invalid { .. }));
    let grow = |parents: &[u32]| json_frame(header(Kind::Layers), &Layers { parents: parents.to_vec() });
    assert!(matches!(refusal(&server.ask(1, grow(&[0]))), Refusal::Invalid { .. }));
    is_ack(&server.ask(1, grow(&[0, 0, 1])));
    is_ack(&server.ask(1, frame));
}

#[test]
fn a_deleted_volume_is_refused_to_all() {
    let mut server = Server::new();
    server.open(1);
    server.open(2);
    server.claim(1, 1, 9).unwrap();
    is_ack(&server.ask(1, write(1, 0, 1, 0, 1, 1)));
    let request = serde_json::json!({ "op": "delete_volume", "volume": VOLUME });
    assert_eq!(super::tending::control(&mut server, 2, &request), serde_json::json!({"ok": true}));
    assert_eq!(refusal(&server.ask(1, write(1, 0, 2, 0, 1, 1))), fenced(u64::MAX, 0));
    assert_eq!(server.claim(2, 2, 9).unwrap_err(), fenced(u64::MAX, 0));
    assert!(matches!(refusal(&server.ask(2, claim(&read_token(), 0, &[0]))), Refusal::Denied { .. }));
    let status = server.ask(2, json_frame(Header::new(Kind::Control, 5), &serde_json::json!({ "op": "status" })));
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!((&status["ok"]["server"], &status["ok"]["replicas"]), (&1.into(), &0.into()));
}
