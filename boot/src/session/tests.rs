use std::collections::VecDeque;

use super::*;
use crate::report::Verdict;

fn passed(name: &str) -> TestResult {
    TestResult::new(name, Verdict::Passed)
}

/// Goes over boots that bring the given tests and leave the given number; returns after which test
/// each began.
fn go_over(
    boots: &[(&[&str], Result<usize, ()>)],
) -> (Vec<Option<String>>, Vec<TestResult>, Result<(), Failure>) {
    let mut boots: VecDeque<_> = boots.iter().collect();
    let mut began = Vec::new();
    let (results, ending) = over_boots(|after| {
        began.push(after.map(str::to_owned));
        let (names, left) = boots.pop_front().expect("it boots no more often than this");
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
fn each_boot_begins_after_the_test_that_the_last_one_died_of() {
    let (began, results, ending) =
        go_over(&[(&["a", "b"], Ok(3)), (&["c"], Ok(2)), (&["d", "e"], Ok(0))]);
    assert_eq!(began, [None, Some("b".into()), Some("c".into())]);
    assert_eq!(results.len(), 5);
    assert!(ending.is_ok());
}

#[test]
fn a_boot_after_the_last_test_is_saved() {
    // The very last test died: nothing is left, so there is no other boot.
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
fn a_kernel_that_begins_again_from_the_start_is_not_booted_for_ever() {
    let (_, _, ending) = go_over(&[(&["a"], Ok(3)), (&["a"], Ok(3))]);
    assert!(matches!(ending, Err(Failure::Protocol(_))));
}
