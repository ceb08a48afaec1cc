use super::*;

/// A boot of the tests, with a clock that the test moves.
struct Boot {
    watch: BootWatch,
    now: Duration,
}

impl Boot {
    fn new() -> Self {
        Self::with(Scale {
            deadline: Some(1),
            unit: "instructions",
            ticks_per_unit: 1,
        })
    }

    fn with(scale: Scale) -> Self {
        Self {
            watch: BootWatch::new(scale, |_| {}),
            now: Duration::ZERO,
        }
    }

    /// The kernel writes `lines`, a second apart.
    fn writes(mut self, lines: &[&str]) -> Self {
        for line in lines {
            self.now += Duration::from_secs(1);
            self.take(line).unwrap();
        }
        self
    }

    fn take(&mut self, line: &str) -> Result<(), Failure> {
        let text = format!("{line}\n");
        let piece = Record::parse(line).map_or(Piece::Text(text.as_bytes()), Piece::Record);
        self.watch.take(piece, self.moment())
    }

    /// Twice the time of the clock has passed.
    fn moment(&self) -> Moment {
        Moment {
            clock: self.now,
            passed: self.now * 2,
        }
    }

    fn refuses(mut self, line: &str) -> String {
        self.take(line).unwrap_err().to_string()
    }

    fn exits(self, exit: Exit) -> Booted {
        let now = self.moment();
        self.watch.end(End::Exit(exit), now)
    }

    fn killed(self) -> Booted {
        let now = self.moment();
        self.watch.end(End::Killed, now)
    }

    fn due_in(&self) -> Option<Duration> {
        self.watch.due().map(|due| due - self.now)
    }
}

const BEGIN_A: &str = "@begin m::a deadline=10";
const PASS_A: &str = "@end m::a passed instructions=3200 frames=5..5";
const BEGIN_B: &str = "@begin m::b deadline=7";

fn outcomes(booted: &Booted) -> Vec<(&str, &str)> {
    booted
        .results
        .iter()
        .map(|result| match &result.verdict {
            Verdict::Passed => (&*result.name, "passed"),
            Verdict::Ignored => (&*result.name, "ignored"),
            Verdict::Failed { how, .. } => (&*result.name, *how),
        })
        .collect()
}

#[test]
fn a_boot_in_which_all_tests_end_leaves_none() {
    let booted = Boot::new()
        .writes(&["@ready", "@tests 2", BEGIN_A, PASS_A, BEGIN_B])
        .writes(&[
            "@end m::b failed instructions=1 frames=5..6 reason=leaked",
            "@done passed=1 failed=1",
        ])
        .exits(Exit::Kernel(ExitCode::Failed));
    assert_eq!(outcomes(&booted), [("m::a", "passed"), ("m::b", "failed")]);
    assert_eq!(booted.left.unwrap(), 0);
    assert_eq!(booted.results[0].took, Some(Duration::from_secs(2)));
}

#[test]
fn a_filter_without_matches_is_no_failure_of_the_kernel() {
    let booted = Boot::new()
        .writes(&["@ready", "@tests 0", "@done passed=0 failed=0"])
        .exits(Exit::Kernel(ExitCode::Success));
    assert_eq!((booted.results.len(), booted.left.unwrap()), (0, 0));
}

#[test]
fn tests_after_an_expected_panic_are_left_for_the_next_boot() {
    for exit in [
        Exit::Kernel(ExitCode::Panicked),
        Exit::Kernel(ExitCode::Faulted),
    ] {
        let booted = Boot::new()
            .writes(&["@ready", "@tests 3", BEGIN_A, PASS_A])
            .exits(exit);
        assert_eq!(outcomes(&booted), [("m::a", "passed")]);
        assert_eq!(booted.left.unwrap(), 2);
    }
}

#[test]
fn the_end_of_the_boot_is_the_verdict_of_a_running_test() {
    let deaths = [
        (Exit::Kernel(ExitCode::Panicked), "panicked"),
        (Exit::Kernel(ExitCode::Faulted), "faulted"),
        (Exit::Reset, "reset"),
        (Exit::Kernel(ExitCode::Success), "died"),
    ];
    for (exit, how) in deaths {
        let booted = Boot::new()
            .writes(&["@ready", "@tests 3", BEGIN_A, PASS_A, BEGIN_B, "last words"])
            .exits(exit);
        assert_eq!(outcomes(&booted), [("m::a", "passed"), ("m::b", how)]);
        assert_eq!(booted.results[1].text, "last words\n");
        assert_eq!(booted.left.unwrap(), 1);
    }
}

#[test]
fn a_test_that_hangs_is_killed_at_its_own_deadline() {
    let boot = Boot::new();
    assert_eq!(boot.due_in(), Some(BOOT_LIMIT));
    let boot = boot.writes(&["@ready", "@tests 2", BEGIN_B]);
    assert_eq!(boot.due_in(), Some(Duration::from_secs(7)));
    let booted = boot.killed();
    assert_eq!(outcomes(&booted), [("m::b", "timed out")]);
    assert_eq!(booted.left.unwrap(), 1);
}

#[test]
fn deadlines_are_scaled_or_left_out() {
    let scale = |deadline| Scale {
        deadline,
        unit: "cycles",
        ticks_per_unit: 1,
    };
    let due = |deadline| {
        Boot::with(scale(deadline))
            .writes(&["@ready", "@tests 1", BEGIN_A])
            .due_in()
    };
    assert_eq!(due(Some(3)), Some(Duration::from_secs(30)));
    assert_eq!(due(None), None);
}

