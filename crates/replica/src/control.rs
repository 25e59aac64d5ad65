//! The control channel: how the server is, and who answers what else.

use serde_json::{json, Value};
use yuntai_proto::control::{ServerRequest, ServerStatus};
use yuntai_proto::data::Refusal;
use yuntai_proto::handshake::json_body;
use yuntai_proto::Frame;
use yuntai_store::vfs::Vfs;

use crate::api::Now;
use crate::claims::invalid;
use crate::orders::needs_order;
use crate::replica::{Asked, Replica};

/// Most replicas with damage that are named.
const DAMAGED_MAX: usize = 1000;

impl<V: Vfs> Replica<V> {
    pub(crate) fn on_control(&mut self, asked: &Asked, frame: &Frame, now: Now) -> Result<(), Refusal> {
        let request = json_body(frame).map_err(|error| invalid(error.to_string()));
        let answer = match request {
            // Answered when it is known.
            Ok(ServerRequest::Changes { volume, parents, since, node, chunks }) => {
                match self.changes(asked, volume, &parents, (since, node), &chunks) {
                    Ok(()) => return Ok(()),
                    Err(refusal) => Err(refusal),
                }
            }
            Ok(ServerRequest::Order { order }) => self.follow(&order, now),
            Ok(request) => match needs_order(&request) {
                Some(refusal) => Err(refusal),
                None => self.control(request),
            },
            Err(refusal) => Err(refusal),
        };
        self.answer(asked, answer);
        Ok(())
    }

    pub(crate) fn control(&mut self, request: ServerRequest) -> Result<Value, Refusal> {
        match request {
            ServerRequest::Status {} => Ok(json!(self.status())),
            ServerRequest::DeleteVolume { volume } => self.delete_volume(volume),
            ServerRequest::Admit { store } => self.admit(&store),
            ServerRequest::Volumes {} => Ok(json!(self.store.volumes())),
            ServerRequest::Inventory { volume } => Ok(json!(self.store.chunk_states(volume))),
            ServerRequest::DropChunks { volume, term, chunks } => self.drop_chunks(volume, term, &chunks),
            ServerRequest::Sweep { volume, term, parents, live } => self.sweep(volume, term, &parents, &live),
            ServerRequest::Account { volume, parents, live, chunks } => self.account(volume, &parents, &live, chunks),
            ServerRequest::Scrub {} => {
                self.scrub_now();
                Ok(json!(true))
            }
            ServerRequest::Tune { tunables } => self.tune(&tunables).map(|()| json!(true)),
            ServerRequest::Changes { .. } | ServerRequest::Order { .. } => Err(invalid("answered elsewhere".into())),
        }
    }

    /// How the server is.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        let usage = self.store.usage();
        ServerStatus {
            server: self.config.server,
            pid: self.config.pid,
            version: self.config.version.clone(),
            used_bytes: usage.used_bytes,
            free_bytes: usage.free_bytes,
            total_bytes: usage.total_bytes,
            replicas: usage.chunks,
            volumes: usage.volumes,
            journal_bytes: usage.journal_bytes,
            damaged_blocks: usage.damaged_blocks,
            full: usage.full,
            store: self.store.name(),
            admitted: self.store.admitted(),
            run: self.config.run.clone(),
            lost_durable: self.store.lost_durable(),
            workers: self.workers(),
            damaged: self.store.damaged(DAMAGED_MAX),
            scrubbed_at_s: self.store.scrub_mark().ended_s,
        }
    }
}
