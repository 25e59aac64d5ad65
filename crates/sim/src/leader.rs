//! The leading master's own work: it plans moves and tells the gateway of them, and has garbage dropped. What it decides
//! follows `yuntai/pangu/mover.py` and `yuntai/pangu/holdings.py`; all that is here is gone with it, and the next one
//! begins anew under a higher term, while what this one has sent may still arrive.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use rand::Rng;
use yuntai_proto::control::{Move, ServerRequest};
use yuntai_proto::data::ChunkState;
use yuntai_proto::{ChunkIndex, ServerId};
use yuntai_volume::{ControlAnswer, ControlRequest};

use crate::net::{ConnId, Node};
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
    /// What it has of the volume.
    Inventory,
    /// To drop replicas.
    Drop,
    /// To free what so many dead layers held.
    Sweep(usize),
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
    spare: BTreeMap<(ServerId, ChunkIndex), Micros>,
    /// The survey that holds the volume's lock: whose replicas, and the number of the question to the gateway.
    survey: Option<Survey>,
    questions: u64,
    pub(crate) sweeping: Sweeping,
}

struct Survey {
    server: ServerId,
    held: Vec<ChunkState>,
    question: u64,
}

impl Leader {
    /// Moves are not committed while what nothing names is being dropped.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.survey.is_some()
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
        match self.rng.gen_range(0..8) {
            0..=1 => drop(self.tell_moves()),
            2..=3 => self.sweep(),
            4 => self.finish_snapshots(),
            5 => self.tell_size(),
            6 => self.look_after(),
            _ => self.delete_source(),
        }
        if self.leader.survey.is_none() && self.rng.gen_bool(0.3) {
            let known: Vec<ServerId> = self.leader.announced.iter().copied().collect();
            let Some(id) = known.choose(&mut self.rng).copied() else { return };
            let volume = self.volume;
            self.ask_server(id, &ServerRequest::Inventory { volume }, Asked::Inventory);
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
        let record = &self.master.records[&self.volume];
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
            self.master.wanted.retain(may);
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
        if may(&one) && self.master.wanted.iter().all(|other| other.chunk != chunk) {
            self.note(format!("the master wants {one:?}"));
            self.master.wanted.insert(one);
            self.tell_moves();
        }
    }

    /// The gateway that has the volume open under its present generation, if the master sees it.
    pub(crate) fn seen_gateway(&self) -> Option<usize> {
        let generation = self.master.records[&self.volume].generation;
        let open = |index: &usize| {
            let gateway = &self.gateways[*index];
            gateway.generation == generation && gateway.volume.is_some()
        };
        let all: Vec<usize> = (0..self.gateways.len()).rev().take(2).filter(open).collect();
        // Two of one generation have one address: which of them answers is chance, and then nothing follows from it.
        (all.len() == 1).then(|| all[0])
    }

    /// Give the gateway the whole list; the number of the question that its answer will have.
    fn tell_moves(&mut self) -> Option<u64> {
        let index = self.seen_gateway()?;
        self.leader.questions += 1;
        let question = self.leader.questions;
        let moves = self.master.wanted.iter().copied().collect();
        let request = ControlRequest::Moves { moves, servers: self.master.addresses() };
        let delay = self.delay();
        self.after(delay, Job::Order(index, question, request));
        Some(question)
    }

    /// A gateway's answer to an order.
    pub(crate) fn reported(&mut self, question: u64, answer: Result<ControlAnswer, String>) {
        if let Ok(ControlAnswer::Snapshot { head }) = answer {
            return self.snapshots_done(head);
        }
        let Some(survey) = self.leader.survey.take_if(|survey| survey.question == question) else { return };
        let Ok(ControlAnswer::Moves { under_way, .. }) = answer else { return };
        let mut joining: BTreeSet<(ChunkIndex, ServerId)> = BTreeSet::new();
        for one in under_way.iter().chain(&self.master.wanted) {
            joining.extend([(one.chunk, one.to), (one.chunk, one.from)]);
        }
        let (id, now) = (survey.server, self.now);
        let placement = &self.master.records[&self.volume].placement;
        let spare = |state: &&ChunkState| {
            placement.get(state.chunk as usize).is_some_and(|replicas| !replicas.contains(&id))
                && !joining.contains(&(state.chunk, id))
        };
        let spare: Vec<ChunkState> = survey.held.iter().filter(spare).copied().collect();
        let before = std::mem::take(&mut self.leader.spare);
        self.leader.spare = before.iter().filter(|((of, _), _)| *of != id).map(|(key, at)| (*key, *at)).collect();
        let mut doomed = Vec::new();
        for state in spare {
            let since = before.get(&(id, state.chunk)).copied().unwrap_or(now);
            self.leader.spare.insert((id, state.chunk), since);
            if now - since >= QUIET_US {
                doomed.push(state);
            }
        }
        if doomed.is_empty() {
            return;
        }
        self.note(format!("the master has server {id} drop {doomed:?}"));
        let request = ServerRequest::DropChunks { volume: self.volume, term: self.leader.term, chunks: doomed };
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
            Asked::Inventory => {
                let held: Vec<ChunkState> =
                    well.and_then(|held| serde_json::from_value(held.clone()).ok()).unwrap_or_default();
                self.compare(id, held);
            }
            Asked::Drop => self.leader.survey = None,
            Asked::Sweep(count) => self.swept(id, count, well),
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

    /// What of it does the record not name? First the gateway is asked what is under way; no move is committed meanwhile.
    fn compare(&mut self, id: ServerId, held: Vec<ChunkState>) {
        let placement = &self.master.records[&self.volume].placement;
        let named =
            |state: &ChunkState| placement.get(state.chunk as usize).is_none_or(|replicas| replicas.contains(&id));
        if self.leader.survey.is_some() || held.iter().all(named) {
            return;
        }
        if let Some(question) = self.tell_moves() {
            self.leader.survey = Some(Survey { server: id, held, question });
            self.after(ASK_TIMEOUT_US, Job::Untold(question));
        }
    }

    /// The gateway did not answer in time.
    pub(crate) fn untold(&mut self, question: u64) {
        self.leader.survey.take_if(|survey| survey.question == question);
    }

    /// Replicas that no record names.
    pub fn spare_replicas(&mut self) -> usize {
        let placement = &self.master.records[&self.volume].placement;
        let mut count = 0;
        for (id, server) in &mut self.servers {
            let Some(replica) = &mut server.replica else { continue };
            let states = replica.store().chunk_states(self.volume);
            count += states.iter().filter(|state| !placement[state.chunk as usize].contains(id)).count();
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
            let record = &self.master.records[&volume];
            let named = record.placement[chunk as usize].contains(&id);
            let counted = self.seen_gateway().and_then(|index| self.gateways[index].volume.as_ref());
            let counted = counted.is_some_and(|volume| volume.spec().placement[chunk as usize].contains(&id));
            if named || counted {
                let who = if named { "the record names" } else { "the gateway counts" };
                self.wrong.push(format!("server {id} dropped chunk {chunk}, which {who}"));
            }
        }
    }
}
