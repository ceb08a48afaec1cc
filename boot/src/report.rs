//! Results of tests: on the terminal as they come, in total, and as JUnit.

use std::{fmt::Write as _, io::Write as _, path::Path, time::Duration};

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::failure::Failure;

/// How one test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// Its name: `module::function`.
    pub name: String,
    /// Its outcome.
    pub verdict: Verdict,
    /// How long it took; unknown for tests on the host.
    pub took: Option<Duration>,
    /// What it cost inside the machine: `1,234 instructions`.
    pub cost: Option<String>,
    /// What it wrote.
    pub text: String,
}

/// The outcome of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it should.
    Passed,
    /// It was not run.
    Ignored,
    /// It did not pass.
    Failed {
        /// In one word or two: `panicked`, `timed out`.
        how: &'static str,
        /// What is known about it.
        reason: String,
    },
}

impl TestResult {
    /// Writes it to the terminal: a line, and for a failure what it wrote.
    pub fn print(&self) {
        match &self.verdict {
            Verdict::Passed => {
                let cost = self
                    .cost
                    .as_ref()
                    .map(|cost| format!(" ({cost})"))
                    .unwrap_or_default();
                println!("test {} ... ok{cost}", self.name);
            }
            Verdict::Ignored => println!("test {} ... ignored", self.name),
            Verdict::Failed { how, reason } => {
                println!("test {} ... FAILED ({how}): {reason}", self.name);
                for line in self.text.lines() {
                    println!("    | {line}");
                }
            }
        }
    }
}

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The results of all tests, in suites.
#[derive(Debug, Default)]
pub struct Report {
    suites: Vec<(String, Vec<TestResult>)>,
}

impl Report {
    /// Adds the results of the suite `name`.
    pub fn add(&mut self, name: &str, results: Vec<TestResult>) {
        self.suites.push((name.into(), results));
    }

    /// Whether no test was run or ignored.
    pub fn is_empty(&self) -> bool {
        self.suites.iter().all(|(_, results)| results.is_empty())
    }

    /// The sum over all suites.
    pub fn totals(&self) -> Totals {
        self.suites.iter().flat_map(|(_, results)| results).fold(
            Totals::default(),
            |mut totals, result| {
                match result.verdict {
                    Verdict::Passed => totals.passed += 1,
                    Verdict::Failed { .. } => totals.failed += 1,
                    Verdict::Ignored => {}
                }
                totals
            },
        )
    }

    /// Writes it to `file` as JUnit XML, all or nothing.
    pub fn write_junit(&self, file: &Path) -> Result<(), Failure> {
        let mut report = quick_junit::Report::new("heap");
        for (name, results) in &self.suites {
            let mut suite = TestSuite::new(name.as_str());
            suite.add_test_cases(results.iter().map(|result| test_case(name, result)));
            report.add_test_suite(suite);
        }
        let xml = report.to_string().map_err(|error| Failure::Io {
            what: "cannot write JUnit XML".into(),
            error: std::io::Error::other(error),
        })?;
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
            temporary.write_all(xml.as_bytes())?;
            temporary.persist(file)?;
            Ok(())
        };
        write().map_err(Failure::io("cannot write", file))
    }
}

fn test_case(suite: &str, result: &TestResult) -> TestCase {
    let status = match &result.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Ignored => TestCaseStatus::skipped(),
        Verdict::Failed { how, reason } => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(*how).set_message(reason.as_str());
            status
        }
    };
    let mut case = TestCase::new(result.name.as_str(), status);
    case.set_classname(suite);
    if let Some(took) = result.took {
        case.set_time(took);
    }
    let mut output = result.text.clone();
    if let Some(cost) = &result.cost {
        writeln!(output, "{cost}").expect("a string takes all");
    }
    if !output.is_empty() {
        case.set_system_out(output);
    }
    case
}

/// `1234567` as `1,234,567`.
pub fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
