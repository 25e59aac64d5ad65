//! Every mutant is noticed: `make mutants SEEDS=300`, or one of them with `ONLY="part of its name"`.
#![cfg(debug_assertions)]

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use yuntai_sim::mutants::{notice, By, Mutant, MUTANTS};

/// Seeds that a mutant may live through before the tester counts as blind.
const SEEDS: u64 = 300;
/// Those that nearly every seed notices, and the seeds that they get in the test suite.
const QUICK: [&str; 9] = [
    "one answer is enough",
    "a flush is answered without a sync",
    "a sync leaves out what was written in place",
    "a flush waits for one server only",
    "acknowledge first, degrade afterwards",
    "a server that comes back lacks nothing",
    "a rebuild ends without a pull",
    "a fill overwrites what the guest wrote",
    "the journal is freed before the chunk files are durable",
];
const QUICK_SEEDS: u64 = 12;

#[test]
fn the_plainest_mutants_are_noticed_at_once() {
    hunt(MUTANTS.iter().filter(|mutant| QUICK.contains(&mutant.name)).collect(), 0, QUICK_SEEDS);
}

#[test]
#[ignore = "takes minutes: make mutants"]
fn every_mutant_is_noticed() {
    let number = |name: &str, usual| env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let only = env::var("ONLY").unwrap_or_default();
    let chosen = MUTANTS
        .iter()
        .filter(|mutant| matches!(mutant.by, By::Seeds | By::World) && mutant.name.contains(&only))
        .collect();
    hunt(chosen, number("FIRST", 0), number("SEEDS", SEEDS));
}

fn hunt(chosen: Vec<&Mutant>, first: u64, count: u64) {
    let (next, survivors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(mutant) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = std::time::Instant::now();
            match notice(mutant.name, first..first + count) {
                Some((seed, found)) => {
                    let found: String = found.chars().take(160).collect();
                    assert!(yuntai_sim::run(seed).is_ok(), "seed {seed} fails with every rule in force");
                    println!(
                        "{} {:55} seed {seed:>4}, {:.1?}: {found}",
                        mutant.invariant,
                        mutant.name,
                        start.elapsed()
                    );
                }
                None => survivors.lock().expect("no panic here").push(mutant.name),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(work);
        }
    });
    let survivors = survivors.into_inner().expect("no panic here");
    assert!(survivors.is_empty(), "not noticed in {count} seeds: {survivors:#?}");
}

#[test]
fn a_store_that_misreads_old_bytes_is_noticed() {
    for mutant in MUTANTS.iter().filter(|mutant| mutant.by == By::OldBytes) {
        let found = yuntai_proto::mutant::with(mutant.name, yuntai_sim::golden::check);
        println!("{} {:55} {found:?}", mutant.invariant, mutant.name);
        assert!(found.is_err(), "not noticed: {}", mutant.name);
    }
}

/// A switch that is in no list is never thrown, and one that is in no code breaks nothing.
#[test]
fn the_list_and_the_code_name_the_same_switches() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of the crates");
    let mut folders = vec![crates.to_owned()];
    let (mut named, mut held) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&entry).expect("readable");
                if entry.ends_with("tests/mutants.rs") && !entry.starts_with(env!("CARGO_MANIFEST_DIR")) {
                    held.extend(text.split('"').skip(1).step_by(2).map(str::to_owned));
                }
                let names = text.split("mutant::is(\"").skip(1).filter_map(|rest| rest.split('"').next());
                named.extend(names.map(str::to_owned).filter(|name| !name.contains('{')));
            }
        }
    }
    for mutant in MUTANTS.iter().filter(|mutant| matches!(mutant.by, By::Test | By::Seeds)) {
        assert!(held.contains(mutant.name), "no test in a mutants.rs holds {:?}", mutant.name);
    }
    let listed: std::collections::BTreeSet<String> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
    assert_eq!(named.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "in the code only");
    assert_eq!(listed.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new(), "in the list only");
}
