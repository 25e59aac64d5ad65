//! Reads: from an in-sync replica, checked, from another one if need be, from the source where nothing is here yet.

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::frame::FLAG_STATES_ONLY;
use yuntai_proto::{mutant, BlockState, ChunkIndex, Frame, Kind, ServerId, BASE_LAYER, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::api::{Extent, Micros};
use crate::chunk::{Parked, Standing};
use crate::guest::Work;
use crate::runs::{absent_span, from_reply, parts, BadReply, Run};
use crate::server::Asked;
use crate::volume::Volume;

/// A read that nobody could answer is tried again after this.
const RETRY_US: Micros = 100_000;
/// A chunk is not rebuilt again on a server for the block that it was rebuilt for last before this.
const HEAL_AGAIN_US: Micros = 60_000_000;
/// The same for another block: blocks are found to be damaged one by one.
const HEAL_NEXT_US: Micros = 50_000;

/// For whom a read is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Piece(u64),
    Merge(u64),
    Hydrate(u64),
}

/// Where the answer is being sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Own,
    Source(usize),
}

#[derive(Debug)]
pub(crate) struct ReadJob {
    pub purpose: Purpose,
    pub chunk: ChunkIndex,
    pub block: usize,
    pub blocks: usize,
    pub states_only: bool,
    pub stage: Stage,
    /// Servers that could not answer in this stage.
    pub tried: Vec<ServerId>,
    /// Of them those with damage, and the first block of it.
    pub bad: Vec<(ServerId, usize)>,
    /// Our own servers that were asked and have not answered, in that order.
    pub asked: Vec<ServerId>,
    /// A second one was asked because the first one was slow.
    pub hedged: bool,
    pub runs: Option<Vec<Run>>,
    /// What a source had and we had not: first block, runs.
    pub fills: Vec<(usize, Vec<Run>)>,
    pub asked_at: Micros,
}

impl Volume {
    /// Read what a piece wants (or, for a merge, the block under it).
    pub(crate) fn start_read(&mut self, piece_id: u64) {
        let piece = &self.pieces[&piece_id];
        let merge = matches!(piece.work, Work::Merge { .. });
        let job = ReadJob {
            purpose: if merge { Purpose::Merge(piece_id) } else { Purpose::Piece(piece_id) },
            chunk: piece.chunk,
            block: piece.block,
            blocks: piece.blocks,
            states_only: matches!(piece.work, Work::Status { .. }),
            stage: Stage::Own,
            tried: Vec::new(),
            bad: Vec::new(),
            asked: Vec::new(),
            hedged: false,
            runs: None,
            fills: Vec::new(),
            asked_at: self.now,
        };
        self.begin_read(job);
    }

    pub(crate) fn begin_read(&mut self, job: ReadJob) {
        let id = self.id();
        self.reads.insert(id, job);
        self.dispatch_read(id);
    }

    pub(crate) fn dispatch_read(&mut self, id: u64) {
        let Some(job) = self.reads.get_mut(&id) else { return };
        if let Stage::Source(index) = job.stage {
            return self.dispatch_source(id, index);
        }
        self.count_read();
        if !self.ask_replica(id) {
            if let Some(block) = self.lost_block(id) {
                return self.fail_read(id, block);
            }
            let job = self.reads.get_mut(&id).expect("just seen");
            job.tried.clear();
            job.bad.clear();
            self.stalled_reads.push((self.now + RETRY_US, id));
        }
    }

