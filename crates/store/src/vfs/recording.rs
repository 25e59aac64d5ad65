//! What a real process does to its disk, written down, so that a test can make from it every disk that a power cut might
//! have left: `YUNTAI_RECORD_DISK=<file>`. A release records nothing.
//!
//! A record is `kind u8, nanoseconds u64, file u64, offset u64, length u32, bytes`, appended after the operation (a sync:
//! before it, as it need not cover what comes while it runs). `file` names an open file, never twice. Nanoseconds are
//! those of `CLOCK_MONOTONIC`, by which a test can order them with what it was told.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::time::{clock_gettime, ClockId};

/// What was done. The comment says what stands where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `file` is the new one, bytes are its path.
    Open = 1,
    /// The same; it is empty now.
    Create = 2,
    /// Offset and bytes.
    Write = 3,
    /// Of the contents of `file`.
    Sync = 4,
    /// Offset is the new length.
    SetLen = 5,
    /// Offset; bytes are the length, u64.
    Punch = 6,
    /// Bytes are both paths, separated by a zero byte.
    Rename = 7,
    /// Bytes are the path.
    Remove = 8,
    /// Bytes are the path.
    RemoveDir = 9,
    /// Bytes are the path.
    SyncDir = 10,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was done.
    pub kind: Kind,
    /// When.
    pub at_ns: u64,
    /// To which open file.
    pub file: u64,
    /// Where.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

const HEAD_BYTES: usize = 29;

/// Nanoseconds of the clock that records carry.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn recorder() -> Option<&'static Mutex<File>> {
    static RECORDER: OnceLock<Option<Mutex<File>>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("YUNTAI_RECORD_DISK")?;
        let file = File::options().create(true).append(true).open(path).expect("the recording can be written");
        Some(Mutex::new(file))
    };
    RECORDER.get_or_init(open).as_ref()
}

/// Is anything written down?
pub(super) fn recording() -> bool {
    cfg!(debug_assertions) && recorder().is_some()
}

/// A name for an open file, of this process alone.
pub(super) fn new_file() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Write down what was done.
pub(super) fn record<'a>(kind: Kind, file: u64, offset: u64, bytes: impl IntoIterator<Item = &'a [u8]>) {
    if !recording() {
        return;
    }
    let Some(recorder) = recorder() else { return };
    let mut out = vec![0; HEAD_BYTES];
    bytes.into_iter().for_each(|piece| out.extend_from_slice(piece));
    let len = u32::try_from(out.len() - HEAD_BYTES).expect("writes are short");
    let mut recorder = recorder.lock().expect("nobody panics while recording");
    out[0] = kind as u8;
    out[1..9].copy_from_slice(&now_ns().to_le_bytes());
    out[9..17].copy_from_slice(&file.to_le_bytes());
    out[17..25].copy_from_slice(&offset.to_le_bytes());
    out[25..29].copy_from_slice(&len.to_le_bytes());
    recorder.write_all(&out).expect("the recording can be written");
}

/// Read a recording; a last record that was cut off is left out.
#[must_use]
pub fn read(mut bytes: &[u8]) -> Vec<Record> {
    use Kind::{Create, Open, Punch, Remove, RemoveDir, Rename, SetLen, Sync, SyncDir, Write};
    let kinds = [Open, Create, Write, Sync, SetLen, Punch, Rename, Remove, RemoveDir, SyncDir];
    let mut records = Vec::new();
    while bytes.len() >= HEAD_BYTES {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let len = u32::from_le_bytes(bytes[25..29].try_into().expect("4 bytes")) as usize;
        let Some(content) = bytes.get(HEAD_BYTES..HEAD_BYTES + len) else { break };
        let kind = kinds.into_iter().find(|kind| *kind as u8 == bytes[0]).expect("a recording of this build");
        records.push(Record { kind, at_ns: word(1), file: word(9), offset: word(17), bytes: content.to_vec() });
        bytes = &bytes[HEAD_BYTES + len..];
    }
    records
}
