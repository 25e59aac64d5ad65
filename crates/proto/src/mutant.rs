//! Switches that break the store on purpose, so that the simulator can show that it would notice: one `is("…")` per
//! place, each beside the rule that it breaks. `crates/sim/src/mutants.rs` lists them with the invariant that each is
//! against. A build without debug assertions has none of it: there `is` is `false` before the optimizer looks.

/// Is the rule of this name broken in this thread?
#[cfg(debug_assertions)]
#[must_use]
pub fn is(name: &str) -> bool {
    BROKEN.get().is_some_and(|broken| broken == name)
}

/// Is the rule of this name broken in this thread? Never: this is a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub const fn is(_name: &str) -> bool {
    false
}

#[cfg(debug_assertions)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Break one rule in this thread while `work` runs; the rest of the process goes by all rules.
#[cfg(debug_assertions)]
pub fn with<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    struct Mend;
    impl Drop for Mend {
        fn drop(&mut self) {
            BROKEN.set(None);
        }
    }
    BROKEN.set(Some(name));
    let _mend = Mend; // also when `work` panics, which is one way of noticing
    work()
}

/// Does `test` fail while the rule is broken? What it prints on the way is what it says when it fails.
#[cfg(debug_assertions)]
pub fn is_noticed(name: &'static str, test: fn()) -> bool {
    std::panic::catch_unwind(|| with(name, test)).is_err()
}
