//! The state machine's body: what it knows, and where each event goes. The rest of it stands, by subject, in the
//! modules beside this one, each an `impl Volume`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use yuntai_proto::control::{EventAnswer, GatewayEvent, OpenVolume};
use yuntai_proto::data::Refusal;
use yuntai_proto::{mutant, ChunkIndex, Frame, Header, Kind, LayerId, ServerId};

use crate::api::{Action, CloseReason, Config, Event, GuestError, GuestRequest, LinkId, Micros};
use crate::background::{Background, Shared};
use crate::boot::BootSet;
use crate::chunk::Chunk;
use crate::guest::{Flush, Op, Piece};
use crate::heal::Heals;
use crate::hedge::Hedges;
use crate::hydrate::Hydration;
use crate::members::Raised;
use crate::moves::Moves;
use crate::operate::Barrier;
use crate::read::ReadJob;
use crate::rebuild::Rebuild;
use crate::server::{Asked, Link, Outstanding, Server};
use crate::source::SourceSide;
use crate::stats::{Counters, ServerStats, Stats};
use crate::workers::Works;

/// Ticks that are further apart than this mean that this process itself stood still.
const PAUSE_US: Micros = 250_000;

/// The same note is not repeated within this.
const NOTE_AGAIN_US: Micros = 10_000_000;
/// Notes that are remembered for that.
const NOTED_MAX: usize = 1000;

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its servers are being claimed.
    Claiming,
    Serving,
    /// Asked to close; the last flush is on its way.
    Closing {
        until: Micros,
        control: u64,
    },
    Closed,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkOwner {
    Server(ServerId),
    Source(usize, ServerId),
}

/// One open volume: replicated writes, reads, flushes, repair of its replicas, lazy load.
///
/// What it keeps:
/// - **A write is acknowledged when every in-sync server has it**, each of them whole in that chunk, and at least two.
///   A server that failed must be out of the in-sync set in the master's record first. Until then writes wait, for
///   ever if need be; a guest never sees an I/O error because of a server.
/// - **A server counts only where it is whole.** One that comes back with less than was acknowledged gets it by a pull
///   first; a flush is not counted for it before that.
/// - **From the moment a readmission is proposed the server counts as in-sync**, since the master may commit it without
///   our hearing of it.
/// - **What a read returned stays so**: a read that overlaps a mutation whose fate is open waits for it.
/// - **A replica that is to move counts at both servers** while the master is asked; see [`crate::moves`].
/// - **Of a chunk's in-sync servers one at a time is rebuilt**, so that a second whole history is there if the
///   survivor is lost meanwhile.
#[derive(Debug)]
pub struct Volume {
    pub(crate) spec: OpenVolume,
    pub(crate) session: u64,
    pub(crate) config: Config,
    pub(crate) phase: Phase,
    pub(crate) started: bool,
    pub(crate) now: Micros,
    pub(crate) began: Micros,
    /// The last tick, and since when ticks have come without a gap.
    pub(crate) last_tick: Micros,
    pub(crate) awake_since: Micros,
    pub(crate) out: Vec<Action>,
    pub(crate) next_id: u64,

    pub(crate) servers: BTreeMap<ServerId, Server>,
    pub(crate) sources: Vec<SourceSide>,
    pub(crate) link_owners: BTreeMap<LinkId, LinkOwner>,
    pub(crate) chunks: Vec<Chunk>,
    /// Chunks whose survivor is known.
    pub(crate) settled: Vec<bool>,

    pub(crate) stale: BTreeSet<ServerId>,
    pub(crate) readmitting: Option<ServerId>,
    pub(crate) raised: BTreeMap<u64, Raised>,

    pub(crate) ops: BTreeMap<u64, Op>,
    pub(crate) pieces: BTreeMap<u64, Piece>,
    pub(crate) reads: BTreeMap<u64, ReadJob>,
    pub(crate) stalled_reads: Vec<(Micros, u64)>,
    pub(crate) flushes: BTreeMap<u64, Flush>,
    pub(crate) barriers: Vec<Barrier>,
    pub(crate) backlog: VecDeque<(GuestRequest, Micros)>,
    pub(crate) in_flight_bytes: u64,
    pub(crate) background: Background,

