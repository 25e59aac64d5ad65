//! What the master asks of an open volume: snapshot, growth, close.

use std::collections::BTreeMap;

use yuntai_proto::control::OpenVolume;
use yuntai_proto::{ChunkIndex, LayerId, ServerId};

use crate::api::{Action, CloseReason, ControlAnswer, ControlRequest};
use crate::chunk::{Chunk, Standing};
use crate::guest::FlushFor;
use crate::volume::{Phase, Volume};

/// Mutations that must be acknowledged before a flush may be sent for `purpose`.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub purpose: FlushFor,
    /// Per chunk the last mutation that counts.
    pub waits: BTreeMap<ChunkIndex, u64>,
}

impl Volume {
    pub(crate) fn on_control(&mut self, id: u64, request: ControlRequest) {
        let result = match request {
            ControlRequest::Snapshot { parents, head } => self.snapshot(id, parents, head),
            ControlRequest::Reopen(spec) => self.reopen(*spec).map(|()| Some(ControlAnswer::Reopened)),
            ControlRequest::Moves { moves, servers } => {
                let refused = self.want_moves(moves, servers);
                let under_way = self.moves.joins.values().map(|join| join.wanted).collect();
                Ok(Some(ControlAnswer::Moves { under_way, refused }))
            }
            ControlRequest::Heal { server, chunks } => {
                self.want_heal(server, &chunks).map(|queued| Some(ControlAnswer::Heal { queued }))
            }
            ControlRequest::Salvage { chunk } => {
                self.salvage(chunk).map(|(server, sequence)| Some(ControlAnswer::Salvage { server, sequence }))
            }
            ControlRequest::Tune { tunables } => self.tune(&tunables).map(|()| Some(ControlAnswer::Tuned)),
            ControlRequest::Close => {
                self.close(id);
                Ok(None)
            }
        };
        if let Some(result) = result.transpose() {
            self.out.push(Action::ControlReply { id, result });
        }
    }

    /// Switch at once: what is numbered from here on goes to the new head. What was numbered before is waited for and
    /// flushed, while guests go on. Asked again with the same head, it answers when that head is durable.
    fn snapshot(&mut self, id: u64, parents: Vec<LayerId>, head: LayerId) -> Result<Option<ControlAnswer>, String> {
        self.may_snapshot(&parents, head)?;
        if head != self.spec.head {
            self.spec.head = head;
            self.spec.parents = parents;
            let ids: Vec<ServerId> = self.servers.keys().copied().collect();
            for server in ids {
                if self.servers[&server].dialer.ready() {
                    self.tell_layers(server);
                }
            }
        }
        self.barrier(FlushFor::Snapshot { control: id, head });
        Ok(None)
    }

    /// May this head be written from now on?
    ///
    /// # Errors
    /// Why not.
    pub fn may_snapshot(&self, parents: &[LayerId], head: LayerId) -> Result<(), String> {
        if self.spec.read_only {
            return Err(format!("volume {:#x} is open read-only: it has nothing to snapshot", self.spec.volume));
        }
        if self.phase != Phase::Serving {
            return Err("the volume does not serve: ask again when it is open".to_owned());
        }
        let known = self.spec.parents.len();
        if head as usize >= parents.len() || parents.len() < known || parents[..known] != self.spec.parents[..] {
            return Err(format!("parents {parents:?} with head {head} do not grow from {:?}", self.spec.parents));
        }
        if head < self.spec.head {
            return Err(format!("head {head} is older than the head {} that is written", self.spec.head));
        }
        Ok(())
    }

    pub(crate) fn snapshot_durable(&mut self, control: u64, head: LayerId) {
        self.out.push(Action::ControlReply { id: control, result: Ok(ControlAnswer::Snapshot { head }) });
    }

    /// Wait for everything that is numbered now, then flush.
    pub(crate) fn barrier(&mut self, purpose: FlushFor) {
        let open = self.chunks.iter().enumerate().filter(|(_, chunk)| !chunk.log.is_empty());
        let waits = open.map(|(number, chunk)| (number as ChunkIndex, chunk.last.sequence)).collect();
        self.barriers.push(Barrier { purpose, waits });
        self.check_barriers();
    }

