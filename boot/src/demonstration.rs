//! `./run-qemu.sh run`: runs the kernel's demonstration, and on a terminal its monitor.

use std::time::Duration;

use kernel_protocol::{config::Config, record::Record};

use crate::{
    cli::{MachineOptions, RunOptions},
    failure::Failure,
    files,
    image::Builder,
    kernel::Kernel,
    machine::{BOOT_LIMIT, Exit, Machine, SerialEvent},
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk,
    report::Report,
    serial::{Piece, Splitter},
    session::Session,
    terminal::{self, Console},
    toolchain::Toolchain,
    trace::{self, Trace},
};

/// The time limit of a boot without a monitor.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);

/// Runs `./run-qemu.sh run`. After each test run that the monitor requests, boots again.
pub(crate) fn run(project: &Project, options: &RunOptions) -> Result<(), Failure> {
    options.machine.check()?;
    let trace = trace::load_chosen(project, options.trace.as_deref())?;
    let files = files::load(&project.files())?;
    let console = Console::open();
    let toolchain = Toolchain::prepare(project)?;
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    let builder = Builder::prepare(project, &toolchain)?;
    let kernel = Kernel::Demonstration.build(project, &toolchain, &options.machine.build)?;
    let traces = traces_for(project, trace.as_ref(), console.is_some())?;

    let mut jobs = true;
    loop {
        let config = Config {
            trace: trace::name_of(trace.as_ref()),
            jobs,
            host: true,
            monitor: console.is_some(),
            ticks_per_instruction: qemu::ticks_per_instruction(&options.machine),
            ..Config::default()
        };
        let ramdisk = ramdisk::archive(&config, &traces, &files)?;
        let image = builder.make(&kernel, &ramdisk, &options.machine.build, project.target())?;
        let machine = qemu.start(&options.machine, &kernel, image.path())?;
        let limit = console.is_none().then_some(WHOLE_LIMIT);
        let (exit, request) = watch(
            machine,
            console.as_ref(),
            limit,
            &options.machine,
            terminal::show,
        )
        .map_err(|failure| options.machine.explain(failure))?;
        if let Some(failure) = exit.failure() {
            return Err(failure);
        }
        let Some(TestRequest { filter }) = request else {
            return Ok(());
        };
        let session = Session::prepare(project, &toolchain, &qemu, &options.machine, false, 1)?;
        let (results, ending) = session.run(filter.as_deref());
        match ending {
            Err(Failure::Interrupted) => return ending,
            Err(failure) => eprintln!("run-qemu.sh: {failure}"),
            Ok(()) => {}
        }
        let mut report = Report::default();
        report.add("kernel", results);
        terminal::show_line(&report.totals().to_string());
        jobs = false;
    }
}

/// Boots the demonstration with its default trace. Succeeds if the demonstration does.
pub(crate) fn try_demonstration(
    project: &Project,
    toolchain: &Toolchain,
    qemu: &Qemu,
    builder: &Builder<'_>,
    options: &MachineOptions,
) -> Result<(), Failure> {
    let kernel = Kernel::Demonstration.build(project, toolchain, &options.build)?;
    let config = Config {
        ticks_per_instruction: qemu::ticks_per_instruction(options),
        host: true,
        ..Config::default()
    };
    let trace = trace::load_chosen(project, None)?;
    let ramdisk = ramdisk::archive(&config, trace.as_slice(), &[])?;
    let image = builder.make(&kernel, &ramdisk, &options.build, project.target())?;
    let machine = qemu.start(options, &kernel, image.path())?;
    let (exit, _) = watch(machine, None, Some(WHOLE_LIMIT), options, |_| {})
        .map_err(|failure| options.explain(failure))?;
    exit.failure().map_or(Ok(()), Err)
}

