//! The talk before the first request: options and their answers. Every length is checked before it is used, and a
//! client that talks for too long is shown the door.

use bytes::{Buf, BufMut, BytesMut};

use super::codec::{
    info, option, reply, transmission, ALLOCATION, ALLOCATION_ID, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAGIC,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_BYTES_MAX,
};

/// Longest option that is looked at.
const OPTION_BYTES_MAX: usize = 8192;
/// Longest option that is skipped; above it the connection is closed.
const OPTION_BYTES_SKIPPED_MAX: usize = 1 << 20;
/// Options that one client may ask.
const OPTIONS_MAX: usize = 256;
/// Longest name of an export, by the protocol.
const NAME_BYTES_MAX: usize = 4096;

/// What is offered.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name; a client that asks for the empty name gets it as well.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// No writes.
    pub read_only: bool,
}

impl Export {
    /// The transmission flags.
    #[must_use]
    pub fn flags(&self, structured: bool) -> u16 {
        use transmission::{
            CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_DF, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA, SEND_TRIM,
            SEND_WRITE_ZEROES,
        };
        let writes = SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        let access = if self.read_only { READ_ONLY } else { writes };
        HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN | access | if structured { SEND_DF } else { 0 }
    }
}

/// What was agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Reads are answered with structured replies.
    pub structured: bool,
    /// The client may ask for `base:allocation`.
    pub allocation: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes must come.
    More,
    /// Requests follow (the rest of the input belongs to them).
    Transmit(Agreed),
    /// Send what is to be sent and close.
    Close,
}

/// A connection in negotiation.
#[derive(Debug)]
pub struct Negotiation {
    export: Export,
    greeted: bool,
    no_zeroes: bool,
    options: usize,
    skip: usize,
    agreed: Agreed,
}

impl Negotiation {
    /// Begin: `out` gets the greeting.
    pub fn new(export: Export, out: &mut BytesMut) -> Self {
        out.put_u64(MAGIC);
        out.put_u64(OPTION_MAGIC);
        out.put_u16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        Self { export, greeted: false, no_zeroes: false, options: 0, skip: 0, agreed: Agreed::default() }
    }

