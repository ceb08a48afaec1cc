//! `boot run`: the kernel's main job, and its monitor when somebody is there to use it.

use std::time::Duration;

use crate::{
    cli::{MachineOptions, RunOptions},
    failure::Failure,
    image::Builder,
    kernel::Kernel,
    machine::{BOOT_LIMIT, Exit, Heard, Machine},
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk::{self, Config},
    record::Record,
    report::Report,
    serial::{Piece, Splitter},
    session::Session,
    terminal::{self, Console},
    toolchain::Toolchain,
    trace::{self, Trace},
};

/// How long everything may take when no monitor follows.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);

/// `boot run`.
pub fn run(project: &Project, options: &RunOptions) -> Result<(), Failure> {
    options.machine.check()?;
    let trace = trace::load(project, &options.trace)?;
    let console = Console::open();
    let toolchain = Toolchain::prepare(project)?;
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    let builder = Builder::prepare(project, &toolchain)?;
    let kernel = Kernel::Demonstration.build(project, &toolchain, &options.machine.build)?;
    let traces = traces_for(project, &trace, console.is_some())?;

    let mut job = true;
    loop {
        let config = Config::Demonstration {
            trace: trace.name.clone(),
            job,
            monitor: console.is_some(),
            ticks_per_instruction: qemu::ticks_per_instruction(&options.machine),
        };
        let ramdisk = ramdisk::archive(&config, &traces)?;
        let image = builder.make(&kernel, &ramdisk, &options.machine.build, project.target())?;
        let machine = qemu.start(&options.machine, &kernel, image.path())?;
        let (exit, wish) = watch(machine, &options.machine, console.as_ref())?;
        if let Some(failure) = exit.failure() {
            return Err(failure);
        }
        let Some(Wish { filter }) = wish else {
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
        job = false;
    }
}

/// The traces that go into the RAM disk. Under BIOS it is read slowly, so without a monitor to ask
/// for them the others stay out.
fn traces_for(
    project: &Project,
    chosen: &Trace,
    monitor: bool,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut traces = vec![(chosen.name.clone(), chosen.bytes.clone())];
    if monitor {
        for name in trace::names(project)?
            .into_iter()
            .filter(|name| *name != chosen.name)
        {
            let trace = trace::load(project, &name)?;
            traces.push((trace.name, trace.bytes));
        }
    }
    Ok(traces)
}

/// The monitor's wish to have the tests run.
struct Wish {
    filter: Option<String>,
}

/// Shows what the machine says and passes on what the user says, until it ends.
fn watch(
    mut machine: Machine,
    options: &MachineOptions,
    console: Option<&Console>,
) -> Result<(Exit, Option<Wish>), Failure> {
    let mut splitter = Splitter::default();
    let mut wish = None;
    loop {
        if process::interrupted() {
            return Err(Failure::Interrupted);
        }
        let (what, limit) = match splitter.is_ready() {
            false => ("sign of life from the kernel", Some(BOOT_LIMIT)),
            true => (
                "end of the main job",
                console.is_none().then_some(WHOLE_LIMIT),
            ),
        };
        if let Some(limit) = limit.filter(|&limit| !options.gdb && machine.clock() > limit) {
            terminal::show(splitter.before_ready().as_bytes());
            return Err(Failure::TimedOut { what, limit });
        }
        if let Some(console) = console.filter(|_| splitter.is_ready()) {
            for line in console.lines() {
                machine.say(&line);
                splitter.answered();
            }
        }
        match machine.listen(process::POLL) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                for piece in splitter.push(&bytes) {
                    match piece {
                        Piece::Text(text) => terminal::show(&text),
                        Piece::Record(Record::Ready) => {}
                        Piece::Record(Record::RunTests { filter }) => wish = Some(Wish { filter }),
                        Piece::Record(record) => {
                            return Err(Failure::Protocol(format!("{record:?} outside of tests")));
                        }
                    }
                }
            }
            Heard::End => {
                let exit = machine.end();
                if !matches!(exit, Ok(Exit::Success)) {
                    terminal::show(splitter.before_ready().as_bytes());
                }
                return Ok((exit?, wish));
            }
        }
    }
}
