//! Who is in sync: the open, degrading, readmission. One question to the master at a time, so that its answers cannot
//! overtake one another.
//!
//! *Invariant 3, degrade first, then acknowledge.* A write that one replica missed is safe only while nobody takes that
//! replica for a whole one. If it were acknowledged first and the gateway died before the record was changed, the next
//! gateway could choose the replica that lacks it. So the record comes first, and the write waits for the answer. The
//! master refuses to let fewer than two be left; then the guest waits, and is never told of an error, since a file
//! system that has seen one gives up for good while a wait ends. The way back is the same the other way round: a server
//! counts from the moment its readmission is prepared, and is asked for, and read from, only when it has everything
//! durably. Tests: `a_hung_server_is_degraded_first_and_the_write_acknowledged_then`,
//! `nobody_is_served_from_one_replica`,
//! `a_returning_server_counts_before_its_history_is_made_durable_and_is_not_read_before_that`,
//! `a_longer_history_that_comes_back_in_time_is_what_all_go_on_with`; mutants "acknowledge first, degrade afterwards",
//! "one in sync is enough", "one whole replica serves alone", "one whole replica repairs alone".

use yuntai_proto::control::{EventAnswer, GatewayEvent};
use yuntai_proto::data::ChunkState;
use yuntai_proto::{mutant, ChunkIndex, Position, ServerId};

use crate::api::Action;
use crate::chunk::{Role, Standing};
use crate::guest::FlushFor;
use crate::level::survivor;
use crate::server::{DegradeWish, Server};
use crate::volume::{Phase, Volume};

/// After a refusal the same question is not asked again before this.
const ASK_AGAIN_US: u64 = 1_000_000;

/// What the master was told and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    Degrade(ServerId),
    Readmit(ServerId),
    /// The joins that are at that stage.
    Moved,
    Hydrated(ChunkIndex),
    BootSet,
}

impl Raised {
    /// Its answer changes who counts: only one such question is on its way.
    fn changes_members(&self) -> bool {
        !matches!(self, Self::Hydrated(_) | Self::BootSet)
    }
}

impl Volume {
    /// Work out anew who counts, and whatever follows from it.
    pub(crate) fn refresh_required(&mut self) {
        for server in self.servers.values_mut() {
            let in_sync = !self.stale.contains(&server.id) || self.readmitting == Some(server.id);
            server.required = in_sync && server.places > 0;
        }
        for chunk in &mut self.chunks {
            chunk.required = 0;
            for (index, replica) in chunk.replicas.iter().enumerate() {
                let required = self.servers.get(&replica.server).is_some_and(|server| server.required);
                chunk.required |= u8::from(required && replica.role != Role::Joining) << index;
            }
        }
    }

    pub(crate) fn refresh_server(&mut self, id: ServerId) {
        let in_sync = !self.stale.contains(&id) || self.readmitting == Some(id);
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.required = in_sync && server.places > 0;
        if !server.required {
            server.degrade = None;
        }
    }

    /// Change what a replica is for its chunk, and every count that depends on it.
    pub(crate) fn set_role(&mut self, number: ChunkIndex, id: ServerId, role: Role) {
        let chunk = &mut self.chunks[number as usize];
        let Some(index) = chunk.index_of(id) else { return };
        let replica = &mut chunk.replicas[index];
        let (counted, counts) = (replica.role != Role::Joining, role != Role::Joining);
        let whole = replica.standing == Standing::Whole;
        replica.role = role;
        chunk.joining = chunk.joining & !(1 << index) | u8::from(role != Role::Member) << index;
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.places = server.places + usize::from(counts) - usize::from(counted);
        if counts && !whole {
            server.not_whole.insert(number);
        } else {
            server.not_whole.remove(&number);
        }
        self.refresh_server(id);
        let required = counts && self.servers[&id].required;
        let chunk = &mut self.chunks[number as usize];
        chunk.required = chunk.required & !(1 << index) | u8::from(required) << index;
    }

    fn membership_changed(&mut self) {
        self.refresh_required();
        if self.phase == Phase::Claiming {
            return self.try_open();
        }
        for chunk in 0..self.chunks.len() as ChunkIndex {
            let state = &self.chunks[chunk as usize];
            if !state.serving && state.required & state.whole == 0 {
                self.settled[chunk as usize] = false; // its survivor is gone before it served: choose again
            }
            self.settle(chunk);
            self.after_change(chunk);
        }
        self.membership_settled();
    }

