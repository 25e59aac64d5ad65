//! Seeds in a row: `SEEDS=20000 FIRST=1 cargo test --release -p yuntai-sim --test seeds`.

use std::env;

use yuntai_sim::coverage::Coverage;
use yuntai_sim::run;

/// One to two minutes in the test suite; many more by hand and at night. Fewer may miss a listed state by chance.
const SEEDS: u64 = 300;

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

#[test]
fn seeds() {
    let (first, count) = (number("FIRST", 1), number("SEEDS", SEEDS));
    let mut coverage = Coverage::default();
    for seed in first..first + count {
        match run(seed) {
            Ok(reached) => coverage.add(&reached),
            Err(failure) => {
                panic!("{failure}replay: FIRST={seed} SEEDS=1 cargo test --release -p yuntai-sim --test seeds")
            }
        }
    }
    println!("{count} seeds from {first}\n{coverage}");
    // One seed alone is a replay; a batch must have been everywhere.
    let missing = coverage.missing();
    assert!(count < SEEDS || missing.is_empty(), "never reached: {missing:?}; the tester does not test any more");
}
