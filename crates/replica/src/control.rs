//! The control channel: how the server is, and dropping volumes.

use serde_json::{json, Value};
use yuntai_proto::control::{ServerRequest, ServerStatus};
use yuntai_proto::data::Refusal;
use yuntai_proto::handshake::{json_body, json_frame};
use yuntai_proto::{Frame, Header, Kind, VolumeId};
use yuntai_store::vfs::Vfs;

use crate::replica::{Asked, Replica};

impl<V: Vfs> Replica<V> {
    pub(crate) fn on_control(&mut self, asked: &Asked, frame: &Frame) -> Result<(), Refusal> {
        let answer = match json_body(frame) {
            Ok(ServerRequest::Status {}) => json!({ "ok": self.status() }),
            Ok(ServerRequest::DeleteVolume { volume }) => self.delete_volume(volume),
            Ok(other) => json!({ "error": format!("this version cannot do it yet: {other:?}") }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        let header = Header { kind: Kind::ControlReply, ..asked.header };
        self.send(asked.connection, json_frame(header, &answer));
        Ok(())
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
            admitted: true,
            ..ServerStatus::default()
        }
    }

    fn delete_volume(&mut self, volume: VolumeId) -> Value {
        self.commit();
        self.cancel_pulls_of_volume(volume);
        match self.store.delete_volume(volume) {
            Ok(()) => {
                self.revoke_all(volume);
                tracing::info!(volume = format!("{volume:016x}"), "volume deleted");
                json!({ "ok": true })
            }
            Err(refusal) => json!({ "error": refusal.to_string() }),
        }
    }
}
