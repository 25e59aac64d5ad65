use super::*;
use crate::frame::{Header, Kind};

#[test]
fn what_goes_in_comes_out_in_any_steps() {
    let mut expected = Vec::new();
    for step in [1, 7, 63, 64, 65, 4096, 100_000] {
        let mut outbox = Outbox::new();
        expected.clear();
        for (id, data) in [0, 4096, 8192, 0, 0, 4096].into_iter().enumerate() {
            let body = Bytes::from(vec![id as u8; id * 300]);
            let frame = Frame::new(Header::new(Kind::Write, id as u64), body, Bytes::from(vec![id as u8; data]));
            outbox.push(&frame);
            expected.extend_from_slice(&frame.header.encode());
            expected.extend_from_slice(&frame.body);
            expected.extend_from_slice(&frame.data);
        }
        assert_eq!(outbox.len(), expected.len());
        let mut got = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = outbox.slices(&mut slices);
            let flat: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = flat.len().min(step);
            got.extend_from_slice(&flat[..taken]);
            outbox.advance(taken);
        }
        assert_eq!(got, expected);
    }
}
