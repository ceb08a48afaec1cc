//! Installs packages of Debian and its relatives.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{host::find_program, process};

/// A part of the message of `apt-get --no-remove` if it would have to remove a package.
const REMOVE_IS_DISABLED: &str = "remove is disabled";

/// The program `apt-get`.
#[derive(Debug)]
pub(crate) struct AptGet {
    program: PathBuf,
    /// Whether `sudo` must start it.
    needs_sudo: bool,
    /// Whether this run has updated the lists of packages.
    is_updated: bool,
}

impl AptGet {
    /// Finds the system's `apt-get`. `None` if it has none.
    pub(crate) fn find() -> Option<Self> {
        let program = find_program("apt-get")?;
        Some(Self {
            needs_sudo: !rustix::process::geteuid().is_root(),
            ..Self::at(program)
        })
    }

    /// Returns the one at `program`. It runs without `sudo`.
    pub(crate) fn at(program: PathBuf) -> Self {
        Self {
            program,
            needs_sudo: false,
            is_updated: false,
        }
    }

    /// Installs `packages`. Removes no package: the user may need it. One that stands in the way
    /// is replaced by the version that the package lists have of it, if that one does not.
    ///
    /// # Errors
    /// The line of `apt-get` that says most about the failure. If packages would be removed all
    /// the same, the command that the user can run instead.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<(), String> {
        eprintln!(
            "run-qemu.sh: installing {} with apt-get",
            packages.join(" ")
        );
        if !self.is_updated {
            // Without a network, old lists may suffice. If not, the installation fails and says so.
            let _ = self.call(&["update"]);
            self.is_updated = true;
        }
        let mut arguments = vec!["install", "--yes", "--no-remove", "--no-install-recommends"];
        arguments.extend(packages);
        match self.call(&arguments) {
            Err(why) if why.contains(REMOVE_IS_DISABLED) => {}
            result => return result.map(drop),
        }
        let replaced = self.replacements(packages).and_then(|replacements| {
            let replacements: Vec<&str> = replacements.iter().map(String::as_str).collect();
            eprintln!(
                "run-qemu.sh: installing {} too, because the installed version conflicts",
                replacements.join(" ")
            );
            self.call(&[&arguments[..], &["--allow-downgrades"], &replacements].concat())
        });
        replaced.map(drop).map_err(|_| {
            let packages = packages.join(" ");
            let sudo = if self.needs_sudo { "sudo " } else { "" };
            format!(
                "installing {packages} would remove other packages, so nothing was installed; to \
                 see and decide, run `{sudo}apt-get install --no-install-recommends {packages}`"
            )
        })
    }

    /// Returns `NAME=VERSION` of each package that `apt-get` would remove for `packages`, with the
    /// newest version that the package lists have.
    fn replacements(&self, packages: &[&str]) -> Result<Vec<String>, String> {
        let mut arguments = vec!["install", "--simulate", "--no-install-recommends"];
        arguments.extend(packages);
        let plan = self.call(&arguments)?;
        let removed = plan.lines().filter_map(|line| line.strip_prefix("Remv "));
        removed
            .filter_map(|rest| rest.split_whitespace().next())
            .map(|name| {
                let mut command = Command::new(self.program.with_file_name("apt-cache"));
                command.args(["madison", name]).env("LC_ALL", "C");
                let (_, versions) =
                    process::run_quietly(&mut command).map_err(|why| why.to_string())?;
                // A row is `name | version | address`, and the newest version comes first.
                let version = versions.split('|').nth(1);
                version.map_or_else(
                    || Err(format!("no package list has {name}")),
                    |version| Ok(format!("{name}={}", version.trim())),
                )
            })
            .collect()
    }

    /// Returns what `apt-get` prints.
    fn call(&self, arguments: &[&str]) -> Result<String, String> {
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
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The messages are read.
            .env("LC_ALL", "C");
        match process::run_quietly(&mut command) {
            Ok((status, output)) if status.success() => Ok(output),
            Ok((status, output)) => Err(error_line(&output).unwrap_or_else(|| status.to_string())),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

/// Returns the line of `output` that says most: the first error of apt (`E:`), or else the last
/// line that is not empty.
fn error_line(output: &str) -> Option<String> {
    let mut lines = output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let last = lines.clone().next_back();
    lines
        .find(|line| line.starts_with("E:"))
        .or(last)
        .map(str::to_owned)
}

/// Scripts that stand in for programs in tests.
#[cfg(test)]
pub(crate) mod scripts {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    /// Makes `file` a program that appends its arguments to a log and then runs `body`.
    pub(crate) fn script(file: &Path, body: &str) {
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> '{}'\n{body}\n",
            log_of(file).display()
        );
        // A child writes the file. If this process did, a child of another test's thread could
        // inherit the open file, and a file that is open for writing cannot be executed.
        let write = "printf '%s' \"$2\" > \"$1\" && chmod +x \"$1\"";
        let status = Command::new("sh")
            .args(["-c", write, "sh"])
            .arg(file)
            .arg(text)
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Returns the arguments of each call of the script `file`.
    pub(crate) fn calls(file: &Path) -> Vec<String> {
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
    fn lists_are_updated_once_before_the_first_installation() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("apt-get");
        script(&program, "");
        let mut apt_get = AptGet::at(program.clone());
        apt_get.install(&["one"]).unwrap();
        apt_get.install(&["two"]).unwrap();
        let calls = calls(&program);
        let updates = calls.iter().filter(|call| call.ends_with("update")).count();
        assert_eq!((updates, calls.len()), (1, 3), "{calls:?}");
    }

    #[test]
    fn a_package_that_conflicts_is_replaced_by_the_version_of_the_lists() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("apt-get");
        script(
            &program,
            "case \"$*\" in
            *--simulate*) echo 'Remv utils [10.0] (7.2 Debian)' ;;
            *--allow-downgrades*utils=7.2*) ;;
            *--no-remove*)
                echo 'E: Packages need to be removed but remove is disabled.'
                exit 100 ;;
            esac",
        );
        script(
            &folder.path().join("apt-cache"),
            "printf ' utils | 7.2 | list\\n utils | 7.1 | list\\n'",
        );
        AptGet::at(program.clone()).install(&["emulator"]).unwrap();
        let calls = calls(&program);
        let last = calls.last().unwrap();
        assert!(
            last.contains("--no-remove") && last.ends_with("emulator --allow-downgrades utils=7.2"),
            "{last}"
        );
    }

    #[test]
    fn no_package_is_removed_and_the_message_says_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("apt-get");
        let error = "E: Packages need to be removed but remove is disabled.";
        // Like apt-get, it removes packages if no option forbids it.
        script(
            &program,
            &format!("case \"$*\" in *--no-remove*) echo '{error}'; exit 100 ;; esac"),
        );
        let why = AptGet::at(program).install(&["one", "two"]).unwrap_err();
        assert!(
            why.starts_with("installing one two would remove other packages")
                && why.ends_with("run `apt-get install --no-install-recommends one two`"),
            "{why}"
        );
    }

    #[test]
    fn the_error_of_apt_is_one_line() {
        let output = "Reading…\nE: Could not get lock\nE: Unable to lock\n\n";
        assert_eq!(error_line(output).as_deref(), Some("E: Could not get lock"));
        assert_eq!(
            error_line("sudo: a password is required\n").as_deref(),
            Some("sudo: a password is required")
        );
        assert_eq!(error_line("\n"), None);
    }
}
