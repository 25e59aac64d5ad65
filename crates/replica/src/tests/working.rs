use serde_json::{json, Value};

use super::tending::control;
use super::*;

/// Let time pass until `until` says that it is enough.
fn wait(server: &mut Server, mut until: impl FnMut(&mut Server) -> bool) {
    for _ in 0..100_000 {
        if until(server) {
            return;
        }
        server.now_us += 20_000;
        server.event(Event::Tick);
    }
    panic!("it never comes");
}

fn in_layer(layer: u32, sequence: u64, block: u16, byte: u8, blocks: u16) -> Frame {
    let mut frame = write(1, 0, sequence, block, byte, blocks);
    frame.header.layer = layer;
    frame
}

/// Layer 1 with 200 blocks, layer 2 over the first 150 of them.
fn two_layers() -> Server {
    let mut server = Server::new();
    server.open(7);
    is_ack(&server.ask(7, claim_of(&[0, 0, 1])));
    is_ack(&server.ask(7, in_layer(1, 1, 0, 1, 200)));
    is_ack(&server.ask(7, in_layer(2, 2, 0, 2, 150)));
    checkpoint(&mut server);
    server
}

fn claim_of(parents: &[u32]) -> Frame {
    claim(&write_token(1), 5, parents)
}

fn is_ack(frame: &Frame) -> bool {
    frame.header.kind != Kind::Error || panic!("{}", String::from_utf8_lossy(&frame.body))
}

fn checkpoint(server: &mut Server) {
    let mut job = server.replica.store().begin_checkpoint().unwrap();
    while !job.step().unwrap() {}
    server.replica.store().end_checkpoint(job);
}

fn worker(server: &mut Server, name: &str) -> Value {
    let status = control(server, 7, &json!({"op": "status"}));
    status["ok"]["workers"].as_array().unwrap().iter().find(|of| of["name"] == name).unwrap().clone()
}

#[test]
pub(super) fn a_sweep_is_asked_for_until_it_is_done() {
    let mut server = two_layers();
    let ask = |term: u64, live: &[u32]| json!({"op": "sweep", "volume": VOLUME, "term": term, "parents": [0, 0, 1], "live": live});
    assert!(control(&mut server, 7, &ask(4, &[3]))["error"].is_string());
    control(&mut server, 7, &ask(4, &[2]));
    assert!(control(&mut server, 7, &ask(3, &[2]))["error"].as_str().unwrap().contains("term 3"));
    let mut answer = Value::Null;
    wait(&mut server, |server| {
        answer = control(server, 7, &ask(4, &[2]));
        answer["ok"]["done"] == true
    });
    assert_eq!(answer["ok"]["freed_bytes"], 150 * 4096);
    assert_eq!(control(&mut server, 7, &ask(4, &[2])), answer, "asked again, it answers the same");
    let shown = server.ask(7, plain(Header { layer: 2, block: 149, blocks: 2, ..header(Kind::Read) }));
    assert_eq!((shown.data[0], shown.data[4096]), (2, 1));
    assert_eq!(worker(&mut server, "sweep")["state"], "idle");
}

#[test]
fn an_account_counts_and_changes_are_told() {
    let mut server = two_layers();
    let ask = json!({"op": "account", "volume": VOLUME, "parents": [0, 0, 1], "live": [1, 2], "chunks": [0, 9]});
    let mut answer = Value::Null;
    wait(&mut server, |server| {
        answer = control(server, 7, &ask);
        answer["ok"]["done"] == true
    });
    let block = 4096;
    let due = json!([
        {"layer": 1, "bytes": 200 * block, "exclusive_bytes": 150 * block, "visible_bytes": 200 * block},
        {"layer": 2, "bytes": 150 * block, "exclusive_bytes": 150 * block, "visible_bytes": 200 * block},
    ]);
    assert_eq!(answer["ok"]["layers"], due);
    let ask = json!({"op": "changes", "volume": VOLUME, "parents": [0, 0, 1], "since": 1, "node": 2, "chunks": [9, 0]});
    let changed = control(&mut server, 7, &ask);
    assert_eq!(changed, json!({"ok": [{"chunk": 0, "block": 0, "blocks": 150, "data": true}]}));
    let ask = json!({"op": "changes", "volume": VOLUME, "parents": [0, 0, 1], "since": null, "node": 1, "chunks": [0]});
    assert_eq!(control(&mut server, 7, &ask), json!({"ok": [{"chunk": 0, "block": 0, "blocks": 200, "data": true}]}));
    is_ack(&server.ask(7, plain(Header { sequence: 3, ..header(Kind::BeginRebuild) })));
    assert!(control(&mut server, 7, &ask)["error"].as_str().unwrap().contains("rebuilt"));
}

