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

/// Shows each line of `output`, and returns the results among the lines.
fn read(output: PipeReader) -> Vec<TestResult> {
    let mut results = Vec::new();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        terminal::show_line(&line);
        results.extend(parse(&line));
    }
    results
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
