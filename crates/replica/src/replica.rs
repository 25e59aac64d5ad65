//! The state machine's frame: events in, one commit per turn, actions out.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::frame::FLAG_DURABLE;
use yuntai_proto::handshake::refusal_frame;
use yuntai_proto::{mutant, ChunkIndex, Frame, Header, Kind, VolumeId};
use yuntai_store::vfs::Vfs;
use yuntai_store::{CheckpointJob, Lacking, Store, SyncTicket};

use crate::api::{Action, Config, ConnectionId, DialId, Event, Now};
use crate::claims::Claim;
use crate::orders::Followed;
use crate::pull::PullJob;
use crate::work::Work;

/// Wait after a failed checkpoint before the next.
const CHECKPOINT_RETRY_US: u64 = 1_000_000;
/// A checkpoint is begun as soon as this part of `checkpoint_bytes` took the journal only for want of one.
const DETOUR_SHARE: u64 = 16;
/// What waited is taken up so much at a time: it is written while the next comes in.
const TAKEN_BYTES_MAX: usize = 4 << 20;
/// How often the file system is asked for its room, and tokens are looked at.
const SPACE_EVERY_US: u64 = 1_000_000;

/// A peer.
pub(crate) struct Connection {
    pub(crate) name: String,
    pub(crate) claims: BTreeMap<VolumeId, Claim>,
    /// Bytes of its frames in [`Replica::waiting`].
    pub(crate) waiting_bytes: usize,
}

/// A request that will be answered with an `Ack`.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) connection: ConnectionId,
    pub(crate) header: Header,
}

/// A `Versions` request that waits for the chunk to come so far.
pub(crate) struct WaitingVersions {
    pub(crate) asked: Asked,
    pub(crate) until_us: u64,
}

/// The chunk server.
pub struct Replica<V: Vfs> {
    pub(crate) config: Config,
    pub(crate) store: Store<V>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Staged in this turn, to be answered after the commit; true: only when durable.
    pub(crate) staged: Vec<(Asked, bool)>,
    /// Staged in an earlier turn, and not written yet: [`Action::Write`].
    writing: Vec<(Asked, bool)>,
    /// Reads of this turn: they see what the turn wrote.
    pub(crate) reads: Vec<Asked>,
    /// Answered when the journal is durable up to the number: the frame to send.
    pub(crate) waiting_sync: VecDeque<(u64, ConnectionId, Frame)>,
    syncing: bool,
    /// Frames that wait, in order, until the journal has room and what came before them is written.
    pub(crate) waiting: VecDeque<(ConnectionId, Frame)>,
    pub(crate) waiting_versions: Vec<WaitingVersions>,
    pub(crate) pulls: BTreeMap<DialId, PullJob>,
    pub(crate) next_dial: DialId,
    actions: Vec<Action<V>>,
    checkpoint_not_before_us: u64,
    checkpoint_due_us: u64,
    spares_due_us: u64,
    space_due_us: u64,
    pub(crate) work: Work,
    pub(crate) followed: Followed,
    /// Of chunks that are being rebuilt: what no source that was asked since the beginning could give.
    pub(crate) lacking: BTreeMap<(VolumeId, ChunkIndex), Lacking>,
}

impl<V: Vfs> Replica<V> {
    /// Over an open store.
    #[must_use]
    pub fn new(config: Config, store: Store<V>, now: Now) -> Self {
        let checkpoint_due_us = now.us + config.checkpoint_every_us;
        Self {
            config,
            store,
            connections: BTreeMap::new(),
            staged: Vec::new(),
            writing: Vec::new(),
            reads: Vec::new(),
            waiting_sync: VecDeque::new(),
            syncing: false,
            waiting: VecDeque::new(),
            waiting_versions: Vec::new(),
            pulls: BTreeMap::new(),
            next_dial: 1,
            actions: Vec::new(),
            checkpoint_not_before_us: 0,
            checkpoint_due_us,
            spares_due_us: now.us,
            space_due_us: now.us,
            work: Work::new(now),
            followed: Followed::default(),
            lacking: BTreeMap::new(),
        }
    }

