//! What the volumes of one gateway share: how much is copied from sources and kept beside the guests, all together.
//!
//! Two hundred disks made from one image may start in the same second. If each of them copied at its own pace, their
//! copies would stand in the queues of the same chunk servers, and a write of somebody else's disk behind all of them.
//! So the pace, and the bytes under way, are the gateway's; and a guest at work on one disk slows the copying for all.
//! Between gateways there is no such sum: there a source that answers slowly is left alone for a while
//! (`Volume::copying_took`).
//!
//! Rebuilding has a pace of its own, the gateway's as well: so many pulls at a time, each with its part of the rate. The
//! parts change while pulls run (`Volume::pace_pulls`): a pull that ends leaves its part to the others, and all of them
//! slow down when a guest begins to work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::api::Micros;

/// Bytes being copied or kept, of all volumes. More would only wait in the servers' queues.
const UNDER_WAY_BYTES_MAX: u64 = 8 << 20;
/// Pulls that nobody waits for, of all volumes.
const PULLS_MAX: usize = 8;
/// With less than this each there are fewer of them: a pull has a time limit.
const PULL_BYTES_PER_S_MIN: u64 = 4 << 20;
/// A volume of which nothing was done for so long waits for servers that are away: the others need not wait with it.
const STUCK_US: Micros = 2_000_000;

#[derive(Debug, Default)]
struct Totals {
    under_way: Cell<u64>,
    guest_at: Cell<Micros>,
    pace: RefCell<Pace>,
    pulls: Cell<usize>,
}

#[derive(Debug, Default)]
struct Pace {
    /// What may be copied now, in bytes; may be overdrawn by what was under way.
    allowance: i64,
    refilled_at: Micros,
}

/// One volume's side of it. Dropped with its volume, it gives back what that volume had under way.
#[derive(Debug, Default)]
pub(crate) struct Background {
    totals: Rc<Totals>,
    mine: u64,
    /// Pulls of this volume among those of all.
    pulls: usize,
    /// When some of mine was last done.
    moved_at: Micros,
}

/// What the volumes of a gateway share; give it to each ([`crate::Volume::sharing`]).
#[derive(Clone, Debug, Default)]
pub struct Shared(Rc<Totals>);

impl Background {
    pub fn of(shared: &Shared) -> Self {
        Self { totals: Rc::clone(&shared.0), mine: 0, pulls: 0, moved_at: 0 }
    }

    /// A guest asked for something.
    pub fn guest(&self, now: Micros) {
        self.totals.guest_at.set(now);
    }

    /// When a guest last asked for something, 0 = never.
    pub fn guest_at(&self) -> Micros {
        self.totals.guest_at.get()
    }

    /// Begin with so many bytes, if there is room for them; the first ones always have it.
    pub fn begin(&mut self, bytes: u64, now: Micros) -> bool {
        let under_way = self.totals.under_way.get();
        if under_way > 0 && under_way + bytes > UNDER_WAY_BYTES_MAX {
            return false;
        }
        if self.mine == 0 {
            self.moved_at = now;
        }
        self.totals.under_way.set(under_way + bytes);
        self.mine += bytes;
        true
    }

    /// They are done. What was given back meanwhile ([`Self::tick`]) is not given back twice.
    pub fn end(&mut self, bytes: u64, now: Micros) {
        self.moved_at = now;
        self.give_back(bytes);
    }

    /// Give all back that is stuck; it may still be done one day, beside what others began.
    pub fn tick(&mut self, now: Micros) {
        if self.mine > 0 && now.saturating_sub(self.moved_at) > STUCK_US {
            self.give_back(self.mine);
        }
    }

    fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.mine);
        self.mine -= bytes;
        self.totals.under_way.set(self.totals.under_way.get() - bytes);
    }

    /// So many pulls of this volume take part in the rate.
    pub fn set_pulls(&mut self, pulls: usize) {
        self.totals.pulls.set(self.totals.pulls.get() - self.pulls + pulls);
        self.pulls = pulls;
    }

    /// Is there room for one more pull that nobody waits for?
    pub fn may_pull(&self, rate: u64) -> bool {
        let room = usize::try_from(rate / PULL_BYTES_PER_S_MIN).unwrap_or(PULLS_MAX).clamp(1, PULLS_MAX);
        rate > 0 && self.totals.pulls.get() < room
    }

    /// What each pull may take of the rate; 0 = as fast as can be.
    pub fn share(&self, rate: u64) -> u64 {
        if rate == u64::MAX {
            return 0;
        }
        (rate / self.totals.pulls.get().max(1) as u64).max(1)
    }

    /// Time passed at `rate` bytes a second. At most a tenth of a second is saved up.
    pub fn refill(&self, rate: u64, now: Micros) {
        let mut pace = self.totals.pace.borrow_mut();
        let passed = now.saturating_sub(pace.refilled_at).min(100_000);
        pace.refilled_at = now.max(pace.refilled_at);
        pace.allowance = (pace.allowance + (rate * passed / 1_000_000) as i64).min((rate / 10) as i64);
    }

    pub fn allowed(&self) -> bool {
        self.totals.pace.borrow().allowance > 0
    }

    pub fn spend(&self, bytes: u64) {
        self.totals.pace.borrow_mut().allowance -= bytes as i64;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.give_back(self.mine);
        self.set_pulls(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_of_all_and_comes_back_with_who_had_it() {
        let shared = Shared::default();
        let (mut one, mut other) = (Background::of(&shared), Background::of(&shared));
        assert!(one.begin(UNDER_WAY_BYTES_MAX - 1, 0) && other.begin(1, 0) && !other.begin(1, 0));
        drop(one);
        assert!(other.begin(UNDER_WAY_BYTES_MAX - 1, 0) && !other.begin(1, 0));
        other.end(1, 0);
        assert!(other.begin(1, 0));
    }

    #[test]
    fn a_piece_larger_than_all_the_room_is_begun_alone() {
        let shared = Shared::default();
        let (mut one, mut other) = (Background::of(&shared), Background::of(&shared));
        assert!(one.begin(2 * UNDER_WAY_BYTES_MAX, 0) && !other.begin(1, 0));
        one.end(2 * UNDER_WAY_BYTES_MAX, 0);
        assert!(other.begin(1, 0));
    }

    #[test]
    fn a_volume_whose_servers_are_away_does_not_hold_up_the_others() {
        let shared = Shared::default();
        let (mut stuck, mut other) = (Background::of(&shared), Background::of(&shared));
        assert!(stuck.begin(UNDER_WAY_BYTES_MAX, 5));
        stuck.tick(5 + STUCK_US);
        assert!(!other.begin(1, 5 + STUCK_US));
        stuck.tick(6 + STUCK_US);
        assert!(other.begin(UNDER_WAY_BYTES_MAX, 6 + STUCK_US));
        stuck.end(UNDER_WAY_BYTES_MAX, 7 + STUCK_US); // done after all
        assert!(!stuck.begin(1, 7 + STUCK_US));
    }

    #[test]
    fn pulls_of_all_volumes_have_one_rate_and_one_room() {
        let shared = Shared::default();
        let (mut one, mut other) = (Background::of(&shared), Background::of(&shared));
        let rate = 400 << 20;
        assert_eq!((one.may_pull(0), one.may_pull(1), one.share(rate)), (false, true, rate));
        one.set_pulls(1);
        other.set_pulls(3);
        assert_eq!((one.share(rate), other.share(rate), one.share(u64::MAX)), (rate / 4, rate / 4, 0));
        assert!(one.may_pull(rate) && !one.may_pull(4 * PULL_BYTES_PER_S_MIN));
        other.set_pulls(PULLS_MAX - 1);
        assert!(!one.may_pull(rate));
        drop(other);
        assert!(one.may_pull(rate));
        assert_eq!(one.share(rate), rate);
    }

    #[test]
    fn two_volumes_copy_no_faster_than_one() {
        let shared = Shared::default();
        let volumes = [Background::of(&shared), Background::of(&shared)];
        let (mut copied, rate) = (0u64, 1_000_000);
        for now in (10_000..=1_000_000).step_by(10_000) {
            for volume in &volumes {
                volume.refill(rate, now);
                while volume.allowed() {
                    volume.spend(1000);
                    copied += 1000;
                }
            }
        }
        assert!(copied.abs_diff(rate) <= 2000, "{copied}");
    }
}
