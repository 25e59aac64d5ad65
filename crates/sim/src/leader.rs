//! The leading master's own work: it plans moves and tells the gateway of them, and has garbage dropped. What it decides
//! follows `yuntai/pangu/mover.py` and `yuntai/pangu/holdings.py`; all that is here is gone with it, and the next one
//! begins anew under a higher term, while what this one has sent may still arrive.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use rand::Rng;
use yuntai_proto::control::{Move, ServerRequest};
use yuntai_proto::data::ChunkState;
use yuntai_proto::order::{sign_order, Order};
use yuntai_proto::{ChunkIndex, ServerId, VolumeId};
use yuntai_volume::{ControlAnswer, ControlRequest};

use crate::master::TOKEN_SECRET;
use crate::net::{ConnId, Node};
use crate::others::SOURCE;
use crate::snapshots::Sweeping;
use crate::world::{Job, Micros, World};

const TURN_US: Micros = 150_000;
/// `ASK_TIMEOUT_S` and `QUIET_S` of holdings.py, shorter: a run is some seconds long. As there, the second one is longer
/// than a gateway waits for a read.
const ASK_TIMEOUT_US: Micros = 1_000_000;
pub(crate) const QUIET_US: Micros = 2_500_000;

/// The question of a survey that waits for a server.
const DROPPING: u64 = u64::MAX;

/// What a server was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// To note the term.
    Term,
    /// What it has of a volume.
    Inventory(VolumeId),
    /// To drop replicas.
    Drop,
    /// To free what so many dead layers held.
    Sweep(VolumeId, usize),
    /// How it is.
    Status,
    /// To look at its whole disk.
    Scrub,
    /// To drop a whole volume.
    Delete,
}

/// What one leader knows, and has under way.
#[derive(Default)]
pub struct Leader {
    /// The create revision of its key; [`Leader::term`] of an older one is lower.
    pub term: u64,
    /// Servers that have heard the term.
    pub announced: BTreeSet<ServerId>,
    /// Requests to servers that are not answered.
    asked: BTreeMap<ConnId, (ServerId, Asked)>,
    /// Server → the term of a request to drop that it did not answer.
    burnt: BTreeMap<ServerId, u64>,
    /// Since when a replica is spare.
    spare: BTreeMap<(VolumeId, ServerId, ChunkIndex), Micros>,
    /// The survey that holds a volume's lock: whose replicas, and the number of the question to the gateway.
    survey: Option<Survey>,
    questions: u64,
    pub(crate) sweeping: BTreeMap<VolumeId, Sweeping>,
    /// The question to the gateway of an operation that holds the volume's lock until it is answered, and until when at least.
    operation: Option<(VolumeId, u64, Micros)>,
    /// Turns in which there was nothing to do for the tender.
    pub(crate) idle: u32,
    /// The same for the source's.
    pub(crate) source_idle: u32,
    /// The last status that was heard named damage of the volume.
    pub(crate) damaged: bool,
}

struct Survey {
    volume: VolumeId,
    server: ServerId,
    held: Vec<ChunkState>,
    question: u64,
    /// A clone is being told where the replicas are: that comes first.
    telling: bool,
}

impl Leader {
    /// Moves are not committed while what nothing names is being dropped, nor while an operation waits for the gateway.
    #[must_use]
    pub fn locked(&self, volume: VolumeId) -> bool {
        let surveyed = self.survey.as_ref().is_some_and(|survey| survey.volume == volume && !survey.telling);
        surveyed || self.operation.is_some_and(|(of, ..)| of == volume)
    }
}

impl World {
    /// Another master leads from now on.
    pub fn elect(&mut self) {
        self.master.term += 1;
        self.master.wanted.clear();
        // Numbers of questions go on: an answer to the former one is not taken for an answer to this one.
        let questions = self.leader.questions + 1;
        self.leader = Leader { term: self.master.term, questions, ..Leader::default() };
        self.note(format!("another master leads: term {}", self.leader.term));
        self.after(TURN_US, Job::Master(self.leader.term));
    }

    /// One turn of the leader's loops.
    pub(crate) fn master_turn(&mut self, elected: u64) {
        if elected != self.master.term {
            return;
        }
        self.after(TURN_US, Job::Master(elected));
        self.announce();
        self.plan();
        self.tend();
        self.tend_source();
        let volume = self.some_volume();
        match self.rng.gen_range(0..8) {
            0..=1 => drop(self.tell_moves(volume)),
            2..=3 => self.sweep(volume),
            4 => self.finish_snapshots(),
            5 => self.tell_size(),
            6 if self.rng.gen_bool(0.5) => drop(self.open_again()),
            6 => self.look_after(),
            _ => self.delete_source(),
        }
        if self.leader.survey.is_none() && self.rng.gen_bool(0.3) {
            let known: Vec<ServerId> = self.leader.announced.iter().copied().collect();
            let Some(id) = known.choose(&mut self.rng).copied() else { return };
            self.ask_server(id, &ServerRequest::Inventory { volume }, Asked::Inventory(volume));
        }
    }