    /// The store, for shutting down and for looking into.
    pub fn store(&mut self) -> &mut Store<V> {
        &mut self.store
    }

    /// Before the end: what was taken is appended.
    pub fn commit_all(&mut self) {
        self.commit();
    }

    /// May this connection be read? False while too many of its mutations wait for room in the journal.
    #[must_use]
    pub fn wants(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_none_or(|peer| peer.waiting_bytes <= self.config.waiting_bytes_max)
    }

    /// Something happened. Ends with the turn: see [`Replica::turn`].
    pub fn apply(&mut self, event: Event<V>, now: Now) {
        if matches!(event, Event::Checkpointed { .. } | Event::Worked { .. }) {
            self.settle();
        }
        match event {
            Event::Opened { connection, name } => self.opened(connection, name),
            Event::Frame { connection, frame } => self.frame(connection, frame, now),
            Event::Closed { connection } => self.closed(connection),
            Event::Dialed { dial, connection } => self.dialed(dial, connection, now),
            Event::DialFailed { dial, reason } => self.pull_failed(dial, &Refusal::Busy { message: reason }),
            // One that was settled meanwhile is done, too.
            Event::Written(job) if self.store.is_writing_with(&job) => self.settle(),
            Event::Written(_) => {}
            Event::Synced { ticket, result } => self.synced(&ticket, result),
            Event::Checkpointed { job, result } => self.checkpointed(*job, result, now),
            Event::Worked { job, result } => self.worked(*job, result, now),
            Event::Tick => self.tick(now),
        }
    }

