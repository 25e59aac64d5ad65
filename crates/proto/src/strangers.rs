//! Peers that have not proved themselves yet: a bounded number, and the one that has waited longest makes room.
//!
//! Turning newcomers away instead would let anybody keep a cluster's own processes out by holding every place open.
//! This way a peer that knows the secret gets in as long as fewer others come than places in the time that it needs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two lines in the log about strangers.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The strangers of one listener; `T` is what ends one.
#[derive(Debug)]
pub struct Strangers<T> {
    max: usize,
    next: Cell<u64>,
    waiting: RefCell<VecDeque<(u64, T)>>,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

impl<T> Strangers<T> {
    /// Room for `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, next: Cell::new(0), waiting: RefCell::default(), told: Cell::new(None), untold: Cell::new(0) }
    }

    /// The number for the next stranger: known before what ends it is.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Somebody has come. Returned is who must go instead, if anybody.
    #[must_use]
    pub fn add(&self, number: u64, stranger: T) -> Option<T> {
        let mut waiting = self.waiting.borrow_mut();
        let out = if waiting.len() >= self.max { waiting.pop_front() } else { None };
        waiting.push_back((number, stranger));
        out.map(|(_, oldest)| oldest)
    }

    /// It has proved itself, or is gone.
    pub fn remove(&self, number: u64) {
        let mut waiting = self.waiting.borrow_mut();
        if let Ok(at) = waiting.binary_search_by_key(&number, |(one, _)| *one) {
            waiting.remove(at);
        }
    }

    /// Take out the one that has waited longest.
    #[must_use]
    pub fn oldest(&self) -> Option<T> {
        self.waiting.borrow_mut().pop_front().map(|(_, oldest)| oldest)
    }

    /// May a line be written about strangers now? If so, how many were not written since the last: a flood must not
    /// fill the log.
    #[must_use]
    pub fn tell(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.untold.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_the_proved_are_left_alone() {
        let strangers = Strangers::new(2);
        for name in ["a", "b"] {
            assert_eq!(strangers.add(strangers.number(), name), None);
        }
        assert_eq!(strangers.add(strangers.number(), "c"), Some("a"));
        strangers.remove(1);
        assert_eq!(strangers.add(strangers.number(), "d"), None);
        strangers.remove(1);
        assert_eq!(strangers.add(strangers.number(), "e"), Some("c"));
        assert_eq!(strangers.oldest(), Some("d"));
        assert_eq!(strangers.oldest(), Some("e"));
        assert_eq!(strangers.oldest(), None);
    }

    #[test]
    fn a_flood_is_told_once_a_second() {
        let (strangers, start) = (Strangers::<()>::new(1), Instant::now());
        assert_eq!(strangers.tell(start), Some(0));
        assert_eq!(strangers.tell(start + Duration::from_millis(1)), None);
        assert_eq!(strangers.tell(start + Duration::from_millis(999)), None);
        assert_eq!(strangers.tell(start + Duration::from_secs(1)), Some(2));
    }
}
