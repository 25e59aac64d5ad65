//! Guests' requests: checked, admitted, cut into pieces of one chunk, put together again; and flushes.

use std::collections::BTreeSet;

use bytes::Bytes;
use yuntai_proto::{mutant, ChunkIndex, Kind, Position, ServerId, BLOCK_BYTES, CHUNK_BLOCKS, CHUNK_BYTES};

use crate::api::{Action, Extent, GuestData, GuestError, GuestOp, GuestRequest, Micros, Part};
use crate::chunk::{Active, Class};
use crate::server::Asked;
use crate::volume::{Phase, Volume};

/// Largest piece with bytes: 1 MiB, so that a large request does not hold up a small one on a connection.
const PIECE_BLOCKS: usize = 256;
/// A request longer than this counts as a stall.
const STALL_US: Micros = 1_000_000;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A request being worked on.
#[derive(Debug)]
pub(crate) struct Op {
    pub guest: u64,
    pub kind: OpKind,
    pub arrived: Micros,
    /// Pieces not done.
    pub left: usize,
    /// It needs a block that is lost.
    pub failed: bool,
    pub bytes: u64,
    /// Per piece what it read.
    pub parts: Vec<Vec<Part>>,
    pub extents: Vec<Vec<Extent>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpKind {
    Read,
    Write,
    Flush,
    Status,
}

/// Part of a request: neighbouring blocks of one chunk.
#[derive(Debug)]
pub(crate) struct Piece {
    pub op: u64,
    pub number: usize,
    pub chunk: ChunkIndex,
    pub block: usize,
    pub blocks: usize,
    pub durable: bool,
    pub work: Work,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Bytes `[from, from + len)` of the blocks.
    Read { from: usize, len: usize },
    /// Where there is data in that range.
    Status { from: usize, len: usize },
    /// Whole blocks.
    Write { data: Bytes },
    /// Whole blocks.
    Zero,
    /// Some bytes of one block: `with`, or zeros.
    Merge { from: usize, len: usize, with: Option<Bytes> },
}

impl Work {
    pub fn class(&self) -> Class {
        match self {
            Self::Read { .. } | Self::Status { .. } => Class::Read,
            Self::Write { .. } | Self::Zero => Class::Replace,
            Self::Merge { .. } => Class::Merge,
        }
    }
}

/// For what a flush is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushFor {
    Guest { op: u64 },
    Snapshot { control: u64, head: u32 },
    Close { control: u64 },
    Hydrated { chunks: ChunkIndex },
    Readmit(ServerId),
    Join { chunk: ChunkIndex, to: ServerId },
}

#[derive(Debug)]
pub(crate) struct Flush {
    pub purpose: FlushFor,
    pub acked: BTreeSet<ServerId>,
    pub sent: BTreeSet<ServerId>,
}

impl Volume {
    pub(crate) fn on_guest(&mut self, request: GuestRequest) {
        self.background.guest(self.now);
        if let Err(error) = self.check(&request.op) {
            self.out.push(Action::Reply { id: request.id, result: Err(error) });
            return;
        }
        let fits = self.in_flight_bytes == 0
            || self.in_flight_bytes + cost(&request.op) <= self.config.in_flight_bytes_max
            || matches!(request.op, GuestOp::Flush);
        if self.phase == Phase::Claiming || !fits || (!self.backlog.is_empty() && request.op != GuestOp::Flush) {
            self.backlog.push_back((request, self.now));
            return;
        }
        self.begin(request, self.now);
    }

    pub(crate) fn admit_backlog(&mut self) {
        while let Some((request, _)) = self.backlog.front() {
            let cost = cost(&request.op);
            if self.in_flight_bytes > 0 && self.in_flight_bytes + cost > self.config.in_flight_bytes_max {
                return;
            }
            let (request, arrived) = self.backlog.pop_front().expect("it is in front");
            self.begin(request, arrived);
        }
    }

    fn check(&self, op: &GuestOp) -> Result<(), GuestError> {
        if !matches!(self.phase, Phase::Serving | Phase::Claiming) {
            return Err(GuestError::Shutdown);
        }
        let (offset, len, beyond) = match op {
            GuestOp::Flush => return Ok(()),
            GuestOp::Read { offset, len } | GuestOp::BlockStatus { offset, len } => {
                (*offset, u64::from(*len), GuestError::Invalid)
            }
            GuestOp::Write { offset, data, .. } => (*offset, data.len() as u64, GuestError::NoSpace),
            GuestOp::Zero { offset, len, .. } => (*offset, *len, GuestError::NoSpace),
        };
        if self.spec.read_only && matches!(op, GuestOp::Write { .. } | GuestOp::Zero { .. }) {
            return Err(GuestError::ReadOnly);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.spec.size_bytes => Ok(()),
            _ => Err(beyond),
        }
    }

