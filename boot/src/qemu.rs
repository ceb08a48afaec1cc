//! A virtual machine: QEMU's command line, its serial line, and how it ended.

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    cli::{Accelerator, Firmware, MachineOptions},
    failure::Failure,
    firmware::Ovmf,
    packages::{AptGet, find_program},
    process,
};

/// The oldest QEMU that is known to do.
const OLDEST: (u32, u32) = (5, 2);

/// The package that brings it, and the one that brings OVMF.
const PACKAGES: &[&str] = &["qemu-system-x86", "ovmf"];

/// An installed QEMU, and the firmware for the machine that is wanted.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    /// `None` is the BIOS that QEMU brings itself.
    ovmf: Option<Ovmf>,
}

impl Qemu {
    /// Finds QEMU, and OVMF if `firmware` needs it; installs what is missing.
    pub fn prepare(firmware: Firmware) -> Result<Self, Failure> {
        Self::find(firmware).or_else(|missing| {
            let Some(mut apt_get) = AptGet::find() else {
                return Err(missing);
            };
            match apt_get.install(PACKAGES) {
                Ok(()) => Self::find(firmware),
                Err(why) => {
                    eprintln!("boot: apt-get: {why}");
                    Err(missing)
                }
            }
        })
    }

    fn find(firmware: Firmware) -> Result<Self, Failure> {
        let program = find_program("qemu-system-x86_64").ok_or_else(|| {
            Failure::NoQemu(
                "there is no qemu-system-x86_64: install QEMU (Debian: qemu-system-x86)".into(),
            )
        })?;
        let (_, said) = process::run_quietly(Command::new(&program).arg("--version"))?;
        if version_in(&said).is_none_or(|version| version < OLDEST) {
            return Err(Failure::NoQemu(format!(
                "{} is not QEMU {}.{} or newer; it says: {}",
                program.display(),
                OLDEST.0,
                OLDEST.1,
                said.lines().next().unwrap_or_default()
            )));
        }
        let ovmf = match firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(Ovmf::find(Path::new("/")).ok_or_else(|| {
                Failure::NoFirmware(
                    "there is no UEFI firmware for QEMU: install OVMF (Debian: ovmf)".into(),
                )
            })?),
        };
        Ok(Self { program, ovmf })
    }

    /// Starts the machine that `options` describe, with `image` as its disk; `kernel` is in the image.
    pub fn start(
        &self,
        options: &MachineOptions,
        kernel: &Path,
        image: &Path,
    ) -> Result<Machine, Failure> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(options, image));
        let machine = Machine::start(command)?;
        if options.gdb {
            println!("{}", gdb_line(options.build.firmware(), kernel));
        }
        Ok(machine)
    }

    fn arguments(&self, options: &MachineOptions, image: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        // No devices but those named: no network whose boot ROM would be tried, no floppy, no parallel port.
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-vga",
            "std",
            "-serial",
            "stdio",
        ]);
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        add(&["-m", &format!("{}K", options.memory.kib())]);
        match options.accel {
            Accelerator::Tcg => add(&[
                "-accel",
                "tcg",
                "-icount",
                &format!("shift={}", icount_shift(options)),
            ]),
            Accelerator::Kvm => add(&["-accel", "kvm"]),
        }
        if !options.display {
            add(&["-display", "none"]);
        }
        if options.gdb {
            add(&["-s", "-S"]);
        }
        // What the machine writes to its disks is forgotten: the files stay as they are. The disk is on an AHCI
        // controller, because the BIOS reads five times as fast from that as from the IDE one.
        add(&[
            "-device",
            "ahci,id=ahci",
            "-device",
            "ide-hd,drive=disk,bus=ahci.0",
        ]);
        let flash = self.ovmf.iter().flat_map(|ovmf| {
            [
                ("if=pflash,readonly=on", &*ovmf.code),
                ("if=pflash,snapshot=on", &*ovmf.variables),
            ]
        });
        for (kind, file) in flash.chain([("if=none,id=disk,snapshot=on", image)]) {
            arguments.push("-drive".into());
            arguments.push(drive(kind, file));
        }
        arguments
    }
}

