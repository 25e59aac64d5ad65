use bytes::{BufMut, Bytes};
use proptest::prelude::*;

use super::*;
use crate::frame::Kind;

/// Feed `bytes` in steps as the intake has room, never more than `step` at a time.
fn feed(intake: &mut Intake, mut bytes: &[u8], step: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let mut room = intake.room();
        let len = step.min(room.remaining_mut()).min(bytes.len());
        assert!(len > 0, "there is always room");
        room.put_slice(&bytes[..len]);
        bytes = &bytes[len..];
        while let Some(frame) = intake.frame().expect("all of them are whole") {
            frames.push(frame);
        }
    }
    frames
}

fn frame(number: u64, data_len: usize) -> Frame {
    let body = Bytes::from(vec![number as u8; data_len / 1024]);
    let data: Vec<u8> = (0..data_len).map(|at| (at as u64 * 31 + number) as u8).collect();
    Frame::new(Header::new(Kind::Write, number), body, data.into())
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|one| [&one.header.encode()[..], &one.body, &one.data].concat()).collect()
}

proptest! {
    #[test]
    fn every_frame_comes_out_as_it_went_in(
        lens in proptest::collection::vec(prop_oneof![Just(0), Just(4096), Just(LARGE_BYTES), 0..400_000usize], 1..12),
        step in prop_oneof![1..100usize, 1000..500_000usize],
    ) {
        let frames: Vec<Frame> = (0..).zip(&lens).map(|(number, len)| frame(number, *len)).collect();
        let step = step.max(encode(&frames).len() / 5000);
        let mut intake = Intake::new(BytesMut::new());
        prop_assert_eq!(feed(&mut intake, &encode(&frames), step), frames);
    }
}

#[test]
fn large_data_begins_at_a_page_and_its_memory_is_used_again() {
    let mut intake = Intake::new(BytesMut::new());
    let mut places = Vec::new();
    for number in 0..20 {
        let sent = frame(number, 1 << 20);
        let came = feed(&mut intake, &encode(std::slice::from_ref(&sent)), 50_000);
        assert_eq!(came, [sent]);
        assert_eq!(came[0].data.as_ptr().align_offset(PAGE_BYTES), 0);
        places.push(came[0].data.as_ptr());
    }
    places.sort_unstable();
    places.dedup();
    assert!(places.len() <= 4, "{} places for 20 frames, none kept", places.len());
}

#[test]
fn a_frame_that_is_kept_keeps_its_bytes() {
    let mut intake = Intake::new(BytesMut::new());
    let sent: Vec<Frame> = (0..12).map(|number| frame(number, 1 << 20)).collect();
    let kept: Vec<Frame> =
        sent.iter().flat_map(|one| feed(&mut intake, &encode(std::slice::from_ref(one)), 1 << 20)).collect();
    assert_eq!(kept, sent);
}

#[test]
fn nonsense_is_refused() {
    let mut intake = Intake::new(BytesMut::from(&[0u8; 64][..]));
    assert!(intake.frame().is_err());
}
