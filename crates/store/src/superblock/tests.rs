use super::*;
use crate::vfs::memory::MemVfs;
use crate::vfs::VfsFile;
use std::io::IoSlice;

const UUID: [u8; 16] = [7; 16];

#[test]
fn version_1_bytes_still_decode() {
    let bytes = encode(3, &Identity { uuid: UUID });
    assert_eq!(bytes[..16], [b'Y', b'S', b'B', b'1', 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&bytes, 3).unwrap().uuid, UUID);
}

#[test]
fn another_server_version_or_folder_is_refused() {
    let vfs = MemVfs::new();
    open_or_format(&vfs, 1, UUID).unwrap();
    assert_eq!(open_or_format(&vfs, 1, [8; 16]).unwrap().uuid, UUID);
    assert!(matches!(open_or_format(&vfs, 2, UUID), Err(OpenError::Server { found: 1, expected: 2 })));

    let mut bytes = encode(1, &Identity { uuid: UUID });
    bytes[4] = 9;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    vfs.create(NAME).unwrap().write_at(&mut [IoSlice::new(&bytes)], 0).unwrap();
    assert!(matches!(open_or_format(&vfs, 1, UUID), Err(OpenError::Version { version: 9, .. })));

    let vfs = MemVfs::new();
    vfs.create("holiday.jpg").unwrap();
    assert!(matches!(open_or_format(&vfs, 1, UUID), Err(OpenError::Foreign { name }) if name == "holiday.jpg"));
}

#[test]
fn a_store_without_its_superblock_is_not_a_new_one() {
    let vfs = MemVfs::new();
    open_or_format(&vfs, 1, UUID).unwrap();
    vfs.create("journal/0000000000000001.log").unwrap();
    vfs.remove(NAME).unwrap();
    assert!(matches!(open_or_format(&vfs, 1, UUID), Err(OpenError::Damaged { .. })));
}
