//! The command line.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    failure::{Failure, STATUS_HELP},
    qemu::GDB_ADDRESS,
};

/// Builds the kernel, boots it in QEMU and runs its main job: a recorded program's allocations,
/// replayed on the kernel's heap. On a terminal, a small monitor follows.
#[derive(Debug, Parser)]
#[command(
    name = "run-qemu.sh",
    bin_name = "./run-qemu.sh",
    args_conflicts_with_subcommands = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}\n\n{STATUS_HELP}")
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`, which is what happens without a command.
    #[command(flatten)]
    pub run: RunOptions,
}

impl Cli {
    /// Reads this program's arguments. A call for help is answered here, and ends the program.
    pub fn read() -> Result<Self, Failure> {
        Self::try_parse().map_err(|error| {
            if !error.use_stderr() {
                error.exit();
            }
            // clap's first lines say what is wrong, those after an empty one how to write it.
            let text = error.to_string();
            let what: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.is_empty())
                .collect();
            Failure::Input(format!(
                "{} (--help says more)",
                what.join(" ").trim_start_matches("error: ")
            ))
        })
    }
}

const EXAMPLES: &str = "\
Examples:
  ./run-qemu.sh                          boot under BIOS and run the main job
  ./run-qemu.sh --uefi --memory 4G       the same under UEFI, with 4 GiB of memory
  ./run-qemu.sh --trace python           replay another trace of tests/traces
  ./run-qemu.sh test                     all tests, on the host and in the kernel
  ./run-qemu.sh test grow::              those whose names contain `grow::`
  ./run-qemu.sh test --junit target/junit.xml
  ./run-qemu.sh test --forks             kernels of other sizes, and the fork of README.md
  ./run-qemu.sh test --soak 60           random programs in the kernel for an hour
  ./run-qemu.sh test --all               what continuous integration runs, and longer
  ./run-qemu.sh image --uefi heap.img    only write the disk image";

const ENVIRONMENT: &str = "\
Environment:
  KERNEL_TOOLCHAIN   what builds the kernel: a toolchain of rustup, or a folder that holds one
  CARGO_TARGET_DIR   where everything is built; without it, target/ in the repository";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot and run the main job (the default).
    Run(RunOptions),
    /// Run every test: on the host, then in the kernel. The last line is `N passed, N failed`.
    Test(TestOptions),
    /// Write a disk image that boots the main job, and do not run it.
    Image(ImageOptions),
    /// Check formatting, spelling, lints and documentation; warnings are errors.
    Lint,
    /// Run everything that a pull request must pass. The last line is `N passed, N failed, N skipped`.
    Ci(CiOptions),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// The trace that the main job replays: the name of one in tests/traces, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_TRACE)]
    pub trace: String,
}

/// Options of `test`.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// Run only the tests whose names contain this.
    #[arg(value_parser = parse_filter)]
    pub filter: Option<String>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Leave out the tests that run on the host.
    #[arg(long)]
    pub kernel_only: bool,
    /// Only the heap's tests on the host, as 32-bit programs.
    #[arg(long, conflicts_with_all = ["kernel_only", "all", "soak", "hardened"])]
    pub i686: bool,
    /// Everything that continuous integration runs, in its longer forms: both firmwares, small and
    /// large memory, 32 bits, sanitizers, fuzzing, mutations, lints (about an hour).
    #[arg(long, exclusive = true)]
    pub all: bool,
    /// Run the in-kernel tests on a heap that detects misuse, and those that misuse it.
    #[arg(long)]
    pub hardened: bool,
    /// Instead of the tests, build and boot kernels of twenty sizes, and the fork that README.md describes.
    #[arg(long, conflicts_with_all = ["filter", "kernel_only", "i686", "all", "soak", "hardened"])]
    pub forks: bool,
    /// Random programs instead of tests.
    #[command(flatten)]
    pub soak: SoakOptions,
    /// Give each in-kernel test this many times its deadline (a slow machine, `--accel kvm` under
    /// another hypervisor).
    #[arg(long, value_name = "FACTOR", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub deadline_scale: u32,
}

/// Options of a soak.
#[derive(Debug, Args)]
pub struct SoakOptions {
    /// Instead of the tests, run random programs in the kernel for so many minutes, each with a seed of its own.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["filter", "junit"], value_parser = clap::value_parser!(u32).range(1..=10_080))]
    pub soak: Option<u32>,
    /// The seed of the first program, to see a failure again.
    #[arg(long, value_name = "N", requires = "soak")]
    pub seed: Option<u64>,
}

impl SoakOptions {
    /// How long it is to last.
    pub fn length(&self) -> Duration {
        Duration::from_secs(60) * self.soak.unwrap_or_default()
    }
}

/// Options of `ci`.
#[derive(Debug, Args)]
pub struct CiOptions {
    /// Run the longer forms of all steps, and more of them (about an hour).
    #[arg(long)]
    pub long: bool,
}

/// Options of `image`.
#[derive(Debug, Args)]
pub struct ImageOptions {
    /// Where to write the image.
    pub file: PathBuf,
    /// How it is built.
    #[command(flatten)]
    pub build: BuildOptions,
    /// The trace that its main job replays: the name of one in tests/traces, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_TRACE)]
    pub trace: String,
}

/// What the main job replays when nothing else is asked for.
const DEFAULT_TRACE: &str = "cc";

/// How an image is built.
#[derive(Debug, Clone, Args)]
pub struct BuildOptions {
    /// Boot through UEFI instead of BIOS.
    #[arg(long)]
    pub uefi: bool,
    /// Build without optimisation for speed, with debug assertions.
    #[arg(long, conflicts_with = "release")]
    pub debug: bool,
    /// Build optimised (the default).
    #[arg(long)]
    pub release: bool,
}

impl BuildOptions {
    /// The firmware that the image is for.
    pub fn firmware(&self) -> Firmware {
        if self.uefi {
            Firmware::Uefi
        } else {
            Firmware::Bios
        }
    }
}

/// The machine that QEMU makes.
#[derive(Debug, Clone, Args)]
pub struct MachineOptions {
    /// How the image is built.
    #[command(flatten)]
    pub build: BuildOptions,
    /// Memory of the machine: a number of MiB, or with a suffix K, M or G.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: Memory,
    /// What executes the machine's instructions. With tcg they are counted, and every run is the
    /// same.
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    pub accel: Accelerator,
    /// The CPU, by QEMU's name for it (`qemu-system-x86_64 -cpu help` lists them): `max` has all that
    /// there is, a random number generator among it.
    #[arg(long, value_name = "MODEL", value_parser = parse_cpu)]
    pub cpu: Option<String>,
    /// Wait for gdb before the first instruction, and print the line that starts it. No deadlines.
    #[arg(long)]
    pub gdb: bool,
    /// Show the machine's screen.
    #[arg(long)]
    pub display: bool,
}

impl MachineOptions {
    /// Refuses what cannot boot, before anything is built.
    pub fn check(&self) -> Result<(), Failure> {
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
            TcpListener::bind(GDB_ADDRESS).map_err(|error| {
                Failure::Input(format!(
                    "--gdb needs {GDB_ADDRESS}, which cannot be had ({error}): end what uses it"
                ))
            })?;
        }
        Ok(())
    }
}

/// A filter becomes a line of the kernel's configuration.
fn parse_filter(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("not a part of a name");
    }
    Ok(text.into())
}

/// A CPU becomes a word of QEMU's command line, where commas separate features and `help` is none.
fn parse_cpu(text: &str) -> Result<String, &'static str> {
    let is_word = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text == "help" || text == "?" || text.starts_with('-') || !is_word {
        return Err("not the name of a CPU");
    }
    Ok(text.into())
}

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// The PC's old BIOS: QEMU brings its own.
    Bios,
    /// UEFI: OVMF, a package of its own.
    Uefi,
}

impl Firmware {
    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
        }
    }

    /// The least memory with which it and the boot stages come up. With less they hang without a
    /// word.
    pub fn least_memory(self) -> Memory {
        match self {
            Self::Bios => Memory::mib(48),
            Self::Uefi => Memory::mib(64),
        }
    }
}

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// QEMU translates them.
    Tcg,
    /// The processor does, through /dev/kvm.
    Kvm,
}

/// An amount of memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    kib: u64,
}

impl Memory {
    /// `count` MiB.
    const fn mib(count: u64) -> Self {
        Self { kib: count * 1024 }
    }

    /// The amount in KiB.
    pub fn kib(self) -> u64 {
        self.kib
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
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_options_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn memory_is_a_number_of_mebibytes_or_has_a_suffix() {
        let kib = |text: &str| text.parse::<Memory>().map(Memory::kib);
        assert_eq!(kib("256"), Ok(256 << 10));
        assert_eq!(kib("256M"), Ok(256 << 10));
        assert_eq!(kib("65536k"), Ok(64 << 10));
        assert_eq!(kib("4G"), Ok(4 << 20));
        for text in ["", "M", "-1", "+1", "1.5G", "1T", "1GB", " 1", "ä"] {
            assert!(kib(text).unwrap_err().contains("suffix"), "{text}");
        }
        for text in [
            "18446744073709551616",
            "17592186044416G",
            "18014398509481984K",
        ] {
            assert!(kib(text).unwrap_err().contains("64 bits"), "{text}");
        }
    }

    #[test]
    fn each_firmware_has_its_least_memory() {
        let check = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["run-qemu.sh"], arguments].concat()).unwrap();
            cli.run.machine.check()
        };
        assert!(check(&["--memory", "48M"]).is_ok());
        assert!(check(&["--uefi", "--memory", "64M"]).is_ok());
        let why = |arguments| check(arguments).unwrap_err().to_string();
        assert!(
            why(&["--memory", "49151K"])
                .contains("49151 KiB of memory is too little to boot under BIOS")
        );
        assert!(why(&["--uefi", "--memory", "63"]).contains("give it 64 MiB or more"));
        assert!(why(&["--memory", "0"]).starts_with("0 MiB of memory"));
    }

    #[test]
    fn a_port_of_gdb_that_is_in_use_is_refused_at_once() {
        // Another process may have it: then it is in use as well.
        let _listener = TcpListener::bind(GDB_ADDRESS);
        let cli = Cli::try_parse_from(["run-qemu.sh", "--gdb"]).unwrap();
        let why = cli.run.machine.check().unwrap_err().to_string();
        assert!(
            why.contains("127.0.0.1:1234") && why.contains("end what uses it"),
            "{why}"
        );
    }
}
