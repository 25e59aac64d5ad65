//! The receiving side of a rebuild: the stream is marked, the source is asked what it has, and what differs is fetched.

use std::collections::VecDeque;

use bytes::Bytes;
use yuntai_proto::data::{Claim, Pull, Refusal, VersionsReply, VersionsRequest};
use yuntai_proto::frame::FLAG_MORE;
use yuntai_proto::handshake::{json_body, json_frame};
use yuntai_proto::{ChunkIndex, Frame, Header, Kind, LayerId, Position, VolumeId, BLOCK_BYTES};
use yuntai_store::vfs::Vfs;
use yuntai_store::{Lacking, PullRun, ReadBlocks};

use crate::api::{Action, ConnectionId, DialId, Now};
use crate::claims::invalid;
use crate::replica::{Asked, Replica};

/// Runs asked for and not answered yet.
const WINDOW: usize = 4;

/// How far a pull is.
enum Stage {
    /// The source is being called.
    Dialing,
    /// Our claim is with the source.
    Claiming,
    /// We wait for the entries of the layers from this one on.
    Comparing(LayerId),
    /// Blocks are coming; then the layers from this one on, if there are more.
    Fetching(Option<LayerId>),
}

/// One chunk on its way to us.
pub(crate) struct PullJob {
    asked: Asked,
    request: Pull,
    stage: Stage,
    connection: Option<ConnectionId>,
    runs: VecDeque<PullRun>,
    /// Asked for, in order: the answers come in order.
    asked_for: VecDeque<PullRun>,
    /// Answers that wait for room in the journal.
    held: VecDeque<Answer>,
    /// Blocks that the source cannot give. All others are fetched all the same: the next source has less to do.
    damaged: Lacking,
    /// When its rate was set, and what had come before.
    paced: (u64, u64),
    heard_us: u64,
    pub(crate) bytes: u64,
}

/// The source's answer to what was asked.
enum Answer {
    Blocks(ReadBlocks),
    /// This block is damaged there; of the others it says nothing.
    Damaged(u16),
}

impl PullJob {
    pub(crate) fn is_of(&self, volume: VolumeId, chunk: ChunkIndex) -> bool {
        self.asked.header.volume == volume && self.asked.header.chunk == chunk
    }

    /// May more be asked for, under the limit of bytes a second?
    fn within_rate(&self, now: Now) -> bool {
        let limit = self.request.bytes_per_s_max;
        let (since_us, before) = self.paced;
        let elapsed_us = now.us.saturating_sub(since_us);
        limit == 0 || u128::from(self.bytes - before) * 1_000_000 <= u128::from(limit) * u128::from(elapsed_us)
    }

    /// The same pull, asked for again: it goes on, at the rate that it may have now.
    fn is_again(&self, asked: &Asked, request: &Pull) -> bool {
        let same = self.asked.connection == asked.connection && self.is_of(asked.header.volume, asked.header.chunk);
        same && self.request.source == request.source && self.request.min_sequence == request.min_sequence
    }

    /// The source cannot give one block of a run: ask for what is before and behind it. `None` if it is not of the run.
    fn leave_out(&mut self, run: PullRun, block: u16) -> Option<()> {
        let at = block.checked_sub(run.block).map(usize::from).filter(|at| *at < run.entries.len())?;
        let (before, behind) = (run.entries[..at].to_vec(), run.entries[at + 1..].to_vec());
        for (first, entries) in [(block + 1, behind), (run.block, before)] {
            if !entries.is_empty() {
                self.runs.push_front(PullRun { layer: run.layer, block: first, entries });
            }
        }
        self.damaged.insert((run.layer, block), Some(run.entries[at]));
        Some(())
    }

    fn header(&self, kind: Kind) -> Header {
        let asked = &self.asked.header;
        Header { volume: asked.volume, chunk: asked.chunk, ..Header::new(kind, 1) }
    }
}

impl<V: Vfs> Replica<V> {
    pub(crate) fn on_begin_rebuild(&mut self, asked: &Asked) -> Result<(), Refusal> {
        let header = &asked.header;
        let generation = self.write_claim_of(asked.connection, header)?.generation;
        let before = header.sequence.checked_sub(1);
        let sequence = before.ok_or_else(|| invalid("sequence 0: a stream's first mutation is 1 or more".into()))?;
        self.commit();
        self.cancel_pulls_of_chunk(header.volume, header.chunk, "the rebuild was begun again");
        self.lacking.remove(&(header.volume, header.chunk));
        let position = Position { generation, sequence };
        self.store.begin_rebuild(header.volume, header.chunk, position)?;
        self.stage_answer(*asked);
        self.commit();
        tracing::info!(volume = format!("{:016x}", header.volume), chunk = header.chunk, sequence, "rebuild begun");
        Ok(())
    }

