//! A folder of a real file system.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{fadvise, fallocate, flock, statvfs, Advice, FallocateFlags, FlockOperation};

use super::recording::{new_file, record, recording, Kind};
use super::{Space, Vfs, VfsFile};

/// Most pieces that one vectored write may have (Linux's `IOV_MAX`).
const PIECES_MAX: usize = 1024;

/// A folder of a real file system.
#[derive(Clone, Debug)]
pub struct OsVfs {
    root: PathBuf,
    lock: Arc<Mutex<Option<File>>>,
}

impl OsVfs {
    /// The folder, made if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), lock: Arc::new(Mutex::new(None)) })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// Being gone already is as good as being removed.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Vfs for OsVfs {
    type File = OsFile;

    fn lock(&self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.at("lock"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        *self.lock.lock().expect("nobody panics while holding it") = Some(file);
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<OsFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.at(path))?;
        Ok(OsFile::new(file, Kind::Open, path))
    }

    fn create(&self, path: &str) -> io::Result<OsFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.at(path))?;
        Ok(OsFile::new(file, Kind::Create, path))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        match std::fs::create_dir(self.at(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.at(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))?;
        record(Kind::Rename, 0, 0, [from.as_bytes(), b"\0", to.as_bytes()]);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        gone_is_fine(std::fs::remove_file(self.at(path)))?;
        record(Kind::Remove, 0, 0, [path.as_bytes()]);
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        gone_is_fine(std::fs::remove_dir_all(self.at(path)))?;
        record(Kind::RemoveDir, 0, 0, [path.as_bytes()]);
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        record(Kind::SyncDir, 0, 0, [path.as_bytes()]);
        File::open(self.at(path))?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let stat = statvfs(&self.root)?;
        // What is kept back for root is neither taken nor to be had: it does not count, as with df.
        let taken = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space { total_bytes: (taken + stat.f_bavail) * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }
}

/// An open file of a real file system.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    /// The same file, opened to be written without the page cache; `None`: the file system cannot.
    direct: OnceLock<Option<File>>,
    /// In a recording.
    id: u64,
}

/// Where memory must begin and end for a disk to take it as it is.
const PAGE_BYTES: u64 = 4096;

impl OsFile {
    /// Write, and write down what was written.
    fn recorded(
        &self,
        slices: &mut [IoSlice<'_>],
        offset: u64,
        write: impl FnOnce(&mut [IoSlice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let bytes = if recording() { slices.iter().flat_map(|slice| slice.to_vec()).collect() } else { Vec::new() };
        write(slices)?;
        record(Kind::Write, self.id, offset, [&bytes[..]]);
        Ok(())
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }
}

fn write_at(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let pieces = slices.len().min(PIECES_MAX);
        match rustix::io::pwritev(file, &slices[..pieces], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl VfsFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn will_read(&self, offset: u64, len: u64) {
        // Without it the read itself fetches, only later.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.recorded(slices, offset, |slices| write_at(&self.file, slices, offset))
    }

    fn write_through_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let fits = |at: u64| at % PAGE_BYTES == 0;
        let whole = |slice: &IoSlice<'_>| fits(slice.as_ptr() as u64) && fits(slice.len() as u64);
        if !fits(offset) || !slices.iter().all(whole) {
            return self.write_at(slices, offset);
        }
        self.recorded(slices, offset, |slices| {
            if let Some(direct) = self.direct() {
                // The file system may refuse all the same; then nothing, or a part of just these bytes, is there.
                let mut again = slices.to_vec();
                match write_at(direct, &mut again, offset) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    other => return other,
                }
            }
            write_at(&self.file, slices, offset)
        })
    }

    fn sync(&self) -> io::Result<()> {
        record(Kind::Sync, self.id, 0, []);
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        record(Kind::SetLen, self.id, len, []);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        record(Kind::Punch, self.id, offset, [&len.to_le_bytes()[..]]);
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.write_zeros(offset, len),
            other => Ok(other?),
        }
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

impl OsFile {
    fn new(file: File, kind: Kind, path: &str) -> Self {
        let id = new_file();
        record(kind, id, 0, [path.as_bytes()]);
        Self { file, direct: OnceLock::new(), id }
    }

    /// Only within the file: beyond its end everything reads as zeros anyway.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let end = (offset + len).min(self.len()?);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            #[allow(clippy::cast_possible_truncation, reason = "at most the buffer's length")]
            self.file.write_all_at(&ZEROS[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }
}
