//! The checkpoint: what the journal has goes to the chunk files, and the journal is freed.
//!
//! The job is made by the store, run step by step anywhere (a helper thread in the chunk server, between events in the
//! simulator) and given back. Order is everything: journal (and what was written in place) durable → chunk files written →
//! chunk files durable → names durable → `checkpoint` replaced → room that nobody keeps (`spares.rs`) and journal segments
//! freed. While it runs the store serves every block of it from where the records say.
//!
//! A replay of the journal as it was must be possible until `checkpoint` is replaced, so this never writes to a place
//! where a record says that its data is: a journaled block goes to the half where the block was at the last checkpoint,
//! and a block written in place since then is in the other one. Only a block that was not may change sides (`moves.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;

use yuntai_proto::{block_crc, mutant, VolumeId, BLOCK_BYTES};

use crate::chunk::Placed;
use crate::files::Handles;
use crate::garbage::Doomed;
use crate::groups::{Half, LayerKey, Stored};
use crate::journal::{segment_path, SyncTicket, FOLDER};
use crate::overlay::{Run, Source};
use crate::spares::give_back;
use crate::store::Store;
use crate::superblock::VOLUMES;
use crate::table::{Row, Table, NAME};
use crate::vfs::{replace_file, Vfs, VfsFile};

/// Blocks copied at a time from the journal.
const COPY_BLOCKS: u16 = 256;

mod entries;
pub(crate) mod moves;

use entries::{write_slots, Halves};
use moves::{spans, Span};

struct Work<V: Vfs> {
    key: LayerKey,
    /// There are files.
    has_files: bool,
    /// What their entries say counts.
    on_disk: bool,
    runs: Vec<(u16, Run)>,
    placed: Option<Arc<Placed>>,
    /// What is to lie in one half.
    spans: Vec<Span>,
    handles: Option<Arc<Handles<V>>>,
}

enum Stage {
    Journal,
    Volumes,
    Apply,
    SyncFiles,
    SyncNames,
    Table,
    GiveBack,
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
    /// Layers with blocks that changed sides.
    moved: Vec<LayerKey>,
    folders: BTreeSet<VolumeId>,
    table: Table,
    lost: Vec<(LayerKey, u16)>,
    /// Layers whose room that is not in use is given back.
    giving: BTreeSet<LayerKey>,
    /// Those that have, and what their files take since.
    given: Vec<(LayerKey, u64)>,
    /// What is cleared away.
    doomed: Doomed,
    gone: Doomed,
    stage: Stage,
}

/// Files that have no name any more. Dropping the last handle gives their room back to the disk, which takes tens of
/// milliseconds where the file system tells the device of it (ext4 with `discard`): let another thread do it.
pub struct Unlinked<V: Vfs> {
    _job: CheckpointJob<V>,
}

impl<V: Vfs> Store<V> {
    /// Begin a checkpoint of everything appended so far; `None` if one is running, a commit is not finished, or there is
    /// nothing to do. Give the job back with [`Store::end_checkpoint`] or [`Store::abandon_checkpoint`].
    pub fn begin_checkpoint(&mut self) -> Option<CheckpointJob<V>> {
        debug_assert!(self.batch.is_empty(), "commit first");
        // What is on its way has its place, but no record yet.
        if self.checkpointing || self.is_writing() {
            return None;
        }
        if let Err(error) = self.journal.rotate() {
            // Segments before the current one can be freed all the same.
            tracing::warn!(%error, "no new journal segment for the checkpoint");
        }
        self.forget_emptied();
        // Moving may take room, which a full disk has not.
        let gathers = !self.is_full();
        let mut todo = VecDeque::new();
        let mut rows = Vec::with_capacity(self.chunks.len());
        for ((volume, index), chunk) in &mut self.chunks {
            chunk.layers.retain(|layer| layer.on_disk || !layer.overlay.is_empty());
            for layer in chunk.layers.iter_mut().filter(|layer| !layer.overlay.is_empty()) {
                let key = LayerKey { volume: *volume, chunk: *index, layer: layer.id };
                let runs = layer.overlay.iter().map(|(block, run)| (block, run.clone())).collect();
                let placed = layer.placed.take().map(|placed| Arc::new(*placed));
                layer.placed_before.clone_from(&placed);
                let spans = if gathers { spans(&layer.overlay, self.options.in_place_blocks_min) } else { Vec::new() };
                layer.moving.clone_from(&spans);
                // Files that were left here are made anew.
                self.doomed.layers.remove(&key);
                if placed.is_some() {
                    self.spares.keep(key);
                }
                let (has_files, on_disk) = (layer.has_files, layer.on_disk);
                todo.push_back(Work { key, has_files, on_disk, runs, placed, spans, handles: None });
            }
            rows.push(Row {
                volume: *volume,
                chunk: *index,
                rebuilding: chunk.rebuilding,
                position: chunk.position,
                layers: chunk.layers.iter().map(|layer| (layer.id, layer.allocated_bytes)).collect(),
            });
        }
        // What only gives room back comes before what may need some.
        let takes_room = |work: &Work<V>| !work.runs.iter().all(|(_, run)| run.place(0).is_none());
        todo.make_contiguous().sort_by_key(takes_room);
        self.checkpointing = true;
        self.in_place_bytes = 0;
        self.detoured_bytes = 0;
        let lsn = self.appended_lsn();
        let first_segment = self.journal.current();
        Some(CheckpointJob {
            vfs: self.vfs.clone(),
            ticket: self.sync_ticket(),
            lsn,
            segments: self.journal.segments.iter().map(|(n, segment)| (*n, Arc::clone(&segment.file))).collect(),
            first_segment,
            todo,
            applied: VecDeque::new(),
            done: Vec::new(),
            moved: Vec::new(),
            folders: BTreeSet::new(),
            table: Table { next_lsn: lsn + 1, first_segment, rows },
            lost: Vec::new(),
            giving: self.begin_giving(),
            given: Vec::new(),
            doomed: self.doomed.clone(),
            gone: Doomed { chunks: self.doomed.chunks.clone(), ..Doomed::default() },
            stage: Stage::Journal,
        })
    }

