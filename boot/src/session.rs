//! Runs all in-kernel tests, in several boots if necessary.
//!
//! A test that panics or faults ends its boot. The next boot begins after that test, until no test
//! is left. Each boot must bring at least one result, so the sequence ends.

use std::{path::PathBuf, time::Duration};

use kernel_protocol::config::Config;
use tempfile::NamedTempFile;

use crate::{
    boot_watch::{BootWatch, Booted, End, Scale},
    cli::MachineOptions,
    failure::Failure,
    files::{self, File},
    image::Builder,
    kernel::Kernel,
    machine::{Exit, Machine, SerialEvent},
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk,
    report::TestResult,
    toolchain::Toolchain,
};

/// The time limit of all boots together, on their clocks. Each test has a deadline of its own.
const WHOLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The parts that a boot of the tests needs.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    project: &'a Project,
    qemu: &'a Qemu,
    machine: &'a MachineOptions,
    builder: Builder<'a>,
    kernel: PathBuf,
    files: Vec<File>,
    scale: Scale,
}

impl<'a> Session<'a> {
    /// Builds `kernel`, which has the tests, and the program that makes disk images.
    pub(crate) fn prepare(
        project: &'a Project,
        toolchain: &Toolchain,
        qemu: &'a Qemu,
        machine: &'a MachineOptions,
        kernel: Kernel,
        deadline_scale: u32,
    ) -> Result<Self, Failure> {
        let files = files::load(&project.files())?;
        let (builder, kernel) = Builder::with_kernel(project, toolchain, kernel, &machine.build)?;
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
            files,
            scale,
        })
    }

    /// Runs the tests whose names contain `filter`, and shows each result as it comes. Returns the
    /// results, and the failure that ended the session early.
    pub(crate) fn run(&self, filter: Option<&str>) -> (Vec<TestResult>, Result<(), Failure>) {
        let mut spent = Duration::ZERO;
        over_boots(|after| self.boot(filter, after, &mut spent))
    }

    /// Boots the tests with `config`. The caller keeps the image file while the machine runs.
    pub(crate) fn start(&self, config: &Config<'_>) -> Result<(Machine, NamedTempFile), Failure> {
        let ramdisk = ramdisk::archive(config, &[], &self.files)?;
        let image = self
            .builder
            .make(&self.kernel, &ramdisk, self.project.target())?;
        let machine = self
            .qemu
            .start(self.machine, &self.kernel, image.path(), None)?;
        Ok((machine, image))
    }

    /// Returns `limit` times the scale of deadlines. `None` under a debugger, where time is
    /// unlimited.
    pub(crate) fn deadline(&self, limit: Duration) -> Option<Duration> {
        Some(limit * self.scale.deadline?)
    }

    /// Adds to `failure` what the user can try.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        self.machine.explain(failure)
    }

    /// Boots once and runs the tests after `after`, until the last test or the first that ends the
    /// boot. Adds the time that it takes to `spent`.
    fn boot(
        &self,
        filter: Option<&str>,
        after: Option<&str>,
        spent: &mut Duration,
    ) -> Result<Booted, Failure> {
        let config = Config {
            filter,
            after,
            ticks_per_instruction: qemu::ticks_per_instruction(self.machine),
            ..ramdisk::test_config()
        };
        let (mut machine, _image) = self.start(&config)?;
        let whole_limit = self.deadline(WHOLE_LIMIT);
        let mut splitter = machine.splitter();
        let mut watch = BootWatch::new(self.scale, TestResult::print);
        let before = *spent;
        let mut booted = loop {
            if process::interrupted() {
                return Err(Failure::Interrupted);
            }
            let now = machine.now();
            *spent = before + now.clock;
            if let Some(limit) = whole_limit.filter(|&limit| *spent > limit) {
                break watch.give_up(Failure::timed_out("end of the tests", limit));
            }
            if watch.due().is_some_and(|due| due < now.clock) {
                machine.kill();
                break watch.end(End::Killed, now);
            }
            match machine.listen(process::POLL) {
                SerialEvent::Nothing => {}
                SerialEvent::Bytes(bytes) => {
                    let now = machine.now();
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
        booted.left = booted.left.map_err(|failure| self.explain(failure));
        if booted.left.is_err() {
            eprint!("{}{}", splitter.before_ready(), booted.text);
        }
        Ok(booted)
    }
}

/// Calls `boot` until no test is left, with the last test of the boot before.
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
