//! The checkpoint: what the journal has goes to the chunk files, and the journal is freed.
//!
//! The job is made by the store, run step by step anywhere (a helper thread in the chunk server, between events in the
//! simulator) and given back. Order is everything: journal durable → chunk files written → chunk files durable → names
//! durable → `checkpoint` replaced → journal segments removed. While it runs the store serves every block of it from
//! the journal, and nobody else writes to chunk files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;

use yuntai_proto::{block_crc, BlockState, VolumeId, BLOCK_BYTES};

use crate::files::Handles;
use crate::groups::{self, Group, LayerKey, Slot, GROUP_BYTES, GROUP_ENTRIES};
use crate::journal::{segment_path, SyncTicket, FOLDER};
use crate::overlay::{Run, Source};
use crate::store::Store;
use crate::superblock::VOLUMES;
use crate::table::{Row, Table, NAME};
use crate::vfs::{replace_file, Vfs, VfsFile};

/// Touched groups so close together are read and written in one piece.
const GAP_GROUPS: usize = 16;
/// Bytes copied at a time from the journal.
const COPY_BYTES: usize = 1 << 20;

struct Work<V: Vfs> {
    key: LayerKey,
    on_disk: bool,
    runs: Vec<(u16, Run)>,
    handles: Option<Arc<Handles<V>>>,
}

enum Stage {
    Journal,
    Apply,
    SyncFiles,
    SyncNames,
    Table,
    Free,
    Remove,
    Done,
}

/// One checkpoint on its way.
pub struct CheckpointJob<V: Vfs> {
    vfs: V,
    ticket: Option<SyncTicket<V>>,
    lsn: u64,
    segments: BTreeMap<u64, Arc<V::File>>,
    first_segment: u64,
    todo: VecDeque<Work<V>>,
    applied: VecDeque<Work<V>>,
    done: Vec<(LayerKey, u64)>,
    folders: BTreeSet<VolumeId>,
    table: Table,
    lost: Vec<(LayerKey, u16)>,
    /// Deleted volumes whose files go.
    doomed: Vec<VolumeId>,
    gone: Vec<VolumeId>,
    stage: Stage,
}

impl<V: Vfs> Store<V> {
    /// Begin a checkpoint of everything appended so far; `None` if one is running or there is nothing to do. Give the
    /// job back with [`Store::end_checkpoint`] or [`Store::abandon_checkpoint`].
    pub fn begin_checkpoint(&mut self) -> Option<CheckpointJob<V>> {
        debug_assert!(self.batch.is_empty(), "commit first");
        if self.checkpointing {
            return None;
        }
        if let Err(error) = self.journal.rotate() {
            // Segments before the current one can be freed all the same.
            tracing::warn!(%error, "no new journal segment for the checkpoint");
        }
        let mut todo = VecDeque::new();
        let mut rows = Vec::with_capacity(self.chunks.len());
        for ((volume, index), chunk) in &self.chunks {
            for layer in chunk.layers.iter().filter(|layer| !layer.overlay.is_empty()) {
                let key = LayerKey { volume: *volume, chunk: *index, layer: layer.id };
                let runs = layer.overlay.iter().map(|(block, run)| (block, run.clone())).collect();
                todo.push_back(Work { key, on_disk: layer.on_disk, runs, handles: None });
            }
            rows.push(Row {
                volume: *volume,
                chunk: *index,
                rebuilding: chunk.rebuilding,
                position: chunk.position,
                layers: chunk.layers.iter().map(|layer| (layer.id, layer.allocated_bytes)).collect(),
            });
        }
        self.checkpointing = true;
        let lsn = self.appended_lsn();
        let first_segment = self.journal.current();
        Some(CheckpointJob {
            vfs: self.vfs.clone(),
            ticket: self.journal.sync_ticket(),
            lsn,
            segments: self.journal.segments.iter().map(|(n, segment)| (*n, Arc::clone(&segment.file))).collect(),
            first_segment,
            todo,
            applied: VecDeque::new(),
            done: Vec::new(),
            folders: BTreeSet::new(),
            table: Table { next_lsn: lsn + 1, first_segment, rows },
            lost: Vec::new(),
            doomed: self.doomed.clone(),
            gone: Vec::new(),
            stage: Stage::Journal,
        })
    }

