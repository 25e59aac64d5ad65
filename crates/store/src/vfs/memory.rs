//! A disk in memory that behaves as badly as a real one may: at a crash, of every 512-byte sector written since the
//! last sync any of its versions may be what survived (so writes are lost, torn and reordered), lengths likewise, and
//! of the names made, moved and removed in a folder since its last sync only some first part. It also fills up, fails
//! at a chosen operation and flips bits.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Space, Vfs, VfsFile};

/// The unit that a disk writes whole.
const SECTOR: u64 = 512;
type Sector = Box<[u8; SECTOR as usize]>;

/// A source of choices for a crash: `choose(n)` gives a number below `n` (`n` ≥ 1).
pub type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

#[derive(Clone, Default)]
struct Node {
    durable: BTreeMap<u64, Sector>,
    durable_len: u64,
    /// Versions since the last sync, oldest first; the last is what reads see. `None` is a hole.
    pending: BTreeMap<u64, Vec<Option<Sector>>>,
    lengths: Vec<u64>,
}

impl Node {
    fn len(&self) -> u64 {
        self.lengths.last().copied().unwrap_or(self.durable_len)
    }

    fn sector(&self, number: u64) -> Option<&Sector> {
        match self.pending.get(&number) {
            Some(versions) => versions.last().expect("never empty").as_ref(),
            None => self.durable.get(&number),
        }
    }

    fn set(&mut self, number: u64, sector: Option<Sector>) {
        self.pending.entry(number).or_default().push(sector);
    }

    fn settle(&mut self, number: u64, sector: Option<Sector>) {
        match sector {
            Some(sector) => self.durable.insert(number, sector),
            None => self.durable.remove(&number),
        };
    }

    fn sync(&mut self) {
        for (number, mut versions) in std::mem::take(&mut self.pending) {
            let last = versions.pop().expect("never empty");
            self.settle(number, last);
        }
        self.durable_len = self.len();
        self.lengths.clear();
    }