    pub(crate) fn on_end_rebuild(&mut self, asked: &Asked) -> Result<(), Refusal> {
        let header = &asked.header;
        let generation = self.write_claim_of(asked.connection, header)?.generation;
        if header.generation > generation {
            return Err(invalid(format!("generation {}: above the claim's {generation}", header.generation)));
        }
        if self.pulls.values().any(|job| job.is_of(header.volume, header.chunk)) {
            return Err(Refusal::Busy { message: "the chunk's pull is not done".into() });
        }
        self.commit();
        let position = Position { generation: header.generation, sequence: header.sequence };
        self.store.end_rebuild(header.volume, header.chunk, position)?;
        self.lacking.remove(&(header.volume, header.chunk));
        self.stage_answer(*asked);
        self.commit();
        tracing::info!(volume = format!("{:016x}", header.volume), chunk = header.chunk, "rebuild ended");
        Ok(())
    }

    pub(crate) fn on_pull(&mut self, asked: &Asked, frame: &Frame, now: Now) -> Result<(), Refusal> {
        let header = &asked.header;
        self.write_claim_of(asked.connection, header)?;
        let request: Pull = json_body(frame).map_err(|error| invalid(error.to_string()))?;
        let state = self.store.chunk_state(header.volume, header.chunk);
        if !state.is_some_and(|state| state.rebuilding) {
            return Err(invalid("the chunk is not being rebuilt here: begin it first".into()));
        }
        if let Some(job) = self.pulls.values_mut().find(|job| job.is_again(asked, &request)) {
            let older = std::mem::replace(&mut job.asked, *asked);
            if job.request.bytes_per_s_max != request.bytes_per_s_max {
                job.paced = (now.us, job.bytes);
            }
            job.request = request;
            self.refuse(&older, &Refusal::Busy { message: "the pull was asked for again".into() });
            return Ok(());
        }
        if self.pulls.len() >= self.config.pulls_max {
            return Err(Refusal::Busy { message: format!("{} pulls are going on", self.pulls.len()) });
        }
        self.cancel_pulls_of_chunk(header.volume, header.chunk, "the pull was asked for again");
        let dial = self.next_dial;
        self.next_dial += 1;
        self.act(Action::Dial { dial, address: request.source.clone() });
        let job = PullJob {
            asked: *asked,
            request,
            stage: Stage::Dialing,
            connection: None,
            runs: VecDeque::new(),
            asked_for: VecDeque::new(),
            held: VecDeque::new(),
            damaged: Lacking::new(),
            paced: (now.us, 0),
            heard_us: now.us,
            bytes: 0,
        };
        self.pulls.insert(dial, job);
        Ok(())
    }

    pub(crate) fn is_pull(&self, connection: ConnectionId) -> bool {
        self.pulls.values().any(|job| job.connection == Some(connection))
    }

    fn dial_of(&self, connection: ConnectionId) -> Option<DialId> {
        self.pulls.iter().find(|(_, job)| job.connection == Some(connection)).map(|(dial, _)| *dial)
    }

    pub(crate) fn dialed(&mut self, dial: DialId, connection: ConnectionId, now: Now) {
        let Some(job) = self.pulls.get_mut(&dial) else {
            return self.act(Action::Close { connection, reason: "the pull was cancelled".into() });
        };
        job.connection = Some(connection);
        job.stage = Stage::Claiming;
        job.heard_us = now.us;
        let claim = Claim { token: job.request.token.clone(), session: 0, parents: vec![0] };
        let frame = json_frame(job.header(Kind::Claim), &claim);
        self.send(connection, frame);
    }

    pub(crate) fn pull_frame(&mut self, connection: ConnectionId, frame: &Frame, now: Now) {
        let Some(dial) = self.dial_of(connection) else { return };
        let Some(job) = self.pulls.get_mut(&dial) else { return };
        job.heard_us = now.us;
        let result = match (frame.header.kind, &job.stage) {
            (Kind::ClaimReply, Stage::Claiming) => {
                self.ask_versions(dial, 0);
                Ok(())
            }
            (Kind::VersionsReply, Stage::Comparing(first)) => {
                let first = *first;
                self.on_versions_reply(dial, first, frame)
            }
            (Kind::ReadReply, Stage::Fetching(_)) => {
                let blocks = ReadBlocks { body: frame.body.clone(), data: frame.data.clone() };
                job.held.push_back(Answer::Blocks(blocks));
                Ok(())
            }
            (Kind::Error, Stage::Fetching(_)) => match source_refused(frame) {
                Refusal::SourceDamaged { block, .. } => {
                    job.held.push_back(Answer::Damaged(block));
                    Ok(())
                }
                refusal => Err(refusal),
            },
            (Kind::Error, _) => Err(source_refused(frame)),
            (other, _) => Err(Refusal::Io { message: format!("the source answered with {other:?}") }),
        };
        if let Err(refusal) = result {
            self.pull_failed(dial, &refusal);
        }
    }

