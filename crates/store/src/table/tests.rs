use super::*;

fn sample() -> Table {
    let row = Row {
        volume: 0x1122,
        chunk: 3,
        rebuilding: true,
        position: Position { generation: 4, sequence: 5 },
        layers: vec![(0, 8192), (1, 4096)],
    };
    Table { next_lsn: 100, first_segment: 7, rows: vec![row] }
}

#[test]
fn version_1_bytes_still_decode() {
    let mut bytes = b"YCP1\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&[100, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend_from_slice(&[0x22, 0x11, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(Table::decode(&bytes), Ok(sample()));
    assert_eq!(sample().encode(), bytes);
}

#[test]
fn damage_and_other_versions_are_told_apart() {
    let bytes = sample().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Table::decode(&flipped), Err(TableError::Damaged));
    }
    for cut in 0..bytes.len() {
        assert_eq!(Table::decode(&bytes[..cut]), Err(TableError::Damaged));
    }
    let mut newer = bytes[..bytes.len() - 4].to_vec();
    newer[4] = 2;
    let crc = crc32c::crc32c(&newer);
    newer.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(Table::decode(&newer), Err(TableError::Version(2)));
}
