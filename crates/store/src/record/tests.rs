use super::*;
use proptest::prelude::*;

const TAG: u32 = 0x5151_5151;

fn sample() -> Header {
    Header {
        kind: Kind::Write,
        lsn: 258,
        synced_lsn: 7,
        volume: 0x1122_3344_5566_7788,
        position: Position { generation: 3, sequence: 9 },
        chunk: 4,
        layer: 5,
        block: 6,
        blocks: 1,
        body_len: 4,
        data_len: 4096,
        body_crc: 0xa1b2_c3d4,
        in_place: None,
    }
}

#[test]
fn version_1_bytes_still_decode() {
    let mut bytes = b"YJR1\x01\x01\0\0".to_vec();
    bytes.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    bytes.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 1, 0, 4, 0, 0, 0, 0, 16, 0, 0]);
    bytes.extend_from_slice(&[0xd4, 0xc3, 0xb2, 0xa1, 0x51, 0x51, 0x51, 0x51]);
    bytes.extend_from_slice(&[64, 32, 183, 124]);
    assert_eq!(sample().encode(TAG)[..], bytes[..]);
    assert_eq!(Header::decode(bytes[..].first_chunk().unwrap(), TAG), Some(sample()));
}

#[test]
fn data_in_place_is_told_by_flags() {
    for (half, flags) in [(Half::First, 1), (Half::Second, 3)] {
        let header = Header { in_place: Some(half), data_len: 0, ..sample() };
        let bytes = header.encode(TAG);
        assert_eq!(bytes[6..8], [flags, 0]);
        assert_eq!(Header::decode(&bytes, TAG), Some(header));
    }
}

#[test]
fn another_stores_records_and_flipped_bits_are_not_ours() {
    let bytes = sample().encode(TAG);
    assert_eq!(Header::decode(&bytes, TAG + 1), None);
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Header::decode(&flipped, TAG), None, "bit {bit}");
    }
}

#[test]
fn lengths_that_do_not_fit_the_kind_are_refused() {
    for bad in [
        Header { body_len: 5, ..sample() },
        Header { data_len: 8192, ..sample() },
        Header { block: 16_384, ..sample() },
        Header { kind: Kind::Zero, ..sample() },
        Header { in_place: Some(Half::First), ..sample() },
    ] {
        assert_eq!(Header::decode(&bad.encode(TAG), TAG), None, "{bad:?}");
    }
}

proptest! {
    /// A record is whole only as it was written: any changed byte of body or data is found.
    #[test]
    fn a_changed_byte_is_found(states in prop::collection::vec(0u8..3, 1..6), at in any::<usize>(), bit in 0u8..8) {
        let data: Vec<u8> = states.iter().enumerate().filter(|(_, state)| **state == 2)
            .flat_map(|(index, _)| vec![index as u8 + 1; BLOCK_BYTES]).collect();
        let mut blocks = data.chunks(BLOCK_BYTES);
        let crcs: Vec<u8> = states.iter()
            .map(|state| if *state == 2 { block_crc(blocks.next().unwrap()) } else { 0 })
            .flat_map(u32::to_le_bytes).collect();
        let body: Vec<u8> = states.iter().copied().chain(crcs).collect();
        let header = Header {
            kind: Kind::Fill,
            blocks: states.len() as u16,
            body_len: body.len() as u32,
            data_len: data.len() as u32,
            body_crc: crc32c::crc32c(&body),
            ..sample()
        };
        prop_assert!(header.is_whole(&body, &data));
        let mut both: Vec<u8> = body.iter().chain(&data).copied().collect();
        let at = at % both.len();
        both[at] ^= 1 << bit;
        let (body, data) = both.split_at(body.len());
        prop_assert!(!header.is_whole(body, data));
        prop_assert!(!header.is_whole(body, &data[..data.len().saturating_sub(1)]));
    }
}
