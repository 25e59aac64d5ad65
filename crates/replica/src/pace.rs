//! How fast background work may be, and how fast it is.

/// So far may be worked ahead.
const AHEAD_US: u64 = 50_000;

/// Lets so many bytes a second through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Bytes a second; 0 = none at all.
    pub(crate) limit: u64,
    ready_us: u64,
}

impl Pace {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, ready_us: 0 }
    }

    /// A little ahead of its time is fine: turns do not come at every microsecond.
    pub(crate) fn may(&self, now_us: u64) -> bool {
        self.limit > 0 && now_us.saturating_add(AHEAD_US) >= self.ready_us
    }

    /// So much was done; `weight` times as long is to be waited for it.
    pub(crate) fn spend(&mut self, now_us: u64, bytes: u64, weight: u64) {
        let wait = u128::from(bytes) * u128::from(weight) * 1_000_000 / u128::from(self.limit.max(1));
        self.ready_us = self.ready_us.max(now_us).saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
    }

    /// Not before.
    pub(crate) fn hold(&mut self, until_us: u64) {
        self.ready_us = self.ready_us.max(until_us.saturating_add(AHEAD_US));
    }

    pub(crate) fn set(&mut self, limit: u64) {
        *self = Self::new(limit);
    }
}

/// Bytes a second, lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    began_us: u64,
    bytes: u64,
    before: u64,
}

/// What "lately" means.
const SPAN_US: u64 = 4_000_000;

impl Meter {
    pub(crate) fn add(&mut self, now_us: u64, bytes: u64) {
        let since = now_us.saturating_sub(self.began_us);
        if since >= SPAN_US {
            self.before = self.rate(now_us);
            self.began_us = now_us;
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    pub(crate) fn rate(&self, now_us: u64) -> u64 {
        let since = now_us.saturating_sub(self.began_us);
        if since < SPAN_US / 2 {
            return self.before;
        }
        let rate = u128::from(self.bytes) * 1_000_000 / u128::from(since);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_a_weight_makes_it_slower() {
        let mut pace = Pace::new(1_000_000);
        let (mut fast, mut slow) = (0, 0);
        for now in (0..1_000_000).step_by(1000) {
            if pace.may(now) {
                pace.spend(now, 10_000, 1);
                fast += 10_000u64;
            }
        }
        pace.set(1_000_000);
        for now in (0..1_000_000).step_by(1000) {
            if pace.may(now) {
                pace.spend(now, 10_000, 4);
                slow += 10_000u64;
            }
        }
        assert!((990_000..=1_070_000).contains(&fast) && (240_000..=280_000).contains(&slow), "{fast} {slow}");
        pace.set(0);
        assert!(!pace.may(u64::MAX));
    }

    #[test]
    fn a_meter_follows_and_falls_to_nothing() {
        let mut meter = Meter::default();
        for now in (0..10_000_000).step_by(10_000) {
            meter.add(now, 5_000);
        }
        assert!((450_000..=550_000).contains(&meter.rate(10_000_000)), "{}", meter.rate(10_000_000));
        assert!(meter.rate(200_000_000) < 20_000);
    }
}
