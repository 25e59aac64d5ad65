//! The way of a mutation: checked and staged, appended with others in one write, then visible.
//!
//! What goes in place must be there before a record says so. Where that is much, the caller lets other threads write it
//! ([`Store::begin_commit`], [`WriteJob`]) and concludes the commit when they have; nothing is staged in between. Whoever
//! needs the batch settled at once ends it with [`Store::finish_commit`], which helps with what is left.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::{
    block_crc, BlockState, ChunkIndex, LayerId, Position, VolumeId, BASE_LAYER, BLOCK_BYTES, CHUNK_BLOCKS,
};

use crate::apply::apply;
use crate::groups::LayerKey;
use crate::place::Placing;
use crate::record::{self, Header, Kind};
use crate::store::{refusal_of, Store};
use crate::vfs::Vfs;
use crate::write_job::{Piece, WriteJob};

/// What a mutation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutationKind {
    /// Body: CRC u32 per block. Data: the blocks.
    Write,
    /// No body, no data.
    Zero,
    /// Only what is absent in layer 0. Body: state u8 per block, then CRC u32 per block. Data: blocks of state `Data`.
    Fill,
}

/// One step of a chunk's history, with body and data as they came over the wire.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// What it does.
    pub kind: MutationKind,
    /// The volume.
    pub volume: VolumeId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The layer.
    pub layer: LayerId,
    /// Its place in the chunk's history.
    pub position: Position,
    /// First block.
    pub block: u16,
    /// Blocks.
    pub blocks: u16,
    /// See [`MutationKind`].
    pub body: Bytes,
    /// See [`MutationKind`].
    pub data: Bytes,
}

/// What became of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It goes with the next [`Store::commit`].
    New,
    /// It was applied, or staged, before.
    Duplicate,
    /// It depends on what is staged: commit, then come again.
    CommitFirst,
}

/// How to take a staged record back.
struct Undo {
    key: (VolumeId, ChunkIndex),
    /// What the chunk was; `None`: it was not there.
    before: Option<(Position, bool)>,
}

struct Pending<V: Vfs> {
    header: Header,
    /// Where its header and body lie among the heads.
    head: std::ops::Range<usize>,
    data: Bytes,
    placing: Option<Placing<V>>,
    undo: Undo,
}

/// Records that wait for the one write.
pub(crate) struct Batch<V: Vfs> {
    heads: Vec<u8>,
    pending: Vec<Pending<V>>,
    bytes: u64,
}

impl<V: Vfs> Default for Batch<V> {
    fn default() -> Self {
        Self { heads: Vec::new(), pending: Vec::new(), bytes: 0 }
    }
}

/// A batch whose data is being written in place.
pub(crate) struct Writing<V: Vfs> {
    batch: Batch<V>,
    job: Arc<WriteJob<V>>,
}

impl<V: Vfs> Batch<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What has to be written in place.
    fn pieces(&self) -> Vec<Piece<V>> {
        let placed = self.pending.iter().filter_map(|pending| Some((pending, pending.placing.as_ref()?)));
        let piece = |(pending, placing): (&Pending<V>, &Placing<V>)| Piece {
            handles: Arc::clone(&placing.handles),
            offset: placing.half.offset(pending.header.block),
            data: pending.data.clone(),
        };
        placed.map(piece).collect()
    }

    fn touches(&self, volume: VolumeId, chunk: ChunkIndex) -> bool {
        self.pending.iter().any(|pending| pending.undo.key == (volume, chunk))
    }
}

fn invalid(message: String) -> Refusal {
    Refusal::Invalid { message }
}

fn crc_at(crcs: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(crcs[index * 4..index * 4 + 4].try_into().expect("4 bytes"))
}