    /// End of a turn: append what was staged, answer, and say what else is to be done.
    #[must_use]
    pub fn turn(&mut self, now: Now) -> Vec<Action<V>> {
        self.end_batch();
        self.serve_reads();
        // Whoever stages something of his own, or asks how far a chunk is, comes when nothing is on its way.
        if !self.store.is_writing() {
            self.serve_versions(now);
            self.go_on_pulling(now);
            self.go_on_working(now);
            // Before the next batch is on its way: while writers never pause, this is the only moment.
            self.begin_checkpoint(now);
        }
        self.drain_waiting(now);
        self.end_batch();
        self.begin_sync();
        self.begin_checkpoint(now);
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn act(&mut self, action: Action<V>) {
        self.actions.push(action);
    }

    pub(crate) fn send(&mut self, connection: ConnectionId, frame: Frame) {
        self.act(Action::Send { connection, frame });
    }

    pub(crate) fn ack(&mut self, asked: &Asked) {
        self.send(asked.connection, ack_frame(&asked.header));
    }

    pub(crate) fn refuse(&mut self, asked: &Asked, refusal: &Refusal) {
        self.send(asked.connection, refusal_frame(&asked.header, refusal));
    }

    pub(crate) fn close(&mut self, connection: ConnectionId, reason: &str) {
        self.act(Action::Close { connection, reason: reason.to_owned() });
        self.closed(connection);
    }

    fn opened(&mut self, connection: ConnectionId, name: String) {
        if self.connections.len() >= self.config.connections_max {
            tracing::warn!(connection, name, limit = self.config.connections_max, "too many connections");
            return self.act(Action::Close { connection, reason: "too many connections".into() });
        }
        tracing::info!(connection, name, "peer connected");
        let peer = Connection { name, claims: BTreeMap::new(), waiting_bytes: 0 };
        self.connections.insert(connection, peer);
    }

    /// Forget a connection. What it staged still happens: it was asked in order and nobody can tell the difference.
    fn closed(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.connections.remove(&connection) {
            tracing::info!(connection, name = peer.name, "peer gone");
        }
        self.waiting.retain(|(of, _)| *of != connection);
        self.waiting_sync.retain(|(_, of, _)| *of != connection);
        self.waiting_versions.retain(|waiting| waiting.asked.connection != connection);
        self.reads.retain(|asked| asked.connection != connection);
        self.forget_looks_of(connection);
        self.pulls_of_closed(connection);
    }

    fn frame(&mut self, connection: ConnectionId, frame: Frame, now: Now) {
        if self.is_pull(connection) {
            return self.pull_frame(connection, &frame, now);
        }
        let Some(peer) = self.connections.get_mut(&connection) else { return };
        self.work.request();
        let mutates =
            matches!(frame.header.kind, Kind::Write | Kind::Zero | Kind::Fill | Kind::BeginRebuild | Kind::EndRebuild);
        // A flush promises what was sent before it; with nothing before it, it needs no room.
        let overtakes = mutant::is("a flush overtakes what was sent before it");
        let behind = !self.waiting.is_empty() || self.store.is_writing();
        let in_order = mutates || frame.header.kind == Kind::Flush && behind && !overtakes;
        if in_order && (behind || self.store.journal_full()) {
            peer.waiting_bytes += frame.body.len() + frame.data.len();
            self.waiting.push_back((connection, frame));
            return;
        }
        if !matches!(frame.header.kind, Kind::Read | Kind::ReadLayer) {
            self.settle();
        }
        self.serve(connection, frame, now);
    }

    /// Take up what waited.
    fn drain_waiting(&mut self, now: Now) {
        let mut taken = 0;
        while taken < TAKEN_BYTES_MAX && !self.store.journal_full() && !self.store.is_writing() {
            let Some((connection, frame)) = self.waiting.pop_front() else { return };
            taken += frame.body.len() + frame.data.len();
            if let Some(peer) = self.connections.get_mut(&connection) {
                peer.waiting_bytes -= frame.body.len() + frame.data.len();
            }
            self.serve(connection, frame, now);
        }
    }

    /// What is staged goes: at once, or, if much of it goes in place, with the help of other threads.
    fn end_batch(&mut self) {
        match self.store.begin_commit() {
            Some(job) => {
                self.writing = std::mem::take(&mut self.staged);
                self.act(Action::Write(job));
            }
            None if self.store.is_writing() => debug_assert!(self.staged.is_empty(), "what comes behind waits"),
            None => self.commit(),
        }
    }

    /// Finish what is being written, now.
    fn settle(&mut self) {
        if self.store.is_writing() {
            let result = self.store.finish_commit();
            let staged = std::mem::take(&mut self.writing);
            self.answer_staged(staged, &result);
        }
    }

    /// Append what is staged; answer it.
    pub(crate) fn commit(&mut self) {
        // Whoever asked has been told of a failure; what is staged without an asker uses `try_commit`.
        let _ = self.try_commit();
    }

    /// Append what is staged; answer it, and say how it went.
    pub(crate) fn try_commit(&mut self) -> Result<(), Refusal> {
        self.settle();
        let result = self.store.commit();
        let staged = std::mem::take(&mut self.staged);
        self.answer_staged(staged, &result);
        result
    }

    fn answer_staged(&mut self, staged: Vec<(Asked, bool)>, result: &Result<(), Refusal>) {
        let lsn = self.store.appended_lsn();
        for (asked, durable) in staged {
            match result {
                Ok(()) if durable => {
                    self.waiting_sync.push_back((lsn, asked.connection, ack_frame(&asked.header)));
                }
                Ok(()) => self.ack(&asked),
                Err(refusal) => self.refuse(&asked, refusal),
            }
        }
    }

    /// To be answered with an `Ack` after the commit; if it says so, only when durable.
    pub(crate) fn stage_answer(&mut self, asked: Asked) {
        let durable = asked.header.flags & FLAG_DURABLE != 0
            || matches!(asked.header.kind, Kind::Flush | Kind::BeginRebuild | Kind::EndRebuild);
        let durable = durable && !mutant::is("a flush is answered without a sync");
        self.staged.push((asked, durable));
    }

    fn begin_sync(&mut self) {
        if self.syncing || self.waiting_sync.is_empty() {
            return;
        }
        match self.store.sync_ticket() {
            Some(ticket) => {
                self.syncing = true;
                self.act(Action::Sync(ticket));
            }
            None => self.answer_synced(),
        }
    }

    fn answer_synced(&mut self) {
        let durable = self.store.synced_lsn();
        while self.waiting_sync.front().is_some_and(|(lsn, _, _)| *lsn <= durable) {
            if let Some((_, connection, frame)) = self.waiting_sync.pop_front() {
                self.send(connection, frame);
            }
        }
    }

    fn synced(&mut self, ticket: &SyncTicket<V>, result: io::Result<()>) {
        self.syncing = false;
        match result {
            Ok(()) => {
                self.store.synced(ticket);
                self.answer_synced();
            }
            // After a failed fdatasync nobody knows what is on the disk, and a second one would say yes to anything.
            Err(error) => self.die(format!("the journal could not be synced: {error}")),
        }
    }

    fn die(&mut self, reason: String) {
        tracing::error!(reason, "ending");
        self.act(Action::Die { reason });
    }

    fn begin_checkpoint(&mut self, now: Now) {
        if self.store.is_writing() {
            return;
        }
        let bytes = self.store.journal_bytes();
        let due = bytes >= self.config.checkpoint_bytes
            || self.store.journal_full()
            || self.store.has_doomed()
            || self.store.in_place_bytes() >= 2 * self.config.checkpoint_bytes
            || self.store.detoured_bytes() >= self.config.checkpoint_bytes / DETOUR_SHARE
            || now.us >= self.checkpoint_due_us;
        if !due || now.us < self.checkpoint_not_before_us || self.store.checkpointing() {
            return;
        }
        self.checkpoint_due_us = now.us + self.config.checkpoint_every_us;
        let clears = self.store.has_doomed() || self.store.has_spares_due();
        if self.store.appended_lsn() == self.store.checkpointed_lsn() && !clears {
            return;
        }
        if let Some(job) = self.store.begin_checkpoint() {
            self.act(Action::Checkpoint(Box::new(job)));
        }
    }

    fn checkpointed(&mut self, job: CheckpointJob<V>, result: io::Result<()>, now: Now) {
        match result {
            Ok(()) => {
                let before = self.store.journal_bytes();
                let unlinked = self.store.end_checkpoint(job);
                self.act(Action::Drop(Box::new(unlinked)));
                let freed = before.saturating_sub(self.store.journal_bytes());
                self.work.checkpoint_meter.add(now.us, freed);
                self.answer_synced();
            }
            Err(error) if job.failed_in_journal() => {
                self.die(format!("the journal could not be synced: {error}"));
            }
            Err(error) => {
                tracing::warn!(%error, "the checkpoint failed; everything is still in the journal; trying again");
                self.store.abandon_checkpoint();
                self.checkpoint_not_before_us = now.us + CHECKPOINT_RETRY_US;
            }
        }
    }

    fn tick(&mut self, now: Now) {
        if now.us >= self.space_due_us {
            self.space_due_us = now.us + SPACE_EVERY_US;
            if let Err(error) = self.store.refresh_space() {
                tracing::warn!(%error, "the file system does not say how much room it has");
            }
            self.expire_claims(now);
        }
        if now.us >= self.spares_due_us {
            self.spares_due_us = now.us + self.config.age_spares_every_us;
            self.store.age_spares();
        }
        self.time_out_pulls(now);
        self.tick_work(now);
    }
}

pub(crate) fn ack_frame(request: &Header) -> Frame {
    let header = Header { kind: Kind::Ack, flags: 0, ..*request };
    Frame::new(header, Bytes::new(), Bytes::new())
}
