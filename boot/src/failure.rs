//! Failures: each has a message of one line and an exit status of its own.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A failure whose message was printed before. The exit status remains.
    AlreadyReported(u8),
    /// An argument, or a file that the user named, cannot be used.
    Input(String),
    /// The kernel panicked.
    Panicked,
    /// The bootloader panicked, before the kernel's start.
    BootloaderPanicked {
        /// The message and the location of the panic, in one line.
        reason: String,
    },
    /// A CPU exception ended the kernel.
    Faulted,
    /// The kernel reported failure.
    KernelFailed,
    /// The kernel refused its RAM disk, its configuration or its boot information.
    Refused,
    /// The machine reset itself.
    Reset,
    /// The kernel exceeded a time limit.
    TimedOut {
        /// The missing event.
        what: &'static str,
        /// The time limit.
        limit: Duration,
        /// What the user can try.
        hint: Option<&'static str>,
    },
    /// The kernel's records contradict each other.
    Protocol(String),
    /// A build failed. Cargo has printed the reason.
    Build {
        /// The thing that was built.
        what: String,
        /// Cargo's exit status.
        status: ExitStatus,
    },
    /// The bootloader cannot load this kernel.
    Unbootable {
        /// The ELF file of the kernel.
        kernel: PathBuf,
        /// The reason.
        why: String,
    },
    /// No toolchain can build for the kernel's target.
    NoToolchain(String),
    /// QEMU is missing, or too old.
    NoQemu(String),
    /// The firmware for UEFI is missing.
    NoFirmware(String),
    /// QEMU itself failed.
    Qemu {
        /// The exit status of QEMU.
        status: ExitStatus,
        /// The last line it wrote to standard error.
        message: String,
    },
    /// A file or a process could not be used.
    Io {
        /// The operation, with the file or the program.
        what: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A signal asked this program to stop.
    Interrupted,
    /// A debugger ended the machine.
    Debugger,
}

impl Failure {
    /// Returns a function from an error to a failure of a file: `Failure::io("cannot read", path)`.
    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{action} {}", path.display());
        move |error| Self::Io { what, error }
    }

    /// Returns a function from an error to a failure of something else: `Failure::because("cannot
    /// fork")`.
    pub(crate) fn because(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |error| Self::Io { what, error }
    }

    /// Returns a function from an error to the failure to run `program`.
    pub(crate) fn start(program: &std::ffi::OsStr) -> impl FnOnce(io::Error) -> Self {
        let what = format!("cannot run {}", program.display());
        move |error| Self::Io { what, error }
    }

    /// Returns the failure that `what` did not happen within `limit`.
    pub(crate) fn timed_out(what: &'static str, limit: Duration) -> Self {
        Self::TimedOut {
            what,
            limit,
            hint: None,
        }
    }

    /// Returns the exit status. `boot --help` lists all.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::AlreadyReported(status) => *status,
            Self::KernelFailed => 1,
            Self::Input(_) => 2,
            Self::Panicked | Self::BootloaderPanicked { .. } => 3,
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

    /// Returns whether the message was printed before.
    pub(crate) fn is_already_reported(&self) -> bool {
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
            Self::Refused => {
                f.write_str("the kernel refused its RAM disk, configuration or boot information")
            }
            Self::Reset => f.write_str("the machine reset itself (a triple fault?)"),
            Self::BootloaderPanicked { reason } => write!(
                f,
                "the bootloader panicked: {reason}; it may lack memory: try a larger --memory"
            ),
            Self::TimedOut { what, limit, hint } => {
                write!(f, "timed out: no {what} within {} s", limit.as_secs_f64())?;
                match hint {
                    Some(hint) => write!(f, "; {hint}"),
                    None => Ok(()),
                }
            }
            Self::Protocol(what) => write!(f, "the kernel's records contradict each other: {what}"),
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

/// The exit statuses, for `boot --help`.
pub(crate) const STATUS_HELP: &str = "\
Exit status:
  0 success              5 timed out                   10 no toolchain for the kernel
  1 a test failed        6 the kernel refused          11 no QEMU, or too old
  2 bad input            7 the machine reset           12 no UEFI firmware
  3 a panic              8 contradictory records       13 QEMU failed
  4 the kernel faulted   9 a build failed              14 a file or a process failed
130 ended with Ctrl-C";
