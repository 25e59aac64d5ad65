use super::*;
use proptest::prelude::*;

fn sample() -> Header {
    Header {
        kind: Kind::Write,
        flags: FLAG_DURABLE,
        body_len: 4,
        data_len: 4096,
        request_id: 0x0102_0304_0506_0708,
        volume: 0x1122_3344_5566_7788,
        generation: 3,
        sequence: 9,
        chunk: 4,
        layer: 5,
        block: 6,
        blocks: 1,
    }
}

#[test]
fn version_1_bytes_still_decode() {
    let mut bytes = b"YTF1\x01\x14\x01\0\x04\0\0\0\0\x10\0\0".to_vec();
    bytes.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    bytes.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 1, 0]);
    bytes.extend_from_slice(&[228, 55, 83, 88]);
    assert_eq!(sample().encode()[..], bytes[..]);
    assert_eq!(Header::decode(bytes[..].first_chunk().unwrap()), Ok(sample()));
}

/// Numbers on the wire never move: a kind that is added gets a new one.
#[test]
fn kinds_keep_their_numbers() {
    let known = [1, 2, 3, 10, 11, 12, 20, 21, 22, 23, 24, 30, 31, 40, 41, 42, 43, 44, 45, 60, 61, 62, 63, 99];
    for value in 0..=u8::MAX {
        let kind = Kind::try_from(value);
        assert_eq!(kind.is_ok(), known.contains(&value), "{value}");
        assert!(kind.is_err() || kind.is_ok_and(|kind| kind as u8 == value));
    }
    assert_eq!([Kind::Write as u8, Kind::Read as u8, Kind::Ack as u8, Kind::Pull as u8], [20, 30, 23, 44]);
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = sample().encode();
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    let with = |header: Header| {
        let mut buffer = BytesMut::from(&header.encode()[..]);
        let capacity = buffer.capacity();
        let result = Frame::parse(&mut buffer);
        (result, buffer.capacity() == capacity)
    };
    let long_body = Header { body_len: BODY_BYTES_MAX as u32 + 1, ..sample() };
    assert_eq!(with(long_body), (Err(FrameError::BodyTooLong(long_body.body_len)), true));
    let long_data = Header { data_len: DATA_BYTES_MAX as u32 + 1, ..sample() };
    assert_eq!(with(long_data), (Err(FrameError::DataTooLong(long_data.data_len)), true));
    let mut buffer = BytesMut::from(&sample().encode()[..]);
    assert_eq!(Frame::parse_within(&mut buffer, 4096, 0), Err(FrameError::DataTooLong(4096)));
}

proptest! {
    /// However the stream is cut, the frames that went in come out.
    #[test]
    fn frames_come_out_of_any_pieces(sizes in prop::collection::vec((0usize..300, 0usize..9000), 1..6), step in 1usize..5000) {
        let frames: Vec<Frame> = sizes.iter().enumerate().map(|(id, (body, data))| {
            let header = Header::new(Kind::Read, id as u64);
            Frame::new(header, Bytes::from(vec![1; *body]), Bytes::from(vec![2; *data]))
        }).collect();
        let mut stream = Vec::new();
        for frame in &frames {
            stream.extend_from_slice(&frame.header.encode());
            stream.extend_from_slice(&frame.body);
            stream.extend_from_slice(&frame.data);
        }
        let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = Frame::parse(&mut buffer).unwrap() {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, frames);
        prop_assert!(buffer.is_empty());
    }

    /// Noise never panics and never passes.
    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), HEADER_BYTES..300)) {
        prop_assert!(Frame::parse(&mut BytesMut::from(&noise[..])).is_err());
    }
}
