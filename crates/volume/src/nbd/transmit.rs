//! Requests become guest operations, answers become replies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use yuntai_proto::outbox::Outbox;

use super::codec::{
    chunk, chunk_header, command, command_flag, error, simple_reply, Request, ALLOCATION_ID, REQUEST_BYTES,
    REQUEST_BYTES_MAX, STATE_HOLE, STATE_ZERO,
};
use super::negotiate::Agreed;
use crate::api::{Extent, GuestData, GuestError, GuestOp, Part};

/// A question about allocation is answered for at most this much of the volume at a time.
const STATUS_BYTES_MAX: u32 = 1 << 30;
/// Extents in one answer.
const EXTENTS_MAX: usize = 16_384;
/// A run of zeros shorter than this is sent as bytes.
const HOLE_BYTES_MIN: usize = 4096;
/// Zeros to point at.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Give it to the volume.
    Op(Request, GuestOp),
    /// Answer with this error.
    Refuse(Request, u32),
    /// It leaves, or talks nonsense: finish what is under way and close.
    Leave,
}

/// Take one request from the front of `input`, or `None` if more bytes must come first.
pub fn take(input: &mut BytesMut, agreed: Agreed, read_only: bool) -> Option<Want> {
    let raw = input.first_chunk::<REQUEST_BYTES>()?;
    let Some(request) = Request::decode(raw) else { return Some(Want::Leave) };
    let mut data = Bytes::new();
    if request.command == command::WRITE {
        if request.len > REQUEST_BYTES_MAX {
            return Some(Want::Leave); // its bytes would have to be read to find the next request
        }
        let whole = REQUEST_BYTES + request.len as usize;
        if input.len() < whole {
            input.reserve(whole - input.len());
            return None;
        }
        input.advance(REQUEST_BYTES);
        data = input.split_to(request.len as usize).freeze();
    } else {
        input.advance(REQUEST_BYTES);
    }
    Some(understand(request, data, agreed, read_only))
}

fn understand(request: Request, data: Bytes, agreed: Agreed, read_only: bool) -> Want {
    use command_flag::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
    let (offset, len) = (request.offset, request.len);
    let fua = request.flags & FUA != 0;
    let (allowed, op) = match request.command {
        command::READ if len > REQUEST_BYTES_MAX => return Want::Refuse(request, error::EINVAL),
        command::READ => (FUA | DF, GuestOp::Read { offset, len }),
        command::WRITE => (FUA, GuestOp::Write { offset, data, fua }),
        command::FLUSH => (FUA, GuestOp::Flush),
        command::TRIM => (FUA, GuestOp::Zero { offset, len: u64::from(len), fua, may_trim: true }),
        command::WRITE_ZEROES => {
            (FUA | NO_HOLE | FAST_ZERO, GuestOp::Zero { offset, len: u64::from(len), fua, may_trim: false })
        }
        command::BLOCK_STATUS if agreed.allocation && len > 0 => {
            (FUA | REQ_ONE, GuestOp::BlockStatus { offset, len: len.min(STATUS_BYTES_MAX) })
        }
        command::DISC => return Want::Leave,
        _ => return Want::Refuse(request, error::EINVAL),
    };
    let writes = matches!(op, GuestOp::Write { .. } | GuestOp::Zero { .. });
    if request.flags & !allowed != 0 {
        return Want::Refuse(request, error::EINVAL);
    }
    if writes && read_only {
        return Want::Refuse(request, error::EPERM);
    }
    Want::Op(request, op)
}

/// Put an error into a client's outbox.
pub fn refuse(out: &mut Outbox, request: &Request, agreed: Agreed, number: u32) {
    let structured = agreed.structured && matches!(request.command, command::READ | command::BLOCK_STATUS);
    if structured {
        let mut head = chunk_header(true, chunk::ERROR, request.cookie, 6);
        head.put_u32(number);
        head.put_u16(0);
        out.push_bytes(&head.freeze());
    } else {
        out.push_bytes(&simple_reply(number, request.cookie));
    }
}

