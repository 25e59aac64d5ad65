//! Three servers and a master, small enough to be believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use yuntai_proto::control::{BlockRange, EventAnswer, GatewayEvent, Move, OpenVolume, Source};
use yuntai_proto::data::Refusal;
use yuntai_proto::handshake::refusal_frame;
use yuntai_proto::{Kind, CHUNK_BYTES};

pub use super::fake::{filled, ChunkCopy, Fake, Mode, BLOCK};
use crate::api::*;
use crate::Volume;

#[derive(Default)]
pub struct Master {
    pub stale: BTreeSet<u32>,
    /// Hears, and does not answer.
    pub deaf: bool,
    pub fenced: bool,
    pub heard: Vec<String>,
    pending: Vec<(u64, GatewayEvent)>,
    pub hydrated: u32,
    /// Moves that are committed.
    pub placed: Vec<Move>,
    /// Chunks whose moves are not committed.
    pub keeps: BTreeSet<u32>,
    /// Moves are not decided on now.
    pub busy: bool,
    pub boot_set: Vec<BlockRange>,
}

pub struct Bench {
    pub volume: Volume,
    pub servers: BTreeMap<u32, Fake>,
    pub master: Master,
    links: BTreeMap<LinkId, u32>,
    answers: BTreeMap<u64, Result<GuestData, GuestError>>,
    pub controls: BTreeMap<u64, Result<ControlAnswer, String>>,
    pub opened: bool,
    pub closed: Option<CloseReason>,
    pub now: Micros,
    next: u64,
    todo: VecDeque<Event>,
    pub trace: Vec<String>,
}

/// Servers 1..=3 hold the volume of two chunks; 4..=6 have nothing; 11..=13 a source.
pub fn spec(stale: &[u32]) -> OpenVolume {
    OpenVolume {
        volume: 5,
        generation: 4,
        token: String::new(),
        read_token: String::new(),
        size_bytes: 2 * CHUNK_BYTES,
        read_only: false,
        parents: vec![0, 0],
        head: 1,
        placement: vec![vec![1, 2, 3], vec![1, 2, 3]],
        servers: (1..=3).map(|id| (id, format!("s{id}"))).collect(),
        stale: stale.to_vec(),
        sources: Vec::new(),
        hydrated_chunks: 0,
        export: String::new(),
        prefer: Vec::new(),
        moves: Vec::new(),
        boot_set: Vec::new(),
        given_up: Vec::new(),
        upkeep: None,
    }
}

pub fn source() -> Source {
    Source {
        volume: 77,
        layer: 1,
        parents: vec![0, 0],
        token: String::new(),
        size_bytes: CHUNK_BYTES,
        placement: vec![vec![11, 12]],
        servers: (11..=12).map(|id| (id, format!("s{id}"))).collect(),
    }
}

fn bench_config() -> Config {
    Config { rebuild_bytes_per_s: u64::MAX, rebuild_busy_bytes_per_s: u64::MAX, ..Config::default() }
}

impl Bench {
    pub fn prepared(stale: &[u32], change: impl FnOnce(&mut OpenVolume)) -> Self {
        let mut spec = spec(stale);
        change(&mut spec);
        let ids = (1..=6).chain(11..=13);
        Self {
            volume: Volume::new(spec, 1, bench_config()),
            servers: ids.map(|id| (id, Fake::new())).collect(),
            master: Master { stale: stale.iter().copied().collect(), ..Master::default() },
            links: BTreeMap::new(),
            answers: BTreeMap::new(),
            controls: BTreeMap::new(),
            opened: false,
            closed: None,
            now: 1,
            next: 0,
            todo: VecDeque::new(),
            trace: Vec::new(),
        }
    }

    /// The gateway dies; another one opens what the master has in its record.
    pub fn open_elsewhere(&mut self, change: impl FnOnce(&mut OpenVolume)) {
        let old = self.volume.spec().clone();
        let mut spec = OpenVolume { generation: old.generation + 1, moves: Vec::new(), ..old };
        spec.stale = self.master.stale.iter().copied().collect();
        change(&mut spec);
        for server in self.servers.values_mut() {
            server.fence = spec.generation;
            server.inbox.clear();
        }
        self.volume = Volume::new(spec, 2, bench_config());
        (self.opened, self.closed) = (false, None);
        self.links.clear();
        self.todo.clear();
        self.master.pending.clear();
        self.pass_ms(50);
    }

