//! Child processes, and signals that ask this program to stop.
//!
//! Ctrl-C reaches each process of the terminal, but `kill` reaches only the process that it names.
//! So each child asks the operating system to kill it when this program ends, and each wait for a
//! child polls [`interrupted`].

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::{
    SigId,
    consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM},
    flag, low_level,
};

use crate::failure::Failure;

/// The time between two polls.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Whether a signal has asked this program to stop.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether this program was stopped and goes on: Ctrl-Z and `fg`.
static CONTINUED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The handler of SIGINT.
static CTRL_C: OnceLock<SigId> = OnceLock::new();

/// Begins to note SIGINT, SIGTERM, SIGHUP and SIGCONT.
///
/// # Errors
/// If a handler cannot be installed.
pub(crate) fn watch_signals() -> Result<(), Failure> {
    let continued = CONTINUED.get_or_init(Arc::default);
    flag::register(SIGCONT, Arc::clone(continued))
        .map_err(Failure::because("cannot watch for signals"))?;
    let noted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let handler = flag::register(signal, Arc::clone(noted))
            .map_err(Failure::because("cannot watch for signals"))?;
        if signal == SIGINT {
            CTRL_C.get_or_init(|| handler);
        }
    }
    Ok(())
}

/// Ignores Ctrl-C from now on: a child in the same terminal, such as a debugger, handles it.
pub(crate) fn leave_ctrl_c_to_children() {
    if let Some(&handler) = CTRL_C.get() {
        // Without a handler of its own, the signal does nothing.
        low_level::unregister(handler);
    }
}

/// Returns whether a signal has asked this program to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|noted| noted.load(Ordering::Relaxed))
}

/// Returns whether this program was stopped, and continued since the last call.
pub(crate) fn was_continued() -> bool {
    CONTINUED
        .get()
        .is_some_and(|noted| noted.swap(false, Ordering::Relaxed))
}

/// Starts `command` as a child that the operating system kills when this process ends.
///
/// Only the main thread should call this function: the child is killed when the *thread* that
/// started it ends.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec the closure only makes the system call `prctl`, which is
    // async-signal-safe, and allocates no memory.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command.spawn()
}

/// Runs `command` and waits for its end.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let mut child = spawn(command).map_err(Failure::start(command.get_program()))?;
    wait(&mut child)
}

/// Runs `command` without showing its output. Returns its status and its output.
pub(crate) fn run_quietly(command: &mut Command) -> Result<(ExitStatus, String), Failure> {
    let log = new_log()?;
    command.stderr(log.try_clone().map_err(output_lost)?);
    run_into(command, log)
}

/// Runs `command`, and shows what it writes to standard error. Returns its status and its standard
/// output.
pub(crate) fn run_for_output(command: &mut Command) -> Result<(ExitStatus, String), Failure> {
    run_into(command, new_log()?)
}

/// Runs `command`, whose standard output goes to `log`. Returns its status and the text in `log`.
fn run_into(command: &mut Command, mut log: File) -> Result<(ExitStatus, String), Failure> {
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(output_lost)?);
    let status = run(command)?;
    Ok((status, read_from_start(&mut log)?))
}

/// Creates a file for the output of a child.
fn new_log() -> Result<File, Failure> {
    tempfile::tempfile().map_err(output_lost)
}

/// Returns the failure to keep the output of a child.
fn output_lost(error: io::Error) -> Failure {
    Failure::because("cannot keep a program's output")(error)
}

/// Returns all text in `log`, a file that a child wrote.
pub(crate) fn read_from_start(log: &mut File) -> Result<String, Failure> {
    let mut output = Vec::new();
    log.rewind()
        .and_then(|()| log.read_to_end(&mut output))
        .map_err(output_lost)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Waits for `child`.
///
/// # Errors
/// [`Failure::Interrupted`] after a signal asked this program to stop. The child is then killed.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus, Failure> {
    loop {
        match child.try_wait() {
            Ok(Some(_)) if interrupted() => return Err(Failure::Interrupted),
            Ok(Some(status)) => return Ok(status),
            Ok(None) if interrupted() => {
                // An error means that the child has ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::Interrupted);
            }
            Ok(None) => thread::sleep(POLL),
            Err(error) => return Err(Failure::because("cannot wait for a child")(error)),
        }
    }
}
