//! `boot lint`: rustfmt, clippy and rustdoc, for the host and for the kernel's target. A warning
//! fails its check.

use std::{env, process::Command};

use crate::{
    failure::Failure,
    kernel::TARGET_OPTIONS,
    process,
    project::Project,
    report::{Report, TestResult, Verdict},
    terminal,
    toolchain::Toolchain,
};

/// Runs all checks. The last line is `N passed, N failed`.
pub fn run(project: &Project) -> Result<(), Failure> {
    let toolchain = Toolchain::prepare(project)?;
    toolchain.prepare_clippy(project)?;
    let mut results = Vec::new();
    for (name, mut command) in checks(project, &toolchain) {
        eprintln!("run-qemu.sh: checking with {name}");
        let status = process::run(command.env("RUSTDOCFLAGS", "-D warnings"))?;
        results.push(TestResult::new(
            name,
            if status.success() {
                Verdict::Passed
            } else {
                Verdict::Failed {
                    how: "failed",
                    reason: status.to_string(),
                }
            },
        ));
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

/// Each check with its name.
fn checks(project: &Project, toolchain: &Toolchain) -> Vec<(&'static str, Command)> {
    let host = |arguments: &[&str]| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments).current_dir(project.root());
        cargo
    };
    let for_kernel = |subcommand| {
        let mut cargo = toolchain.cargo(project, subcommand);
        cargo
            .args(TARGET_OPTIONS)
            .arg("--target")
            .arg(project.target_spec());
        cargo.args(["--package", "kernel", "--package", "kernel-tests"]);
        cargo.args(["--package", "kernel-sizes"]);
        cargo
    };
    let deny_warnings = |mut clippy: Command| {
        clippy.args(["--", "-D", "warnings"]);
        clippy
    };
    let mut image_clippy = toolchain.cargo(project, "clippy");
    image_clippy.args(["--release", "--package", "disk-image"]);
    let mut hardened_clippy = for_kernel("clippy");
    hardened_clippy.args(["--features", "kernel-tests/hardened"]);
    let mut kernel_doc = for_kernel("doc");
    kernel_doc.arg("--no-deps");
    // Workspaces of their own, whose lock files are theirs too.
    let apart = |subcommand, folder: &str| {
        let mut cargo = host(&[subcommand]);
        cargo.current_dir(project.root().join(folder));
        cargo
    };
    let mut checks = vec![
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
        ("clippy, kernel", deny_warnings(for_kernel("clippy"))),
        ("clippy, kernel, hardened", deny_warnings(hardened_clippy)),
        ("rustdoc, kernel", kernel_doc),
        ("clippy, disk image", deny_warnings(image_clippy)),
        ("clippy, loom", deny_warnings(apart("clippy", "heap/loom"))),
    ];
    for (name, folder) in [
        ("rustfmt, loom", "heap/loom"),
        ("rustfmt, fuzz", "heap/fuzz"),
        ("rustfmt, arena's benchmarks", "heap/benches/vmem"),
    ] {
        let mut rustfmt = apart("fmt", folder);
        rustfmt.arg("--check");
        checks.push((name, rustfmt));
    }
    checks
}
