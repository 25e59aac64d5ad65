use serde_json::{json, Value};
use yuntai_proto::data::ChunkState;

use super::*;

pub(super) fn control(server: &mut Server, connection: ConnectionId, body: &Value) -> Value {
    let answer = server.ask(connection, json_frame(Header { volume: 0, ..header(Kind::Control) }, body));
    json_body(&answer).unwrap()
}

#[test]
fn a_new_store_lets_nobody_in_before_a_master_says_so() {
    let vfs = MemVfs::new();
    let strict = Options { admitted: false, ..options() };
    let store = Store::open(vfs.clone(), strict).unwrap();
    let mut server = Server::of(vfs, store);
    server.open(7);
    assert!(matches!(server.claim(7, 1, 5), Err(Refusal::Busy { .. })));
    let status = control(&mut server, 7, &json!({"op": "status"}));
    assert_eq!(status["ok"]["admitted"], false);
    let name = status["ok"]["store"].clone();
    assert!(control(&mut server, 7, &json!({"op": "admit", "store": "x"}))["error"].is_string());
    assert_eq!(control(&mut server, 7, &json!({"op": "admit", "store": name})), json!({"ok": true}));
    assert!(server.claim(7, 1, 5).is_ok());
    assert_eq!(control(&mut server, 7, &json!({"op": "status"}))["ok"]["admitted"], true);
}

#[test]
pub(super) fn an_inventory_is_told_and_what_nobody_wants_is_dropped() {
    let mut server = Server::new();
    server.open(7);
    server.claim(7, 1, 5).unwrap();
    for chunk in [2, 3, 5] {
        assert!(is_ack(&server.ask(7, write(1, chunk, 1, 0, 9, 1))));
    }
    assert_eq!(control(&mut server, 7, &json!({"op": "volumes"})), json!({"ok": [VOLUME]}));
    let here = control(&mut server, 7, &json!({"op": "inventory", "volume": VOLUME}))["ok"].clone();
    let states: Vec<ChunkState> = serde_json::from_value(here.clone()).unwrap();
    assert_eq!(states.iter().map(|state| state.chunk).collect::<Vec<_>>(), [2, 3, 5]);
    assert!(is_ack(&server.ask(7, write(1, 3, 2, 0, 8, 1))));
    let ask = |term: u64| json!({"op": "drop_chunks", "volume": VOLUME, "term": term, "chunks": here});
    assert_eq!(control(&mut server, 7, &ask(4)), json!({"ok": [2, 5]}), "chunk 3 has moved on");
    assert!(control(&mut server, 7, &ask(3))["error"].as_str().unwrap().contains("term 3"));
    let left = control(&mut server, 7, &json!({"op": "inventory", "volume": VOLUME}));
    assert_eq!(left["ok"].as_array().unwrap().len(), 1);
    assert!(!server.replica.store().has_doomed(), "a checkpoint follows at once");
}
