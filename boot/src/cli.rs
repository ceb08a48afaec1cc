//! The command line.

use std::{env, ffi::OsString, net::TcpListener, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    failure::{Failure, STATUS_HELP},
    gdb, new,
    project::is_for_fork,
};

/// Builds the kernel, boots it in QEMU and runs its demonstration: a recorded program's
/// allocations, replayed on the kernel's heap. On a terminal, a small monitor follows.
#[derive(Debug, Parser)]
#[command(
    name = "run-qemu.sh",
    bin_name = "./run-qemu.sh",
    args_conflicts_with_subcommands = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}\n\n{STATUS_HELP}")
)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `run`, the default command.
    #[command(flatten)]
    pub run: RunOptions,
}

impl Cli {
    /// Reads this program's arguments. On `--help`, prints the help and ends the program.
    ///
    /// # Errors
    /// [`Failure::Input`] with clap's message in one line.
    pub(crate) fn read() -> Result<Self, Failure> {
        let command = if is_for_fork() {
            for_fork(Self::command())
        } else {
            Self::command()
        };
        let parsed = command
            .try_get_matches()
            .and_then(|matches| Self::from_arg_matches(&matches));
        parsed.map_err(|error| {
            if !error.use_stderr() {
                error.exit();
            }
            if let Some(command) = misplaced_command(&error) {
                let options: Vec<_> = env::args().skip(1).filter(|it| *it != command).collect();
                return Failure::Input(format!(
                    "options follow the command: ./run-qemu.sh {command} {}",
                    options.join(" ")
                ));
            }
            Failure::Input(one_line(&error.to_string()))
        })
    }
}

/// Returns the command line for the kernel of a fork: its help leaves out what is for this
/// repository alone.
fn for_fork(command: clap::Command) -> clap::Command {
    const ABOUT: &str = "Builds this kernel and boots it in QEMU.";

    let hide = |mut command: clap::Command, names: &[&'static str]| {
        for name in names {
            command = command.mut_arg(name, |option| option.hide(true));
        }
        command
    };
    let run = |command| hide(command, &["trace"]);
    let test = [
        "all",
        "forks",
        "hardened",
        "i686",
        "kernel_only",
        "soak",
        "seed",
    ];
    let mut command = run(command)
        .about(ABOUT)
        .long_about(ABOUT)
        .after_help(FORK_EXAMPLES)
        .after_long_help(format!("{FORK_EXAMPLES}\n\n{ENVIRONMENT}\n\n{STATUS_HELP}"))
        .mut_subcommand("run", |it| run(it).about("Boot the kernel (the default)"))
        .mut_subcommand("test", |it| {
            hide(it, &test).about("Run the tests of the kernel, inside it")
        })
        .mut_subcommand("image", |it| {
            run(it).about("Write a disk image that boots the kernel, without running it")
        });
    for name in ["new", "lint", "ci"] {
        command = command.mut_subcommand(name, |it| it.hide(true));
    }
    command
}

const FORK_EXAMPLES: &str = "\
Examples:
  ./run-qemu.sh --uefi --memory 4G       boot under UEFI, with 4 GiB of memory
  ./run-qemu.sh --screenshot out.png     keep a picture of the screen
  ./run-qemu.sh --gdb --attach           debug the kernel from its main function on
  ./run-qemu.sh test boxes::             the tests whose names contain `boxes::`
  ./run-qemu.sh image --uefi kernel.img  only write the disk image";

/// Returns the command that follows options, if that is the error.
fn misplaced_command(error: &clap::Error) -> Option<String> {
    match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::UnknownArgument, ContextValue::String(word)) => Cli::command()
            .find_subcommand(word)
            .map(|command| command.get_name().to_owned()),
        _ => None,
    }
}

