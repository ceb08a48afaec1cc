//! `boot test`: the tests on the host, then all in-kernel tests, over as many boots as they need.
//!
//! A test that dies takes its boot with it. The next boot is told to begin after that test, and so
//! on until none is left. Each boot must bring at least one result, so the sequence ends.

use std::{path::PathBuf, process::Command, time::Duration};

use kernel_protocol::config::Config;
use tempfile::NamedTempFile;

use crate::{
    boot_watch::{BootWatch, Booted, End, Scale},
    cli::{MachineOptions, TestOptions},
    failure::Failure,
    forks, host_tests,
    image::Builder,
    kernel::Kernel,
    machine::{Exit, Machine, SerialEvent},
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk,
    report::{JunitFile, Report, TestResult, Verdict},
    serial::Splitter,
    soak, terminal,
    toolchain::Toolchain,
};

/// How long all boots together may take, on their clocks. Each test has its own deadline; this ends what
/// adds up.
const WHOLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// `boot test`.
pub fn command(project: &Project, options: &TestOptions) -> Result<(), Failure> {
    if options.all {
        return everything(project);
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
        return conclude(&report, filter, junit, Ok(()));
    }
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    if options.forks {
        let results = forks::run(project, &toolchain, &qemu, &options.machine)?;
        report.add("forks", results);
        return conclude(&report, filter, junit, Ok(()));
    }
    let session = || {
        Session::prepare(
            project,
            &toolchain,
            &qemu,
            &options.machine,
            options.hardened,
            options.deadline_scale,
        )
    };
    if options.soak.soak.is_some() {
        return soak::run(&session()?, &options.soak);
    }

    if !options.kernel_only {
        report.add("host", host_tests::run(project, filter)?);
    }
    let (mut results, ending) = match session() {
        Ok(session) => session.run(filter),
        Err(failure) => (Vec::new(), Err(failure)),
    };
    if let Err(Failure::Interrupted) = ending {
        return ending;
    }
    if let Err(failure) = &ending {
        // The tests that could not be run count as one that failed.
        eprintln!("run-qemu.sh: {failure}");
        results.push(TestResult::new(
            "in-kernel tests",
            Verdict::Failed {
                how: "died",
                reason: failure.to_string(),
            },
        ));
    }
    report.add(
        &format!("kernel, {}", options.machine.build.firmware().name()),
        results,
    );

    conclude(&report, filter, junit, ending)
}

/// `boot test --all`: the script of continuous integration knows what there is.
fn everything(project: &Project) -> Result<(), Failure> {
    let mut script = Command::new("sh");
    script.arg(project.root().join(".ci/run")).arg("long");
    match process::run(&mut script)?.code() {
        Some(0) => Ok(()),
        code => Err(Failure::Told(
            code.and_then(|code| code.try_into().ok()).unwrap_or(1),
        )),
    }
}

/// Writes the report and the totals. `ending` is what went wrong besides the tests.
fn conclude(
    report: &Report,
    filter: Option<&str>,
    junit: Option<JunitFile>,
    ending: Result<(), Failure>,
) -> Result<(), Failure> {
    if let (Some(filter), true) = (filter, report.is_empty()) {
        return Err(Failure::Input(format!(
            "no test has `{filter}` in its name"
        )));
    }
    if let Some(junit) = junit {
        junit.write(report)?;
    }
    let totals = report.totals();
    terminal::show_line(&totals.to_string());
    match ending {
        Err(failure) => Err(Failure::Told(failure.status())),
        Ok(()) if totals.failed > 0 => Err(Failure::Told(1)),
        Ok(()) => Ok(()),
    }
}

/// All that is needed to boot the tests, again and again.
#[derive(Debug)]
pub struct Session<'a> {
    project: &'a Project,
    qemu: &'a Qemu,
    machine: &'a MachineOptions,
    builder: Builder<'a>,
    kernel: PathBuf,
    scale: Scale,
}

