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
        eprintln!("boot: checking with {name}");
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
        Err(Failure::Told(1))
    } else {
        Ok(())
    }
}

/// Each check with its name.
fn checks(project: &Project, toolchain: &Toolchain) -> [(&'static str, Command); 6] {
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
        cargo
    };
    let deny_warnings = |mut clippy: Command| {
        clippy.args(["--", "-D", "warnings"]);
        clippy
    };
    let mut image_clippy = toolchain.cargo(project, "clippy");
    image_clippy.args(["--release", "--package", "disk-image"]);
    let mut kernel_doc = for_kernel("doc");
    kernel_doc.arg("--no-deps");
    [
        ("rustfmt", host(&["fmt", "--all", "--check"])),
        (
            "clippy, host",
            deny_warnings(host(&["clippy", "--all-targets"])),
        ),
        ("rustdoc, host", host(&["doc", "--no-deps"])),
        ("clippy, kernel", deny_warnings(for_kernel("clippy"))),
        ("rustdoc, kernel", kernel_doc),
        ("clippy, disk image", deny_warnings(image_clippy)),
    ]
}