    /// Chunks with guests waiting for them.
    pub(crate) urgent: BTreeSet<ChunkIndex>,
    pub(crate) rebuilds: BTreeMap<(ChunkIndex, ServerId), Rebuild>,
    /// Turns the choice of the source.
    pub(crate) failed_pulls: usize,
    pub(crate) moves: Moves,
    pub(crate) heals: Heals,
    pub(crate) works: Works,
    pub(crate) boot: BootSet,
    pub(crate) hedges: Hedges,
    pub(crate) hydration: Hydration,
    pub(crate) counters: Counters,
    /// What was noted lately, and until when it is not noted again.
    pub(crate) noted: BTreeMap<(Option<ServerId>, Option<ChunkIndex>, String), Micros>,
}

impl Volume {
    /// A volume that is about to be opened. `session` is a fresh random number: it tells this writer from another one
    /// of the same generation.
    #[must_use]
    pub fn new(spec: OpenVolume, session: u64, config: Config) -> Self {
        let chunks: Vec<Chunk> = spec.placement.iter().map(|servers| Chunk::new(servers)).collect();
        let mut volume = Self {
            session,
            config,
            phase: Phase::Claiming,
            started: false,
            now: 0,
            began: 0,
            last_tick: 0,
            awake_since: 0,
            out: Vec::new(),
            next_id: 1,
            servers: BTreeMap::new(),
            sources: spec.sources.iter().map(SourceSide::new).collect(),
            link_owners: BTreeMap::new(),
            settled: vec![false; chunks.len()],
            chunks,
            stale: spec.stale.iter().copied().collect(),
            readmitting: None,
            raised: BTreeMap::new(),
            ops: BTreeMap::new(),
            pieces: BTreeMap::new(),
            reads: BTreeMap::new(),
            stalled_reads: Vec::new(),
            flushes: BTreeMap::new(),
            barriers: Vec::new(),
            backlog: VecDeque::new(),
            in_flight_bytes: 0,
            background: Background::default(),
            urgent: BTreeSet::new(),
            rebuilds: BTreeMap::new(),
            failed_pulls: 0,
            moves: Moves::default(),
            heals: Heals::default(),
            works: Works::default(),
            boot: BootSet::default(),
            hedges: Hedges::default(),
            hydration: Hydration::new(&spec),
            counters: Counters::default(),
            noted: BTreeMap::new(),
            spec,
        };
        volume.adopt_servers();
        volume
    }

    /// Share the room and the pace of background copying with the other volumes of the gateway.
    #[must_use]
    pub fn sharing(mut self, shared: &Shared) -> Self {
        self.background = Background::of(shared);
        self
    }

    /// One event in, any number of actions out (appended to `actions`). `now` must not go back.
    pub fn apply(&mut self, event: Event, now: Micros, actions: &mut Vec<Action>) {
        if self.phase == Phase::Closed {
            if let Event::Guest(request) = event {
                actions.push(Action::Reply { id: request.id, result: Err(GuestError::Shutdown) });
            }
            return;
        }
        self.now = now.max(self.now);
        std::mem::swap(&mut self.out, actions);
        if !self.started {
            self.started = true;
            self.began = self.now;
            self.servers.values_mut().for_each(|server| server.lost_at = now);
            let moves = self.spec.moves.clone();
            self.want_moves(moves, BTreeMap::new());
            self.tick();
        }
        match event {
            Event::Guest(request) => self.on_guest(request),
            Event::Frame { link, frame } => self.on_frame(link, &frame),
            Event::Connected { link } => self.on_connected(link),
            Event::Closed { link, reason } => self.on_link_closed(link, &reason),
            Event::Answer { event, answer } => self.on_answer(event, &answer),
            Event::Control { id, request } => self.on_control(id, request),
            Event::Tick => self.tick(),
        }
        std::mem::swap(&mut self.out, actions);
    }

    /// The specification as it is served now (its in-sync set, size and layers follow what happened since the open).
    #[must_use]
    pub fn spec(&self) -> &OpenVolume {
        &self.spec
    }

    /// Every mutation of a chunk that serves is acknowledged up to this one. For the simulator, which looks whether that
    /// is true.
    #[must_use]
    pub fn acknowledged(&self, chunk: ChunkIndex) -> u64 {
        let serving = self.chunks.get(chunk as usize).filter(|chunk| chunk.serving);
        serving.map_or(0, |chunk| chunk.log_base - 1)
    }

