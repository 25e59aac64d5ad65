//! What is known of the store as a whole beside its contents: whether gateways are let in, and the highest term of a
//! master that was heard.
//!
//! `marks`: `magic "YMK1" u32, version u32, flags u32 (1 = admitted), zero u32, term u64, zero 36, crc u32`: 64 bytes,
//! replaced as a whole. A store without the file is from before there was one, and admitted.

use std::io;

use yuntai_proto::data::Refusal;
use yuntai_proto::mutant;

use crate::error::OpenError;
use crate::store::{refusal_of, Store};
use crate::vfs::{read_file, replace_file, Vfs};

/// The file.
pub(crate) const NAME: &str = "marks";
const MAGIC: u32 = u32::from_le_bytes(*b"YMK1");
const VERSION: u32 = 1;
const ADMITTED: u32 = 1;

/// All marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) admitted: bool,
    pub(crate) term: u64,
}

impl Marks {
    fn encode(self) -> [u8; 64] {
        let mut out = [0; 64];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..12].copy_from_slice(&(if self.admitted { ADMITTED } else { 0 }).to_le_bytes());
        out[16..24].copy_from_slice(&self.term.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let damaged = || OpenError::Damaged { what: NAME };
        let bytes: &[u8; 64] = bytes.try_into().map_err(|_| damaged())?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        if word(0) != MAGIC || crc32c::crc32c(&bytes[..60]) != word(60) {
            return Err(damaged());
        }
        if word(4) != VERSION {
            return Err(OpenError::Version { what: NAME, version: word(4) });
        }
        let term = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
        Ok(Self { admitted: word(8) & ADMITTED != 0, term })
    }

    pub(crate) fn write<V: Vfs>(self, vfs: &V) -> io::Result<()> {
        replace_file(vfs, "", NAME, &self.encode())
    }

    pub(crate) fn read<V: Vfs>(vfs: &V) -> Result<Self, OpenError> {
        match read_file(vfs, NAME) {
            Ok(bytes) => match Self::decode(&bytes) {
                // Whoever would be let in must wait for the master; nothing else hangs on it.
                Err(OpenError::Damaged { what }) => {
                    tracing::error!(what, "damaged: the store waits to be admitted again");
                    Ok(Self { admitted: false, term: 0 })
                }
                other => other,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { admitted: true, term: 0 }),
            Err(error) => Err(error.into()),
        }
    }
}

impl<V: Vfs> Store<V> {
    /// The store's name: random, made with it.
    #[must_use]
    pub fn name(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// May gateways be let in?
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.marks.admitted || self.options.admitted
    }

    /// Let gateways in from now on. Durable when it returns.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if another store is meant; [`Refusal::Io`] or [`Refusal::Full`].
    pub fn admit(&mut self, name: &str) -> Result<(), Refusal> {
        if name != self.name() {
            return Err(Refusal::Invalid { message: format!("store {name}: this is {}", self.name()) });
        }
        if self.marks.admitted {
            return Ok(());
        }
        self.mark(Marks { admitted: true, ..self.marks })
    }

    /// A master of this term speaks. Durable when it returns.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if a higher one was heard before; [`Refusal::Io`] or [`Refusal::Full`].
    pub fn hear_term(&mut self, term: u64) -> Result<(), Refusal> {
        if term < self.marks.term && !mutant::is("an older master's order is carried out") {
            return Err(Refusal::Invalid { message: format!("term {term}: {} was heard here", self.marks.term) });
        }
        if term == self.marks.term {
            return Ok(());
        }
        self.mark(Marks { term, ..self.marks })
    }

    fn mark(&mut self, marks: Marks) -> Result<(), Refusal> {
        marks.write(&self.vfs).map_err(|error| refusal_of(&error))?;
        self.marks = marks;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