/// Returns a message of clap in one line: the error and the tips, without the usage.
fn one_line(message: &str) -> String {
    let mut parts = message
        .split("\n\n")
        .map(|part| part.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    let error = parts.next().unwrap_or_default();
    let tips = parts.filter(|part| part.starts_with("tip: "));
    format!(
        "{}{} (--help says more)",
        error.trim_start_matches("error: "),
        tips.collect::<String>()
            .replace(" tip: ", "tip: ")
            .replace("tip: ", "; ")
    )
}

const EXAMPLES: &str = "\
Examples:
  ./run-qemu.sh                          boot under BIOS and run the demonstration
  ./run-qemu.sh --uefi --memory 4G       the same under UEFI, with 4 GiB of memory
  ./run-qemu.sh --trace python           replay another trace of tests/traces
  ./run-qemu.sh --screenshot screen.png  and keep a picture of the machine's screen
  ./run-qemu.sh -- -device e1000         with these words on QEMU's command line
  ./run-qemu.sh test                     all tests, on the host and in the kernel
  ./run-qemu.sh test grow::              the tests whose names contain `grow::`
  ./run-qemu.sh test --junit target/junit.xml
  ./run-qemu.sh test masked:: --show-output
  ./run-qemu.sh test --forks             kernels of other sizes, and the fork of README.md
  ./run-qemu.sh test --soak 60           random programs in the kernel for an hour
  ./run-qemu.sh ci                       everything that a pull request must pass
  ./run-qemu.sh ci --long                the longer forms of the same steps
  ./run-qemu.sh new my-kernel ../my-kernel
  ./run-qemu.sh image --uefi heap.img    only write the disk image";

const ENVIRONMENT: &str = "\
Environment:
  KERNEL_TOOLCHAIN   the toolchain that builds the kernel: a name of rustup, or a folder
  CARGO_TARGET_DIR   the folder for everything that is built; default: target/ in the repository.
                     Clones must not share one: cargo may take one's kernel for another's";

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot and run the demonstration (the default).
    Run(RunOptions),
    /// Run every test: on the host, then in the kernel. The last line is `N passed, N failed`.
    Test(TestOptions),
    /// Write a disk image that boots the demonstration, without running it.
    Image(ImageOptions),
    /// Make a kernel of your own, from a template.
    New(NewOptions),
    /// Check formatting, spelling, lints and documentation; warnings are errors.
    Lint,
    /// Run everything that a pull request must pass. The last line is the sum.
    Ci(CiOptions),
}

/// The options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// The trace that the demonstration replays: a name in tests/traces, or a file. Without this
    /// option it is `json`, if tests/traces has it.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_trace)]
    pub trace: Option<String>,
    /// Run an example of the kernel instead, such as `timer`.
    #[arg(long, value_name = "NAME", conflicts_with = "trace")]
    pub example: Option<String>,
    /// Write a picture of the machine's screen, as PNG, when the kernel ends. Ctrl-C, `kill` or
    /// `timeout` ends a kernel that runs on for ever, and the picture is taken first.
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
}

/// The options of `test`.
#[derive(Debug, Args)]
pub(crate) struct TestOptions {
    /// Run only the tests whose names contain this.
    #[arg(value_parser = parse_filter)]
    pub filter: Option<String>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Also show what the tests that passed have printed.
    #[arg(long, conflicts_with_all = ["all", "soak"])]
    pub show_output: bool,
    /// Skip the tests that run on the host.
    #[arg(long)]
    pub kernel_only: bool,
    /// Run only the heap's tests on the host, as 32-bit programs.
    #[arg(long, conflicts_with_all = ["kernel_only", "all", "soak", "hardened"])]
    pub i686: bool,
    /// The same as `ci --long`: both firmwares, small and large memory, 32 bits, sanitizers,
    /// fuzzing, mutations, lints (about two hours).
    #[arg(long, exclusive = true)]
    pub all: bool,
    /// Run the in-kernel tests on a heap that detects misuse, and the tests of that detection.
    #[arg(long)]
    pub hardened: bool,
    /// Build and boot kernels of twenty sizes, the fork of README.md, and the demonstration,
    /// instead of the tests.
    #[arg(long, conflicts_with_all = ["filter", "kernel_only", "i686", "all", "soak", "hardened"])]
    pub forks: bool,
    /// The soak test.
    #[command(flatten)]
    pub soak: SoakOptions,
    /// Multiply the deadline of each in-kernel test, for a slow machine or a nested hypervisor.
    #[arg(
        long,
        value_name = "FACTOR",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub deadline_scale: u32,
}

/// The options of a soak test.
#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    /// Run random programs in the kernel for this many minutes, instead of the tests. Each program
    /// has a seed of its own.
    #[arg(
        long,
        value_name = "MINUTES",
        conflicts_with_all = ["filter", "junit"],
        value_parser = clap::value_parser!(u32).range(1..=10_080)
    )]
    pub soak: Option<u32>,
    /// The seed of the first program, to reproduce a failure.
    #[arg(long, value_name = "N", requires = "soak")]
    pub seed: Option<u64>,
}