/// Boots the monitor, and types a command before the prompt. Succeeds if the monitor then asks for
/// the tests.
pub(crate) fn try_monitor(
    project: &Project,
    toolchain: &Toolchain,
    qemu: &Qemu,
    builder: &Builder<'_>,
    options: &MachineOptions,
) -> Result<(), Failure> {
    let kernel = Kernel::Demonstration.build(project, toolchain, &options.build)?;
    let config = Config {
        jobs: false,
        monitor: true,
        host: true,
        ..Config::default()
    };
    let ramdisk = ramdisk::archive(&config, &[], &[])?;
    let image = builder.make(&kernel, &ramdisk, &options.build, project.target())?;
    let machine = qemu.start(options, &kernel, image.path())?;
    let console = Console::with_lines(["trim now\n", "test grow::\n", "exit\n"]);
    let (exit, request) = watch(machine, Some(&console), Some(WHOLE_LIMIT), options, |_| {})
        .map_err(|failure| options.explain(failure))?;
    match (exit.failure(), request) {
        (Some(failure), _) => Err(failure),
        (None, Some(request)) if request.filter.as_deref() == Some("grow::") => Ok(()),
        (None, request) => Err(Failure::Protocol(format!(
            "the monitor was asked for the tests `grow::`, and asks for {request:?}"
        ))),
    }
}

/// Returns the traces for the RAM disk: `chosen`, and all others of the repository for the
/// monitor's commands. Without a monitor the others stay out, because BIOS reads the RAM disk
/// slowly.
fn traces_for(
    project: &Project,
    chosen: Option<&Trace>,
    monitor: bool,
) -> Result<Vec<Trace>, Failure> {
    let mut traces = Vec::from_iter(chosen.cloned());
    if monitor {
        for name in trace::names(project)? {
            if chosen.is_none_or(|chosen| chosen.name != name) {
                traces.push(trace::load(project, &name)?);
            }
        }
    }
    Ok(traces)
}

/// A request of the monitor's user to run the tests.
#[derive(Debug)]
struct TestRequest {
    /// Only tests whose names contain this.
    filter: Option<String>,
}

/// Returns whether a line that the user typed is the monitor's command `test`.
fn asks_for_tests(line: &[u8]) -> bool {
    let command = line.trim_ascii().split(|&byte| byte == b' ').next();
    command == Some(b"test")
}

/// Passes the output of the machine to `show`, and sends it the user's lines, until it ends.
/// `whole_limit` is the time limit from the kernel's start to its end.
fn watch(
    mut machine: Machine,
    console: Option<&Console>,
    whole_limit: Option<Duration>,
    options: &MachineOptions,
    show: fn(&[u8]),
) -> Result<(Exit, Option<TestRequest>), Failure> {
    let mut splitter = Splitter::default();
    let mut request = None;
    let mut is_test_typed = false;
    loop {
        if process::interrupted() {
            return Err(Failure::Interrupted);
        }
        let (what, limit) = match splitter.is_ready() {
            false => ("sign of life from the kernel", Some(BOOT_LIMIT)),
            true => ("end of the demonstration", whole_limit),
        };
        if let Some(limit) = limit.filter(|&limit| !options.gdb && machine.clock() > limit) {
            terminal::show(splitter.before_ready().as_bytes());
            return Err(Failure::timed_out(what, limit));
        }
        if let Some(console) = console.filter(|_| splitter.is_ready()) {
            // The tests end this machine. Later lines are for the next one.
            while !is_test_typed && let Some(line) = console.line() {
                machine.send(&line);
                is_test_typed = asks_for_tests(&line);
            }
        }
        match machine.listen(process::POLL) {
            SerialEvent::Nothing => {}
            SerialEvent::Bytes(bytes) => {
                let taken = splitter.push(&bytes, |piece| {
                    match piece {
                        Piece::Text(text) => show(text),
                        Piece::Record(Record::Ready) => {}
                        Piece::Record(Record::RunTests { filter }) => {
                            let filter = filter.map(str::to_owned);
                            request = Some(TestRequest { filter });
                        }
                        Piece::Record(record) => {
                            return Err(Failure::Protocol(format!("`{record}` outside of tests")));
                        }
                    }
                    Ok(())
                });
                taken.inspect_err(|_| terminal::show(splitter.before_ready().as_bytes()))?;
            }
            SerialEvent::End => {
                let exit = machine.end();
                if !matches!(exit, Ok(Exit::SUCCESS)) {
                    terminal::show(splitter.before_ready().as_bytes());
                }
                return Ok((exit?, request));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_the_tests_is_told_from_all_others() {
        for line in ["test\n", " test grow::\r\n", "test a b\n", "test"] {
            assert!(asks_for_tests(line.as_bytes()), "{line:?}");
        }
        for line in ["\n", "tests\n", "trace test\n", "\u{4}", ""] {
            assert!(!asks_for_tests(line.as_bytes()), "{line:?}");
        }
    }
}