    fn begin(&mut self, request: GuestRequest, arrived: Micros) {
        let id = self.id();
        let bytes = cost(&request.op);
        let (kind, pieces) = match request.op {
            GuestOp::Flush => (OpKind::Flush, Vec::new()),
            GuestOp::Read { offset, len } => (OpKind::Read, read_pieces(id, offset, u64::from(len), false)),
            GuestOp::BlockStatus { offset, len } => (OpKind::Status, read_pieces(id, offset, u64::from(len), true)),
            GuestOp::Write { offset, data, fua } => (OpKind::Write, write_pieces(id, offset, &data, fua)),
            GuestOp::Zero { offset, len, fua, may_trim } => {
                (OpKind::Write, zero_pieces(id, offset, len, fua, may_trim))
            }
        };
        let count = pieces.len();
        self.in_flight_bytes += bytes;
        let parts = if kind == OpKind::Read { vec![Vec::new(); count] } else { Vec::new() };
        let extents = if kind == OpKind::Status { vec![Vec::new(); count] } else { Vec::new() };
        self.ops.insert(
            id,
            Op { guest: request.id, kind, arrived, left: count.max(1), failed: false, bytes, parts, extents },
        );
        if kind == OpKind::Flush && !self.spec.read_only {
            self.start_flush(FlushFor::Guest { op: id });
        } else if count == 0 {
            self.piece_of_op_done(id);
        }
        for piece in pieces {
            self.submit(piece);
        }
    }

    /// Start a piece, or let it wait for others or for its chunk.
    fn submit(&mut self, piece: Piece) {
        let id = self.id();
        let class = piece.work.class();
        let (start, end, number) = (piece.block, piece.block + piece.blocks, piece.chunk);
        let readable = self.is_readable(number);
        let chunk = &mut self.chunks[number as usize];
        let waiting = !readable || chunk.conflicts(chunk.active.len(), start, end, class);
        if waiting || class != Class::Read {
            chunk.active.push(Active { piece: id, start, end, class, waiting, sequenced: false });
        }
        if !chunk.serving {
            self.urgent.insert(number);
        }
        self.pieces.insert(id, piece);
        if !waiting {
            self.start(id);
        }
    }

    fn start(&mut self, id: u64) {
        let piece = &self.pieces[&id];
        if let Some(op) = self.ops.get(&piece.op) {
            self.counters.queue_us.add(self.now.saturating_sub(op.arrived));
        }
        match &piece.work {
            Work::Read { .. } | Work::Status { .. } | Work::Merge { .. } => self.start_read(id),
            Work::Write { data } => {
                let data = data.clone();
                self.sequence_piece(id, Kind::Write, data);
            }
            // Nothing was ever written there, and absent is zeros: no replica need exist for it.
            Work::Zero if self.is_blank(piece.chunk) => {
                let number = piece.chunk;
                self.chunks[number as usize].remove_active(id);
                self.piece_done(id);
            }
            Work::Zero => self.sequence_piece(id, Kind::Zero, Bytes::new()),
        }
    }

    fn is_blank(&self, number: ChunkIndex) -> bool {
        self.chunks[number as usize].last == Position::default() && !self.needs_source(number)
    }

    /// Start what no longer has to wait in a chunk.
    pub(crate) fn wake(&mut self, number: ChunkIndex) {
        if !self.is_readable(number) {
            return;
        }
        loop {
            let chunk = &self.chunks[number as usize];
            let free = (0..chunk.active.len()).find(|index| {
                let one = &chunk.active[*index];
                one.waiting && !chunk.conflicts(*index, one.start, one.end, one.class)
            });
            let Some(index) = free else { return };
            let piece = chunk.active[index].piece;
            let chunk = &mut self.chunks[number as usize];
            if chunk.active[index].class == Class::Read {
                chunk.active.remove(index);
            } else {
                chunk.active[index].waiting = false;
            }
            self.start(piece);
        }
    }

    pub(crate) fn piece_done(&mut self, id: u64) {
        if let Some(piece) = self.pieces.remove(&id) {
            self.piece_of_op_done(piece.op);
        }
    }