    pub(crate) fn check_barriers(&mut self) {
        let mut index = 0;
        while index < self.barriers.len() {
            let chunks = &self.chunks;
            let barrier = &mut self.barriers[index];
            barrier.waits.retain(|number, last| chunks[*number as usize].log_base <= *last);
            if barrier.waits.is_empty() {
                let purpose = self.barriers.remove(index).purpose;
                self.start_flush(purpose);
            } else {
                index += 1;
            }
        }
    }

    fn reopen(&mut self, mut spec: OpenVolume) -> Result<(), String> {
        let (old, new) = (self.spec.size_bytes, spec.size_bytes);
        if new < old {
            return Err(format!("size_bytes {new} is below the {old} that are served: a volume never shrinks"));
        }
        let known = self.chunks.len();
        if spec.placement.len() < known {
            return Err(format!("placement has {} chunks, and {known} are served", spec.placement.len()));
        }
        let committed = self.moves_of_placement(&mut spec.placement)?;
        let missing = spec.placement.iter().flatten().find(|server| !spec.servers.contains_key(server));
        if let Some(server) = missing {
            return Err(format!("servers lacks the address of server {server}, which the placement names"));
        }
        self.chunks.extend(spec.placement[known..].iter().map(|servers| Chunk::new(servers)));
        self.settled.resize(self.chunks.len(), false);
        self.spec.servers.extend(spec.servers);
        committed.iter().for_each(|chunk| self.commit_move(*chunk));
        self.spec.placement = spec.placement;
        self.spec.size_bytes = new;
        (self.spec.token, self.spec.read_token) = (spec.token, spec.read_token);
        if let (Some(mine), Some(upkeep)) = (&mut self.spec.upkeep, spec.upkeep) {
            // Not the head: what it was opened with says whether what is shown was frozen then.
            (mine.token, mine.hydrate) = (upkeep.token, upkeep.hydrate);
        }
        self.refresh_sources(spec.sources);
        let back = |id: &ServerId| self.servers.get(id).is_some_and(|server| server.dialer.ready());
        self.spec.given_up = spec.given_up.into_iter().filter(|id| !back(id)).collect();
        let newly_stale: Vec<ServerId> = spec.stale.into_iter().filter(|id| !self.stale.contains(id)).collect();
        for number in known..self.chunks.len() {
            for index in 0..self.chunks[number].replicas.len() {
                self.set_standing(number as ChunkIndex, index, Standing::Behind { retry_at: 0 });
            }
        }
        self.adopt_servers();
        if self.serving() {
            (known..self.chunks.len()).for_each(|number| self.settle(number as ChunkIndex));
        }
        if !committed.is_empty() {
            self.membership_settled();
        }
        self.want_moves(spec.moves, BTreeMap::new());
        newly_stale.into_iter().for_each(|id| self.told_stale(id));
        Ok(())
    }

    fn close(&mut self, id: u64) {
        if self.phase == Phase::Claiming || self.spec.read_only {
            return self.finish_close(id, self.spec.read_only);
        }
        if let Phase::Closing { .. } = self.phase {
            self.out.push(Action::ControlReply { id, result: Err("the volume is closing already".to_owned()) });
            return;
        }
        self.phase = Phase::Closing { until: self.now + self.config.close_wait_us, control: id };
        self.barrier(FlushFor::Close { control: id });
    }

    pub(crate) fn finish_close(&mut self, control: u64, flushed: bool) {
        self.out.push(Action::ControlReply { id: control, result: Ok(ControlAnswer::Closed { flushed }) });
        self.flushes.retain(|_, flush| flush.purpose != FlushFor::Close { control });
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.shut(CloseReason::Asked);
        }
    }

    /// The volume is over: whoever asked something hears it.
    pub(crate) fn fail_controls(&mut self) {
        let waiting = self.barriers.iter().map(|barrier| barrier.purpose);
        let purposes: Vec<FlushFor> = waiting.chain(self.flushes.values().map(|flush| flush.purpose)).collect();
        for purpose in purposes {
            if let FlushFor::Snapshot { control, .. } | FlushFor::Close { control } = purpose {
                let result = Err("the volume was closed meanwhile".to_owned());
                self.out.push(Action::ControlReply { id: control, result });
            }
        }
        self.barriers.clear();
        self.flushes.clear();
    }
}
