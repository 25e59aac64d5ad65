//! Replicas that move to another server: one joins, the master commits, the other leaves.
//!
//! A move goes through four stages, and its chunk never has more than one:
//! 1. **Pulling.** The joiner is one more replica of the chunk that counts for nothing. It is rebuilt like a returning
//!    server: mutations stream to it, a peer has what is older. Whatever happens to it, nobody waits for it.
//! 2. **Flushing.** It is whole, and from this moment it *counts*: no write is acknowledged without it, no flush. What
//!    it got before that moment is made durable by a flush of its own.
//! 3. **Ready.** Every acknowledged write is on it, and every flushed one is durable there. It waits for others, so that
//!    many moves are one question to the master.
//! 4. **Raised.** The master may commit the move from here on, and may have done so without our hearing of it. So the
//!    joiner cannot be spared any more before the answer, and the leaver neither: *both* count.
//!
//! Why nothing acknowledged is lost whoever dies when: the master's record names, at each moment, either the old servers
//! of the chunk or the new ones. The old ones have every acknowledged write because the leaver counts until the master
//! has said that the move is committed. The new ones have it because the joiner counted before the master was asked. So
//! a gateway that opens the volume next may find either of them in the record. If the leaver is out of the in-sync set
//! (its disk died), it does not count, before as after. A joiner counts *in addition*: the rule that two in-sync
//! replicas must have a write looks at those that the record names. A joiner that fails in the first three stages is let
//! go at once, as no record names it; in the fourth the answer is waited for, as after a readmission.
//!
//! What is wanted is the master's list; what failed is tried again for as long as it is in the list.

use std::collections::{BTreeMap, BTreeSet};

use yuntai_proto::control::{GatewayEvent, Move};
use yuntai_proto::{mutant, ChunkIndex, Position, ServerId};

use crate::api::{Action, Micros, RefusedMove};
use crate::chunk::{Role, Standing};
use crate::guest::FlushFor;
use crate::members::Raised;
use crate::server::Server;
use crate::volume::{Phase, Volume};

/// Most moves of one question to the master.
const BATCH_MAX: usize = 64;
/// A move that is ready waits so long for others.
const BATCH_US: Micros = 100_000;
/// Joins at the same time, those that only wait for the master included.
const JOINS_MAX: usize = 4 * BATCH_MAX;
/// A join that the master did not commit is not begun again before this.
const AGAIN_US: Micros = 1_000_000;
/// When no wanted move could begin, they are looked through again after this.
const LOOK_AGAIN_US: Micros = 200_000;
/// Replicas of a chunk that bits can tell apart, the joining one included.
const REPLICAS_MAX: usize = 8;

/// How far a move is; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pulling,
    Flushing,
    Ready { since: Micros },
    Raised,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    pub wanted: Move,
    pub stage: Stage,
}

/// What is to move, and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// The master's list.
    pub wanted: BTreeSet<Move>,
    /// By chunk.
    pub joins: BTreeMap<ChunkIndex, Join>,
    /// Servers that chunks had earlier in this generation: a placement that a slower master has read.
    former: BTreeMap<ChunkIndex, Vec<Vec<ServerId>>>,
    not_before: BTreeMap<ChunkIndex, Micros>,
    look_at: Micros,
    /// What was raised and is not decided is asked again then.
    ask_at: Micros,
}

impl Volume {
    /// The master's list, all of it. What is not in it any more is given up, unless the master was asked already.
    pub(crate) fn want_moves(&mut self, moves: Vec<Move>, servers: BTreeMap<ServerId, String>) -> Vec<RefusedMove> {
        self.spec.servers.extend(servers);
        let mut refused = Vec::new();
        self.moves.wanted.clear();
        for one in moves {
            match self.objection(&one) {
                None => {
                    self.moves.wanted.insert(one);
                }
                Some(_) if self.is_done(&one) => {}
                Some(reason) => {
                    self.note(Some(one.to), Some(one.chunk), format!("move from {} refused: {reason}", one.from));
                    refused.push(RefusedMove { wanted: one, reason: reason.to_owned() });
                }
            }
        }
        self.spec.moves = self.moves.wanted.iter().copied().collect();
        let unwanted = |join: &&Join| join.stage != Stage::Raised && !self.moves.wanted.contains(&join.wanted);
        let gone: Vec<ChunkIndex> = self.moves.joins.values().filter(unwanted).map(|join| join.wanted.chunk).collect();
        gone.into_iter().for_each(|chunk| self.give_up(chunk));
        self.moves.not_before.clear();
        self.moves.look_at = 0;
        self.tend_moves();
        refused
    }

