use super::*;
use yuntai_proto::Position;

const KEY: LayerKey = LayerKey { volume: 7, chunk: 3, layer: 1 };

fn sample() -> Group {
    let mut group = EMPTY;
    let position = Position { generation: 2, sequence: 9 };
    group[4].slot = Slot::Entry(BlockEntry { state: BlockState::Data, crc: 0xdead_beef, position });
    group[20].slot = Slot::Entry(BlockEntry { state: BlockState::Zero, crc: 0, position });
    group[7].slot = Slot::Lost;
    group[9].half = Half::Second;
    group
}

#[test]
fn a_group_comes_back_and_every_flipped_bit_is_found() {
    let bytes = encode(&KEY, 5, &sample());
    assert_eq!(decode(&KEY, 5, &bytes), Some(sample()));
    for bit in 0..GROUP_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&KEY, 5, &flipped), None, "bit {bit}");
    }
}

#[test]
fn a_group_at_another_place_is_refused() {
    let bytes = encode(&KEY, 5, &sample());
    assert_eq!(decode(&KEY, 6, &bytes), None);
    assert_eq!(decode(&LayerKey { chunk: 4, ..KEY }, 5, &bytes), None);
    assert_eq!(decode(&LayerKey { layer: 2, ..KEY }, 5, &bytes), None);
}

#[test]
fn a_hole_is_absent_and_version_1_bytes_still_decode() {
    assert_eq!(decode(&KEY, 0, &[0; GROUP_BYTES]), Some(EMPTY));
    let bytes = encode(&KEY, 5, &sample());
    let entry = [0xef, 0xbe, 0xad, 0xde, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes[96..120], entry);
    assert_eq!(bytes[9 * 24 + 5], 1);
    assert_eq!(bytes[504..], [222, 113, 136, 231, 211, 187, 78, 34]);
}
