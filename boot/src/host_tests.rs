//! The tests that run on the host: `cargo test` with the toolchain that built this program, and the
//! heap's tests once more as 32-bit programs.

use std::{
    io::{self, BufRead, BufReader, PipeReader},
    process::{Command, Stdio},
    thread,
};

use crate::{
    failure::Failure,
    host::cargo,
    packages::AptGet,
    process,
    project::Project,
    report::{TestResult, Verdict},
    terminal,
    toolchain::Toolchain,
};

/// Runs the tests whose names contain `filter`, shows their output as it comes, and returns their
/// results.
pub(crate) fn run(project: &Project, filter: Option<&str>) -> Result<Vec<TestResult>, Failure> {
    let mut command = Command::new(cargo());
    command
        .args(["test", "--no-fail-fast"])
        .args(filter)
        .current_dir(project.root());
    collect(command)
}

/// The 32-bit target. Its standard library is compiled from source, like the kernel's.
const TARGET_32_BIT: &str = "i686-unknown-linux-gnu";

/// The package that links 32-bit programs.
const PACKAGE_32_BIT: &str = "gcc-multilib";

/// Runs the heap's tests whose names contain `filter` as 32-bit programs.
pub(crate) fn run_32_bit(
    project: &Project,
    toolchain: &Toolchain,
    filter: Option<&str>,
) -> Result<Vec<TestResult>, Failure> {
    if !links_32_bit(project)? {
        let installed = match AptGet::find() {
            Some(mut apt_get) => apt_get.install(&[PACKAGE_32_BIT]),
            None => Err("there is no apt-get".into()),
        };
        installed.map_err(|why| {
            Failure::NoToolchain(format!(
                "cc cannot link 32-bit programs ({why}); install {PACKAGE_32_BIT}"
            ))
        })?;
    }
    let mut cargo = toolchain.cargo(project, "test");
    cargo
        .args(["--no-fail-fast", "--package", "heap"])
        .args(["--target", TARGET_32_BIT, "-Zbuild-std=std"])
        // Compiling takes much longer than the tests.
        .envs([
            ("CARGO_PROFILE_TEST_OPT_LEVEL", "1"),
            ("CARGO_PROFILE_TEST_DEBUG", "none"),
        ])
        .args(filter);
    collect(cargo)
}

/// Returns whether the C compiler links 32-bit programs. Rust links with it.
fn links_32_bit(project: &Project) -> Result<bool, Failure> {
    let folder = tempfile::tempdir_in(project.target())
        .map_err(Failure::io("cannot make a folder in", project.target()))?;
    let source = folder.path().join("main.c");
    std::fs::write(&source, "int main(void) { return 0; }\n")
        .map_err(Failure::io("cannot write", &source))?;
    let mut cc = Command::new("cc");
    cc.arg("-m32")
        .arg(&source)
        .arg("-o")
        .arg(folder.path().join("main"));
    Ok(process::run_quietly(&mut cc)?.0.success())
}

/// Runs `cargo`, a command of `cargo test`, shows its output, and returns the results.
pub(crate) fn collect(mut cargo: Command) -> Result<Vec<TestResult>, Failure> {
    let piped = |error| Failure::because("cannot make a pipe")(error);
    let (output, input) = io::pipe().map_err(piped)?;
    cargo
        .stdin(Stdio::null())
        .stderr(input.try_clone().map_err(piped)?)
        .stdout(input);
    let mut child = process::spawn(&mut cargo).map_err(Failure::start(cargo.get_program()))?;
    // The command keeps the ends of the pipe that are written to. Reading ends when they are
    // closed.
    drop(cargo);
    let reader = thread::spawn(|| read(output));
    let status = process::wait(&mut child)?;
    let mut results = reader.join().expect("reading lines does not panic");
    if !status.success()
        && results
            .iter()
            .all(|result| !matches!(result.verdict, Verdict::Failed { .. }))
    {
        // A test program did not build, or crashed.
        results.push(TestResult::new(
            "cargo test",
            Verdict::Failed {
                how: "failed",
                reason: status.to_string(),
            },
        ));
    }
    Ok(results)
}