impl SoakOptions {
    /// Returns how long the soak test lasts.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(60) * self.soak.unwrap_or_default()
    }
}

/// The options of `new`.
#[derive(Debug, Args)]
pub(crate) struct NewOptions {
    /// The name of the kernel.
    #[arg(value_parser = new::parse_name)]
    pub name: String,
    /// The folder to make; default: a folder of that name, beside this repository.
    pub folder: Option<PathBuf>,
    /// Copy this repository into the folder, so that the kernel depends on nothing outside.
    #[arg(long)]
    pub standalone: bool,
}

/// The options of `ci`.
#[derive(Debug, Args)]
pub(crate) struct CiOptions {
    /// Run the longer forms of all steps, and more of them (about two hours).
    #[arg(long)]
    pub long: bool,
}

/// The options of `image`.
#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    /// The file for the image.
    pub file: PathBuf,
    /// How the kernel is built.
    #[command(flatten)]
    pub build: BuildOptions,
    /// The trace that the demonstration replays: a name in tests/traces, or a file. Without this
    /// option it is `json`, if tests/traces has it.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_trace)]
    pub trace: Option<String>,
}

/// How an image is built.
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildOptions {
    /// Boot through UEFI instead of BIOS.
    #[arg(long)]
    pub uefi: bool,
    /// Build with debug assertions, and without optimisation for speed.
    #[arg(long, conflicts_with = "release")]
    pub debug: bool,
    /// Build with optimisation (the default).
    #[arg(long)]
    pub release: bool,
}

impl BuildOptions {
    /// Returns the firmware that boots the image.
    pub(crate) fn firmware(&self) -> Firmware {
        if self.uefi {
            Firmware::Uefi
        } else {
            Firmware::Bios
        }
    }
}

/// The virtual machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineOptions {
    /// How the kernel is built.
    #[command(flatten)]
    pub build: BuildOptions,
    /// The memory of the machine: a number of MiB, or a number with a suffix K, M or G.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: Memory,
    /// The number of CPUs.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = parse_cpus
    )]
    pub smp: u32,
    /// What executes the machine's instructions. tcg counts instructions, and every run is the
    /// same: the default for one CPU. mttcg is as fast as this computer allows: the default for
    /// several.
    #[arg(long, value_enum)]
    accel: Option<Accelerator>,
    /// QEMU's name of the CPU (`qemu-system-x86_64 -cpu help` lists all). `max` has all features,
    /// with a random number generator among them.
    #[arg(long, value_name = "MODEL", value_parser = parse_cpu)]
    pub cpu: Option<String>,
    /// Wait for gdb before the first instruction, and print gdb's command line. No deadlines apply.
    #[arg(long)]
    pub gdb: bool,
    /// Start gdb in this terminal.
    #[arg(long, requires = "gdb")]
    pub attach: bool,
    /// Show the machine's screen: in a window, or else through VNC, to this computer alone.
    #[arg(long)]
    pub display: bool,
    /// More arguments for QEMU. They follow `--`, after all others.
    #[arg(last = true, value_name = "QEMU_ARGS")]
    pub qemu: Vec<OsString>,
}

impl MachineOptions {
    /// Returns what executes the machine's instructions.
    pub(crate) fn accel(&self) -> Accelerator {
        self.accel.unwrap_or(match self.smp {
            1 => Accelerator::Tcg,
            _ => Accelerator::Mttcg,
        })
    }

