//! Every parser under fire: some thousand rounds in the test suite, `make fuzz MINUTES=n` for as long as you like.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::env;
use std::time::{Duration, Instant};

use yuntai_sim::fuzz::{round, TARGETS};

/// What one round may have allocated at a time: far above any honest need, far below what a length can claim.
const BYTES_MAX: i64 = 96 << 20;

struct Counting;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    NOW.set(NOW.get() + bytes);
    PEAK.set(PEAK.get().max(NOW.get()));
}

// SAFETY: every call goes to the system's allocator as it came; the counting touches only this thread's two numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(i64::try_from(layout.size()).unwrap_or(i64::MAX / 2));
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-i64::try_from(layout.size()).unwrap_or(0));
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_parser_panics_or_takes_memory_for_a_claim() {
    let minutes: Option<u64> = env::var("MINUTES").ok().map(|text| text.parse().expect("a number"));
    let first: u64 = env::var("FIRST").map_or(0, |text| text.parse().expect("a number"));
    let only = env::var("ONLY").unwrap_or_default();
    let end = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (mut pass, mut rounds) = (0, 0);
    loop {
        for target in TARGETS.iter().filter(|(name, ..)| name.contains(&only)) {
            for seed in first + pass * target.2..first + (pass + 1) * target.2 {
                PEAK.set(NOW.get());
                let before = NOW.get();
                let caught = std::panic::catch_unwind(|| round(target, seed));
                let replay = format!("replay: ONLY={:?} FIRST={seed} cargo test -p yuntai-sim --test fuzz", target.0);
                assert!(caught.is_ok(), "{}: panic with seed {seed}; {replay}", target.0);
                let taken = PEAK.get() - before;
                assert!(taken <= BYTES_MAX, "{}: {taken} bytes with seed {seed}; {replay}", target.0);
                rounds += 1;
            }
            if end.is_some_and(|end| Instant::now() > end) {
                return println!("{rounds} rounds");
            }
        }
        pass += 1;
        if end.is_none() {
            return println!("{rounds} rounds");
        }
    }
}
