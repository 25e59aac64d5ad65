//! Sweeps and accounts: a volume's chunks are looked through one after the other; what a sweep found is taken out in small
//! bites, a few in a turn.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use serde_json::{json, Value};
use yuntai_proto::control::{LayerUsage, WorkerStatus};
use yuntai_proto::data::Refusal;
use yuntai_proto::{mutant, ChunkIndex, LayerId, VolumeId, BLOCK_BYTES};
use yuntai_store::vfs::Vfs;
use yuntai_store::{Found, Question, ScanJob, Search, Stamp, REMOVED_BLOCKS_MAX};

use crate::api::Now;
use crate::claims::invalid;
use crate::pace::{Meter, Pace};
use crate::replica::Replica;

const SWEEP_BYTES_PER_S: u64 = 256 << 20;
const ACCOUNT_BYTES_PER_S: u64 = 256 << 20;
/// Records of removals in one turn.
const REMOVALS_PER_TURN: usize = 16;
/// Chunks that are passed over in one turn because there is nothing of them.
const SKIPS_PER_TURN: usize = 256;
/// Questions that are kept.
const QUESTIONS_MAX: usize = 64;
/// Wait after the disk had no room for a removal's record.
const RETRY_US: u64 = 1_000_000;

/// What is to be taken out.
#[derive(Clone, Copy)]
enum Removal {
    Blocks {
        stamp: Stamp,
        layer: LayerId,
        first: u16,
        blocks: u16,
    },
    /// That was all of the layer.
    All {
        stamp: Stamp,
        layer: LayerId,
    },
}

impl Removal {
    fn stamp(&self) -> Stamp {
        match self {
            Self::Blocks { stamp, .. } | Self::All { stamp, .. } => *stamp,
        }
    }
}

/// One question, and how far it is answered.
struct Walk<T> {
    question: Arc<Question>,
    /// The chunks that were asked for; empty: all.
    chunks: Vec<ChunkIndex>,
    todo: VecDeque<ChunkIndex>,
    total: usize,
    /// One is being looked through.
    out: bool,
    result: T,
}

#[derive(Default)]
struct Swept {
    removing: VecDeque<Removal>,
    freed_bytes: u64,
}

impl<T: Default> Walk<T> {
    fn new(question: Arc<Question>, chunks: Vec<ChunkIndex>, todo: VecDeque<ChunkIndex>) -> Self {
        Self { question, chunks, total: todo.len(), todo, out: false, result: T::default() }
    }
}

/// All of them.
pub(crate) struct Sweeps {
    pub(crate) pace: Pace,
    account_pace: Pace,
    sweeps: BTreeMap<VolumeId, Walk<Swept>>,
    accounts: BTreeMap<VolumeId, Walk<BTreeMap<LayerId, LayerUsage>>>,
    meter: Meter,
    account_meter: Meter,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self {
            pace: Pace::new(SWEEP_BYTES_PER_S),
            account_pace: Pace::new(ACCOUNT_BYTES_PER_S),
            sweeps: BTreeMap::new(),
            accounts: BTreeMap::new(),
            meter: Meter::default(),
            account_meter: Meter::default(),
        }
    }
}

impl Walk<Swept> {
    fn is_done(&self) -> bool {
        self.todo.is_empty() && !self.out && self.result.removing.is_empty()
    }
}

pub(crate) fn question_of(parents: &[LayerId], live: &[LayerId]) -> Result<Arc<Question>, Refusal> {
    let message = "parents, live: must be a tree, and layers of it";
    Question::new(parents, live).map(Arc::new).ok_or_else(|| invalid(message.into()))
}

impl<V: Vfs> Replica<V> {
    pub(crate) fn sweep(
        &mut self,
        volume: VolumeId,
        term: u64,
        parents: &[LayerId],
        live: &[LayerId],
    ) -> Result<Value, Refusal> {
        self.store.hear_term(term)?;
        let seen =
            if mutant::is("a sweep looks at the head only") { &live[live.len().saturating_sub(1)..] } else { live };
        let question = question_of(parents, seen)?;
        let known = self.work.sweeps.sweeps.get(&volume).is_some_and(|walk| *walk.question == *question);
        if !known {
            self.make_room_for_question();
            let todo = self.store.chunk_states(volume).iter().map(|state| state.chunk).collect();
            self.work.sweeps.sweeps.insert(volume, Walk::new(question, Vec::new(), todo));
        }
        let walk = &self.work.sweeps.sweeps[&volume];
        Ok(json!({ "done": walk.is_done(), "freed_bytes": walk.result.freed_bytes }))
    }

