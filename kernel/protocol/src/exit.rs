//! How the kernel ends QEMU, through the device `isa-debug-exit`.

/// The I/O port of the device. It is 4 bytes wide.
pub const PORT: u16 = 0xf4;

/// How the kernel ended. The kernel writes it to [`PORT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitCode {
    /// The kernel did all of its work.
    Success = 0x10,
    /// The kernel ran to its end, but a part of its work failed.
    Failed = 0x11,
    /// The kernel panicked.
    Panicked = 0x12,
    /// The CPU raised an exception that no handler recovers from.
    Faulted = 0x13,
    /// What the host or the bootloader handed over is damaged.
    Refused = 0x14,
}

impl ExitCode {
    /// All exit codes.
    pub const ALL: [Self; 5] = [
        Self::Success,
        Self::Failed,
        Self::Panicked,
        Self::Faulted,
        Self::Refused,
    ];

    /// Returns the exit status of QEMU after the kernel wrote this code: `2 * code + 1`.
    pub const fn qemu_status(self) -> i32 {
        ((self as u32) << 1 | 1) as i32
    }

    /// Returns the code behind an exit status of QEMU. On `None` QEMU ended for another reason.
    pub fn from_qemu_status(status: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| code.qemu_status() == status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_found_by_its_qemu_status() {
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::from_qemu_status(code.qemu_status()), Some(code));
        }
        assert_eq!(ExitCode::Success.qemu_status(), 33);
        assert_eq!(ExitCode::Refused.qemu_status(), 41);
    }

    #[test]
    fn statuses_of_qemu_itself_are_no_exit_codes() {
        for status in [0, 1, 2, 31, 43, 0x22, -1] {
            assert_eq!(ExitCode::from_qemu_status(status), None, "{status}");
        }
    }
}