impl<'a> Session<'a> {
    /// Builds the tests, and what makes an image of them.
    pub fn prepare(
        project: &'a Project,
        toolchain: &Toolchain,
        qemu: &'a Qemu,
        machine: &'a MachineOptions,
        hardened: bool,
        deadline_scale: u32,
    ) -> Result<Self, Failure> {
        let builder = Builder::prepare(project, toolchain)?;
        let kernel = Kernel::Tests { hardened }.build(project, toolchain, &machine.build)?;
        let (unit, ticks_per_unit) = match qemu::ticks_per_instruction(machine) {
            Some(ticks) => ("instructions", ticks.get()),
            None => ("cycles", 1),
        };
        let scale = Scale {
            deadline: (!machine.gdb).then_some(deadline_scale),
            unit,
            ticks_per_unit,
        };
        Ok(Self {
            project,
            qemu,
            machine,
            builder,
            kernel,
            scale,
        })
    }

    /// Runs the tests whose names contain `filter`, and shows each as it ends. Returns their
    /// results, and what went wrong besides them.
    pub fn run(&self, filter: Option<&str>) -> (Vec<TestResult>, Result<(), Failure>) {
        let mut spent = Duration::ZERO;
        over_boots(|after| self.boot(filter, after, &mut spent))
    }

    /// Boots the tests with that configuration. The image must stay as long as the machine runs.
    pub fn start(&self, config: &Config<'_>) -> Result<(Machine, NamedTempFile), Failure> {
        let ramdisk = ramdisk::archive(config, &[])?;
        let image = self.builder.make(
            &self.kernel,
            &ramdisk,
            &self.machine.build,
            self.project.target(),
        )?;
        let machine = self.qemu.start(self.machine, &self.kernel, image.path())?;
        Ok((machine, image))
    }

    /// How long something may take that is to take `limit`; `None` is for ever.
    pub fn deadline(&self, limit: Duration) -> Option<Duration> {
        Some(limit * self.scale.deadline?)
    }

    /// One boot: the tests after `after`, until the last or until one dies. So much was `spent` on
    /// those before it.
    fn boot(
        &self,
        filter: Option<&str>,
        after: Option<&str>,
        spent: &mut Duration,
    ) -> Result<Booted, Failure> {
        let config = Config {
            filter,
            after,
            ..ramdisk::test_config()
        };
        let (mut machine, _image) = self.start(&config)?;
        let whole_limit = self.deadline(WHOLE_LIMIT);
        let mut splitter = Splitter::default();
        let mut watch = BootWatch::new(self.scale, TestResult::print);
        let before = *spent;
        let booted = loop {
            if process::interrupted() {
                return Err(Failure::Interrupted);
            }
            let now = machine.clock();
            *spent = before + now;
            if let Some(limit) = whole_limit.filter(|&limit| *spent > limit) {
                break watch.give_up(Failure::TimedOut {
                    what: "end of the tests",
                    limit,
                });
            }
            if watch.due().is_some_and(|due| due < now) {
                machine.kill();
                break watch.end(End::Killed, now);
            }
            match machine.listen(process::POLL) {
                SerialEvent::Nothing => {}
                SerialEvent::Bytes(bytes) => {
                    if let Err(failure) = splitter.push(&bytes, |piece| watch.take(piece, now)) {
                        break watch.give_up(failure);
                    }
                }
                SerialEvent::End => {
                    break match machine.end() {
                        Ok(Exit::Debugger) => watch.give_up(Failure::Debugger),
                        Ok(exit) => watch.end(End::Exit(exit), now),
                        Err(failure) => watch.give_up(failure),
                    };
                }
            }
        };
        if booted.left.is_err() {
            eprint!("{}{}", splitter.before_ready(), booted.text);
        }
        Ok(booted)
    }
}

/// Boots until no test is left; `boot` is told after which test to begin.
fn over_boots(
    mut boot: impl FnMut(Option<&str>) -> Result<Booted, Failure>,
) -> (Vec<TestResult>, Result<(), Failure>) {
    let mut results: Vec<TestResult> = Vec::new();
    let mut left_before = usize::MAX;
    loop {
        let after = results.last().map(|result| result.name.clone());
        let booted = match boot(after.as_deref()) {
            Ok(booted) => booted,
            Err(failure) => return (results, Err(failure)),
        };
        results.extend(booted.results);
        match booted.left {
            Ok(0) => return (results, Ok(())),
            Ok(left) if left < left_before => left_before = left,
            Ok(_) => {
                return (
                    results,
                    Err(Failure::Protocol(
                        "a boot ran tests that had run before".into(),
                    )),
                );
            }
            Err(failure) => return (results, Err(failure)),
        }
    }
}

#[cfg(test)]
mod tests;
