//! Results of tests: on the terminal, as totals, and as JUnit.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use tempfile::NamedTempFile;

use crate::{
    failure::Failure,
    host::folder_of,
    terminal::{self, Color},
};

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestResult {
    /// The test's name: `module::function`.
    pub name: String,
    /// Its outcome.
    pub verdict: Verdict,
    /// How long it took. `None` for tests on the host.
    pub took: Option<Duration>,
    /// The cost in the machine, such as `1,234 instructions`.
    pub cost: Option<String>,
    /// The output of the test.
    pub text: String,
}

/// The outcome of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The test passed.
    Passed,
    /// The test did not run.
    Ignored,
    /// The test failed.
    Failed {
        /// The kind of failure in one or two words, such as `panicked` or `timed out`.
        how: &'static str,
        /// The reason.
        reason: String,
    },
}

impl TestResult {
    /// Returns a result without time, cost and output.
    pub(crate) fn new(name: &str, verdict: Verdict) -> Self {
        Self {
            name: name.into(),
            verdict,
            took: None,
            cost: None,
            text: String::new(),
        }
    }

    /// Writes the result to the terminal: one line, and for a failure the end of its output.
    pub(crate) fn print(&self) {
        let name = &self.name;
        match &self.verdict {
            Verdict::Passed => {
                let cost = self
                    .cost
                    .as_ref()
                    .map(|cost| format!(" ({cost})"))
                    .unwrap_or_default();
                let word = terminal::paint("ok", Color::Green);
                terminal::show_line(&format!("test {name} ... {word}{cost}"));
            }
            Verdict::Ignored => terminal::show_line(&format!("test {name} ... ignored")),
            Verdict::Failed { how, reason } => {
                let how = match *how {
                    "failed" => String::new(),
                    how => format!(" ({how})"),
                };
                let word = terminal::paint("FAILED", Color::Red);
                terminal::show_line(&format!("test {name} ... {word}{how}: {reason}"));
                let lines: Vec<_> = self.text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(TAIL)..];
                if tail.len() < lines.len() {
                    terminal::show_line(&format!(
                        "    | ({} lines before these)",
                        lines.len() - tail.len()
                    ));
                }
                for line in tail {
                    terminal::show_line(&format!("    | {line}"));
                }
            }
        }
    }
}

/// This many lines of the output of a failed test are shown. JUnit has all lines.
const TAIL: usize = 40;

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The number of tests that passed.
    pub passed: usize,
    /// The number of tests that failed.
    pub failed: usize,
    /// The number of tests that a program of its own skipped. An ignored test is not counted.
    pub skipped: usize,
}

impl Totals {
    /// Reads `N passed, N failed`, perhaps with `, N skipped`. `None` if the line has another form.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(", ");
        let mut number = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
        let passed = number(" passed")?;
        let failed = number(" failed")?;
        let rest = parts.next();
        let skipped = match rest {
            Some(part) => part.strip_suffix(" skipped")?.parse().ok()?,
            None => 0,
        };
        parts.next().is_none().then_some(Self {
            passed,
            failed,
            skipped,
        })
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

/// The results of all suites.
#[derive(Debug, Default)]
pub(crate) struct Report {
    suites: Vec<(String, Vec<TestResult>)>,
}

impl Report {
    /// Adds the results of the suite `name`.
    pub(crate) fn add(&mut self, name: &str, results: Vec<TestResult>) {
        self.suites.push((name.into(), results));
    }

    /// Shows what the tests that passed have printed.
    pub(crate) fn show_output(&self) {
        let results = self.suites.iter().flat_map(|(_, results)| results);
        let is_shown = |it: &&TestResult| it.verdict == Verdict::Passed && !it.text.is_empty();
        for result in results.filter(is_shown) {
            terminal::show_line(&format!("\n---- {} ----", result.name));
            terminal::show_line(result.text.trim_end());
        }
    }

    /// Returns whether the report has no results.
    pub(crate) fn is_empty(&self) -> bool {
        self.suites.iter().all(|(_, results)| results.is_empty())
    }

