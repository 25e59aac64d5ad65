//! The few file operations that a store needs, as a seam: [`OsVfs`] is a folder of a real file system, and
//! [`memory::MemVfs`] is a disk in memory that can lose, tear and reorder what was not synced, flip bits, fill up and
//! fail. Paths are relative to the store's folder.

use std::io::{self, IoSlice};

pub mod memory;
mod os;
pub mod recording;

pub use os::{OsFile, OsVfs};

/// Room on the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What could still be written.
    pub free_bytes: u64,
}

/// A folder to keep a store in.
pub trait Vfs: Clone + Send + Sync + 'static {
    /// An open file. Its methods take `&self`: offsets are explicit and files are shared with helper threads.
    type File: VfsFile;

    /// Take the folder for this process alone, for as long as the process (or this value) lives.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock(&self) -> io::Result<()>;
    /// Open an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open(&self, path: &str) -> io::Result<Self::File>;
    /// Create a file, or empty an existing one.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &str) -> io::Result<Self::File>;
    /// Make a folder; fine if it is there.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Names in a folder, sorted; empty if there is no such folder.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Rename within the folder, replacing.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Remove a file; fine if it is gone.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Remove a folder with everything in it; fine if it is gone.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, path: &str) -> io::Result<()>;
    /// Make the names in a folder durable. The empty path is the store's folder itself.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Room on the file system.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self) -> io::Result<Space>;
}

/// One open file.
pub trait VfsFile: Send + Sync + 'static {
    /// Read until `buffer` is full or the file ends; returns how much.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// A range is going to be read: begin to fetch it, and do not wait. Only a hint.
    fn will_read(&self, _offset: u64, _len: u64) {}
    /// Write all of it. After an error any part of it may have been written.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// As [`VfsFile::write_at`], but what is written is not going to be read soon: if pieces, offset and file system
    /// allow, it goes to the disk without a copy in the page cache. No more durable than any other write.
    ///
    /// # Errors
    /// As [`VfsFile::write_at`].
    fn write_through_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(slices, offset)
    }
    /// fdatasync: contents and length are durable after it.
    ///
    /// # Errors
    /// What the system says; then nothing is known about what was written since the last success.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;
    /// Is it empty?
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cut or lengthen.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserve room for `[0, len)` without changing what reads see; a file system that cannot is fine.
    ///
    /// # Errors
    /// `StorageFull`, or what the system says.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Give back the room of a range, which then reads as zeros; a file system that cannot is fine (zeros are written).
    ///
    /// # Errors
    /// What the system says.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Bytes that the file really takes.
    ///
    /// # Errors
    /// What the system says.
    fn allocated_bytes(&self) -> io::Result<u64>;
}

/// Replace a small file so that a crash leaves the old or the new one, whole.
///
/// # Errors
/// What the system says; the old file is still there then.
pub fn replace_file<V: Vfs>(vfs: &V, dir: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let join = |leaf: &str| if dir.is_empty() { leaf.to_owned() } else { format!("{dir}/{leaf}") };
    let temporary = join(&format!("{name}.new"));
    let file = vfs.create(&temporary)?;
    file.write_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync()?;
    vfs.rename(&temporary, &join(name))?;
    vfs.sync_dir(dir)
}

/// Read a small file whole.
///
/// # Errors
/// `NotFound`, or what the system says.
pub fn read_file<V: Vfs>(vfs: &V, path: &str) -> io::Result<Vec<u8>> {
    let file = vfs.open(path)?;
    let len = usize::try_from(file.len()?).map_err(|_| io::Error::other("file too long to read whole"))?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
