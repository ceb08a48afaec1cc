//! Children that end when we do, and signals.
//!
//! Ctrl-C reaches every process on the terminal, but `kill` only the one it names. So each child
//! asks the kernel to be killed when we die, and whoever waits for one looks at [`interrupted`]
//! meanwhile.

use std::{
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
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::failure::Failure;

/// How often a wait looks at whether it was interrupted.
pub const POLL: Duration = Duration::from_millis(20);

/// Set by the first signal that asks us to stop.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Notes SIGINT, SIGTERM and SIGHUP from now on.
pub fn watch_signals() -> Result<(), Failure> {
    let noted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(noted))
            .map_err(Failure::because("cannot watch for signals"))?;
    }
    Ok(())
}

/// Whether a signal has asked us to stop.
pub fn interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|noted| noted.load(Ordering::Relaxed))
}

/// Starts `command` as a child that is killed when this process ends, however it ends.
///
/// Call it from the main thread: the kernel watches the *thread* that starts a child.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe; nothing
    // allocates.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command.spawn()
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let mut child = spawn(command).map_err(Failure::start(command.get_program()))?;
    wait(&mut child)
}

/// Runs `command` to its end and keeps what it says to itself; returns it with how it ended.
pub fn run_quietly(command: &mut Command) -> Result<(ExitStatus, String), Failure> {
    let lost = |error| Failure::because("cannot keep a program's output")(error);
    let mut log = tempfile::tempfile().map_err(lost)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(lost)?)
        .stderr(log.try_clone().map_err(lost)?);
    let status = run(command)?;
    let mut said = Vec::new();
    log.rewind()
        .and_then(|()| log.read_to_end(&mut said))
        .map_err(lost)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// Waits for `child`; when a signal asks us to stop, kills it.
pub fn wait(child: &mut Child) -> Result<ExitStatus, Failure> {
    loop {
        match child.try_wait() {
            Ok(Some(_)) if interrupted() => return Err(Failure::Interrupted),
            Ok(Some(status)) => return Ok(status),
            Ok(None) if interrupted() => {
                // It may have ended by itself: then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::Interrupted);
            }
            Ok(None) => thread::sleep(POLL),
            Err(error) => return Err(Failure::because("cannot wait for a child")(error)),
        }
    }
}