    fn announce(&mut self) {
        let busy: BTreeSet<ServerId> = self.leader.asked.values().map(|(id, _)| *id).collect();
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        for id in ids.into_iter().filter(|id| !busy.contains(id)) {
            if self.leader.announced.contains(&id) {
                continue;
            }
            if self.leader.burnt.get(&id).is_some_and(|burnt| *burnt >= self.leader.term) {
                // `raise_term`: the same master under a higher term, so that what was not answered comes too late.
                self.leader.term += 1;
                let (old, new) = (self.master.term, self.leader.term);
                self.master.term = new;
                self.note(format!("the leader raises its term from {old} to {new}"));
                self.coverage.hit("a leader raised its term");
                self.after(TURN_US, Job::Master(new));
            }
            let request = ServerRequest::DropChunks { volume: 0, term: self.leader.term, chunks: Vec::new() };
            self.ask_server(id, &request, Asked::Term);
        }
    }

    /// Keep what may still be wanted; now and then want more. Which ones is chance here: the planner's choice is a matter
    /// of where, and what it never does the commit refuses.
    fn plan(&mut self) {
        let volume = self.some_volume();
        let record = &self.master.records[&volume];
        let (placement, stale) = (record.placement.clone(), record.stale.clone());
        let announced = self.leader.announced.clone();
        let draining = self.master.draining;
        let may = |one: &Move| {
            let replicas = &placement[one.chunk as usize];
            let joins = announced.contains(&one.to) && !stale.contains(&one.to) && draining != Some(one.to);
            joins && replicas.contains(&one.from) && !replicas.contains(&one.to)
        };
        // A plan is some seconds old when it is carried out; what does not hold any more the commit refuses.
        if !self.faulty || self.rng.gen_bool(0.2) {
            self.master.wanted.entry(volume).or_default().retain(may);
        }
        if !self.faulty || !self.rng.gen_bool(self.mix.moving) {
            return;
        }
        let chunk = self.rng.gen_range(0..placement.len() as ChunkIndex);
        let from = *placement[chunk as usize].choose(&mut self.rng).expect("a chunk has replicas");
        let from = draining.filter(|id| placement[chunk as usize].contains(id)).unwrap_or(from);
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        let to = *ids.choose(&mut self.rng).expect("there are servers");
        let one = Move { chunk, from, to };
        if may(&one) && self.master.wanted(volume).iter().all(|other| other.chunk != chunk) {
            self.note(format!("the master wants {one:?} of volume {volume}"));
            self.master.wanted.entry(volume).or_default().insert(one);
            self.tell_moves(volume);
        }
    }

    /// The gateway that has a volume open under its present generation, if the master sees it.
    pub(crate) fn seen_gateway(&self, volume: VolumeId) -> Option<usize> {
        let record = self.master.records.get(&volume)?;
        let open = |index: &usize| {
            let gateway = &self.gateways[*index];
            let generation = gateway.has(volume).map(|(_, generation)| generation);
            generation == Some(record.generation) && record.holder == Some(gateway.host)
        };
        let all: Vec<usize> = (0..self.gateways.len()).rev().filter(open).take(2).collect();
        // Two of one generation have one address: which of them answers is chance, and then nothing follows from it.
        (all.len() == 1).then(|| all[0])
    }

    fn question(&mut self) -> u64 {
        self.leader.questions += 1;
        self.leader.questions
    }

    /// Give the gateway the whole list; the number of the question that its answer will have.
    fn tell_moves(&mut self, volume: VolumeId) -> Option<u64> {
        let index = self.seen_gateway(volume)?;
        let question = self.question();
        let moves = self.master.wanted(volume).into_iter().collect();
        let request = ControlRequest::Moves { moves, servers: self.master.addresses() };
        self.order(index, volume, question, request);
        Some(question)
    }

    fn order(&mut self, index: usize, volume: VolumeId, question: u64, request: ControlRequest) {
        let (of, delay) = ((volume, self.master.records[&volume].generation), self.delay());
        self.after(delay, Job::Order(index, of, question, request));
    }

    /// Give the gateway an order, with the volume's lock held until it answers or is waited for no longer.
    pub(crate) fn order_under_lock(&mut self, volume: VolumeId, request: ControlRequest) -> Option<u64> {
        let index = self.seen_gateway(volume).filter(|_| !self.leader.locked(volume))?;
        let question = self.question();
        // Some have more to do than the simulator shows: a group waits for its other volumes, an open for a server.
        let long = self.rng.gen_bool(0.3);
        let until = self.now + if long { self.rng.gen_range(50_000..2_000_000) } else { 0 };
        self.leader.operation = Some((volume, question, until));
        self.order(index, volume, question, request);
        self.after(ASK_TIMEOUT_US, Job::Untold(question));
        Some(question)
    }