    fn piece_of_op_done(&mut self, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.left -= 1;
        if op.left > 0 {
            return;
        }
        let op = self.ops.remove(&id).expect("it was just there");
        self.in_flight_bytes -= op.bytes;
        let took = self.now.saturating_sub(op.arrived);
        if took > STALL_US {
            self.counters.stalls += 1;
            self.counters.longest_stall_us = self.counters.longest_stall_us.max(took);
        }
        if op.failed {
            self.counters.lost_requests += 1;
            self.out.push(Action::Reply { id: op.guest, result: Err(GuestError::Lost) });
            return self.admit_backlog();
        }
        let counters = &mut self.counters;
        let data = match op.kind {
            OpKind::Read => {
                counters.reads += 1;
                counters.read_bytes += op.bytes;
                counters.read_us.add(took);
                let mut pieces = op.parts.into_iter();
                let mut all = pieces.next().unwrap_or_default();
                all.extend(pieces.flatten());
                GuestData::Read(all)
            }
            OpKind::Write => {
                counters.writes += 1;
                counters.written_bytes += op.bytes;
                counters.write_us.add(took);
                GuestData::Done
            }
            OpKind::Flush => {
                counters.flushes += 1;
                counters.flush_us.add(took);
                GuestData::Done
            }
            OpKind::Status => GuestData::Extents(merge_extents(op.extents.into_iter().flatten())),
        };
        self.out.push(Action::Reply { id: op.guest, result: Ok(data) });
        if !self.backlog.is_empty() {
            self.admit_backlog();
        }
    }

    pub(crate) fn start_flush(&mut self, purpose: FlushFor) {
        let id = self.id();
        self.flushes.insert(id, Flush { purpose, acked: BTreeSet::new(), sent: BTreeSet::new() });
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        ids.into_iter().for_each(|server| self.send_flushes(server));
    }

    /// Send a server the flushes that it must answer, once everything that they cover is there.
    pub(crate) fn send_flushes(&mut self, id: ServerId) {
        let Some(server) = self.servers.get(&id) else { return };
        if self.flushes.is_empty() || !server.dialer.ready() || !server.not_whole.is_empty() {
            return;
        }
        let required = server.required;
        let due = |flush: &Flush| match flush.purpose {
            FlushFor::Readmit(one) | FlushFor::Join { to: one, .. } => one == id,
            _ => required,
        };
        let unsent = |flush: &Flush| !flush.sent.contains(&id) && !flush.acked.contains(&id);
        let numbers: Vec<u64> =
            self.flushes.iter().filter(|(_, flush)| due(flush) && unsent(flush)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.flushes.get_mut(&number).expect("just listed").sent.insert(id);
            let header = self.header(Kind::Flush, 0);
            self.ask(id, Asked::Flush { flush: number }, header, Bytes::new(), Bytes::new());
        }
    }

    pub(crate) fn on_flushed(&mut self, id: ServerId, number: u64) {
        if let Some(flush) = self.flushes.get_mut(&number) {
            flush.acked.insert(id);
            self.check_flush(number);
        }
    }

    pub(crate) fn check_flushes(&mut self) {
        let numbers: Vec<u64> = self.flushes.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.check_flush(number));
    }

    fn check_flush(&mut self, number: u64) {
        let Some(flush) = self.flushes.get(&number) else { return };
        let purpose = flush.purpose;
        let done = match purpose {
            FlushFor::Readmit(id) => {
                flush.acked.contains(&id) || !self.servers.get(&id).is_some_and(|server| server.dialer.ready())
            }
            FlushFor::Join { to, .. } => flush.acked.contains(&to),
            _ => self.servers.values().filter(|server| server.required).all(|server| flush.acked.contains(&server.id)),
        };
        let done = done || mutant::is("a flush waits for one server only") && !flush.acked.is_empty();
        if !done {
            return;
        }
        let acked = self.flushes.remove(&number).expect("just seen").acked;
        match purpose {
            FlushFor::Guest { op } => self.piece_of_op_done(op),
            FlushFor::Readmit(id) if acked.contains(&id) => self.ready_for_readmission(id),
            FlushFor::Readmit(_) => {}
            FlushFor::Join { chunk, to } => self.join_durable(chunk, to),
            FlushFor::Snapshot { control, head } => self.snapshot_durable(control, head),
            FlushFor::Close { control } => self.finish_close(control, true),
            FlushFor::Hydrated { chunks } => self.hydration_durable(chunks),
        }
    }
}