    fn is_member(&self, number: ChunkIndex, id: ServerId) -> bool {
        let chunk = self.chunks.get(number as usize);
        chunk.is_some_and(|chunk| chunk.index_of(id).is_some_and(|at| chunk.replicas[at].role == Role::Member))
    }

    fn is_done(&self, one: &Move) -> bool {
        self.is_member(one.chunk, one.to) && !self.is_member(one.chunk, one.from)
    }

    /// Why a move cannot be made.
    fn objection(&self, wanted: &Move) -> Option<&'static str> {
        let Some(chunk) = self.chunks.get(wanted.chunk as usize) else { return Some("the volume has no such chunk") };
        if !self.is_writer() {
            Some("the volume is open read-only")
        } else if !self.is_member(wanted.chunk, wanted.from) {
            Some("the chunk has no replica on that server")
        } else if self.is_member(wanted.chunk, wanted.to) {
            Some("the chunk has a replica on the new server")
        } else if self.stale.contains(&wanted.to) {
            Some("the new server is out of the volume's in-sync set")
        } else if !self.spec.servers.contains_key(&wanted.to) {
            Some("the new server's address is missing")
        } else if chunk.replicas.len() >= REPLICAS_MAX && !self.moves.joins.contains_key(&wanted.chunk) {
            Some("the chunk has as many replicas as can be")
        } else {
            None
        }
    }

    /// Begin what may begin, go on with what is under way, let go what failed.
    pub(crate) fn tend_moves(&mut self) {
        if self.phase != Phase::Serving || !self.is_writer() {
            return;
        }
        let chunks: Vec<ChunkIndex> = self.moves.joins.keys().copied().collect();
        chunks.into_iter().for_each(|chunk| self.tend_join(chunk));
        if self.moves.look_at > self.now || self.moves.wanted.is_empty() {
            return;
        }
        let begun = self.begin_joins();
        self.moves.look_at = if begun { 0 } else { self.now + LOOK_AGAIN_US };
        if begun {
            self.schedule_rebuilds();
        }
    }

    fn tend_join(&mut self, number: ChunkIndex) {
        let Join { wanted, stage } = self.moves.joins[&number];
        let chunk = &self.chunks[number as usize];
        let whole = chunk.index_of(wanted.to).is_some_and(|at| chunk.whole >> at & 1 == 1);
        let well = whole && self.servers.get(&wanted.to).is_some_and(|server| server.dialer.ready());
        match stage {
            Stage::Raised => {}
            _ if self.objection(&wanted).is_some() => self.give_up(number),
            Stage::Pulling if well => self.count_in(number),
            Stage::Flushing | Stage::Ready { .. } if !well => self.count_out(number),
            Stage::Pulling | Stage::Flushing | Stage::Ready { .. } => {}
        }
    }

    fn begin_joins(&mut self) -> bool {
        let mut pulling = self.moves.joins.values().filter(|join| join.stage == Stage::Pulling).count();
        let mut due = Vec::new();
        for wanted in &self.moves.wanted {
            if pulling >= self.config.moves_max || self.moves.joins.len() + due.len() >= JOINS_MAX {
                break;
            }
            let waits = self.moves.not_before.get(&wanted.chunk).is_some_and(|at| *at > self.now);
            let taken = self.moves.joins.contains_key(&wanted.chunk)
                || due.last().is_some_and(|last: &Move| last.chunk == wanted.chunk);
            let source = self.chunks[wanted.chunk as usize].serving || self.is_provisional(wanted.chunk);
            if !waits && !taken && source && self.objection(wanted).is_none() {
                due.push(*wanted);
                pulling += usize::from(!self.is_empty_chunk(wanted.chunk));
            }
        }
        let begun = !due.is_empty();
        due.into_iter().for_each(|wanted| self.begin_join(wanted));
        begun
    }

    fn is_empty_chunk(&self, number: ChunkIndex) -> bool {
        self.chunks[number as usize].last == Position::default()
    }

    fn begin_join(&mut self, wanted: Move) {
        let number = wanted.chunk;
        let address = self.spec.servers.get(&wanted.to).cloned().unwrap_or_default();
        self.servers.entry(wanted.to).or_insert_with(|| Server::new(wanted.to, address));
        let index = self.chunks[number as usize].add_joining(wanted.to);
        self.moves.joins.insert(number, Join { wanted, stage: Stage::Pulling });
        if self.servers[&wanted.to].dialer.ready() && self.nothing_to_pull(wanted.to, number) {
            self.set_standing(number, index, Standing::Whole);
            self.tend_join(number);
        }
    }

    /// What the joiner said of an older replica of the chunk that it may have is not relied on, since that may have been
    /// dropped meanwhile; only a chunk without any history needs no pull.
    pub(crate) fn nothing_to_pull(&self, id: ServerId, number: ChunkIndex) -> bool {
        let claim = self.servers[&id].claim_of(number);
        self.is_empty_chunk(number) && claim.position == Position::default() && !claim.rebuilding
    }

    /// The joiner is whole: from now on it counts, and what it has already is made durable.
    fn count_in(&mut self, number: ChunkIndex) {
        let to = self.moves.joins[&number].wanted.to;
        if mutant::is("a mover is committed before it counts") {
            return self.set_stage(number, Stage::Ready { since: self.now });
        }
        self.set_role(number, to, Role::Counting);
        self.set_stage(number, Stage::Flushing);
        self.start_flush(FlushFor::Join { chunk: number, to });
    }

    /// It counts, and may still lack what was acknowledged without it before it did.
    pub(crate) fn is_flushing(&self, number: ChunkIndex, to: ServerId) -> bool {
        let join = self.moves.joins.get(&number);
        join.is_some_and(|join| join.wanted.to == to && matches!(join.stage, Stage::Pulling | Stage::Flushing))
    }

    /// No record names it: writes need not wait for it.
    fn count_out(&mut self, number: ChunkIndex) {
        let to = self.moves.joins[&number].wanted.to;
        self.flushes.retain(|_, flush| flush.purpose != FlushFor::Join { chunk: number, to });
        self.set_stage(number, Stage::Pulling);
        if let Some(index) = self.chunks[number as usize].index_of(to) {
            self.set_role(number, to, Role::Joining);
            if !self.rebuilds.contains_key(&(number, to)) {
                self.set_standing(number, index, Standing::Behind { retry_at: 0 });
            }
        }
        self.after_change(number);
        self.check_flushes();
    }

    fn set_stage(&mut self, number: ChunkIndex, stage: Stage) {
        if let Some(join) = self.moves.joins.get_mut(&number) {
            join.stage = stage;
        }
    }

    /// What it pulled is durable.
    pub(crate) fn join_durable(&mut self, number: ChunkIndex, to: ServerId) {
        let now = self.now;
        let join = self.moves.joins.get_mut(&number);
        if let Some(join) = join.filter(|join| join.wanted.to == to && join.stage == Stage::Flushing) {
            join.stage = Stage::Ready { since: now };
        }
    }

    /// The moves that the master is to hear of now.
    ///
    /// No question is under way now. So what was raised all the same was asked and not decided.
    pub(crate) fn due_moves(&self) -> Vec<Move> {
        let undecided = self.moves.joins.values().filter(|join| join.stage == Stage::Raised).map(|join| join.wanted);
        let undecided: Vec<Move> = undecided.collect();
        if !undecided.is_empty() {
            return if self.moves.ask_at <= self.now { undecided } else { Vec::new() };
        }
        let well = |one: &Move| {
            let chunk = &self.chunks[one.chunk as usize];
            chunk.index_of(one.to).is_some_and(|at| chunk.whole >> at & 1 == 1)
        };
        let ready = |join: &Join| match join.stage {
            Stage::Ready { since } if well(&join.wanted) => Some((join.wanted, since)),
            _ => None,
        };
        let ready: Vec<(Move, Micros)> = self.moves.joins.values().filter_map(ready).take(BATCH_MAX).collect();
        let waited = ready.iter().any(|(_, since)| *since + BATCH_US <= self.now);
        if ready.len() < BATCH_MAX && !waited {
            return Vec::new();
        }
        ready.into_iter().map(|(wanted, _)| wanted).collect()
    }

    pub(crate) fn raise_moved(&mut self, moves: Vec<Move>) {
        moves.iter().for_each(|one| self.set_stage(one.chunk, Stage::Raised));
        let (volume, generation) = (self.spec.volume, self.spec.generation);
        self.raise(Raised::Moved, GatewayEvent::Moved { volume, generation, moves });
    }

    /// The master did not decide now. A former one may have committed the moves, and died before it said so; or this one
    /// will, when the question before this one has its turn. So they stay raised, and are asked for again.
    pub(crate) fn moves_undecided(&mut self) {
        self.moves.ask_at = self.now + LOOK_AGAIN_US;
    }

    /// May the master's record name the server as a member that it is not known to be?
    pub(crate) fn in_doubt(&self, id: ServerId) -> bool {
        self.moves.joins.values().any(|join| join.stage == Stage::Raised && join.wanted.to == id)
    }

    /// The master answered: these are committed, the others of the question are not and will not be.
    pub(crate) fn moves_answered(&mut self, placed: &[Move]) {
        let raised: Vec<Move> =
            self.moves.joins.values().filter(|join| join.stage == Stage::Raised).map(|join| join.wanted).collect();
        for one in raised {
            if placed.contains(&one) {
                self.commit_move(one.chunk);
            } else {
                self.note(Some(one.to), Some(one.chunk), "the master did not commit the move there");
                self.moves.not_before.insert(one.chunk, self.now + AGAIN_US);
                self.give_up(one.chunk);
            }
        }
        self.moves.look_at = 0;
        self.membership_settled();
        self.tend_moves();
    }

    /// The joiner has the leaver's place.
    pub(crate) fn commit_move(&mut self, number: ChunkIndex) {
        let Some(Join { wanted, .. }) = self.moves.joins.remove(&number) else { return };
        let Move { from, to, .. } = wanted;
        self.set_role(number, to, Role::Member);
        self.rebuilds.remove(&(number, from));
        self.chunks[number as usize].take_over(from);
        if let Some(server) = self.servers.get_mut(&from) {
            server.not_whole.remove(&number);
            server.places -= 1;
        }
        let places = &mut self.spec.placement[number as usize];
        self.moves.former.entry(number).or_default().push(places.clone());
        places.iter_mut().filter(|server| **server == from).for_each(|place| *place = to);
        self.moves.wanted.remove(&wanted);
        self.spec.moves.retain(|one| *one != wanted);
        self.counters.moved_chunks += 1;
        self.let_go(from);
        self.settle(number); // the one that was waited for may be the one that left
        self.after_change(number);
    }

    /// The joiner is no replica any more. Only for one that no record can name.
    fn give_up(&mut self, number: ChunkIndex) {
        let Some(Join { wanted, .. }) = self.moves.joins.remove(&number) else { return };
        let to = wanted.to;
        self.flushes.retain(|_, flush| flush.purpose != FlushFor::Join { chunk: number, to });
        self.set_role(number, to, Role::Joining);
        self.rebuilds.remove(&(number, to));
        self.chunks[number as usize].drop_joining(to);
        self.let_go(to);
        self.after_change(number);
        self.check_flushes();
    }

    /// A server's connection is lost: those of its joins that no record can name stop counting at once.
    pub(crate) fn joins_lost(&mut self, id: ServerId) {
        let counts = |join: &&Join| join.wanted.to == id && !matches!(join.stage, Stage::Pulling | Stage::Raised);
        let chunks: Vec<ChunkIndex> = self.moves.joins.values().filter(counts).map(|join| join.wanted.chunk).collect();
        chunks.into_iter().for_each(|chunk| self.count_out(chunk));
    }

    /// A server that no chunk needs is forgotten: its claim ends with its connection.
    fn let_go(&mut self, id: ServerId) {
        let Some(server) = self.servers.get(&id) else { return };
        let joins = self.moves.joins.values().any(|join| join.wanted.to == id);
        if server.places > 0 || joins {
            return self.refresh_server(id);
        }
        let server = self.servers.remove(&id).expect("just seen");
        self.stale.remove(&id);
        self.spec.stale.retain(|stale| *stale != id);
        if let Some(link) = server.dialer.link {
            self.link_owners.remove(&link.id);
            self.out.push(Action::Drop { link: link.id });
            self.flushes_lost(id);
            self.reads_lost(id, link);
        }
        self.check_flushes();
    }

    /// A placement that comes with an open of the same generation: which of our moves it has committed. Chunks of which
    /// it knows less than we do keep their servers.
    pub(crate) fn moves_of_placement(&self, placement: &mut [Vec<ServerId>]) -> Result<Vec<ChunkIndex>, String> {
        let moved = |servers: &[ServerId], one: &Move| -> Vec<ServerId> {
            servers.iter().map(|server| if *server == one.from { one.to } else { *server }).collect()
        };
        let mut committed = Vec::new();
        for (number, ours) in self.spec.placement.iter().enumerate() {
            let Some(theirs) = placement.get_mut(number) else { break };
            if theirs == ours {
                continue;
            }
            let number = number as ChunkIndex;
            let raised = self.moves.joins.get(&number).filter(|join| join.stage == Stage::Raised);
            if raised.is_some_and(|join| moved(ours, &join.wanted) == *theirs) {
                committed.push(number);
            } else if self.moves.former.get(&number).is_some_and(|former| former.contains(theirs)) {
                theirs.clone_from(ours);
            } else {
                return Err(format!(
                    "placement of chunk {number} is {theirs:?}, and {ours:?} is served: close the volume first"
                ));
            }
        }
        Ok(committed)
    }
}