    /// What is open is opened again under its generation: fresh tokens, and what the record says now.
    fn open_again(&mut self) -> Option<u64> {
        self.seen_gateway(self.volume).filter(|index| self.gateways[*index].opened)?;
        self.coverage.hit("a volume was opened again as it is");
        let spec = self.master.describe(self.volume, Vec::new());
        self.order_under_lock(self.volume, ControlRequest::Reopen(Box::new(spec)))
    }

    fn operation_answered(&mut self, question: u64) {
        match self.leader.operation {
            Some((_, operation, until)) if operation == question && until > self.now => {
                self.after(until - self.now, Job::Untold(question));
            }
            Some((_, operation, _)) if operation == question => self.leader.operation = None,
            _ => {}
        }
    }

    /// A gateway's answer to an order.
    pub(crate) fn reported(&mut self, question: u64, answer: Result<ControlAnswer, String>) {
        self.operation_answered(question);
        if let Ok(ControlAnswer::Snapshot { head }) = answer {
            return self.snapshots_done(head);
        }
        let Some(survey) = self.leader.survey.take_if(|survey| survey.question == question) else { return };
        match answer {
            Ok(ControlAnswer::Moves { under_way, .. }) if !survey.telling => self.surveyed(survey, &under_way),
            Ok(ControlAnswer::Reopened) if survey.telling => {
                self.coverage.hit("a clone was told where its source is");
                self.ask_what_is_under_way(survey);
            }
            _ => {}
        }
    }

    /// What of it is spare, and was so for a while, is dropped.
    fn surveyed(&mut self, survey: Survey, under_way: &[Move]) {
        let volume = survey.volume;
        let Some(record) = self.master.records.get(&volume) else { return };
        let mut joining: BTreeSet<(ChunkIndex, ServerId)> = BTreeSet::new();
        for one in under_way.iter().chain(&self.master.wanted(volume)) {
            joining.extend([(one.chunk, one.to), (one.chunk, one.from)]);
        }
        let (id, now) = (survey.server, self.now);
        let spare = |state: &&ChunkState| {
            record.placement.get(state.chunk as usize).is_some_and(|replicas| !replicas.contains(&id))
                && !joining.contains(&(state.chunk, id))
        };
        let spare: Vec<ChunkState> = survey.held.iter().filter(spare).copied().collect();
        let before = std::mem::take(&mut self.leader.spare);
        let others = before.iter().filter(|((of, on, _), _)| (*of, *on) != (volume, id));
        self.leader.spare = others.map(|(key, at)| (*key, *at)).collect();
        let mut doomed = Vec::new();
        for state in spare {
            let since = before.get(&(volume, id, state.chunk)).copied().unwrap_or(now);
            self.leader.spare.insert((volume, id, state.chunk), since);
            if now - since >= QUIET_US {
                doomed.push(state);
            }
        }
        if doomed.is_empty() {
            return;
        }
        self.note(format!("the master has server {id} drop {doomed:?} of volume {volume}"));
        let request = ServerRequest::DropChunks { volume, term: self.leader.term, chunks: doomed };
        self.leader.survey = Some(Survey { question: DROPPING, ..survey });
        self.ask_server(id, &request, Asked::Drop);
    }

    pub(crate) fn ask_server(&mut self, id: ServerId, request: &ServerRequest, asked: Asked) {
        let conn = self.net.connect(Node::Master, Node::Server(id));
        self.leader.asked.insert(conn, (id, asked));
        self.requests.insert(conn, (id, request.clone()));
        // Some take their time; whoever sent them may be no master any more when they arrive.
        let late = self.rng.gen_bool(0.05);
        let delay = if late { self.rng.gen_range(100_000..4_000_000) } else { self.delay() };
        self.after(delay, Job::Establish(conn, crate::world::Dialer::Master));
        self.after(ASK_TIMEOUT_US, Job::Unanswered(conn));
    }

    /// What destroys is signed. The clocks of masters are right by a server's: what jumps is its own.
    pub(crate) fn ordered(&self, conn: ConnId, id: ServerId, request: ServerRequest) -> ServerRequest {
        let term = match request {
            ServerRequest::DropChunks { term, .. } | ServerRequest::Sweep { term, .. } => term,
            ServerRequest::DeleteVolume { .. } | ServerRequest::Admit { .. } => self.leader.term,
            other => return other,
        };
        let issued_unix_s = self.servers[&id].now(self.now).unix_s;
        let order = Order { server: id, run: "run".into(), term, issued_unix_s, nonce: format!("{conn:?}"), request };
        ServerRequest::Order { order: sign_order(TOKEN_SECRET, &order) }
    }

