//! The way of a mutation: checked and staged, appended with others in one write, then visible.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::{
    block_crc, BlockState, ChunkIndex, LayerId, Position, VolumeId, BASE_LAYER, BLOCK_BYTES, CHUNK_BLOCKS,
};

use crate::chunk::Chunk;
use crate::files::Handles;
use crate::groups::{Half, LayerKey, Slot};
use crate::journal::InPlace;
use crate::overlay::{Crcs, Run, Source};
use crate::owners::OwnerCache;
use crate::read::read_slots;
use crate::record::{self, Header, Kind};
use crate::store::{refusal_of, Store};
use crate::vfs::{Vfs, VfsFile};

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

/// A record whose data goes straight to the data file.
struct Placing<V: Vfs> {
    handles: Arc<Handles<V>>,
    half: Half,
    is_new: bool,
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

impl<V: Vfs> Batch<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
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
        if state.is_none() && self.is_full() {
            return Err(Refusal::Full);
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
        if kind != Kind::Pulled {
            chunk.position = position;
        }
        let undo = Undo { key: chunk_key, before };
        self.batch.bytes += header.record_len();
        self.batch.pending.push(Pending { header, head: start..self.batch.heads.len(), data, placing, undo });
    }

    /// Can the data of this record go straight to the data file? Only to the half that is not in use, and only if no
    /// record that a replay may meet has its data there already.
    fn place(&mut self, kind: Kind, key: &LayerKey, (block, blocks): (u16, u16), bytes: usize) -> Option<Placing<V>> {
        let whole = bytes == blocks as usize * BLOCK_BYTES && matches!(kind, Kind::Write | Kind::Fill | Kind::Pulled);
        if !whole || blocks < self.options.in_place_blocks_min {
            return None;
        }
        let layer = self.chunks.entry((key.volume, key.chunk)).or_default().layer_mut(key.layer);
        let taken = (block..block + blocks).any(|block| layer.is_placed(block));
        let (has_files, on_disk) = (layer.has_files, layer.on_disk);
        // A running checkpoint makes the files of new layers itself.
        if taken || (!has_files && self.checkpointing) {
            return None;
        }
        let half = if on_disk { self.free_half(key, block, blocks)? } else { Half::Second };
        let handles = self.files_for_placing(key, has_files);
        let handles = handles.map_err(|error| tracing::warn!(%error, "not in place, but through the journal")).ok()?;
        let layer = self.chunks.get_mut(&(key.volume, key.chunk))?.layer_mut(key.layer);
        layer.has_files = true;
        layer.place(block, blocks, half);
        // Until a checkpoint is through nothing else has made the file's name durable.
        Some(Placing { handles, half, is_new: !on_disk })
    }

    /// The half that none of these blocks uses, if it is the same for all.
    fn free_half(&mut self, key: &LayerKey, block: u16, blocks: u16) -> Option<Half> {
        let handles = self.files.get(&self.vfs, key).ok()?;
        let stored = read_slots(&handles, key, block, blocks).ok()?;
        let half = stored[0].half;
        stored.iter().all(|stored| stored.half == half && stored.slot != Slot::Lost).then(|| half.other())
    }

    fn files_for_placing(&mut self, key: &LayerKey, has_files: bool) -> io::Result<Arc<Handles<V>>> {
        if !has_files {
            self.vfs.create_dir(&LayerKey::folder(key.volume))?;
            Handles::create(&self.vfs, key)?;
        }
        self.files.get(&self.vfs, key)
    }

    /// The next sync must cover a data file.
    fn note_in_place(&mut self, header: &Header, placing: &Placing<V>) {
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        self.in_place_bytes += u64::from(header.blocks) * BLOCK_BYTES as u64;
        let noted = self.in_place.entry(key).or_insert_with(|| InPlace {
            lsn: header.lsn,
            handles: Arc::clone(&placing.handles),
            is_new: placing.is_new,
        });
        noted.lsn = header.lsn;
        noted.is_new |= placing.is_new;
    }

