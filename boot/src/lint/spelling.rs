//! Checks the spelling with `typos`. Its words are in `typos.toml`, with those that this project
//! does not use.

use std::{path::PathBuf, process::Command};

use crate::{
    failure::Failure,
    host::{cargo, find_program},
    process,
    project::Project,
};

/// The version that is installed. A newer one can know more misspellings.
const VERSION: &str = "1.52.0";

/// Returns the command that checks all files. Installs the program if necessary.
///
/// # Errors
/// If no program is installed, and neither pip nor cargo can install it.
pub(super) fn command(project: &Project) -> Result<Command, Failure> {
    let mut command = Command::new(prepare(project)?);
    command
        .args(["--format", "brief"])
        .current_dir(project.root());
    Ok(command)
}

/// Returns where `typos` is. PyPI has it as a compiled program; building it takes some minutes.
fn prepare(project: &Project) -> Result<PathBuf, Failure> {
    let folder = project.target().join("typos");
    let installed = folder.join("bin/typos");
    if installed.is_file() {
        return Ok(installed);
    }
    if let Some(program) = find_program("typos") {
        return Ok(program);
    }
    eprintln!("run-qemu.sh: installing typos {VERSION}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&folder)
        .arg(format!("typos=={VERSION}"));
    let mut build = Command::new(cargo());
    build
        .args(["install", "--quiet", "--locked", "--version", VERSION])
        .arg("--root")
        .arg(&folder)
        .arg("typos-cli");
    for mut installer in [pip, build] {
        match process::run_quietly(&mut installer) {
            Ok(_) if installed.is_file() => return Ok(installed),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            // Then the next installer may succeed.
            Ok(_) | Err(_) => {}
        }
    }
    Err(Failure::Input(format!(
        "lint needs typos, which neither pip nor cargo can install: install typos {VERSION}"
    )))
}
