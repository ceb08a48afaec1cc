use std::collections::VecDeque;

use super::*;
use crate::report::Verdict;

fn passed(name: &str) -> TestResult {
    TestResult::new(name, Verdict::Passed)
}

/// Runs a session whose boots have the given results and numbers of tests left. Returns the test
/// before the first of each boot, the results and the ending.
fn go_over(
    boots: &[(&[&str], Result<usize, ()>)],
) -> (Vec<Option<String>>, Vec<TestResult>, Result<(), Failure>) {
    let mut boots: VecDeque<_> = boots.iter().collect();
    let mut began = Vec::new();
    let (results, ending) = over_boots(|after| {
        began.push(after.map(str::to_owned));
        let (names, left) = boots.pop_front().expect("too many boots");
        Ok(Booted {
            results: names.iter().copied().map(passed).collect(),
            left: left.map_err(|()| Failure::Panicked),
            text: String::new(),
        })
    });
    assert!(boots.is_empty(), "{} boots too few", boots.len());
    (began, results, ending)
}

#[test]
fn each_boot_begins_after_the_test_that_ended_the_last_one() {
    let (began, results, ending) =
        go_over(&[(&["a", "b"], Ok(3)), (&["c"], Ok(2)), (&["d", "e"], Ok(0))]);
    assert_eq!(began, [None, Some("b".into()), Some("c".into())]);
    assert_eq!(results.len(), 5);
    assert!(ending.is_ok());
}

#[test]
fn no_boot_follows_the_last_test() {
    // The last test ended its boot, and no test is left.
    let (began, ..) = go_over(&[(&["a", "b"], Ok(0))]);
    assert_eq!(began, [None]);
}

#[test]
fn results_before_a_failure_are_kept() {
    let (_, results, ending) = go_over(&[(&["a"], Ok(3)), (&["b"], Err(()))]);
    assert_eq!(results.len(), 2);
    assert!(matches!(ending, Err(Failure::Panicked)));
}

#[test]
fn a_kernel_that_repeats_tests_ends_the_session() {
    let (_, _, ending) = go_over(&[(&["a"], Ok(3)), (&["a"], Ok(3))]);
    assert!(matches!(ending, Err(Failure::Protocol(_))));
}
