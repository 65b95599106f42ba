//! Runs that a busy host can spoil: it makes calls late, and then less is admitted and more refused than the limiter answers for.

use std::fmt::Debug;

/// How many runs a host is given.
const RUNS_MAX: u32 = 8;

/// The first of a few runs that shows what is looked for. What holds on the slowest of hosts `run` asserts itself, of each.
pub(crate) fn best_of_a_few<T: Debug>(mut run: impl FnMut() -> T, shows: impl Fn(&T) -> bool) -> T {
    let mut seen = Vec::new();
    for _ in 0..RUNS_MAX {
        let came_to = run();
        if shows(&came_to) {
            return came_to;
        }
        seen.push(came_to);
    }
    panic!("none of {RUNS_MAX} runs shows it: {seen:#?}");
}