    /// Checks the options before a build begins.
    ///
    /// # Errors
    /// [`Failure::Input`] if the memory is too small for the firmware, the port of gdb is in use,
    /// or gdb is not there.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let firmware = self.build.firmware();
        let least = firmware.least_memory();
        if self.memory < least {
            return Err(Failure::Input(format!(
                "{} of memory is too little to boot under {}: give it {least} or more",
                self.memory,
                firmware.name()
            )));
        }
        if self.gdb {
            TcpListener::bind(gdb::ADDRESS).map_err(|error| {
                Failure::Input(format!(
                    "--gdb needs {} ({error}): end the program that uses it",
                    gdb::ADDRESS
                ))
            })?;
        }
        if self.attach {
            gdb::program()?;
        }
        Ok(())
    }

    /// Checks that the machine has room for the kernel: for an image of `image` bytes, and for
    /// `zeroed` bytes of variables that the image does not contain.
    ///
    /// # Errors
    /// [`Failure::Input`] if the bootloader would run out of memory.
    pub(crate) fn check_room(&self, image: u64, zeroed: u64) -> Result<(), Failure> {
        let firmware = self.build.firmware();
        let kernel = mib_of(image.saturating_add(zeroed));
        let least = firmware.memory_beside_kernel() + kernel;
        if self.memory < least {
            return Err(Failure::Input(format!(
                "{} of memory is too little: image and variables of this kernel take {kernel}; \
                 under {}, give it --memory {}M or more",
                self.memory,
                firmware.name(),
                least.kib / 1024
            )));
        }
        Ok(())
    }

    /// Adds to `failure` what the user can try on this machine.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match (failure, self.accel()) {
            (Failure::TimedOut { what, limit, .. }, Accelerator::Kvm) => Failure::TimedOut {
                what,
                limit,
                hint: Some("try --accel tcg"),
            },
            (Failure::Qemu { status, message }, _) if message.contains("CPU model") => {
                Failure::Qemu {
                    status,
                    message: format!("{message}; `qemu-system-x86_64 -cpu help` lists all models"),
                }
            }
            (other, _) => other,
        }
    }
}

/// Returns `bytes` as an amount in MiB, rounded up.
fn mib_of(bytes: u64) -> Memory {
    Memory::mib(bytes.div_ceil(1 << 20))
}

/// Checks a filter. It becomes a line of the kernel's configuration.
fn parse_filter(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("not a part of a name");
    }
    Ok(text.into())
}

/// Checks the name of a trace.
fn parse_trace(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("neither a name in tests/traces nor a file");
    }
    Ok(text.into())
}

/// Parses the number of CPUs.
fn parse_cpus(text: &str) -> Result<u32, &'static str> {
    let count = text.parse().ok().filter(|count| (1..=16).contains(count));
    count.ok_or("not a number from 1 to 16")
}

/// Checks the name of a CPU. It becomes a word of QEMU's command line, where `help` has a meaning.
fn parse_cpu(text: &str) -> Result<String, &'static str> {
    let is_word = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text == "help" || text == "?" || text.starts_with('-') || !is_word {
        return Err("not the name of a CPU; `qemu-system-x86_64 -cpu help` lists them");
    }
    Ok(text.into())
}

/// The firmware that starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// BIOS. It is a part of QEMU.
    Bios,
    /// UEFI: the package OVMF.
    Uefi,
}

impl Firmware {
    /// Returns its name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
        }
    }

    /// Returns the least memory with which it and the bootloader start. With less they hang without
    /// a message.
    pub(crate) fn least_memory(self) -> Memory {
        match self {
            Self::Bios => Memory::mib(48),
            Self::Uefi => Memory::mib(64),
        }
    }

    /// Returns the memory that it and the bootloader need beside the image and the kernel's zeroed
    /// variables. Measured with kernels of 5 and 55 MiB, of which none starts with 7 MiB less.
    fn memory_beside_kernel(self) -> Memory {
        match self {
            // The bootloader puts the kernel at 16 MiB.
            Self::Bios => Memory::mib(20),
            Self::Uefi => Memory::mib(46),
        }
    }
}

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accelerator {
    /// QEMU's translator, which counts instructions. The CPUs take turns.
    Tcg,
    /// QEMU's translator, with a thread of this computer for each CPU.
    Mttcg,
    /// The host's processor, through /dev/kvm.
    Kvm,
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Memory {
    kib: u64,
}

impl Memory {
    /// Returns `count` MiB.
    const fn mib(count: u64) -> Self {
        Self { kib: count * 1024 }
    }

    /// Returns the amount in KiB.
    pub(crate) fn kib(self) -> u64 {
        self.kib
    }
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            kib: self.kib.saturating_add(other.kib),
        }
    }
}

impl std::str::FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, kib_per_unit) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 1),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 10),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1 << 10),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("not a number with an optional suffix K, M or G".into());
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(kib_per_unit))
            // QEMU counts bytes in 64 bits.
            .filter(|&kib| kib <= u64::MAX >> 10)
            .map(|kib| Self { kib })
            .ok_or_else(|| "more than 64 bits can count".into())
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kib.is_multiple_of(1 << 20) && self.kib != 0 {
            write!(f, "{} GiB", self.kib >> 20)
        } else if self.kib.is_multiple_of(1 << 10) {
            write!(f, "{} MiB", self.kib >> 10)
        } else {
            write!(f, "{} KiB", self.kib)
        }
    }
}

#[cfg(test)]
mod tests;