/// Put an answer into a client's outbox. `false`: there is no way to say it, close the connection (the client will
/// come back and ask again, where an error would reach the guest's file system).
pub fn reply(out: &mut Outbox, request: &Request, agreed: Agreed, result: Result<GuestData, GuestError>) -> bool {
    match result {
        Ok(GuestData::Done) => out.push_bytes(&simple_reply(0, request.cookie)),
        Ok(GuestData::Read(parts)) if agreed.structured => structured_read(out, request, &parts),
        Ok(GuestData::Read(parts)) => {
            out.push_bytes(&simple_reply(0, request.cookie));
            push_parts(out, &parts);
        }
        Ok(GuestData::Extents(extents)) => block_status(out, request, &extents),
        Err(GuestError::Invalid) => refuse(out, request, agreed, error::EINVAL),
        Err(GuestError::NoSpace) => refuse(out, request, agreed, error::ENOSPC),
        Err(GuestError::ReadOnly) => refuse(out, request, agreed, error::EPERM),
        Err(GuestError::Lost) => refuse(out, request, agreed, error::EIO),
        Err(GuestError::Shutdown) => return false,
    }
    true
}

fn push_parts(out: &mut Outbox, parts: &[Part]) {
    for part in parts {
        match part {
            Part::Data(data) => out.push_bytes(data),
            Part::Zero(len) => {
                let mut left = *len;
                while left > 0 {
                    let step = left.min(ZEROS.len());
                    out.push_bytes(&Bytes::from_static(&ZEROS[..step]));
                    left -= step;
                }
            }
        }
    }
}

fn len_of(part: &Part) -> usize {
    match part {
        Part::Zero(len) => *len,
        Part::Data(data) => data.len(),
    }
}

fn structured_read(out: &mut Outbox, request: &Request, parts: &[Part]) {
    if parts.is_empty() {
        out.push_bytes(&chunk_header(true, chunk::NONE, request.cookie, 0).freeze());
        return;
    }
    let whole = request.flags & command_flag::DF != 0;
    let hole = |part: &Part| !whole && matches!(part, Part::Zero(len) if *len >= HOLE_BYTES_MIN);
    let (mut offset, mut at) = (request.offset, 0);
    while at < parts.len() {
        let end = if hole(&parts[at]) {
            at + 1
        } else {
            parts[at..].iter().position(hole).map_or(parts.len(), |found| at + found)
        };
        let len: usize = parts[at..end].iter().map(len_of).sum();
        let done = end == parts.len();
        if hole(&parts[at]) {
            let mut head = chunk_header(done, chunk::OFFSET_HOLE, request.cookie, 12);
            head.put_u64(offset);
            head.put_u32(len as u32);
            out.push_bytes(&head.freeze());
        } else {
            let mut head = chunk_header(done, chunk::OFFSET_DATA, request.cookie, 8 + len as u32);
            head.put_u64(offset);
            out.push_bytes(&head.freeze());
            push_parts(out, &parts[at..end]);
        }
        offset += len as u64;
        at = end;
    }
}

fn block_status(out: &mut Outbox, request: &Request, extents: &[Extent]) {
    let max = if request.flags & command_flag::REQ_ONE != 0 { 1 } else { EXTENTS_MAX };
    let extents = &extents[..extents.len().min(max)];
    let mut head = chunk_header(true, chunk::BLOCK_STATUS, request.cookie, 4 + 8 * extents.len() as u32);
    head.put_u32(ALLOCATION_ID);
    for extent in extents {
        head.put_u32(extent.len as u32);
        head.put_u32(if extent.data { 0 } else { STATE_HOLE | STATE_ZERO });
    }
    out.push_bytes(&head.freeze());
}

#[cfg(test)]
mod tests;
