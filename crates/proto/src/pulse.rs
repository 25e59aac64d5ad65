//! A tick that comes often while something happens and seldom while nothing does: a process that only waits should
//! cost next to nothing, on a laptop as on a thousand servers.

use std::cell::Cell;
use std::time::Duration;

/// Whether anything happened since the last tick.
#[derive(Debug)]
pub struct Pulse {
    touched: Cell<bool>,
    slow: Cell<bool>,
    often: Duration,
    seldom: Duration,
}

impl Pulse {
    /// Ticks are `often` apart, or `seldom`.
    #[must_use]
    pub const fn new(often: Duration, seldom: Duration) -> Self {
        Self { touched: Cell::new(true), slow: Cell::new(false), often, seldom }
    }

    /// Something happened. True if the next tick is far away: then the waiter has to be woken.
    pub fn touch(&self) -> bool {
        self.touched.set(true);
        self.slow.replace(false)
    }

    /// How long to wait for the next tick.
    pub fn wait(&self) -> Duration {
        self.slow.set(!self.touched.replace(false));
        if self.slow.get() {
            self.seldom
        } else {
            self.often
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_slows_down_after_a_tick_without_events_and_wakes_at_the_first_one() {
        let (often, seldom) = (Duration::from_millis(10), Duration::from_millis(50));
        let pulse = Pulse::new(often, seldom);
        assert_eq!(pulse.wait(), often);
        assert!(!pulse.touch(), "the next tick is near");
        assert_eq!((pulse.wait(), pulse.wait()), (often, seldom));
        assert!(pulse.touch() && !pulse.touch());
        assert_eq!((pulse.wait(), pulse.wait()), (often, seldom));
    }
}