    fn crash(&mut self, choose: Choose<'_>) {
        for (number, mut versions) in std::mem::take(&mut self.pending) {
            let pick = choose(versions.len() + 1);
            if pick > 0 {
                let survivor = versions.swap_remove(pick - 1);
                self.settle(number, survivor);
            }
        }
        let lengths = std::mem::take(&mut self.lengths);
        let pick = choose(lengths.len() + 1);
        if pick > 0 {
            self.durable_len = lengths[pick - 1];
        }
        let end = self.durable_len.div_ceil(SECTOR);
        self.durable.retain(|number, _| *number < end);
    }
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Disk {
    nodes: BTreeMap<u64, Node>,
    node_next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
    /// Folders that were removed, and not made again since.
    removed: BTreeSet<String>,
    capacity_bytes: Option<u64>,
    operations: u64,
    dies_at: Option<u64>,
    fails_at: Option<(u64, io::ErrorKind)>,
    incarnation: u64,
    locked: bool,
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk {
    /// Every operation that changes something passes here: the place to die or to fail.
    fn operate(&mut self, incarnation: u64) -> io::Result<()> {
        if incarnation != self.incarnation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        self.operations += 1;
        if self.dies_at.is_some_and(|at| self.operations > at) {
            return Err(io::Error::other("the power is gone"));
        }
        match self.fails_at {
            Some((at, kind)) if self.operations == at => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        // A file whose name is gone gives its room back.
        let sectors: usize = self
            .names
            .values()
            .filter_map(|node| self.nodes.get(node))
            .map(|node| {
                let kept = node.durable.keys().filter(|number| !node.pending.contains_key(number)).count();
                kept + node.pending.values().filter(|versions| versions.last().is_some_and(Option::is_some)).count()
            })
            .sum();
        sectors as u64 * SECTOR
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Set(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemVfs {
    disk: Arc<Mutex<Disk>>,
    incarnation: u64,
}

impl MemVfs {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nobody panics while holding it")
    }

    /// The disk holds this much; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity_bytes = bytes;
    }

    /// What all files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// Changing operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// From the changing operation after `at` on, everything fails: the power is gone. Then call [`MemVfs::crash`].
    pub fn die_after(&self, at: u64) {
        self.disk().dies_at = Some(at);
    }

    /// The changing operation number `at` (from 1, counted since the beginning) fails once.
    pub fn fail_at(&self, at: u64, kind: io::ErrorKind) {
        self.disk().fails_at = Some((at, kind));
    }

    /// Power off and on: what survives of the unsynced is chosen by `choose`. Old handles are dead; use the result.
    #[must_use]
    pub fn crash(&self, choose: Choose<'_>) -> Self {
        let mut disk = self.disk();
        disk.incarnation += 1;
        disk.dies_at = None;
        disk.fails_at = None;
        disk.locked = false;
        for node in disk.nodes.values_mut() {
            node.crash(&mut *choose);
        }
        let changes = std::mem::take(&mut disk.changes);
        let kept = choose(changes.len() + 1);
        let mut names = std::mem::take(&mut disk.durable_names);
        changes[..kept].iter().for_each(|change| apply(&mut names, change));
        disk.names.clone_from(&names);
        disk.durable_names = names;
        disk.removed.clear();
        let alive: std::collections::BTreeSet<u64> = disk.names.values().copied().collect();
        disk.nodes.retain(|number, _| alive.contains(number));
        let incarnation = disk.incarnation;
        drop(disk);
        Self { disk: Arc::clone(&self.disk), incarnation }
    }

    /// What the disk would be if the power went now; this one goes on.
    #[must_use]
    pub fn image(&self, choose: Choose<'_>) -> Self {
        let disk = self.disk();
        let copy = Disk {
            nodes: disk.nodes.clone(),
            node_next: disk.node_next,
            names: disk.names.clone(),
            removed: disk.removed.clone(),
            durable_names: disk.durable_names.clone(),
            changes: disk.changes.clone(),
            ..Disk::default()
        };
        drop(disk);
        Self { disk: Arc::new(Mutex::new(copy)), incarnation: 0 }.crash(choose)
    }

    /// The process dies (not the machine): everything written stays. Old handles are dead; use the result.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut disk = self.disk();
        disk.incarnation += 1;
        disk.dies_at = None;
        disk.locked = false;
        let incarnation = disk.incarnation;
        drop(disk);
        Self { disk: Arc::clone(&self.disk), incarnation }
    }

    /// Flip one bit of what is on the platter; false if there is nothing at that place.
    #[must_use]
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mut disk = self.disk();
        let Some(node) = disk.names.get(path).copied() else { return false };
        let node = disk.nodes.get_mut(&node).expect("a name has a node");
        let sector = match node.pending.get_mut(&(offset / SECTOR)) {
            Some(versions) => versions.last_mut().and_then(Option::as_mut),
            None => node.durable.get_mut(&(offset / SECTOR)),
        };
        #[allow(clippy::cast_possible_truncation, reason = "below 512")]
        let within = (offset % SECTOR) as usize;
        sector.map(|sector| sector[within] ^= 1 << (bit % 8)).is_some()
    }

    /// Offsets of the sectors of a file that hold something.
    #[must_use]
    pub fn sectors(&self, path: &str) -> Vec<u64> {
        let disk = self.disk();
        let Some(node) = disk.names.get(path).and_then(|node| disk.nodes.get(node)) else { return Vec::new() };
        let mut numbers: Vec<u64> = node.durable.keys().chain(node.pending.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| number * SECTOR).collect()
    }

    /// Every file's path and length, as reads see it.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let disk = self.disk();
        disk.names.iter().filter_map(|(path, node)| disk.nodes.get(node).map(|n| (path.clone(), n.len()))).collect()
    }
}

/// An open file of a [`MemVfs`].
pub struct MemFile {
    vfs: MemVfs,
    node: u64,
}

impl Vfs for MemVfs {
    type File = MemFile;

    fn lock(&self) -> io::Result<()> {
        let mut disk = self.disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<MemFile> {
        let disk = self.disk();
        if self.incarnation != disk.incarnation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        let node = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemFile { vfs: self.clone(), node })
    }

    fn create(&self, path: &str) -> io::Result<MemFile> {
        if let Ok(file) = self.open(path) {
            file.set_len(0)?;
            return Ok(file);
        }
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        disk.node_next += 1;
        let node = disk.node_next;
        disk.nodes.insert(node, Node::default());
        disk.change(NameChange::Set(path.to_owned(), node));
        Ok(MemFile { vfs: self.clone(), node })
    }