    fn ask_versions(&mut self, dial: DialId, first: LayerId) {
        let Some(job) = self.pulls.get_mut(&dial) else { return };
        let Some(connection) = job.connection else { return };
        job.stage = Stage::Comparing(first);
        let header = Header { sequence: job.request.min_sequence, layer: first, ..job.header(Kind::Versions) };
        let frame = json_frame(header, &VersionsRequest { volume: header.volume });
        self.send(connection, frame);
    }

    fn on_versions_reply(&mut self, dial: DialId, first: LayerId, frame: &Frame) -> Result<(), Refusal> {
        let odd = |message: String| Refusal::Io { message };
        let reply = VersionsReply::decode(frame.body.clone()).map_err(|error| odd(error.to_string()))?;
        let Some(job) = self.pulls.get(&dial) else { return Ok(()) };
        let Header { volume, chunk, .. } = job.asked.header;
        if reply.position.sequence < job.request.min_sequence {
            return Err(odd(format!("the source is at sequence {} only", reply.position.sequence)));
        }
        let next = (frame.header.flags & FLAG_MORE != 0).then_some(frame.header.layer);
        if next.is_some_and(|next| next <= first) {
            return Err(odd("the source's pages do not advance".into()));
        }
        let last = next.map_or(LayerId::MAX, |next| next - 1);
        self.commit();
        let plan = self.store.compare(volume, chunk, (first, last), &reply.entries, &reply.lost);
        self.try_commit()?;
        let plan = plan?;
        if let Some(job) = self.pulls.get_mut(&dial) {
            job.runs = plan.runs.into();
            job.damaged.extend(reply.lost.into_iter().map(|at| (at, None)));
            job.stage = Stage::Fetching(next);
        }
        Ok(())
    }

    /// Every pull a step further: what came is put, more is asked for, what is done is answered.
    pub(crate) fn go_on_pulling(&mut self, now: Now) {
        let dials: Vec<DialId> = self.pulls.keys().copied().collect();
        for dial in dials {
            if let Err(refusal) = self.put_held(dial, now) {
                self.pull_failed(dial, &refusal);
            }
            self.ask_for_runs(dial, now);
        }
    }

    fn put_held(&mut self, dial: DialId, now: Now) -> Result<(), Refusal> {
        while !self.store.journal_full() {
            let Some(job) = self.pulls.get_mut(&dial) else { return Ok(()) };
            let Some(answer) = job.held.pop_front() else { return Ok(()) };
            let odd = || Refusal::Io { message: "the source answered what was not asked".into() };
            let run = job.asked_for.pop_front().ok_or_else(odd)?;
            let Header { volume, chunk, .. } = job.asked.header;
            let blocks = match answer {
                Answer::Blocks(blocks) => blocks,
                Answer::Damaged(block) => {
                    job.leave_out(run, block).ok_or_else(odd)?;
                    continue;
                }
            };
            job.bytes += blocks.data.len() as u64;
            self.work.pull_meter.add(now.us, blocks.data.len() as u64);
            self.store.put_pulled(volume, chunk, &run, &blocks)?;
            self.store.commit()?;
        }
        Ok(())
    }

    fn ask_for_runs(&mut self, dial: DialId, now: Now) {
        let Some(job) = self.pulls.get_mut(&dial) else { return };
        let (Stage::Fetching(next), Some(connection)) = (&job.stage, job.connection) else { return };
        let next = *next;
        let mut frames = Vec::new();
        while job.asked_for.len() < WINDOW && job.within_rate(now) && self.work.pull_pace.may(now.us) {
            let Some(run) = job.runs.pop_front() else { break };
            let blocks = u16::try_from(run.entries.len()).expect("a run is short");
            self.work.pull_pace.spend(now.us, u64::from(blocks) * BLOCK_BYTES as u64, 1);
            let header = Header { layer: run.layer, block: run.block, blocks, ..job.header(Kind::ReadLayer) };
            frames.push(Frame::new(header, Bytes::new(), Bytes::new()));
            job.asked_for.push_back(run);
        }
        let done = job.runs.is_empty() && job.asked_for.is_empty();
        frames.into_iter().for_each(|frame| self.send(connection, frame));
        match next {
            Some(layer) if done => self.ask_versions(dial, layer),
            None if done => self.pull_done(dial),
            _ => {}
        }
    }

