//! Who may do what: tokens, generations, sessions.

use std::sync::Arc;

use yuntai_proto::auth::{check_token, Rights};
use yuntai_proto::data::{Claim as ClaimBody, ClaimReply, Layers, Refusal};
use yuntai_proto::handshake::{json_body, json_frame};
use yuntai_proto::{mutant, ChunkIndex, Frame, Header, Kind, VolumeId};
use yuntai_store::vfs::Vfs;
use yuntai_store::LayerTree;

use crate::api::{ConnectionId, Now};
use crate::replica::{Asked, Replica};

/// Most volumes that one connection may claim.
const CLAIMS_MAX: usize = 4096;

/// What a connection may do with a volume.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) rights: Rights,
    pub(crate) generation: u64,
    pub(crate) tree: Arc<LayerTree>,
    /// When its token ends.
    expires_unix_s: u64,
    /// A later claim took the volume away, or its token has expired: every further request is refused with this.
    pub(crate) revoked: Option<Refusal>,
}

pub(crate) fn invalid(message: String) -> Refusal {
    Refusal::Invalid { message }
}

fn denied(message: &str) -> Refusal {
    Refusal::Denied { message: message.to_owned() }
}

fn tree_of(parents: &[u32]) -> Result<Arc<LayerTree>, Refusal> {
    let message = "parents: layer 0's must be 0 and every other's below its own number";
    LayerTree::new(parents).map(Arc::new).ok_or_else(|| invalid(message.into()))
}

impl<V: Vfs> Replica<V> {
    /// The claim under which a request comes.
    pub(crate) fn claim_of(&self, connection: ConnectionId, volume: VolumeId) -> Result<&Claim, Refusal> {
        let claim = self.connections.get(&connection).and_then(|peer| peer.claims.get(&volume));
        let claim = claim.ok_or_else(|| denied("claim the volume on this connection first"))?;
        claim.revoked.as_ref().map_or(Ok(claim), |refusal| Err(refusal.clone()))
    }

    /// The claim of a request that changes something: it must be for writing and, except where the header's generation
    /// means something else, of the header's generation.
    pub(crate) fn write_claim_of(&self, connection: ConnectionId, header: &Header) -> Result<&Claim, Refusal> {
        let claim = self.claim_of(connection, header.volume)?;
        if claim.rights != Rights::Write {
            return Err(denied("the token is for reading only"));
        }
        if header.kind != Kind::EndRebuild && header.generation != claim.generation {
            let fence = self.store.fence(header.volume);
            return Err(Refusal::Fenced { generation: fence.generation, session: fence.session });
        }
        Ok(claim)
    }

    pub(crate) fn on_claim(&mut self, asked: &Asked, frame: &Frame, now: Now) -> Result<(), Refusal> {
        self.check_admitted()?;
        let body: ClaimBody = json_body(frame).map_err(|error| invalid(error.to_string()))?;
        let token = check_token(&self.config.token_secret, &body.token, now.unix_s)
            .map_err(|error| denied(&error.to_string()))?;
        let tree = tree_of(&body.parents)?;
        let volume = asked.header.volume;
        if token.volume != volume {
            return Err(denied("the token is for another volume"));
        }
        let peer = self.connections.get(&asked.connection).ok_or_else(|| denied("not connected"))?;
        if peer.claims.len() >= CLAIMS_MAX {
            return Err(invalid(format!("claims: more than {CLAIMS_MAX} on one connection")));
        }
        self.commit();
        match token.rights {
            Rights::Write => {
                if token.generation == 0 {
                    return Err(denied("a token for writing must have a generation"));
                }
                self.store.raise_fence(volume, token.generation, body.session)?;
                self.revoke_others(asked.connection, volume, token.generation, body.session);
                tracing::info!(
                    volume = format!("{volume:016x}"),
                    generation = token.generation,
                    connection = asked.connection,
                    "volume claimed"
                );
            }
            Rights::Read if self.store.fence(volume).deleted => return Err(denied("the volume was deleted")),
            Rights::Read => {}
        }
        let (generation, expires_unix_s) = (token.generation, token.expires_unix_s);
        let claim = Claim { rights: token.rights, generation, tree, expires_unix_s, revoked: None };
        if let Some(peer) = self.connections.get_mut(&asked.connection) {
            let writes = |claim: &Claim| claim.rights == Rights::Write && claim.revoked.is_none();
            let keep = token.rights == Rights::Read && peer.claims.get(&volume).is_some_and(writes);
            if !keep {
                peer.claims.insert(volume, claim);
            }
        }
        let header = Header { kind: Kind::ClaimReply, ..asked.header };
        let reply = json_frame(header, &ClaimReply { chunks: self.store.chunk_states(volume) });
        // What a writer bases its choice of a survivor on must outlive a crash of this server.
        match token.rights {
            Rights::Write => self.waiting_sync.push_back((self.store.appended_lsn(), asked.connection, reply)),
            Rights::Read => self.send(asked.connection, reply),
        }
        Ok(())
    }