    /// A job has run to its end.
    pub fn end_checkpoint(&mut self, job: CheckpointJob<V>) {
        if let Some(ticket) = &job.ticket {
            self.journal.synced(ticket);
        }
        for (key, allocated_bytes) in &job.done {
            let Some(chunk) = self.chunks.get_mut(&(key.volume, key.chunk)) else { continue };
            let layer = chunk.layer_mut(key.layer);
            layer.overlay.forget(job.lsn);
            layer.on_disk = true;
            layer.allocated_bytes = *allocated_bytes;
        }
        for (key, block) in &job.lost {
            self.mark_damaged(*key, *block);
        }
        self.journal.forget_below(job.first_segment);
        self.checkpointed_lsn = job.lsn;
        self.doomed.retain(|volume| !job.gone.contains(volume));
        self.checkpointing = false;
    }

    /// A job has failed, and was dropped: everything is still in the journal, and the next one does it again.
    pub fn abandon_checkpoint(&mut self) {
        self.checkpointing = false;
    }

    /// Is a job on its way?
    #[must_use]
    pub fn checkpointing(&self) -> bool {
        self.checkpointing
    }
}

impl<V: Vfs> CheckpointJob<V> {
    /// Did the part that must not fail, the journal's sync, fail? Then the process must end and replay; every other
    /// failure can be tried again.
    #[must_use]
    pub fn failed_in_journal(&self) -> bool {
        matches!(self.stage, Stage::Journal)
    }

    /// Do the next piece; true when all is done.
    ///
    /// # Errors
    /// What the system says; drop the job then.
    pub fn step(&mut self) -> io::Result<bool> {
        match self.stage {
            Stage::Journal => {
                self.ticket.as_ref().map_or(Ok(()), SyncTicket::run)?;
                self.stage = Stage::Apply;
            }
            Stage::Apply => match self.todo.pop_front() {
                Some(work) => self.apply(work)?,
                None => self.stage = Stage::SyncFiles,
            },
            Stage::SyncFiles => match self.applied.pop_front() {
                Some(work) => self.sync(&work)?,
                None => self.stage = Stage::SyncNames,
            },
            Stage::SyncNames => {
                for volume in &self.folders {
                    self.vfs.sync_dir(&LayerKey::folder(*volume))?;
                }
                if !self.folders.is_empty() {
                    self.vfs.sync_dir(VOLUMES)?;
                }
                self.stage = Stage::Table;
            }
            Stage::Table => {
                self.write_table()?;
                self.stage = Stage::Free;
            }
            Stage::Free => {
                for number in self.segments.keys().filter(|number| **number < self.first_segment) {
                    self.vfs.remove(&segment_path(*number))?;
                }
                self.vfs.sync_dir(FOLDER)?;
                self.stage = Stage::Remove;
            }
            Stage::Remove => match self.doomed.pop() {
                Some(volume) => self.remove(volume),
                None => self.stage = Stage::Done,
            },
            Stage::Done => {}
        }
        Ok(matches!(self.stage, Stage::Done))
    }

    /// A volume's files were in no table any more before this: what fails here is done by the next job or start.
    fn remove(&mut self, volume: VolumeId) {
        match self.vfs.remove_dir(&LayerKey::folder(volume)) {
            Ok(()) => self.gone.push(volume),
            Err(error) => tracing::warn!(volume = format!("{volume:016x}"), %error, "a deleted volume's files stay"),
        }
    }

    fn sync(&mut self, work: &Work<V>) -> io::Result<()> {
        let handles = work.handles.as_ref().expect("applying opened them");
        handles.data.sync()?;
        handles.entries.sync()?;
        let bytes = handles.data.allocated_bytes()? + handles.entries.allocated_bytes()?;
        self.done.push((work.key, bytes));
        Ok(())
    }

    fn write_table(&mut self) -> io::Result<()> {
        let sizes: BTreeMap<LayerKey, u64> = self.done.iter().copied().collect();
        for row in &mut self.table.rows {
            for (layer, bytes) in &mut row.layers {
                let key = LayerKey { volume: row.volume, chunk: row.chunk, layer: *layer };
                *bytes = sizes.get(&key).copied().unwrap_or(*bytes);
            }
        }
        replace_file(&self.vfs, "", NAME, &self.table.encode())
    }

