use super::*;

fn disk_with_one_acknowledged() -> (History, u64) {
    let mut history = History::new();
    let one = history.ask(0, 1, 11);
    history.acknowledge(one, 0, 1, false);
    (history, one)
}

fn read(history: &mut History, tag: Tag) -> Result<(), String> {
    let expectation = history.read_asked(0, 1);
    history.read_answered(&expectation, &[tag])
}

#[test]
fn an_acknowledged_write_is_what_is_read() {
    let (mut history, _) = disk_with_one_acknowledged();
    assert!(read(&mut history, 0).is_err(), "the old value came back");
    assert!(read(&mut history, 99).is_err(), "a value that nobody wrote");
    assert_eq!(read(&mut history, 11), Ok(()));
}

#[test]
fn an_unknown_outcome_may_end_either_way_but_not_flip() {
    let (mut history, _) = disk_with_one_acknowledged();
    history.ask(0, 1, 22);
    assert_eq!(read(&mut history, 11), Ok(()));
    assert_eq!(read(&mut history, 22), Ok(()));
    assert!(read(&mut history, 11).is_err(), "it flipped back");
}

#[test]
fn a_read_that_was_asked_before_may_return_the_older_value() {
    let (mut history, _) = disk_with_one_acknowledged();
    let before = history.read_asked(0, 1);
    let two = history.ask(0, 1, 22);
    history.acknowledge(two, 0, 1, false);
    assert_eq!(history.read_answered(&before, &[11]), Ok(()));
    assert!(read(&mut history, 11).is_err());
}

#[test]
fn a_power_cut_takes_what_was_not_flushed_and_nothing_else() {
    let (mut history, _) = disk_with_one_acknowledged();
    let flush = history.flush_asked();
    history.flush_answered(&flush);
    let two = history.ask(0, 1, 22);
    history.acknowledge(two, 0, 1, false);
    history.power_cut();
    assert!(read(&mut history, 0).is_err(), "a flushed write was lost");
    assert_eq!(read(&mut history, 11), Ok(()));
}

#[test]
fn zeros_written_later_are_not_the_zeros_of_the_beginning() {
    let (mut history, _) = disk_with_one_acknowledged();
    assert!(read(&mut history, 0).is_err());
    let zero = history.ask(0, 1, 0);
    history.acknowledge(zero, 0, 1, true);
    assert_eq!(read(&mut history, 0), Ok(()));
    assert!(read(&mut history, 11).is_err());
}

#[test]
fn a_torn_sector_is_seen() {
    let mut bytes = sector_bytes(7);
    assert_eq!(sector_tag(&bytes), Ok(7));
    bytes[300] ^= 1;
    assert!(sector_tag(&bytes).is_err());
}
