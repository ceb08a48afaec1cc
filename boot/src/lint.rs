//! `./run-qemu.sh lint`: formatting, lints and documentation for the host and for the kernel's
//! target, spelling, the length of lines, and the texts of mutations. A warning fails its check.

mod columns;
mod spelling;

use std::process::Command;

use crate::{
    failure::Failure,
    host::cargo,
    process,
    project::Project,
    report::{Report, TestResult, Verdict},
    terminal,
    toolchain::{TARGET_OPTIONS, Toolchain},
};

/// Runs all checks. The last line is `N passed, N failed`.
///
/// # Errors
/// If a check failed, or cannot be run.
pub(crate) fn run(project: &Project) -> Result<(), Failure> {
    let toolchain = Toolchain::prepare(project)?;
    toolchain.prepare_clippy(project)?;
    let mut results = vec![check_columns(project)?];
    for (name, mut command) in checks(project, &toolchain)? {
        eprintln!("run-qemu.sh: checking with {name}");
        let status = process::run(command.env("RUSTDOCFLAGS", "-D warnings"))?;
        let reason = (!status.success()).then(|| status.to_string());
        results.push(result(name, reason));
    }
    results.iter().for_each(TestResult::print);
    let mut report = Report::default();
    report.add("lint", results);
    let totals = report.totals();
    terminal::show_line(&totals.to_string());
    if totals.failed > 0 {
        Err(Failure::AlreadyReported(1))
    } else {
        Ok(())
    }
}

/// Returns the result of the check `name`, which failed for `reason` if it has one.
fn result(name: &str, reason: Option<String>) -> TestResult {
    let verdict = match reason {
        None => Verdict::Passed,
        Some(reason) => Verdict::Failed {
            how: "failed",
            reason,
        },
    };
    TestResult::new(name, verdict)
}

/// Checks the length of lines, and shows those that are too long.
fn check_columns(project: &Project) -> Result<TestResult, Failure> {
    let found = columns::check(project)?;
    found.iter().for_each(|line| terminal::show_line(line));
    let reason = (!found.is_empty()).then(|| format!("{} lines are too long", found.len()));
    Ok(result("columns", reason))
}

/// Returns the commands of the other checks, with their names.
fn checks(
    project: &Project,
    toolchain: &Toolchain,
) -> Result<Vec<(&'static str, Command)>, Failure> {
    let host = |arguments: &[&str]| {
        let mut command = Command::new(cargo());
        command.args(arguments).current_dir(project.root());
        command
    };
    let for_kernel = |subcommand| {
        let mut command = toolchain.cargo(project, subcommand);
        command
            .args(TARGET_OPTIONS)
            .arg("--target")
            .arg(project.target_spec());
        for package in [
            "heap-x86_64",
            "kernel-protocol",
            "kernel",
            "kernel-tests",
            "kernel-sizes",
        ] {
            command.args(["--package", package]);
        }
        command
    };
    let clippy_of_package = |folder: &str| toolchain.package_cargo(project, folder, "clippy").0;
    let deny_warnings = |mut clippy: Command| {
        clippy.args(["--", "-D", "warnings"]);
        clippy
    };
    // Forks of the kernel library may leave documentation out.
    let deny_undocumented = |mut clippy: Command| {
        clippy.args(["--", "-D", "warnings", "-D", "missing_docs"]);
        clippy
    };
    // With both features at once, the boot stages would be compiled once more.
    let image_clippy = |feature| {
        let mut command = toolchain.cargo(project, "clippy");
        command.args([
            "--profile",
            "boot",
            "--package",
            "disk-image",
            "--features",
            feature,
        ]);
        deny_warnings(command)
    };
    let mut hardened_clippy = for_kernel("clippy");
    hardened_clippy.args(["--features", "kernel-tests/hardened"]);
    let mut kernel_doc = for_kernel("doc");
    kernel_doc.arg("--no-deps");
    // These folders are workspaces of their own, with lock files of their own.
    let apart = |subcommand, folder: &str| {
        let mut command = host(&[subcommand]);
        command.current_dir(project.root().join(folder));
        command
    };
    let mut checks = vec![
        ("typos", spelling::command(project)?),
        ("mutations, texts", {
            let mut command = Command::new(project.root().join("heap/tests/mutations.sh"));
            command.arg("--check");
            command
        }),
        ("rustfmt", host(&["fmt", "--all", "--check"])),
        (
            "clippy, host",
            deny_warnings(host(&["clippy", "--all-targets"])),
        ),
        (
            "clippy, heap with its features",
            deny_warnings(host(&[
                "clippy",
                "--package=heap",
                "--all-targets",
                "--features=counters,hardened,local-alloc,spin,std",
            ])),
        ),
        (
            "clippy, benchmarks",
            deny_warnings(host(&["clippy", "--package=heap-benches", "--all-targets"])),
        ),
        ("rustdoc, host", host(&["doc", "--no-deps"])),
        ("clippy, kernel", deny_undocumented(for_kernel("clippy"))),
        ("clippy, kernel, hardened", deny_warnings(hardened_clippy)),
        ("rustdoc, kernel", kernel_doc),
        (
            "clippy, lifted heap",
            deny_warnings(clippy_of_package("tests/lift")),
        ),
        (
            "clippy, template",
            deny_warnings(clippy_of_package("kernel/template")),
        ),
        ("clippy, disk image for BIOS", image_clippy("bios")),
        ("clippy, disk image for UEFI", image_clippy("uefi")),
        ("clippy, loom", deny_warnings(apart("clippy", "heap/loom"))),
    ];
    for (name, folder) in [
        ("rustfmt, loom", "heap/loom"),
        ("rustfmt, fuzz", "heap/fuzz"),
        ("rustfmt, arena's benchmarks", "heap/benches/vmem"),
        ("rustfmt, lifted heap", "tests/lift"),
        ("rustfmt, template", "kernel/template"),
    ] {
        let mut rustfmt = apart("fmt", folder);
        rustfmt.arg("--check");
        checks.push((name, rustfmt));
    }
    Ok(checks)
}
