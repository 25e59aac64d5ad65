//! Connections to the volume's own servers: dial, claim, lose, take up again.

use bytes::Bytes;
use yuntai_proto::data::{Claim, ClaimReply, Layers};
use yuntai_proto::{ChunkIndex, Frame, Header, Kind, ServerId};

use crate::api::{Action, LinkId};
use crate::chunk::{Role, Standing};
use crate::level::resume_from;
use crate::server::{Asked, Link, LinkState, Server};
use crate::volume::{LinkOwner, Phase, Volume};

/// A JSON body. Our own records always encode.
pub(crate) fn json<T: serde::Serialize>(body: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(body).expect("our own records always encode"))
}

impl Volume {
    /// Make a [`Server`] of every server that a chunk is placed on.
    pub(crate) fn adopt_servers(&mut self) {
        for server in self.spec.placement.iter().flatten() {
            let address = self.spec.servers.get(server).cloned().unwrap_or_default();
            let known = self.servers.entry(*server).or_insert_with(|| Server::new(*server, address.clone()));
            known.dialer.address = address;
        }
        self.servers.values_mut().for_each(|server| server.places = 0);
        for replica in self.chunks.iter().flat_map(|chunk| &chunk.replicas) {
            if let (Some(server), true) = (self.servers.get_mut(&replica.server), replica.role != Role::Joining) {
                server.places += 1;
            }
        }
        for chunk in 0..self.chunks.len() {
            for index in 0..self.chunks[chunk].replicas.len() {
                let replica = self.chunks[chunk].replicas[index];
                if replica.standing != Standing::Whole {
                    self.set_standing(chunk as ChunkIndex, index, replica.standing);
                }
            }
        }
        self.refresh_required();
    }

    pub(crate) fn tick_links(&mut self) {
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        for id in ids {
            let server = &self.servers[&id];
            match &server.dialer.link {
                None if server.dialer.retry_at <= self.now => self.dial(id),
                None => {}
                Some(link) => {
                    if let Some(reason) = link.overdue(self.now, self.awake_since, &self.config) {
                        self.fail_link(id, reason);
                        // A server that accepts and does not answer would look well again at once. (At the open
                        // each is given its whole time.)
                        if self.phase != Phase::Claiming {
                            self.wish_degrade(id, reason);
                        }
                    }
                }
            }
        }
        self.tick_sources();
    }

    fn dial(&mut self, id: ServerId) {
        let link = LinkId(self.id());
        let now = self.now;
        let server = self.servers.get_mut(&id).expect("dialled servers are known");
        server.dialer.link = Some(Link::new(link, now));
        let address = server.dialer.address.clone();
        self.link_owners.insert(link, LinkOwner::Server(id));
        self.out.push(Action::Connect { link, server: id, address });
    }

    pub(crate) fn on_connected(&mut self, link: LinkId) {
        let upkeep = self.spec.upkeep.as_ref().map(|upkeep| &upkeep.token);
        let (token, session) = (upkeep.unwrap_or(&self.spec.token).clone(), self.session);
        let (now, id) = (self.now, self.id());
        match self.link_owners.get(&link).copied() {
            Some(LinkOwner::Server(server)) => {
                let parents = self.spec.parents.clone();
                let layers = parents.len();
                let header = self.header(Kind::Claim, 0);
                let body = json(&Claim { token, session, parents });
                let known = self.servers.get_mut(&server).expect("a link's owner is known");
                let Some(link) = known.dialer.link.as_mut() else { return };
                (link.state, link.since, link.layers) = (LinkState::Claiming, now, layers);
                self.out.push(crate::volume::ask_on(link, id, now, Asked::Claim, header, body, Bytes::new()));
            }
            Some(LinkOwner::Source(source, server)) => self.claim_source(source, server),
            None => {}
        }
    }

    pub(crate) fn on_link_closed(&mut self, link: LinkId, reason: &str) {
        match self.link_owners.remove(&link) {
            Some(LinkOwner::Server(server)) => self.lost(server, reason),
            Some(LinkOwner::Source(source, server)) => self.source_lost(source, server, reason),
            None => {}
        }
    }

    /// Cut a server off ourselves.
    pub(crate) fn fail_link(&mut self, id: ServerId, reason: &str) {
        let Some(link) = self.servers[&id].dialer.link.as_ref().map(|link| link.id) else { return };
        self.link_owners.remove(&link);
        self.out.push(Action::Drop { link });
        self.lost(id, reason);
    }

    fn lost(&mut self, id: ServerId, reason: &str) {
        let server = self.servers.get_mut(&id).expect("a link's owner is known");
        let Some(link) = server.dialer.lost(self.now, &self.config) else { return };
        if link.state == LinkState::Ready {
            server.lost_at = self.now;
        }
        // Nobody is there to connect to: that is no connection that broke and comes back.
        server.unreachable = link.state == LinkState::Connecting;
        if link.state != LinkState::Connecting || server.required {
            self.note(Some(id), None, format!("connection lost: {reason}"));
        }
        self.rebuilds_lost(id);
        self.joins_lost(id);
        self.readmission_lost(id);
        self.flushes_lost(id);
        self.reads_lost(id, link);
        if self.servers[&id].unreachable && self.is_writer() {
            self.judge(id);
        }
        if self.servers[&id].dialer.retry_at <= self.now {
            self.dial(id);
        }
    }