#[test]
fn the_scrubber_finds_what_has_rotted_at_its_rate() {
    let mut server = two_layers();
    let key = yuntai_store::LayerKey { volume: VOLUME, chunk: 0, layer: 1 };
    assert!(server.vfs.flip_bit(&key.data_path(), (64 << 20) + 160 * 4096, 5));
    assert!(control(&mut server, 7, &json!({"op": "tune", "tunables": {"scrub": 1}}))["error"].is_string());
    let slow = json!({"op": "tune", "tunables": {"scrub_bytes_per_s": 100_000}});
    assert_eq!(control(&mut server, 7, &slow), json!({"ok": true}));
    assert_eq!(worker(&mut server, "scrub")["state"], "idle");
    assert_eq!(control(&mut server, 7, &json!({"op": "scrub"})), json!({"ok": true}));
    let begun = server.now_us;
    let mut status = Value::Null;
    wait(&mut server, |server| {
        status = control(server, 7, &json!({"op": "status"}))["ok"].clone();
        status["scrubbed_at_s"] != 0
    });
    let seconds = (server.now_us - begun) / 1_000_000;
    assert!((10..40).contains(&seconds), "350 blocks at 100,000 bytes a second: {seconds} s");
    assert_eq!(status["damaged"], json!([{"volume": VOLUME, "chunk": 0, "blocks": 1, "named": [160]}]));
    let states = server.claim(7, 1, 5).unwrap().chunks;
    assert!(states[0].damaged);
    // Not again before it is due; then by itself.
    let ended = status["scrubbed_at_s"].clone();
    assert_eq!(worker(&mut server, "scrub")["note"], "next in 168 h");
    let fast = json!({"op": "tune", "tunables": {"scrub_bytes_per_s": 1_000_000_000, "scrub_period_s": 60}});
    control(&mut server, 7, &fast);
    wait(&mut server, |server| {
        let again = control(server, 7, &json!({"op": "status"}))["ok"]["scrubbed_at_s"].clone();
        again != ended
    });
}

#[test]
fn a_scrub_goes_on_where_it_was_after_a_restart() {
    let mut server = two_layers();
    control(&mut server, 7, &json!({"op": "tune", "tunables": {"scrub_bytes_per_s": 10_000}}));
    control(&mut server, 7, &json!({"op": "scrub"}));
    let mut layer = 0;
    wait(&mut server, |server| {
        layer = server.replica.store().scrub_mark().at.map_or(0, |at| at.layer);
        layer == 2
    });
    let mut server = Server::over(server.vfs.crash(&mut |_| 0));
    assert_eq!(server.replica.store().scrub_mark().at.unwrap().layer, 2);
    // What is left is quickly done.
    server.event(Event::Tick);
    assert_ne!(server.replica.store().scrub_mark().ended_s, 0);
}

#[test]
fn a_deep_read_waits_for_its_map_and_holds_nobody_up() {
    let mut server = Server::new();
    server.open(7);
    let parents: Vec<u32> = (0..200u32).map(|layer| layer.saturating_sub(1)).collect();
    is_ack(&server.ask(7, claim_of(&parents)));
    for layer in 1..200u64 {
        is_ack(&server.ask(7, in_layer(layer as u32, layer, (layer % 50) as u16, layer as u8, 1)));
    }
    checkpoint(&mut server);
    server.run_jobs = false;
    let deep = plain(Header { layer: 199, block: 40, blocks: 10, ..header(Kind::Read) });
    server.frame(7, deep.clone());
    assert!(server.sent.is_empty(), "it waits");
    // Others are served.
    let other = plain(Header { layer: 1, block: 1, blocks: 1, ..header(Kind::Read) });
    assert_eq!(server.ask(7, other).data[0], 1);
    is_ack(&server.ask(7, in_layer(199, 200, 41, 77, 1)));
    server.run_waiting();
    let answer = server.sent.pop_front().unwrap().1;
    let bytes: Vec<u8> = answer.data.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(bytes, [190, 77, 192, 193, 194, 195, 196, 197, 198, 199]);
    // Now there is one.
    assert_eq!(server.ask(7, deep).data.len(), 10 * BLOCK_BYTES);
    // Whoever is gone is not answered.
    let mut far = write(1, 1, 1, 0, 1, 1);
    far.header.layer = 199;
    is_ack(&server.ask(7, far));
    server.event(Event::Closed { connection: 7 });
    server.run_waiting();
    assert!(server.sent.is_empty());
}
