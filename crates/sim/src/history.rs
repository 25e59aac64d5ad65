//! What a disk may answer: each 512-byte sector is an atomic register with a history of the values written to it.
//!
//! The rule is linearizability (Herlihy and Wing, "Linearizability", TOPLAS 1990) of a register, made cheap by the
//! order that the volume promises: overlapping mutations take effect in the order in which they were asked. So every
//! sector has a *floor*, the oldest value that may still be seen: an acknowledged write raises it to its own value, a
//! read raises it to what it saw (nothing may flip back), and a read must return a value that is not below the floor
//! that stood when the read was asked. A write whose outcome is not known simply stays above the floor.
//!
//! A power cut may take what was acknowledged and not flushed, but only where so many replicas lost it that none of
//! those that are left has it; [`History::power_cut`] then lowers the floor to the *flushed* value, and never below.

use std::collections::BTreeMap;

/// Bytes of a sector: the unit of the model, an eighth of a block, so that sub-block writes are checked too.
pub const SECTOR_BYTES: u64 = 512;

/// A value: 0 is zeros; any other number fills the sector, repeated.
pub type Tag = u64;

#[derive(Clone, Debug)]
struct Register {
    /// (number of the mutation, tag), oldest first. Nothing is dropped: a read that was asked long ago may still see it.
    values: Vec<(u64, Tag)>,
    floor: u64,
    flushed: u64,
    acked: u64,
}

/// A flush that was asked: what it will make durable when it is answered.
#[derive(Clone, Debug)]
pub struct Flush(Vec<(u64, u64)>);

/// What a read may return: the floors of its sectors when it was asked.
#[derive(Clone, Debug)]
pub struct Expectation(Vec<(u64, u64)>);

/// The whole disk.
#[derive(Clone, Debug, Default)]
pub struct History {
    sectors: BTreeMap<u64, Register>,
    next: u64,
}

impl History {
    /// A disk of zeros.
    #[must_use]
    pub fn new() -> Self {
        Self { sectors: BTreeMap::new(), next: 1 }
    }

    fn register(&mut self, sector: u64) -> &mut Register {
        self.sectors.entry(sector).or_insert_with(|| Register { values: vec![(0, 0)], floor: 0, flushed: 0, acked: 0 })
    }

    /// A mutation of sectors `[first, first + count)` to `tag` is asked; returns its number.
    pub fn ask(&mut self, first: u64, count: u64, tag: Tag) -> u64 {
        let number = self.next;
        self.next += 1;
        for sector in first..first + count {
            self.register(sector).values.push((number, tag));
        }
        number
    }

    /// The mutation was acknowledged (and, if `durable`, is on stable storage).
    pub fn acknowledge(&mut self, number: u64, first: u64, count: u64, durable: bool) {
        for sector in first..first + count {
            let register = self.register(sector);
            register.acked = register.acked.max(number);
            register.floor = register.floor.max(number);
            if durable {
                register.flushed = register.flushed.max(number);
            }
        }
    }

    /// A flush is asked: it will cover what is acknowledged now.
    #[must_use]
    pub fn flush_asked(&self) -> Flush {
        Flush(self.sectors.iter().map(|(sector, register)| (*sector, register.acked)).collect())
    }

    /// The flush was answered.
    pub fn flush_answered(&mut self, flush: &Flush) {
        for (sector, acked) in &flush.0 {
            let register = self.register(*sector);
            register.flushed = register.flushed.max(*acked);
        }
    }

    /// So many replicas lost their unsynced writes that what was only acknowledged may be gone.
    pub fn power_cut(&mut self) {
        for register in self.sectors.values_mut() {
            register.floor = register.flushed;
            register.acked = register.flushed;
        }
    }

    /// A node was frozen when this was so, and switched from when `now` was so: in between, writes may have reached it.
    pub fn seal(&mut self, now: &Self) {
        for (sector, register) in &now.sectors {
            let floor = self.register(*sector).floor;
            let mine = Register { floor, flushed: floor, acked: floor, ..register.clone() };
            self.sectors.insert(*sector, mine);
        }
    }

    /// As [`History::seal`], but nothing is durable by that: only what was asked until now may be seen.
    pub fn bound(&mut self, now: &Self) {
        for (sector, register) in &now.sectors {
            self.register(*sector).values.clone_from(&register.values);
        }
    }

    /// What was acknowledged is durable.
    pub fn settle(&mut self) {
        for register in self.sectors.values_mut() {
            (register.flushed, register.acked) = (register.floor, register.floor);
        }
    }

    /// The disk is again what it was in `then`.
    pub fn roll_back(&mut self, then: &Self) {
        self.sectors = then.sectors.clone();
    }

    /// A read is asked.
    #[must_use]
    pub fn read_asked(&self, first: u64, count: u64) -> Expectation {
        Expectation((first..first + count).map(|s| (s, self.sectors.get(&s).map_or(0, |r| r.floor))).collect())
    }

    /// The read returned `tags`, one per sector.
    ///
    /// # Errors
    /// A sentence that says which sector returned what, and what was allowed.
    pub fn read_answered(&mut self, expectation: &Expectation, tags: &[Tag]) -> Result<(), String> {
        for ((sector, floor), tag) in expectation.0.iter().zip(tags) {
            let register = self.register(*sector);
            // A power cut since the read was asked may have lowered the floor.
            let floor = (*floor).min(register.floor);
            let Some((number, _)) = register.values.iter().find(|(number, value)| number >= &floor && value == tag)
            else {
                let allowed: Vec<_> = register.values.iter().filter(|(number, _)| *number >= floor).collect();
                return Err(format!("sector {sector} returned {tag:#x}, allowed are {allowed:x?}"));
            };
            register.floor = register.floor.max(*number);
        }
        Ok(())
    }

    /// May a disk that lost its power hold `tag`, after what was flushed?
    ///
    /// # Errors
    /// A sentence that says what it may hold.
    pub fn check_flushed(&mut self, sector: u64, tag: Tag) -> Result<(), String> {
        let register = self.register(sector);
        if register.values.iter().any(|(number, value)| *number >= register.flushed && *value == tag) {
            return Ok(());
        }
        let allowed: Vec<_> = register.values.iter().filter(|(number, _)| *number >= register.flushed).collect();
        Err(format!("sector {sector} holds {tag:#x}, flushed and later are {allowed:x?}"))
    }

    /// Every sector that was ever written.
    pub fn sectors(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.keys().copied()
    }
}

/// The bytes of a sector of value `tag`.
#[must_use]
pub fn sector_bytes(tag: Tag) -> [u8; SECTOR_BYTES as usize] {
    let mut out = [0; SECTOR_BYTES as usize];
    for piece in out.chunks_exact_mut(8) {
        piece.copy_from_slice(&tag.to_le_bytes());
    }
    out
}

/// The value of a sector's bytes.
///
/// # Errors
/// The sector is torn: it holds bytes of two values.
pub fn sector_tag(bytes: &[u8]) -> Result<Tag, String> {
    let tag = Tag::from_le_bytes(bytes[..8].try_into().expect("a sector has 512 bytes"));
    if bytes != sector_bytes(tag) {
        return Err(format!("a torn sector, it begins with {tag:#x}"));
    }
    Ok(tag)
}

#[cfg(test)]
mod tests;