    /// Answers that were given once are forgotten first.
    fn make_room_for_question(&mut self) {
        let sweeps = &mut self.work.sweeps.sweeps;
        if sweeps.len() >= QUESTIONS_MAX {
            let done = sweeps.iter().find(|(_, walk)| walk.is_done()).or_else(|| sweeps.iter().next());
            if let Some(volume) = done.map(|(volume, _)| *volume) {
                sweeps.remove(&volume);
            }
        }
    }

    pub(crate) fn account(
        &mut self,
        volume: VolumeId,
        parents: &[LayerId],
        live: &[LayerId],
        chunks: Vec<ChunkIndex>,
    ) -> Result<Value, Refusal> {
        let question = question_of(parents, live)?;
        let accounts = &mut self.work.sweeps.accounts;
        let same = accounts.get(&volume).is_some_and(|walk| *walk.question == *question && walk.chunks == chunks);
        if !same {
            if accounts.len() >= QUESTIONS_MAX && !accounts.contains_key(&volume) {
                return Err(Refusal::Busy { message: format!("{QUESTIONS_MAX} volumes are being counted") });
            }
            let todo = chunks.iter().copied().collect();
            accounts.insert(volume, Walk::new(question, chunks, todo));
        }
        let walk = &accounts[&volume];
        let done = walk.todo.is_empty() && !walk.out;
        let layers: Vec<LayerUsage> = if done { walk.result.values().copied().collect() } else { Vec::new() };
        if done {
            // The next question counts anew.
            accounts.remove(&volume);
        }
        Ok(json!({ "done": done, "layers": layers }))
    }

    pub(crate) fn forget_questions(&mut self, volume: VolumeId) {
        self.work.sweeps.sweeps.remove(&volume);
        self.work.sweeps.accounts.remove(&volume);
    }

    pub(crate) fn next_sweep(&mut self, now: Now) -> Option<ScanJob<V>> {
        let Sweeps { pace, sweeps, .. } = &mut self.work.sweeps;
        if !pace.may(now.us) {
            return None;
        }
        let ready = |walk: &&mut Walk<Swept>| !walk.todo.is_empty() && walk.result.removing.is_empty() && !walk.out;
        let (volume, walk) = sweeps.iter_mut().find(|(_, walk)| ready(walk))?;
        next_of(&self.store, *volume, walk, Search::Free)
    }

    pub(crate) fn next_account(&mut self, now: Now) -> Option<ScanJob<V>> {
        let Sweeps { account_pace, accounts, .. } = &mut self.work.sweeps;
        if !account_pace.may(now.us) {
            return None;
        }
        let (volume, walk) = accounts.iter_mut().find(|(_, walk)| !walk.todo.is_empty() && !walk.out)?;
        next_of(&self.store, *volume, walk, Search::Account)
    }

    pub(crate) fn scanned(&mut self, job: ScanJob<V>, result: io::Result<()>, now: Now) {
        let weight = self.work.weight;
        let holds = self.store.still_holds(&job.stamp);
        let Stamp { volume, chunk, .. } = job.stamp;
        let sweeps = &mut self.work.sweeps;
        if job.is_account() {
            sweeps.account_pace.spend(now.us, job.bytes, weight);
            sweeps.account_meter.add(now.us, job.bytes);
            let Some(walk) = sweeps.accounts.get_mut(&volume).filter(|walk| job.is_for(&walk.question)) else { return };
            walk.out = false;
            match (result, job.found) {
                (Ok(()), Found::Account(layers)) if holds => layers.iter().for_each(|of| add(&mut walk.result, of)),
                _ => walk.todo.push_back(chunk),
            }
            return;
        }
        sweeps.pace.spend(now.us, job.bytes, weight);
        sweeps.meter.add(now.us, job.bytes);
        let Some(walk) = sweeps.sweeps.get_mut(&volume).filter(|walk| job.is_for(&walk.question)) else { return };
        walk.out = false;
        let (Ok(()), Found::Free(freed), true) = (result, job.found, holds) else {
            return walk.todo.push_back(chunk);
        };
        for of in freed {
            for (first, blocks) in of.runs {
                let bites = (0..blocks).step_by(REMOVED_BLOCKS_MAX.into());
                walk.result.removing.extend(bites.map(|at| Removal::Blocks {
                    stamp: job.stamp,
                    layer: of.layer,
                    first: first + at,
                    blocks: REMOVED_BLOCKS_MAX.min(blocks - at),
                }));
            }
            if of.all {
                walk.result.removing.push_back(Removal::All { stamp: job.stamp, layer: of.layer });
            }
            walk.result.freed_bytes += of.bytes;
        }
    }