    /// A job has run to its end. What it has unlinked is to be dropped where nobody waits.
    pub fn end_checkpoint(&mut self, job: CheckpointJob<V>) -> Unlinked<V> {
        if let Some(ticket) = &job.ticket {
            self.synced(ticket);
        }
        for (key, allocated_bytes) in &job.done {
            let Some(chunk) = self.chunks.get_mut(&(key.volume, key.chunk)) else { continue };
            let layer = chunk.layer_mut(key.layer);
            layer.overlay.forget(job.lsn);
            layer.placed_before = None;
            layer.moving = Vec::new();
            layer.on_disk = true;
            layer.has_files = true;
            layer.allocated_bytes = *allocated_bytes;
            self.emptied |= layer.emptied && layer.overlay.is_empty();
        }
        for (key, block) in &job.lost {
            self.mark_damaged(*key, *block);
        }
        job.moved.iter().for_each(|key| self.spares.keep(*key));
        self.end_giving(&job.given);
        self.journal.forget_below(job.first_segment);
        self.checkpointed_lsn = job.lsn;
        self.doomed.settle(&job.gone);
        self.checkpointing = false;
        Unlinked { _job: job }
    }

    /// A job has failed, and was dropped: everything is still in the journal, and the next one does it again.
    pub fn abandon_checkpoint(&mut self) {
        for layer in self.chunks.values_mut().flat_map(|chunk| &mut chunk.layers) {
            layer.merge_placed();
            layer.moving = Vec::new();
        }
        self.abandon_giving();
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

    /// Room that was kept for the next write in place has been given back.
    #[must_use]
    pub fn gave_back(&self) -> bool {
        !self.given.is_empty()
    }

    /// Blocks that lay in both halves were brought together.
    #[must_use]
    pub fn moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// Do the next piece; true when all is done.
    ///
    /// # Errors
    /// What the system says; drop the job then.
    pub fn step(&mut self) -> io::Result<bool> {
        match self.stage {
            Stage::Journal => {
                if !mutant::is("chunk files before the journal") {
                    self.ticket.as_ref().map_or(Ok(()), SyncTicket::run)?;
                }
                self.stage = Stage::Volumes;
            }
            // First, so that a disk without any room gets some: their fences have taken them out of every table.
            Stage::Volumes => match self.doomed.volumes.pop_first() {
                Some(volume) => self.remove_volume(volume),
                None => self.stage = Stage::Apply,
            },
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
                self.stage = Stage::GiveBack;
            }
            Stage::GiveBack => match self.giving.pop_first() {
                Some(key) => self.give_back(key),
                None => self.stage = Stage::Free,
            },
            Stage::Free => {
                for number in self.segments.keys().filter(|number| **number < self.first_segment) {
                    self.vfs.remove(&segment_path(*number))?;
                }
                self.vfs.sync_dir(FOLDER)?;
                self.stage = Stage::Remove;
            }
            Stage::Remove => match self.doomed.layers.pop_first() {
                Some(key) => self.remove_layer(key),
                None => self.stage = Stage::Done,
            },
            Stage::Done => {}
        }
        Ok(matches!(self.stage, Stage::Done))
    }

