//! Finds QEMU and makes its command line.

use std::{
    ffi::{OsStr, OsString},
    fs,
    num::NonZero,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

use kernel_protocol::exit::PORT;

use crate::{
    cli::{Accelerator, Firmware, MachineOptions},
    elf,
    failure::Failure,
    firmware::Ovmf,
    gdb,
    host::find_program,
    machine::Machine,
    packages::AptGet,
    process,
    screen::Screen,
    screenshot::{self, Screenshot},
};

/// The version of the oldest QEMU that works.
const OLDEST: (u32, u32) = (5, 2);

/// Debian's packages of QEMU and OVMF.
const PACKAGES: &[&str] = &["qemu-system-x86", "ovmf"];

/// An installed QEMU, with the firmware for the machine.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    version: (u32, u32),
    /// The firmware for UEFI. `None` stands for BIOS, which is a part of QEMU.
    ovmf: Option<Ovmf>,
}

impl Qemu {
    /// Finds QEMU, and OVMF if `firmware` needs it. Installs missing packages.
    ///
    /// # Errors
    /// [`Failure::NoQemu`] or [`Failure::NoFirmware`] if one is missing and cannot be installed.
    pub(crate) fn prepare(firmware: Firmware) -> Result<Self, Failure> {
        Self::find(firmware).or_else(|missing| {
            let Some(mut apt_get) = AptGet::find() else {
                return Err(missing);
            };
            match apt_get.install(PACKAGES) {
                Ok(()) => Self::find(firmware),
                Err(why) => {
                    eprintln!("run-qemu.sh: apt-get: {why}");
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
        let (_, output) = process::run_quietly(Command::new(&program).arg("--version"))?;
        let version = version_in(&output)
            .filter(|&version| version >= OLDEST)
            .ok_or_else(|| {
                Failure::NoQemu(format!(
                    "{} is not QEMU {}.{} or newer: {}",
                    program.display(),
                    OLDEST.0,
                    OLDEST.1,
                    output.lines().next().unwrap_or_default()
                ))
            })?;
        let ovmf = match firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(Ovmf::find(Path::new("/")).ok_or_else(|| {
                Failure::NoFirmware(
                    "there is no UEFI firmware for QEMU: install OVMF (Debian: ovmf)".into(),
                )
            })?),
        };
        Ok(Self {
            program,
            version,
            ovmf,
        })
    }

    /// Checks that this QEMU can take pictures.
    ///
    /// # Errors
    /// [`Failure::NoQemu`] if it is too old.
    pub(crate) fn check_screenshot(&self) -> Result<(), Failure> {
        let (major, minor) = screenshot::OLDEST_QEMU;
        if self.version >= (major, minor) {
            return Ok(());
        }
        Err(Failure::NoQemu(format!(
            "--screenshot needs QEMU {major}.{minor} or newer, and {} is {}.{}: install a newer \
             one, or leave --screenshot out",
            self.program.display(),
            self.version.0,
            self.version.1
        )))
    }

    /// Starts the machine of `options` with the disk `image`. The symbols of `kernel` are for gdb
    /// and for backtraces. `screenshot` can then take pictures.
    ///
    /// # Errors
    /// [`Failure::Input`] if the machine has too little memory for the kernel.
    pub(crate) fn start(
        &self,
        options: &MachineOptions,
        kernel: &Path,
        image: &Path,
        screenshot: Option<&Screenshot>,
    ) -> Result<Machine, Failure> {
        let size = fs::metadata(image).map_err(Failure::io("cannot read", image))?;
        options.check_room(size.len(), elf::zeroed(kernel)?)?;
        let screen = match options.display {
            true => Screen::choose(&self.program)?,
            false => Screen::Hidden,
        };
        let mut command = Command::new(&self.program);
        command.args(self.arguments(options, image, screen));
        if let Some(screenshot) = screenshot {
            let mut socket = file_option("unix:", &screenshot.socket());
            socket.push(",server=on,wait=off");
            command.arg("-qmp").arg(socket);
        }
        command.args(&options.qemu);
        let mut machine = Machine::start(command, kernel)?;
        if let Some(address) = screen.address() {
            eprintln!("run-qemu.sh: the machine's screen is at {address}");
        }
        if options.attach {
            machine.debug(gdb::command(&gdb::program()?, kernel))?;
        } else if options.gdb {
            println!("{}", gdb::line(kernel));
        }
        Ok(machine)
    }

    /// Returns the arguments of QEMU.
    fn arguments(&self, options: &MachineOptions, image: &Path, screen: Screen) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        // Without these options QEMU adds a network card, whose boot ROM takes time, and more
        // devices.
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-vga",
            "std",
            "-serial",
            "stdio",
        ]);
        add(&[
            "-device",
            &format!("isa-debug-exit,iobase={PORT:#x},iosize=4"),
        ]);
        add(&["-m", &format!("{}K", options.memory.kib())]);
        if options.smp > 1 {
            add(&["-smp", &options.smp.to_string()]);
        }
        match options.accel() {
            Accelerator::Tcg => add(&[
                "-accel",
                "tcg",
                "-icount",
                &format!("shift={}", icount_shift(options)),
            ]),
            Accelerator::Mttcg => add(&["-accel", "tcg,thread=multi"]),
            Accelerator::Kvm => add(&["-accel", "kvm"]),
        }
        if let Some(cpu) = &options.cpu {
            add(&["-cpu", cpu]);
        }
        for word in screen.arguments() {
            add(&[&word]);
        }
        if options.gdb {
            add(&["-gdb", &format!("tcp:{}", gdb::ADDRESS), "-S"]);
        }
        // With `snapshot=on` the files of the disks do not change. The disk is on an AHCI
        // controller, from which BIOS reads five times as fast as from the IDE controller.
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
            arguments.push(file_option(&format!("{kind},format=raw,file="), file));
        }
        arguments
    }
}