fn check_blocks(mutation: &Mutation, crcs: &[u8], states: Option<&[u8]>) -> Result<(), Refusal> {
    let mut blocks = mutation.data.chunks_exact(BLOCK_BYTES);
    for index in 0..mutation.blocks as usize {
        if states.is_some_and(|states| states[index] != BlockState::Data as u8) {
            continue;
        }
        let block = blocks.next().ok_or_else(|| invalid("data: fewer blocks than the body says".into()))?;
        if block_crc(block) != crc_at(crcs, index) {
            return Err(invalid(format!("data: block {index} does not match its checksum: damaged on the way")));
        }
    }
    if blocks.next().is_some() || mutation.data.len() % BLOCK_BYTES != 0 {
        return Err(invalid("data: more than the body says".into()));
    }
    Ok(())
}

/// Everything that can be said against a mutation without looking at the chunk.
fn check(mutation: &Mutation) -> Result<(), Refusal> {
    let (block, blocks) = (mutation.block as usize, mutation.blocks as usize);
    if blocks == 0 || block + blocks > CHUNK_BLOCKS {
        return Err(invalid(format!("blocks {block}+{blocks}: must be 1 or more and end within {CHUNK_BLOCKS}")));
    }
    let wanted = match mutation.kind {
        MutationKind::Write => blocks * 4,
        MutationKind::Zero => 0,
        MutationKind::Fill => blocks * 5,
    };
    if mutation.body.len() != wanted {
        return Err(invalid(format!("body: {} bytes, must be {wanted}", mutation.body.len())));
    }
    match mutation.kind {
        MutationKind::Write => check_blocks(mutation, &mutation.body, None),
        MutationKind::Zero if !mutation.data.is_empty() => Err(invalid("data: zeroing has none".into())),
        MutationKind::Zero => Ok(()),
        MutationKind::Fill => {
            let (states, crcs) = mutation.body.split_at(blocks);
            let known = |state: &u8| [BlockState::Zero as u8, BlockState::Data as u8].contains(state);
            if mutation.layer != BASE_LAYER || !states.iter().all(known) {
                return Err(invalid("fill: layer must be 0 and every state 1 or 2".into()));
            }
            check_blocks(mutation, crcs, Some(states))
        }
    }
}

impl<V: Vfs> Store<V> {
    /// Check a mutation and put it into the batch. Its position counts from now on; its blocks from the commit on.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::OutOfOrder`], [`Refusal::Full`] (a new chunk on a full disk), [`Refusal::Busy`]
    /// (the journal has no room).
    pub fn stage(&mut self, mutation: &Mutation) -> Result<Staged, Refusal> {
        check(mutation)?;
        let key = (mutation.volume, mutation.chunk);
        let state = self.chunks.get(&key);
        let now = state.map_or(Position::default(), |chunk| chunk.position);
        let Position { generation, sequence } = mutation.position;
        if generation == now.generation && sequence <= now.sequence {
            return Ok(Staged::Duplicate);
        }
        if sequence != now.sequence + 1 || generation < now.generation {
            return Err(Refusal::OutOfOrder { expected: now.sequence + 1 });
        }
        if state.is_none() {
            self.check_not_dropped(mutation.volume, mutation.chunk)?;
            if self.is_full() {
                return Err(Refusal::Full);
            }
        }
        if self.is_writing() {
            return Err(Refusal::Busy { message: "what came before is being written".into() });
        }
        if self.journal_full() {
            return Err(Refusal::Busy { message: "the journal is full until a checkpoint is through".into() });
        }
        let (kind, body, data) = match mutation.kind {
            MutationKind::Write => (Kind::Write, mutation.body.clone(), mutation.data.clone()),
            MutationKind::Zero => (Kind::Zero, Bytes::new(), Bytes::new()),
            MutationKind::Fill if self.batch.touches(mutation.volume, mutation.chunk) => {
                return Ok(Staged::CommitFirst);
            }
            MutationKind::Fill => {
                let (body, data) = self.effective_fill(mutation)?;
                (Kind::Fill, body, data)
            }
        };
        let place = LayerKey { volume: mutation.volume, chunk: mutation.chunk, layer: mutation.layer };
        self.stage_record(kind, place, mutation.position, (mutation.block, mutation.blocks), &body, data);
        Ok(Staged::New)
    }

