//! What a batch writes in place, for as many threads as want to help: a disk takes several writes at a time as fast as one.

use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::files::Handles;
use crate::vfs::{Vfs, VfsFile};

/// Bytes of one record, and where they go.
pub(crate) struct Piece<V: Vfs> {
    pub(crate) handles: Arc<Handles<V>>,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

impl<V: Vfs> Piece<V> {
    pub(crate) fn write(&self) -> io::Result<()> {
        self.handles.data.write_through_at(&mut [IoSlice::new(&self.data)], self.offset)
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// The next piece that nobody has taken.
    next: usize,
    /// Pieces that are done, well or not.
    done: usize,
    failed: Option<io::Error>,
}

/// A batch's data on its way to the data files.
pub struct WriteJob<V: Vfs> {
    pieces: Vec<Piece<V>>,
    progress: Mutex<Progress>,
    all_done: Condvar,
}

impl<V: Vfs> WriteJob<V> {
    pub(crate) fn new(pieces: Vec<Piece<V>>) -> Self {
        Self { pieces, progress: Mutex::default(), all_done: Condvar::new() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing is left half-changed in it.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads can help at the same time.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Write what nobody else writes. True for the one that ended the last piece.
    pub fn help(&self) -> bool {
        let mut last = false;
        loop {
            let taken = {
                let mut progress = self.progress();
                let taken = progress.next;
                progress.next = (taken + 1).min(self.pieces.len());
                taken
            };
            let Some(piece) = self.pieces.get(taken) else { return last };
            let written = piece.write();
            let mut progress = self.progress();
            progress.done += 1;
            if let Err(error) = written {
                progress.failed.get_or_insert(error);
            }
            if progress.done == self.pieces.len() {
                last = true;
                self.all_done.notify_all();
            }
        }
    }

    /// Help, and wait for the others.
    pub(crate) fn wait(&self) -> io::Result<()> {
        self.help();
        let all = self.pieces.len();
        let waited = self.all_done.wait_while(self.progress(), |progress| progress.done < all);
        let mut progress = waited.unwrap_or_else(PoisonError::into_inner);
        progress.failed.take().map_or(Ok(()), Err)
    }
}