#[test]
fn a_test_fails_if_the_kernel_hangs_after_it() {
    let booted = Boot::new()
        .writes(&["@ready", "@tests 2", BEGIN_A, PASS_A])
        .killed();
    assert_eq!(outcomes(&booted), [("m::a", "timed out")]);
    assert_eq!(booted.left.unwrap(), 1);
}

#[test]
fn a_boot_without_a_test_ends_the_session_with_a_reason() {
    let why = |booted: Booted| booted.left.unwrap_err().to_string();
    assert_eq!(
        why(Boot::new().killed()),
        "timed out: no sign of life from the kernel within 60 s"
    );
    assert_eq!(
        why(Boot::new().writes(&["@ready"]).killed()),
        "timed out: no next test within 60 s"
    );
    assert_eq!(
        why(Boot::new().exits(Exit::Reset)),
        Failure::Reset.to_string()
    );
    assert_eq!(
        why(Boot::new()
            .writes(&["@ready"])
            .exits(Exit::Kernel(ExitCode::Faulted))),
        Failure::Faulted.to_string()
    );
    let refused = Boot::new()
        .writes(&["@ready", "config: no such key"])
        .exits(Exit::Kernel(ExitCode::Refused));
    assert_eq!(refused.text, "config: no such key\n");
    assert_eq!(why(refused), Failure::Refused.to_string());
    assert!(
        why(Boot::new()
            .writes(&["@ready", "@tests 2"])
            .exits(Exit::Kernel(ExitCode::Success)))
        .contains("before its first test")
    );
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let ready = || Boot::new().writes(&["@ready", "@tests 2"]);
    assert!(
        ready()
            .writes(&[BEGIN_A])
            .refuses(BEGIN_B)
            .contains("m::b begins before m::a ends")
    );
    assert!(
        ready()
            .refuses(PASS_A)
            .contains("m::a ends and has not begun")
    );
    assert!(
        ready()
            .writes(&[BEGIN_B])
            .refuses(PASS_A)
            .contains("m::a ends and has not begun")
    );
    assert!(
        ready()
            .refuses("@run-tests")
            .contains("the tests ask for the tests")
    );
    let why = |lines: &[&str], exit| {
        Boot::new()
            .writes(lines)
            .exits(exit)
            .left
            .unwrap_err()
            .to_string()
    };
    let count = why(
        &["@tests 1", BEGIN_A, PASS_A, "@done passed=0 failed=1"],
        Exit::Kernel(ExitCode::Failed),
    );
    assert!(
        count.contains("counts 0 passed and 1 failed, its records say 1 and 0"),
        "{count}"
    );
    let missing = why(
        &["@tests 2", BEGIN_A, PASS_A, "@done passed=1 failed=0"],
        Exit::Kernel(ExitCode::Success),
    );
    assert!(missing.contains("1 of 2 tests have not run"), "{missing}");
    let more = why(
        &["@tests 0", BEGIN_A, PASS_A],
        Exit::Kernel(ExitCode::Panicked),
    );
    assert!(more.contains("0 tests announced, 1 ended"), "{more}");
    assert!(
        why(&[BEGIN_A, PASS_A], Exit::Kernel(ExitCode::Panicked))
            .contains("no tests were announced")
    );
}

#[test]
fn a_crash_after_the_last_record_is_no_success() {
    let done = || {
        Boot::new().writes(&[
            "@ready",
            "@tests 1",
            BEGIN_A,
            PASS_A,
            "@done passed=1 failed=0",
        ])
    };
    assert_eq!(
        done().exits(Exit::Kernel(ExitCode::Success)).left.unwrap(),
        0
    );
    assert!(matches!(
        done().exits(Exit::Reset).left,
        Err(Failure::Reset)
    ));
    assert!(matches!(
        done().exits(Exit::Kernel(ExitCode::Panicked)).left,
        Err(Failure::Panicked)
    ));
    assert!(matches!(
        done().killed().left,
        Err(Failure::TimedOut { .. })
    ));
}

#[test]
fn costs_are_instructions_for_each_step_of_the_counter() {
    let cost = |ticks_per_unit| {
        let scale = Scale {
            deadline: Some(1),
            unit: "instructions",
            ticks_per_unit,
        };
        let booted = Boot::with(scale)
            .writes(&["@tests 1", BEGIN_A, PASS_A])
            .exits(Exit::Kernel(ExitCode::Panicked));
        booted.results[0].cost.clone().unwrap()
    };
    assert_eq!(cost(1), "3,200 instructions");
    assert_eq!(cost(32), "100 instructions");
}

#[test]
fn a_change_in_frames_is_shown_only_if_the_test_failed() {
    let cost = |end: &str| {
        let booted = Boot::new()
            .writes(&["@tests 1", BEGIN_A, end])
            .exits(Exit::Kernel(ExitCode::Panicked));
        booted.results[0].cost.clone().unwrap()
    };
    assert_eq!(
        cost("@end m::a failed instructions=2 frames=5..7 reason=leaked"),
        "2 instructions, 5 frames before and 7 after"
    );
    // The kernel has allowed the difference.
    let passed = cost("@end m::a passed instructions=2 frames=5..7");
    assert_eq!(passed, "2 instructions");
}