    /// What it was asked to flush it is asked anew, if it is needed when it is here again.
    pub(crate) fn flushes_lost(&mut self, id: ServerId) {
        for flush in self.flushes.values_mut() {
            flush.sent.remove(&id);
        }
    }

    /// What it was to read, somebody else reads.
    pub(crate) fn reads_lost(&mut self, id: ServerId, link: Link) {
        for one in link.outstanding.into_values() {
            if let Asked::Read { read } = one.asked {
                self.replica_read_failed(id, read);
            }
        }
    }

    pub(crate) fn on_claimed(&mut self, id: ServerId, frame: &Frame) {
        let reply: ClaimReply = match serde_json::from_slice(&frame.body) {
            Ok(reply) => reply,
            Err(error) => {
                let text = format!("unreadable answer to a claim: {error}");
                return self.fail_link(id, &text);
            }
        };
        let now = self.now;
        let server = self.servers.get_mut(&id).expect("a link's owner is known");
        server.claimed = reply.chunks.into_iter().map(|state| (state.chunk, state)).collect();
        let Some(link) = server.dialer.link.as_mut() else { return };
        (link.state, link.since) = (LinkState::Ready, now);
        let told = link.layers;
        // It is back all the same: from now on it is waited for like any other.
        self.spec.given_up.retain(|given_up| *given_up != id);
        self.heal_claimed(id);
        if told != self.spec.parents.len() {
            self.tell_layers(id);
        }
        if self.phase == Phase::Claiming {
            return self.try_open();
        }
        self.take_up(id);
    }

    pub(crate) fn tell_layers(&mut self, id: ServerId) {
        let body = json(&Layers { parents: self.spec.parents.clone() });
        let header = self.header(Kind::Layers, 0);
        self.ask(id, Asked::Layers, header, body, Bytes::new());
        let link = self.servers.get_mut(&id).and_then(|server| server.dialer.link.as_mut());
        if let Some(link) = link {
            link.layers = self.spec.parents.len();
        }
    }

    /// A server was claimed while the volume serves: per chunk send it what the log has for it, or note that it must
    /// pull.
    fn take_up(&mut self, id: ServerId) {
        let mut cover = Vec::new();
        let mut behind = 0;
        for chunk in 0..self.chunks.len() as ChunkIndex {
            let Some(index) = self.chunks[chunk as usize].index_of(id) else { continue };
            if !self.settled[chunk as usize] {
                self.settle(chunk);
                continue;
            }
            let claim = self.servers[&id].claim_of(chunk);
            let joining = self.chunks[chunk as usize].replicas[index].role == Role::Joining;
            let resume = if joining {
                self.nothing_to_pull(id, chunk).then_some(1)
            } else if self.is_writer() {
                resume_from(&claim, &self.chunks[chunk as usize].history(self.spec.generation))
            } else {
                (!claim.rebuilding).then_some(u64::MAX)
            };
            match resume {
                Some(from) => {
                    self.resend(id, chunk, index, from, &mut cover);
                    self.set_standing(chunk, index, Standing::Whole);
                }
                None => {
                    behind += usize::from(!joining);
                    self.set_standing(chunk, index, Standing::Behind { retry_at: 0 });
                }
            }
        }
        if !cover.is_empty() {
            let header = self.header(Kind::Flush, 0);
            self.ask(id, Asked::Cover { mutations: cover }, header, Bytes::new(), Bytes::new());
        }
        if behind > 0 {
            self.wish_degrade(id, "it lacks acknowledged writes");
            self.note(Some(id), None, format!("{behind} chunks to pull"));
        }
        for chunk in 0..self.chunks.len() as ChunkIndex {
            self.after_change(chunk);
        }
        self.send_flushes(id);
        self.wake_stalled_reads();
        self.tick_members();
        self.schedule_rebuilds();
        self.tend_moves();
    }

    /// Send again from `from` on; what is before it the server has.
    fn resend(&mut self, id: ServerId, chunk: ChunkIndex, index: usize, from: u64, cover: &mut Vec<(ChunkIndex, u64)>) {
        let base = self.chunks[chunk as usize].log_base;
        for offset in 0..self.chunks[chunk as usize].log.len() {
            let sequence = base + offset as u64;
            let mutation = &mut self.chunks[chunk as usize].log[offset];
            if sequence >= from {
                mutation.acked &= !(1 << index);
                self.send_mutation(id, chunk, sequence);
            } else if mutation.payload.durable && mutation.acked & (1 << index) == 0 {
                cover.push((chunk, sequence));
            } else {
                mutation.acked |= 1 << index;
            }
        }
    }

    pub(crate) fn send_mutation(&mut self, id: ServerId, chunk: ChunkIndex, sequence: u64) {
        let header = self.header(Kind::Write, chunk);
        let Some(mutation) = self.chunks[chunk as usize].entry(sequence) else { return };
        let payload = &mutation.payload;
        let header = Header {
            kind: payload.kind,
            flags: if payload.durable { yuntai_proto::frame::FLAG_DURABLE } else { 0 },
            sequence,
            layer: payload.layer,
            block: payload.block as u16,
            blocks: payload.blocks as u16,
            ..header
        };
        let (body, data) = (payload.body.clone(), payload.data.clone());
        self.ask(id, Asked::Mutation { chunk, sequence }, header, body, data);
    }
}