    /// Ask an in-sync replica that was not asked yet: a preferred one, and not one that is slow, if there is a choice.
    pub(crate) fn ask_replica(&mut self, id: u64) -> bool {
        let Some(job) = self.reads.get(&id) else { return false };
        let chunk = &self.chunks[job.chunk as usize];
        let usable = |server: &ServerId| {
            let whole = chunk.index_of(*server).is_some_and(|at| self.has_all(job.chunk, at));
            let asked = job.tried.contains(server) || job.asked.contains(server);
            whole && !asked && self.servers[server].dialer.ready()
        };
        let quick = |server: &ServerId| self.servers[server].slow_until <= self.now;
        let preferred = self.spec.prefer.iter().copied();
        let order = || preferred.clone().chain(chunk.replicas.iter().map(|replica| replica.server));
        let found = order().find(|server| usable(server) && quick(server)).or_else(|| order().find(usable));
        let Some(server) = found else { return false };
        let job = self.reads.get_mut(&id).expect("just seen");
        if job.asked.is_empty() {
            job.asked_at = self.now;
        }
        job.asked.push(server);
        let layer = if matches!(job.purpose, Purpose::Hydrate(_)) { BASE_LAYER } else { self.spec.head };
        let (number, block, blocks, states_only) = (job.chunk, job.block, job.blocks, job.states_only);
        let mut header = self.header(Kind::Read, number);
        header.layer = layer;
        (header.block, header.blocks) = (block as u16, blocks as u16);
        header.flags = if states_only { FLAG_STATES_ONLY } else { 0 };
        self.ask(server, Asked::Read { read: id }, header, Bytes::new(), Bytes::new());
        true
    }

    /// Whatever was acknowledged is there. A server that has only just begun to count may hold back what it was sent.
    fn has_all(&self, number: ChunkIndex, at: usize) -> bool {
        let chunk = &self.chunks[number as usize];
        let server = chunk.replicas[at].server;
        (chunk.whole & chunk.required) >> at & 1 == 1
            && (!self.is_proving(server) || mutant::is("a joiner is read from before its history is durable"))
            && (chunk.joining >> at & 1 == 0 || !self.is_flushing(number, server))
    }

    pub(crate) fn on_read_reply(&mut self, server: ServerId, id: u64, frame: &Frame) {
        let Some(job) = self.reads.get_mut(&id).filter(|job| job.asked.contains(&server)) else { return };
        // A server that does not know the flag sends the bytes as well: then they are checked and not used.
        let with_data = !job.states_only || !frame.data.is_empty();
        match from_reply(frame, job.blocks, with_data) {
            Ok(runs) => {
                let lacking = absent_span(&runs);
                job.runs = Some(runs);
                let (number, block, first, took) = (job.chunk, job.block, job.asked[0], self.now - job.asked_at);
                job.asked.clear();
                let guest = !matches!(job.purpose, Purpose::Hydrate(_));
                let wanted = !job.states_only || matches!(job.purpose, Purpose::Hydrate(_));
                self.read_answered(server, first, took);
                if let (Some((first, end)), true) = (lacking, wanted && self.needs_source(number)) {
                    self.counters.lazy_reads += 1;
                    if guest {
                        self.note_boot_read(number, block + first, end - first);
                    }
                    let job = self.reads.get_mut(&id).expect("just seen");
                    job.stage = Stage::Source(0);
                    job.tried.clear();
                    self.dispatch_source(id, 0);
                } else {
                    self.finish_read(id);
                }
            }
            Err(BadReply::Damaged { block }) => {
                let (number, block) = (job.chunk, job.block + block);
                job.bad.push((server, block));
                self.damaged(server, number, block);
                self.replica_read_failed(server, id);
            }
            Err(BadReply::Malformed) => {
                self.fail_link(server, "malformed answer to a read");
                self.replica_read_failed(server, id);
            }
        }
    }

    pub(crate) fn on_read_refused(&mut self, server: ServerId, id: u64, refusal: &Refusal) {
        match refusal {
            Refusal::Damaged { chunk, block } if (*chunk as usize) < self.chunks.len() => {
                if let Some(job) = self.reads.get_mut(&id) {
                    job.bad.push((server, usize::from(*block)));
                }
                self.damaged(server, *chunk, usize::from(*block));
            }
            // Its claim is not valid any more; a new one, with what the master has sent meanwhile, may be.
            Refusal::Denied { .. } => self.fail_link(server, &format!("refused a read: {refusal}")),
            other => {
                let chunk = self.reads.get(&id).map(|job| job.chunk);
                self.note(Some(server), chunk, format!("refused a read: {other}"));
            }
        }
        self.replica_read_failed(server, id);
    }

    /// One of our own servers did not answer a read: if nobody else was asked, somebody else is now.
    pub(crate) fn replica_read_failed(&mut self, server: ServerId, id: u64) {
        let Some(job) = self.reads.get_mut(&id) else { return };
        let Some(at) = job.asked.iter().position(|asked| *asked == server) else { return };
        job.asked.remove(at);
        job.tried.push(server);
        if job.asked.is_empty() {
            self.dispatch_read(id);
        }
    }