/// Under `-icount`, the virtual clock (and `rdtsc`) moves `1 << shift` nanoseconds for each instruction.
///
/// Nought makes `rdtsc` count instructions. But OVMF looks for a TPM for 0.75 s of virtual time by reading a
/// timer port, which costs far more than the nanosecond that it is then counted as: 40 s of ours. With a
/// shift of 5 it starts as fast as without counting, and 32 ticks are one instruction.
fn icount_shift(options: &MachineOptions) -> u32 {
    match options.build.firmware() {
        Firmware::Bios => 0,
        Firmware::Uefi => 5,
    }
}

/// How far `rdtsc` moves with each instruction, if the machine counts them.
pub fn ticks_per_instruction(options: &MachineOptions) -> Option<u64> {
    match options.accel {
        Accelerator::Tcg => Some(1 << icount_shift(options)),
        Accelerator::Kvm => None,
    }
}

/// What to type in another terminal to debug `kernel`.
fn gdb_line(firmware: Firmware, kernel: &Path) -> String {
    // The kernel is position-independent. The bootloader puts it at the first entry of the top page table that
    // nothing else uses, which is another one for each firmware.
    let base: u64 = match firmware {
        Firmware::Bios => 2 << 39,
        Firmware::Uefi => 1 << 39,
    };
    format!(
        "gdb -ex 'target remote :1234' -ex 'add-symbol-file {} -o {base:#x}'",
        kernel.display()
    )
}

/// A value for `-drive`. QEMU reads `,,` as a comma.
fn drive(kind: &str, file: &Path) -> OsString {
    let mut value = OsString::from(format!("{kind},format=raw,file="));
    let name = file.as_os_str().as_encoded_bytes();
    for (index, part) in name.split(|&byte| byte == b',').enumerate() {
        if index > 0 {
            value.push(",,");
        }
        value.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(part));
    }
    value
}

/// The version in `QEMU emulator version 7.2.22 (Debian …)`.
fn version_in(said: &str) -> Option<(u32, u32)> {
    let version = said.split_once("version ")?.1;
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A running machine. It is killed when dropped.
pub struct Machine {
    child: Child,
    serial: Receiver<Vec<u8>>,
    /// Reads standard error to its end.
    complaints: Option<JoinHandle<String>>,
}

/// What came over the serial line in a while.
pub enum Heard {
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
    /// The kernel reports success.
    Success,
    /// The kernel reports failure.
    Failed,
    /// The kernel panicked.
    Panicked,
    /// The kernel met a fault that it could not recover from.
    Faulted,
    /// The kernel refused its RAM disk, its configuration or its boot information.
    Refused,
    /// The machine reset or switched itself off: after a triple fault, say.
    Reset,
}

impl Exit {
    /// What the exit status of QEMU means; `None` for a status that the kernel cannot have caused.
    fn from_status(status: i32) -> Option<Self> {
        // What the kernel writes to the isa-debug-exit port becomes `value << 1 | 1`.
        Some(match status {
            0 => Self::Reset,
            0x21 => Self::Success,
            0x23 => Self::Failed,
            0x25 => Self::Panicked,
            0x27 => Self::Faulted,
            0x29 => Self::Refused,
            _ => return None,
        })
    }

    /// What it means for whoever hoped for success.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Success => None,
            Self::Failed => Some(Failure::KernelFailed),
            Self::Panicked => Some(Failure::Panicked),
            Self::Faulted => Some(Failure::Faulted),
            Self::Refused => Some(Failure::Refused),
            Self::Reset => Some(Failure::Reset),
        }
    }
}

impl Machine {
    fn start(mut command: Command) -> Result<Self, Failure> {
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
            serial,
            complaints: Some(complaints),
        })
    }

    /// Waits up to `limit` for something on the serial line.
    pub fn listen(&self, limit: Duration) -> Heard {
        match self.serial.recv_timeout(limit) {
            Ok(bytes) => Heard::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Writes `bytes` to the serial line. A machine that has ended does not hear them.
    pub fn say(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.child.stdin {
            let _ = input.write_all(bytes).and_then(|()| input.flush());
        }
    }

    /// Waits for the end of a machine that [ends](Heard::End).
    pub fn end(&mut self) -> Result<Exit, Failure> {
        let status = process::wait(&mut self.child)?;
        match status.code().and_then(Exit::from_status) {
            Some(exit) => Ok(exit),
            None => {
                let said = self
                    .complaints
                    .take()
                    .and_then(|reader| reader.join().ok())
                    .unwrap_or_default();
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

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
