use super::*;
use crate::vfs::memory::MemVfs;

const FENCE: Fence = Fence { generation: 3, session: 0x55, deleted: false };

#[test]
fn version_1_bytes_still_decode() {
    let bytes = encode(7, &FENCE);
    assert_eq!(bytes[..5], [b'Y', b'F', b'N', b'1', 1]);
    assert_eq!((bytes[8], bytes[16], bytes[24]), (7, 3, 0x55));
    assert_eq!(decode(&bytes), Some((7, FENCE)));
}

#[test]
fn a_fence_never_goes_back_whatever_a_crash_leaves() {
    for seed in 0..200usize {
        let vfs = MemVfs::new();
        let mut promised = 0;
        let mut fences = Fences::open(&vfs).unwrap().unwrap();
        vfs.die_after(vfs.operations() + seed as u64 % 23);
        for generation in 1..20 {
            if fences.set(1, Fence { generation, ..FENCE }).is_err() {
                break;
            }
            promised = generation;
        }
        let mut state = seed;
        let vfs = vfs.crash(&mut |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        });
        let fences = Fences::open(&vfs).unwrap().unwrap();
        assert!(fences.get(1).generation >= promised, "seed {seed}");
    }
}

#[test]
fn one_flipped_bit_hides_nothing() {
    let vfs = MemVfs::new();
    let mut fences = Fences::open(&vfs).unwrap().unwrap();
    fences.set(1, FENCE).unwrap();
    fences.set(2, Fence { deleted: true, ..FENCE }).unwrap();
    let bytes = read_file(&vfs, NAME).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let table = decode_all(&flipped).unwrap();
        assert_eq!((table[&1], table[&2].deleted), (FENCE, true));
    }
}

#[test]
fn a_failed_append_is_not_built_upon() {
    let vfs = MemVfs::new();
    let mut fences = Fences::open(&vfs).unwrap().unwrap();
    fences.set(1, FENCE).unwrap();
    vfs.fail_at(vfs.operations() + 2, io::ErrorKind::Other);
    assert!(fences.set(1, Fence { generation: 4, ..FENCE }).is_err());
    assert_eq!(fences.get(1), FENCE);
    fences.set(1, Fence { generation: 5, ..FENCE }).unwrap();
    assert_eq!(Fences::open(&vfs.restart()).unwrap().unwrap().get(1).generation, 5);
}
