//! Builds the kernel, makes bootable images of it, runs them in QEMU, and reports what happened.
//!
//! `./run-qemu.sh` and `cargo boot` both start this program. From the command line down:
//!
//! | module | content |
//! |---|---|
//! | `cli` | the options |
//! | `failure` | failures: a message of one line and an exit status for each |
//! | `project` | the folders of the repository and of its target |
//! | `host`, `process`, `progress` | this machine; child processes and Ctrl-C; long builds |
//! | `packages`, `debian`, `toolchain` | what must be installed, and the compiler of the kernel |
//! | `kernel`, `elf` | the kernel's ELF file, and the checks of it |
//! | `files`, `ramdisk`, `image` | the archive for the kernel, and the disk that boots both |
//! | `qemu`, `firmware`, `machine` | the command line of QEMU, and a machine that runs |
//! | `screen`, `screenshot`, `gdb` | where its screen is shown; pictures of it; the debugger |
//! | `serial`, `symbols` | the bytes from the serial port, split into text and records |
//! | `demonstration`, `terminal` | the demonstration and its monitor |
//! | `test` | the command `test`, which chooses between the next four |
//! | `session`, `boot_watch` | all in-kernel tests, in several boots if necessary |
//! | `soak` | random programs in the kernel |
//! | `forks` | kernels of many sizes, and the fork of README.md |
//! | `host_tests` | the tests of plain `cargo test` |
//! | `report` | results, totals, JUnit |
//! | `new` | kernels of one's own, from the template |
//! | `trace` | recorded allocation traces |
//! | `lint` | formatting, spelling, clippy and rustdoc |
//! | `ci` | the list of everything that a pull request must pass |
//!
//! The formats that the kernel reads or writes are in the crate `kernel-protocol`.

mod boot_watch;
mod ci;
mod cli;
mod debian;
mod demonstration;
mod elf;
mod failure;
mod files;
mod firmware;
mod forks;
mod gdb;
mod host;
mod host_tests;
mod image;
mod kernel;
mod lint;
mod machine;
mod new;
mod packages;
mod process;
mod progress;
mod project;
mod qemu;
mod ramdisk;
mod report;
mod screen;
mod screenshot;
mod serial;
mod session;
mod soak;
mod symbols;
mod terminal;
mod test;
mod toolchain;
mod trace;

use std::process::ExitCode;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
    project::Project,
};

fn main() -> ExitCode {
    match process::watch_signals().and_then(|()| run(Cli::read()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_already_reported() {
                eprintln!("run-qemu.sh: {failure}");
            }
            ExitCode::from(failure.status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let project = Project::find()?;
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(options) => demonstration::run(&project, &options),
        Command::Test(options) => test::run(&project, &options),
        Command::Image(options) => image::run(&project, &options),
        Command::New(_) | Command::Lint | Command::Ci(_) if project.is_fork() => {
            Err(Failure::Input(
                "this command is for the kernel library: call its own run-qemu.sh".into(),
            ))
        }
        Command::New(options) => new::run(&project, &options),
        Command::Lint => lint::run(&project),
        Command::Ci(options) => ci::run(&project, options.long),
    }
}
