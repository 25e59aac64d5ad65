use std::io::IoSlice;

use proptest::prelude::*;

use super::*;

const STRUCTURED: Agreed = Agreed { structured: true, allocation: true };

fn request(command: u16, flags: u16, offset: u64, len: u32) -> Request {
    Request { flags, command, cookie: 7, offset, len }
}

fn taken(request: Request, data: &[u8], agreed: Agreed, read_only: bool) -> Option<Want> {
    let mut input = BytesMut::from(&request.encode()[..]);
    input.put_slice(data);
    take(&mut input, agreed, read_only)
}

fn drained(mut out: Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 8];
        let used = out.slices(&mut slices);
        let piece: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        out.advance(piece.len());
        all.extend(piece);
    }
    all
}

#[test]
fn requests_become_operations() {
    use command_flag::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
    let zero = |may_trim, fua| GuestOp::Zero { offset: 512, len: 4096, fua, may_trim };
    let table: &[(u16, u16, GuestOp)] = &[
        (command::READ, DF, GuestOp::Read { offset: 512, len: 4096 }),
        (command::FLUSH, 0, GuestOp::Flush),
        (command::TRIM, FUA, zero(true, true)),
        (command::WRITE_ZEROES, NO_HOLE | FAST_ZERO, zero(false, false)),
        (command::BLOCK_STATUS, REQ_ONE, GuestOp::BlockStatus { offset: 512, len: 4096 }),
    ];
    for (number, flags, op) in table {
        let asked = request(*number, *flags, 512, 4096);
        assert_eq!(taken(asked, b"", STRUCTURED, false), Some(Want::Op(asked, op.clone())));
    }
    let write = request(command::WRITE, FUA, 1, 3);
    let op = GuestOp::Write { offset: 1, data: Bytes::from_static(b"abc"), fua: true };
    assert_eq!(taken(write, b"abc", STRUCTURED, false), Some(Want::Op(write, op)));
    assert_eq!(taken(write, b"ab", STRUCTURED, false), None, "the last byte is still to come");
}

#[test]
fn nonsense_is_refused_and_hopeless_nonsense_cut_off() {
    let plain = Agreed::default();
    let refused = |asked: Request, agreed, read_only| match taken(asked, &[0; 16], agreed, read_only) {
        Some(Want::Refuse(_, number)) => number,
        other => panic!("{asked:?} gave {other:?}"),
    };
    assert_eq!(refused(request(command::READ, 0, 0, REQUEST_BYTES_MAX + 1), plain, false), error::EINVAL);
    assert_eq!(refused(request(99, 0, 0, 16), plain, false), error::EINVAL);
    assert_eq!(refused(request(command::READ, 1 << 9, 0, 16), plain, false), error::EINVAL);
    assert_eq!(refused(request(command::BLOCK_STATUS, 0, 0, 16), plain, false), error::EINVAL);
    assert_eq!(refused(request(command::WRITE, 0, 0, 16), plain, true), error::EPERM);
    assert_eq!(refused(request(command::TRIM, 0, 0, 16), plain, true), error::EPERM);
    assert_eq!(taken(request(command::WRITE, 0, 0, REQUEST_BYTES_MAX + 1), b"", plain, false), Some(Want::Leave));
    assert_eq!(taken(request(command::DISC, 0, 0, 0), b"", plain, false), Some(Want::Leave));
    assert_eq!(take(&mut BytesMut::from(&[0; 28][..]), plain, false), Some(Want::Leave));
}

#[test]
fn a_simple_read_is_header_and_bytes() {
    let asked = request(command::READ, 0, 0, 6);
    let mut out = Outbox::new();
    let parts = vec![Part::Data(Bytes::from_static(b"abc")), Part::Zero(3)];
    assert!(reply(&mut out, &asked, Agreed::default(), Ok(GuestData::Read(parts))));
    assert_eq!(drained(out), [&simple_reply(0, 7)[..], b"abc\0\0\0"].concat());
}

#[test]
fn a_structured_read_shows_holes_unless_it_must_not() {
    let parts = vec![Part::Data(Bytes::from(vec![1; 10])), Part::Zero(8192), Part::Data(Bytes::from(vec![2; 5]))];
    let shape = |flags: u16| {
        let mut out = Outbox::new();
        let asked = request(command::READ, flags, 1000, 8207);
        reply(&mut out, &asked, STRUCTURED, Ok(GuestData::Read(parts.clone())));
        let bytes = drained(out);
        let mut left = &bytes[..];
        let mut chunks = Vec::new();
        while !left.is_empty() {
            left.get_u32();
            let (flags, kind) = (left.get_u16(), left.get_u16());
            left.get_u64();
            let len = left.get_u32() as usize;
            let offset = (&left[..8]).get_u64();
            left.advance(len);
            chunks.push((flags, kind, offset, len));
        }
        chunks
    };
    let holes =
        [(0, chunk::OFFSET_DATA, 1000, 18), (0, chunk::OFFSET_HOLE, 1010, 12), (1, chunk::OFFSET_DATA, 9202, 13)];
    assert_eq!(shape(0), holes);
    assert_eq!(shape(command_flag::DF), [(1, chunk::OFFSET_DATA, 1000, 8215)]);
}

#[test]
fn errors_take_the_form_that_was_agreed_and_shutdown_has_none() {
    let asked = request(command::READ, 0, 0, 6);
    let mut out = Outbox::new();
    assert!(reply(&mut out, &asked, STRUCTURED, Err(GuestError::Invalid)));
    let bytes = drained(out);
    assert_eq!((&bytes[4..8], &bytes[20..26]), (&[0, 1, 0x80, 1][..], &[0, 0, 0, 22, 0, 0][..]));
    let mut out = Outbox::new();
    assert!(reply(&mut out, &request(command::WRITE, 0, 0, 6), STRUCTURED, Err(GuestError::NoSpace)));
    assert_eq!(drained(out), simple_reply(error::ENOSPC, 7));
    let mut out = Outbox::new();
    assert!(!reply(&mut out, &asked, STRUCTURED, Err(GuestError::Shutdown)));
    assert!(out.is_empty());
}

#[test]
fn extents_are_told_and_cut_to_one_on_request() {
    let extents = vec![Extent { len: 4096, data: true }, Extent { len: 8192, data: false }];
    for (flags, count) in [(0, 2), (command_flag::REQ_ONE, 1)] {
        let mut out = Outbox::new();
        let asked = request(command::BLOCK_STATUS, flags, 0, 12_288);
        reply(&mut out, &asked, STRUCTURED, Ok(GuestData::Extents(extents.clone())));
        let bytes = drained(out);
        assert_eq!(bytes.len(), 20 + 4 + 8 * count);
        assert_eq!(bytes[24..32], [0, 0, 16, 0, 0, 0, 0, 0]);
    }
}

proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), read_only: bool) {
        let mut input = BytesMut::new();
        input.put_u32(super::super::codec::REQUEST_MAGIC);
        input.put_slice(&noise);
        let _ = take(&mut input, STRUCTURED, read_only);
    }
}
