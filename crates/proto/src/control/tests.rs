use super::*;

fn open() -> OpenVolume {
    let source = Source {
        volume: 9,
        layer: 1,
        parents: vec![0, 0],
        token: "t".to_owned(),
        size_bytes: 4096,
        placement: vec![vec![1]],
        servers: [(1, "a:1".to_owned())].into(),
    };
    OpenVolume {
        volume: u64::MAX,
        generation: 7,
        token: "w".to_owned(),
        read_token: "r".to_owned(),
        size_bytes: 4096,
        read_only: false,
        parents: vec![0, 0],
        head: 1,
        placement: vec![vec![1, 2, 3]],
        servers: [(1, "a:1".to_owned()), (22, "b:2".to_owned())].into(),
        stale: vec![3],
        sources: vec![source],
        hydrated_chunks: 0,
        export: "x".to_owned(),
        prefer: vec![],
        moves: vec![],
        boot_set: vec![],
        given_up: Vec::new(),
        upkeep: None,
    }
}

#[test]
fn requests_come_back_from_their_json() {
    let open = open();
    let resize = GatewayRequest::Resize {
        volume: 1,
        generation: 2,
        size_bytes: 3,
        placement: open.placement.clone(),
        servers: open.servers.clone(),
    };
    let standby =
        GatewayRequest::Standby { volume: 1, ticket: "j-1".to_owned(), size_bytes: 4096, export: "x".to_owned() };
    for request in [GatewayRequest::Open(Box::new(open)), resize, standby, GatewayRequest::Status {}] {
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<GatewayRequest>(&json).unwrap(), request, "{json}");
    }
}

#[test]
fn a_key_that_is_no_server_is_named() {
    let json = serde_json::to_string(&GatewayRequest::Open(Box::new(open()))).unwrap().replace("\"22\"", "\"cs-22\"");
    let error = serde_json::from_str::<GatewayRequest>(&json).unwrap_err().to_string();
    assert!(error.contains("cs-22"), "{error}");
}