    /// Append what is staged, in one write, and make it visible. Nothing of it is durable yet: see
    /// [`Store::sync_ticket`].
    ///
    /// # Errors
    /// [`Refusal::Full`] or [`Refusal::Io`]: then nothing that was staged has happened.
    pub fn commit(&mut self) -> Result<(), Refusal> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        let mut slices = Vec::with_capacity(batch.pending.len() * 2);
        for pending in &batch.pending {
            slices.push(IoSlice::new(&batch.heads[pending.head.clone()]));
            if pending.placing.is_none() && !pending.data.is_empty() {
                slices.push(IoSlice::new(&pending.data));
            }
        }
        // What goes in place must be there before a record says so.
        let appended = write_in_place(&batch)
            .and_then(|()| self.journal.append(&mut slices, batch.bytes, batch.pending.len() as u64));
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

fn write_in_place<V: Vfs>(batch: &Batch<V>) -> io::Result<()> {
    for pending in &batch.pending {
        if let Some(placing) = &pending.placing {
            let offset = placing.half.offset(pending.header.block);
            placing.handles.data.write_at(&mut [IoSlice::new(&pending.data)], offset)?;
        }
    }
    Ok(())
}

/// Make a record that stands in the journal visible. The only place where records become state, at run time and at a
/// replay alike.
pub(crate) fn apply(
    chunk: &mut Chunk,
    owners: &mut OwnerCache,
    header: &Header,
    body: &[u8],
    segment: u64,
    data_offset: u64,
) {
    match header.kind {
        Kind::Begin => {
            chunk.position = header.position;
            chunk.rebuilding = true;
            let session = crate::chunk::Session { begin: header.position, ..Default::default() };
            chunk.session = Some(Box::new(session));
            return;
        }
        Kind::End => {
            chunk.position = header.position;
            chunk.rebuilding = false;
            chunk.session = None;
            return;
        }
        Kind::Pulled => {}
        Kind::Write | Kind::Zero | Kind::Fill => chunk.position = header.position,
    }
    if let Some(half) = header.in_place {
        let layer = chunk.layer_mut(header.layer);
        layer.place(header.block, header.blocks, half);
        layer.has_files = true;
    }
    let mut put = |block: u16, run: Run| {
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        note(chunk, owners, &key, header.kind, block, &run);
        chunk.layer_mut(header.layer).overlay.insert(block, run);
    };
    if header.kind == Kind::Write {
        let crcs = match header.blocks {
            1 => Crcs::One(crc_at(body, 0)),
            blocks => Crcs::Many((0..blocks as usize).map(|index| crc_at(body, index)).collect(), 0),
        };
        let source = match header.in_place {
            Some(half) => Source::InPlace { half, crcs },
            None => Source::Journal { segment, offset: data_offset, crcs },
        };
        put(header.block, Run { blocks: header.blocks, lsn: header.lsn, position: header.position, source });
        return;
    }
    if header.kind == Kind::Zero {
        let (lsn, position) = (header.lsn, header.position);
        put(header.block, Run { blocks: header.blocks, lsn, position, source: Source::Zero });
        return;
    }
    record::changes(header, body, &mut |change| {
        let source = match change.entry.state {
            BlockState::Absent => Source::Absent,
            BlockState::Zero => Source::Zero,
            BlockState::Data if header.in_place.is_some() => {
                let half = header.in_place.unwrap_or_default();
                Source::InPlace { half, crcs: Crcs::One(change.entry.crc) }
            }
            BlockState::Data => Source::Journal {
                segment,
                offset: data_offset + (change.data_index * BLOCK_BYTES) as u64,
                crcs: Crcs::One(change.entry.crc),
            },
        };
        put(change.block, Run { blocks: 1, lsn: header.lsn, position: change.entry.position, source });
    });
}

/// What else must know that blocks changed.
fn note(chunk: &mut Chunk, owners: &mut OwnerCache, key: &LayerKey, kind: Kind, block: u16, run: &Run) {
    if matches!(run.source, Source::Absent) {
        owners.drop_chunk(key.volume, key.chunk);
    } else {
        owners.note(key, block, run.blocks);
    }
    if !chunk.damaged.is_empty() {
        let end = u32::from(block) + u32::from(run.blocks);
        chunk.damaged.retain(|(layer, at)| *layer != key.layer || *at < block || u32::from(*at) >= end);
    }
    let Some(session) = chunk.session.as_deref_mut() else { return };
    match kind {
        Kind::Write | Kind::Zero => session.note_written(key.layer, block, run.blocks),
        Kind::Fill => (block..block + run.blocks).for_each(|block| session.filled.set(block)),
        Kind::Pulled | Kind::Begin | Kind::End => {}
    }
}