    /// Returns the sum over all suites.
    pub(crate) fn totals(&self) -> Totals {
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

    /// Returns the report as JUnit XML.
    fn junit(&self) -> quick_junit::Report {
        let names: Vec<_> = self.suites.iter().map(|(name, _)| &**name).collect();
        let mut report = quick_junit::Report::new(names.join("; "));
        for (name, results) in &self.suites {
            let mut suite = TestSuite::new(name.as_str());
            suite.add_test_cases(results.iter().map(|result| test_case(name, result)));
            report.add_test_suite(suite);
        }
        report
    }
}

/// A file for the report as JUnit XML. A temporary file is written and renamed, so no reader sees
/// an incomplete report.
#[derive(Debug)]
pub(crate) struct JunitFile<'a> {
    file: &'a Path,
    temporary: NamedTempFile,
    /// Is dropped after the temporary file, which is in the innermost of them.
    folders: NewFolders,
}

/// Folders that this program made, the outermost first. Dropping this value removes those that are
/// still empty.
#[derive(Debug, Default)]
struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes `folder`, and the folders around it that do not exist.
    fn make(folder: &Path) -> std::io::Result<Self> {
        let mut made = Self::default();
        let missing: Vec<_> = folder
            .ancestors()
            .take_while(|it| !it.as_os_str().is_empty() && !it.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder)?;
            made.0.push(folder.into());
        }
        Ok(made)
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // A folder with a file stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl<'a> JunitFile<'a> {
    /// Creates the temporary file, before the tests run.
    ///
    /// # Errors
    /// If `file` cannot be written.
    pub(crate) fn create(file: &'a Path) -> Result<Self, Failure> {
        let folder = folder_of(file);
        let create = || {
            let folders = NewFolders::make(folder)?;
            let temporary = NamedTempFile::new_in(folder)?;
            Ok(Self {
                file,
                temporary,
                folders,
            })
        };
        create().map_err(Failure::io("cannot write", file))
    }

    /// Writes `report` to the file.
    pub(crate) fn write(self, report: &Report) -> Result<(), Failure> {
        let Self {
            file,
            mut temporary,
            folders: _folders,
        } = self;
        report
            .junit()
            .serialize(&mut temporary)
            .map_err(std::io::Error::other)
            .and_then(|()| Ok(temporary.persist(file).map(drop)?))
            .map_err(Failure::io("cannot write", file))
    }
}

/// Returns a result as an element of JUnit.
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
        writeln!(output, "{cost}").expect("writing to a string does not fail");
    }
    if !output.is_empty() {
        case.set_system_out(output);
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, verdict: Verdict, text: &str) -> TestResult {
        TestResult {
            name: name.into(),
            verdict,
            took: None,
            cost: None,
            text: text.into(),
        }
    }

    fn failed(reason: &str) -> Verdict {
        Verdict::Failed {
            how: "faulted",
            reason: reason.into(),
        }
    }

    fn report() -> Report {
        let mut report = Report::default();
        report.add(
            "host",
            vec![
                result("a", Verdict::Passed, ""),
                result("b", Verdict::Ignored, ""),
            ],
        );
        report.add(
            "kernel",
            vec![
                result("c", Verdict::Passed, ""),
                result("d", failed("a < b & c"), "\x1b[2J\u{0}"),
            ],
        );
        report
    }

    #[test]
    fn totals_are_read_as_they_are_written() {
        for (skipped, text) in [
            (0, "3 passed, 2 failed"),
            (4, "3 passed, 2 failed, 4 skipped"),
        ] {
            let totals = Totals {
                passed: 3,
                failed: 2,
                skipped,
            };
            assert_eq!(totals.to_string(), text);
            assert_eq!(Totals::parse(text), Some(totals));
        }
        for text in [
            "",
            "3 passed",
            "3 passed, x failed",
            "3 passed, 2 failed, 4 left",
        ] {
            assert_eq!(Totals::parse(text), None, "{text}");
        }
    }

    #[test]
    fn totals_cover_all_suites_without_ignored_tests() {
        assert_eq!(report().totals().to_string(), "2 passed, 1 failed");
        assert!(!report().is_empty());
        assert!(Report::default().is_empty());
    }

    #[test]
    fn junit_is_well_formed_with_control_characters_in_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/junit.xml");
        JunitFile::create(&file).unwrap().write(&report()).unwrap();
        let xml = std::fs::read_to_string(&file).unwrap();
        assert!(
            xml.contains(r#"tests="4" skipped="1" failures="1""#),
            "{xml}"
        );
        assert!(
            xml.contains("a &lt; b &amp; c") && xml.contains(r#"type="faulted""#),
            "{xml}"
        );
        assert!(!xml.contains(['\x1b', '\0']), "{xml}");
        assert!(xml.contains(r#"<testsuites name="host; kernel""#), "{xml}");
        // No temporary file is left.
        assert_eq!(folder.path().join("new").read_dir().unwrap().count(), 1);
    }

    #[test]
    fn folders_for_a_report_that_is_not_written_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/junit.xml");
        drop(JunitFile::create(&file).unwrap());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        // Folders from before stay, and so does one with another file.
        fs::create_dir(folder.path().join("a")).unwrap();
        let junit = JunitFile::create(&file).unwrap();
        fs::write(folder.path().join("a/b/other"), "").unwrap();
        drop(junit);
        assert_eq!(folder.path().join("a/b").read_dir().unwrap().count(), 1);
        assert!(JunitFile::create(&folder.path().join("a/b/other/c/junit.xml")).is_err());
    }
}
