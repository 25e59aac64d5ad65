use super::*;

#[test]
fn version_1_segment_headers_still_decode() {
    let identity = Identity { uuid: [7; 16] };
    let mut bytes = b"YJS1\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[7; 16]);
    bytes.extend_from_slice(&[0; 20]);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let bytes: [u8; 64] = bytes.try_into().unwrap();
    assert_eq!(encode_segment_header(&identity, 5, 265), bytes);
    assert_eq!(decode_segment_header(&identity, 5, &bytes), Some(265));
    assert_eq!(decode_segment_header(&identity, 6, &bytes), None);
    assert_eq!(decode_segment_header(&Identity { uuid: [8; 16] }, 5, &bytes), None);
    for bit in 0..64 * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_segment_header(&identity, 5, &flipped), None, "bit {bit}");
    }
}
