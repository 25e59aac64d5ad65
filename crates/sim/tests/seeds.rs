//! Seeds in a row: `make sim SEEDS=20000 FIRST=0`.

use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;

use yuntai_sim::coverage::Coverage;
use yuntai_sim::run;

/// So many are run in the test suite; more by hand and at night. They, from 0, must reach every listed state: which they
/// do is decided by their numbers and not by luck.
const SEEDS: u64 = 300;

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    git.map_or_else(|_| "unknown".into(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

#[test]
fn seeds() {
    let (first, count) = (number("FIRST", 0), number("SEEDS", SEEDS));
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let (coverage, findings) = (Mutex::new(Coverage::default()), Mutex::new(Vec::new()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + count || failed.load(Ordering::Relaxed) {
            return;
        }
        // A panic, too, is a finding of a seed.
        let found = match std::panic::catch_unwind(|| run(seed)) {
            Ok(Ok(reached)) => {
                coverage.lock().expect("no panic here").add(&reached);
                continue;
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "it panicked\n".to_owned(),
        };
        failed.store(true, Ordering::Relaxed);
        let replay = format!("replay: make sim SEEDS=1 FIRST={seed}");
        findings.lock().expect("no panic here").push(format!("{found}seed {seed}, commit {}\n{replay}", commit()));
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let findings = findings.into_inner().expect("no panic here");
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
    let coverage = coverage.into_inner().expect("no panic here");
    println!("{count} seeds from {first}, commit {}\n{coverage}", commit());
    let missing = coverage.missing();
    let all = first == 0 && count >= SEEDS;
    assert!(!all || missing.is_empty(), "never reached: {missing:?}; the tester does not test any more");
}