/// Shows each line of `output`, but not the blocks of programs without a test, and returns the
/// results among the lines.
fn read(output: PipeReader) -> Vec<TestResult> {
    let mut results = Vec::new();
    let mut blocks = Blocks::default();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        blocks.push(&line, terminal::show_line);
        results.extend(parse(&line));
    }
    blocks.end(terminal::show_line);
    results
}

/// Leaves out the blocks of test programs that run no test. With a filter, most programs run none.
///
/// ```text
///      Running tests/soak.rs (target/debug/deps/soak-…)       cargo begins a block
///
/// running 0 tests                                             the block is left out
///
/// test result: ok. 0 passed; …
///
/// ```
#[derive(Debug, Default)]
struct Blocks {
    /// The first lines of a block, until it is known whether it has tests.
    held: Vec<String>,
    /// Whether the rest of the block is left out.
    is_empty: bool,
}

impl Blocks {
    /// Takes the next line of the output, and calls `show` with the lines that are not left out.
    fn push(&mut self, line: &str, mut show: impl FnMut(&str)) {
        let begins = line.starts_with("     Running ") || line.starts_with("   Doc-tests ");
        if begins || (!self.held.is_empty() && line.is_empty()) {
            if begins {
                self.end(&mut show);
            }
            self.held.push(line.into());
        } else if !self.held.is_empty() && line == "running 0 tests" {
            self.held.clear();
            self.is_empty = true;
        } else if !(self.is_empty && is_rest_of_empty_block(line)) {
            self.end(&mut show);
            show(line);
        }
    }

    /// Shows the lines that are held.
    fn end(&mut self, show: impl FnMut(&str)) {
        self.is_empty = false;
        let held = std::mem::take(&mut self.held);
        held.iter().map(String::as_str).for_each(show);
    }
}

/// Returns whether `line` can follow `running 0 tests` in the block of a program without a test.
fn is_rest_of_empty_block(line: &str) -> bool {
    line.is_empty() || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")
}

/// Reads a result such as `test module::name ... ok`. `None` for other lines.
fn parse(line: &str) -> Option<TestResult> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = if outcome == "ok" {
        Verdict::Passed
    } else if outcome.starts_with("ignored") {
        Verdict::Ignored
    } else if outcome.starts_with("FAILED") {
        Verdict::Failed {
            how: "failed",
            reason: "see its output".into(),
        }
    } else {
        return None;
    };
    // libtest adds ` - should panic` to the name.
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some(TestResult::new(name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_run_no_test_are_not_shown() {
        let empty = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 \
                     measured; 9 filtered out; finished in 0.00s\n\n";
        let full = "     Running tests/b.rs (target/b)\n\nrunning 1 test\ntest b ... ok\n\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n\n";
        let last = "   Doc-tests heap\n";
        let output = format!(
            "    Finished\n     Running tests/a.rs (target/a)\n{empty}{full}     Running \
             unittests src/lib.rs (target/c)\n{empty}error: test failed\n{last}"
        );
        let mut shown = String::new();
        let mut blocks = Blocks::default();
        let mut show = |line: &str| shown += &format!("{line}\n");
        output.lines().for_each(|line| blocks.push(line, &mut show));
        blocks.end(&mut show);
        assert_eq!(
            shown,
            format!("    Finished\n{full}error: test failed\n{last}")
        );
    }

    #[test]
    fn results_are_found_in_the_output_of_cargo() {
        let verdict = |line: &str| parse(line).map(|result| (result.name, result.verdict));
        let passed = |name: &str| Some((name.to_owned(), Verdict::Passed));
        assert_eq!(
            verdict("test span::tests::empty ... ok"),
            passed("span::tests::empty")
        );
        assert_eq!(
            verdict("test tests::dies - should panic ... ok"),
            passed("tests::dies")
        );
        assert_eq!(
            verdict("test heap/src/span.rs - span::Span (line 9) ... ok"),
            passed("heap/src/span.rs - span::Span (line 9)")
        );
        assert_eq!(
            verdict("test a::b ... ignored, slow"),
            Some(("a::b".into(), Verdict::Ignored))
        );
        assert!(matches!(
            verdict("test a::b ... FAILED"),
            Some((_, Verdict::Failed { .. }))
        ));
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed",
            "tests ... ok",
            "test a::b has been running for over 60 seconds",
        ] {
            assert_eq!(verdict(line), None, "{line}");
        }
    }
}