    pub fn new(stale: &[u32]) -> Self {
        Self::prepared(stale, |_| {})
    }

    /// Open, and in service.
    pub fn open(stale: &[u32]) -> Self {
        let mut bench = Self::new(stale);
        bench.pass_ms(50);
        assert!(bench.opened);
        bench
    }

    pub fn config(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.volume.config);
    }

    pub fn mode(&mut self, server: u32, mode: Mode) {
        self.servers.get_mut(&server).unwrap().mode = mode;
        if mode == Mode::Down {
            self.cut(server);
        }
        self.pump();
    }

    /// Break its connections; what it was sent and has not processed is lost.
    pub fn cut(&mut self, server: u32) {
        self.servers.get_mut(&server).unwrap().inbox.clear();
        let links: Vec<LinkId> = self.links.iter().filter(|(_, id)| **id == server).map(|(link, _)| *link).collect();
        for link in links {
            self.links.remove(&link);
            self.todo.push_back(Event::Closed { link, reason: "cut".to_owned() });
        }
        self.pump();
    }

    /// The server does the first `keep` of what it has been sent (its answers are lost) and forgets the rest.
    pub fn drop_unprocessed(&mut self, server: u32, keep: usize) {
        let fake = self.servers.get_mut(&server).unwrap();
        let inbox = std::mem::take(&mut fake.inbox);
        for (_, frame) in inbox.into_iter().take(keep) {
            fake.answer(&frame, &BTreeMap::new());
        }
    }

    pub fn ask(&mut self, op: GuestOp) -> u64 {
        self.next += 1;
        self.todo.push_back(Event::Guest(GuestRequest { id: self.next, op }));
        self.pump();
        self.next
    }

    pub fn write(&mut self, offset: u64, value: u8, len: usize) -> u64 {
        self.ask(GuestOp::Write { offset, data: Bytes::from(vec![value; len]), fua: false })
    }

    pub fn control(&mut self, request: ControlRequest) -> u64 {
        self.next += 1;
        self.todo.push_back(Event::Control { id: self.next, request });
        self.pump();
        self.next
    }

    pub fn answer(&self, id: u64) -> Option<Result<GuestData, GuestError>> {
        self.answers.get(&id).cloned()
    }

    pub fn bytes(&self, id: u64) -> Option<Vec<u8>> {
        let Some(Ok(GuestData::Read(parts))) = self.answers.get(&id) else { return None };
        let mut out = Vec::new();
        for part in parts {
            match part {
                Part::Zero(len) => out.resize(out.len() + len, 0),
                Part::Data(data) => out.extend_from_slice(data),
            }
        }
        Some(out)
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let id = self.ask(GuestOp::Read { offset, len: len as u32 });
        self.bytes(id).unwrap_or_else(|| panic!("the read of {offset} is not answered"))
    }

    pub fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now += 10_000;
            self.todo.push_back(Event::Tick);
            self.pump();
        }
    }

    /// Until nothing moves any more.
    pub fn pump(&mut self) {
        loop {
            while let Some(event) = self.todo.pop_front() {
                self.now += 1;
                let mut actions = Vec::new();
                self.volume.apply(event, self.now, &mut actions);
                actions.into_iter().for_each(|action| self.perform(action));
            }
            if !self.work() {
                return;
            }
        }
    }

    fn work(&mut self) -> bool {
        let seen = |(id, server): (&u32, &Fake)| (format!("s{id}"), (server.chunks.clone(), server.damaged.clone()));
        let peers = self.servers.iter().map(seen).collect();
        for server in self.servers.values_mut().filter(|server| server.mode == Mode::Up && !server.holds()) {
            if let Some((link, frame)) = server.inbox.pop_front() {
                if frame.header.kind == Kind::Pull {
                    if let Some((link, older)) = server.pulling.take() {
                        let refusal = Refusal::Busy { message: "asked for again".into() };
                        let frame = refusal_frame(&older.header, &refusal);
                        self.todo.push_back(Event::Frame { link, frame });
                    }
                    if server.pulls_slowly {
                        server.slow_pulls += 1;
                        server.pulling = Some((link, frame));
                        return true;
                    }
                }
                let answer = server.answer(&frame, &peers);
                if self.links.contains_key(&link) {
                    self.todo.push_back(Event::Frame { link, frame: answer });
                }
                return true;
            }
        }
        false
    }

    fn perform(&mut self, action: Action) {
        self.trace.push(super::line(&action));
        match action {
            Action::Connect { link, server, address } => {
                assert_eq!(address, format!("s{server}"));
                if self.servers[&server].mode == Mode::Down {
                    self.todo.push_back(Event::Closed { link, reason: "refused".to_owned() });
                } else {
                    self.links.insert(link, server);
                    self.todo.push_back(Event::Connected { link });
                }
            }
            Action::Send { link, frame } => {
                if let Some(server) = self.links.get(&link) {
                    self.servers.get_mut(server).unwrap().inbox.push_back((link, frame));
                }
            }
            Action::Drop { link } => {
                self.links.remove(&link);
            }
            Action::Reply { id, result } => assert!(self.answers.insert(id, result).is_none(), "answered twice"),
            Action::Raise { event, body } => {
                self.master.pending.push((event, body.clone()));
                self.master.heard.push(match body {
                    GatewayEvent::Degrade { server, .. } => format!("degrade {server}"),
                    GatewayEvent::Readmit { server, .. } => format!("readmit {server}"),
                    GatewayEvent::Hydrated { chunks, .. } => format!("hydrated {chunks}"),
                    GatewayEvent::Moved { moves, .. } => format!("moved {}", moves.len()),
                    GatewayEvent::BootSet { ranges, .. } => format!("boot set {}", ranges.len()),
                    GatewayEvent::Fenced { .. } => "fenced".to_owned(),
                });
                if !self.master.deaf {
                    self.let_master_answer();
                }
            }
            Action::ControlReply { id, result } => {
                self.controls.insert(id, result);
            }
            Action::Opened => self.opened = true,
            Action::Closed { reason } => self.closed = Some(reason),
            Action::Note { .. } => {}
        }
    }

    pub fn tell_master(&mut self) {
        self.let_master_answer();
        self.pump();
    }

    fn let_master_answer(&mut self) {
        for (event, body) in std::mem::take(&mut self.master.pending) {
            let master = &mut self.master;
            let set = |stale: &BTreeSet<u32>| EventAnswer::Stale { stale: stale.iter().copied().collect() };
            let answer = match body {
                _ if master.fenced => EventAnswer::Fenced {},
                GatewayEvent::Degrade { server, .. } => {
                    if master.stale.len() + usize::from(!master.stale.contains(&server)) > 1 {
                        EventAnswer::Refused { reason: "two must stay".to_owned() }
                    } else {
                        master.stale.insert(server);
                        set(&master.stale)
                    }
                }
                GatewayEvent::Readmit { server, .. } => {
                    master.stale.remove(&server);
                    set(&master.stale)
                }
                GatewayEvent::Hydrated { chunks, .. } => {
                    master.hydrated = chunks;
                    EventAnswer::Ok {}
                }
                GatewayEvent::Moved { .. } if master.busy => EventAnswer::Refused { reason: "ask again".to_owned() },
                GatewayEvent::Moved { moves, .. } => {
                    let moves: Vec<Move> = moves.into_iter().filter(|one| !master.keeps.contains(&one.chunk)).collect();
                    master.placed.extend(&moves);
                    EventAnswer::Placed { moves }
                }
                GatewayEvent::BootSet { ranges, .. } => {
                    master.boot_set = ranges;
                    EventAnswer::Ok {}
                }
                GatewayEvent::Fenced { .. } => EventAnswer::Ok {},
            };
            self.todo.push_back(Event::Answer { event, answer });
        }
    }
}
