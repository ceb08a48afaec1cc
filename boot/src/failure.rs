//! Every way to end other than well. Each is told in one line and has an exit status of its own.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// It was told already; what remains is the exit status.
    AlreadyReported(u8),
    /// Something the user gave cannot be used.
    Input(String),
    /// The kernel panicked.
    Panicked,
    /// The kernel met a fault it could not recover from.
    Faulted,
    /// The kernel reported failure.
    KernelFailed,
    /// The kernel refused its RAM disk, its configuration or its boot information.
    Refused,
    /// The machine reset itself.
    Reset,
    /// The kernel did not get there in time.
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// The kernel's records make no sense.
    Protocol(String),
    /// A build failed; cargo has said why.
    Build {
        /// What was being built.
        what: String,
        /// How cargo ended.
        status: ExitStatus,
    },
    /// The boot stages cannot load this kernel.
    Unbootable {
        /// Its file.
        kernel: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No toolchain can build for the kernel's target.
    NoToolchain(String),
    /// QEMU is not there, or is too old.
    NoQemu(String),
    /// UEFI was asked for, and there is no firmware for it.
    NoFirmware(String),
    /// QEMU itself failed.
    Qemu {
        /// How it ended.
        status: ExitStatus,
        /// The last line it wrote to standard error.
        message: String,
    },
    /// A file or a process could not be used.
    Io {
        /// What was being done.
        what: String,
        /// Why that failed.
        error: io::Error,
    },
    /// A signal asked us to stop.
    Interrupted,
    /// A debugger has ended the machine.
    Debugger,
}

impl Failure {
    /// Names a file operation that failed: `Failure::io("cannot read", path)(error)`.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{action} {}", path.display());
        move |error| Self::Io { what, error }
    }

    /// Names anything else that the system refused: `Failure::because("cannot fork")(error)`.
    pub fn because(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |error| Self::Io { what, error }
    }

    /// Names a program that could not be run.
    pub fn start(program: &std::ffi::OsStr) -> impl FnOnce(io::Error) -> Self {
        let what = format!("cannot run {}", program.display());
        move |error| Self::Io { what, error }
    }

    /// The exit status. `boot --help` lists them.
    pub fn status(&self) -> u8 {
        match self {
            Self::AlreadyReported(status) => *status,
            Self::KernelFailed => 1,
            Self::Input(_) => 2,
            Self::Panicked => 3,
            Self::Faulted => 4,
            Self::TimedOut { .. } => 5,
            Self::Refused => 6,
            Self::Reset => 7,
            Self::Protocol(_) => 8,
            Self::Build { .. } | Self::Unbootable { .. } => 9,
            Self::NoToolchain(_) => 10,
            Self::NoQemu(_) => 11,
            Self::NoFirmware(_) => 12,
            Self::Qemu { .. } => 13,
            Self::Io { .. } => 14,
            Self::Interrupted | Self::Debugger => 130,
        }
    }

    /// Whether the line that tells of it has been written already.
    pub fn is_already_reported(&self) -> bool {
        matches!(self, Self::AlreadyReported(_))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AlreadyReported(status) => write!(f, "ended with status {status}"),
            Self::KernelFailed => f.write_str("the kernel reports failure"),
            Self::Panicked => f.write_str("the kernel panicked"),
            Self::Faulted => f.write_str("the kernel met a fault"),
            Self::Refused => f.write_str("the kernel refused what it was booted with"),
            Self::Reset => f.write_str("the machine reset itself (a triple fault?)"),
            Self::TimedOut { what, limit } => {
                write!(f, "timed out: no {what} within {} s", limit.as_secs_f64())
            }
            Self::Protocol(what) => write!(f, "the kernel's records make no sense: {what}"),
            Self::Unbootable { kernel, why } => {
                write!(f, "{} cannot be booted: {why}", kernel.display())
            }
            Self::Build { what, status } => write!(f, "building {what} failed: {status}"),
            Self::Input(what)
            | Self::NoToolchain(what)
            | Self::NoQemu(what)
            | Self::NoFirmware(what) => f.write_str(what),
            Self::Qemu { status, message } => write!(f, "QEMU failed ({status}): {message}"),
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Debugger => f.write_str("the debugger has ended the machine"),
        }
    }
}

/// What `boot --help` says about exit statuses.
pub const STATUS_HELP: &str = "\
Exit status:
  0 all well             5 timed out                   10 no toolchain for the kernel
  1 a test failed        6 the kernel refused          11 no QEMU, or too old
  2 bad input            7 the machine reset           12 no UEFI firmware
  3 the kernel panicked  8 records that make no sense  13 QEMU failed
  4 the kernel faulted   9 a build failed              14 a file or a process failed";