    fn pull_done(&mut self, dial: DialId) {
        let Some(job) = self.pulls.remove(&dial) else { return };
        let Header { volume, chunk, .. } = job.asked.header;
        tracing::info!(volume = format!("{volume:016x}"), chunk, bytes = job.bytes, "chunk pulled");
        if let Some(connection) = job.connection {
            self.act(Action::Close { connection, reason: "the pull is done".into() });
        }
        let lacking = self.still_lacking(volume, chunk, job.damaged);
        let Some(((_, block), _)) = lacking.first_key_value() else { return self.ack(&job.asked) };
        let refusal = Refusal::SourceDamaged { chunk, block: *block };
        let result = if job.request.accept_loss { self.lose(volume, chunk, &lacking) } else { Err(refusal) };
        self.lacking.insert((volume, chunk), lacking);
        match result {
            Ok(()) => self.ack(&job.asked),
            Err(refusal) => self.refuse(&job.asked, &refusal),
        }
    }

    /// Of what a source cannot give, what none before it gave either: each was asked for everything that was not here.
    fn still_lacking(&mut self, volume: VolumeId, chunk: ChunkIndex, mut lacking: Lacking) -> Lacking {
        if let Some(before) = self.lacking.remove(&(volume, chunk)) {
            lacking.retain(|at, _| before.contains_key(at));
            lacking.iter_mut().for_each(|(at, entry)| *entry = entry.or(before[at]));
        }
        lacking
    }

    fn lose(&mut self, volume: VolumeId, chunk: ChunkIndex, lost: &Lacking) -> Result<(), Refusal> {
        self.try_commit()?;
        self.store.put_lost(volume, chunk, lost)?;
        self.try_commit()
    }

    pub(crate) fn pull_failed(&mut self, dial: DialId, refusal: &Refusal) {
        let Some(job) = self.pulls.remove(&dial) else { return };
        let Header { volume, chunk, .. } = job.asked.header;
        tracing::warn!(volume = format!("{volume:016x}"), chunk, %refusal, "pull failed");
        if let Some(connection) = job.connection {
            self.act(Action::Close { connection, reason: "the pull failed".into() });
        }
        self.refuse(&job.asked, refusal);
    }

    /// A connection is gone: a pull's source, or somebody who had asked for pulls.
    pub(crate) fn pulls_of_closed(&mut self, connection: ConnectionId) {
        if let Some(dial) = self.dial_of(connection) {
            if let Some(job) = self.pulls.get_mut(&dial) {
                job.connection = None;
            }
            self.pull_failed(dial, &Refusal::Busy { message: "the source's connection broke".into() });
        }
        let orphans: Vec<DialId> =
            self.pulls.iter().filter(|(_, job)| job.asked.connection == connection).map(|(dial, _)| *dial).collect();
        for dial in orphans {
            self.pull_failed(dial, &Refusal::Busy { message: "the asker is gone".into() });
        }
    }

    pub(crate) fn cancel_pulls_of_volume(&mut self, volume: VolumeId) {
        self.lacking.retain(|(of, _), _| *of != volume);
        let of_volume = |job: &PullJob| job.asked.header.volume == volume;
        let dials: Vec<DialId> = self.pulls.iter().filter(|(_, job)| of_volume(job)).map(|(dial, _)| *dial).collect();
        for dial in dials {
            self.pull_failed(dial, &Refusal::Busy { message: "the volume was deleted".into() });
        }
    }

    pub(crate) fn time_out_pulls(&mut self, now: Now) {
        let silence = self.config.pull_silence_us;
        // A pull that waits for room here, or for its rate, is not the source's fault.
        let silent = |job: &PullJob| {
            job.held.is_empty() && !job.asked_for.is_empty() || !matches!(job.stage, Stage::Fetching(_))
        };
        let late = |job: &PullJob| silent(job) && now.us.saturating_sub(job.heard_us) > silence;
        let dials: Vec<DialId> = self.pulls.iter().filter(|(_, job)| late(job)).map(|(dial, _)| *dial).collect();
        for dial in dials {
            self.pull_failed(dial, &Refusal::Busy { message: "the source does not answer".into() });
        }
    }
}

/// What the source refused, as ours to the asker: its damage is not ours.
fn source_refused(frame: &Frame) -> Refusal {
    match json_body::<Refusal>(frame) {
        Ok(Refusal::Damaged { chunk, block }) => Refusal::SourceDamaged { chunk, block },
        Ok(refusal) => Refusal::Busy { message: format!("the source refused: {refusal}") },
        Err(error) => Refusal::Io { message: format!("the source refused: {error}") },
    }
}
