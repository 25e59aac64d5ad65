use super::*;
use proptest::prelude::*;

type Cell = Option<(u64, BlockEntry, Option<(u64, u64)>)>;

fn run(blocks: u16, lsn: u64) -> Run {
    let crcs: Vec<u32> = (0..u32::from(blocks)).map(|at| lsn as u32 * 1000 + at).collect();
    let source = match lsn % 3 {
        0 => Source::Zero,
        1 => Source::Absent,
        _ => Source::Journal { segment: 1, offset: lsn << 32, crcs: Crcs::Many(crcs.into(), 0) },
    };
    Run { blocks, lsn, position: Position { generation: 1, sequence: lsn }, source }
}

proptest! {
    /// The runs say for every block exactly what a plain table says.
    #[test]
    fn runs_equal_a_table(writes in prop::collection::vec((0u16..60, 1u16..20), 1..60), forget in 0u64..60) {
        let mut overlay = Overlay::default();
        let mut table: Vec<Cell> = vec![None; 80];
        for (lsn, (block, blocks)) in writes.into_iter().enumerate() {
            let run = run(blocks, lsn as u64);
            for at in 0..blocks {
                table[(block + at) as usize] = Some((run.lsn, run.entry(at), run.place(at)));
            }
            overlay.insert(block, run);
        }
        overlay.forget(forget);
        table.iter_mut().for_each(|slot| *slot = slot.filter(|(lsn, _, _)| *lsn > forget));
        for block in 0..80u16 {
            let got = overlay.range(block, 1).next().map(|(_, run)| (run.lsn, run.entry(0), run.place(0)));
            prop_assert_eq!(got, table[block as usize]);
        }
        let mut seen = vec![None; 80];
        for (block, run) in overlay.range(11, 40) {
            for at in 0..run.blocks {
                seen[(block + at) as usize] = Some((run.lsn, run.entry(at), run.place(at)));
            }
        }
        prop_assert_eq!(&seen[11..51], &table[11..51]);
        prop_assert!(seen[..11].iter().chain(&seen[51..]).all(Option::is_none));
    }
}
