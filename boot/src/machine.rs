//! A running virtual machine: its serial line, and how it ends.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kernel_protocol::exit::ExitCode;
use rustix::param::clock_ticks_per_second;

use crate::{failure::Failure, process};

/// How long firmware, boot stages and the kernel's entry may take, on the machine's clock.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// A machine that gets less than one in so many seconds of processor time is taken to wait, not to
/// be kept waiting.
const LEAST_SHARE: u32 = 5;

/// A running machine. It is killed when dropped.
pub struct Machine {
    child: Child,
    began: Instant,
    serial: Receiver<Vec<u8>>,
    /// Reads standard error to its end.
    complaints: Option<JoinHandle<String>>,
}

/// What came over the serial line in a while.
pub enum SerialEvent {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Nothing,
    /// The machine has ended, or is about to.
    End,
}

/// How the machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The kernel ended it with this code.
    Kernel(ExitCode),
    /// The machine reset or switched itself off, for example after a triple fault.
    Reset,
    /// A debugger ended the machine.
    Debugger,
}

/// What QEMU writes to standard error when a debugger ends it. It then exits with status 0.
const ENDED_BY_DEBUGGER: &str = "Terminated via GDBstub";

impl Exit {
    /// A machine that did all of its work.
    pub const SUCCESS: Self = Self::Kernel(ExitCode::Success);

    /// Returns what an exit status of QEMU means. `None` if QEMU itself failed.
    fn from_status(status: i32) -> Option<Self> {
        match status {
            0 => Some(Self::Reset),
            _ => ExitCode::from_qemu_status(status).map(Self::Kernel),
        }
    }

    /// Returns the failure that this is. `None` for success.
    pub fn failure(&self) -> Option<Failure> {
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
    /// Starts QEMU as `command` says, with its serial line on standard input and output.
    pub fn start(mut command: Command) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child =
            process::spawn(&mut command).map_err(Failure::start(command.get_program()))?;
        let mut output = child.stdout.take().expect("standard output is piped");
        let mut errors = child.stderr.take().expect("standard error is piped");
        let (sender, serial) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Until the machine ends, or nobody listens any more.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let complaints = thread::spawn(move || {
            let mut said = Vec::new();
            // What could be read before an error is still worth showing.
            let _ = errors.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        Ok(Self {
            child,
            began: Instant::now(),
            serial,
            complaints: Some(complaints),
        })
    }

    /// How long the machine has run: the processor time that it has had, so that a busy host makes
    /// nothing late; but no less than [a part](LEAST_SHARE) of the time that has passed, so that a
    /// machine that halts for ever becomes late too.
    pub fn clock(&self) -> Duration {
        let least = self.began.elapsed() / LEAST_SHARE;
        processor_time(self.child.id()).map_or(least, |had| had.max(least))
    }

    /// Waits up to `limit` for something on the serial line.
    pub fn listen(&self, limit: Duration) -> SerialEvent {
        match self.serial.recv_timeout(limit) {
            Ok(bytes) => SerialEvent::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => SerialEvent::Nothing,
            Err(RecvTimeoutError::Disconnected) => SerialEvent::End,
        }
    }

    /// Writes `bytes` to the serial line. A machine that has ended does not hear them.
    pub fn say(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.child.stdin {
            let _ = input.write_all(bytes).and_then(|()| input.flush());
        }
    }

    /// Waits for the end of a machine that [ends](SerialEvent::End).
    pub fn end(&mut self) -> Result<Exit, Failure> {
        let status = process::wait(&mut self.child)?;
        let said = self
            .complaints
            .take()
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default();
        match status.code().and_then(Exit::from_status) {
            Some(Exit::Reset) if said.contains(ENDED_BY_DEBUGGER) => Ok(Exit::Debugger),
            Some(exit) => Ok(exit),
            None => {
                let message = said
                    .lines()
                    .next_back()
                    .unwrap_or("it did not say why")
                    .to_owned();
                Err(Failure::Qemu { status, message })
            }
        }
    }

    /// Ends the machine as it is.
    pub fn kill(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time that the process `id` has had; `None` once it is gone.
fn processor_time(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // `id (name) state …`: user and system time are the 14th and 15th, and a name may have spaces.
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
        Machine::start(command).unwrap()
    }

    /// All that it says until its end.
    fn hear(machine: &Machine) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match machine.listen(Duration::from_secs(60)) {
                SerialEvent::Bytes(bytes) => all.extend(bytes),
                SerialEvent::Nothing => panic!("it says nothing for a minute"),
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
            assert_eq!(hear(&machine), b"hello");
            assert_eq!(machine.end().unwrap(), exit);
        }
    }

    #[test]
    fn a_session_that_the_debugger_ends_is_no_reset() {
        let mut machine =
            machine("echo 'qemu-system-x86_64: QEMU: Terminated via GDBstub' >&2; exit 0");
        hear(&machine);
        let exit = machine.end().unwrap();
        assert_eq!(exit, Exit::Debugger);
        let failure = exit.failure().unwrap().to_string();
        assert_eq!(failure, "the debugger has ended the machine");
        // What it says in other ways to end means nothing.
        let mut machine = self::machine("echo 'Terminated via GDBstub' >&2; exit 37");
        hear(&machine);
        assert_eq!(machine.end().unwrap(), Exit::Kernel(ExitCode::Panicked));
    }

    #[test]
    fn a_failure_of_qemu_is_told_in_its_own_words() {
        let mut machine =
            machine("echo 'warning' >&2; echo 'cannot set up guest memory' >&2; exit 1");
        hear(&machine);
        let failure = machine.end().unwrap_err();
        assert!(
            matches!(&failure, Failure::Qemu { message, .. } if message == "cannot set up guest memory")
        );
        let mut killed = self::machine("kill -SEGV $$");
        hear(&killed);
        assert!(killed.end().unwrap_err().to_string().contains("signal: 11"));
    }

    #[test]
    fn what_is_said_to_it_is_heard_and_silence_is_told_from_the_end() {
        let mut machine = machine("read line; echo \"<$line>\"; exit 33");
        assert!(matches!(
            machine.listen(Duration::from_millis(10)),
            SerialEvent::Nothing
        ));
        machine.say(b"stats\n");
        assert_eq!(hear(&machine), b"<stats>\n");
        assert_eq!(machine.end().unwrap(), Exit::Kernel(ExitCode::Success));
        // Nobody there any more.
        machine.say(b"stats\n");
    }

    #[test]
    fn the_clock_shows_the_time_worked_or_a_share_of_the_time_waited() {
        let working = machine("while :; do :; done");
        let waiting = machine("exec sleep 1000");
        while working.clock() < Duration::from_millis(200) {
            thread::sleep(Duration::from_millis(10));
        }
        let had = processor_time(working.child.id()).unwrap();
        assert!(had <= working.clock() && had <= working.began.elapsed());
        assert_eq!(processor_time(waiting.child.id()).unwrap().as_secs(), 0);
        let least = waiting.began.elapsed() / LEAST_SHARE;
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