    /// Guest requests that are not answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ops.len() + self.backlog.len()
    }

    fn tick(&mut self) {
        if self.now.saturating_sub(self.last_tick) > PAUSE_US {
            self.awake_since = self.now;
        }
        self.last_tick = self.now;
        self.tick_links();
        self.tend_moves();
        self.tick_members();
        self.retry_stalled_reads();
        self.tick_hedges();
        self.tend_heals();
        self.schedule_rebuilds();
        self.pace_pulls();
        self.background.tick(self.now);
        self.tick_hydration();
        self.tick_works();
        self.tick_boot_set();
        self.check_barriers();
        if let Phase::Closing { until, control } = self.phase {
            if self.now >= until {
                self.finish_close(control, false);
            }
        }
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Closing { .. })
    }

    pub(crate) fn head(&self) -> LayerId {
        self.spec.head
    }

    /// Something for the log; what is said again and again is written down now and then.
    pub(crate) fn note(&mut self, server: Option<ServerId>, chunk: Option<ChunkIndex>, text: impl Into<String>) {
        let text = text.into();
        let until = self.now + NOTE_AGAIN_US;
        if self.noted.len() > NOTED_MAX {
            self.noted.clear();
        }
        let key = (server, chunk, text.clone());
        if self.noted.get(&key).is_some_and(|until| *until > self.now) {
            return;
        }
        self.noted.insert(key, until);
        self.out.push(Action::Note { server, chunk, text });
    }

    /// A header for one of our own servers.
    pub(crate) fn header(&self, kind: Kind, chunk: ChunkIndex) -> Header {
        let mut header = Header::new(kind, 0);
        header.volume = self.spec.volume;
        header.generation = if self.is_writer() { self.spec.generation } else { 0 };
        header.chunk = chunk;
        header
    }

    /// Ask one of our own servers something. Nothing happens without a connection: what the server must have is sent
    /// again when it is claimed.
    pub(crate) fn ask(&mut self, server: ServerId, asked: Asked, header: Header, body: Bytes, data: Bytes) {
        self.next_id += 1;
        let (id, now) = (self.next_id, self.now);
        let link = self.servers.get_mut(&server).and_then(|server| server.dialer.link.as_mut());
        if let Some(link) = link {
            self.out.push(ask_on(link, id, now, asked, header, body, data));
        }
    }

    fn on_frame(&mut self, link: LinkId, frame: &Frame) {
        match self.link_owners.get(&link) {
            Some(LinkOwner::Server(server)) => self.on_server_frame(*server, frame),
            Some(LinkOwner::Source(source, server)) => self.on_source_frame(*source, *server, frame),
            None => {}
        }
    }

    fn on_server_frame(&mut self, id: ServerId, frame: &Frame) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(&id) else { return };
        let Some(link) = server.dialer.link.as_mut() else { return };
        let Some(one) = link.outstanding.remove(&frame.header.request_id) else {
            self.fail_link(id, "it answered something that was not asked");
            return;
        };
        link.unanswered_bytes -= one.bytes;
        if matches!(one.asked, Asked::Mutation { .. } | Asked::Read { .. }) {
            server.answer_us.add(now - one.sent_at);
        }
        if frame.header.kind == Kind::Error {
            let refusal = refusal_of(frame);
            if let Refusal::Fenced { .. } = refusal {
                self.note(Some(id), None, refusal.to_string());
                self.fenced();
            } else {
                self.on_refused(id, one.asked, &refusal);
            }
            return;
        }
        match (one.asked, frame.header.kind) {
            (Asked::Mutation { chunk, sequence }, Kind::Ack) => self.on_ack(id, chunk, sequence),
            (Asked::Read { read }, Kind::ReadReply) => self.on_read_reply(id, read, frame),
            (Asked::Flush { flush }, Kind::Ack) => {
                self.counters.replica_flush_us.add(now - one.sent_at);
                self.on_flushed(id, flush);
            }
            (Asked::Claim, Kind::ClaimReply) => self.on_claimed(id, frame),
            (Asked::Begin { chunk, attempt }, Kind::Ack) => self.on_rebuild_begun(id, chunk, attempt),
            (Asked::Pull { chunk, attempt, .. }, Kind::Ack) => self.on_pulled(id, chunk, attempt),
            (Asked::End { chunk, attempt }, Kind::Ack) => self.on_rebuild_ended(id, chunk, attempt),
            (Asked::Cover { mutations }, Kind::Ack) => {
                mutations.into_iter().for_each(|(chunk, sequence)| self.on_ack(id, chunk, sequence));
            }
            (Asked::Layers, Kind::Ack) => {}
            (asked, kind) => {
                let text = format!("it answered {asked:?} with a frame of kind {kind:?}");
                self.fail_link(id, &text);
            }
        }
    }

    fn on_refused(&mut self, server: ServerId, asked: Asked, refusal: &Refusal) {
        match asked {
            Asked::Read { read } => self.on_read_refused(server, read, refusal),
            Asked::Begin { chunk, attempt } | Asked::Pull { chunk, attempt, .. } | Asked::End { chunk, attempt } => {
                if let (Asked::Pull { source, .. }, Refusal::SourceDamaged { block, .. }) = (asked, refusal) {
                    self.source_damaged(server, source, chunk, attempt, usize::from(*block));
                } else {
                    self.rebuild_failed(server, chunk, attempt, &refusal.to_string());
                }
            }
            Asked::Mutation { .. } | Asked::Flush { .. } | Asked::Cover { .. } | Asked::Layers | Asked::Claim => {
                let lasting = matches!(refusal, Refusal::Full | Refusal::Io { .. });
                if lasting && mutant::is("a full disk is an error to the guest") {
                    let failed = |op: &Op| Action::Reply { id: op.guest, result: Err(GuestError::NoSpace) };
                    self.out.extend(self.ops.values().map(failed));
                }
                let text = format!("it refused {asked:?}: {refusal}");
                self.fail_link(server, &text);
                if lasting {
                    self.wish_degrade(server, &text);
                }
            }
        }
    }

    /// Another writer holds the volume: stop at once, whatever is under way.
    pub(crate) fn fenced(&mut self) {
        if self.phase == Phase::Closed {
            return;
        }
        let event = self.id();
        let (volume, generation) = (self.spec.volume, self.spec.generation);
        self.out.push(Action::Raise { event, body: GatewayEvent::Fenced { volume, generation } });
        self.shut(CloseReason::Fenced);
    }

    /// Answer everybody, drop every connection, end.
    pub(crate) fn shut(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        for (_, op) in std::mem::take(&mut self.ops) {
            self.out.push(Action::Reply { id: op.guest, result: Err(GuestError::Shutdown) });
        }
        for (request, _) in std::mem::take(&mut self.backlog) {
            self.out.push(Action::Reply { id: request.id, result: Err(GuestError::Shutdown) });
        }
        self.fail_controls();
        for (link, _) in std::mem::take(&mut self.link_owners) {
            self.out.push(Action::Drop { link });
        }
        self.pieces.clear();
        self.reads.clear();
        self.out.push(Action::Closed { reason });
    }

    /// Figures for an operator.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let oldest = self.ops.values().map(|op| op.arrived).chain(self.backlog.iter().map(|(_, at)| *at)).min();
        let servers = self.servers.values().map(|server| {
            let stats = ServerStats {
                link: server.link_name(),
                in_sync: server.required,
                behind_chunks: server.not_whole.len() as u64,
                unanswered: server.dialer.link.as_ref().map_or(0, |link| link.outstanding.len() as u64),
                answer_us: server.answer_us.clone(),
            };
            (server.id, stats)
        });
        Stats {
            volume: self.spec.volume,
            name: format!("vol-{:016x}", self.spec.volume),
            generation: self.spec.generation,
            phase: match self.phase {
                Phase::Claiming => "claiming",
                Phase::Serving => "serving",
                Phase::Closing { .. } => "closing",
                Phase::Closed => "closed",
            },
            size_bytes: self.spec.size_bytes,
            head: self.spec.head,
            in_flight: self.in_flight() as u64,
            oldest_us: oldest.map_or(0, |at| self.now.saturating_sub(at)),
            chunks: self.chunks.len() as u64,
            hydrated_chunks: self.hydrated_chunks(),
            counters: self.counters.clone(),
            servers: servers.collect(),
            workers: self.workers(),
            moves: self.move_stats(),
            waiting: self.waiting(),
            barred: self.barred(),
        }
    }

    fn on_answer(&mut self, event: u64, answer: &EventAnswer) {
        if let Some(raised) = self.raised.remove(&event) {
            self.on_raised_answer(raised, answer);
        }
    }
}

/// Put a request on a connection.
pub(crate) fn ask_on(
    link: &mut Link,
    id: u64,
    now: Micros,
    asked: Asked,
    mut header: Header,
    body: Bytes,
    data: Bytes,
) -> Action {
    header.request_id = id;
    let bytes = (body.len() + data.len()) as u64;
    link.unanswered_bytes += bytes;
    link.outstanding.insert(id, Outstanding { asked, sent_at: now, bytes });
    Action::Send { link: link.id, frame: Frame::new(header, body, data) }
}

/// What an `Error` frame says; one that cannot be read is taken as a failure of the server.
pub(crate) fn refusal_of(frame: &Frame) -> Refusal {
    serde_json::from_slice(&frame.body)
        .unwrap_or_else(|error| Refusal::Io { message: format!("unreadable refusal: {error}") })
}

#[cfg(test)]
mod tests;