/// What a request counts against the limit of bytes in flight.
fn cost(op: &GuestOp) -> u64 {
    match op {
        GuestOp::Read { len, .. } => u64::from(*len),
        GuestOp::Write { data, .. } => data.len() as u64,
        GuestOp::Zero { .. } | GuestOp::Flush | GuestOp::BlockStatus { .. } => 0,
    }
}

/// Cut blocks `[first, end)` of the volume at chunk borders and at `blocks_max`.
fn spans(first: u64, end: u64, blocks_max: usize) -> impl Iterator<Item = (ChunkIndex, usize, usize, u64)> {
    let mut at = first;
    std::iter::from_fn(move || {
        let block = (at % CHUNK_BLOCKS as u64) as usize;
        let blocks = ((end.saturating_sub(at)) as usize).min(CHUNK_BLOCKS - block).min(blocks_max);
        let here = at;
        at += blocks as u64;
        (blocks > 0).then_some(((here / CHUNK_BLOCKS as u64) as ChunkIndex, block, blocks, here * BLOCK))
    })
}

fn read_pieces(op: u64, offset: u64, len: u64, status: bool) -> Vec<Piece> {
    let end = offset + len;
    let blocks_max = if status { CHUNK_BLOCKS } else { PIECE_BLOCKS };
    let last = if len == 0 { offset / BLOCK } else { end.div_ceil(BLOCK) };
    let piece = |(number, (chunk, block, blocks, at)): (usize, (ChunkIndex, usize, usize, u64))| {
        let from = offset.saturating_sub(at) as usize;
        let len = (end.min(at + blocks as u64 * BLOCK) - at) as usize - from;
        let work = if status { Work::Status { from, len } } else { Work::Read { from, len } };
        Piece { op, number, chunk, block, blocks, durable: false, work }
    };
    spans(offset / BLOCK, last, blocks_max).enumerate().map(piece).collect()
}

/// Partial blocks at both ends become merges; `body` makes the pieces of the whole blocks between.
fn edged(
    op: u64,
    offset: u64,
    len: u64,
    durable: bool,
    edge: impl Fn(u64, usize) -> Option<Work>,
    body: impl Fn(u64, usize) -> Work,
    blocks_max: usize,
) -> Vec<Piece> {
    let end = offset + len;
    let (first_whole, end_whole) = (offset.div_ceil(BLOCK), end / BLOCK);
    let mut pieces = Vec::with_capacity(1);
    let mut push = |at: u64, blocks: usize, work: Work| {
        let (chunk, block) = ((at / CHUNK_BYTES) as ChunkIndex, (at % CHUNK_BYTES / BLOCK) as usize);
        let number = pieces.len();
        pieces.push(Piece { op, number, chunk, block, blocks, durable, work });
    };
    if offset % BLOCK != 0 {
        let len = (end.min(first_whole * BLOCK) - offset) as usize;
        if let Some(work) = edge(offset, len) {
            push(offset, 1, work);
        }
    }
    for (_, _, blocks, at) in spans(first_whole, end_whole, blocks_max) {
        push(at, blocks, body(at, blocks));
    }
    if end % BLOCK != 0 && end_whole >= first_whole {
        if let Some(work) = edge(end_whole * BLOCK, (end % BLOCK) as usize) {
            push(end_whole * BLOCK, 1, work);
        }
    }
    pieces
}

fn write_pieces(op: u64, offset: u64, data: &Bytes, fua: bool) -> Vec<Piece> {
    let slice = |at: u64, len: usize| data.slice((at - offset) as usize..(at - offset) as usize + len);
    let edge = |at: u64, len: usize| Some(Work::Merge { from: (at % BLOCK) as usize, len, with: Some(slice(at, len)) });
    let body = |at: u64, blocks: usize| Work::Write { data: slice(at, blocks * BLOCK_BYTES) };
    edged(op, offset, data.len() as u64, fua, edge, body, PIECE_BLOCKS)
}

fn zero_pieces(op: u64, offset: u64, len: u64, fua: bool, may_trim: bool) -> Vec<Piece> {
    let edge =
        |at: u64, len: usize| (!may_trim).then_some(Work::Merge { from: (at % BLOCK) as usize, len, with: None });
    edged(op, offset, len, fua, edge, |_, _| Work::Zero, CHUNK_BLOCKS)
}

fn merge_extents(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for extent in extents {
        match out.last_mut() {
            Some(last) if last.data == extent.data => last.len += extent.len,
            _ => out.push(extent),
        }
    }
    out
}

#[cfg(test)]
mod tests;
