//! Mutations: numbered, sent to every replica that is to have them, acknowledged.

use bytes::{BufMut, Bytes, BytesMut};
use yuntai_proto::{block_crc, mutant, ChunkIndex, Kind, Position, ServerId, BLOCK_BYTES};

use crate::chunk::{Mutation, Owner, Payload, Role, Standing};
use crate::read::Purpose;
use crate::volume::Volume;

/// One checksum per block: computed once, here, checked by everyone who touches the block later.
pub(crate) fn checksums(data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() / BLOCK_BYTES * 4);
    data.chunks_exact(BLOCK_BYTES).for_each(|block| out.put_u32_le(block_crc(block)));
    out.freeze()
}

impl Volume {
    /// A piece's blocks, whole, as they shall be.
    pub(crate) fn sequence_piece(&mut self, id: u64, kind: Kind, data: Bytes) {
        let piece = &self.pieces[&id];
        let (number, layer) = (piece.chunk, self.head());
        let body = if kind == Kind::Write { checksums(&data) } else { Bytes::new() };
        let (block, blocks, durable) = (piece.block, piece.blocks, piece.durable);
        if let Some(active) = self.chunks[number as usize].active.iter_mut().find(|active| active.piece == id) {
            active.sequenced = true;
        }
        self.sequence(number, Payload { kind, layer, block, blocks, body, data, durable }, Owner::Piece(id));
    }

    /// Give a mutation its number and send it.
    pub(crate) fn sequence(&mut self, number: ChunkIndex, payload: Payload, owner: Owner) {
        let generation = self.spec.generation;
        let chunk = &mut self.chunks[number as usize];
        let sequence = chunk.last.sequence + 1;
        chunk.last = Position { generation, sequence };
        chunk.log.push_back(Mutation { payload, owner, sent_at: self.now, acked: 0, done: false });
        for index in 0..self.chunks[number as usize].replicas.len() {
            let replica = self.chunks[number as usize].replicas[index];
            let streams = !matches!(replica.standing, Standing::Behind { .. });
            if streams && self.servers[&replica.server].dialer.ready() {
                self.send_mutation(replica.server, number, sequence);
            }
        }
    }

    pub(crate) fn on_ack(&mut self, server: ServerId, number: ChunkIndex, sequence: u64) {
        let chunk = &mut self.chunks[number as usize];
        let Some(index) = chunk.index_of(server) else { return };
        let Some(mutation) = chunk.entry(sequence) else { return };
        mutation.acked |= 1 << index;
        let (acked, done) = (mutation.acked, mutation.done);
        if !done && chunk.complete(acked) {
            self.complete(number);
        }
    }

    /// Something changed that acknowledgements depend on.
    pub(crate) fn complete(&mut self, number: ChunkIndex) {
        let mut owners = Vec::new();
        self.chunks[number as usize].take_completed(&mut owners);
        if owners.is_empty() {
            return;
        }
        for (owner, sent_at) in owners {
            self.counters.replicate_us.add(self.now.saturating_sub(sent_at));
            match owner {
                Owner::Piece(id) => {
                    self.chunks[number as usize].remove_active(id);
                    self.release_parked(number, id);
                    self.piece_done(id);
                }
                Owner::Fill { hydrate, blocks } => self.fill_done(hydrate, blocks),
            }
        }
        if self.chunks[number as usize].active.iter().any(|active| active.waiting) {
            self.wake(number);
        }
        if !self.barriers.is_empty() {
            self.check_barriers();
        }
    }

    /// A mutation's fate is settled: reads that waited for it may be answered.
    fn release_parked(&mut self, number: ChunkIndex, piece: u64) {
        let chunk = &mut self.chunks[number as usize];
        if chunk.parked.is_empty() {
            return;
        }
        let mut free = Vec::new();
        chunk.parked.retain_mut(|parked| {
            parked.waits_for.retain(|other| *other != piece);
            if parked.waits_for.is_empty() {
                free.push(parked.read);
            }
            !parked.waits_for.is_empty()
        });
        free.into_iter().for_each(|read| self.deliver(read));
    }

    /// A merge has read its block: change it and write it.
    pub(crate) fn merge(&mut self, id: u64, old: &[crate::api::Part]) {
        let piece = &self.pieces[&id];
        let crate::guest::Work::Merge { from, len, with } = &piece.work else { return };
        let mut block = BytesMut::with_capacity(BLOCK_BYTES);
        for part in old {
            match part {
                crate::api::Part::Zero(len) => block.put_bytes(0, *len),
                crate::api::Part::Data(data) => block.put_slice(data),
            }
        }
        match with {
            Some(with) => block[*from..*from + *len].copy_from_slice(with),
            None => block[*from..*from + *len].fill(0),
        }
        let number = piece.chunk;
        self.sequence_piece(id, Kind::Write, block.freeze());
        // Replacements that waited for this one's number may go now.
        self.wake(number);
    }

    /// Change where a replica stands, and every count that depends on it.
    pub(crate) fn set_standing(&mut self, number: ChunkIndex, index: usize, standing: Standing) {
        let chunk = &mut self.chunks[number as usize];
        let id = chunk.replicas[index].server;
        chunk.replicas[index].standing = standing;
        chunk.replicas[index].level_at = None;
        let whole = standing == Standing::Whole;
        let joining = chunk.replicas[index].role == Role::Joining;
        chunk.whole = if whole { chunk.whole | 1 << index } else { chunk.whole & !(1 << index) };
        let Some(server) = self.servers.get_mut(&id) else { return };
        if whole || joining {
            server.not_whole.remove(&number);
        } else {
            server.not_whole.insert(number);
        }
    }

    /// After standings or the in-sync set changed: serve, acknowledge, wake.
    pub(crate) fn after_change(&mut self, number: ChunkIndex) {
        let writer = self.is_writer();
        let settled = self.settled[number as usize];
        let chunk = &mut self.chunks[number as usize];
        let alone = chunk.required & chunk.whole != 0 && mutant::is("one whole replica serves alone");
        if !chunk.serving && (alone || settled && (chunk.level() || (!writer && chunk.whole != 0))) {
            chunk.serving = true;
            self.urgent.remove(&number);
            self.wake(number);
        } else if !chunk.log.is_empty() {
            self.complete(number);
        }
        if !self.chunks[number as usize].serving {
            self.wake(number); // there may be somebody who only reads
        }
    }

    /// Whoever asked for a read gets it.
    pub(crate) fn deliver(&mut self, read: u64) {
        let Some(job) = self.reads.remove(&read) else { return };
        let runs = job.runs.as_deref().unwrap_or_default();
        match job.purpose {
            Purpose::Piece(id) => self.deliver_piece(id, runs),
            Purpose::Merge(id) => self.merge(id, &crate::runs::parts(runs, 0, BLOCK_BYTES)),
            Purpose::Hydrate(piece) => self.hydrate_read(piece, job.fills.len()),
        }
        self.fill(job.chunk, job.fills, job.purpose);
    }
}
