use serde_json::{json, Value};
use yuntai_proto::data::ChunkState;
use yuntai_proto::order::{sign_order, Order};

use super::*;

/// Ask; what must be an order, as one.
pub(super) fn control(server: &mut Server, connection: ConnectionId, body: &Value) -> Value {
    let ordered = ["delete_volume", "admit", "drop_chunks", "sweep"].contains(&body["op"].as_str().unwrap());
    let order = ordered.then(|| json!({"op": "order", "order": order_of(server, body)}));
    unsigned(server, connection, order.as_ref().unwrap_or(body))
}

/// Signed, and never the same twice.
pub(super) fn order_of(server: &Server, body: &Value) -> String {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let order = Order {
        server: 1,
        run: "run".into(),
        term: body["term"].as_u64().unwrap_or(0),
        issued_unix_s: server.now().unix_s,
        nonce: number.to_string(),
        request: serde_json::from_value(body.clone()).unwrap(),
    };
    sign_order(SECRET, &order)
}

fn unsigned(server: &mut Server, connection: ConnectionId, body: &Value) -> Value {
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

/// What a gateway that was taken over could send: it knows the cluster's secret, and whatever it heard.
#[test]
pub(super) fn only_the_master_destroys() {
    let mut server = Server::new();
    server.open(7);
    server.claim(7, 1, 5).unwrap();
    assert!(is_ack(&server.ask(7, write(1, 2, 1, 0, 9, 1))));
    let here = control(&mut server, 7, &json!({"op": "inventory", "volume": VOLUME}))["ok"].clone();
    let drop = json!({"op": "drop_chunks", "volume": VOLUME, "term": 9, "chunks": here});
    let sweep = json!({"op": "sweep", "volume": VOLUME, "term": 9, "parents": [0, 0], "live": []});
    let delete = json!({"op": "delete_volume", "volume": VOLUME});
    for body in [&drop, &sweep, &delete, &json!({"op": "admit", "store": "x"})] {
        let error = unsigned(&mut server, 7, body)["error"].as_str().unwrap().to_owned();
        assert!(error.contains("must come as an order"), "{error}");
    }
    let refused = |server: &mut Server, text: &str, why: &str| {
        let answer = unsigned(server, 7, &json!({"op": "order", "order": text}));
        assert!(answer["error"].as_str().unwrap().contains(why), "{answer} {why}");
    };
    let order = order_of(&server, &delete);
    refused(&mut server, &order.replace("\"server\":1", "\"server\":2"), "signature");
    refused(&mut server, &token(VOLUME, Rights::Write, 1, u64::MAX), "signature");
    let nested = order_of(&server, &json!({"op": "order", "order": order.clone()}));
    refused(&mut server, &nested, "needs none");
    server.now_us += 601_000_000;
    refused(&mut server, &order, "signed at");
    let order = order_of(&server, &json!({"op": "drop_chunks", "volume": VOLUME, "term": 9, "chunks": []}));
    assert_eq!(unsigned(&mut server, 7, &json!({"op": "order", "order": order.clone()})), json!({"ok": []}));
    refused(&mut server, &order, "followed before");
    let late = order_of(&server, &delete);
    refused(&mut server, &late, "term 0");
    server.replica.config.run = "another".into();
    let order = order_of(&server, &json!({"op": "sweep", "volume": VOLUME, "term": 9, "parents": [0, 0], "live": []}));
    refused(&mut server, &order, "another run");
    assert_eq!(control(&mut server, 7, &json!({"op": "inventory", "volume": VOLUME}))["ok"], here);
}
