//! `./run-qemu.sh run`: runs the kernel's demonstration, and on a terminal its monitor.

use std::time::Duration;

use kernel_protocol::{
    config::Config,
    record::{END_OF_INPUT, Record},
};

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
    screenshot::Screenshot,
    serial::{Piece, Splitter},
    session::Session,
    terminal::{self, Console},
    toolchain::Toolchain,
    trace::{self, Trace},
};

/// The time limit of a boot in tests. A kernel that a user runs may run on for ever.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);

/// The number of columns of a small terminal: no line of the demonstration has more.
const TERMINAL_COLUMNS: usize = 80;

/// Runs `./run-qemu.sh run`. After each test run that the monitor requests, boots again.
pub(crate) fn run(project: &Project, options: &RunOptions) -> Result<(), Failure> {
    options.machine.check()?;
    let trace = trace::load_chosen(project, options.trace.as_deref())?;
    let files = files::load(&project.files())?;
    let screenshot = options
        .screenshot
        .as_deref()
        .map(Screenshot::prepare)
        .transpose()?;
    // gdb reads what the user types.
    let has_console = !options.machine.attach && Console::exists();
    let toolchain = Toolchain::prepare(project)?;
    let qemu = Qemu::prepare(options.machine.build.firmware())?;
    if screenshot.is_some() {
        qemu.check_screenshot()?;
    }
    let kernel = Kernel::to_run(project, options.example.as_deref());
    let build = &options.machine.build;
    let (builder, kernel) = Builder::with_kernel(project, &toolchain, kernel, build)?;
    let traces = traces_for(project, trace.as_ref(), has_console)?;
    let console = has_console.then(Console::open);

    let mut jobs = true;
    loop {
        let config = Config {
            trace: trace::name_of(trace.as_ref()),
            jobs,
            host: true,
            hold: screenshot.is_some(),
            color: terminal::has_color(),
            monitor: console.is_some(),
            ticks_per_instruction: qemu::ticks_per_instruction(&options.machine),
            ..Config::default()
        };
        let ramdisk = ramdisk::archive(&config, &traces, &files)?;
        let image = builder.make(&kernel, &ramdisk, project.target())?;
        let screenshot = screenshot.as_ref();
        eprintln!("run-qemu.sh: booting");
        let machine = qemu.start(&options.machine, &kernel, image.path(), screenshot)?;
        let watched = Watched {
            machine,
            options: &options.machine,
            console: console.as_ref(),
            piped: None,
            // The monitor says when it reads a line. A fork may read the port in its own way.
            is_reading: project.is_fork() || options.example.is_some(),
            reads_lines: false,
            screenshot,
            is_picture_taken: false,
            limit: None,
            columns: Columns::default(),
            show: terminal::show,
        };
        let ended = watched.run_to_end();
        if let Some(console) = &console {
            console.read_lines();
        }
        let (exit, request) = ended?;
        if let Some(failure) = exit.failure() {
            return Err(failure);
        }
        let Some(TestRequest { filter }) = request else {
            return Ok(());
        };
        let tests = Kernel::to_test(project, false);
        let session = Session::prepare(project, &toolchain, &qemu, &options.machine, tests, 1)?;
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
    let image = builder.make(&kernel, &ramdisk, project.target())?;
    let machine = qemu.start(options, &kernel, image.path(), None)?;
    let (exit, _) = Watched::in_a_test(machine, options, None).run_to_end()?;
    exit.failure().map_or(Ok(()), Err)
}

/// Boots the monitor, and types commands before the prompt. Succeeds if the monitor then asks for
/// the tests, and nothing that follows is lost.
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
    let image = builder.make(&kernel, &ramdisk, project.target())?;
    let machine = qemu.start(options, &kernel, image.path(), None)?;
    let console = Console::with_text(concat!(
        "help\nstats\nslabs\narenas\nframes\nmap\ntrace\ntrim\ntrim now\n",
        "no\x08\x7fte\tgrow::\nexit\n"
    ));
    let (exit, request) = Watched::in_a_test(machine, options, Some(&console)).run_to_end()?;
    let left = console.take();
    match (exit.failure(), request) {
        (Some(failure), _) => Err(failure),
        (None, _) if left != b"exit\n" => Err(Failure::Protocol(format!(
            "of the typed text {:?} is left for the next boot",
            String::from_utf8_lossy(&left)
        ))),
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
    if monitor && !project.is_fork() {
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

/// A machine that runs the demonstration, or the kernel of a fork.
struct Watched<'a> {
    machine: Machine,
    options: &'a MachineOptions,
    /// The terminal of the user.
    console: Option<&'a Console>,
    /// Standard input that is no terminal, once the kernel reads a line.
    piped: Option<Console>,
    /// Whether the kernel takes what the user types.
    is_reading: bool,
    /// Whether the kernel says when it reads a line. Then it gets no more than that.
    reads_lines: bool,
    /// The picture that is taken before the end.
    screenshot: Option<&'a Screenshot>,
    is_picture_taken: bool,
    /// The time limit from the kernel's start to its end.
    limit: Option<Duration>,
    columns: Columns,
    /// Gets the text that the kernel prints.
    show: fn(&[u8]),
}

impl<'a> Watched<'a> {
    /// Returns a machine whose text is not shown, and whose time is limited.
    fn in_a_test(
        machine: Machine,
        options: &'a MachineOptions,
        console: Option<&'a Console>,
    ) -> Self {
        Self {
            machine,
            options,
            console,
            piped: None,
            is_reading: false,
            reads_lines: false,
            screenshot: None,
            is_picture_taken: false,
            limit: Some(WHOLE_LIMIT),
            columns: Columns::default(),
            show: |_| {},
        }
    }

    /// Shows the text of the machine, and sends it the user's lines, until it ends.
    ///
    /// # Errors
    /// If the machine does not end by itself. A picture is taken before, if one is asked for.
    fn run_to_end(mut self) -> Result<(Exit, Option<TestRequest>), Failure> {
        let mut splitter = self.machine.splitter();
        let result = self.watch(&mut splitter);
        if !matches!(result, Ok((Exit::SUCCESS, _)) | Err(Failure::Interrupted)) {
            terminal::show(splitter.before_ready().as_bytes());
        }
        if let (Some(screenshot), Err(Failure::Interrupted | Failure::TimedOut { .. })) =
            (self.screenshot, &result)
        {
            screenshot.take()?;
        }
        if let (Some(_), false, Ok((Exit::SUCCESS, _))) =
            (self.screenshot, self.is_picture_taken, &result)
        {
            return Err(Failure::Protocol(
                "the kernel ended without `@hold`, so there is no picture".into(),
            ));
        }
        if self.limit.is_some() && self.columns.most > TERMINAL_COLUMNS {
            return Err(Failure::Protocol(format!(
                "a line has {} columns; a terminal has {TERMINAL_COLUMNS}",
                self.columns.most
            )));
        }
        result.map_err(|failure| self.options.explain(failure))
    }

    fn watch(&mut self, splitter: &mut Splitter) -> Result<(Exit, Option<TestRequest>), Failure> {
        let mut request = None;
        loop {
            if process::interrupted() {
                return Err(Failure::Interrupted);
            }
            let (what, limit) = match splitter.is_ready() {
                false => ("sign of life from the kernel", Some(BOOT_LIMIT)),
                true => ("end of the demonstration", self.limit),
            };
            let is_over = |&limit: &Duration| !self.options.gdb && self.machine.clock() > limit;
            if let Some(limit) = limit.filter(is_over) {
                return Err(Failure::timed_out(what, limit));
            }
            if splitter.is_ready() && self.is_reading {
                self.send_typed();
            }
            let bytes = match self.machine.listen(process::POLL) {
                SerialEvent::Nothing => continue,
                SerialEvent::Bytes(bytes) => bytes,
                SerialEvent::End => return Ok((self.machine.end()?, request)),
            };
            splitter.push(&bytes, |piece| {
                match (piece, self.screenshot) {
                    (Piece::Text(text), _) => {
                        self.columns.add(text);
                        (self.show)(text);
                    }
                    (Piece::Record(Record::Ready), _) => {}
                    (Piece::Record(Record::Input), _) => {
                        (self.is_reading, self.reads_lines) = (true, true);
                        match self.console {
                            Some(console) => console.read_keys(),
                            // gdb reads what the user types.
                            None if self.options.attach => {}
                            None => _ = self.piped.get_or_insert_with(Console::open),
                        }
                    }
                    (Piece::Record(Record::RunTests { filter }), _) => {
                        let filter = filter.map(str::to_owned);
                        request = Some(TestRequest { filter });
                    }
                    (Piece::Record(Record::Hold), Some(screenshot)) => {
                        screenshot.take()?;
                        self.is_picture_taken = true;
                        self.machine.send(b"\n");
                    }
                    (Piece::Record(record), _) => {
                        return Err(Failure::Protocol(format!("`{record}` outside of tests")));
                    }
                }
                Ok(())
            })?;
        }
    }

    /// Sends the kernel what the user typed.
    fn send_typed(&mut self) {
        if self.reads_lines
            && process::was_continued()
            && let Some(console) = self.console
        {
            console.read_keys();
        }
        while let Some(console) = self.console.or(self.piped.as_ref())
            && self.is_reading
        {
            let typed = console.take();
            if typed.is_empty() {
                return;
            }
            self.machine.send(&typed);
            self.is_reading = match typed.last() {
                Some(&END_OF_INPUT) => false,
                // The next line may be for the next machine.
                Some(b'\n') => !self.reads_lines,
                _ => true,
            };
        }
    }
}

/// Counts the columns of lines.
#[derive(Debug, Default)]
struct Columns {
    column: usize,
    /// The most columns of a line.
    most: usize,
    is_in_sequence: bool,
}

impl Columns {
    /// Adds text: lines, or parts of them. Control sequences of a terminal take no column.
    fn add(&mut self, text: &[u8]) {
        for &byte in text {
            match byte {
                _ if self.is_in_sequence => {
                    self.is_in_sequence = byte == b'[' || !(0x40..0x80).contains(&byte);
                }
                0x1b => self.is_in_sequence = true,
                b'\n' | b'\r' => self.column = 0,
                0x08 => self.column = self.column.saturating_sub(1),
                // The first byte of a character counts for the others.
                0x80..0xc0 => {}
                _ => self.column += 1,
            }
            self.most = self.most.max(self.column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_that_a_terminal_shows() {
        let most = |parts: &[&str]| {
            let mut columns = Columns::default();
            parts.iter().for_each(|part| columns.add(part.as_bytes()));
            columns.most
        };
        assert_eq!(most(&["abc\nab", "cd\n", "abc\n"]), 4);
        assert_eq!(most(&["\x1b[1;3", "2mok\x1b[0m \x1b[K"]), 3);
        assert_eq!(most(&["ab\x08\x08abc\rab", "é"]), 3);
    }
}