    /// A server has answered the leader.
    pub(crate) fn server_said(&mut self, conn: ConnId, answer: &serde_json::Value) {
        let Some((id, asked)) = self.leader.asked.remove(&conn) else { return };
        let well = answer.get("ok");
        match asked {
            Asked::Term => {
                if well.is_some() {
                    self.leader.announced.insert(id);
                }
            }
            Asked::Inventory(volume) => {
                let held: Vec<ChunkState> =
                    well.and_then(|held| serde_json::from_value(held.clone()).ok()).unwrap_or_default();
                self.compare(volume, id, held);
            }
            Asked::Drop => self.leader.survey = None,
            Asked::Sweep(volume, count) => self.swept(volume, id, count, well),
            Asked::Status => self.heal_damage(id, well),
            Asked::Delete if well.is_some() => drop(self.master.deleting.remove(&id)),
            Asked::Scrub | Asked::Delete => {}
        }
    }

    /// A server's answer did not come in time, or its connection broke.
    pub(crate) fn unanswered(&mut self, conn: ConnId) {
        let Some((id, asked)) = self.leader.asked.remove(&conn) else { return };
        if let Asked::Drop = asked {
            self.leader.survey = None;
            self.leader.announced.remove(&id);
            self.leader.burnt.insert(id, self.leader.term);
        }
    }

    /// What of it does the record not name? A clone that reads it is told of the present placement first.
    fn compare(&mut self, volume: VolumeId, server: ServerId, held: Vec<ChunkState>) {
        let Some(record) = self.master.records.get(&volume) else { return };
        let named =
            |state: &ChunkState| record.placement.get(state.chunk as usize).is_none_or(|all| all.contains(&server));
        if self.leader.survey.is_some() || held.iter().all(named) {
            return;
        }
        let survey = Survey { volume, server, held, question: 0, telling: true };
        let reader =
            volume != self.volume && self.master.records[&self.volume].source.is_some_and(|(of, _)| of == volume);
        if !reader || !self.master.reads_source(self.volume) || self.master.records[&self.volume].holder.is_none() {
            return self.ask_what_is_under_way(survey);
        }
        if let Some(question) = self.open_again() {
            self.leader.survey = Some(Survey { question, ..survey });
        }
    }

    /// The gateway is asked what is under way; no move is committed meanwhile. Where nobody has it open nothing is.
    fn ask_what_is_under_way(&mut self, survey: Survey) {
        let volume = survey.volume;
        if self.leader.locked(volume) || !self.master.records.contains_key(&volume) {
            return;
        }
        if self.master.records[&volume].holder.is_none() {
            return self.surveyed(survey, &[]);
        }
        if let Some(question) = self.tell_moves(volume) {
            self.leader.survey = Some(Survey { question, telling: false, ..survey });
            self.after(ASK_TIMEOUT_US, Job::Untold(question));
        }
    }

    /// The gateway did not answer in time.
    pub(crate) fn untold(&mut self, question: u64) {
        self.leader.operation.take_if(|(_, operation, _)| *operation == question);
        self.leader.survey.take_if(|survey| survey.question == question);
    }

    /// Replicas that no record names.
    pub fn spare_replicas(&mut self) -> usize {
        let records = &self.master.records;
        let mut count = 0;
        for (id, server) in &mut self.servers {
            let Some(replica) = &mut server.replica else { continue };
            for (volume, record) in records {
                let states = replica.store().chunk_states(*volume);
                count += states.iter().filter(|one| !record.placement[one.chunk as usize].contains(id)).count();
            }
        }
        count
    }

    /// A server answers a master, whoever that is now: what it dropped must not be named by anybody.
    pub(crate) fn check_dropped(&mut self, conn: ConnId, answer: &serde_json::Value) {
        let Some((id, ServerRequest::DropChunks { volume, term, .. })) = self.requests.remove(&conn) else { return };
        let Some(gone) = answer.get("ok").and_then(|gone| serde_json::from_value::<Vec<ChunkIndex>>(gone.clone()).ok())
        else {
            if term < self.master.term && volume != 0 {
                self.coverage.hit("an older master's drop was refused");
            }
            return;
        };
        for chunk in gone {
            self.coverage.hit("a replica was dropped");
            let Some(record) = self.master.records.get(&volume) else { return };
            let named = record.placement[chunk as usize].contains(&id);
            let open = self.seen_gateway(volume).and_then(|index| self.gateways[index].has(volume));
            let counted = open.is_some_and(|(open, _)| open.spec().placement[chunk as usize].contains(&id));
            if volume == SOURCE {
                self.check_readers(id, chunk);
            }
            if named || counted {
                let who = if named { "the record names" } else { "the gateway counts" };
                self.wrong.push(format!("server {id} dropped chunk {chunk}, which {who}"));
            }
        }
    }
}