    /// Eat what has come, write what is to be sent.
    pub fn feed(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Step {
        if !self.greeted {
            if input.len() < 4 {
                return Step::More;
            }
            let flags = input.get_u32();
            let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
            if flags & !known != 0 || flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 {
                return Step::Close;
            }
            self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
            self.greeted = true;
        }
        loop {
            let skipped = self.skip.min(input.len());
            input.advance(skipped);
            self.skip -= skipped;
            if self.skip > 0 || input.len() < 16 {
                return Step::More;
            }
            let mut head = &input[..16];
            let (magic, number, len) = (head.get_u64(), head.get_u32(), head.get_u32() as usize);
            if magic != OPTION_MAGIC || len > OPTION_BYTES_SKIPPED_MAX || self.options >= OPTIONS_MAX {
                return Step::Close;
            }
            if len > OPTION_BYTES_MAX {
                input.advance(16);
                self.options += 1;
                self.skip = len;
                if number == option::EXPORT_NAME {
                    return Step::Close; // it has no way to be told of an error
                }
                answer(out, number, reply::ERR_TOO_BIG, b"option is too long");
                continue;
            }
            if input.len() < 16 + len {
                return Step::More;
            }
            input.advance(16);
            self.options += 1;
            let data = input.split_to(len);
            if let Some(step) = self.option(number, &data, out) {
                return step;
            }
        }
    }

    fn option(&mut self, number: u32, data: &[u8], out: &mut BytesMut) -> Option<Step> {
        match number {
            option::EXPORT_NAME => {
                if !self.is_ours(data) {
                    return Some(Step::Close);
                }
                out.put_u64(self.export.size_bytes);
                out.put_u16(self.export.flags(self.agreed.structured));
                if !self.no_zeroes {
                    out.put_bytes(0, 124);
                }
                return Some(Step::Transmit(self.agreed));
            }
            option::ABORT => {
                answer(out, number, reply::ACK, b"");
                return Some(Step::Close);
            }
            option::LIST if data.is_empty() => {
                let mut body = BytesMut::new();
                put_text(&mut body, self.export.name.as_bytes());
                answer(out, number, reply::SERVER, &body);
                answer(out, number, reply::ACK, b"");
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.agreed.structured = true;
                answer(out, number, reply::ACK, b"");
            }
            option::LIST | option::STRUCTURED_REPLY => {
                answer(out, number, reply::ERR_INVALID, b"this option has no data");
            }
            option::INFO | option::GO => return self.info(number, data, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(number, data, out),
            _ => answer(out, number, reply::ERR_UNSUP, b"unknown option"),
        }
        None
    }

    fn is_ours(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn info(&mut self, number: u32, mut data: &[u8], out: &mut BytesMut) -> Option<Step> {
        let Some(name) = take_text(&mut data) else {
            answer(out, number, reply::ERR_INVALID, b"malformed name");
            return None;
        };
        let count = if data.len() >= 2 { usize::from(data.get_u16()) } else { usize::MAX };
        if count == usize::MAX || data.len() != count * 2 {
            answer(out, number, reply::ERR_INVALID, b"malformed list of information");
            return None;
        }
        if !self.is_ours(name) {
            answer(out, number, reply::ERR_UNKNOWN, b"no such export");
            return None;
        }
        let mut body = BytesMut::new();
        body.put_u16(info::EXPORT);
        body.put_u64(self.export.size_bytes);
        body.put_u16(self.export.flags(self.agreed.structured));
        answer(out, number, reply::INFO, &body);
        let mut body = BytesMut::new();
        body.put_u16(info::BLOCK_SIZE);
        body.put_u32(1);
        body.put_u32(4096);
        body.put_u32(REQUEST_BYTES_MAX);
        answer(out, number, reply::INFO, &body);
        if data.chunks_exact(2).any(|raw| raw == info::NAME.to_be_bytes()) {
            let mut body = BytesMut::new();
            body.put_u16(info::NAME);
            body.put_slice(self.export.name.as_bytes());
            answer(out, number, reply::INFO, &body);
        }
        answer(out, number, reply::ACK, b"");
        (number == option::GO).then_some(Step::Transmit(self.agreed))
    }

    fn meta_context(&mut self, number: u32, mut data: &[u8], out: &mut BytesMut) {
        let set = number == option::SET_META_CONTEXT;
        if set {
            self.agreed.allocation = false;
        }
        if !self.agreed.structured {
            return answer(out, number, reply::ERR_INVALID, b"structured replies must be agreed first");
        }
        let Some(name) = take_text(&mut data) else {
            return answer(out, number, reply::ERR_INVALID, b"malformed name");
        };
        let Some(queries) = take_queries(&mut data) else {
            return answer(out, number, reply::ERR_INVALID, b"malformed queries");
        };
        if !self.is_ours(name) {
            return answer(out, number, reply::ERR_UNKNOWN, b"no such export");
        }
        let all = !set && (queries.is_empty() || queries.iter().any(|query| *query == b"base:"));
        if all || queries.iter().any(|query| *query == ALLOCATION.as_bytes()) {
            let mut body = BytesMut::new();
            body.put_u32(if set { ALLOCATION_ID } else { 0 });
            body.put_slice(ALLOCATION.as_bytes());
            answer(out, number, reply::META_CONTEXT, &body);
            if set {
                self.agreed.allocation = true;
            }
        }
        answer(out, number, reply::ACK, b"");
    }
}

fn answer(out: &mut BytesMut, number: u32, kind: u32, body: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(number);
    out.put_u32(kind);
    out.put_u32(body.len() as u32);
    out.put_slice(body);
}

fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.put_u32(text.len() as u32);
    out.put_slice(text);
}

/// A length and as many bytes.
fn take_text<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    if data.len() < 4 {
        return None;
    }
    let len = data.get_u32() as usize;
    if len > data.len() || len > NAME_BYTES_MAX {
        return None;
    }
    let (text, rest) = data.split_at(len);
    *data = rest;
    Some(text)
}

fn take_queries<'a>(data: &mut &'a [u8]) -> Option<Vec<&'a [u8]>> {
    if data.len() < 4 {
        return None;
    }
    let count = data.get_u32() as usize;
    if count > OPTION_BYTES_MAX / 4 {
        return None;
    }
    let queries: Option<Vec<&[u8]>> = (0..count).map(|_| take_text(data)).collect();
    queries.filter(|_| data.is_empty())
}

#[cfg(test)]
mod tests;
