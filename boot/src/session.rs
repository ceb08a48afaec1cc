//! `boot test`: the tests on the host, then all in-kernel tests, over as many boots as they need.
//!
//! A test that dies takes its boot with it. The next boot is told to begin after that test, and so
//! on until none is left. Each boot must bring at least one result, so the sequence ends.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    boot_watch::{BootWatch, Booted, End, Scale},
    cli::{MachineOptions, TestOptions},
    failure::Failure,
    host_tests,
    image::Builder,
    kernel::Kernel,
    machine::Heard,
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk::{self, Config},
    report::{JunitFile, Report, TestResult, Verdict},
    serial::Splitter,
    terminal,
    toolchain::Toolchain,
};

/// How long all boots together may take. Each test has its own deadline; this ends what adds up.
const WHOLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// `boot test`.
pub fn command(project: &Project, options: &TestOptions) -> Result<(), Failure> {
    options.machine.check()?;
    let junit = options
        .junit
        .as_deref()
        .map(JunitFile::create)
        .transpose()?;
    let toolchain = Toolchain::prepare(project)?;
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    let filter = options.filter.as_deref();

    let mut report = Report::default();
    if !options.kernel_only {
        report.add("host", host_tests::run(project, filter)?);
    }
    let session = Session::prepare(
        project,
        &toolchain,
        &qemu,
        &options.machine,
        options.deadline_scale,
    );
    let (mut results, ending) = match session {
        Ok(session) => session.run(filter),
        Err(failure) => (Vec::new(), Err(failure)),
    };
    if let Err(Failure::Interrupted) = ending {
        return ending;
    }
    if let Err(failure) = &ending {
        // The tests that could not be run count as one that failed.
        eprintln!("boot: {failure}");
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

    if let (Some(filter), true) = (filter, report.is_empty()) {
        return Err(Failure::Input(format!(
            "no test has `{filter}` in its name"
        )));
    }
    if let Some(junit) = junit {
        junit.write(&report)?;
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
        deadline_scale: u32,
    ) -> Result<Self, Failure> {
        let builder = Builder::prepare(project, toolchain)?;
        let kernel = Kernel::Tests.build(project, toolchain, &machine.build)?;
        let (unit, ticks_per_unit) = match qemu::ticks_per_instruction(machine) {
            Some(ticks) => ("instructions", ticks),
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
        let began = Instant::now();
        over_boots(|after| self.boot(filter, after, began))
    }

    /// One boot: the tests after `after`, until the last or until one dies. The first boot `began`
    /// then.
    fn boot(
        &self,
        filter: Option<&str>,
        after: Option<&str>,
        began: Instant,
    ) -> Result<Booted, Failure> {
        let config = Config::Test {
            filter: filter.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let ramdisk = ramdisk::archive(&config, &[])?;
        let image = self.builder.make(
            &self.kernel,
            &ramdisk,
            &self.machine.build,
            self.project.target(),
        )?;
        let mut machine = self.qemu.start(self.machine, &self.kernel, image.path())?;

        let whole_limit = self.scale.deadline.map(|factor| WHOLE_LIMIT * factor);
        let mut splitter = Splitter::default();
        let mut watch = BootWatch::new(self.scale, Instant::now(), TestResult::print);
        let booted = loop {
            if process::interrupted() {
                return Err(Failure::Interrupted);
            }
            if let Some(limit) = whole_limit.filter(|&limit| began.elapsed() > limit) {
                break watch.give_up(Failure::TimedOut {
                    what: "end of the tests",
                    limit,
                });
            }
            let left = watch.due().map_or(Duration::MAX, |due| {
                due.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                machine.kill();
                break watch.end(End::Killed, Instant::now());
            }
            match machine.listen(left.min(process::POLL)) {
                Heard::Nothing => {}
                Heard::Bytes(bytes) => {
                    let mut pieces = splitter.push(&bytes).into_iter();
                    if let Err(failure) =
                        pieces.try_for_each(|piece| watch.take(piece, Instant::now()))
                    {
                        break watch.give_up(failure);
                    }
                }
                Heard::End => {
                    break match machine.end() {
                        Ok(exit) => watch.end(End::Exit(exit), Instant::now()),
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