    /// Ask another server of the source.
    pub(crate) fn read_failed(&mut self, server: ServerId, id: u64) {
        if let Some(job) = self.reads.get_mut(&id) {
            job.tried.push(server);
            self.dispatch_read(id);
        }
    }

    /// A replica's block does not match its checksum. The guest is served from another replica; this one pulls the
    /// chunk anew from a good one, by the path of a returning server: begin, pull, end. (Writing the bytes back as an
    /// ordinary write would be a new mutation of the head layer, while the damaged block may belong to a frozen one.)
    /// Meanwhile the replica does not count in that chunk, so writes to it wait for the pull: some milliseconds.
    pub(crate) fn damaged(&mut self, server: ServerId, number: ChunkIndex, block: usize) {
        self.counters.damaged_blocks += 1;
        self.note(Some(server), Some(number), format!("block {block} is damaged there"));
        let (now, writer) = (self.now, self.is_writer());
        let chunk = &mut self.chunks[number as usize];
        let Some(index) = chunk.index_of(server) else { return };
        let others = chunk.required & chunk.whole & !(1 << index);
        let replica = &mut chunk.replicas[index];
        let wait = |last: usize| if last == block { HEAL_AGAIN_US } else { HEAL_NEXT_US };
        let lately = replica.damage.is_some_and(|(last, at)| now < at + wait(last));
        if replica.standing != Standing::Whole || others == 0 || lately || !writer || !chunk.serving {
            return;
        }
        replica.damage = Some((block, now));
        self.take_out_to_heal(number, index);
    }

    /// Everything is known. A guest gets it once no mutation can change what it says any more.
    pub(crate) fn finish_read(&mut self, id: u64) {
        let job = &self.reads[&id];
        if matches!(job.purpose, Purpose::Piece(_)) {
            let (start, end) = (job.block, job.block + job.blocks);
            let chunk = &mut self.chunks[job.chunk as usize];
            let waits_for = if chunk.active.is_empty() { Vec::new() } else { chunk.open_fates(start, end) };
            if !waits_for.is_empty() && !mutant::is("a read does not wait for open fates") {
                chunk.parked.push(Parked { read: id, waits_for });
                return;
            }
        }
        self.deliver(id);
    }

    pub(crate) fn deliver_piece(&mut self, id: u64, runs: &[Run]) {
        let Some(piece) = self.pieces.get(&id) else { return };
        let hydrated = !self.needs_source(piece.chunk);
        let Some(op) = self.ops.get_mut(&piece.op) else { return };
        match piece.work {
            Work::Read { from, len } => op.parts[piece.number] = parts(runs, from, len),
            Work::Status { from, len } => op.extents[piece.number] = extents(runs, from, len, hydrated),
            Work::Write { .. } | Work::Zero | Work::Merge { .. } => {}
        }
        self.piece_done(id);
    }

    pub(crate) fn wake_stalled_reads(&mut self) {
        for (at, _) in &mut self.stalled_reads {
            *at = 0;
        }
        self.retry_stalled_reads();
    }

    pub(crate) fn retry_stalled_reads(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.stalled_reads).into_iter().partition(|(at, _)| *at <= now);
        self.stalled_reads = later;
        let due: Vec<(Micros, u64)> = due;
        due.into_iter().for_each(|(_, id)| self.dispatch_read(id));
    }
}

/// What is absent counts as data until the source is no longer needed: it might have it.
fn extents(runs: &[Run], from: usize, len: usize, hydrated: bool) -> Vec<Extent> {
    let (mut at, mut out) = (0, Vec::new());
    debug_assert!(runs.iter().map(|run| run.blocks).sum::<usize>() <= CHUNK_BLOCKS);
    for run in runs {
        let size = run.blocks * BLOCK_BYTES;
        let (start, end) = (from.max(at), (from + len).min(at + size));
        if start < end {
            let data = match run.state {
                BlockState::Data => true,
                BlockState::Zero => false,
                BlockState::Absent => !hydrated,
            };
            out.push(Extent { len: (end - start) as u64, data });
        }
        at += size;
    }
    out
}