/// Returns the shift for `-icount`: the virtual clock, and with it `rdtsc`, moves `1 << shift`
/// nanoseconds with each instruction.
///
/// With a shift of 0, `rdtsc` counts instructions. But OVMF searches for a TPM for 0.75 s of
/// virtual time by reading a timer port. Each read then counts as one nanosecond but takes far
/// longer, 40 s in total. With a shift of 5, OVMF starts as fast as without counting, and an
/// instruction is 32 ticks.
fn icount_shift(options: &MachineOptions) -> u32 {
    match options.build.firmware() {
        Firmware::Bios => 0,
        Firmware::Uefi => 5,
    }
}

/// Returns how far `rdtsc` moves with each instruction. `None` if the machine does not count them.
pub(crate) fn ticks_per_instruction(options: &MachineOptions) -> Option<NonZero<u64>> {
    match options.accel() {
        Accelerator::Tcg => NonZero::new(1 << icount_shift(options)),
        Accelerator::Mttcg | Accelerator::Kvm => None,
    }
}

/// Returns the value of an option of QEMU: `prefix` and a file. QEMU reads `,,` as a comma.
fn file_option(prefix: &str, file: &Path) -> OsString {
    let mut value = OsString::from(prefix);
    let name = file.as_os_str().as_encoded_bytes();
    for (index, part) in name.split(|&byte| byte == b',').enumerate() {
        if index > 0 {
            value.push(",,");
        }
        value.push(OsStr::from_bytes(part));
    }
    value
}

/// Returns the version in `QEMU emulator version 7.2.22 (Debian …)`.
fn version_in(output: &str) -> Option<(u32, u32)> {
    let version = output.split_once("version ")?.1;
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn options(arguments: &[&str]) -> MachineOptions {
        Cli::try_parse_from([&["run-qemu.sh"], arguments].concat())
            .unwrap()
            .run
            .machine
    }

    fn command_line(arguments: &[&str]) -> String {
        let ovmf = Ovmf {
            code: "/ovmf/code".into(),
            variables: "/ovmf/variables".into(),
        };
        let options = options(arguments);
        let qemu = Qemu {
            program: "qemu".into(),
            version: OLDEST,
            ovmf: options.build.uefi.then_some(ovmf),
        };
        let words = qemu.arguments(&options, Path::new("/an,image"), Screen::Hidden);
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn instructions_are_counted_unless_the_processor_executes_them() {
        assert!(command_line(&[]).contains("-accel tcg -icount shift=0"));
        assert!(command_line(&["--uefi"]).contains("-accel tcg -icount shift=5"));
        assert!(!command_line(&[]).contains("-cpu"));
        assert!(command_line(&["--cpu", "max"]).contains("-cpu max"));
        let kvm = command_line(&["--accel", "kvm"]);
        assert!(
            kvm.contains("-accel kvm") && !kvm.contains("-icount"),
            "{kvm}"
        );
    }

    #[test]
    fn several_cpus_run_at_once_unless_instructions_are_counted() {
        assert!(!command_line(&["--smp", "1"]).contains("-smp"));
        let several = command_line(&["--smp", "4"]);
        assert!(
            several.contains("-smp 4 -accel tcg,thread=multi"),
            "{several}"
        );
        assert!(!several.contains("-icount"), "{several}");
        let counted = command_line(&["--smp", "4", "--accel", "tcg"]);
        assert!(counted.contains("-smp 4 -accel tcg -icount"), "{counted}");
    }

    #[test]
    fn disk_files_do_not_change_and_may_have_commas_in_their_names() {
        let drives = |arguments: &[&str]| {
            let line = command_line(arguments);
            line.split("-drive ")
                .skip(1)
                .map(|drive| drive.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let disk = "if=none,id=disk,snapshot=on,format=raw,file=/an,,image";
        assert_eq!(drives(&[]), [disk]);
        assert_eq!(
            drives(&["--uefi"]),
            [
                "if=pflash,readonly=on,format=raw,file=/ovmf/code",
                "if=pflash,snapshot=on,format=raw,file=/ovmf/variables",
                disk
            ]
        );
    }

    #[test]
    fn the_machine_is_as_the_options_say() {
        let plain = command_line(&[]);
        assert!(
            plain.contains("-m 262144K")
                && plain.contains("-display none")
                && !plain.contains("-S"),
            "{plain}"
        );
        assert!(command_line(&["--memory", "4G"]).contains("-m 4194304K"));
    }

    #[test]
    fn only_this_host_can_connect_to_the_gdb_port() {
        let line = command_line(&["--gdb"]);
        assert!(line.contains("-gdb tcp:127.0.0.1:1234 -S"), "{line}");
        // The short form listens on every address of the host.
        assert!(!line.contains("-s "), "{line}");
    }

    #[test]
    fn an_old_qemu_takes_no_pictures_and_says_so() {
        let qemu = |version| Qemu {
            program: "qemu".into(),
            version,
            ovmf: None,
        };
        assert!(
            qemu((7, 1)).check_screenshot().is_ok() && qemu((10, 0)).check_screenshot().is_ok()
        );
        let line = qemu((7, 0)).check_screenshot().unwrap_err().to_string();
        assert!(line.contains("7.1 or newer, and qemu is 7.0"), "{line}");
    }

    #[test]
    fn qemus_version_is_read_from_its_output() {
        assert_eq!(
            version_in("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)"),
            Some((7, 2))
        );
        assert_eq!(version_in("QEMU emulator version 10.0"), Some((10, 0)));
        assert_eq!(version_in("something else"), None);
        assert_eq!(version_in(""), None);
    }
}
