//! `boot run`: the kernel's main job, and its monitor when somebody is there to use it.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::{MachineOptions, RunOptions},
    failure::Failure,
    image::Builder,
    kernel::Kernel,
    machine::{Exit, Heard, Machine},
    process,
    project::Project,
    qemu::{self, Qemu},
    ramdisk::{self, Config},
    record::Record,
    report::Report,
    serial::{Piece, Splitter},
    session::Session,
    toolchain::Toolchain,
    trace::{self, Trace},
};

/// How long firmware, boot stages and the kernel's entry may take.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long everything may take when no monitor follows.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);

/// Ends the monitor's input, as it does on a terminal.
const CTRL_D: &[u8] = b"\x04";

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
        let session = Session::prepare(project, &toolchain, &builder, &qemu, &options.machine, 1)?;
        let (results, ending) = session.run(filter.as_deref());
        match ending {
            Err(Failure::Interrupted) => return ending,
            Err(failure) => eprintln!("boot: {failure}"),
            Ok(()) => {}
        }
        let mut report = Report::default();
        report.add("kernel", results);
        println!("{}", report.totals());
        job = false;
    }
}

/// The traces that go into the RAM disk. Under BIOS it is read slowly, so without a monitor to ask for them the
/// others stay out.
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
    let began = Instant::now();
    let mut splitter = Splitter::default();
    let mut wish = None;
    loop {
        if process::interrupted() {
            return Err(Failure::Interrupted);
        }
        let (what, limit) = match splitter.before_ready() {
            Some(_) => ("sign of life from the kernel", Some(READY_LIMIT)),
            None => (
                "end of the main job",
                console.is_none().then_some(WHOLE_LIMIT),
            ),
        };
        if let Some(limit) = limit.filter(|&limit| !options.gdb && began.elapsed() > limit) {
            show(splitter.before_ready().unwrap_or_default().as_bytes());
            return Err(Failure::TimedOut { what, limit });
        }
        if splitter.before_ready().is_none()
            && let Some(console) = console
        {
            for line in console.lines.try_iter() {
                machine.say(&line);
                splitter.answered();
            }
        }
        match machine.listen(process::POLL) {
            Heard::Nothing => {}
            Heard::Bytes(bytes) => {
                for piece in splitter.push(&bytes) {
                    match piece {
                        Piece::Text(text) => show(&text),
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
                    show(splitter.before_ready().unwrap_or_default().as_bytes());
                }
                return Ok((exit?, wish));
            }
        }
    }
}

/// Writes to the terminal at once, line end or not.
fn show(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Nobody reads any more: the machine still runs to its end, and its exit status counts.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// The user's terminal.
struct Console {
    /// What was typed, a line at a time; [`CTRL_D`] at its end.
    lines: Receiver<Vec<u8>>,
}

impl Console {
    /// The terminal, if both its directions are one.
    fn open() -> Option<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return None;
        }
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = Vec::new();
                // An unreadable terminal is at its end too.
                let is_end = !matches!(input.read_until(b'\n', &mut line), Ok(1..));
                let said = if is_end { CTRL_D.to_vec() } else { line };
                if sender.send(said).is_err() || is_end {
                    return;
                }
            }
        });
        Some(Self { lines })
    }
}
