//! Unusable input is refused with a message of one line and a status of its own, before a package
//! is installed or a build begins.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Runs `boot` where it finds neither a compiler nor QEMU nor an installer.
fn boot(arguments: &[&str], variables: &[(&str, &Path)]) -> Output {
    let nowhere = Path::new("/nonexistent");
    Command::new(env!("CARGO_BIN_EXE_boot"))
        .args(arguments)
        .env("PATH", nowhere)
        .env("RUSTUP_HOME", nowhere)
        .env("KERNEL_TOOLCHAIN", "/nonexistent/toolchain")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Returns the message of `boot`. Checks that it has one line, and that the exit status is
/// `status`.
fn refusal(output: Output, status: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert_eq!(output.stdout, b"", "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    let line = message.trim_end();
    line.strip_prefix("run-qemu.sh: ")
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned()
}

#[test]
fn unknown_or_contradictory_options_are_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--frob"], "--frob"),
        (&["frob"], "frob"),
        (&["--memory", "much"], "--memory"),
        (&["--memory", "47M"], "give it 48 MiB or more"),
        (
            &["test", "--uefi", "--memory", "63M"],
            "give it 64 MiB or more",
        ),
        (&["--debug", "--release"], "--release"),
        (&["--accel", "magic"], "magic"),
        (&["test", "one", "two"], "two"),
        (&["test", "one\nmode=demo"], "not a part of a name"),
        (&["test", "--deadline-scale", "0"], "0"),
        (&["test", "--soak", "0"], "0"),
        (&["test", "--soak", "long"], "long"),
        (&["test", "--soak"], "--soak"),
        (&["test", "--soak", "1", "grow::"], "--soak"),
        (&["test", "--soak", "1", "--seed", "1x"], "--seed"),
        (&["test", "--seed", "1"], "--soak"),
        (&["image"], "<FILE>"),
        (
            &["image", "/nonexistent/heap.img"],
            "/nonexistent/heap.img: there is no folder /nonexistent",
        ),
        (&["image", "/usr"], "/usr: it is a folder"),
        (
            &["--trace", ""],
            "neither a name in tests/traces nor a file",
        ),
        (&["--cpu", "help"], "-cpu help"),
        (
            &["--screenshto"],
            "a similar argument exists: '--screenshot'",
        ),
        (
            &["--screenshot", "/usr"],
            "cannot write a picture to /usr: it is a folder",
        ),
        (&["--attach"], "--gdb"),
        // No program is found in PATH.
        (&["--gdb", "--attach"], "--attach needs gdb"),
        (&["-device", "e1000"], "unexpected argument"),
        (
            &["--uefi", "--memory", "1G", "test"],
            "options follow the command: ./run-qemu.sh test --uefi --memory 1G",
        ),
    ];
    for (arguments, part) in cases {
        let line = refusal(boot(arguments, &[]), 2);
        assert!(line.contains(part), "{arguments:?}: {line}");
    }
}

#[test]
fn missing_or_damaged_traces_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("short.trace");
    fs::write(&trace, b"HEAPTRC1\x01").unwrap();
    let name = trace.to_str().unwrap();
    let line = refusal(boot(&["--trace", name], &[]), 2);
    assert_eq!(
        line,
        format!("the trace {name} is damaged: it does not begin with HEAPTRC1 and a whole header")
    );
    let line = refusal(
        boot(&["image", "--trace", "nosuch", "/tmp/heap.img"], &[]),
        2,
    );
    assert!(line.contains("nosuch") && line.contains("sqlite"), "{line}");
    let odd_name = folder.path().join("odd name.trace");
    fs::write(&odd_name, [b"HEAPTRC1".as_slice(), &[0; 16]].concat()).unwrap();
    let line = refusal(boot(&["--trace", odd_name.to_str().unwrap()], &[]), 2);
    assert!(line.contains("it has no operations"), "{line}");
    // One operation, one slot, a peak of 100 bytes: 100 bytes of alignment 8 are allocated.
    let one = [
        1, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 1, 0, 100, 3,
    ];
    fs::write(&odd_name, [b"HEAPTRC1".as_slice(), &one].concat()).unwrap();
    let line = refusal(boot(&["--trace", odd_name.to_str().unwrap()], &[]), 2);
    assert!(line.contains("needs a name of letters"), "{line}");
}

#[test]
fn a_target_folder_that_cannot_be_written_is_refused() {
    for folder in ["/proc", "/dev/null/target"] {
        let line = refusal(boot(&[], &[("CARGO_TARGET_DIR", Path::new(folder))]), 14);
        assert!(line.contains(folder), "{line}");
    }
}

#[test]
fn an_unwritable_report_is_refused_before_the_tests_run() {
    let line = refusal(boot(&["test", "--junit", "/dev/null/junit.xml"], &[]), 14);
    assert!(line.contains("/dev/null/junit.xml"), "{line}");
}

#[test]
fn folders_for_a_report_that_is_not_written_do_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/junit.xml");
    refusal(boot(&["test", "--junit", file.to_str().unwrap()], &[]), 10);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_missing_toolchain_or_qemu_has_its_own_status() {
    let line = refusal(boot(&[], &[]), 10);
    assert!(line.contains("KERNEL_TOOLCHAIN"), "{line}");

    let folder = tempfile::tempdir().unwrap();
    let tools = format!(
        "lib/rustlib/{}-unknown-linux-gnu/bin",
        std::env::consts::ARCH
    );
    let tools = ["llvm-objcopy", "llvm-objdump", "rust-lld"].map(|tool| format!("{tools}/{tool}"));
    let others = [
        "bin/cargo",
        "bin/rustc",
        "lib/rustlib/src/rust/library/core/Cargo.toml",
    ];
    for file in tools.iter().map(String::as_str).chain(others) {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    let output = boot(&["test"], &[("KERNEL_TOOLCHAIN", folder.path())]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(11), "{message}");
    // The first line names the toolchain, the second what is missing.
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(
        message.ends_with("install QEMU (Debian: qemu-system-x86)\n"),
        "{message}"
    );
}

#[test]
fn help_ends_with_success() {
    let output = boot(&["--help"], &[]);
    assert!(output.status.success());
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(
        message.contains("Exit status:") && message.contains("./run-qemu.sh test"),
        "{message}"
    );
}
