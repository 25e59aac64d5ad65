use super::*;

fn shape(pieces: &[Piece]) -> Vec<(ChunkIndex, usize, usize, String)> {
    let name = |work: &Work| match work {
        Work::Read { from, len } => format!("read {from}+{len}"),
        Work::Status { from, len } => format!("status {from}+{len}"),
        Work::Write { data } => format!("write {}", data.len()),
        Work::Zero => "zero".to_owned(),
        Work::Merge { from, len, with } => format!("merge {from}+{len}{}", if with.is_some() { "" } else { " zeros" }),
    };
    pieces.iter().map(|piece| (piece.chunk, piece.block, piece.blocks, name(&piece.work))).collect()
}

fn row(chunk: ChunkIndex, block: usize, blocks: usize, work: &str) -> (ChunkIndex, usize, usize, String) {
    (chunk, block, blocks, work.to_owned())
}

#[test]
fn reads_are_cut_at_chunks_and_megabytes() {
    assert_eq!(shape(&read_pieces(1, 4096, 4096, false)), [row(0, 1, 1, "read 0+4096")]);
    assert_eq!(shape(&read_pieces(1, 100, 5000, false)), [row(0, 0, 2, "read 100+5000")]);
    assert_eq!(shape(&read_pieces(1, 0, 0, false)), []);
    let across = CHUNK_BYTES - 512;
    assert_eq!(
        shape(&read_pieces(1, across, 1024, false)),
        [row(0, CHUNK_BLOCKS - 1, 1, "read 3584+512"), row(1, 0, 1, "read 0+512")]
    );
    let long = shape(&read_pieces(1, 0, 3 << 20, false));
    assert_eq!(long.len(), 3);
    assert_eq!(long[2], row(0, 512, 256, "read 0+1048576"));
}

#[test]
fn writes_merge_their_edges() {
    let write = |offset, len: usize| shape(&write_pieces(1, offset, &Bytes::from(vec![7; len]), false));
    assert_eq!(write(4096, 8192), [row(0, 1, 2, "write 8192")]);
    assert_eq!(write(512, 512), [row(0, 0, 1, "merge 512+512")]);
    assert_eq!(write(512, 3584), [row(0, 0, 1, "merge 512+3584")]);
    assert_eq!(write(0, 512), [row(0, 0, 1, "merge 0+512")]);
    assert_eq!(
        write(4000, 4400),
        [row(0, 0, 1, "merge 4000+96"), row(0, 1, 1, "write 4096"), row(0, 2, 1, "merge 0+208")]
    );
    assert_eq!(write(4000, 200), [row(0, 0, 1, "merge 4000+96"), row(0, 1, 1, "merge 0+104")]);
    assert_eq!(
        write(CHUNK_BYTES - 4096, 8192),
        [row(0, CHUNK_BLOCKS - 1, 1, "write 4096"), row(1, 0, 1, "write 4096")]
    );
}

#[test]
fn a_trim_leaves_partial_blocks_alone_and_a_zero_does_not() {
    assert_eq!(
        shape(&zero_pieces(1, 100, 10_000, false, false)),
        [row(0, 0, 1, "merge 100+3996 zeros"), row(0, 1, 1, "zero"), row(0, 2, 1, "merge 0+1908 zeros")]
    );
    assert_eq!(shape(&zero_pieces(1, 100, 10_000, false, true)), [row(0, 1, 1, "zero")]);
    assert_eq!(shape(&zero_pieces(1, 100, 200, false, true)), []);
    assert_eq!(
        shape(&zero_pieces(1, 0, 2 * CHUNK_BYTES, false, true)),
        [row(0, 0, CHUNK_BLOCKS, "zero"), row(1, 0, CHUNK_BLOCKS, "zero")]
    );
}

#[test]
fn the_data_of_a_write_stays_in_place() {
    let bytes: Vec<u8> = (0..12_000u32).map(|n| (n % 251) as u8).collect();
    let pieces = write_pieces(1, 1000, &Bytes::from(bytes.clone()), false);
    let mut disk = vec![0u8; 16_384];
    for piece in &pieces {
        let base = piece.block * BLOCK_BYTES;
        match &piece.work {
            Work::Write { data } => disk[base..base + data.len()].copy_from_slice(data),
            Work::Merge { from, with: Some(with), .. } => {
                disk[base + from..base + from + with.len()].copy_from_slice(with);
            }
            other => panic!("a write made {other:?}"),
        }
    }
    assert_eq!(&disk[1000..13_000], &bytes[..]);
    assert!(disk[..1000].iter().chain(&disk[13_000..]).all(|byte| *byte == 0));
}
