//! The superblock: what this folder is. Written once.
//!
//! `magic "YSB1" u32, format version u32, server u32, zero u32, uuid 16, zero 28, crc u32`: 64 bytes.

use std::io;

use yuntai_proto::ServerId;

use crate::journal::{Identity, FOLDER};
use crate::marks::Marks;
use crate::vfs::{read_file, replace_file, Vfs};
use crate::OpenError;

const NAME: &str = "superblock";
const MAGIC: u32 = u32::from_le_bytes(*b"YSB1");
/// The format that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Folder of the volumes' chunk files.
pub(crate) const VOLUMES: &str = "volumes";
/// What may stand in a folder whose formatting was cut short.
const OWN_NAMES: [&str; 7] = ["lock", "superblock.new", "marks", "marks.new", FOLDER, VOLUMES, "lost+found"];

fn encode(server: ServerId, identity: &Identity) -> [u8; 64] {
    let mut out = [0; 64];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[8..12].copy_from_slice(&server.to_le_bytes());
    out[16..32].copy_from_slice(&identity.uuid);
    let crc = crc32c::crc32c(&out[..60]);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], server: ServerId) -> Result<Identity, OpenError> {
    let damaged = || OpenError::Damaged { what: NAME };
    let bytes: &[u8; 64] = bytes.try_into().map_err(|_| damaged())?;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    if word(0) != MAGIC || crc32c::crc32c(&bytes[..60]) != word(60) {
        return Err(damaged());
    }
    if word(4) != FORMAT_VERSION {
        return Err(OpenError::Version { what: NAME, version: word(4) });
    }
    if word(8) != server {
        return Err(OpenError::Server { found: word(8), expected: server });
    }
    Ok(Identity { uuid: bytes[16..32].try_into().expect("16 bytes") })
}

/// Read the superblock, or make an empty folder a store. `uuid` is used in that case only.
pub(crate) fn open_or_format<V: Vfs>(vfs: &V, server: ServerId, uuid: [u8; 16]) -> Result<Identity, OpenError> {
    match read_file(vfs, NAME) {
        Ok(bytes) => return decode(&bytes, server),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(name) = vfs.list("")?.into_iter().find(|name| !OWN_NAMES.contains(&name.as_str())) {
        return Err(OpenError::Foreign { name });
    }
    // A store that lost its superblock must not be taken for a new one.
    if !vfs.list(FOLDER)?.is_empty() || !vfs.list(VOLUMES)?.is_empty() {
        return Err(OpenError::Damaged { what: NAME });
    }
    vfs.create_dir(FOLDER)?;
    vfs.create_dir(VOLUMES)?;
    let identity = Identity { uuid };
    // Before it is a store: one without marks is from before there were any, and admitted.
    Marks { admitted: false, term: 0 }.write(vfs)?;
    replace_file(vfs, "", NAME, &encode(server, &identity))?;
    Ok(identity)
}

#[cfg(test)]
mod tests;