    /// A writer has come: whoever wrote before may not any more. The same writer's older connection is half dead and is
    /// closed; another's learns that it is fenced.
    fn revoke_others(&mut self, connection: ConnectionId, volume: VolumeId, generation: u64, session: u64) {
        let refusal = Refusal::Fenced { generation, session };
        let mut half_dead = Vec::new();
        if mutant::is("an older writer's connection stays good") {
            return;
        }
        for (other, peer) in self.connections.iter_mut().filter(|(other, _)| **other != connection) {
            let Some(claim) = peer.claims.get_mut(&volume).filter(|claim| claim.rights == Rights::Write) else {
                continue;
            };
            if claim.generation == generation {
                half_dead.push(*other);
            }
            claim.revoked = Some(refusal.clone());
        }
        for other in half_dead {
            self.close(other, "the same writer has connected again");
        }
    }

    /// A token ends for those who came with it as well: whoever is to go on has a newer one by then, and claims with it.
    pub(crate) fn expire_claims(&mut self, now: Now) {
        for (connection, peer) in &mut self.connections {
            let over = |claim: &&mut Claim| claim.revoked.is_none() && claim.expires_unix_s < now.unix_s;
            for claim in peer.claims.values_mut().filter(over) {
                tracing::info!(connection, name = peer.name, "a claim's token has expired");
                claim.revoked = Some(denied("the token has expired: claim the volume with a newer one"));
            }
        }
    }

    /// The volume is gone: nobody may do anything with it.
    pub(crate) fn revoke_all(&mut self, volume: VolumeId) {
        for peer in self.connections.values_mut() {
            if let Some(claim) = peer.claims.get_mut(&volume) {
                claim.revoked = Some(match claim.rights {
                    Rights::Write => Refusal::Fenced { generation: u64::MAX, session: 0 },
                    Rights::Read => denied("the volume was deleted"),
                });
            }
        }
    }

    pub(crate) fn on_layers(&mut self, asked: &Asked, frame: &Frame) -> Result<(), Refusal> {
        let body: Layers = json_body(frame).map_err(|error| invalid(error.to_string()))?;
        let old = self.write_claim_of(asked.connection, &asked.header)?;
        let tree = tree_of(&body.parents)?;
        if !tree.grows_from(&old.tree) {
            return Err(invalid(format!("parents: must begin with the {} known ones", old.tree.len())));
        }
        let peer = self.connections.get_mut(&asked.connection);
        if let Some(claim) = peer.and_then(|peer| peer.claims.get_mut(&asked.header.volume)) {
            claim.tree = tree;
        }
        self.stage_answer(*asked);
        Ok(())
    }

    /// The chunk that a request is about may be written by no pull that is going on for an older rebuild.
    pub(crate) fn cancel_pulls_of_chunk(&mut self, volume: VolumeId, chunk: ChunkIndex, reason: &str) {
        let dials: Vec<_> =
            self.pulls.iter().filter(|(_, job)| job.is_of(volume, chunk)).map(|(dial, _)| *dial).collect();
        for dial in dials {
            self.pull_failed(dial, &Refusal::Busy { message: reason.to_owned() });
        }
    }
}
