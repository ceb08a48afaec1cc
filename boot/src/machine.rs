//! A running virtual machine: its serial port, its clock and its end.

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kernel_protocol::exit::ExitCode;
use rustix::param::clock_ticks_per_second;

use crate::{failure::Failure, process, serial::Splitter, symbols::Symbols};

/// The time limit of firmware, the bootloader and the kernel's entry, on the machine's clock.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// A machine that waits for an event uses no processor time. Its clock then moves at this fraction
/// of the time that passes.
const IDLE_CLOCK_DIVISOR: u32 = 5;

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The [clock](Machine::clock) of the machine, for time limits. It counts in hundredths of a
    /// second.
    pub clock: Duration,
    /// The time that has passed since the start of the machine.
    pub passed: Duration,
}

/// A running machine. It is killed when dropped.
pub(crate) struct Machine {
    child: Child,
    began: Instant,
    serial: Receiver<Vec<u8>>,
    /// What is sent to the serial port.
    input: Sender<Vec<u8>>,
    /// The thread that reads standard error to its end.
    errors_reader: Option<JoinHandle<String>>,
    /// The debugger that was started for this machine.
    debugger: Option<Child>,
    /// The ELF file of the kernel.
    kernel: PathBuf,
}

/// An event on the serial port.
pub(crate) enum SerialEvent {
    /// The machine sent bytes.
    Bytes(Vec<u8>),
    /// The machine sent no bytes before the time limit.
    Nothing,
    /// The machine has closed the port, because it ends.
    End,
}

/// How the machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The kernel ended it with this code.
    Kernel(ExitCode),
    /// The machine reset or switched itself off, for example after a triple fault.
    Reset,
    /// A debugger ended the machine.
    Debugger,
}

/// The message of QEMU when a debugger ends it. The exit status is then 0.
const ENDED_BY_DEBUGGER: &str = "Terminated via GDBstub";

impl Exit {
    /// A machine that did all of its work.
    pub(crate) const SUCCESS: Self = Self::Kernel(ExitCode::Success);

    /// Returns what an exit status of QEMU means. `None` if QEMU itself failed.
    fn from_status(status: i32) -> Option<Self> {
        match status {
            0 => Some(Self::Reset),
            _ => ExitCode::from_qemu_status(status).map(Self::Kernel),
        }
    }

    /// Returns the failure that this is. `None` for success.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self {
            Self::Kernel(ExitCode::Success) => None,
            Self::Kernel(ExitCode::Failed) => Some(Failure::KernelFailed),
            Self::Kernel(ExitCode::Panicked) => Some(Failure::Panicked),
            Self::Kernel(ExitCode::Faulted) => Some(Failure::Faulted),
            Self::Kernel(ExitCode::Refused) => Some(Failure::Refused),
            Self::Reset => Some(Failure::Reset),
            Self::Debugger => Some(Failure::Debugger),
        }
    }
}

