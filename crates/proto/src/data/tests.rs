use super::*;
use crate::types::BlockState;
use proptest::prelude::*;

#[test]
fn version_1_bytes_still_decode() {
    let position = Position { generation: 1, sequence: 2 };
    let entry = BlockEntry { state: BlockState::Data, crc: 0xdead_beef, position };
    let position = Position { generation: 3, sequence: 4 };
    let whole = VersionsReply { position, entries: vec![(5, 6, entry)], lost: Vec::new() };
    let mut bytes = vec![3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    bytes.extend_from_slice(&[5, 0, 0, 0, 6, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde, 2, 0, 0, 0]);
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(whole.encode(), bytes);
    assert_eq!(VersionsReply::decode(bytes.clone().into()), Ok(whole.clone()));
    // What was lost came later, behind everything that older readers know.
    let broken = VersionsReply { lost: vec![(7, 8)], ..whole };
    bytes.extend_from_slice(&[7, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(broken.encode(), bytes);
    assert_eq!(VersionsReply::decode(bytes.into()), Ok(broken));
}

#[test]
fn refusals_keep_their_json() {
    let known = [
        (Refusal::Fenced { generation: 2, session: 3 }, r#"{"code":"fenced","generation":2,"session":3}"#),
        (Refusal::OutOfOrder { expected: 4 }, r#"{"code":"out_of_order","expected":4}"#),
        (Refusal::Full, r#"{"code":"full"}"#),
        (Refusal::Damaged { chunk: 1, block: 2 }, r#"{"code":"damaged","chunk":1,"block":2}"#),
        (Refusal::Busy { message: "m".into() }, r#"{"code":"busy","message":"m"}"#),
        (Refusal::Io { message: "m".into() }, r#"{"code":"io","message":"m"}"#),
    ];
    for (refusal, json) in known {
        assert_eq!(serde_json::to_string(&refusal).unwrap(), json);
        assert_eq!(serde_json::from_str::<Refusal>(json).unwrap(), refusal);
    }
}

proptest! {
    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = VersionsReply::decode(noise.into());
    }
}
