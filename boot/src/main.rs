//! Builds the kernel, makes bootable images of it, runs them in QEMU, and reports what happened.
//!
//! `./run-qemu.sh` and `cargo boot` both start this program. From the command line down:
//!
//! | file | what it knows |
//! |---|---|
//! | `cli` | the options |
//! | `failure` | every way to end other than well: one line and one exit status each |
//! | `project` | where things are in the repository and its target folder |
//! | `process` | children that end when we do; Ctrl-C |
//! | `packages`, `toolchain`, `debian` | what must be installed, and which compiler builds the kernel |
//! | `kernel`, `elf`, `ramdisk`, `image` | the kernel's ELF file and what is checked of it, the archive it is given, the disk that boots both |
//! | `qemu`, `firmware`, `machine` | QEMU's command line, and a machine that runs |
//! | `serial` | what the kernel says on its serial line |
//! | `demonstration`, `terminal` | the main job and its monitor |
//! | `session`, `boot_watch` | all in-kernel tests, over as many boots as they need |
//! | `forks` | kernels of many sizes, and the fork that README.md describes |
//! | `soak` | random programs in the kernel for so many minutes |
//! | `host_tests`, `report` | the tests of plain `cargo test`; results, totals, JUnit |
//! | `trace` | recorded allocation traces, checked before a kernel sees them |
//! | `lint` | rustfmt, clippy and rustdoc, for the host and for the kernel's target |

mod boot_watch;
mod ci;
mod cli;
mod debian;
mod demonstration;
mod elf;
mod failure;
mod firmware;
mod forks;
mod host;
mod host_tests;
mod image;
mod kernel;
mod lint;
mod machine;
mod packages;
mod process;
mod project;
mod qemu;
mod ramdisk;
mod report;
mod serial;
mod session;
mod soak;
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
        Command::Lint => lint::run(&project),
        Command::Ci(options) => ci::run(&project, options.long),
    }
}
