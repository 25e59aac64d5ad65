//! One disk's chunk store. It knows no network, no clock and no thread: the caller brings them.
//!
//! ```text
//! superblock                       what this folder is
//! scrub                            how far the scrubber is
//! marks                            whether gateways are let in, and which master spoke last
//! fences.log                       who may write each volume; deleted volumes
//! checkpoint                       every chunk's position and layers at one record of the journal
//! journal/<number>.log             records since then: data and all, checksummed
//! volumes/<volume>/<chunk>.<layer>.data     two halves with room for every block, sparse
//! volumes/<volume>/<chunk>.<layer>.entries  24 bytes per block in self-protecting groups
//! ```
//!
//! **The order that makes it safe.** A mutation is one journal record, appended with others in one write and
//! acknowledged. It is served from the journal until a checkpoint: sync the journal, apply what is now durable to the
//! chunk files, sync those, replace `checkpoint`, free the journal. Nothing reaches a chunk file before its record is
//! durable, so a crash can never leave a chunk file with something that the journal does not know (which is how
//! Crucible's #1788 lost data). A large write's data is the exception that keeps the rule: it goes at once to the half
//! of the data file that is not in use for its blocks, which nobody reads; its record, with the checksums, goes through
//! the journal, and counts at a replay only if the data is there. At a start the journal is replayed from the checkpoint up to the first record that is
//! not whole; that is the prefix of the history that survived. If records *behind* the break say that the missing ones
//! had been durable, the disk broke its promise: every chunk is then marked as being rebuilt, so that no chunk of this
//! store can be chosen as a survivor, and peers make it whole.

mod apply;
mod checkpoint;
mod chunk;
mod error;
mod fences;
mod files;
mod garbage;
mod groups;
mod journal;
mod marks;
mod open;
mod overlay;
mod owners;
mod place;
mod read;
mod readers;
mod rebuild;
pub mod record;
mod scan;
mod scrub;
mod spares;
mod store;
mod superblock;
mod sweep;
mod table;
mod tree;
pub mod vfs;
mod write;
mod write_job;

pub use checkpoint::{CheckpointJob, Unlinked};
pub use error::OpenError;
pub use fences::Fence;
pub use groups::LayerKey;
pub use journal::SyncTicket;
pub use read::{PlannedRead, ReadBlocks};
pub use readers::{Freed, Question};
pub use rebuild::{Lacking, PullPlan, PullRun};
pub use scan::{Found, ScanJob, Search, Stamp};
pub use scrub::{ScrubJob, ScrubMark};
pub use store::{Options, Store, Usage};
pub use superblock::FORMAT_VERSION;
pub use sweep::REMOVED_BLOCKS_MAX;
pub use tree::LayerTree;
pub use write::{Mutation, MutationKind, Staged};
pub use write_job::WriteJob;

#[cfg(test)]
mod tests;
