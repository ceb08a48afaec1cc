//! Debian's packages: installed when something is missing, with the least ado.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::process;

/// `apt-get`, or whatever stands in for it.
#[derive(Debug)]
pub struct AptGet {
    program: PathBuf,
    /// Whether it needs `sudo`.
    needs_sudo: bool,
    /// Whether its lists were brought up to date in this run.
    is_updated: bool,
}

impl AptGet {
    /// The system's, if it has one.
    pub fn find() -> Option<Self> {
        let program = find_program("apt-get")?;
        Some(Self {
            needs_sudo: !rustix::process::geteuid().is_root(),
            ..Self::at(program)
        })
    }

    /// The one at `program`, which we may use ourselves.
    pub fn at(program: PathBuf) -> Self {
        Self {
            program,
            needs_sudo: false,
            is_updated: false,
        }
    }

    /// Installs `packages`. The error says in a few words why that failed.
    pub fn install(&mut self, packages: &[&str]) -> Result<(), String> {
        eprintln!(
            "run-qemu.sh: installing {} with apt-get",
            packages.join(" ")
        );
        if !self.is_updated {
            // Without a network the lists may still be good enough; installing then says what is
            // missing.
            let _ = self.call(&["update"]);
            self.is_updated = true;
        }
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        self.call(&arguments)
    }

    fn call(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(if self.needs_sudo {
            Path::new("sudo")
        } else {
            &self.program
        });
        if self.needs_sudo {
            command.arg(&self.program);
        }
        command
            .arg("-qq")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        match process::run_quietly(&mut command) {
            Ok((status, _)) if status.success() => Ok(()),
            Ok((status, said)) => Err(error_line(&said).unwrap_or_else(|| status.to_string())),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

/// The line of `said` that says most: the first error of apt (`E:`), else the last that is not
/// empty.
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

/// Stand-ins for programs, for tests.
#[cfg(test)]
pub mod scripts {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    /// Makes `file` a program that writes down its arguments and then does what `body` says.
    pub fn script(file: &Path, body: &str) {
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> '{}'\n{body}\n",
            log_of(file).display()
        );
        // Written by a child: while a file is open for writing here, it may be so in the child of
        // another test's thread too, and cannot be run.
        let write = "printf '%s' \"$2\" > \"$1\" && chmod +x \"$1\"";
        let status = Command::new("sh")
            .args(["-c", write, "sh"])
            .arg(file)
            .arg(text)
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// The arguments of each call of the script `file`.
    pub fn calls(file: &Path) -> Vec<String> {
        fs::read_to_string(log_of(file))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn log_of(file: &Path) -> PathBuf {
        file.with_extension("calls")
    }
}

#[cfg(test)]
mod tests {
    use super::{scripts::*, *};

    #[test]
    fn lists_are_updated_once_before_the_first_of_several_installations() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("apt-get");
        script(&program, "");
        let mut apt_get = AptGet::at(program.clone());
        apt_get.install(&["one"]).unwrap();
        apt_get.install(&["two"]).unwrap();
        let said = calls(&program);
        let updates = said.iter().filter(|call| call.ends_with("update")).count();
        assert_eq!((updates, said.len()), (1, 3), "{said:?}");
    }

    #[test]
    fn the_error_of_apt_is_told_in_one_line() {
        let said = "Reading…\nE: Could not get lock\nE: Unable to lock\n\n";
        assert_eq!(error_line(said).as_deref(), Some("E: Could not get lock"));
        assert_eq!(
            error_line("sudo: a password is required\n").as_deref(),
            Some("sudo: a password is required")
        );
        assert_eq!(error_line("\n"), None);
    }
}
