//! The control channel: how the server is, and who answers what else.

use serde_json::{json, Value};
use yuntai_proto::control::{ServerRequest, ServerStatus};
use yuntai_proto::data::Refusal;
use yuntai_proto::handshake::{json_body, json_frame};
use yuntai_proto::{Frame, Header, Kind};
use yuntai_store::vfs::Vfs;

use crate::claims::invalid;
use crate::replica::{Asked, Replica};

impl<V: Vfs> Replica<V> {
    pub(crate) fn on_control(&mut self, asked: &Asked, frame: &Frame) -> Result<(), Refusal> {
        let answer = match json_body(frame) {
            Ok(request) => match self.control(request) {
                Ok(answer) => json!({ "ok": answer }),
                Err(refusal) => json!({ "error": refusal.to_string() }),
            },
            Err(error) => json!({ "error": error.to_string() }),
        };
        let header = Header { kind: Kind::ControlReply, ..asked.header };
        self.send(asked.connection, json_frame(header, &answer));
        Ok(())
    }

    fn control(&mut self, request: ServerRequest) -> Result<Value, Refusal> {
        match request {
            ServerRequest::Status {} => Ok(json!(self.status())),
            ServerRequest::DeleteVolume { volume } => self.delete_volume(volume),
            ServerRequest::Admit { store } => self.admit(&store),
            ServerRequest::Volumes {} => Ok(json!(self.store.volumes())),
            ServerRequest::Inventory { volume } => Ok(json!(self.store.chunk_states(volume))),
            ServerRequest::DropChunks { volume, term, chunks } => self.drop_chunks(volume, term, &chunks),
            other => Err(invalid(format!("this version cannot do it yet: {other:?}"))),
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
            lost_durable: self.store.lost_durable(),
            ..ServerStatus::default()
        }
    }
}