impl Machine {
    /// Starts QEMU with `command`, for `kernel`. Standard input and output are the serial port of
    /// the machine.
    pub(crate) fn start(mut command: Command, kernel: &Path) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C would end QEMU before this program could ask it for a picture.
            .process_group(0);
        let mut child =
            process::spawn(&mut command).map_err(Failure::start(command.get_program()))?;
        let mut output = child.stdout.take().expect("standard output is piped");
        let mut errors = child.stderr.take().expect("standard error is piped");
        let (sender, serial) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The loop ends with the machine, or when the receiver is dropped.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut port = child.stdin.take().expect("standard input is piped");
        let (input, to_send) = mpsc::channel::<Vec<u8>>();
        thread::spawn(move || {
            // The loop ends when the machine does, or is dropped.
            for bytes in to_send {
                if port.write_all(&bytes).and_then(|()| port.flush()).is_err() {
                    break;
                }
            }
        });
        let errors_reader = thread::spawn(move || {
            let mut text = Vec::new();
            // After an error, the text before it is still useful.
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            child,
            began: Instant::now(),
            serial,
            input,
            errors_reader: Some(errors_reader),
            debugger: None,
            kernel: kernel.into(),
        })
    }

    /// Returns what splits the bytes of the serial port, with the symbols of the kernel.
    pub(crate) fn splitter(&self) -> Splitter {
        Splitter::new(Symbols::of(&self.kernel))
    }

    /// Starts a debugger of this machine in the user's terminal, with `command`. It gets Ctrl-C,
    /// and the machine does not end before it.
    pub(crate) fn debug(&mut self, mut command: Command) -> Result<(), Failure> {
        process::leave_ctrl_c_to_children();
        let debugger =
            process::spawn(&mut command).map_err(Failure::start(command.get_program()))?;
        self.debugger = Some(debugger);
        Ok(())
    }

    /// Returns how long the machine has run: its processor time, so that a busy host does not cause
    /// timeouts. At least [a fraction](IDLE_CLOCK_DIVISOR) of the time that passed counts, so that
    /// a machine that halts for ever exceeds its limits too.
    pub(crate) fn clock(&self) -> Duration {
        let least = self.began.elapsed() / IDLE_CLOCK_DIVISOR;
        processor_time(self.child.id()).map_or(least, |time| time.max(least))
    }

    /// Returns the present moment.
    pub(crate) fn now(&self) -> Moment {
        Moment {
            clock: self.clock(),
            passed: self.began.elapsed(),
        }
    }

    /// Waits up to `limit` for an event on the serial port.
    pub(crate) fn listen(&self, limit: Duration) -> SerialEvent {
        match self.serial.recv_timeout(limit) {
            Ok(bytes) => SerialEvent::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => SerialEvent::Nothing,
            Err(RecvTimeoutError::Disconnected) => SerialEvent::End,
        }
    }

    /// Sends `bytes` to the serial port, without waiting for the kernel to read them. If the
    /// machine has ended, they are lost.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.input.send(bytes.to_vec());
    }

    /// Waits for the end of the machine, after [`SerialEvent::End`].
    ///
    /// # Errors
    /// [`Failure::Qemu`] if QEMU itself failed.
    pub(crate) fn end(&mut self) -> Result<Exit, Failure> {
        if let Some(debugger) = &mut self.debugger {
            process::wait(debugger)?;
        }
        let status = process::wait(&mut self.child)?;
        let errors = self
            .errors_reader
            .take()
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        match status.code().and_then(Exit::from_status) {
            Some(Exit::Reset) if errors.contains(ENDED_BY_DEBUGGER) => Ok(Exit::Debugger),
            Some(exit) => Ok(exit),
            None => {
                let message = errors
                    .lines()
                    .next_back()
                    .unwrap_or("it gave no reason")
                    .to_owned();
                Err(Failure::Qemu { status, message })
            }
        }
    }

    /// Ends the machine at once.
    pub(crate) fn kill(&mut self) {
        // An error means that the machine has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the processor time of the process `id`. `None` after its end.
fn processor_time(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // `id (name) state …`: fields 14 and 15 are user and system time. The name may have spaces.
    let mut fields = stat
        .rsplit_once(") ")?
        .1
        .split(' ')
        .skip(11)
        .map(str::parse::<u64>);
    let ticks = fields.next()?.ok()?.checked_add(fields.next()?.ok()?)?;
    Some(Duration::from_secs(ticks) / clock_ticks_per_second().try_into().ok()?)
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(script: &str) -> Machine {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Machine::start(command, Path::new("kernel")).unwrap()
    }

    /// Returns all bytes that the machine sends until its end.
    fn read_all(machine: &Machine) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match machine.listen(Duration::from_secs(60)) {
                SerialEvent::Bytes(bytes) => all.extend(bytes),
                SerialEvent::Nothing => panic!("no bytes for a minute"),
                SerialEvent::End => return all,
            }
        }
    }

    #[test]
    fn each_exit_of_the_kernel_has_its_meaning() {
        let exits = [
            (0, Exit::Reset),
            (33, Exit::Kernel(ExitCode::Success)),
            (35, Exit::Kernel(ExitCode::Failed)),
            (37, Exit::Kernel(ExitCode::Panicked)),
            (39, Exit::Kernel(ExitCode::Faulted)),
            (41, Exit::Kernel(ExitCode::Refused)),
        ];
        for (status, exit) in exits {
            let mut machine = machine(&format!("printf hello; exit {status}"));
            assert_eq!(read_all(&machine), b"hello");
            assert_eq!(machine.end().unwrap(), exit);
        }
    }

    #[test]
    fn an_end_by_the_debugger_is_no_reset() {
        let mut machine =
            machine("echo 'qemu-system-x86_64: QEMU: Terminated via GDBstub' >&2; exit 0");
        read_all(&machine);
        let exit = machine.end().unwrap();
        assert_eq!(exit, Exit::Debugger);
        let failure = exit.failure().unwrap().to_string();
        assert_eq!(failure, "the debugger has ended the machine");
        // With another exit status, the message has no meaning.
        let mut machine = self::machine("echo 'Terminated via GDBstub' >&2; exit 37");
        read_all(&machine);
        assert_eq!(machine.end().unwrap(), Exit::Kernel(ExitCode::Panicked));
    }

    #[test]
    fn a_failure_of_qemu_has_its_own_message() {
        let mut machine =
            machine("echo 'warning' >&2; echo 'cannot set up guest memory' >&2; exit 1");
        read_all(&machine);
        let failure = machine.end().unwrap_err();
        assert!(failure.to_string().ends_with("cannot set up guest memory"));
        let mut killed = self::machine("kill -SEGV $$");
        read_all(&killed);
        assert!(killed.end().unwrap_err().to_string().contains("signal: 11"));
    }

    #[test]
    fn bytes_reach_the_machine_and_silence_is_not_its_end() {
        let mut machine = machine("read line; echo \"<$line>\"; exit 33");
        assert!(matches!(
            machine.listen(Duration::from_millis(10)),
            SerialEvent::Nothing
        ));
        machine.send(b"stats\n");
        assert_eq!(read_all(&machine), b"<stats>\n");
        assert_eq!(machine.end().unwrap(), Exit::Kernel(ExitCode::Success));
        // After its end, bytes are lost without an error.
        machine.send(b"stats\n");
    }

    #[test]
    fn the_clock_shows_processor_time_or_a_fraction_of_the_wait() {
        let working = machine("while :; do :; done");
        let waiting = machine("exec sleep 1000");
        while working.clock() < Duration::from_millis(200) {
            thread::sleep(Duration::from_millis(10));
        }
        let had = processor_time(working.child.id()).unwrap();
        assert!(had <= working.clock() && had <= working.began.elapsed());
        assert_eq!(processor_time(waiting.child.id()).unwrap().as_secs(), 0);
        let least = waiting.began.elapsed() / IDLE_CLOCK_DIVISOR;
        assert!(waiting.clock() >= least);
    }

    #[test]
    fn a_machine_that_is_dropped_is_killed() {
        let machine = machine("exec sleep 1000");
        let process = std::path::PathBuf::from(format!("/proc/{}", machine.child.id()));
        assert!(process.exists());
        drop(machine);
        assert!(!process.exists());
    }
}