    /// What waits for servers looks at them anew.
    pub(crate) fn membership_settled(&mut self) {
        self.check_flushes();
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send_flushes(id));
        self.wake_stalled_reads();
        self.schedule_rebuilds();
    }

    pub(crate) fn tick_members(&mut self) {
        if self.is_writer() {
            let ids: Vec<ServerId> = self.servers.keys().copied().collect();
            ids.into_iter().for_each(|id| self.judge(id));
            self.propose();
        } else if self.phase == Phase::Claiming {
            self.try_open();
        }
    }

    /// Does this server have to leave the in-sync set?
    pub(crate) fn judge(&mut self, id: ServerId) {
        let claiming = self.phase == Phase::Claiming;
        let server = &self.servers[&id];
        if server.dialer.ready() {
            let told = server.degrade.as_ref().is_some_and(|wish| wish.told);
            let well = (server.not_whole.is_empty() || claiming) && !told;
            if well || !server.required {
                self.servers.get_mut(&id).expect("it is there").degrade = None;
            }
            return;
        }
        let late = if claiming {
            self.now.saturating_sub(self.began) >= self.config.claim_wait_us
        } else {
            let claiming = server.dialer.link.as_ref().is_some_and(|link| link.state.claims());
            let wait = if claiming { self.config.hung_us } else { self.config.reconnect_grace_us };
            server.unreachable || self.now.saturating_sub(server.lost_at) >= wait
        };
        if late {
            self.wish_degrade(id, "no connection to it");
        }
    }

    pub(crate) fn wish_degrade(&mut self, id: ServerId, reason: &str) {
        let (now, writer) = (self.now, self.is_writer());
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.required && server.degrade.is_none() && writer {
            server.degrade = Some(DegradeWish { reason: reason.to_owned(), ask_at: now, told: false, refused: false });
            self.propose();
        }
    }

    /// The master's record says that a server is out of the in-sync set, and we count it. Which of the two is newer only
    /// the master can say, so it is asked, as if the server had failed; until the answer it counts.
    pub(crate) fn told_stale(&mut self, id: ServerId) {
        if self.readmitting != Some(id) {
            self.wish_degrade(id, "the master's record has it out of the in-sync set");
            if let Some(wish) = self.servers.get_mut(&id).and_then(|server| server.degrade.as_mut()) {
                wish.told = true;
            }
        }
    }

    /// Without this server every chunk still has a whole history on an in-sync one. (Whether enough of them are left
    /// is for the master to say.)
    fn can_spare(&self, id: ServerId) -> bool {
        self.phase == Phase::Claiming
            || self.chunks.iter().enumerate().all(|(number, chunk)| {
                let Some(gone) = chunk.index_of(id).filter(|at| chunk.replicas[*at].role == Role::Member) else {
                    return true;
                };
                chunk.replicas.iter().enumerate().any(|(index, replica)| {
                    let counts = index != gone && chunk.required >> index & 1 == 1;
                    let whole = chunk.whole >> index & 1 == 1;
                    let untouched =
                        !chunk.serving && !self.servers[&replica.server].claim_of(number as ChunkIndex).rebuilding;
                    counts && (whole || untouched)
                })
            })
    }

    fn propose(&mut self) {
        if self.raised.values().any(Raised::changes_members) {
            return;
        }
        let (volume, generation, now) = (self.spec.volume, self.spec.generation, self.now);
        let wishes = |wish: &DegradeWish| wish.ask_at <= now;
        let candidates = self.servers.values().filter(|server| server.required && !self.in_doubt(server.id));
        let due: Vec<ServerId> =
            candidates.filter(|server| server.degrade.as_ref().is_some_and(wishes)).map(|server| server.id).collect();
        if let Some(id) = due.into_iter().find(|id| self.can_spare(*id)) {
            let reason = self.servers[&id].degrade.as_ref().map_or(String::new(), |wish| wish.reason.clone());
            self.note(Some(id), None, format!("asking the master to degrade it: {reason}"));
            self.raise(Raised::Degrade(id), GatewayEvent::Degrade { volume, generation, server: id, reason });
            if mutant::is("acknowledge first, degrade afterwards") {
                self.stale.insert(id);
                self.membership_changed();
            }
            return;
        }
        if self.phase != Phase::Serving {
            return;
        }
        let moves = self.due_moves();
        if !moves.is_empty() {
            return self.raise_moved(moves);
        }
        if let Some(id) = self.readmitting {
            let well = |server: &Server| server.dialer.ready() && server.not_whole.is_empty();
            if !self.servers.get(&id).is_some_and(well) {
                self.readmission_lost(id);
            } else if !self.flushes.values().any(|flush| flush.purpose == FlushFor::Readmit(id)) {
                self.raise_readmission(id);
            }
            return;
        }
        let whole = self.servers.values().find(|server| {
            let out = !server.required && self.stale.contains(&server.id);
            let whole = server.not_whole.is_empty() || mutant::is("a joiner counts before it is whole");
            out && server.dialer.ready() && whole && server.readmit_at <= now
        });
        let Some(id) = whole.map(|server| server.id) else { return };
        // It counts from here on: no write is acknowledged without it. What it was sent before that may still be on its
        // way to it, acknowledged without it; and what it pulled must be durable before a flush may count on it.
        self.readmitting = Some(id);
        self.membership_changed();
        if mutant::is("a joiner counts before it is whole") {
            return self.raise_readmission(id);
        }
        self.start_flush(FlushFor::Readmit(id));
    }

    /// A returning server has everything, durably.
    pub(crate) fn ready_for_readmission(&mut self, id: ServerId) {
        if self.is_proving(id) {
            self.propose();
        }
    }

    /// A returning server that counts already, while the master was not asked yet: it may lack what was acknowledged
    /// without it, so it is not read from, and it can be spared.
    pub(crate) fn is_proving(&self, id: ServerId) -> bool {
        self.readmitting == Some(id) && !self.raised.values().any(|raised| *raised == Raised::Readmit(id))
    }

    /// Something happened to a server: if the master was not asked to readmit it yet, it counts no more.
    pub(crate) fn readmission_lost(&mut self, id: ServerId) {
        if self.is_proving(id) {
            self.flushes.retain(|_, flush| flush.purpose != FlushFor::Readmit(id));
            self.readmitting = None;
            self.membership_changed();
        }
    }

    fn raise_readmission(&mut self, id: ServerId) {
        let (volume, generation) = (self.spec.volume, self.spec.generation);
        self.raise(Raised::Readmit(id), GatewayEvent::Readmit { volume, generation, server: id });
    }

    pub(crate) fn raise(&mut self, raised: Raised, body: GatewayEvent) {
        let event = self.id();
        self.raised.insert(event, raised);
        self.out.push(Action::Raise { event, body });
    }

    pub(crate) fn on_raised_answer(&mut self, raised: Raised, answer: &EventAnswer) {
        if let Raised::Readmit(_) = raised {
            self.readmitting = None;
        }
        match (raised, answer) {
            (_, EventAnswer::Fenced {}) => return self.fenced(),
            (Raised::Hydrated(chunks), _) => return self.hydrated_answered(chunks, answer),
            (Raised::BootSet, _) => return,
            (Raised::Moved, EventAnswer::Placed { moves }) => {
                self.moves_answered(moves);
                return self.propose();
            }
            (Raised::Moved, other) => {
                self.note(None, None, format!("the master has not decided on moves: {other:?}"));
                self.moves_undecided();
                return self.propose();
            }
            (Raised::Degrade(id), EventAnswer::Stale { stale }) => {
                self.stale = stale.iter().copied().collect();
                self.counters.degrades += 1;
                self.note(Some(id), None, format!("in-sync set changed: stale servers are now {stale:?}"));
            }
            (Raised::Readmit(id), EventAnswer::Stale { stale }) => {
                self.stale = stale.iter().copied().collect();
                self.counters.readmits += u64::from(!self.stale.contains(&id));
                self.note(Some(id), None, format!("in-sync set changed: stale servers are now {stale:?}"));
            }
            (Raised::Degrade(id) | Raised::Readmit(id), EventAnswer::Refused { reason }) => {
                let wish = self.servers.get_mut(&id).and_then(|server| server.degrade.as_mut());
                if let (Raised::Degrade(_), Some(wish)) = (raised, wish) {
                    wish.refused = true;
                }
                self.note(Some(id), None, format!("the master refused {raised:?}: {reason}"));
            }
            (Raised::Degrade(id) | Raised::Readmit(id), EventAnswer::Ok {} | EventAnswer::Placed { .. }) => {
                self.note(Some(id), None, format!("the master answered {raised:?} without a set: asking again"));
            }
        }
        self.spec.stale = self.stale.iter().copied().collect();
        let again = self.now + ASK_AGAIN_US;
        if let Raised::Degrade(id) | Raised::Readmit(id) = raised {
            if let Some(server) = self.servers.get_mut(&id) {
                server.readmit_at = again;
                if let (Raised::Degrade(_), Some(wish)) = (raised, server.degrade.as_mut()) {
                    wish.ask_at = again;
                }
                if self.stale.contains(&id) {
                    server.degrade = None;
                }
            }
        }
        self.membership_changed();
        self.propose();
    }

    /// Serve, if every in-sync server has been claimed, or one has and the master cannot spare those that were not:
    /// then what they have in common serves nobody yet, but others can be repaired from the one that is here.
    pub(crate) fn try_open(&mut self) {
        let mut in_sync = self.servers.values().filter(|server| server.required);
        if self.is_writer() {
            let needed = |server: &Server| server.degrade.as_ref().is_some_and(|wish| wish.refused);
            let some = in_sync.clone().any(|server| server.dialer.ready());
            if !some || !in_sync.all(|server| server.dialer.ready() || needed(server)) {
                return;
            }
        } else {
            let waited = self.now.saturating_sub(self.began) >= self.config.claim_wait_us;
            let readable = |chunk: &crate::chunk::Chunk| {
                let ready = |replica: &crate::chunk::Replica| self.servers[&replica.server].dialer.ready();
                chunk.replicas.iter().any(ready)
            };
            let all = in_sync.all(|server| server.dialer.ready());
            let enough = all || (waited && self.chunks.iter().all(readable));
            if !enough {
                return;
            }
        }
        self.phase = Phase::Serving;
        self.out.push(Action::Opened);
        self.begin_boot_set();
        for chunk in 0..self.chunks.len() as ChunkIndex {
            self.settle(chunk);
        }
        let in_sync = self.servers.values().filter(|server| server.required);
        let level: usize = in_sync.map(|server| server.not_whole.len()).sum();
        if level > 0 {
            self.note(None, None, format!("{level} replicas to bring level before their chunks serve"));
        }
        self.admit_backlog();
        self.propose();
        self.schedule_rebuilds();
        self.tend_moves();
    }

    /// Choose the survivor of a chunk that has none yet, if its in-sync servers have all been heard.
    ///
    /// While one of them has not, the chunk serves nobody, since that one may have the longest history. But those that
    /// are heard have every acknowledged write, each of them. So replicas that do not count are repaired from the
    /// longest history so far, and when they count too, the master can spare the one that is away. Should it come first
    /// and have more (what was never acknowledged, and nobody has read), then that is the survivor, and all the others
    /// are brought level once more.
    pub(crate) fn settle(&mut self, number: ChunkIndex) {
        if self.settled[number as usize] {
            return;
        }
        let chunk = &self.chunks[number as usize];
        let in_sync = |index: &usize| chunk.required >> index & 1 == 1;
        let members: Vec<&crate::chunk::Replica> =
            (0..chunk.replicas.len()).filter(in_sync).map(|index| &chunk.replicas[index]).collect();
        let heard = |replica: &&crate::chunk::Replica| self.servers[&replica.server].dialer.ready();
        let claims: Vec<ChunkState> = members
            .iter()
            .filter(|replica| heard(replica))
            .map(|replica| self.servers[&replica.server].claim_of(number))
            .collect();
        if claims.is_empty() {
            return;
        }
        let all = !self.is_writer() || claims.len() == members.len();
        let Some(position) = survivor(&claims) else {
            self.note(None, Some(number), "no in-sync replica holds a whole history: waiting");
            self.rebuilds.retain(|(chunk, _), _| *chunk != number);
            return self.level_with(number, None, true);
        };
        let anew = all || chunk.required & chunk.whole == 0 || chunk.opened != position;
        self.settled[number as usize] = all;
        if anew {
            self.chunks[number as usize].open_at(position);
            self.rebuilds.retain(|(chunk, _), _| *chunk != number); // they were towards another history
        }
        self.level_with(number, Some(position), anew);
        self.after_change(number);
    }

    /// Of a chunk that has served nobody: who is whole there, if the history ends at `survivor`? Unless it is chosen
    /// `anew`, rebuilds towards it go on.
    fn level_with(&mut self, number: ChunkIndex, survivor: Option<Position>, anew: bool) {
        for index in 0..self.chunks[number as usize].replicas.len() {
            let replica = self.chunks[number as usize].replicas[index];
            let (claim, ready) =
                (self.servers[&replica.server].claim_of(number), self.servers[&replica.server].dialer.ready());
            let half_built = claim.rebuilding && !mutant::is("a half-built replica counts as whole");
            let stays = mutant::is("one whole replica repairs alone") && replica.standing == Standing::Whole;
            let same = !half_built && (survivor == Some(claim.position) || !self.is_writer() || stays);
            // What one that joins said of an older replica is not relied on.
            let relied_on = replica.role != Role::Joining || replica.standing == Standing::Whole;
            if ready && same && relied_on {
                self.set_standing(number, index, Standing::Whole);
            } else if anew || replica.standing == Standing::Whole {
                self.set_standing(number, index, Standing::Behind { retry_at: 0 });
            }
        }
    }

    /// The chunk has no survivor yet, but one to repair others from.
    pub(crate) fn is_provisional(&self, number: ChunkIndex) -> bool {
        let chunk = &self.chunks[number as usize];
        !self.settled[number as usize] && self.is_writer() && chunk.required & chunk.whole != 0
    }
}
