//! What somebody waits for and one turn is too short for: what changed between two layers, and the owner maps of chunks with
//! many layers. Others are served meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use serde_json::{json, Value};
use yuntai_proto::control::ChangedRange;
use yuntai_proto::data::Refusal;
use yuntai_proto::{ChunkIndex, Kind, LayerId, VolumeId};
use yuntai_store::vfs::Vfs;
use yuntai_store::{Found, LayerKey, Question, ScanJob, Search};

use crate::api::ConnectionId;
use crate::claims::invalid;
use crate::replica::{Asked, Replica};
use crate::sweeping::question_of;

/// Chunks of one question.
const CHUNKS_MAX: usize = 64;
/// Questions that wait.
const WAITING_MAX: usize = 64;
/// Ranges of one answer.
const RANGES_MAX: usize = 100_000;

/// A question what has changed.
struct Changing {
    asked: Asked,
    volume: VolumeId,
    question: Arc<Question>,
    since: Option<LayerId>,
    node: LayerId,
    todo: VecDeque<ChunkIndex>,
    ranges: Vec<ChangedRange>,
}

/// All that waits.
#[derive(Default)]
pub(crate) struct Looking {
    changes: VecDeque<Changing>,
    /// Reads that wait for a map.
    maps: BTreeMap<LayerKey, Vec<Asked>>,
    /// Whose map is being made.
    map_out: Option<LayerKey>,
}

impl<V: Vfs> Replica<V> {
    pub(crate) fn changes(
        &mut self,
        asked: &Asked,
        volume: VolumeId,
        parents: &[LayerId],
        (since, node): (Option<LayerId>, LayerId),
        chunks: &[ChunkIndex],
    ) -> Result<(), Refusal> {
        let question = question_of(parents, &[])?;
        if chunks.len() > CHUNKS_MAX {
            return Err(invalid(format!("chunks: {}: at most {CHUNKS_MAX}", chunks.len())));
        }
        if !question.has(node) || since.is_some_and(|since| !question.has(since)) {
            return Err(invalid(format!("node, since: must be below {}", parents.len())));
        }
        let waiting = &mut self.work.looking.changes;
        if waiting.len() >= WAITING_MAX {
            return Err(Refusal::Busy { message: format!("{WAITING_MAX} such questions wait") });
        }
        let todo = chunks.iter().copied().collect();
        waiting.push_back(Changing { asked: *asked, volume, question, since, node, todo, ranges: Vec::new() });
        Ok(())
    }

    /// The next thing that somebody waits for. Maps come first: a guest waits for them.
    pub(crate) fn next_look(&mut self) -> Option<ScanJob<V>> {
        while let Some((key, waiting)) = self.work.looking.maps.first_key_value() {
            let (key, asked) = (*key, waiting.first().copied());
            let tree = asked.and_then(|asked| self.claim_of(asked.connection, key.volume).ok());
            let tree = tree.map(|claim| Arc::clone(&claim.tree));
            if let Some(job) = tree.and_then(|tree| self.store.scan_owners(&key, &tree)) {
                self.work.looking.map_out = Some(key);
                return Some(job);
            }
            // Whoever can be answered without is.
            self.serve_waiting_for(&key);
        }
        while let Some(first) = self.work.looking.changes.front_mut() {
            let Some(chunk) = first.todo.front().copied() else {
                let Some(done) = self.work.looking.changes.pop_front() else { break };
                self.answer(&done.asked, Ok(json!(done.ranges)));
                continue;
            };
            let search =
                Search::Changes { question: Arc::clone(&first.question), since: first.since, node: first.node };
            let volume = first.volume;
            match self.store.scan(volume, chunk, search) {
                Some(job) => return Some(job),
                None if self.store.chunk_state(volume, chunk).is_some() => {
                    let message = format!("chunk {chunk} is being rebuilt here");
                    self.give_up_changes(Refusal::Busy { message });
                }
                None => drop(first.todo.pop_front()),
            }
        }
        None
    }

    fn give_up_changes(&mut self, refusal: Refusal) {
        if let Some(given_up) = self.work.looking.changes.pop_front() {
            self.answer(&given_up.asked, Err(refusal));
        }
    }

    pub(crate) fn looked(&mut self, job: ScanJob<V>, result: io::Result<()>) {
        if let Some(key) = self.work.looking.map_out.take() {
            match (result, job.found) {
                (Ok(()), Found::Owners(owners)) => {
                    self.store.end_owners(&key, &owners);
                    // They find the map, or ask for it again if it does not hold any more.
                    self.reads.extend(self.work.looking.maps.remove(&key).unwrap_or_default());
                }
                _ => self.serve_waiting_for(&key),
            }
            return;
        }
        let holds = self.store.still_holds(&job.stamp);
        let Some(first) = self.work.looking.changes.front_mut() else { return };
        // The asker may be gone, and another question be the first; or the chunk was rebuilt: look again.
        if !job.is_for(&first.question) || first.todo.front() != Some(&job.stamp.chunk) || !holds {
            return;
        }
        match (result, job.found) {
            (Ok(()), Found::Changes(Ok(ranges))) if first.ranges.len() + ranges.len() <= RANGES_MAX => {
                first.ranges.extend(ranges);
                first.todo.pop_front();
            }
            (Ok(()), Found::Changes(Ok(_))) => {
                let message = format!("chunks: more than {RANGES_MAX} ranges: ask for fewer");
                self.give_up_changes(invalid(message));
            }
            (Ok(()), Found::Changes(Err(block))) => {
                self.give_up_changes(Refusal::Damaged { chunk: job.stamp.chunk, block });
            }
            (Err(error), _) => self.give_up_changes(Refusal::Io { message: error.to_string() }),
            (Ok(()), _) => {}
        }
    }

    /// A read of a chunk with many layers, and no map of them yet: it waits, and others do not.
    pub(crate) fn waits_for_map(&mut self, asked: &Asked) -> bool {
        let header = &asked.header;
        if header.kind != Kind::Read {
            return false;
        }
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        let Ok(claim) = self.claim_of(asked.connection, header.volume) else { return false };
        if !self.store.wants_owners(&key, &claim.tree) {
            return false;
        }
        self.work.looking.maps.entry(key).or_default().push(*asked);
        true
    }

    fn serve_waiting_for(&mut self, key: &LayerKey) {
        for asked in self.work.looking.maps.remove(key).unwrap_or_default() {
            self.serve_read(&asked);
        }
    }

    pub(crate) fn forget_looks_of(&mut self, connection: ConnectionId) {
        self.work.looking.changes.retain(|changing| changing.asked.connection != connection);
        for waiting in self.work.looking.maps.values_mut() {
            waiting.retain(|asked| asked.connection != connection);
        }
        self.work.looking.maps.retain(|_, waiting| !waiting.is_empty());
    }

    /// Answer a question of the control channel.
    pub(crate) fn answer(&mut self, asked: &Asked, answer: Result<Value, Refusal>) {
        let body = match answer {
            Ok(answer) => json!({ "ok": answer }),
            Err(refusal) => json!({ "error": refusal.to_string() }),
        };
        let header = yuntai_proto::Header { kind: Kind::ControlReply, ..asked.header };
        self.send(asked.connection, yuntai_proto::handshake::json_frame(header, &body));
    }
}
