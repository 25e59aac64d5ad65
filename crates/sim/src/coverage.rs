//! What a batch of runs has reached. A state that the faults are there to reach, and that no run did, means that the
//! tester is broken: Crucible's lossy mode had silently stopped losing anything (its issue 1761).

use std::collections::BTreeMap;

/// States that a batch of runs must reach.
pub const LISTED: [&str; 67] = [
    "a server left the in-sync set",
    "leaving the in-sync set was refused",
    "a server was readmitted",
    "a gateway was fenced",
    "a chunk was rebuilt",
    "a chunk was levelled at open",
    "a block was filled from the source",
    "a chunk was pulled",
    "a server refused an order",
    "a damaged block was found",
    "a snapshot was taken",
    "a server lost unsynced writes",
    "the power of everything was cut",
    "an old gateway was still alive at an open",
    "a checkpoint ended",
    "room kept for writing in place was given back",
    "blocks that lay in both halves were brought together",
    "data was written in place beside the turns",
    "a process ended while data was written in place",
    "a server ended itself",
    "a journal was full",
    "a host with gateway and server was lost",
    "every process was killed at once",
    "a disk was looked at as a power cut would leave it",
    "a frame was lost",
    "a frame came twice",
    "a frame overtook another",
    "two gateways had one generation",
    "a clock jumped",
    "a master died between a transaction and its answer",
    "a replica moved",
    "a move was refused",
    "a move was not committed now",
    "the answer to a move was lost",
    "a gateway died in the middle of a move",
    "a server was drained",
    "a replica was dropped",
    "an older master's drop was refused",
    "a leader raised its term",
    "a snapshot was deleted",
    "a snapshot was read as it was",
    "a volume was rolled back",
    "dead layers were swept",
    "healing was asked for",
    "a volume grew",
    "two volumes were frozen at one moment",
    "a group was not frozen now",
    "a group was read as it was",
    "a source was deleted",
    "a volume was opened again as it is",
    "a replica of a second volume moved",
    "a replica of a source moved",
    "dead layers of a second volume were swept",
    "dead layers of a source were swept",
    "a source was tended",
    "a clone was told where its source is",
    "a volume was detached",
    "a volume was detached by force",
    "a volume was tended",
    "a tender moved a replica",
    "a tender brought a server back",
    "a tender hydrated a clone",
    "a tender had no say any more",
    "an attachment ended the tending",
    "tending ended for lack of work",
    "a snapshot was taken of what nobody had attached",
    "a volume was rolled back under its tender",
];

/// Of these, what is counted but not required: too rare for 300 seeds to be sure of it.
const RARE: [&str; 3] = [
    "a clone was told where its source is",
    "dead layers of a second volume were swept",
    "a volume was rolled back under its tender",
];

/// How often each state was reached.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// A listed state was reached.
    ///
    /// # Panics
    /// If it is not listed.
    pub fn hit(&mut self, state: &'static str) {
        assert!(LISTED.contains(&state), "{state:?} is not listed");
        *self.0.entry(state).or_default() += 1;
    }

    /// Add another run's.
    pub fn add(&mut self, other: &Self) {
        for (state, times) in &other.0 {
            *self.0.entry(state).or_default() += times;
        }
    }

    /// Listed states that were never reached and should have been.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        LISTED.into_iter().filter(|state| !self.0.contains_key(state) && !RARE.contains(state)).collect()
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        LISTED
            .into_iter()
            .try_for_each(|state| writeln!(out, "{:>8}  {state}", self.0.get(state).copied().unwrap_or(0)))
    }
}