    /// Folders are only the front part of names here.
    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        disk.removed.remove(path);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut names: Vec<String> = disk
            .names
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(|rest| rest.split_once('/').map_or(rest, |(first, _)| first).to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        disk.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        let prefix = format!("{path}/");
        let inside: Vec<String> = disk.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        inside.into_iter().for_each(|name| disk.change(NameChange::Remove(name)));
        disk.removed.insert(path.to_owned());
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate(self.incarnation)?;
        if disk.removed.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (synced, rest) = std::mem::take(&mut disk.changes).into_iter().partition(|change| match change {
            NameChange::Set(name, _) | NameChange::Rename(name, _) | NameChange::Remove(name) => {
                folder_of(name) == path
            }
        });
        disk.changes = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            apply(&mut disk.durable_names, &change);
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let disk = self.disk();
        let total_bytes = disk.capacity_bytes.unwrap_or(1 << 40);
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(disk.used_bytes()) })
    }
}

impl MemFile {
    fn with<T>(&self, change: impl FnOnce(&mut Node) -> T) -> io::Result<T> {
        let mut disk = self.vfs.disk();
        disk.operate(self.vfs.incarnation)?;
        disk.nodes.get_mut(&self.node).map(change).ok_or_else(|| io::Error::other("the file is gone"))
    }

    fn look<T>(&self, look: impl FnOnce(&Node) -> T) -> io::Result<T> {
        let disk = self.vfs.disk();
        if self.vfs.incarnation != disk.incarnation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        disk.nodes.get(&self.node).map(look).ok_or_else(|| io::Error::other("the file is gone"))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "offsets within a sector, and test disks are small")]
impl VfsFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.look(|node| {
            let end = node.len().min(offset + buffer.len() as u64).max(offset);
            let wanted = (end - offset) as usize;
            let mut at = offset;
            while at < end {
                let within = (at % SECTOR) as usize;
                let step = ((SECTOR - at % SECTOR).min(end - at)) as usize;
                let out = &mut buffer[(at - offset) as usize..][..step];
                match node.sector(at / SECTOR) {
                    Some(sector) => out.copy_from_slice(&sector[within..within + step]),
                    None => out.fill(0),
                }
                at += step as u64;
            }
            wanted
        })
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let full = {
            let disk = self.vfs.disk();
            disk.capacity_bytes.is_some_and(|capacity| disk.used_bytes() + bytes.len() as u64 > capacity)
        };
        // A disk that fills up in the middle has taken a part of it.
        let taken = if full { bytes.len() / 2 } else { bytes.len() };
        self.with(|node| {
            let mut done = 0;
            while done < taken {
                let at = offset + done as u64;
                let within = (at % SECTOR) as usize;
                let step = (SECTOR as usize - within).min(taken - done);
                let mut sector = node.sector(at / SECTOR).cloned().unwrap_or_else(|| Box::new([0; SECTOR as usize]));
                sector[within..within + step].copy_from_slice(&bytes[done..done + step]);
                node.set(at / SECTOR, Some(sector));
                done += step;
            }
            if offset + taken as u64 > node.len() {
                node.lengths.push(offset + taken as u64);
            }
        })?;
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(Node::sync)
    }

    fn len(&self) -> io::Result<u64> {
        self.look(Node::len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|node| {
            let first = len / SECTOR;
            let beyond: Vec<u64> = node
                .durable
                .range(first..)
                .map(|(number, _)| *number)
                .chain(node.pending.range(first..).map(|(number, _)| *number))
                .collect();
            for number in beyond {
                let kept = if number == first { (len % SECTOR) as usize } else { 0 };
                let sector = node.sector(number).cloned().filter(|_| kept > 0).map(|mut sector| {
                    sector[kept..].fill(0);
                    sector
                });
                node.set(number, sector);
            }
            node.lengths.push(len);
        })
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|node| {
            for number in offset.div_ceil(SECTOR)..(offset + len) / SECTOR {
                if node.sector(number).is_some() {
                    node.set(number, None);
                }
            }
        })
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.look(|node| {
            let mut numbers: BTreeSet<u64> = node.durable.keys().copied().collect();
            numbers.extend(node.pending.keys());
            numbers.into_iter().filter(|number| node.sector(*number).is_some()).count() as u64 * SECTOR
        })
    }
}