    fn apply(&mut self, mut work: Work<V>) -> io::Result<()> {
        let handles = if work.on_disk {
            Handles::open(&self.vfs, &work.key)?
        } else {
            self.vfs.create_dir(&LayerKey::folder(work.key.volume))?;
            self.folders.insert(work.key.volume);
            Handles::create(&self.vfs, &work.key)?
        };
        let mut slots = Vec::new();
        let mut buffer = Vec::new();
        for (block, run) in &work.runs {
            self.apply_data(&work, &handles, *block, run, &mut buffer, &mut slots)?;
        }
        write_slots(&handles, &work.key, &slots)?;
        work.runs = Vec::new();
        work.handles = Some(Arc::new(handles));
        self.applied.push_back(work);
        Ok(())
    }

    /// Copy one run's bytes and note what its entries become.
    fn apply_data(
        &mut self,
        work: &Work<V>,
        handles: &Handles<V>,
        block: u16,
        run: &Run,
        buffer: &mut Vec<u8>,
        slots: &mut Vec<(u16, Slot)>,
    ) -> io::Result<()> {
        let byte_of = |index: u16| u64::from(block + index) * BLOCK_BYTES as u64;
        let Source::Journal { segment, .. } = &run.source else {
            if work.on_disk {
                handles.data.punch(byte_of(0), u64::from(run.blocks) * BLOCK_BYTES as u64)?;
            }
            slots.extend((0..run.blocks).map(|index| (block + index, Slot::Entry(run.entry(index)))));
            return Ok(());
        };
        let journal = self.segments.get(segment).ok_or_else(|| io::Error::other("a journal segment is gone"))?;
        let step = (COPY_BYTES / BLOCK_BYTES) as u16;
        for first in (0..run.blocks).step_by(step as usize) {
            let count = step.min(run.blocks - first);
            buffer.resize(count as usize * BLOCK_BYTES, 0);
            let (_, offset) = run.place(first).ok_or_else(|| io::Error::other("a run of the journal has no place"))?;
            let read = journal.read_at(buffer, offset)?;
            buffer[read..].fill(0);
            handles.data.write_at(&mut [IoSlice::new(buffer)], byte_of(first))?;
            for (index, bytes) in (first..).zip(buffer.chunks_exact(BLOCK_BYTES)) {
                let entry = run.entry(index);
                debug_assert_eq!(entry.state, BlockState::Data);
                // The journal rotted after it was synced: say so for ever, instead of blessing the bytes.
                let whole = block_crc(bytes) == entry.crc;
                slots.push((block + index, if whole { Slot::Entry(entry) } else { Slot::Lost }));
                if !whole {
                    self.lost.push((work.key, block + index));
                }
            }
        }
        Ok(())
    }
}

/// Put entries into their groups; `slots` is in order of blocks.
fn write_slots<V: Vfs>(handles: &Handles<V>, key: &LayerKey, slots: &[(u16, Slot)]) -> io::Result<()> {
    let group_of = |slot: &(u16, Slot)| groups::place_of(slot.0).0;
    let mut raw = Vec::new();
    for span in slots.chunk_by(|left, right| group_of(right) - group_of(left) <= GAP_GROUPS) {
        let (first, last) = (group_of(&span[0]), group_of(&span[span.len() - 1]));
        raw.clear();
        raw.resize((last - first + 1) * GROUP_BYTES, 0);
        handles.entries.read_at(&mut raw, (first * GROUP_BYTES) as u64)?;
        for touched in span.chunk_by(|left, right| group_of(left) == group_of(right)) {
            let number = group_of(&touched[0]);
            let bytes = raw[(number - first) * GROUP_BYTES..].first_chunk_mut().expect("a group's length");
            // What a damaged group said is not known any more: its other blocks are lost, and stay lost.
            let mut group: Group = groups::decode(key, number, bytes).unwrap_or([Slot::Lost; GROUP_ENTRIES]);
            for (block, slot) in touched {
                group[groups::place_of(*block).1] = *slot;
            }
            *bytes = groups::encode(key, number, &group);
        }
        handles.entries.write_at(&mut [IoSlice::new(&raw)], (first * GROUP_BYTES) as u64)?;
    }
    Ok(())
}