    /// A volume's files were in no table any more before this: what fails here is done by the next job or start.
    fn remove_volume(&mut self, volume: VolumeId) {
        match self.vfs.remove_dir(&LayerKey::folder(volume)) {
            Ok(()) => {
                self.gone.volumes.insert(volume);
            }
            Err(error) => tracing::warn!(volume = format!("{volume:016x}"), %error, "a deleted volume's files stay"),
        }
    }

    /// What is left behind is a stray to the next start.
    fn remove_layer(&mut self, key: LayerKey) {
        for path in [key.data_path(), key.entries_path()] {
            if let Err(error) = self.vfs.remove(&path) {
                tracing::warn!(path, %error, "a file that nobody needs stays");
            }
        }
        self.gone.layers.insert(key);
    }

    fn sync(&mut self, work: &Work<V>) -> io::Result<()> {
        let handles = work.handles.as_ref().expect("applying opened them");
        if !mutant::is("the journal is freed before the chunk files are durable") {
            handles.data.sync()?;
            handles.entries.sync()?;
        }
        let bytes = handles.data.allocated_bytes()? + handles.entries.allocated_bytes()?;
        self.done.push((work.key, bytes));
        Ok(())
    }

    /// What fails here only takes room until the layer is written in place again, or scrubbed.
    fn give_back(&mut self, key: LayerKey) {
        match give_back(&self.vfs, &key) {
            Ok(allocated_bytes) => self.given.push((key, allocated_bytes)),
            Err(error) => tracing::warn!(chunk = key.chunk, %error, "unused room is not given back"),
        }
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
        let handles = if work.has_files {
            Handles::open(&self.vfs, &work.key)?
        } else {
            self.vfs.create_dir(&LayerKey::folder(work.key.volume))?;
            Handles::create(&self.vfs, &work.key)?
        };
        if !work.on_disk {
            self.folders.insert(work.key.volume);
            // Leftovers of a checkpoint that was cut short do not count.
            handles.entries.set_len(0)?;
        }
        let mut halves = Halves::of(&work, &handles)?;
        if halves.gather(&work) {
            self.moved.push(work.key);
        }
        let mut stored = Vec::new();
        let mut buffer = Vec::new();
        for (block, run) in &work.runs {
            for (first, blocks, half) in halves.parts(*block, run.blocks) {
                let part = run.part(first - block, blocks);
                self.apply_run(&work.key, &handles, (first, &part, half), &mut buffer, &mut stored)?;
            }
        }
        write_slots(&handles, &work.key, &stored)?;
        work.handles = Some(Arc::new(handles));
        self.applied.push_back(work);
        Ok(())
    }

    /// Bring one run's bytes to where they belong and note what its entries become. `half` is where its blocks were at
    /// the last checkpoint, or where they move.
    fn apply_run(
        &mut self,
        key: &LayerKey,
        handles: &Handles<V>,
        (block, run, half): (u16, &Run, Half),
        buffer: &mut Vec<u8>,
        stored: &mut Vec<(u16, Stored)>,
    ) -> io::Result<()> {
        let entries = |half: Half| (0..run.blocks).map(move |at| (block + at, stored_entry(run, at, half)));
        let segment = match &run.source {
            Source::InPlace { half, .. } => {
                stored.extend(entries(*half));
                return Ok(());
            }
            Source::Absent | Source::Zero | Source::Lost { .. } => {
                handles.data.punch(half.offset(block), u64::from(run.blocks) * BLOCK_BYTES as u64)?;
                stored.extend(entries(half));
                return Ok(());
            }
            Source::Journal { segment, .. } => *segment,
        };
        let journal = self.segments.get(&segment).ok_or_else(|| io::Error::other("a journal segment is gone"))?;
        for first in (0..run.blocks).step_by(COPY_BLOCKS as usize) {
            let count = COPY_BLOCKS.min(run.blocks - first);
            buffer.resize(count as usize * BLOCK_BYTES, 0);
            let (_, offset) = run.place(first).ok_or_else(|| io::Error::other("a run of the journal has no place"))?;
            let read = journal.read_at(buffer, offset)?;
            buffer[read..].fill(0);
            handles.data.write_at(&mut [IoSlice::new(buffer)], half.offset(block + first))?;
            for (index, bytes) in (first..).zip(buffer.chunks_exact(BLOCK_BYTES)) {
                // The journal rotted after it was synced: say so for ever, instead of blessing the bytes.
                let whole = block_crc(bytes) == run.entry(index).crc;
                stored.push((block + index, if whole { stored_entry(run, index, half) } else { Stored::LOST }));
                if !whole {
                    self.lost.push((*key, block + index));
                }
            }
        }
        Ok(())
    }
}

fn stored_entry(run: &Run, index: u16, half: Half) -> Stored {
    Stored { slot: run.slot(index), half }
}