    /// A few removals further.
    pub(crate) fn take_out_swept(&mut self, now: Now) {
        let busy = self.work.sweeps.sweeps.iter().find(|(_, walk)| !walk.result.removing.is_empty());
        let Some(volume) = busy.map(|(volume, _)| *volume) else { return };
        if !self.work.sweeps.pace.may(now.us) || self.store.journal_full() {
            return;
        }
        self.commit();
        let Some(walk) = self.work.sweeps.sweeps.get_mut(&volume) else { return };
        let (mut staged, mut blocks_staged) = (0, 0);
        for removal in walk.result.removing.iter().take(REMOVALS_PER_TURN) {
            let Removal::Blocks { stamp, layer, first, blocks } = *removal else { break };
            if self.store.remove_blocks(&stamp, layer, (first, blocks)).is_err() {
                break;
            }
            staged += 1;
            blocks_staged += u64::from(blocks);
        }
        if let Err(refusal) = self.store.commit() {
            tracing::warn!(%refusal, "a sweep waits for room");
            return self.work.sweeps.pace.hold(now.us + RETRY_US);
        }
        let bytes = blocks_staged * BLOCK_BYTES as u64;
        self.work.sweeps.pace.spend(now.us, bytes, self.work.weight);
        walk.result.removing.drain(..staged);
        let Some(front) = walk.result.removing.front().copied() else { return };
        let stamp = front.stamp();
        if !self.store.still_holds(&stamp) {
            // Rebuilt or gone meanwhile: it is looked at again.
            walk.result.removing.retain(|removal| removal.stamp() != stamp);
            walk.todo.push_back(stamp.chunk);
        } else if let Removal::All { layer, .. } = front {
            self.store.mark_emptied(&stamp, layer);
            walk.result.removing.pop_front();
        }
    }

    pub(crate) fn sweep_statuses(&self) -> Vec<WorkerStatus> {
        let now_us = self.work.seen.us;
        let Sweeps { pace, account_pace, sweeps, accounts, meter, account_meter } = &self.work.sweeps;
        let status = |name: &str, pace: &Pace, meter: &Meter| WorkerStatus {
            name: name.into(),
            state: if pace.limit == 0 { "off" } else { "idle" }.into(),
            unit: "chunks".into(),
            bytes_per_s: meter.rate(now_us),
            limit_bytes_per_s: pace.limit,
            ..WorkerStatus::default()
        };
        let under_way = |volume: VolumeId, total: usize, left: usize, of: WorkerStatus, pace: &Pace| WorkerStatus {
            volume: Some(volume),
            state: match pace.limit {
                0 => "off".into(),
                _ if pace.may(now_us) => "running".into(),
                _ => "waiting".into(),
            },
            done: (total - left.min(total)) as u64,
            total: total as u64,
            ..of
        };
        let mut all = Vec::new();
        for (volume, walk) in sweeps.iter().filter(|(_, walk)| !walk.is_done()) {
            let of = status("sweep", pace, meter);
            let note = format!("freed bytes: {}", walk.result.freed_bytes);
            all.push(WorkerStatus { note, ..under_way(*volume, walk.total, walk.todo.len(), of, pace) });
        }
        if all.is_empty() {
            all.push(status("sweep", pace, meter));
        }
        let before = all.len();
        for (volume, walk) in accounts.iter().filter(|(_, walk)| walk.out || !walk.todo.is_empty()) {
            let of = status("account", account_pace, account_meter);
            all.push(under_way(*volume, walk.total, walk.todo.len(), of, account_pace));
        }
        if all.len() == before {
            all.push(status("account", account_pace, account_meter));
        }
        all
    }
}

/// The next chunk of a walk that can be looked through. One that is being rebuilt is not: what it gets is what others have.
fn next_of<V: Vfs, T>(
    store: &yuntai_store::Store<V>,
    volume: VolumeId,
    walk: &mut Walk<T>,
    search: impl Fn(Arc<Question>) -> Search,
) -> Option<ScanJob<V>> {
    for _ in 0..SKIPS_PER_TURN {
        let chunk = walk.todo.pop_front()?;
        if let Some(job) = store.scan(volume, chunk, search(Arc::clone(&walk.question))) {
            walk.out = true;
            return Some(job);
        }
    }
    None
}

fn add(all: &mut BTreeMap<LayerId, LayerUsage>, of: &LayerUsage) {
    let sum = all.entry(of.layer).or_insert(LayerUsage { layer: of.layer, ..LayerUsage::default() });
    sum.bytes += of.bytes;
    sum.exclusive_bytes += of.exclusive_bytes;
    sum.visible_bytes += of.visible_bytes;
}
