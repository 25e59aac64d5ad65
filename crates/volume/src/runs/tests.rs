use bytes::BytesMut;
use yuntai_proto::{Header, Kind};

use super::*;

fn reply(blocks: &[(BlockState, u8)]) -> Frame {
    let mut body: Vec<u8> = blocks.iter().map(|(state, _)| *state as u8).collect();
    let mut data = BytesMut::new();
    for (state, fill) in blocks {
        let block = [*fill; BLOCK_BYTES];
        let crc = if *state == BlockState::Data { block_crc(&block) } else { 0 };
        body.extend_from_slice(&crc.to_le_bytes());
        if *state == BlockState::Data {
            data.extend_from_slice(&block);
        }
    }
    Frame::new(Header::new(Kind::ReadReply, 1), body.into(), data.freeze())
}

use BlockState::{Absent, Data, Zero};

#[test]
fn runs_follow_the_states() {
    let runs = from_reply(&reply(&[(Data, 1), (Data, 2), (Absent, 0), (Zero, 0), (Data, 3)]), 5, true).unwrap();
    let shape: Vec<(usize, BlockState)> = runs.iter().map(|run| (run.blocks, run.state)).collect();
    assert_eq!(shape, [(2, Data), (1, Absent), (1, Zero), (1, Data)]);
    assert_eq!(runs[0].data[BLOCK_BYTES], 2);
    assert_eq!(runs[3].data[0], 3);
    assert_eq!(absent_span(&runs), Some((2, 3)));
}

#[test]
fn a_flipped_bit_is_found_and_a_short_answer_refused() {
    let mut frame = reply(&[(Data, 1), (Data, 2)]);
    let mut bytes = frame.data.to_vec();
    bytes[BLOCK_BYTES + 7] ^= 1;
    frame.data = bytes.into();
    assert_eq!(from_reply(&frame, 2, true), Err(BadReply::Damaged { block: 1 }));
    frame.data = frame.data.slice(..BLOCK_BYTES);
    assert_eq!(from_reply(&frame, 2, true), Err(BadReply::Malformed));
    assert_eq!(from_reply(&frame, 3, true), Err(BadReply::Malformed));
    let mut unknown = reply(&[(Data, 1)]);
    unknown.body = [&[9u8][..], &unknown.body[1..]].concat().into();
    assert_eq!(from_reply(&unknown, 1, true), Err(BadReply::Malformed));
}

#[test]
fn a_source_fills_only_what_is_absent() {
    let own = from_reply(&reply(&[(Data, 1), (Absent, 0), (Zero, 0), (Absent, 0), (Data, 2)]), 5, true).unwrap();
    let (first, end) = absent_span(&own).unwrap();
    assert_eq!((first, end), (1, 4));
    let found = from_reply(&reply(&[(Data, 7), (Data, 8), (Absent, 0)]), 3, true).unwrap();
    let whole = overlay(&own, &found, first);
    let shape: Vec<(usize, BlockState)> = whole.iter().map(|run| (run.blocks, run.state)).collect();
    assert_eq!(shape, [(1, Data), (1, Data), (1, Zero), (1, Absent), (1, Data)]);
    assert_eq!(whole[1].data[0], 7, "the block that lay under our zeros is not taken");
    assert_eq!(whole[4].data[0], 2);
}

#[test]
fn bytes_are_cut_at_any_offset() {
    let runs = from_reply(&reply(&[(Data, 1), (Zero, 0), (Data, 3)]), 3, true).unwrap();
    let got = parts(&runs, 4000, 4096 + 200);
    assert_eq!(got.len(), 3);
    assert_eq!(got[0], Part::Data(Bytes::from(vec![1; 96])));
    assert_eq!(got[1], Part::Zero(4096));
    assert_eq!(got[2], Part::Data(Bytes::from(vec![3; 104])));
}
