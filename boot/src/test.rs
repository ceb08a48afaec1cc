//! `./run-qemu.sh test`: the tests on the host, then the in-kernel tests; or the tests that an
//! option names.

use crate::{
    ci,
    cli::{BuildOptions, TestOptions},
    elf,
    failure::Failure,
    forks, host_tests,
    kernel::Kernel,
    project::Project,
    qemu::Qemu,
    report::{JunitFile, Report, TestResult, Verdict},
    session::Session,
    soak, terminal,
    toolchain::Toolchain,
};

/// Runs `./run-qemu.sh test`.
pub(crate) fn run(project: &Project, options: &TestOptions) -> Result<(), Failure> {
    if project.is_fork() {
        check_for_fork(options)?;
    } else if options.all {
        return ci::run(project, true);
    }
    options.machine.check()?;
    let junit = options
        .junit
        .as_deref()
        .map(JunitFile::create)
        .transpose()?;
    let toolchain = Toolchain::prepare(project)?;
    let filter = options.filter.as_deref();
    let mut report = Report::default();
    if options.i686 {
        let results = host_tests::run_32_bit(project, &toolchain, filter)?;
        report.add("host, 32 bits", results);
        return conclude(&report, options, junit, Ok(()));
    }
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    if options.forks {
        let results = forks::run(project, &toolchain, &qemu, &options.machine)?;
        report.add("forks", results);
        return conclude(&report, options, junit, Ok(()));
    }
    let session = |kernel: Kernel| {
        Session::prepare(
            project,
            &toolchain,
            &qemu,
            &options.machine,
            kernel,
            options.deadline_scale,
        )
    };
    let tests = Kernel::to_test(project, options.hardened);
    if options.soak.soak.is_some() {
        return soak::run(&session(tests)?, &options.soak);
    }

    if !options.kernel_only && !project.is_fork() {
        report.add("host", host_tests::run(project, filter)?);
    }
    let (mut results, mut ending) = match session(tests) {
        Ok(session) => session.run(filter),
        Err(failure) => (Vec::new(), Err(failure)),
    };
    // The kernel that is run may have tests of its own, in a fork that was made by hand.
    if ending.is_ok() && !project.is_fork() && !options.hardened {
        match own_tests(project, &toolchain, &options.machine.build) {
            Ok(false) => {}
            Ok(true) => match session(Kernel::Demonstration) {
                Ok(session) => {
                    let (more, its_ending) = session.run(filter);
                    results.extend(more);
                    ending = its_ending;
                }
                Err(failure) => ending = Err(failure),
            },
            Err(failure) => ending = Err(failure),
        }
    }
    if let Err(Failure::Interrupted) = ending {
        return ending;
    }
    if let Err(failure) = &ending {
        // The tests that could not run count as one failed test.
        eprintln!("run-qemu.sh: {failure}");
        results.push(TestResult::new(
            "in-kernel tests",
            Verdict::Failed {
                how: "died",
                reason: failure.to_string(),
            },
        ));
    }
    let mut suite = format!("kernel, {}", options.machine.build.firmware().name());
    if options.hardened {
        suite += ", hardened";
    }
    report.add(&suite, results);

    conclude(&report, options, junit, ending)
}

/// Refuses the options of `test` that are for this repository alone.
fn check_for_fork(options: &TestOptions) -> Result<(), Failure> {
    let refused = [
        ("--all", options.all),
        ("--forks", options.forks),
        ("--hardened", options.hardened),
        ("--i686", options.i686),
        ("--soak", options.soak.soak.is_some()),
    ];
    match refused.into_iter().find(|&(_, is_given)| is_given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::Input(format!(
            "{option} tests the kernel library: call its own run-qemu.sh"
        ))),
    }
}

/// Writes the report and prints the totals. Returns `ending`, or an error if a test failed.
fn conclude(
    report: &Report,
    options: &TestOptions,
    junit: Option<JunitFile>,
    ending: Result<(), Failure>,
) -> Result<(), Failure> {
    if let (Some(filter), true) = (&options.filter, report.is_empty()) {
        return Err(Failure::Input(format!(
            "no test has `{filter}` in its name"
        )));
    }
    if let Some(junit) = junit {
        junit.write(report)?;
    }
    if options.show_output {
        report.show_output();
    }
    let totals = report.totals();
    terminal::show_line(&totals.to_string());
    match ending {
        Err(failure) => Err(Failure::AlreadyReported(failure.status())),
        Ok(()) if totals.failed > 0 => Err(Failure::AlreadyReported(1)),
        Ok(()) => Ok(()),
    }
}

/// Builds the kernel that is run. Returns whether it has tests of its own.
fn own_tests(
    project: &Project,
    toolchain: &Toolchain,
    options: &BuildOptions,
) -> Result<bool, Failure> {
    elf::has_tests(&Kernel::Demonstration.build_quietly(project, toolchain, options)?)
}