    /// Body and data of a fill with what is there already taken out.
    fn effective_fill(&mut self, mutation: &Mutation) -> Result<(Bytes, Bytes), Refusal> {
        let key = LayerKey { volume: mutation.volume, chunk: mutation.chunk, layer: BASE_LAYER };
        let present = self.present(&key, mutation.block, mutation.blocks)?;
        let chunk = self.chunks.get(&(key.volume, key.chunk));
        let session = chunk.filter(|chunk| chunk.rebuilding).and_then(|chunk| chunk.session.as_deref());
        let skip = |index: u16| {
            let block = mutation.block + index;
            match session {
                // What is here may be old and wrong until the source was asked: only the stream's own word counts.
                Some(session) if !session.compared => session.wrote(BASE_LAYER, block) || session.filled.has(block),
                // A block that is still on its way from the source is filled with what will come anyway.
                _ => present[index as usize],
            }
        };
        let skipped: Vec<bool> = (0..mutation.blocks).map(skip).collect();
        if !skipped.contains(&true) {
            return Ok((mutation.body.clone(), mutation.data.clone()));
        }
        let mut body = mutation.body.to_vec();
        let mut data = Vec::new();
        let mut blocks = mutation.data.chunks_exact(BLOCK_BYTES);
        for (index, skipped) in skipped.iter().enumerate() {
            let block = if body[index] == BlockState::Data as u8 { blocks.next() } else { None };
            if *skipped {
                body[index] = BlockState::Absent as u8;
            } else {
                data.extend_from_slice(block.unwrap_or_default());
            }
        }
        Ok((body.into(), data.into()))
    }

    /// Put a record into the batch and move the chunk's position.
    pub(crate) fn stage_record(
        &mut self,
        kind: Kind,
        key: LayerKey,
        position: Position,
        (block, blocks): (u16, u16),
        body: &[u8],
        data: Bytes,
    ) {
        debug_assert!(!self.is_writing(), "its number would come before those that are on their way");
        let chunk_key = (key.volume, key.chunk);
        let before = self.chunks.get(&chunk_key).map(|chunk| (chunk.position, chunk.rebuilding));
        let placing = self.place(kind, &key, (block, blocks), data.len());
        let in_journal = if placing.is_some() { 0 } else { data.len() };
        let len = |len: usize| u32::try_from(len).expect("bodies and data are limited");
        let header = Header {
            kind,
            lsn: self.journal.next_lsn + self.batch.pending.len() as u64,
            synced_lsn: self.journal.synced_lsn,
            volume: key.volume,
            position,
            chunk: key.chunk,
            layer: key.layer,
            block,
            blocks,
            body_len: len(body.len()),
            data_len: len(in_journal),
            body_crc: crc32c::crc32c(body),
            in_place: placing.as_ref().map(|placing| placing.half),
        };
        let start = self.batch.heads.len();
        self.batch.heads.extend_from_slice(&header.encode(self.tag));
        self.batch.heads.extend_from_slice(body);
        let chunk = self.chunks.entry(chunk_key).or_default();
        if !matches!(kind, Kind::Pulled | Kind::Lost) {
            chunk.position = position;
        }
        let undo = Undo { key: chunk_key, before };
        self.batch.bytes += header.record_len();
        self.batch.pending.push(Pending { header, head: start..self.batch.heads.len(), data, placing, undo });
    }

    /// Append what is staged, in one write, and make it visible. Nothing of it is durable yet: see
    /// [`Store::sync_ticket`].
    ///
    /// # Errors
    /// [`Refusal::Full`] or [`Refusal::Io`]: then nothing that was staged has happened.
    pub fn commit(&mut self) -> Result<(), Refusal> {
        debug_assert!(!self.is_writing(), "finish that first");
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let written = batch.pieces().iter().try_for_each(Piece::write);
        self.conclude(batch, written)
    }

