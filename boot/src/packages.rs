//! Debian's packages: installed when something is missing, with the least ado.

use std::{path::PathBuf, process::Command};

use crate::{failure::Failure, process};

/// `apt-get`, or whatever stands in for it.
#[derive(Debug)]
pub struct AptGet {
    program: PathBuf,
    /// Whether its lists were brought up to date in this run.
    is_updated: bool,
}

impl AptGet {
    /// The system's, if it has one.
    pub fn find() -> Option<Self> {
        find_program("apt-get").map(Self::at)
    }

    /// The one at `program`.
    pub fn at(program: PathBuf) -> Self {
        Self {
            program,
            is_updated: false,
        }
    }

    /// Installs `packages`. The error says in a few words why that failed.
    pub fn install(&mut self, packages: &[&str]) -> Result<(), String> {
        eprintln!("boot: installing {} with apt-get", packages.join(" "));
        if !self.is_updated {
            // Without a network the lists may still be good enough; installing then says what is missing.
            let _ = self.call(&["update"]);
            self.is_updated = true;
        }
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        self.call(&arguments)
    }

    fn call(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new(&self.program)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg(&self.program);
            sudo
        };
        command
            .arg("-qq")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        match process::run_quietly(&mut command) {
            Ok((status, _)) if status.success() => Ok(()),
            Ok((status, said)) => Err(error_line(&said).unwrap_or_else(|| status.to_string())),
            Err(Failure::Io { what, error }) => Err(format!("{what}: {error}")),
            Err(other) => Err(other.to_string()),
        }
    }
}

/// The line of `said` that says most: the first error of apt (`E:`), else the last that is not empty.
fn error_line(said: &str) -> Option<String> {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next_back();
    lines
        .find(|line| line.starts_with("E:"))
        .or(last)
        .map(str::to_owned)
}

/// Where the program `name` is, searching `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
