//! What a master asks of a server as a whole: is it let in, what is here, and what may go.

use serde_json::{json, Value};
use yuntai_proto::data::{ChunkState, Refusal};
use yuntai_proto::{ChunkIndex, VolumeId};
use yuntai_store::vfs::Vfs;

use crate::replica::Replica;

impl<V: Vfs> Replica<V> {
    /// Refused until a master has admitted the store.
    pub(crate) fn check_admitted(&self) -> Result<(), Refusal> {
        if self.store.admitted() {
            return Ok(());
        }
        Err(Refusal::Busy { message: "the store is new: no master has admitted it yet".into() })
    }

    pub(crate) fn admit(&mut self, store: &str) -> Result<Value, Refusal> {
        let before = self.store.admitted();
        self.store.admit(store)?;
        if !before {
            tracing::info!(store, "admitted");
        }
        Ok(json!(true))
    }

    pub(crate) fn delete_volume(&mut self, volume: VolumeId) -> Result<Value, Refusal> {
        self.commit();
        self.cancel_pulls_of_volume(volume);
        self.store.delete_volume(volume)?;
        self.revoke_all(volume);
        self.forget_questions(volume);
        tracing::info!(volume = format!("{volume:016x}"), "volume deleted");
        Ok(json!(true))
    }

    pub(crate) fn drop_chunks(&mut self, volume: VolumeId, term: u64, chunks: &[ChunkState]) -> Result<Value, Refusal> {
        self.store.hear_term(term)?;
        self.commit();
        let pulled = |chunk: ChunkIndex| self.pulls.values().any(|job| job.is_of(volume, chunk));
        let idle: Vec<&ChunkState> = chunks.iter().filter(|state| !pulled(state.chunk)).collect();
        let gone = idle.into_iter().filter(|state| self.store.drop_chunk(volume, state));
        Ok(json!(gone.map(|state| state.chunk).collect::<Vec<ChunkIndex>>()))
    }
}