    /// The same, if much of what is staged goes in place: other threads may do that with the job. When it is done
    /// ([`WriteJob::help`]), [`Store::finish_commit`] does the rest; until then nothing can be staged, and what was is not
    /// visible.
    pub fn begin_commit(&mut self) -> Option<Arc<WriteJob<V>>> {
        let in_place = |pending: &Pending<V>| if pending.placing.is_some() { pending.data.len() } else { 0 };
        let bytes: usize = self.batch.pending.iter().map(in_place).sum();
        if self.is_writing() || bytes == 0 || bytes < self.options.write_apart_bytes_min {
            return None;
        }
        let batch = std::mem::take(&mut self.batch);
        let job = Arc::new(WriteJob::new(batch.pieces()));
        self.writing = Some(Writing { batch, job: Arc::clone(&job) });
        Some(job)
    }

    /// A commit was begun and is not finished.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The commit that was begun last has this job, and is not finished.
    #[must_use]
    pub fn is_writing_with(&self, job: &Arc<WriteJob<V>>) -> bool {
        self.writing.as_ref().is_some_and(|writing| Arc::ptr_eq(&writing.job, job))
    }

    /// Finish the commit that was begun. If its job is not done, help with it and wait.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn finish_commit(&mut self) -> Result<(), Refusal> {
        let Some(Writing { batch, job }) = self.writing.take() else { return Ok(()) };
        let written = job.wait();
        self.conclude(batch, written)
    }

    /// What the journal will grow by.
    pub(crate) fn staged_bytes(&self) -> u64 {
        self.batch.bytes + self.writing.as_ref().map_or(0, |writing| writing.batch.bytes)
    }

    /// Everything is as the journal and the files say: nothing is staged, or on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.batch.is_empty() && !self.is_writing()
    }

    /// What goes in place was written, or not: append the records.
    fn conclude(&mut self, mut batch: Batch<V>, written: io::Result<()>) -> Result<(), Refusal> {
        let mut slices = Vec::with_capacity(batch.pending.len() * 2);
        for pending in &batch.pending {
            slices.push(IoSlice::new(&batch.heads[pending.head.clone()]));
            if pending.placing.is_none() && !pending.data.is_empty() {
                slices.push(IoSlice::new(&pending.data));
            }
        }
        let appended = written.and_then(|()| self.journal.append(&mut slices, batch.bytes, batch.pending.len() as u64));
        drop(slices);
        let result = match appended {
            Ok((segment, offset)) => {
                self.show(&batch, segment, offset);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, records = batch.pending.len(), "the journal could not be appended to");
                batch.pending.drain(..).rev().for_each(|pending| self.take_back(&pending));
                Err(refusal_of(&error))
            }
        };
        batch.pending.clear();
        batch.heads.clear();
        batch.bytes = 0;
        // Keep the buffers.
        self.batch = batch;
        result
    }

    fn show(&mut self, batch: &Batch<V>, segment: u64, offset: u64) {
        let mut at = offset;
        for pending in &batch.pending {
            let body = &batch.heads[pending.head.start + record::HEADER_BYTES..pending.head.end];
            let data_offset = at + pending.head.len() as u64;
            let chunk = self.chunks.get_mut(&pending.undo.key).expect("staging made it");
            apply(chunk, &mut self.owners, &pending.header, body, segment, data_offset);
            at += pending.header.record_len();
            if let Some(placing) = &pending.placing {
                self.note_in_place(&pending.header, placing);
            }
        }
    }

    fn take_back(&mut self, pending: &Pending<V>) {
        let (header, undo) = (&pending.header, &pending.undo);
        if pending.placing.is_some() {
            let layer = self.chunks.get_mut(&undo.key).map(|chunk| chunk.layer_mut(header.layer));
            if let Some(placed) = layer.and_then(|layer| layer.placed.as_deref_mut()) {
                (header.block..header.block + header.blocks).for_each(|block| placed.take(block));
            }
        }
        match undo.before {
            Some((position, rebuilding)) => {
                let chunk = self.chunks.get_mut(&undo.key).expect("it was there before");
                chunk.position = position;
                chunk.rebuilding = rebuilding;
            }
            None => {
                self.chunks.remove(&undo.key);
            }
        }
    }
}
